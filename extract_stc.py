#!/usr/bin/env python
"""Cut a spatio-temporal cube (STC) out of the video at every foreground box (paper, section 3.1).

For a box of frame i the box is cut out of the frames i-2 .. i+2 (held at the video's ends) and each patch is resized
to 32x32: T = 5 patches make one cube. Training and testing use the same cubes of a mode.

reads   data/D/MODE/bboxes.npy          (N, 5) frame x1 y1 x2 y2
        the frames; with --use_flow true also their optical flow
writes  data/D/MODE/stc_raw.npy         (N, 3T, P, P) uint8: frame 0's B, G, R, frame 1's ...
        data/D/MODE/stc_of.npy          (N, 2T, P, P) float16, with --use_flow true: frame 0's u, v, frame 1's ...
        data/D/MODE/cubes.json          what they were made from
Row i belongs to row i of bboxes.npy. A stopped run goes on where it was.
"""

from pathlib import Path

import numpy as np

from utils import files, frames, record
from utils.config import dataset_of, parse_config
from utils.datasets import window
from utils.run import Clock, finishing, locked, progress, run, workers
from utils.stc import crop


def main():
    cfg = parse_config(__doc__, stages=("cubes",))
    folder = Path(cfg.data_root_dir, cfg.dataset_name, cfg.mode)
    made = record.require(folder / "boxes.json", "boxes", "boxes")
    record.require_selection(cfg, made, folder / "boxes.json")
    dataset = dataset_of(cfg)
    record.require_frames(dataset, made, folder / "bboxes.npy")
    if cfg.verify:
        record.verify(folder / "boxes.json", {"bboxes.npy": [folder / "bboxes.npy"], **dataset.contents}, own=False)
    if cfg.verify and cfg.use_flow:
        record.verify_flow(dataset)
    outputs = {"stc_raw.npy": (3 * span(cfg.context_frame_num, cfg.border_mode), np.uint8)}
    if cfg.use_flow:
        outputs["stc_of.npy"] = (2 * span(cfg.context_of_num, cfg.border_mode), np.float16)
    flow = {"flow": record.flow_of(dataset)} if cfg.use_flow else {}
    wanted = record.wanted(cfg, "cubes", boxes=made["id"], **flow)
    with locked(folder):
        record.require_still(folder / "boxes.json", made)
        done, why = record.is_done(folder / "cubes.json", wanted, outputs)
        print(f"{folder}: cubes are {why}")
        if not done:
            extract(cfg, dataset, folder, record.boxes_of(folder, made), made["sizes"], outputs, wanted)
        for left in [*folder.glob("stc_*.part"), *folder.glob("cubes.part.json*")]:  # by a killed run
            left.unlink()
        if cfg.verify:
            record.verify(folder / "cubes.json", {name: [folder / name] for name in outputs})
    print(f"next: python train.py --dataset_name {cfg.dataset_name} --mode {cfg.mode}")


def extract(cfg, dataset, folder, boxes, sizes, outputs, wanted):
    """Fills the cube files video by video, then gives them their names."""
    print(f"reads {folder / 'bboxes.npy'}: {len(boxes):,} boxes")
    state = record.load(folder / "cubes.part.json")
    parts = {name: folder / f"{name}.part" for name in outputs}
    resume = state and state["id"] == wanted["id"] and all(part.is_file() for part in parts.values())
    if not resume:
        (folder / "cubes.part.json").unlink(missing_ok=True)  # before the parts, which it vouches for
        state = {"id": wanted["id"], "videos": 0, "seconds": 0, "repeated": []}
    clock = Clock(state["seconds"])
    shapes = {name: (len(boxes), channels, cfg.patch_size, cfg.patch_size) for name, (channels, _) in outputs.items()}
    cubes = {name: np.lib.format.open_memmap(part, "r+") if resume else
             files.create_map(part, outputs[name][1], shapes[name]) for name, part in parts.items()}
    for name in outputs:
        print(f"writes {folder / name}: {' x '.join(map(str, shapes[name]))} {np.dtype(outputs[name][1])}, "
              f"{cubes[name].nbytes / 1e6:,.0f} MB")
    with progress(len(boxes), "cube", "cubes") as bar:
        for position, (video, size) in enumerate(zip(dataset.videos, sizes)):
            first, last = np.searchsorted(boxes[:, 0], (video.first, video.first + len(video)))
            if position >= state["videos"]:
                with finishing(f"video {video.name}"):
                    repeated = cut_video(cfg, video, boxes[first:last], size, {n: c[first:last] for n, c in cubes.items()}, bar)
                    for cube in cubes.values():
                        cube.flush()
                    state |= {"videos": position + 1, "seconds": clock(), "repeated": state["repeated"] + repeated}
                    record.write(folder / "cubes.part.json", state)
            else:
                bar.update(last - first)
    del cubes
    (folder / "cubes.json").unlink(missing_ok=True)  # until the new record is written no cubes are valid
    (folder / "stc_of.npy").unlink(missing_ok=True)
    for name, part in parts.items():
        part.rename(folder / name)
    if state["repeated"]:
        print(f"warning: {len(state['repeated']):,} frames are damaged, the ones before stand in")
    record.save(folder / "cubes.json", wanted, clock(), cubes=len(boxes), repeated=state["repeated"])
    print(f"wrote {', '.join(outputs)} in {folder}: {len(boxes):,} cubes in {clock():,.0f} s")


def cut_video(cfg, video, boxes, size, cubes, bar):
    """Fills the rows of one video; returns its frames that others stand in for.

    boxes: (n, 5); cubes: file name -> (n, C, P, P) to be filled.
    """
    repeated = set()
    centres, starts = np.unique(boxes[:, 0].astype(np.int64) - video.first, return_index=True)
    ends = [*starts[1:], len(boxes)]

    def fill(target, items):
        centre_frames, start, end = items
        for row in range(start, end):
            target[row] = crop(centre_frames, boxes[row, 1:], cfg.patch_size)
        return end - start

    for name, target in cubes.items():
        raw = name == "stc_raw.npy"
        context = cfg.context_frame_num if raw else cfg.context_of_num
        windows = [window(int(t), context, 0, len(video) - 1, cfg.border_mode) for t in centres]
        needed = sorted({t for w in windows for t in w})
        threads = workers(cfg.num_workers)
        stream = frames.load(video, needed, threads, cfg.on_bad_frame, repeated) if raw else frames.load_flow(
            video, needed, size, threads)
        items = zip(frames.slide(needed, stream, windows), starts, ends)
        for count in frames.parallel(lambda item, target=target: fill(target, item), items, threads):
            bar.update(count if raw else 0)
    return [f"{video.name}/{name}" for name in sorted(repeated)]


def span(context, border_mode):
    """Frames in a window."""
    return len(window(0, context, 0, 0, border_mode))


if __name__ == "__main__":
    run(main)
