#!/usr/bin/env python
"""Calculate the optical flow of every frame (paper, section 3.1).

A frame's flow is from it to the next one; the last frame of a video gets the flow from the one before to it, and the
first frame the flow from itself to itself (as in the official code). Both frames are resized to 512x384 first; the flow
is resized to the frame's size, its vectors are not rescaled.

reads   raw_datasets/D
writes  optical_flow/D/<path of the frame>/<frame>.npy      (H, W, 2) float16: u, v in pixels
        optical_flow/D/<path of the video>/flow.json        what they were made from
Files depend on the video alone and serve all modes. A stopped run goes on where it was: done frames are skipped.
"""

import itertools
from pathlib import Path

import cv2
import numpy as np

from FlowNet2_src.methods import METHODS, stamp, weights_file
from utils import files, frames, plan, ranks, record
from utils.config import dataset_of, parse_config
from utils.datasets import window
from utils.errors import UserError
from utils.run import Clock, finishing, locked, progress, run, use_threads, workers


def main():
    cfg = parse_config(__doc__, stages=("flow",))
    use_threads(cfg.threads)
    dataset = dataset_of(cfg)
    needed = {video: plan.flow_frames(cfg, video) for video in dataset.videos}
    method, clock, made, total = None, Clock(), 0, sum(map(len, needed.values()))
    print(f"flow of {total:,} frames by {cfg.flow_method}")
    require_room(cfg, needed)
    ranks.start()
    mine = [dataset.videos[k] for k in ranks.share([len(needed[video]) for video in dataset.videos])]
    with progress(sum(len(needed[video]) for video in mine), "frame", "flow") as bar:
        for video in mine:
            with locked(video.flow_folder):
                todo, old = missing(cfg, video, needed[video])
                bar.update(len(needed[video]) - len(todo))
                contents = {"frames": video.frame_files(), "flow": video.flow_files()}
                if cfg.verify and "sha256" in old:
                    record.verify(video.flow_folder / "flow.json", contents)
                if todo:
                    method = method or METHODS[cfg.flow_method](weights_file(cfg.flow_method, cfg.flow_weights), cfg.device)
                    made += calculate(cfg, method, video, todo, old, bar.update)
                elif "versions" not in old:  # killed after the last flow file
                    finish(video, old, 0, ())
                if cfg.verify and (todo or "sha256" not in old):
                    record.verify(video.flow_folder / "flow.json", contents | {"flow": video.flow_files()})
    made = sum(ranks.each(made))
    print(f"wrote {made:,} flow files below {Path(cfg.flow_root_dir, dataset.name)} in {clock():,.0f} s "
          f"({total - made:,} were done)")
    print(f"next: python extract_bbox.py --dataset_name {cfg.dataset_name} --mode {cfg.mode}")


def require_room(cfg, needed):
    """Raises UserError where the flow files that are missing don't fit on the disk, by the size of the first video's frames."""
    todo = [video for video, frames in needed.items() for t in frames if not video.flow_file(t).exists()]
    if todo:
        room = plan.room(cfg, "flow", len(todo), frames.size_of(todo[0]))
        files.require_room(cfg.flow_root_dir, room, f"the flow of {len(todo):,} frames", "--flow_root_dir")


def missing(cfg, video, needed):
    """Frames of a video whose flow is to be made, and their record; flow of other frames than are there now is removed."""
    todo, old, wanted = plan.flow_left(cfg, video, needed, lambda: stamp(weights_file(cfg.flow_method, cfg.flow_weights)))
    if old and old["id"] != wanted["id"]:
        print(f"{video.flow_folder}: the frames have changed, their flow is calculated again")
        for path in video.flow_files():
            path.unlink()
        old = wanted
    old = old or wanted
    if todo and "versions" not in old:  # until the first run has ended in order
        record.write(video.flow_folder / "flow.json", wanted)
    return todo, old


def pair_of(t, last):
    """The two frames whose flow is frame t's."""
    before, now, after = window(t, 1, 0, last)
    return (before, now) if before == now or now == after else (now, after)


def calculate(cfg, method, video, todo, old, tick):
    """Writes the flow files of the frames `todo` of one video, and its record; returns their number."""
    repeated, clock, saved = set(), Clock(), []
    threads, size = workers(cfg.num_workers), frames.size_of(video)
    pairs = [pair_of(t, len(video) - 1) for t in todo]
    wanted = sorted({t for pair in pairs for t in pair})
    stream = frames.load(video, wanted, threads, cfg.on_bad_frame, repeated)
    resized = frames.parallel(method.prepare, stream, threads)
    batches = frames.batched(zip(todo, frames.slide(wanted, resized, pairs)), method.batch)

    def save(item):
        t, flow = item  # (384, 512, 2)
        flow = cv2.resize(np.ascontiguousarray(flow, np.float32), size[::-1])  # vectors are not rescaled
        with np.errstate(over="ignore"):
            flow = flow.astype(cfg.flow_dtype)
        if not np.isfinite(flow.sum(dtype=np.float64)):
            raise UserError(f"{video.flow_file(t)}: the flow of this frame holds values that are not finite in {flow.dtype}: "
                            "take --flow_dtype float32, or another --flow_method or --flow_weights")
        files.save_array(video.flow_file(t), flow)
        saved.append(t)
        tick()

    with finishing("the frames at work") as told:
        batches = itertools.takewhile(lambda _: not told, batches)
        flows = frames.parallel(lambda batch: list(zip([t for t, _ in batch], method.flow([pair for _, pair in batch]))),
                                batches, threads if method.threaded else 0)
        for _ in frames.parallel(save, (item for batch in flows for item in batch), threads):
            pass
        finish(video, old, clock(), repeated)
    return len(saved)


def finish(video, old, seconds, repeated):
    """Writes the record of a video's flow files; old: that of an earlier run, or what is wanted."""
    repeated = sorted({*old.get("repeated", ()), *repeated})
    if repeated:
        print(f"warning: {video.name}: {len(repeated):,} of {len(video):,} frames are damaged, the ones before stand in")
    made_from = {key: value for key, value in old.items() if key != "sha256"}  # there are other files now
    record.save(video.flow_folder / "flow.json", made_from, round(old.get("seconds", 0) + seconds, 1),
                flows=len(video.flow_files()), repeated=repeated)


if __name__ == "__main__":
    run(main)
