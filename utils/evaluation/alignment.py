"""Do scores and labels belong together? The commonest reason for a low AUROC is that they do not."""

import numpy as np

from utils.evaluation import bootstrap
from utils.metrics import rank_auroc

SHIFTS = 30  # frames that scores are moved by, at most
GAIN = 0.02  # of AUROC, which a move must bring
LOW = 0.4  # AUROC of scores that look reversed


def hints(frames):
    """Lines on Frames whose scores would fit their labels clearly better reversed, or moved within their videos.

    Clearly: by more than GAIN, and by more than chance over videos where there are several.
    """
    known = frames.labels >= 0
    abnormal = frames.labels[known] == 1
    as_is = rank_auroc(frames.scores[known], abnormal)
    if as_is <= LOW:
        return [f"hint: reversed, these scores have an AUROC of {1 - as_is:.2%} (as they are, {as_is:.2%}): higher must mean "
                "more abnormal, so change the sign of PSNR, likelihoods and the like"]
    ends = np.cumsum(frames.counts)
    first, last = (np.repeat(edge, frames.counts) for edge in (ends - frames.counts, ends - 1))
    def moved(shift):
        return frames.scores[np.clip(np.arange(len(known)) - shift, first, last)][known]
    found = {shift: rank_auroc(moved(shift), abnormal) for shift in sorted(range(-SHIFTS, SHIFTS + 1), key=abs)}
    best = max(found, key=found.get)
    if not found[best] > as_is + GAIN:
        return []
    drawn, video = bootstrap.resamples(len(frames.counts)), frames.video[known]
    one, other = (bootstrap.resampled_figures(moved(shift), abnormal, video, drawn)[:, 0] for shift in (best, 0))
    if bootstrap.interval(found[best] - as_is, one - other, len(frames.counts), share=False)[0] < 0:
        return []
    return [f"hint: moved {abs(best)} frames {'later' if best > 0 else 'earlier'} in each video, these scores have an AUROC of "
            f"{found[best]:.2%} (as they are, {as_is:.2%}): do scores and labels start at the same frame?"]
