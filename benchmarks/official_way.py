"""The same work done the official code's way and ours, on the same frames.

    python -m benchmarks.official_way --dataset_name UCSDped2

Official way: each frame is decoded once for every window that contains it; two files per training cube; one image painted per
box, whose highest pixel is the score; float32 in NCHW. It was rewritten for this comparison and gives the same cubes and frame
scores, which is checked. Both ways alternate, the median of --repeat counts; in one process, all cores; the first --frames
frames; --cubes cubes for training.
"""

import argparse
import contextlib
import os
import runpy
import statistics
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch

from benchmarks.quietly import script
from models.cae import ReconCAE
from models.spr import self_paced_weights, weighted_loss
from utils import datasets, files, metrics, record
from utils.config import SUITE, parse_config
from utils.cubes import BlockCubes, Cubes
from utils.device import precision_of
from utils.stc import crop


def medians(repeat, *functions):
    """Median seconds of each of the functions, which alternate."""
    seconds = [[] for _ in functions]
    for _ in range(repeat):
        for function, taken in zip(functions, seconds):
            start = time.perf_counter()
            function()
            taken.append(time.perf_counter() - start)
    return [statistics.median(taken) for taken in seconds]


def official_cubes(videos, boxes, folder):
    """Decodes every frame's window again; writes each cube to two files (raw, flow of zeros)."""
    folder.mkdir(exist_ok=True)
    for video in videos:
        for t in video.chosen:
            near = [cv2.imread(str(video.path / video.frames[k])) for k in datasets.window(t, 2, 0, len(video) - 1)]
            flow = np.zeros((10, 32, 32), np.float32)
            for number in np.flatnonzero(boxes[:, 0] == video.first + t):
                np.save(folder / f"{number}_raw.npy", crop(near, boxes[number, 1:], 32))
                np.save(folder / f"{number}_of.npy", flow)


def official_frame_scores(box_scores, boxes, num_frames, size):
    """Paints each box on its own image; the frame's score is the highest pixel."""
    scores = np.empty(num_frames)
    for frame in range(num_frames):
        image = np.full(size, metrics.NO_BOX)
        for number in np.flatnonzero(boxes[:, 0] == frame):
            x1, y1, x2, y2 = np.ceil(boxes[number, 1:]).astype(int)
            painted = np.full(size, metrics.NO_BOX)
            painted[y1:y2, x1:x2] = box_scores[number]
            image = np.maximum(image, painted)
        scores[frame] = image.max()
    return scores


def official_training(folder, rows):
    """Self-paced steps on cubes read file by file, float32, NCHW."""
    torch.manual_seed(0)
    model = ReconCAE(32)
    optimizer = torch.optim.Adam(model.parameters())
    for start in range(0, len(rows), 256):
        raw = torch.from_numpy(np.stack([np.load(folder / f"{row}_raw.npy") for row in rows[start:start + 256]])).float() / 255
        official_step(model, optimizer, raw)


def official_step(model, optimizer, raw):
    """A self-paced step on a batch (B, 15, 32, 32), float32, NCHW."""
    model.eval()
    with torch.no_grad():
        weights = self_paced_weights(model.raw_errors(raw), 0, 0.005, "mixture")
    model.train()
    optimizer.zero_grad()
    weighted_loss(model.raw_errors(raw), weights, raw[0].numel()).backward()
    optimizer.step()
    weights.sum().item()


def our_training(block, cfg):
    """The same with train.py's loop, in bf16."""
    torch.manual_seed(0)
    model = ReconCAE(32).to(memory_format=torch.channels_last)
    autocast = precision_of("bf16", torch.device("cpu"))
    train_epoch = runpy.run_path(str(SUITE / "train.py"))["train_epoch"]
    train_epoch(model, torch.optim.Adam(model.parameters()), block.shuffled(1), 0, 0, autocast, cfg)


def compare(name, frames, count, repeat):
    """Yields a row per part: what, official seconds, our seconds."""
    cfg = parse_config("", ["--dataset_name", name, "--warmup_epoch", "0"])
    everything = datasets.find(name, "test", cfg.layout)
    enough = next(k for k in range(1, len(everything.videos) + 1) if sum(map(len, everything.videos[:k])) >= frames)
    words = ["--dataset_name", name, "--videos", f"1-{enough}"]
    videos = everything.videos[:enough]
    script("calc_optical_flow.py", *words, "--flow_method", "dis")
    script("extract_bbox.py", *words, "--detector", "none")
    data = Path("data", name, "test")
    boxes = files.load_array(data / "bboxes.npy")
    made = record.load(data / "boxes.json")

    def our_cubes():
        (data / "cubes.json").unlink(missing_ok=True)
        script("extract_stc.py", *words)

    theirs, ours = medians(repeat, lambda: official_cubes(videos, boxes, Path("official")), our_cubes)
    cubes = files.load_array(data / "stc_raw.npy", mmap=True)
    assert all(np.array_equal(np.load(f"official/{row}_raw.npy"), cubes[row]) for row in range(0, len(boxes), 97))
    yield f"cubes: {len(boxes):,} of {sum(map(len, videos)):,} frames", theirs, ours

    scores = np.random.default_rng(0).normal(size=len(boxes))
    size, num_frames = made["sizes"][0], sum(map(len, videos))
    ways = [lambda: official_frame_scores(scores, boxes, num_frames, size),
            lambda: metrics.frame_scores(scores, boxes, num_frames, size)]
    np.testing.assert_array_equal(ways[0](), ways[1]())
    theirs, ours = medians(repeat, *ways)
    yield f"frame scores of {num_frames:,} frames from box scores", theirs, ours

    rows = np.arange(min(count, len(boxes)))
    block = BlockCubes(Cubes(data, False, torch.device("cpu"), record.load(data / "cubes.json")), rows, 256, 0, (0, 0))
    theirs, ours = medians(repeat, lambda: official_training(Path("official"), rows), lambda: our_training(block, cfg))
    yield f"training: {len(rows):,} cubes, self-paced, ours in bf16", theirs, ours


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_name", default="demo", metavar="D", help="with frames in folders, all of one size")
    parser.add_argument("--frames", type=int, default=1000, metavar="N", help="at least this many, in whole videos")
    parser.add_argument("--cubes", type=int, default=2560, metavar="N")
    parser.add_argument("--repeat", type=int, default=3, metavar="N")
    args = parser.parse_args()
    raw = Path("raw_datasets").resolve()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        os.symlink(raw, "raw_datasets")
        print(f"{'':55} {'official way':>12} {'ours':>9} {'ratio':>7}")
        for what, theirs, ours in compare(args.dataset_name, args.frames, args.cubes, args.repeat):
            print(f"{what:55} {theirs:10.2f} s {ours:7.3f} s {theirs / ours:6.1f}x", flush=True)


if __name__ == "__main__":
    main()
