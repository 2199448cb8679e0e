"""The uncertainty of a figure, by resampling whole videos, since frames of one video are not independent."""

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


def thinned(values, count=POINTS):
    """The values (n,), or `count` evenly spaced ones including the first and the last."""
    return values if len(values) <= count else values[np.linspace(0, len(values) - 1, count).astype(int)]


def passing(scores, video, thresholds, drawn):
    """In each resample, 0 and then how many scores pass each threshold: (R, 1 + T).

    scores, video: (n,) and the video of each, from 0; thresholds: (T,) descending; drawn: (R, videos) from `resamples`.
    """
    counts = np.zeros((len(thresholds) + 1, drawn.shape[1]))  # the last row: below all thresholds
    np.add.at(counts, (np.searchsorted(-thresholds, -scores), video), 1)
    return np.hstack([np.zeros((len(drawn), 1)), drawn @ np.cumsum(counts[:-1], axis=0).T])


def resampled_figures(scores, labels, video, drawn):
    """AUROC, EER and average precision of each resample, as `metrics.evaluate` defines them with official=False.

    scores: (F,); labels: (F,) bool; video: (F,) from 0, the video of each frame; drawn: (R, videos) from `resamples`.
    The curves have at most POINTS points, half of them at scores of abnormal frames. That is exact if there are no more
    distinct scores, and for average precision if at most POINTS / 2 frames are abnormal.
    Returns (R, 3), NaN where a resample has only one class.
    """
    scores, labels, video = np.asarray(scores, np.float64), np.asarray(labels, bool), np.asarray(video)
    thresholds = np.unique(scores)[::-1]
    if len(thresholds) > POINTS:
        thresholds = np.union1d(*(thinned(np.unique(some)[::-1], POINTS // 2) for some in (scores, scores[labels])))[::-1]
    alarms, hits = (passing(scores[kind], video[kind], thresholds, drawn) for kind in (~labels, labels))
    with np.errstate(invalid="ignore", divide="ignore"):
        tpr, fpr = hits / hits[:, -1:], alarms / alarms[:, -1:]
        precision = np.nan_to_num((hits / (hits + alarms))[:, 1:])
        gap = np.abs(1 - tpr - fpr)
        nearest = gap <= gap.min(axis=1, keepdims=True) + metrics.SAME
        figures = np.stack([np.trapezoid(tpr, fpr, axis=1), np.sum(fpr, axis=1, where=nearest) / np.sum(nearest, axis=1),
                            np.sum(np.diff(tpr, axis=1) * precision, axis=1)], axis=1)
    figures[~np.isfinite(figures[:, 0])] = np.nan
    return figures


def interval(figure, resampled, videos, share=True):
    """95% interval of a figure, (low, high): Student's t with the standard error from resampling `videos` videos.

    figure: its value over all videos; resampled: (R,), NaN ignored; share: a figure in 0..1, whose interval is computed on
    the log odds scale and so stays inside (values closer than EDGE to an end are moved to EDGE from it). Plain quantiles of
    the resampled figures are too narrow for as few videos as these datasets have (docs/EVALUATION.md).
    Returns NaN twice if no resample has the figure, or there is only one video.
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
