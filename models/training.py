"""The state of a block's training after any epoch, saved as it goes, for resuming and scoring."""

import contextlib
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from models.ending import snapshot
from utils import files, ranks, record
from utils.errors import UserError


@dataclass
class Training:
    """The content of a checkpoint model_ROW_COL.pt; a finished one has `model` and `scores`."""

    key: str  # of the wanted record
    training: str  # record.training_key: what determines the weights after each epoch
    settings: dict
    input: dict
    block: list  # row and column in the grid
    grid: list  # h_block, w_block
    model_args: dict  # of models.cae.ReconCAE
    epoch: int = 0  # epochs done
    step: int = 0  # batches since warm-up
    seconds: float = 0.0
    log: list = field(default_factory=list)  # one entry per epoch
    cube_weights: list = field(default_factory=list)  # (n,) float16 of each epoch
    recent: list = field(default_factory=list)  # the network's weights after the last epochs
    epoch_scores: dict = field(default_factory=dict)  # epoch -> (n, 1 or 2)
    optimizer: dict | None = None
    model: dict | None = None  # the final network's weights
    scores: torch.Tensor | None = None  # (n, 1 or 2) of the training cubes by the final network
    score_mean: list | None = None
    score_std: list | None = None

    @classmethod
    def of(cls, stage, place, grid, model_args):
        """A training that has not started; stage: its record.Stage."""
        wanted = stage.wanted
        return cls(wanted["key"], record.training_key(wanted), wanted["settings"], wanted["input"], list(place), list(grid),
                   model_args)

    @property
    def finished(self):
        return self.scores is not None

    def add_epoch(self, model, optimizer, weights, step, statistics, seconds, keep):
        """Adds an epoch; weights: (n,) of the cubes; statistics: see EpochLog; keep: how many epochs' weights to keep.

        Raises UserError if the loss is not finite.
        """
        self.epoch, self.step, self.seconds = self.epoch + 1, step, seconds
        self._require_finite(statistics["loss"], "loss")
        place = dict(zip(("row", "column"), self.block))
        self.log.append(place | {"epoch": self.epoch} | statistics | {"seconds": seconds})
        self.cube_weights.append(weights.half().cpu())
        self.recent = [*self.recent, snapshot(model)][-keep:]
        self.optimizer = optimizer.state_dict()

    def restore(self, model, optimizer):
        """Loads the last epoch's state into a network and its optimizer."""
        if self.recent:
            model.load_state_dict(self.recent[-1])
            optimizer.load_state_dict(self.optimizer)

    def finish(self, weights, scores):
        """Adds the final network's weights and scores (n, 1 or 2). Raises UserError if those are not finite."""
        self._require_finite(scores, "score of a cube")
        self.scores, self.model = scores, weights
        self.score_mean = scores.double().mean(dim=0).tolist()
        self.score_std = scores.double().std(dim=0, correction=0).tolist()

    def _require_finite(self, values, what):
        if not np.isfinite(np.asarray(values)).all():
            raise UserError(f"block {self.block}, epoch {self.epoch}: the {what} is not finite: lower --lr, or use "
                            "--precision fp32; the previous epochs are kept")

    def describe(self, epochs):
        """A line about the last epoch."""
        entry = self.log[-1]
        shares = " / ".join(f"{entry[f'weight_{kind}']:.1%}" for kind in ("1", "between", "0"))
        return (f"{entry['row']},{entry['column']} epoch {entry['epoch']}/{epochs}: loss {entry['loss']:.6f}, mean score "
                f"{entry['score']:.2f}, weights 1/between/0: {shares}, {entry['seconds']:,.0f} s")

    def save(self, path):
        """Writes the checkpoint, whole or not at all, on rank 0."""
        if ranks.RANK == 0:
            files.save_torch(path, vars(self))


def resumed(stage, name, ending):
    """What an earlier run left of a block's training: (Training or None, a line or "").

    stage: the training's record.Stage; name: of the checkpoint; ending: models.ending.Ending. A training that ended in
    another way is ended again if enough weights were kept.
    """
    for path in (stage.part / name, stage.folder / name):
        with contextlib.suppress(UserError):  # a damaged file cannot be resumed
            state = files.load_checkpoint(path, {"key", "training", "recent"})
            if state["training"] != record.training_key(stage.wanted):
                continue
            state = Training(**state)
            if state.key == stage.wanted["key"]:
                return state, "" if state.finished or not state.epoch else (
                    f"{path}: resuming after epoch {state.epoch} of {ending.epochs}")
            if len(state.recent) + ending.epochs - state.epoch >= min(ending.needed, ending.epochs):
                differs = record.difference(vars(state), stage.wanted)
                note = f"{path}: the same training with another ending ({differs}); ending it again"
                wanted = {key: stage.wanted[key] for key in ("key", "settings")}
                return replace(state, **wanted, epoch_scores={}, scores=None), note
            return None, f"{path}: has the weights of only {len(state.recent)} epochs, too few for this ending; training again"
    return None, ""


class EpochLog:
    """The statistics of an epoch; values stay on the device until it is over, so no batch waits."""

    def __init__(self, tick):
        """tick: called with the number of cubes of each batch."""
        self.weights, self.thresholds, self.sums, self.count, self.tick = [], [], [], 0, tick

    def add(self, count, weights, loss, raw_errors):
        self.weights.append(weights)
        self.sums.append(torch.stack([loss.detach() * count, raw_errors.detach().sum()]))
        self.count += count
        self.tick(count)

    def statistics(self):
        loss, score = (ranks.total(torch.stack(self.sums).cpu().double().sum(dim=0)) / self.count).tolist()
        weights = torch.cat(self.weights).cpu()
        full, none = ((weights == value).double().mean().item() for value in (1, 0))
        low, high = torch.stack(self.thresholds).mean(dim=0).tolist() if self.thresholds else ("", "")
        return {"loss": loss, "score": score, "threshold_1": low, "threshold_2": high,
                "weight_1": full, "weight_between": 1 - full - none, "weight_0": none}


def collect(stage, block, trained):
    """Writes what was kept of all blocks, in cube order, and returns the record's facts.

    stage: record.Stage; block: (N,) int64; trained: block -> Training.
    """
    first = next(iter(trained.values()))
    weights = np.empty((first.epoch, len(block)), np.float16)
    scored = sorted(set.intersection(*(set(state.epoch_scores) for state in trained.values())))
    scores = np.empty((len(scored), len(block), first.scores.shape[1]), np.float32)
    for number, state in trained.items():
        weights[:, block == number] = torch.stack(state.cube_weights)
        for index, epoch in enumerate(scored):
            scores[index, block == number] = state.epoch_scores[epoch]
    models = ["model_{}_{}.pt".format(*state.block) for state in trained.values()]
    stage.outputs += models
    files.save_array(stage.file("epoch_weights.npy"), weights)
    if scored:
        files.save_array(stage.file("epoch_scores.npy"), scores)
    files.save_csv(stage.file("training_log.csv"), [entry for state in trained.values() for entry in state.log])
    seconds = sum(state.seconds for state in trained.values())
    return {"models": models, "scored_epochs": scored, "ranks": ranks.WORLD, "seconds": seconds}


def learned(trained, mean_cube_error):
    """How far a training got: `fall`, the share by which the loss fell per epoch in the last six epochs, and `error`, the
    cubes' mean score as a share of the error of the mean cube. trained: block -> Training.
    """
    counts = [len(state.scores) for state in trained.values()]
    losses = np.average([[entry["loss"] for entry in state.log] for state in trained.values()], axis=0, weights=counts)[-6:]
    half, scores = len(losses) // 2, np.concatenate([state.scores[:, 0] for state in trained.values()])
    ratio = losses[half:].mean() / losses[:half].mean() if half else 0.0
    return {"fall": float(1 - ratio ** (2 / len(losses))),
            "error": float(scores.mean(dtype=np.float64)) / max(mean_cube_error, 1e-9)}
