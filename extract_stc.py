#!/usr/bin/env python
"""Cut a spatio-temporal cube (STC) out of the video at every foreground box (paper, section 3.1).

For a box of frame i the box is cut out of the frames i-2 .. i+2 (held at the video's ends) and each patch is resized
to 32x32: T = 5 patches make one cube. Training and testing use the same cubes of a mode.

reads   data/D/MODE/bboxes.npy          (N, 5) frame x1 y1 x2 y2
        the frames; with --use_flow true also their optical flow
writes  data/D/MODE/stc_raw.npy         (N, 3T, P, P) uint8: frame 0's B, G, R, frame 1's ...
        data/D/MODE/stc_of.npy          (N, 2T, P, P) float16, with --use_flow true: frame 0's u, v, frame 1's ...
        data/D/MODE/cubes.json          what they were made from
Row i belongs to row i of bboxes.npy. Files appear when all cubes are cut; a stopped run starts again.
"""

import math

import numpy as np

from utils import files, frames, ranks, stages
from utils.boxes import Boxes
from utils.config import dataset_of, parse_config
from utils.datasets import window
from utils.device import workers
from utils.run import progress, run
from utils.stc import crops


def main():
    cfg = parse_config(__doc__, stages=("cubes",))
    ranks.start()
    boxes, dataset = Boxes.load(stages.folder_of(cfg)), dataset_of(cfg)
    stage = stages.cubes(cfg, dataset)
    if not stage.is_done():
        with stage.writing(stages.cubes_room(cfg, len(boxes))) as facts:
            repeated = check_given(cfg, boxes, stage) if stage.given else extract(cfg, dataset, boxes, stage)
            facts |= {"cubes": len(boxes), "repeated": repeated}
        if repeated:
            print(f"warning: {len(repeated):,} frames are damaged; each was replaced by the previous frame")
        print(f"wrote {', '.join(stages.cube_files(cfg))} in {stage.folder}: {len(boxes):,} cubes in {facts['seconds']:,.0f} s")
    print(f"next: python train.py --dataset_name {cfg.dataset_name} --mode {cfg.mode}")


def extract(cfg, dataset, boxes, stage):
    """Fills the cube files, each rank the videos of its own; returns frames that were replaced by the previous one."""
    print(f"reads {stage.folder / 'bboxes.npy'}: {len(boxes):,} boxes")
    for name, (channels, dtype) in stages.cube_files(cfg).items() if ranks.RANK == 0 else ():
        shape = (len(boxes), channels, cfg.patch_size, cfg.patch_size)
        print(f"writes {stage.folder / name}: {' x '.join(map(str, shape))} {dtype}, "
              f"{math.prod(shape) * dtype.itemsize / 1e6:,.0f} MB")
        files.create_map(stage.file(name), dtype, shape)
    ranks.wait()
    cubes = {name: np.lib.format.open_memmap(stage.part / name, "r+") for name in stages.cube_files(cfg)}
    rows = [boxes.of_frames(video.first, len(video)) for video in dataset.videos]
    mine, repeated = ranks.share([own.stop - own.start for own in rows]), []
    with progress(sum(rows[k].stop - rows[k].start for k in mine), "cube", "cubes") as bar:
        for k in mine:
            target = {name: np.asarray(cube)[rows[k]] for name, cube in cubes.items()}
            repeated += cut_video(cfg, dataset.videos[k], boxes.rows[rows[k]], boxes.sizes[k], target, bar)
    for cube in cubes.values():
        cube.flush()
    return sum(ranks.from_all(repeated), [])


def check_given(cfg, boxes, stage):
    """Raises UserError where cubes that the user made are not one for each box."""
    from utils.cubes import Cubes

    Cubes(stage.folder, cfg.use_flow, "cpu", {"settings": stage.wanted["settings"], "cubes": len(boxes)})
    return []


def cut_video(cfg, video, boxes, size, cubes, bar):
    """Fills the rows of one video; returns its frames that were replaced by the previous one.

    boxes: (n, 5); cubes: file name -> (n, C, P, P) to be filled.
    """
    threads, repeated = workers(cfg.num_workers), set()
    centres, starts = np.unique(boxes[:, 0].astype(np.int64) - video.first, return_index=True)
    ends = [*starts[1:], len(boxes)]
    for name, target in cubes.items():
        raw = name == "stc_raw.npy"
        context = cfg.context_frame_num if raw else cfg.context_of_num
        windows = [window(int(t), context, 0, len(video) - 1, cfg.border_mode) for t in centres]
        needed = sorted({t for near in windows for t in near})
        stream = frames.load(video, needed, threads, cfg.on_bad_frame, repeated) if raw else frames.load_flow(
            video, needed, size, threads)
        for near, start, end in zip(frames.slide(needed, stream, windows), starts, ends):
            crops(near, boxes[start:end, 1:], cfg.patch_size, target[start:end])
            bar.update(end - start if raw else 0)
    return [f"{video.name}/{name}" for name in sorted(repeated)]


if __name__ == "__main__":
    run(main)
