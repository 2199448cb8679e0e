"""What was kept of a training, epoch by epoch, held against the labels: for evaluation only, never for training."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils import files, metrics, record
from utils.boxes import Boxes
from utils.errors import UserError

FIGURES = ("auroc", "auroc_unsmoothed", "score_mean", "score_std", "score_max", "normal_loss", "abnormal_loss",
           "normality_advantage")  # of an epoch whose scores were kept


class Training(NamedTuple):
    """The kept epochs of a training whose frames have labels."""

    epochs: list  # numbers of the epochs with scores, from 1
    scores: np.ndarray  # (E, N, 1 or 2) float32: reconstruction losses after those epochs
    weights: np.ndarray  # (epochs, N) float16: self-paced weights in every epoch
    abnormal: np.ndarray  # (N,) bool: whether a cube lies on an abnormal frame
    frame_scores: callable  # losses of one epoch (N, 1 or 2) -> (F,) frame scores before smoothing
    labels: np.ndarray  # (F,) bool
    window_size: int


def load(folder, results):
    """The Training of models in `folder` (data/D/MODE) and labels in `results` (results/D/MODE).

    Raises UserError if there are no models, or no labels of both classes.
    """
    folder, results = Path(folder), Path(results)
    trained, boxes = record.require(folder / "train.json", "train"), Boxes.load(folder)
    made = files.load_json(results / "metrics.json")
    labels = files.load_array(results / "labels.npy")
    settings = trained["settings"]
    if "scored_epochs" not in trained or len(boxes) != made["cubes"]:
        raise UserError(f"{results}: the scores there are not of the models in {folder}: run train.py and test.py again")
    scored = trained["scored_epochs"]
    block = boxes.block((settings["h_block"], settings["w_block"]))
    chosen = np.concatenate([first + np.arange(count) * settings["frame_step"] for _, first, count in made["videos"]])
    channels = 2 if settings["use_flow"] else 1
    scores = files.load_array(folder / "epoch_scores.npy", mmap=True) if scored else np.empty((0, len(boxes), channels))

    def frame_scores(losses):
        z = np.empty_like(losses)
        for number in np.unique(block):
            rows = block == number
            z[rows] = metrics.normalise(losses[rows], losses[rows].mean(axis=0), losses[rows].std(axis=0))
        box_scores = z[:, 0] if channels == 1 else z @ np.float32([made["settings"]["w_raw"], made["settings"]["w_of"]])
        return metrics.frame_scores(box_scores, boxes.rows, boxes.num_frames, boxes.size)[chosen]

    return Training(scored, scores, files.load_array(folder / "epoch_weights.npy", mmap=True),
                    on_abnormal(boxes, chosen, labels), frame_scores, labels, made["settings"]["window_size"])


def on_abnormal(boxes, chosen, labels):
    """Whether each of the Boxes lies on an abnormal frame: (N,) bool. chosen, labels: (F,) the scored frames."""
    abnormal = np.zeros(boxes.num_frames, bool)
    abnormal[chosen] = labels
    return abnormal[boxes.frame]


def aurocs(training, last=0):
    """AUROC after each kept epoch, or the last ones, with the run's smoothing and with none: (E, 2)."""
    frames = [training.frame_scores(scores) for scores in training.scores[-last:]]
    return np.array([[metrics.evaluate(metrics.moving_average(scores, size), training.labels)["auroc"]
                      for size in (training.window_size, 1)] for scores in frames]).reshape(-1, 2)


def spread(training, last=6):
    """Highest less lowest AUROC (the run's smoothing, none) over the last kept epochs: (2,), or None if fewer were kept."""
    found = aurocs(training, last)
    return np.ptp(found, axis=0) if len(found) == last else None


def of_losses(losses, abnormal):
    """Mean, deviation and maximum of raw losses (N,); their means on normal and on abnormal frames, and the ratio of these,
    the normality advantage (paper, section 3.2).
    """
    normal, other = losses[~abnormal].mean(), losses[abnormal].mean()
    return [float(value) for value in (losses.mean(), losses.std(), losses.max(), normal, other, other / normal)]


def dropped(weights, abnormal):
    """How much weight refinement took away: its share of all weight, and what share of it lay on abnormal frames.

    weights: (N,) of one epoch. The second is NaN where nothing was dropped.
    """
    lost = 1 - np.asarray(weights, np.float64)
    total = lost.sum()
    return total / len(lost), lost[abnormal].sum() / total if total > 0 else np.nan


def table(training):
    """A row per epoch; what was not kept for an epoch is ""."""
    found = {epoch: [*auroc, *of_losses(scores[:, 0].astype(np.float64), training.abnormal)]
             for epoch, scores, auroc in zip(training.epochs, training.scores, aurocs(training).tolist())}
    rows = []
    for epoch, weights in enumerate(training.weights, 1):
        share, on_abnormal = dropped(weights, training.abnormal)
        rows.append({"epoch": epoch, **dict(zip(FIGURES, found.get(epoch, [""] * len(FIGURES)))), "dropped": float(share),
                     "dropped_on_abnormal": "" if np.isnan(on_abnormal) else float(on_abnormal),
                     "cubes_on_abnormal": float(training.abnormal.mean())})
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
