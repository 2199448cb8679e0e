#!/usr/bin/env python
"""Cut a spatio-temporal cube (STC) out of the video at every foreground box (paper, section 3.1).

A box of frame i is cut out of frames i-2 .. i+2 (clamped at the video's ends), and each patch is resized to 32x32:
T = 5 patches make one cube. In each mode training and testing use the same cubes.

reads   data/D/MODE/bboxes.npy          (N, 5) frame x1 y1 x2 y2
        the frames; with --use_flow true also their optical flow
writes  data/D/MODE/stc_raw.npy         (N, 3T, P, P) uint8: frame 0's B, G, R, frame 1's ...
        data/D/MODE/stc_of.npy          (N, 2T, P, P) float16, with --use_flow true: frame 0's u, v, frame 1's ...
        data/D/MODE/cubes.json          what they were made from
Row i belongs to row i of bboxes.npy. The files appear when all cubes are cut; a stopped run starts from the beginning.
"""

import itertools
import math

import numpy as np

from utils import files, frames, ranks, stages
from utils.boxes import Boxes
from utils.config import dataset_of, parse_config
from utils.datasets import window
from utils.device import workers
from utils.run import print_next, progress, run
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
    print_next("train.py", cfg)


def extract(cfg, dataset, boxes, stage):
    """Fills the cube files, each rank its share of the videos; returns the frames replaced by the previous one."""
    print(f"reading {stage.folder / 'bboxes.npy'}: {len(boxes):,} boxes")
    for name, (channels, dtype) in stages.cube_files(cfg).items() if ranks.RANK == 0 else ():
        shape = (len(boxes), channels, cfg.patch_size, cfg.patch_size)
        print(f"writing {stage.folder / name}: {' x '.join(map(str, shape))} {dtype}, "
              f"{math.prod(shape) * dtype.itemsize / 1e6:,.0f} MB")
        files.create_array(stage.file(name), dtype, shape)
    ranks.wait()
    rows = [boxes.of_frames(video.first, len(video)) for video in dataset.videos]
    mine, repeated = ranks.share([own.stop - own.start for own in rows]), set()
    with progress(sum(rows[k].stop - rows[k].start for k in mine), "cube", "cubes") as bar:
        for k, name in itertools.product(mine, stages.cube_files(cfg)):
            parts = cut_video(cfg, dataset.videos[k], boxes.rows[rows[k]], boxes.sizes[k], name, repeated)
            for count in files.write_rows(stage.part / name, rows[k].start, parts):
                bar.update(count if name == "stc_raw.npy" else 0)
    return sorted(set().union(*ranks.from_all(repeated)))


def check_given(cfg, boxes, stage):
    """Raises UserError unless the user's own cubes are one per box."""
    from utils.cubes import Cubes  # imports torch

    Cubes(stage.folder, cfg.use_flow, "cpu", {"settings": stage.wanted["settings"], "cubes": len(boxes)})
    return []


def cut_video(cfg, video, boxes, size, name, repeated):
    """Yields the cubes (n, C, P, P) of each frame with boxes of one video, for the file `name`; boxes: (N, 5).

    repeated: damaged frames that were replaced by the previous one are added to this set.
    """
    threads, raw, damaged = workers(cfg.num_workers), name == "stc_raw.npy", set()
    context = cfg.context_frame_num if raw else cfg.context_of_num
    centres, starts = np.unique(boxes[:, 0].astype(np.int64) - video.first, return_index=True)
    windows = [window(int(t), context, 0, len(video) - 1, cfg.border_mode) for t in centres]
    needed = sorted({t for near in windows for t in near})
    stream = frames.load(video, needed, threads, cfg.on_bad_frame, damaged) if raw else frames.load_flow(
        video, needed, size, threads)
    for near, own in zip(frames.slide(needed, stream, windows), np.split(boxes[:, 1:], starts[1:])):
        yield crops(near, own, cfg.patch_size)
    repeated |= {f"{video.name}/{frame}" for frame in damaged}


if __name__ == "__main__":
    run(main)
