"""Does the memory of training and scoring grow with the number of cubes?

    python -m benchmarks.memory

Anonymous resident memory (RssAnon: what the system cannot reclaim) of train.py's loop and of scoring, over --steps
batches spread across a cube file of 10,000 rows and one of 1,200,000 (ShanghaiTech in mode merge), which is sparse: it
uses no disk space. Each runs in its own process; the highest of all steps counts. Speed is not measured. The few bytes
per cube that a full run keeps (docs/CLUSTER.md, "Memory") are not included.
"""

import argparse
import os
import re
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from models.cae import ReconCAE
from utils.config import SUITE, parse_config
from utils.cubes import Batch, BlockCubes, Cubes, score
from utils.device import precision_of

SIZES = (10_000, 1_200_000)


def anonymous():
    """Megabytes of this process's memory that are not backed by a file."""
    return int(re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text()).group(1)) / 1024


def measure(count, steps, width):
    """Prints the highest RssAnon of training and of scoring `steps` batches of `count` cubes."""
    cfg = parse_config("", ["--dataset_name", "UCSDped2", "--warmup_epoch", "0"])
    np.lib.format.open_memmap("stc_raw.npy", "w+", np.uint8, (count, 15, 32, 32)).flush()
    cubes = Cubes(Path(), False, torch.device("cpu"), {"settings": {"use_flow": False}, "cubes": count})
    block, autocast = BlockCubes(cubes, np.arange(count), 256, 0, (0, 0)), precision_of("bf16", torch.device("cpu"))
    model, seen = ReconCAE(width).to(memory_format=torch.channels_last), []

    def spread():  # over the whole file, in the epoch's own order
        order = block.order(1)
        for start in np.linspace(0, max(0, count - 256), steps).astype(int):
            rows = np.resize(order[start:start + 256], 256)
            yield Batch(*cubes.batch(rows), 256)

    train_epoch = runpy.run_path(str(SUITE / "train.py"))["train_epoch"]
    train_epoch(model, torch.optim.Adam(model.parameters()), spread(), 0, 0, autocast, cfg, lambda _: seen.append(anonymous()))
    trained, seen = max(seen), []
    rows = np.linspace(0, count - 1, 256 * steps).astype(int)
    score(model, cubes, rows, 256, autocast, lambda _: seen.append(anonymous()))
    print("measured", trained, max(seen))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200, metavar="N")
    parser.add_argument("--width", type=int, default=32, metavar="F", help="width of the autoencoder")
    parser.add_argument("--inside", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inside:
        return measure(args.inside, args.steps, args.width)
    print(f"{'cubes':>10} {'training, MB':>13} {'scoring, MB':>12}")
    for count in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "benchmarks.memory", "--inside", str(count), "--steps", str(args.steps),
                       "--width", str(args.width)]
            done = subprocess.run(command, cwd=folder, env=os.environ | {"PYTHONPATH": str(SUITE)},
                                  stdout=subprocess.PIPE, text=True, check=True)
        trained, scored = map(float, done.stdout.splitlines()[-1].split()[1:])
        print(f"{count:10,} {trained:13,.0f} {scored:12,.0f}", flush=True)


if __name__ == "__main__":
    main()
