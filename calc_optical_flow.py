#!/usr/bin/env python
"""Calculate the optical flow of every frame (paper, section 3.1).

A frame's flow leads to the next frame; for the last frame of a video it leads from the previous frame to it, and for the
first frame from itself to itself (as in the official code). Both frames are resized to 512x384 first; the flow is
resized to the frame's size, and its vectors are not rescaled.

reads   raw_datasets/D
writes  optical_flow/D/<path of the frame>/<frame>.npy      (H, W, 2) float16: u, v in pixels
        optical_flow/D/<path of the video>/flow.json        what they were made from
Files depend only on the video and are shared by all modes. Run the same command to resume: finished frames are skipped.
"""

import functools
import itertools
from pathlib import Path

import cv2
import numpy as np

from FlowNet2_src.methods import METHODS, stamp, weights_file
from utils import files, frames, ranks, record, stages
from utils.config import dataset_of, parse_config
from utils.datasets import window
from utils.device import use_threads, workers
from utils.errors import UserError
from utils.locks import locked
from utils.run import Clock, finishing, print_next, progress, run


def main():
    cfg, clock = parse_config(__doc__, stages=("flow",)), Clock()
    use_threads(cfg.threads)
    dataset, weights = dataset_of(cfg), functools.partial(weights_file, cfg.flow_method, cfg.flow_weights)

    source = functools.cache(lambda: stamp(weights()))

    def flow_of(video):
        return stages.Flow(cfg, video, frames.size_of(video), source)

    flows = [flow_of(video) for video in dataset.videos]
    total, left = sum(len(flow.needed) for flow in flows), sum(len(flow.todo) for flow in flows)
    print(f"calculating flow of {total:,} frames with {cfg.flow_method}")
    files.require_room(cfg.flow_root_dir, sum(map(stages.flow_room, flows)), f"the flow of {left:,} frames", "--flow_root_dir")
    ranks.start()
    method = functools.cache(lambda: METHODS[cfg.flow_method](weights(), cfg.device))
    mine = ranks.share([len(flow.needed) for flow in flows])
    with progress(sum(len(flows[k].needed) for k in mine), "frame", "flow") as bar:
        count = sum(complete(cfg, method, functools.partial(flow_of, dataset.videos[k]), bar.update) for k in mine)
    count = sum(ranks.from_all(count))
    print(f"wrote {count:,} flow files in {Path(cfg.flow_root_dir, dataset.name)} in {clock():,.0f} s "
          f"({total - count:,} already done)")
    print_next("extract_bbox.py", cfg)


def complete(cfg, method, flow_now, tick):
    """Calculates a video's missing flow, and verifies all of it with --verify; returns the number of files written."""
    flow, count = flow_now(), 0
    if flow.state[0] == "done":
        tick(len(flow.needed))
    else:
        with locked(flow.video.flow_folder):
            flow = flow_now()
            count = len(flow.todo)
            tick(len(flow.needed) - count)
            calculate(cfg, method, flow, tick)
    if cfg.verify:
        record.verify(flow.path, stages.flow_contents(flow.video))
    return count


def calculate(cfg, method, flow, tick):
    """Writes a video's missing flow files, and its record."""
    clock, repeated = Clock(), set()
    flow.begin()
    with finishing("the current frames") as stopping:
        if flow.todo:
            items = flow_of_frames(cfg, method(), flow, repeated, stopping)
            for _ in frames.parallel(lambda item: save(flow, *item, tick), items, workers(cfg.num_workers)):
                pass
        if all_repeated := flow.finish(clock(), repeated):
            print(f"warning: {flow.video.name}: {len(all_repeated):,} of {len(flow.video):,} frames are damaged; each was "
                  "replaced by the previous frame")


def flow_of_frames(cfg, method, flow, repeated, stopping):
    """Yields each missing frame and its flow (384, 512, 2), in order, until `stopping` is no longer empty."""
    threads = workers(cfg.num_workers)
    pairs = [pair_of(t, len(flow.video) - 1) for t in flow.todo]
    numbers = sorted({t for pair in pairs for t in pair})
    stream = frames.load(flow.video, numbers, threads, cfg.on_bad_frame, repeated)
    resized = frames.parallel(method.prepare, stream, threads)
    batches = frames.batched(zip(flow.todo, frames.slide(numbers, resized, pairs)), method.batch)
    batches = itertools.takewhile(lambda _: not stopping, batches)
    flows = frames.parallel(lambda batch: list(zip([t for t, _ in batch], method.flow([pair for _, pair in batch]))),
                            batches, threads if method.threaded else 0)
    return itertools.chain.from_iterable(flows)


def pair_of(t, last):
    """The two frames whose flow is frame t's."""
    before, now, after = window(t, 1, 0, last)
    return (before, now) if before == now or now == after else (now, after)


def save(flow, t, field, tick):
    """Writes the flow of frame t; field: (384, 512, 2)."""
    path = flow.video.flow_file(t)
    field = cv2.resize(np.ascontiguousarray(field, np.float32), flow.shape[1::-1])  # vectors are not rescaled
    with np.errstate(over="ignore"):
        field = field.astype(flow.dtype)
    if not np.isfinite(field.sum(dtype=np.float64)):
        raise UserError(f"{path}: the flow of this frame has values that are not finite in {field.dtype}: use --flow_dtype "
                        "float32, or another --flow_method or --flow_weights")
    files.save_array(path, field)
    tick()


if __name__ == "__main__":
    run(main)
