"""Checks whether scores and labels fit together: if they do not, that is the most common reason for a low AUROC."""

import numpy as np

from utils.evaluation import bootstrap
from utils.metrics import rank_auroc

SHIFTS = 30  # frames that scores are shifted by, at most
GAIN = 0.03  # of AUROC that a shift must bring
WORTH = 0.65  # the AUROC that a shift must reach


def hints(frames):
    """Hints for Frames whose scores would fit their labels clearly better reversed, or shifted within their videos.

    Clearly: with an AUROC above WORTH; for a shift also a gain of GAIN, and a gain in 97.5% of resamples of the videos.
    """
    known = frames.labels >= 0
    abnormal = frames.labels[known] == 1
    as_is = rank_auroc(frames.scores[known], abnormal)
    if 1 - as_is > WORTH:
        return [f"hint: with their sign reversed these scores have an AUROC of {1 - as_is:.2%} (now {as_is:.2%}): higher must "
                "mean more abnormal, so change the sign of PSNR, likelihoods and the like"]
    ends = np.cumsum(frames.counts)
    first, last = (np.repeat(edge, frames.counts) for edge in (ends - frames.counts, ends - 1))
    def moved(shift):
        return frames.scores[np.clip(np.arange(len(known)) - shift, first, last)][known]
    most = min(SHIFTS, int(np.median(frames.counts)) // 4)
    found = {shift: rank_auroc(moved(shift), abnormal) for shift in sorted(range(-most, most + 1), key=abs)}
    best = max(found, key=found.get)
    if not found[best] > max(WORTH, as_is + GAIN):
        return []
    drawn, video = bootstrap.resamples(len(frames.counts)), frames.video[known]
    after, before = (bootstrap.resampled_figures(moved(shift), abnormal, video, drawn)[:, 0] for shift in (best, 0))
    if np.nanmean(after > before) < 0.975:
        return []
    return [f"hint: shifted {abs(best)} frames {'later' if best > 0 else 'earlier'} in each video, these scores have an AUROC "
            f"of {found[best]:.2%} (now {as_is:.2%}): do scores and labels start at the same frame?"]
