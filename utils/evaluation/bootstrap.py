"""How sure a figure is: resampling whole videos, since frames of one video are no independent observations."""

import numpy as np
from scipy.special import expit, logit
from scipy.stats import t

from utils import metrics

TIMES = 2000  # resamples
POINTS = 2000  # of a curve
EDGE = 0.001


def resamples(videos, times=TIMES, seed=0):
    """How often each video is drawn in each resample: (times, videos) int, each row sums to `videos`."""
    return np.random.default_rng(seed).multinomial(videos, np.full(videos, 1 / videos), times)


def resampled_figures(scores, labels, video, drawn):
    """AUROC, EER and average precision of each resample, as `metrics.evaluate` defines them with official=False.

    scores: (F,); labels: (F,) bool; video: (F,) from 0, the video of each frame; drawn: (R, videos) from `resamples`.
    The curves have at most POINTS points, half of them at scores of abnormal frames, which is exact where there are no more
    different scores, and for average precision where no more than half of POINTS frames are abnormal.
    Returns (R, 3), NaN where a resample has one class alone.
    """
    if np.all(labels) or not np.any(labels):
        return np.full((len(drawn), 3), np.nan)
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    ends = np.flatnonzero(np.append(np.diff(np.asarray(scores)[order]) != 0, True))  # equal scores pass a threshold together
    if len(ends) > POINTS:
        hits = ends[np.diff(np.cumsum(np.asarray(labels, int)[order])[ends], prepend=0) > 0]
        ends = np.union1d(*(part[np.linspace(0, len(part) - 1, POINTS // 2).astype(int)] for part in (ends, hits)))
    step = np.searchsorted(ends, np.arange(len(order)))  # the first threshold that a frame passes
    counts = np.zeros((2, len(ends), drawn.shape[1]))  # normal and abnormal frames of each video that pass
    np.add.at(counts, (np.asarray(labels, int)[order], step, np.asarray(video)[order]), 1)
    alarms, hits = (drawn @ of_class.T for of_class in np.cumsum(counts, axis=1))  # (R, thresholds)
    start = np.zeros((len(drawn), 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        tpr = np.hstack([start, hits / hits[:, -1:]])
        fpr = np.hstack([start, alarms / alarms[:, -1:]])
        precision = hits / (hits + alarms)
        auroc = np.trapezoid(tpr, fpr, axis=1)
        gap = np.abs(1 - tpr - fpr)
        nearest = gap <= gap.min(axis=1, keepdims=True) + metrics.SAME
        eer = np.sum(fpr, axis=1, where=nearest) / np.sum(nearest, axis=1)
    average_precision = np.sum(np.diff(tpr, axis=1) * np.nan_to_num(precision), axis=1)
    figures = np.stack([auroc, eer, average_precision], axis=1)
    figures[~np.isfinite(auroc)] = np.nan
    return figures


def interval(figure, resampled, videos, share=True):
    """95% interval of a figure, (low, high): Student's t with the standard error that resampling `videos` videos shows.

    figure: its value, of all videos; resampled: (R,), NaN left out; share: a figure in 0..1, whose interval is worked out
    on the scale of log odds and so stays inside (values nearer than EDGE to an end count as there). Plain quantiles of the
    resampled figures are too narrow for as few videos as these datasets have (docs/EVALUATION.md).
    Returns NaN twice where no resample has the figure, or there is one video alone.
    """
    resampled = np.asarray(resampled, np.float64)
    resampled = resampled[np.isfinite(resampled)]
    if videos < 2 or not len(resampled):
        return np.nan, np.nan
    scale = (lambda x: logit(np.clip(x, EDGE, 1 - EDGE))) if share else np.asarray
    half = t.ppf(0.975, videos - 1) * scale(resampled).std() * np.sqrt(videos / (videos - 1))
    low, high = scale(figure) - half, scale(figure) + half
    if share:
        low, high = min(expit(low), figure), max(expit(high), figure)
    return float(low), float(high)
