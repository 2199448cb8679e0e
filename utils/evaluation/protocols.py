"""One set of frame scores, many figures: the evaluation protocols of the field, one entry of PROTOCOLS each."""

import sys
from typing import NamedTuple

import numpy as np
from scipy.ndimage import gaussian_filter1d, median_filter

from utils import metrics
from utils.evaluation import bootstrap


class Protocol(NamedTuple):
    """How frame scores become a figure; the steps are applied in the order of the fields."""

    name: str
    used_by: str
    source: str  # how that is known; "code": by reading that repository
    empty: str = "kept"  # score of frames without boxes: -20 (kept), of a box without error (zero), the lowest (all, video)
    left_out: int = 0  # frames at the start of each video
    scale: str = ""  # to 0..1 before smoothing: each video, or all frames together unless already in 0..1 (all)
    smoothing: tuple = ("across", 1)  # kind and numbers, see SMOOTHINGS, within each video; None: the run's window
    rescale: str = ""  # to 0..1 after smoothing
    testing: bool = False  # only the testing videos
    micro: bool = True  # all frames in one ROC curve
    pads: tuple = None  # macro, the mean of the testing videos' AUROCs: (), of those with both classes; (low,), with a normal
    # frame before videos that have none; (low, high), with a normal frame before and an abnormal one after each


def gaussians(scores, *sigmas):
    """Gaussians one after another, with the video mirrored beyond its ends."""
    for sigma in sigmas:
        scores = gaussian_filter1d(scores, sigma)
    return scores


def off_centre(scores, size, sigma, beyond):
    """A Gaussian around the previous frame, with `size` weights that do not sum to 1; beyond the ends zeros, or the frames
    at that end again.
    """
    half = size // 2
    ends = (scores, scores[::-1]) if beyond == "again" else ([0], [0])
    padded = np.hstack([np.resize(ends[0], half), scores, np.resize(ends[1], half)[::-1]])
    weights = 1 / (sigma * np.sqrt(2 * np.pi)) * np.exp(-0.5 * ((np.arange(size) - half + 1) / sigma) ** 2)
    return np.correlate(padded, weights, "valid")


SMOOTHINGS = {"within": metrics.average_within, "gaussian": gaussians, "off centre": off_centre,
              "median": lambda scores, size: median_filter(scores, size, mode="constant")}
AED_MAE = "code: ristea/aed-mae, inference.py, util/abnormal_utils.py"
PROTOCOLS = (
    Protocol("average of 10 across videos", "LBR-SPR, official code of May 2023 (default)", "its output (golden files)",
             smoothing=("across", 10)),
    Protocol("no smoothing", "LBR-SPR, official code of March 2022; RTFM, C2FPL",
             "its output (golden files); code: tianyu0207/RTFM, test_10crop.py; AnasEmad11/C2FPL, test.py"),
    Protocol("this run's smoothing, testing frames alone", "", "this suite", smoothing=("across", None), testing=True),
    Protocol("average of 10 within videos", "", "this suite", smoothing=("within", 10)),
    Protocol("average of 10 within, videos scaled to 0..1", "", "this suite", smoothing=("within", 10), rescale="video"),
    Protocol("no smoothing, empty frames at video's minimum", "", "this suite", "video"),
    Protocol("as Liu 2018 (4 frames out, videos scaled to 0..1)", "Future Frame Prediction (CVPR 2018)",
             "code: StevenLiuWen/ano_pred_cvpr2018, Codes/evaluate.py", "all", 4, "video"),
    Protocol("as HF2-VAD (4 frames out, median of 17)", "HF2-VAD (ICCV 2021)",
             "code: LiUzHiAn/hf2vad, eval.py, utils/eval_utils.py", "zero", 4, smoothing=("median", 17)),
    Protocol("as AI-VAD (Gaussian of 3)", "AI-VAD (2022)", "code: talreiss/Accurate-Interpretable-VAD, evaluate.py", "all",
             smoothing=("gaussian", 3), pads=(0, sys.float_info.max)),
    Protocol("as STG-NF (Gaussians of 1 to 6)", "STG-NF (ICCV 2023)", "code: orhir/STG-NF, utils/scoring_utils.py", "all",
             smoothing=("gaussian", 1, 2, 3, 4, 5, 6)),
    Protocol("as Jigsaw-VAD (videos scaled, Gaussian of 20)", "Jigsaw-VAD (ECCV 2022), Ped2 and Avenue",
             "code: gdwang08/Jigsaw-VAD, tool/evaluate.py, aggregate.py", "zero", 0, "video", ("off centre", 49, 20, "again"),
             pads=(0, 1)),
    Protocol("as AED-MAE, Avenue (Gaussian of 11)", "AED-MAE (CVPR 2024)", AED_MAE, "all",
             smoothing=("off centre", 37, 11, "zeros"), pads=(0, 1)),
    Protocol("as AED-MAE, ShanghaiTech (Gaussian of 282, scaled)", "AED-MAE (CVPR 2024)", AED_MAE, "all",
             smoothing=("off centre", 899, 282, "zeros"), rescale="video", pads=(0, 1)),
    Protocol("videos of one class left out", "", "this suite", smoothing=("across", None), micro=False, pads=()),
    Protocol("as CKNN (videos scaled, Gaussian of 5)", "CKNN (CIKM 2024)", "code: two copies (ssoree912/UVAD, "
             "Anonymous-DKNN/Anonymous-DKNN: main2_evaluate.py, codes/bbox.py, configs); the authors' own was not seen",
             "zero", 0, "video", ("gaussian", 5), micro=False, pads=(0, 10**6)),
    Protocol("as UBnormal (no smoothing)", "UBnormal (CVPR 2022)", "code: lilygeorgescu/UBnormal, scripts/compute_auc_score.py",
             scale="all", micro=False, pads=(0, 1)),
    Protocol("as SSMTL (padded where no frame is normal)", "SSMTL (CVPR 2021)", "its author's words, lilygeorgescu/AED-SSMTL "
             "issue 11; smoothing not known", smoothing=("across", None), rescale="all", micro=False, pads=(0,)),
    Protocol("as SSPCAB (padded: lowest, highest score)", "SSPCAB (CVPR 2022)", "its author's words, ristea/sspcab issue 8; "
             "smoothing not known", smoothing=("across", None), rescale="all", micro=False, pads=(0, 1)),
)
BRIEF = ("micro, no smoothing", "micro, this run's smoothing, testing frames alone", "micro, average of 10 within videos",
         "macro, as CKNN (videos scaled, Gaussian of 5)")  # what test.py prints besides the official row


def filled(scores, fill=None):
    """Scores with `fill` for frames without boxes, None for the others' lowest; unchanged if all or none have boxes."""
    empty = scores == metrics.NO_BOX
    if empty.all() or not empty.any():
        return scores
    return np.where(empty, scores[~empty].min() if fill is None else fill, scores)


def scaled(scores):
    """Scaled to 0..1; equal scores to 0."""
    return (scores - scores.min()) / (np.ptp(scores) or 1)


def rescaled(frames, way):
    """The frames with their scores scaled to 0..1, see Protocol.scale."""
    inside = way != "all" or not len(frames.scores) or 0 <= frames.scores.min() <= frames.scores.max() <= 1
    return frames.map(scaled) if way == "video" else frames if inside else frames._replace(scores=scaled(frames.scores))


def applied(protocol, frames, window_size):
    """The frames from which a protocol computes figures, with scores prepared as it requires."""
    if protocol.empty in ("all", "zero"):
        frames = frames._replace(scores=filled(frames.scores, frames.zero if protocol.empty == "zero" else None))
    frames = frames.map(filled) if protocol.empty == "video" else frames
    frames = frames.only(np.concatenate([np.arange(count) >= protocol.left_out for count in frames.counts]))
    frames = rescaled(frames, protocol.scale)
    kind, *numbers = protocol.smoothing
    if kind in SMOOTHINGS:
        frames = frames.map(SMOOTHINGS[kind], *numbers)
    else:
        frames = frames._replace(scores=metrics.moving_average(frames.scores, numbers[0] or window_size))
    frames = rescaled(frames, protocol.rescale)
    known = frames.labels >= 0
    return frames.only(known)._replace(labels=frames.labels[known].astype(bool))


def official(frames, window_size):
    """The labelled frames with the official smoothing: a moving average over all videos in a row."""
    return applied(PROTOCOLS[0]._replace(smoothing=("across", window_size)), frames, window_size)


def testing_alone(frames):
    """The frames of the testing videos, or all if there are none."""
    return frames.only(np.repeat(frames.testing, frames.counts)) if frames.testing.any() else frames


def video_aurocs(frames, pads=()):
    """AUROC of each video, (V,), NaN where a video has none. pads: see Protocol."""
    found = []
    for scores, labels in zip(frames.split(frames.scores), frames.split(frames.labels)):
        if len(pads) == 2 or pads and labels.all():
            scores, labels = np.hstack([pads[0], scores, *pads[1:]]), np.hstack([[False], labels, [True] * (len(pads) - 1)])
        found.append(metrics.rank_auroc(scores, labels.astype(bool)))
    return np.array(found)


def of_run(frames, window_size):
    """The protocols that apply to these frames, that of the run's settings (official) first."""
    first = PROTOCOLS[window_size == 1]
    if window_size not in (1, 10):
        first = first._replace(name=f"average of {window_size} across videos", smoothing=("across", window_size))
    mixed, empty = 0 < frames.testing.sum() < len(frames.testing), (frames.scores == metrics.NO_BOX).any()
    return [first, *(protocol for protocol in PROTOCOLS if protocol.name != first.name and (mixed or not protocol.testing)
                     and (empty or protocol.empty != "video"))]


def table(frames, window_size, times=bootstrap.TIMES):
    """The figures of all protocols: a list of dicts, the official one first and marked, micro before macro.

    Keys: name, official, auroc; low, high: the ends of its 95% interval over videos (NaN if it has none); in micro rows
    eer, eer_low, ..., average_precision, ..., pr_auc as `metrics.evaluate` defines them (the official EER only in the
    official row); in macro rows videos: how many have an AUROC.
    """
    micro, macro = [], []
    for protocol in of_run(frames, window_size):
        ready = applied(protocol, frames, window_size)
        alone = testing_alone(ready)
        if protocol.micro:
            ready = alone if protocol.testing else ready
            figures = metrics.evaluate(ready.scores, ready.labels, official=not micro)
            if figures["auroc"] is not None:  # after leaving frames out, one class may remain
                drawn = bootstrap.resamples(len(ready.counts), times)
                many = bootstrap.resampled_figures(ready.scores, ready.labels, ready.video, drawn)
                micro.append(_row(f"micro, {protocol.name}", not micro, figures, many.T, len(ready.counts)))
        found = video_aurocs(alone, protocol.pads or ())
        found = found[np.isfinite(found)]
        if protocol.pads is not None and len(found):
            many = bootstrap.resamples(len(found), times) @ found / len(found)
            figures = {"auroc": float(found.mean()), "videos": len(found)}
            macro.append(_row(f"macro, {protocol.name}", False, figures, [many], len(found)))
    return micro + macro


def _row(name, first, figures, resampled, videos):
    row = {"name": name, "official": first, **figures}
    for key, prefix, values in zip(("auroc", "eer", "average_precision"), ("", "eer_", "average_precision_"), resampled):
        row[f"{prefix}low"], row[f"{prefix}high"] = bootstrap.interval(figures[key], values, videos)
    return row


def figure(row, key="auroc", prefix=""):
    """"95.96% [93.13, 98.07]"."""
    return f"{row[key]:7.2%} [{100 * row[prefix + 'low']:6.2f}, {100 * row[prefix + 'high']:6.2f}]"


def lines(rows, brief=False):
    """The table as text, the official row marked; brief: only that and the rows of BRIEF."""
    rows = [row for row in rows if not brief or row["official"] or row["name"] in BRIEF]
    width = max(len(row["name"]) for row in rows)
    yield f"{'':{width}}    AUROC [95% over videos]     EER       AP   PR-AUC"
    for row in rows:
        more = "".join(f"{row[key]:9.2%}" for key in ("eer", "average_precision", "pr_auc") if key in row)
        yield f"{' *'[row['official']]} {row['name']:{width}} {figure(row)}" + (more or f"   {row['videos']} videos")
    yield "* official: the protocol of this run's settings; " + (
        "all protocols are in metrics.json and the report" if brief else "docs/EVALUATION.md says which paper uses which")
