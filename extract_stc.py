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

import math
from pathlib import Path

import numpy as np

from utils import files, frames, plan, ranks, record
from utils.config import dataset_of, parse_config
from utils.datasets import window
from utils.run import Clock, finishing, progress, run, workers
from utils.stc import crops


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
    outputs = plan.cube_files(cfg)
    wanted = plan.wanted_cubes(cfg, made["id"], record.flow_of(dataset) if cfg.use_flow else None)
    with ranks.together(folder):
        record.require_still(folder / "boxes.json", made)
        done, why = record.is_done(folder / "cubes.json", wanted, outputs)
        print(f"{folder}: cubes are {why}")
        if not done:
            extract(cfg, dataset, folder, record.boxes_of(folder, made), made["sizes"], outputs, wanted)
        if ranks.RANK == 0:
            for left in [*folder.glob("stc_*.part"), *folder.glob("cubes.part*")]:  # also by a killed run
                left.unlink()
        if cfg.verify and ranks.RANK == 0:
            record.verify(folder / "cubes.json", {name: [folder / name] for name in outputs})
    print(f"next: python train.py --dataset_name {cfg.dataset_name} --mode {cfg.mode}")


def extract(cfg, dataset, folder, boxes, sizes, outputs, wanted):
    """Fills the cube files video by video, each rank the rows of its own, then gives them their names."""
    print(f"reads {folder / 'bboxes.npy'}: {len(boxes):,} boxes")
    parts = {name: folder / f"{name}.part" for name in outputs}
    shapes = {name: (len(boxes), channels, cfg.patch_size, cfg.patch_size) for name, (channels, _) in outputs.items()}
    for name, shape in shapes.items():
        print(f"writes {folder / name}: {' x '.join(map(str, shape))} {outputs[name][1]}, "
              f"{math.prod(shape) * outputs[name][1].itemsize / 1e6:,.0f} MB")
    if ranks.RANK == 0:
        prepare(folder, parts, outputs, shapes, plan.room(cfg, "cubes", cubes=len(boxes)), wanted)
    ranks.wait()
    done = record.load(folder / "cubes.part.json")
    state = done if ranks.RANK == 0 else {**done, "videos": [], "seconds": 0, "repeated": []}
    own, clock = folder / (f"cubes.part.{ranks.RANK}.json" if ranks.RANK else "cubes.part.json"), Clock(state["seconds"])
    cubes = {name: np.lib.format.open_memmap(part, "r+") for name, part in parts.items()}
    ends = np.searchsorted(boxes[:, 0], [(video.first, video.first + len(video)) for video in dataset.videos])  # (V, 2)
    mine = ranks.share(np.diff(ends)[:, 0].tolist())
    with progress(int(np.diff(ends[mine]).sum()), "cube", "cubes") as bar:
        for position in mine:
            video, (first, last) = dataset.videos[position], ends[position]
            if position in done["videos"]:
                bar.update(last - first)
                continue
            with finishing(f"video {video.name}"):
                target = {name: np.asarray(cube)[first:last] for name, cube in cubes.items()}
                repeated = cut_video(cfg, video, boxes[first:last], sizes[position], target, bar)
                for cube in cubes.values():
                    cube.flush()
                state = {**state, "videos": [*state["videos"], position], "seconds": clock(),
                         "repeated": state["repeated"] + repeated}
                record.write(own, state)
    del cubes
    repeated = sum(ranks.each(state["repeated"]), [])
    if ranks.RANK == 0:
        name_parts(folder, parts, repeated, len(boxes), wanted, clock)


def prepare(folder, parts, outputs, shapes, room, wanted):
    """Makes the files to be filled, or takes those of a stopped run; cubes.part.json then tells which videos are done."""
    found = [record.load(path) for path in sorted(folder.glob("cubes.part*.json"))]
    found = [state for state in found if state["id"] == wanted["id"]]
    state = {"id": wanted["id"], "videos": [], "seconds": 0, "repeated": []}
    if found and all(part.is_file() for part in parts.values()):
        state |= {key: sum((one[key] for one in found), []) for key in ("videos", "repeated")}
        state["seconds"] = max(one["seconds"] for one in found)
    else:
        for path in folder.glob("cubes.part*.json"):  # before the parts, which they vouch for
            path.unlink()
        for part in parts.values():
            part.unlink(missing_ok=True)
        files.require_room(folder, room, "the cubes", "--data_root_dir")
        for name, part in parts.items():
            files.create_map(part, outputs[name][1], shapes[name])
    record.write(folder / "cubes.part.json", state)
    for path in folder.glob("cubes.part.*.json"):  # of the other ranks: all in one now
        path.unlink()


def name_parts(folder, parts, repeated, count, wanted, clock):
    """Gives the files their names, now that they are whole."""
    (folder / "cubes.json").unlink(missing_ok=True)  # until the new record is written no cubes are valid
    (folder / "stc_of.npy").unlink(missing_ok=True)
    for name, part in parts.items():
        part.rename(folder / name)
    if repeated:
        print(f"warning: {len(repeated):,} frames are damaged, the ones before stand in")
    record.save(folder / "cubes.json", wanted, clock(), cubes=count, repeated=repeated)
    print(f"wrote {', '.join(parts)} in {folder}: {count:,} cubes in {clock():,.0f} s")


def cut_video(cfg, video, boxes, size, cubes, bar):
    """Fills the rows of one video; returns its frames that others stand in for.

    boxes: (n, 5); cubes: file name -> (n, C, P, P) to be filled.
    """
    repeated = set()
    centres, starts = np.unique(boxes[:, 0].astype(np.int64) - video.first, return_index=True)
    ends = [*starts[1:], len(boxes)]

    for name, target in cubes.items():
        raw = name == "stc_raw.npy"
        context = cfg.context_frame_num if raw else cfg.context_of_num
        windows = [window(int(t), context, 0, len(video) - 1, cfg.border_mode) for t in centres]
        needed = sorted({t for w in windows for t in w})
        threads = workers(cfg.num_workers)
        stream = frames.load(video, needed, threads, cfg.on_bad_frame, repeated) if raw else frames.load_flow(
            video, needed, size, threads)
        for near, start, end in zip(frames.slide(needed, stream, windows), starts, ends):
            crops(near, boxes[start:end, 1:], cfg.patch_size, target[start:end])
            bar.update(end - start if raw else 0)
    return [f"{video.name}/{name}" for name in sorted(repeated)]


if __name__ == "__main__":
    run(main)
