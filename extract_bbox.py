#!/usr/bin/env python
"""Find the foreground boxes of every frame: detected objects and anything else that moves (paper, section 3.1).

1. The detector's boxes of all classes with score > 0.2 that are not too small.
2. A box is dropped if a larger one covers more than 0.6 of it.
3. Motion boxes: bounding rectangles of moving pixels (u^2 + v^2 > 1 in the optical flow) outside those boxes.

--detector none uses only motion boxes; --boxes_from FILE uses published boxes and reads no frames.

reads   raw_datasets/D and optical_flow/D
writes  data/D/MODE/bboxes.npy      (N, 5) float32: frame, x1, y1, x2, y2, sorted by frame
        data/D/MODE/boxes.json      what they were made from
Frames are numbered from 0 across all videos of the mode. A box with no pixel inside the image cannot become a cube: it
is dropped here, with a count, and never later. Run the same command to resume after the last finished video.
"""

import itertools

import cv2
import numpy as np

from fore_det import detector
from fore_det.boxes import camera_motion, changed, confident, moving, uncovered
from fore_det.published import read_boxes, require_geometry
from utils import files, frames, ranks, stages
from utils.boxes import Boxes, checked
from utils.config import dataset_of, parse_config
from utils.datasets import window
from utils.device import device_of, use_threads, workers
from utils.errors import UserError
from utils.run import finishing, print_next, progress, run
from utils.stc import crop, not_empty

FLOW_SIZE = (512, 384)  # width and height, of calc_optical_flow.py
NO_BOXES = np.empty((0, 4), np.float32)


def main():
    cfg = parse_config(__doc__, stages=("boxes",))
    ranks.start()
    dataset = dataset_of(cfg)
    stage = stages.boxes(cfg, dataset, lambda: source_of(cfg))
    if not stage.is_done():
        with stage.writing(stages.boxes_room(dataset)) as facts:
            repeated = set() if stage.given else extract(cfg, dataset, stage)
            if ranks.RANK == 0:
                facts |= join(dataset, stage, repeated, cfg.boxes_from)
    print_next("extract_stc.py", cfg)


def source_of(cfg):
    """What the boxes come from, for the record."""
    known = stages.input_of(stages.folder_of(cfg) / "boxes.json")
    return detector.source(cfg.boxes_from, cfg.detector, cfg.detector_weights, cfg.detector_scale, known)


def extract(cfg, dataset, stage):
    """Writes the boxes of each video to its own file; returns names of frames that were replaced by the previous one."""
    repeated = set()
    find = finder(cfg, dataset, repeated)
    mine = [dataset.videos[k] for k in ranks.share([len(video.chosen) for video in dataset.videos])]
    with progress(sum(len(video.chosen) for video in mine), "frame", "boxes") as bar:
        for video in mine:
            if stage.kept(of_video(video)):
                bar.update(len(video.chosen))
                continue
            with finishing(f"video {video.name}"):
                stage.keep(of_video(video), rows=boxes_of_video(cfg, video, find(video), bar.update).tolist())
    return set().union(*ranks.from_all(repeated))


def of_video(video):
    """The file name of one video's boxes until all are done."""
    return f"{video.first:08d}.json"


def join(dataset, stage, repeated, given):
    """Joins the boxes of all videos in one file, or checks the user's own; returns the record's facts."""
    sizes, dropped, path = [frames.size_of(video) for video in dataset.videos], 0, stage.folder / "bboxes.npy"
    if stage.given:
        rows = files.load_array(path)
    else:
        found = [np.asarray(stage.kept(of_video(video))["rows"], np.float32).reshape(-1, 5) for video in dataset.videos]
        kept = [not_empty(rows[:, 1:], size) for rows, size in zip(found, sizes)]
        rows = np.concatenate([rows[inside] for rows, inside in zip(found, kept)])
        dropped = sum(int((~inside).sum()) for inside in kept)
        files.save_array(stage.file("bboxes.npy"), rows)
    if not len(rows):
        way = f"--boxes_from {given} must have boxes of this dataset and mode" if given else (
            "lower --min_area, --motion_thr or --score_thr, or use other boxes with --boxes_from")
        raise UserError(f"no box in {len(dataset.chosen):,} frames of {dataset.name}: {way}")
    boxes = checked(Boxes(rows, dataset.num_frames, [video.first for video in dataset.videos], sizes, {}), path)
    for text in warnings(dataset, boxes, repeated, dropped):
        print(f"warning: {text}")
    print(f"{'recorded' if stage.given else 'wrote'} {path}: {len(rows):,} boxes in {len(dataset.chosen):,} frames")
    return {"boxes": len(rows), "dropped": dropped, "num_frames": dataset.num_frames, "sizes": sizes,
            "videos": [[v.name, v.first, len(v)] for v in dataset.videos], "notes": dataset.notes}


def warnings(dataset, boxes, repeated, dropped):
    """What the user should know about these boxes, one line each."""
    noisy = [v.name for v in dataset.videos if boxes.frames_covered(v.first, len(v)) > 0.2 * len(v.chosen)]
    if noisy:
        yield (f"{', '.join(noisy)}: in more than a fifth of the frames one box covers nearly the whole image, so single "
               "objects will hardly be found, because noise or camera motion counts as motion: a higher --motion_thr (4, "
               "16) or smaller frames (tools.prepare_videos --long_side) may help")
    if repeated:
        yield f"{len(repeated):,} frames are damaged; each was replaced by the previous frame"
    if dropped:
        yield f"{dropped:,} boxes were dropped: they have no pixel inside the image"


def finder(cfg, dataset, repeated):
    """A function: video -> (n, 4) boxes for each of its chosen frames, in order, before motion boxes.

    repeated: a set to which damaged frames, replaced by the previous one, are added.
    """
    if cfg.boxes_from:
        print(f"reading {cfg.boxes_from}")
        published = read_boxes(cfg.boxes_from, dataset.num_frames)
        require_geometry(published, [(v.first, len(v), frames.size_of(v)) for v in dataset.videos], cfg.boxes_from)

        def of_file(video):
            numbers = np.asarray(video.chosen) + video.first
            ends = [np.searchsorted(published[:, 0], numbers, side) for side in ("left", "right")]
            return (published[first:last, 1:] for first, last in zip(*ends))
        return of_file
    if cfg.detector == "none":
        return lambda video: itertools.repeat(NO_BOXES)
    device = device_of(cfg.device)
    use_threads(cfg.threads, device)
    weights = detector.weights_file(cfg.detector, cfg.detector_weights, cfg.detector_scale)
    detect = detector.load_detector(cfg.detector, weights, cfg.detector_scale, device, cfg.detector_tiles)
    threads = workers(cfg.num_workers)

    def detected(video):
        stream = frames.load(video, video.chosen, threads, cfg.on_bad_frame, repeated)
        for prepared in frames.batched(frames.parallel(detect.prepare, stream, threads), detect.batch):
            for found in detect.find(prepared):  # (n, 5)
                yield uncovered(confident(found, cfg.score_thr, cfg.min_area), cfg.cover_thr)
    return detected


def boxes_of_video(cfg, video, found, tick):
    """All boxes of one video's chosen frames: (n, 5) float32 frame x1 y1 x2 y2; found: (n, 4) for each of them."""
    threads, context, size = workers(cfg.num_workers), cfg.context_of_num if cfg.drop_still_boxes else 0, frames.size_of(video)
    windows = [window(t, context, 0, len(video) - 1, cfg.border_mode) for t in video.chosen]
    flows = itertools.repeat(None)
    if stages.reads_flow(cfg):
        needed = sorted({t for near in windows for t in near})
        flows = frames.slide(needed, frames.load_flow(video, needed, size, threads), windows)

    def complete(item):
        t, near, boxes, flow, pair = item  # flow: (H, W, 2) for each frame of the window
        if not cfg.boxes_from:
            motion = motion_boxes(cfg, flow[near.index(t)], boxes, pair)
            boxes = np.concatenate([boxes, motion])
        if cfg.drop_still_boxes:
            boxes = boxes[not_empty(boxes, size)]
            boxes = boxes[[crop(flow, box, cfg.patch_size).any() for box in boxes]] if len(boxes) else boxes
        return np.insert(np.asarray(boxes, np.float32), 0, video.first + t, axis=1)

    rows = []
    for found_here in frames.parallel(complete, zip(video.chosen, windows, found, flows, pairs_of(cfg, video)), threads):
        rows.append(found_here)
        tick()
    return np.concatenate(rows)


def pairs_of(cfg, video):
    """For each chosen frame, grey, it and the next one (H, W), or the last two, if the noise gate needs them."""
    if cfg.noise_gate == "off" or cfg.boxes_from:
        return itertools.repeat(None)
    pairs = [[t, t + 1] if t + 1 < len(video) else [max(t - 1, 0), t] for t in video.chosen]
    needed = sorted({t for pair in pairs for t in pair})
    stream = frames.load(video, needed, workers(cfg.num_workers), cfg.on_bad_frame)
    return frames.slide(needed, (cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY) for frame in stream), pairs)


def motion_boxes(cfg, flow, boxes, pair):
    """(m, 4) float32 boxes of moving pixels in the flow (H, W, 2) outside the boxes (n, 4); pair: see pairs_of."""
    camera = camera_motion(flow) if cfg.global_motion == "remove" else np.zeros_like(flow, np.float32)
    scale = np.array(flow.shape[1::-1]) / FLOW_SIZE  # vectors are in pixels of the frame as flow methods see it
    where = True if pair is None else changed(*pair, (camera * scale).astype(np.float32))
    found = moving(flow - camera, boxes, cfg.motion_thr, cfg.min_area, cfg.box_margin, cfg.all_motion_quirk, where)
    return found.astype(np.float32)


if __name__ == "__main__":
    run(main)
