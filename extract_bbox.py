#!/usr/bin/env python
"""Find the foreground boxes of every frame: detected objects and whatever else moves (paper, section 3.1).

1. The detector's boxes of all classes with score > 0.2 that are not too small.
2. A box is dropped if a larger one covers more than 0.6 of it.
3. Motion boxes: bounding rectangles of what moves (u^2 + v^2 > 1 in the optical flow) outside those boxes.

--detector none takes motion boxes alone; --boxes_from FILE takes boxes that others published and looks at no frame.

reads   raw_datasets/D and optical_flow/D
writes  data/D/MODE/bboxes.npy      (N, 5) float32: frame, x1, y1, x2, y2, sorted by frame
        data/D/MODE/boxes.json      what they were made from
Frames are numbered from 0 through all videos of the mode. A box with no pixel inside the image can't become a cube: it
is dropped here, with a count, and never later. A stopped run goes on where it was.
"""

import itertools
import shutil
from pathlib import Path

import numpy as np

from fore_det import detector
from fore_det.boxes import confident, moving, uncovered
from fore_det.published import read_boxes
from utils import files, frames, plan, ranks, record
from utils.config import dataset_of, parse_config
from utils.datasets import window
from utils.errors import UserError
from utils.run import Clock, device_of, finishing, progress, run, use_threads, workers
from utils.stc import crop, not_empty

NO_BOXES = np.empty((0, 4), np.float32)


def main():
    cfg = parse_config(__doc__, stages=("boxes",))
    folder = Path(cfg.data_root_dir, cfg.dataset_name, cfg.mode)
    dataset = dataset_of(cfg)
    wanted = plan.wanted_boxes(cfg, dataset, *inputs(cfg, dataset, folder))
    with ranks.together(folder):
        done, why = record.is_done(folder / "boxes.json", wanted, ["bboxes.npy"])
        print(f"{folder}: boxes are {why}")
        if cfg.verify and "flow" in wanted["input"]:
            record.verify_flow(dataset)
        if not done:
            extract(cfg, dataset, folder, wanted)
        if ranks.RANK == 0:
            shutil.rmtree(folder / "bboxes.part", ignore_errors=True)  # also one that a killed run left
        if cfg.verify and ranks.RANK == 0:
            given = {path: [Path(path)] for path in (cfg.boxes_from or cfg.detector_weights,) if path}
            record.verify(folder / "boxes.json", {"bboxes.npy": [folder / "bboxes.npy"], **dataset.contents, **given})
    print(f"next: python extract_stc.py --dataset_name {cfg.dataset_name} --mode {cfg.mode}")


def inputs(cfg, dataset, folder):
    """What the boxes come from and the flow that they need, or None: see utils.plan.wanted_boxes."""
    known = (record.load(folder / "boxes.json") or {}).get("input", {})
    source = detector.source(cfg.boxes_from, cfg.detector, cfg.detector_weights, cfg.detector_scale, known)
    if cfg.boxes_from:
        print(f"reads {cfg.boxes_from}")
    if not plan.boxes_read_flow(cfg):
        return source, None
    flow = record.flow_of(dataset)
    print(f"reads {Path(cfg.flow_root_dir, dataset.name)}: flow by {flow['flow_method']}")
    return source, flow


def extract(cfg, dataset, folder, wanted):
    """Writes the boxes video by video, each rank those of its own, then all of them in one file."""
    part, clock, repeated = folder / "bboxes.part", Clock(), set()
    room = plan.room(cfg, "boxes", len(dataset.chosen))
    files.require_room(folder, room, "the boxes (about 100 a frame, twice)", "--data_root_dir")
    if ranks.RANK == 0 and (record.load(part / "record.json") or {}).get("id") != wanted["id"]:
        shutil.rmtree(part, ignore_errors=True)
        record.write(part / "record.json", wanted)
    ranks.wait()
    mine = [dataset.videos[k] for k in ranks.share([len(video.chosen) for video in dataset.videos])]
    found_by = source_of_boxes(cfg, dataset, repeated)
    with progress(sum(len(video.chosen) for video in mine), "frame", "boxes") as bar:
        for video in mine:
            path = part / f"{video.first:08d}.npy"
            if path.is_file():
                bar.update(len(video.chosen))
            else:
                with finishing(f"video {video.name}"):
                    files.save_array(path, boxes_of_video(cfg, video, frames.size_of(video), found_by(video), bar.update))
    repeated = set().union(*ranks.each(repeated))
    if ranks.RANK == 0:
        join(dataset, folder, wanted, clock, repeated)


def join(dataset, folder, wanted, clock, repeated):
    """Puts the boxes of all videos into one file."""
    sizes = [frames.size_of(video) for video in dataset.videos]
    rows, dropped = [], 0
    for video, size in zip(dataset.videos, sizes):
        found = files.load_array(folder / "bboxes.part" / f"{video.first:08d}.npy")
        kept = not_empty(found[:, 1:], size)
        rows.append(found[kept])
        dropped += int((~kept).sum())
    boxes = np.concatenate(rows)
    if not len(boxes):
        raise UserError(f"no box in {len(dataset.chosen):,} frames of {dataset.name}: lower --min_area, --motion_thr or "
                        "--score_thr, or take boxes from elsewhere with --boxes_from")
    (folder / "boxes.json").unlink(missing_ok=True)  # until the last line the boxes are not valid
    files.save_array(folder / "bboxes.npy", boxes)
    warn_of_noise(dataset, sizes, boxes)
    if repeated:
        print(f"warning: {len(repeated):,} frames are damaged, the ones before stand in")
    if dropped:
        print(f"warning: {dropped:,} boxes dropped: no pixel of theirs is inside the image")
    record.save(folder / "boxes.json", wanted, clock(), boxes=len(boxes), dropped=dropped, num_frames=dataset.num_frames,
                sizes=sizes, videos=[[v.name, v.first, len(v)] for v in dataset.videos], notes=dataset.notes)
    print(f"wrote {folder / 'bboxes.npy'}: {len(boxes):,} boxes in {len(dataset.chosen):,} frames, {clock():,.0f} s")


def warn_of_noise(dataset, sizes, boxes):
    """Names the videos in which a single box covers nearly the whole image in many frames."""
    noisy = []
    for video, (height, width) in zip(dataset.videos, sizes):
        own = boxes[slice(*np.searchsorted(boxes[:, 0], (video.first, video.first + len(video))))]
        covers = (own[:, 3] - own[:, 1]) * (own[:, 4] - own[:, 2]) > 0.8 * height * width
        if len(np.unique(own[covers, 0])) > 0.2 * len(video.chosen):
            noisy.append(video.name)
    if noisy:
        print(f"warning: {', '.join(noisy)}: in more than a fifth of the frames one box covers nearly the whole image, so that "
              "single objects will hardly show: noise or a moving camera is taken for motion; a higher --motion_thr (4, 16) "
              "or smaller frames (tools.prepare_videos --long_side) may help")


def source_of_boxes(cfg, dataset, repeated):
    """A function: video -> (n, 4) boxes for each of its chosen frames, in order, before motion boxes.

    repeated: the set to which frames are added that stand in for damaged ones.
    """
    if cfg.boxes_from:
        published = read_boxes(cfg.boxes_from, dataset.num_frames)

        def of_file(video):
            numbers = np.asarray(video.chosen) + video.first
            ends = [np.searchsorted(published[:, 0], numbers, side) for side in ("left", "right")]
            return (published[first:last, 1:] for first, last in zip(*ends))
        return of_file
    if cfg.detector == "none":
        return lambda video: itertools.repeat(NO_BOXES)
    use_threads(cfg.threads)
    device = device_of(cfg.device)
    weights = detector.weights_file(cfg.detector, cfg.detector_weights, cfg.detector_scale)
    detect = detector.load_detector(cfg.detector, weights, cfg.detector_scale, device)
    batch = 8 if device.type == "cuda" else 1

    def detected(video):
        stream = frames.load(video, video.chosen, workers(cfg.num_workers), cfg.on_bad_frame, repeated)
        for images in frames.batched(stream, batch):
            for found in detect(images):  # (n, 5)
                yield uncovered(confident(found, cfg.score_thr, cfg.min_area), cfg.cover_thr)
    return detected


def boxes_of_video(cfg, video, size, found, tick):
    """All boxes of one video's chosen frames: (n, 5) float32 frame x1 y1 x2 y2; found: (n, 4) for each of them."""
    threads, context = workers(cfg.num_workers), cfg.context_of_num if cfg.drop_still_boxes else 0
    windows = [window(t, context, 0, len(video) - 1, cfg.border_mode) for t in video.chosen]
    flows = itertools.repeat(None)
    if plan.boxes_read_flow(cfg):
        needed = sorted({t for near in windows for t in near})
        flows = frames.slide(needed, frames.load_flow(video, needed, size, threads), windows)

    def complete(item):
        t, near, boxes, flow = item  # flow: (H, W, 2) for each frame of the window
        if not cfg.boxes_from:
            motion = moving(flow[near.index(t)], boxes, cfg.motion_thr, cfg.min_area, cfg.box_margin,
                            cfg.all_motion_quirk)
            boxes = np.concatenate([boxes, motion.astype(np.float32)])
        if cfg.drop_still_boxes:
            boxes = boxes[not_empty(boxes, size)]
            boxes = boxes[[crop(flow, box, cfg.patch_size).any() for box in boxes]] if len(boxes) else boxes
        return np.insert(np.asarray(boxes, np.float32), 0, video.first + t, axis=1)

    rows = []
    for found_here in frames.parallel(complete, zip(video.chosen, windows, found, flows), threads):
        rows.append(found_here)
        tick()
    return np.concatenate(rows)


if __name__ == "__main__":
    run(main)
