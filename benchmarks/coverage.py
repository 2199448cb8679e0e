"""How often the bootstrap's 95% interval over videos contains the true AUROC, by simulation.

    python -m benchmarks.coverage

Videos differ as real ones do: each has its own level of scores and its own gap between normal and abnormal frames, and
frames of one video resemble each other. The truth is the AUROC of 20,000 such videos together.
"""

import argparse

import numpy as np

from utils import metrics
from utils.evaluation import bootstrap


def videos_of(count, rng, frames=100):
    """Scores, labels (count * frames,) and video of `count` random videos."""
    level, gap = rng.normal(0, 0.5, (count, 1)), rng.normal(1.5, 0.7, (count, 1))
    start, length = rng.integers(0, frames, (2, count, 1))
    labels = (np.arange(frames) >= start) & (np.arange(frames) < start + length)  # one event, to the video's end at most
    noise = rng.normal(0, 1, (count, frames // 10)).repeat(10, axis=1)  # ten successive frames are alike
    return (level + gap * labels + noise).ravel(), labels.ravel(), np.arange(count).repeat(frames)


def coverage(videos, trials, times, seed=0):
    """The `summary` of the suite's interval, and of plain quantiles of the resampled figures."""
    rng = np.random.default_rng(seed)
    truth = metrics.evaluate(*videos_of(20_000, rng)[:2])["auroc"]
    drawn = bootstrap.resamples(videos, times)
    ends = {"interval": [], "plain quantiles": []}
    for _ in range(trials):
        data = videos_of(videos, rng)
        resampled = bootstrap.resampled_figures(*data, drawn)[:, 0]
        ends["interval"].append(bootstrap.interval(metrics.evaluate(*data[:2])["auroc"], resampled, videos))
        ends["plain quantiles"].append(np.nanpercentile(resampled, [2.5, 97.5]))
    return {name: summary(np.array(pairs), truth) for name, pairs in ends.items()}


def summary(ends, truth):
    """Shares of intervals (n, 2) that contain the truth, lie above it, below it; their mean width."""
    above, below = (ends[:, 0] > truth).mean(), (ends[:, 1] < truth).mean()
    return {"covered": 1 - above - below, "above": above, "below": below, "width": np.diff(ends).mean()}


def main():
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print("videos   kind              covered   all above   all below   mean width")
    for videos in (6, 12, 21, 36, 107):
        for name, found in coverage(videos, trials=1000, times=1000).items():
            print(f"{videos:6}   {name:15}   {found['covered']:7.1%}   {found['above']:9.1%}   {found['below']:9.1%}   "
                  f"{found['width']:10.3f}", flush=True)


if __name__ == "__main__":
    main()
