"""How sure a figure is: resampling whole videos, since frames of one video are no independent observations."""

import numpy as np

TIMES = 2000  # resamples


def resamples(videos, times=TIMES, seed=0):
    """How often each video is drawn in each resample: (times, videos) int, each row sums to `videos`."""
    return np.random.default_rng(seed).multinomial(videos, np.full(videos, 1 / videos), times)


def resampled_figures(scores, labels, video, drawn):
    """AUROC, EER and average precision of each resample, as `metrics.evaluate` defines them.

    scores: (F,); labels: (F,) bool; video: (F,) from 0, the video of each frame; drawn: (R, videos) from `resamples`.
    Returns (R, 3), NaN where a resample has one class alone.
    """
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    ends = np.flatnonzero(np.append(np.diff(np.asarray(scores)[order]) != 0, True))  # equal scores pass a threshold together
    of_video, abnormal = np.asarray(video)[order], np.asarray(labels, bool)[order]
    chunk = max(1, 20_000_000 // len(order))  # bounds memory
    return np.concatenate([_figures(drawn[i:i + chunk], of_video, abnormal, ends) for i in range(0, len(drawn), chunk)])


def _figures(drawn, of_video, abnormal, ends):
    weight = drawn[:, of_video].astype(np.float64)  # (R, F), by falling score
    hits = np.cumsum(weight * abnormal, axis=1)[:, ends]
    alarms = np.cumsum(weight, axis=1)[:, ends]
    start = np.zeros((len(drawn), 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        tpr = np.hstack([start, hits / hits[:, -1:]])
        fpr = np.hstack([start, (alarms - hits) / (alarms - hits)[:, -1:]])
        precision = hits / alarms
    auroc = np.trapezoid(tpr, fpr, axis=1)
    eer = np.take_along_axis(fpr, np.argmin(np.abs(1 - tpr - fpr), axis=1)[:, None], axis=1)[:, 0]
    average_precision = np.sum(np.diff(tpr, axis=1) * np.nan_to_num(precision), axis=1)
    figures = np.stack([auroc, eer, average_precision], axis=1)
    figures[~np.isfinite(auroc)] = np.nan
    return figures


def interval(values):
    """The central 95% of resampled figures (R, ...), NaN left out: low and high (...), NaN where there are none."""
    values = np.asarray(values, np.float64)
    if np.isnan(values).all():
        return np.full(values.shape[1:], np.nan), np.full(values.shape[1:], np.nan)
    return np.nanpercentile(values, [2.5, 97.5], axis=0)
