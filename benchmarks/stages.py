"""Every stage compared with its floor: what no version could beat, measured in the same run.

    python -m benchmarks.stages                                    the demo's videos (python -m tools.make_demo)
    python -m benchmarks.stages --dataset_name UCSDped2 --videos 1-4       real ones
    python -m benchmarks.stages --stages train scoring --repeat 3

One row per stage: items per second of the stage and of its floor, their ratio (how many times longer the stage takes), peak
memory of the process. Each row runs in its own process; stage and floor alternate, the median of --repeat counts.

    flow, boxes     decoding and DIS alone; FlowNet2 and YOLOv3: the network alone on prepared tensors
    cubes           decoding, cropping and resizing alone, one thread (cubes: one thread too; cubes_threads: all cores)
    train           the network's own steps on prepared tensors: self-paced forward, forward, backward, optimizer
    scoring         the network's forward alone on prepared tensors
    metrics         no floor: frame scores and figures of 315,306 frames with 1.2 million boxes, in seconds

Networks have random weights (speed does not depend on them), YOLOv3's are biased so that it finds few boxes, like
trained ones; otherwise it would find thousands per frame.
"""

import argparse
import os
import resource
import runpy
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch

from benchmarks.quietly import script
from FlowNet2_src import FlowNet2
from FlowNet2_src.methods import Dis
from fore_det import yolov3
from models.cae import ReconCAE
from models.spr import self_paced_weights, weighted_loss
from utils import datasets, files, frames, metrics, record
from utils.config import SUITE, dataset_of, parse_config
from utils.cubes import BlockCubes, Cubes
from utils.device import precision_of, workers
from utils.stc import crops

CUBES = 2560  # for training and scoring: ten batches of 256


class Bench:
    """Common to the rows: a dataset's frames, in a temporary results folder."""

    def __init__(self, name, videos, count):
        self.name, self.count = name, count
        self.words = ["--dataset_name", name, "--videos", videos]
        self.dataset = dataset_of(parse_config("", self.words))
        self.threads = workers(-1)

    def some(self, count):
        """Flags for `count` frames of the first video, the video, and the frames' numbers."""
        video = self.dataset.videos[0]
        count = min(count, len(video))
        return [*self.words[:3], 1, "--limit_frames", count], video, range(count)

    def clean(self, *folders):
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)

    def boxes(self):
        """Motion boxes from DIS flow, computed once."""
        if not Path("data", self.name, "test", "boxes.json").is_file():
            script("calc_optical_flow.py", *self.words, "--flow_method", "dis")
            script("extract_bbox.py", *self.words, "--detector", "none")

    def cubes(self):
        """Cubes and the batches for training and scoring, prepared and as the stages make them."""
        self.boxes()
        script("extract_stc.py", *self.words)
        folder = Path("data", self.name, "test")
        cubes = Cubes(folder, False, torch.device("cpu"), record.load(folder / "cubes.json"))
        block = BlockCubes(cubes, np.arange(min(CUBES, len(cubes))), 256, 0, (0, 0))
        return block, list(block.shuffled(1))


def flow(bench):
    def stage():
        bench.clean("optical_flow")
        script("calc_optical_flow.py", *bench.words, "--flow_method", "dis")

    def floor():
        method = Dis(None, "cpu")
        for video in bench.dataset.videos:
            images = list(frames.parallel(method.prepare, frames.load(video, range(len(video)), bench.threads), bench.threads))
            pairs = [(images[max(t - 1, 0)], images[t]) for t in range(len(video))]
            list(frames.parallel(lambda pair: method.flow([pair]), pairs, bench.threads))
    return sum(map(len, bench.dataset.videos)), stage, floor


def flow_flownet2(bench):
    words, _, chosen = bench.some(bench.count)
    network = FlowNet2().eval()
    torch.save({"state_dict": network.state_dict()}, "flownet2.pth.tar")
    pair = (torch.rand(1, 2, 384, 512, 3) * 255).permute(0, 4, 1, 2, 3)  # laid out in memory as in the stage

    def stage():
        bench.clean("optical_flow")
        script("calc_optical_flow.py", *words, "--flow_weights", "flownet2.pth.tar")

    def floor():
        with torch.no_grad():
            for _ in chosen:
                network(pair)
    return len(chosen), stage, floor


def boxes_yolov3(bench):
    words, video, chosen = bench.some(bench.count)
    script("calc_optical_flow.py", *words, "--flow_method", "dis")
    network = yolov3.YOLOv3().eval()
    for pred in network.bbox_head.convs_pred:  # as few detections as a trained network has, else they would cost more than it
        torch.nn.init.constant_(pred.bias, -8)
    torch.save({"state_dict": network.state_dict()}, "yolov3.pth")
    height, width = frames.size_of(video)
    scale = 608 / max(height, width)
    image = torch.rand(1, 3, *(-(-round(side * scale) // 32) * 32 for side in (height, width)))

    def stage():
        bench.clean("data")
        script("extract_bbox.py", *words, "--detector", "yolov3", "--detector_scale", 608, "--detector_weights", "yolov3.pth")

    def floor():
        with torch.no_grad():
            for _ in chosen:
                network(image)
    return len(chosen), stage, floor


def cubes(bench, threads=0):
    bench.boxes()
    boxes = files.load_array(Path("data", bench.name, "test", "bboxes.npy"))

    def stage():
        Path("data", bench.name, "test", "cubes.json").unlink(missing_ok=True)
        script("extract_stc.py", *bench.words, "--num_workers", threads)

    def floor():
        for video in bench.dataset.videos:
            images = list(frames.load(video, range(len(video))))
            first, last = np.searchsorted(boxes[:, 0], (video.first, video.first + len(video)))
            ends = np.searchsorted(boxes[first:last, 0], np.arange(video.first, video.first + len(video) + 1)) + first
            for t in range(len(video)):
                near = datasets.window(t, 2, 0, len(video) - 1)
                crops([images[k] for k in near], boxes[ends[t]:ends[t + 1], 1:], 32)
    return len(boxes), stage, floor


def cubes_threads(bench):
    return cubes(bench, -1)


def train(bench, precision="bf16"):
    block, batches = bench.cubes()
    cfg = parse_config("", [*bench.words, "--warmup_epoch", "0", "--num_feature_root", "32", "--sp_mode", "mixture"])
    autocast = precision_of(precision, torch.device("cpu"))
    train_epoch = runpy.run_path(str(SUITE / "train.py"))["train_epoch"]

    def fresh():
        torch.manual_seed(0)
        model = ReconCAE(32).to(memory_format=torch.channels_last)
        return model, torch.optim.Adam(model.parameters())

    def stage():
        train_epoch(*fresh(), block.shuffled(1), 0, 0, autocast, cfg)

    def floor():
        model, optimizer = fresh()
        for raw, *_ in batches:
            model.eval()
            with torch.no_grad(), autocast:
                weights = self_paced_weights(model.raw_errors(raw), 0, 0.005, "mixture")
            model.train()
            with autocast:
                errors = model.raw_errors(raw)
            optimizer.zero_grad(set_to_none=True)
            weighted_loss(errors, weights, raw[0].numel()).backward()
            optimizer.step()
    return len(block), stage, floor


def train_fp32(bench):
    return train(bench, "fp32")


def scoring(bench):
    block, _ = bench.cubes()
    batches = list(BlockCubes(block.all, block.rows, 256, 0, (0, 0)).shuffled(1))
    model = ReconCAE(32).to(memory_format=torch.channels_last).eval()
    autocast = precision_of("bf16", torch.device("cpu"))

    def stage():
        block.scores(model, autocast)

    def floor():
        with torch.no_grad(), autocast:
            for raw, *_ in batches:
                model(raw)
    return len(block), stage, floor


def metrics_of_shanghaitech(bench):
    rng = np.random.default_rng(0)
    count, boxes = 315_306, np.zeros((1_200_000, 5), np.float32)
    boxes[:, 0] = np.sort(rng.integers(0, count, len(boxes)))
    boxes[:, 3:] = 30
    scores, labels = rng.normal(size=len(boxes)).astype(np.float32), rng.random(count) < 0.06

    def stage():
        metrics.evaluate(metrics.moving_average(metrics.frame_scores(scores, boxes, count, (480, 856)), 10), labels)
    return count, stage, None


ROWS = {"flow": flow, "flow_flownet2": flow_flownet2, "boxes_yolov3": boxes_yolov3, "cubes": cubes,
        "cubes_threads": cubes_threads, "train": train, "train_fp32": train_fp32, "scoring": scoring,
        "metrics": metrics_of_shanghaitech}


def measure(row, bench, repeat):
    """Alternates stage and floor; prints items, median seconds of both, and peak megabytes."""
    items, stage, floor = ROWS[row](bench)
    seconds = {stage: [], floor: []}
    for _ in range(repeat):
        for part in filter(None, (stage, floor)):
            start = time.perf_counter()
            part()
            seconds[part].append(time.perf_counter() - start)
    medians = [statistics.median(seconds[part]) if part else float("nan") for part in (stage, floor)]
    print("measured", items, *medians, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_name", default="demo", metavar="D")
    parser.add_argument("--videos", default="", metavar="1,3-5", help="only these videos, by position")
    parser.add_argument("--stages", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW")
    parser.add_argument("--repeat", type=int, default=5, metavar="N")
    parser.add_argument("--network_frames", type=int, default=10, metavar="N", help="frames for FlowNet2 and YOLOv3")
    parser.add_argument("--inside", choices=ROWS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inside:
        return measure(args.inside, Bench(args.dataset_name, args.videos, args.network_frames), args.repeat)
    print(f"{'stage':15} {'items/s':>10} {'floor':>10} {'ratio':>7} {'peak MB':>8}", flush=True)
    for row in args.stages:
        with tempfile.TemporaryDirectory() as folder:
            os.symlink(Path("raw_datasets").resolve(), Path(folder, "raw_datasets"))
            command = [sys.executable, "-m", "benchmarks.stages", "--inside", row, "--dataset_name", args.dataset_name,
                       "--videos", args.videos, "--repeat", str(args.repeat), "--network_frames", str(args.network_frames)]
            done = subprocess.run(command, cwd=folder, env=os.environ | {"PYTHONPATH": str(SUITE)},
                                  stdout=subprocess.PIPE, text=True, check=True)
        items, stage, floor, memory = map(float, done.stdout.splitlines()[-1].split()[1:])
        print(f"{row:15} {items / stage:10.2f} {items / floor:10.2f} {stage / floor:7.2f} {memory:8.0f}", flush=True)


if __name__ == "__main__":
    cv2.setNumThreads(1)
    main()
