"""FlowNet2's correlation layer compared with the obvious version, which unfolds all 441 neighbours of every pixel.

    python -m benchmarks.correlation

At the size that FlowNetC sees for a Ped2 frame (256 channels of 48x64). Each version runs in its own process, so that
its peak memory is its own; times are the median of 5.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time

import torch
import torch.nn.functional as F

from FlowNet2_src.ops import MAX_DISPLACEMENT, SHIFTS, STEP, correlation


def unfolded(first, second):
    """`correlation` by unfold: every pixel's neighbourhood is copied out, then multiplied and averaged."""
    batch, channels, height, width = first.shape
    padded = F.pad(second, (MAX_DISPLACEMENT,) * 4)
    around = F.unfold(padded, (height, width), stride=STEP)  # (B, C H W, 441)
    around = around.view(batch, channels, height * width, SHIFTS ** 2)
    return (first.flatten(2)[..., None] * around).mean(dim=1).mT.reshape(batch, SHIFTS ** 2, height, width)


VERSIONS = {"ours": correlation, "unfold": unfolded}


def measure(name):
    """Prints seconds (median of 5) and megabytes of one version, above those before its first call."""
    first, second = torch.randn(2, 1, 256, 48, 64, generator=torch.Generator().manual_seed(0))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        VERSIONS[name](first, second)
        seconds.append(time.perf_counter() - start)
    print(statistics.median(seconds), (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", choices=VERSIONS, help="measure only this version, in this process")
    chosen = parser.parse_args().version
    if chosen:
        return measure(chosen)
    first, second = torch.randn(2, 1, 8, 12, 16, generator=torch.Generator().manual_seed(0))
    print(f"largest difference: {(correlation(first, second) - unfolded(first, second)).abs().max():.1e}")
    print("version    seconds   megabytes   seconds / ours")
    found = {}
    for name in VERSIONS:
        command = [sys.executable, "-m", "benchmarks.correlation", "--version", name]
        found[name] = [float(word) for word in subprocess.run(command, check=True, capture_output=True).stdout.split()]
        print(f"{name:8} {found[name][0]:9.4f} {found[name][1]:11.0f} {found[name][0] / found['ours'][0]:16.1f}")


if __name__ == "__main__":
    main()
