"""The saved scores and weights of a training, epoch by epoch, compared with the labels: only to evaluate, never to train."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils import files, metrics, record
from utils.boxes import Boxes
from utils.errors import UserError


class Training(NamedTuple):
    """The saved epochs of a training whose frames have labels."""

    epochs: list  # numbers of the epochs with scores, from 1
    scores: np.ndarray  # (E, N, 1 or 2) float32: reconstruction losses after those epochs
    weights: np.ndarray  # (epochs, N) float16: self-paced weights in every epoch
    abnormal: np.ndarray  # (N,) bool: whether a cube lies on an abnormal frame
    aurocs: np.ndarray  # (E, 2): with the run's smoothing and without


def load(folder, results):
    """The Training of models in `folder` (data/D/MODE) and labels in `results` (results/D/MODE).

    Raises UserError if there are no models or labels, or the scores are from other models.
    """
    folder, results = Path(folder), Path(results)
    trained, boxes = record.require(folder / "train.json", "train"), Boxes.load(folder)
    made, labels = files.load_json(results / "metrics.json"), files.load_array(results / "labels.npy")
    settings, epochs = trained["settings"], trained.get("scored_epochs")
    if epochs is None or len(boxes) != made["cubes"]:
        raise UserError(f"{results}: these scores are not from the models in {folder}: run train.py and test.py again")
    kept = files.load_array(folder / "epoch_scores.npy", mmap=True) if epochs else np.empty((0, len(boxes), 1))
    chosen = np.concatenate([first + np.arange(count) * settings["frame_step"] for _, first, count in made["videos"]])
    block = boxes.block((settings["h_block"], settings["w_block"]))
    found = [[metrics.evaluate(metrics.moving_average(scores, size), labels)["auroc"]
              for size in (made["settings"]["window_size"], 1)]
             for scores in (frame_scores(losses, boxes, block, made["settings"])[chosen] for losses in kept)]
    return Training(epochs, kept, files.load_array(folder / "epoch_weights.npy", mmap=True),
                    on_abnormal(boxes, chosen, labels), np.reshape(found, (-1, 2)))


def frame_scores(losses, boxes, block, settings):
    """Losses of one epoch (N, 1 or 2) -> the frames' scores before smoothing. block: (N,) of the Boxes."""
    z = np.empty_like(losses)
    for number in np.unique(block):
        rows = block == number
        z[rows] = metrics.normalise(losses[rows], losses[rows].mean(axis=0), losses[rows].std(axis=0))
    box_scores = z[:, 0] if z.shape[1] == 1 else z @ np.float32([settings["w_raw"], settings["w_of"]])
    return metrics.frame_scores(box_scores, boxes.rows, boxes.num_frames, boxes.size)


def on_abnormal(boxes, chosen, labels):
    """Whether each of the Boxes lies on an abnormal frame: (N,) bool. chosen, labels: (F,) the scored frames."""
    abnormal = np.zeros(boxes.num_frames, bool)
    abnormal[chosen] = labels
    return abnormal[boxes.frame]


def spread(training, last=6):
    """Highest minus lowest AUROC (with the run's smoothing, without) over the last saved epochs: (2,), None if too few."""
    return np.ptp(training.aurocs[-last:], axis=0) if len(training.aurocs) >= last else None


def dropped(weights, abnormal):
    """How much weight refinement dropped: as a share of all weight, and which share of it was on abnormal frames.

    weights: (N,) of one epoch. The second is NaN if nothing was dropped.
    """
    lost = 1 - np.asarray(weights, np.float64)
    total = lost.sum()
    return total / len(lost), lost[abnormal].sum() / total if total > 0 else np.nan


def table(training):
    """One row per epoch; what was not saved for an epoch is "".

    normality_advantage: mean raw loss of the cubes on abnormal frames over that of the others (paper, section 3.2).
    """
    columns = ("auroc", "auroc_unsmoothed", "score_mean", "score_std", "score_max", "normal_loss", "abnormal_loss",
               "normality_advantage", "dropped", "dropped_on_abnormal", "cubes_on_abnormal")
    abnormal, rows = training.abnormal, []
    for epoch, weights in enumerate(training.weights, 1):
        figures = [np.nan] * 8
        if epoch in training.epochs:
            k = training.epochs.index(epoch)
            raw = training.scores[k, :, 0].astype(np.float64)
            losses = raw[~abnormal].mean(), raw[abnormal].mean()
            figures = [*training.aurocs[k], raw.mean(), raw.std(), raw.max(), *losses, losses[1] / losses[0]]
        values = map(float, (*figures, *dropped(weights, abnormal), abnormal.mean()))
        rows.append({"epoch": epoch, **{name: "" if np.isnan(value) else value for name, value in zip(columns, values)}})
    return rows


def line(row):
    """A row as text."""
    text = f"epoch {row['epoch']:3d}: "
    if row["auroc"] != "":
        text += (f"AUROC {row['auroc']:.2%} (without smoothing {row['auroc_unsmoothed']:.2%}), scores {row['score_mean']:.2f} "
                 f"+- {row['score_std']:.2f}, abnormal / normal {row['normality_advantage']:.2f}; ")
    if row["dropped_on_abnormal"] == "":
        return text + "nothing dropped"
    return text + (f"dropped {row['dropped']:.2%} of the weight, {row['dropped_on_abnormal']:.1%} of it on abnormal frames "
                   f"(of all cubes {row['cubes_on_abnormal']:.1%})")
