"""From box scores to frame scores, and from frame scores to figures (paper, section 4)."""

import itertools
from fractions import Fraction

import numpy as np
from scipy.stats import rankdata
from sklearn import metrics

from utils.stc import not_empty

NO_BOX = -20.0  # score of a frame without boxes
NO_MODEL = 20.0  # score of a box in a block where nothing was trained
SAME = 1e-12  # rates that differ by less are equal


def normalise(scores, mean, std):
    """z-scores of reconstruction losses by the statistics of a block's training cubes; a std of 0 (one cube) counts as 1."""
    return (scores - mean) / np.where(std > 0, std, 1)


def frame_scores(box_scores, boxes, num_frames, size):
    """A frame's score is its highest box score; -20 without boxes.

    box_scores: (N,); boxes: (N, 5) frame x1 y1 x2 y2; size: (H, W), or one row per box (N, 2). A box without a pixel in
    the image once its corners are rounded up does not count. Returns (F,) in the type of box_scores.
    """
    counts = not_empty(boxes[:, 1:], size)
    scores = np.full(num_frames, NO_BOX, np.asarray(box_scores).dtype)
    np.maximum.at(scores, boxes[counts, 0].astype(np.int64), box_scores[counts])
    return scores


def moving_average(scores, window_size):
    """Box filter over the frame scores of all videos in a row, with zeros beyond the ends, as in the official code.

    For window_size 10: out[i] = sum(scores[i-5 .. i+4]) / 10. (F,) -> (F,).
    """
    if window_size == 1 or not len(scores):
        return np.asarray(scores)
    whole = np.convolve(scores, np.ones(window_size) / window_size)
    start = (window_size - 1) // 2
    return whole[start:start + len(scores)]


def average_within(scores, window_size):
    """The same box filter within one video, each mean over the frames that exist. (F,) -> (F,).

    The sums are exact, so that equal frames get equal means in any order.
    """
    sums = [0, *itertools.accumulate(map(Fraction, np.asarray(scores).tolist()))]
    spans = ((max(i - window_size // 2, 0), min(i + (window_size + 1) // 2, len(scores))) for i in range(len(scores)))
    return np.array([float((sums[stop] - sums[start]) / (stop - start)) for start, stop in spans])


def rank_auroc(scores, labels):
    """AUROC from ranks, ties counted half; NaN if there is only one class. scores: (F,); labels: (F,) bool."""
    abnormal = np.count_nonzero(labels)
    pairs = abnormal * (len(labels) - abnormal)
    return (rankdata(scores)[labels].sum() - abnormal * (abnormal + 1) / 2) / pairs if pairs else np.nan


def evaluate(scores, labels, official=True):
    """Frame-level figures in 0..1, abnormal frames positive: auroc, eer, average_precision, pr_auc.

    scores: (F,), higher is more abnormal; labels: (F,) bool. All None if there is only one class.
    eer: the false alarm rate where it is closest to the miss rate; official: on the curve without its collinear points, and
    the lowest such rate, as in the official code; else over all thresholds, the mean if several are equally close.
    average_precision: the step sum under precision and recall; pr_auc: by trapezoids, as RTFM and C2FPL report it.
    """
    labels = np.asarray(labels, bool)
    if labels.all() or not labels.any():
        return dict.fromkeys(("auroc", "eer", "average_precision", "pr_auc"))
    auroc = float(metrics.auc(*metrics.roc_curve(labels, scores)[:2]))
    fpr, tpr, _ = metrics.roc_curve(labels, scores, drop_intermediate=official)
    gap = np.abs(1 - tpr - fpr)
    precision, recall, _ = metrics.precision_recall_curve(labels, scores)
    return {"auroc": auroc,
            "eer": float(fpr[np.argmin(gap)] if official else fpr[gap <= gap.min() + SAME].mean()),
            "average_precision": float(-np.diff(recall) @ precision[:-1]),
            "pr_auc": float(metrics.auc(recall, precision))}


def official_results(scores, labels):
    """The arrays of the official frame_results.npz, with its names and order.

    `preds` and `truth` have all normal frames first. As in the official code, names in _norm have *abnormal* as the
    positive class, names in _anom *normal*.
    """
    labels = np.asarray(labels, bool)
    preds = np.concatenate([scores[~labels], scores[labels]])
    truth = np.concatenate([np.zeros((~labels).sum()), np.ones(labels.sum())])
    fpr, tpr, roc_thresholds = metrics.roc_curve(truth, preds)
    results = dict(preds=preds, truth=truth, fpr=fpr, tpr=tpr, roc_thresholds=roc_thresholds, roc_auc=metrics.auc(fpr, tpr))
    for name, positive, sign in (("norm", truth, 1), ("anom", 1 - truth, -1)):
        precision, recall, thresholds = metrics.precision_recall_curve(positive, sign * preds)
        results |= {f"precision_{name}": precision, f"recall_{name}": recall, f"pr_thresholds_{name}": thresholds,
                    f"pr_auc_{name}": metrics.auc(recall, precision)}
    return results
