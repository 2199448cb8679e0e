"""Training and scoring in each number format, compared with the official way, with and without bf16 instructions.

    python -m benchmarks.precision

Official way: float32, NCHW. Ours: train.py's loop and test.py's scoring, channels_last, in fp32 and in bf16. Random cubes,
width 32, self-paced. In each of two processes, one of which hides instructions newer than AVX2 from torch and oneDNN, all
alternate; the median of --repeat counts. Share of torch.mm: a step's speed relative to torch.mm in that format.
"""

import argparse
import os
import runpy
import statistics
import subprocess
import sys
import time

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.official_way import official_step
from models.cae import ReconCAE
from utils.config import SUITE, parse_config
from utils.cubes import Batch, score
from utils.device import FORMATS, precision_of, use_threads

HIDDEN = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}


class RandomCubes:
    """Like utils.cubes.Cubes, from memory."""

    device = torch.device("cpu")

    def __init__(self, count):
        self.raw = torch.rand(count, 15, 32, 32).contiguous(memory_format=torch.channels_last)

    def batch(self, rows):
        return self.raw[rows[0]:rows[-1] + 1], None


def official_forward(model, raw):
    model.eval()
    with torch.no_grad():
        return model.raw_errors(raw)


def ways(count):
    """(format, layout) -> its training step and its forward pass over `count` cubes, as functions."""
    train_epoch = runpy.run_path(str(SUITE / "train.py"))["train_epoch"]
    cfg, cubes = parse_config("", ["--dataset_name", "demo", "--warmup_epoch", "0", "--sp_mode", "mixture"]), RandomCubes(count)

    def official():
        model, raw = ReconCAE(32), cubes.raw.contiguous()
        optimizer = torch.optim.Adam(model.parameters())
        return lambda: official_step(model, optimizer, raw), lambda: official_forward(model, raw)

    def ours(word):
        model, autocast = ReconCAE(32).to(memory_format=torch.channels_last), precision_of(word, cubes.device)
        optimizer = torch.optim.Adam(model.parameters())
        return (lambda: train_epoch(model, optimizer, [Batch(cubes.raw, None, count)], 0, 0, autocast, cfg),
                lambda: score(model, cubes, np.arange(count), 256, autocast))

    return {"fp32, official way": official()} | {f"{word}, ours": ours(word) for word in ("fp32", "bf16")}


def seconds(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def product(word):
    """Multiplications per second of torch.mm in a number format, doubled: FLOP per second."""
    side, kind = 2048, getattr(torch, FORMATS[word].autocast or "float32")
    a, b = torch.rand(side, side).to(kind), torch.rand(side, side).to(kind)
    return 2 * side ** 3 / min(seconds(lambda: torch.mm(a, b)) for _ in range(5))


def measure(count, repeat):
    """Prints a row per way: cubes per second, ratios to the official way, share of torch.mm."""
    use_threads(0)
    found = ways(count)
    with FlopCounterMode(display=False) as counted:
        next(iter(found.values()))[0]()
    taken = {(name, part): [] for name in found for part in (0, 1)}
    for _ in range(repeat):
        for name, functions in found.items():
            for part, function in enumerate(functions):
                taken[name, part].append(seconds(function))
    rates = {key: count / statistics.median(times) for key, times in taken.items()}
    official = next(iter(found))
    for name in found:
        share = counted.get_total_flops() / count * rates[name, 0] / product(name[:4])
        print(f"{name:20} {rates[name, 0]:12.0f} {rates[name, 0] / rates[official, 0]:7.2f} {rates[name, 1]:12.0f} "
              f"{rates[name, 1] / rates[official, 1]:7.2f} {share:12.0%}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cubes", type=int, default=256, metavar="N", help="batch size")
    parser.add_argument("--repeat", type=int, default=7, metavar="N")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inside:
        return measure(args.cubes, args.repeat)
    for title, hidden in (("this processor", {}), ("the same, only AVX2", HIDDEN)):
        print(f"{title:20} {'training':>12} {'ratio':>7} {'forward':>12} {'ratio':>7} {'of torch.mm':>12}", flush=True)
        command = [sys.executable, "-m", "benchmarks.precision", "--inside", *sys.argv[1:]]
        subprocess.run(command, env=os.environ | hidden, check=True)


if __name__ == "__main__":
    main()
