"""The pictures of a result, as PNG files; no window opens."""

import warnings

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.font_manager import get_font_names
from sklearn.metrics import roc_curve

from utils import metrics
from utils.files import whole

BLUE, RED, GREY = "#1f5fa8", "#d1495b", "#8a8f98"
FONTS = ("DejaVu Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Micro Hei", "Microsoft YaHei", "Malgun Gothic",
         "PingFang SC", "Hiragino Sans", "Apple SD Gothic Neo", "Arial Unicode MS")  # in order of preference for each letter
matplotlib.rcParams["font.family"] = [name for name in FONTS if name in get_font_names()]


def save(figure, path):
    """Writes a figure as PNG, whole or not at all. Prints a note if no installed font has all letters of a name."""
    with warnings.catch_warnings(record=True) as caught, whole(path) as file:
        warnings.filterwarnings("always", "Glyph")
        figure.savefig(file, format="png", dpi=130, bbox_inches="tight")
    if any(str(warning.message).startswith("Glyph") for warning in caught):
        print(f"note: {path}: no installed font has all letters of the names: install one, such as Noto Sans CJK")


def roc(scores, labels, title):
    """ROC curve of smoothed frame scores (F,) with its AUROC and EER. labels: (F,) bool, of both classes."""
    figures, (fpr, tpr, _) = metrics.evaluate(scores, labels), roc_curve(labels, scores)
    auroc, eer = figures["auroc"], figures["eer"]
    figure = Figure(figsize=(4.6, 4.4))
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=GREY, lw=1, ls=":")
    axes.plot(fpr, tpr, color=BLUE, lw=2)
    axes.plot([eer], [1 - eer], "o", color=RED, ms=5)
    axes.annotate(f"EER {eer:.1%}", (eer, 1 - eer), (eer + 0.04, 1 - eer - 0.06), color=RED)
    axes.set_title(f"{title}\nframe AUROC {auroc:.2%}", parse_math=False)
    axes.set(xlabel="false positive rate", ylabel="true positive rate", xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    return figure


def timeline(scores, labels, starts, names, title):
    """Score against frame number, abnormal frames shaded, a line between videos.

    scores: (F,); labels: (F,) bool or None; starts: first index of each video; names: of the videos.
    """
    figure = Figure(figsize=(12, 3.4))
    axes = figure.subplots()
    scores = np.clip(scores.astype(np.float64), -1e300, 1e300)  # matplotlib fails on larger ones
    low, high = float(scores.min()), float(scores.max())
    pad = 0.05 * (high - low or 1)
    if labels is not None:
        axes.fill_between(np.arange(len(scores)), low - pad, high + pad, where=labels, step="mid", color=RED, alpha=0.18,
                          lw=0, label="abnormal (ground truth)")
    axes.plot(scores, color=BLUE, lw=0.9, label="score")
    for start in starts[1:]:
        axes.axvline(start - 0.5, color=GREY, lw=0.6)
    if len(starts) <= 40:
        middles = np.add(starts, [*starts[1:], len(scores)]) / 2
        axes.set_xticks(middles, names, rotation=45, ha="right", fontsize=8, parse_math=False)
    else:
        axes.set_xlabel("frame")
    axes.set_title(title, parse_math=False)
    axes.set(ylabel="frame score", xlim=(-0.5, len(scores) - 0.5), ylim=(low - pad, high + pad))
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=8)
    return figure


def training(rows, losses, abnormal):
    """A training, epoch by epoch, compared with the labels.

    rows: of `epochs.table`; losses: (N,) raw losses after the last kept epoch, or None; abnormal: (N,) bool.
    """
    figure = Figure(figsize=(10, 7))
    (auroc, advantage), (dropped, histogram) = figure.subplots(2, 2, gridspec_kw={"hspace": 0.35, "wspace": 0.25})
    for axes, key, color, label in (
            (auroc, "auroc", BLUE, "official smoothing"), (auroc, "auroc_unsmoothed", GREY, "no smoothing"),
            (advantage, "normality_advantage", BLUE, "abnormal / normal"),
            (dropped, "dropped", GREY, "share of all weight dropped"),
            (dropped, "dropped_on_abnormal", RED, "of it on abnormal frames")):
        kept = [(row["epoch"], row[key]) for row in rows if row[key] != ""]
        axes.plot(*np.reshape(kept, (-1, 2)).T, ".-", color=color, lw=1.2, ms=4, label=label)
    auroc.set(title="frame AUROC", xlabel="epoch")
    advantage.set(title="normality advantage: mean loss, abnormal / normal", xlabel="epoch")
    dropped.axhline(rows[0]["cubes_on_abnormal"], color=GREY, lw=1, ls=":", label="of all cubes on abnormal frames")
    dropped.set(title="what refinement dropped", xlabel="epoch", ylim=(0, 1))
    shown = (auroc, advantage, dropped)
    if losses is not None:
        bins = np.geomspace(max(losses.min(), 1e-3), max(losses.max(), 2e-3), 60)
        histogram.hist([losses[~abnormal], losses[abnormal]], bins, density=True, histtype="step", color=[BLUE, RED],
                       label=["on normal frames", "on abnormal frames"])
        histogram.set(title="losses of the cubes after the last kept epoch", xlabel="loss", xscale="log", yscale="log")
        shown += (histogram,)
    for axes in shown:
        axes.legend(frameon=False, fontsize=8)
    return figure


def cube_sheet(raw, scores, boxes, names, title, count=8):
    """The highest (left) and lowest (right) scored cubes, each with its T frames in a row.

    raw: (N, 3T, P, P) uint8, with scores (N,) and utils.boxes.Boxes; names: of the videos; count: cubes per side at most.
    """
    order = np.argsort(scores, kind="stable")
    shown = np.stack([in_turn(rows, boxes.video, count) for rows in (order[::-1], order)])  # (2, k) rows
    sides, count = shown.shape
    figure = Figure(figsize=(11, 0.75 * count + 0.7))
    grid = figure.subplots(count, sides, squeeze=False, gridspec_kw={"wspace": 0.9, "hspace": 0.12})
    for side, row in np.ndindex(sides, count):
        axes, cube = grid[row, side], shown[side, row]
        strip = np.concatenate(raw[cube].reshape(-1, 3, *raw.shape[2:]), axis=2)  # (3, P, T * P)
        axes.imshow(strip.transpose(1, 2, 0)[:, :, ::-1], interpolation="nearest")
        axes.set_axis_off()
        video = boxes.video[cube]
        words = f"{scores[cube]:.2f}\n{names[video]}\nframe {boxes.frame[cube] - boxes.firsts[video] + 1}"
        axes.text(1.02, 0.5, words, transform=axes.transAxes, va="center", fontsize=8, parse_math=False)
    for axes, words in zip(grid[0], ("highest scores", "lowest scores")):
        axes.set_title(words, fontsize=10, loc="left")
    figure.suptitle(title, y=0.98, parse_math=False)
    return figure


def in_turn(rows, group, count):
    """The first `count` rows, taken from the groups in turn, else one object would fill the sheet. group: (N,) of each row."""
    group, by_group = group[rows], np.argsort(group[rows], kind="stable")
    turn = np.empty(len(rows), np.int64)  # how many rows of the same group come before
    turn[by_group] = np.arange(len(rows)) - np.searchsorted(group[by_group], group[by_group])
    return rows[np.sort(np.argsort(turn, kind="stable")[:count])]
