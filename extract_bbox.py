#!/usr/bin/env python
"""Find the foreground boxes of every frame: detected objects and whatever else moves (paper, section 3.1).

Motion boxes are bounding rectangles of what moves (u^2 + v^2 > 1 in the optical flow) outside the detector's boxes.
--detector none takes motion boxes alone; --boxes_from FILE takes boxes that others published and looks at no flow.

reads   the frames and their optical flow (optical_flow/D)
writes  data/D/MODE/bboxes.npy      (N, 5) float32: frame, x1, y1, x2, y2, sorted by frame
        data/D/MODE/boxes.json      what they were made from
Frames are numbered from 0 through all videos of the mode. A box with no pixel inside the image can't become a cube: it
is dropped here, with a count, and never later. A stopped run goes on where it was.
"""

import shutil
from pathlib import Path

import numpy as np

from fore_det.boxes import moving
from fore_det.published import read_boxes
from utils import datasets, files, frames, record
from utils.config import parse_config, parse_videos
from utils.datasets import window
from utils.errors import UserError
from utils.run import Clock, locked, progress, run, workers
from utils.stc import crop, not_empty


def main():
    cfg = parse_config(__doc__, stages=("boxes",))
    folder = Path(cfg.data_root_dir, cfg.dataset_name, cfg.mode)
    dataset = datasets.find(cfg.dataset_name, cfg.mode, cfg.layout,
                            parse_videos(cfg.videos), cfg.limit_frames, cfg.frame_step)
    print(*dataset.notes, sep="\n", end="\n" * bool(dataset.notes))
    inputs = {"frames": record.frames_of(dataset)}
    if cfg.boxes_from:
        inputs["boxes_from"] = [Path(cfg.boxes_from).name, files.size(cfg.boxes_from)]
    if not cfg.boxes_from or cfg.drop_still_boxes:
        inputs["flow"] = record.flow_of(dataset)
    wanted = record.wanted(cfg, "boxes", **inputs)
    with locked(folder):
        done, why = record.is_done(folder / "boxes.json", wanted, [folder / "bboxes.npy"])
        if done:
            print(f"{folder}: boxes are {why}")
        else:
            extract(cfg, dataset, folder, wanted)
    print(f"next: python extract_stc.py --dataset_name {cfg.dataset_name} --mode {cfg.mode}")


def extract(cfg, dataset, folder, wanted):
    """Writes the boxes video by video, then all of them in one file."""
    part = folder / "bboxes.part"
    if (record.load(part / "record.json") or {}).get("id") != wanted["id"]:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        files.save_json(part / "record.json", wanted)
    clock = Clock()
    published = read_boxes(cfg.boxes_from, dataset.num_frames) if cfg.boxes_from else None
    rows, sizes, dropped = [], [], 0
    with progress(len(dataset.chosen), "frame", "boxes") as bar:
        for video in dataset.videos:
            size = frames.size_of(video)
            path = part / f"{video.first:08d}.npy"
            if not path.is_file():
                files.save_array(path, boxes_of_video(cfg, dataset, video, size, published, bar))
            found = files.load_array(path)
            kept = not_empty(found[:, 1:], size)
            rows.append(found[kept])
            sizes.append(size)
            dropped += int((~kept).sum())
    boxes = np.concatenate(rows)
    if not len(boxes):
        raise UserError(f"no box in {len(dataset.chosen):,} frames of {dataset.name}: lower --min_area or --motion_thr, "
                        "or take boxes from elsewhere with --boxes_from")
    (folder / "boxes.json").unlink(missing_ok=True)  # until the last line the boxes are not valid
    files.save_array(folder / "bboxes.npy", boxes)
    if dropped:
        print(f"warning: {dropped:,} boxes dropped: no pixel of theirs is inside the image")
    record.save(folder / "boxes.json", wanted, clock(), boxes=len(boxes), dropped=dropped, num_frames=dataset.num_frames,
                sizes=sizes, videos=[[v.name, v.first, len(v)] for v in dataset.videos])
    shutil.rmtree(part)
    print(f"wrote {folder / 'bboxes.npy'}: {len(boxes):,} boxes in {len(dataset.chosen):,} frames, {clock():,.0f} s")


def boxes_of_video(cfg, dataset, video, size, published, bar):
    """The boxes of one video's chosen frames: (n, 5) float32 frame x1 y1 x2 y2."""
    threads = workers(cfg.num_workers)
    rows_of = {}
    if published is not None:
        numbers = np.asarray(video.chosen) + video.first
        first, last = (np.searchsorted(published[:, 0], numbers, side) for side in ("left", "right"))
        rows_of = {t: published[a:b, 1:] for t, a, b in zip(video.chosen, first, last)}

    def boxes_of_frame(item):
        t, near, flows = item  # flows: (H, W, 2) each
        found = rows_of[t] if published is not None else moving(
            flows[near.index(t)], np.empty((0, 4)), cfg.motion_thr, cfg.min_area, cfg.box_margin, cfg.all_motion_quirk)
        if cfg.drop_still_boxes:
            found = [box for box in found if not_empty(box[None], size)[0] and crop(flows, box, cfg.patch_size).any()]
        found = np.asarray(found, np.float32).reshape(-1, 4)
        return np.insert(found, 0, video.first + t, axis=1)

    windows = [window(t, cfg.context_of_num if cfg.drop_still_boxes else 0, 0, len(video) - 1, cfg.border_mode)
               for t in video.chosen]
    if published is None or cfg.drop_still_boxes:
        needed = sorted({t for near in windows for t in near})
        flows = frames.slide(needed, frames.load_flow(video, dataset.name, needed, size, threads), windows)
    else:
        flows = iter(lambda: None, 0)
    rows = []
    for found in frames.parallel(boxes_of_frame, zip(video.chosen, windows, flows), threads):
        rows.append(found)
        bar.update()
    return np.concatenate(rows)


if __name__ == "__main__":
    run(main)
