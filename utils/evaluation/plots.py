"""The pictures of a result, as files: no window is opened."""

import warnings

import numpy as np
from matplotlib.figure import Figure
from matplotlib.text import Text

from utils.files import whole

BLUE, RED, GREY = "#1f5fa8", "#d1495b", "#8a8f98"


def save(figure, path):
    """Writes a figure as PNG, whole or not at all."""
    for text in (text for text in figure.findobj(Text) if text.get_text()):
        text.set_parse_math(False)  # a $ in a name starts no formula
    with whole(path) as file, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # such letters become boxes
        figure.savefig(file, format="png", dpi=130, bbox_inches="tight")


def roc(fpr, tpr, auroc, eer, title):
    """ROC curve with its AUROC and EER."""
    figure = Figure(figsize=(4.6, 4.4))
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=GREY, lw=1, ls=":")
    axes.plot(fpr, tpr, color=BLUE, lw=2)
    axes.plot([eer], [1 - eer], "o", color=RED, ms=5)
    axes.annotate(f"EER {eer:.1%}", (eer, 1 - eer), (eer + 0.04, 1 - eer - 0.06), color=RED)
    axes.set(xlabel="false positive rate", ylabel="true positive rate", title=f"{title}\nframe AUROC {auroc:.2%}",
             xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    return figure


def timeline(scores, labels, starts, names, title):
    """Score against frame number, true intervals shaded, videos marked.

    scores: (F,); labels: (F,) bool or None; starts: first index of each video; names: of the videos.
    """
    figure = Figure(figsize=(12, 3.4))
    axes = figure.subplots()
    low, high = float(scores.min()), float(scores.max())
    pad = 0.05 * (high - low or 1)
    if labels is not None:
        axes.fill_between(np.arange(len(scores)), low - pad, high + pad, where=labels, step="mid", color=RED, alpha=0.18,
                          lw=0, label="abnormal (ground truth)")
    axes.plot(scores, color=BLUE, lw=0.9, label="score")
    for start in starts[1:]:
        axes.axvline(start - 0.5, color=GREY, lw=0.6)
    if len(starts) <= 40:
        ends = [*starts[1:], len(scores)]
        words = [name.replace("$", r"\$") for name in names]
        axes.set_xticks([(a + b) / 2 for a, b in zip(starts, ends)], words, rotation=45, ha="right", fontsize=8)
    else:
        axes.set_xlabel("frame")
    axes.set(ylabel="frame score", title=title, xlim=(-0.5, len(scores) - 0.5), ylim=(low - pad, high + pad))
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=8)
    return figure


def training(rows, losses, abnormal):
    """What a training did, epoch by epoch, against the labels.

    rows: of `epochs.table`; losses: (N,) raw losses after the last kept epoch, or None; abnormal: (N,) bool.
    """
    def curve(axes, key, color, label):
        kept = [row for row in rows if row[key] != ""]
        axes.plot([row["epoch"] for row in kept], [row[key] for row in kept], ".-", color=color, lw=1.2, ms=4, label=label)

    figure = Figure(figsize=(10, 7))
    (auroc, advantage), (dropped, histogram) = figure.subplots(2, 2, gridspec_kw={"hspace": 0.35, "wspace": 0.25})
    curve(auroc, "auroc", BLUE, "official smoothing")
    curve(auroc, "auroc_unsmoothed", GREY, "no smoothing")
    auroc.set(title="frame AUROC", xlabel="epoch")
    curve(advantage, "normality_advantage", BLUE, "abnormal / normal")
    advantage.set(title="normality advantage: mean loss, abnormal / normal", xlabel="epoch")
    curve(dropped, "dropped", GREY, "share of all weight dropped")
    curve(dropped, "dropped_on_abnormal", RED, "of it on abnormal frames")
    dropped.axhline(rows[0]["cubes_on_abnormal"], color=GREY, lw=1, ls=":", label="of all cubes on abnormal frames")
    dropped.set(title="what refinement dropped", xlabel="epoch", ylim=(0, 1))
    if losses is not None:
        bins = np.geomspace(max(losses.min(), 1e-3), max(losses.max(), 2e-3), 60)
        for rows_of, color, label in ((~abnormal, BLUE, "on normal frames"), (abnormal, RED, "on abnormal frames")):
            histogram.hist(losses[rows_of], bins, density=True, histtype="step", color=color, label=label)
        histogram.set(title="losses of the cubes after the last kept epoch", xlabel="loss", xscale="log", yscale="log")
    for axes in (auroc, advantage, dropped, histogram):
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=8)
    return figure


def cube_sheet(cubes, scores, captions, title):
    """The highest (left) and lowest (right) scored cubes, each with its T frames in a row.

    cubes: (2, k, T, P, P, 3) uint8 BGR; scores: (2, k); captions: [2][k].
    """
    sides, count, frames, patch = cubes.shape[:4]
    figure = Figure(figsize=(11, 0.75 * count + 0.7))
    grid = figure.subplots(count, sides, squeeze=False, gridspec_kw={"wspace": 0.9, "hspace": 0.12})
    for side in range(sides):
        for row in range(count):
            strip = cubes[side, row].transpose(1, 0, 2, 3).reshape(patch, frames * patch, 3)[:, :, ::-1]
            axes = grid[row, side]
            axes.imshow(strip, interpolation="nearest")
            axes.set_axis_off()
            axes.text(1.02, 0.5, f"{scores[side, row]:.2f}\n{captions[side][row]}", transform=axes.transAxes, va="center",
                      fontsize=8)
        grid[0, side].set_title(("highest scores", "lowest scores")[side], fontsize=10, loc="left")
    figure.suptitle(title, y=0.98)
    return figure


def in_turn(rows, group, count):
    """The first `count` of some rows, as evenly from all groups as can be: else one object would fill the sheet."""
    group, by_group = group[rows], np.argsort(group[rows], kind="stable")
    turn = np.empty(len(rows), np.int64)  # how many rows of the same group come before
    turn[by_group] = np.arange(len(rows)) - np.searchsorted(group[by_group], group[by_group])
    return rows[np.sort(np.argsort(turn, kind="stable")[:count])]
