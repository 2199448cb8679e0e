"""Trained blocks, from our own folder of checkpoints or an official model file; each carries its recipe."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from models.cae import ReconCAE
from utils import files, metrics, record
from utils.errors import UserError
from utils.files import load_torch_arrays
from utils.weights import check_state

SAVED = {"key", "settings", "block", "grid", "model_args", "model", "scores", "score_mean", "score_std"}


class Block(NamedTuple):
    model: ReconCAE
    mean: np.ndarray  # (1,) or (2,): mean of the raw (and flow) scores of the training cubes
    std: np.ndarray  # likewise
    scores: np.ndarray  # (n, 1) or (n, 2): those scores, in the order of the block's cubes

    def box_scores(self, losses, w_raw, w_of):
        """(n, 1 or 2) reconstruction losses -> (n,) z-scores; with motion enhancement the weighted sum of both."""
        z = metrics.normalise(losses, self.mean, self.std)
        return z @ [w_raw, w_of] if self.model.use_flow else z[:, 0]


class Models(NamedTuple):
    blocks: dict  # row * w_block + column -> Block
    grid: tuple  # (h_block, w_block)
    precision: str  # the number format of the training, such as "fp32" or "bf16"
    recipe: dict  # id, settings and input of the training, or the file they come from
    path: Path | None  # of the training's record, or None for an official file

    @property
    def use_flow(self):
        return any(block.model.use_flow for block in self.blocks.values())

    @property
    def key(self):
        """What scores depend on: the training or file, and each block's number, mean and std."""
        return [self.recipe["id"], [[number, *block.mean, *block.std] for number, block in self.blocks.items()]]

    def zero_score(self, w_raw, w_of):
        """The lowest score of a cube that is reconstructed without error; None without models."""
        return min((float(block.box_scores(np.zeros((1, len(block.mean))), w_raw, w_of)[0]) for block in self.blocks.values()),
                   default=None)


NO_MODELS = Models({}, (1, 1), "fp32", {"id": None, "settings": {}, "input": {}}, None)


def load_models(path):
    """The trained blocks in a folder written by train.py, or in an official D_model.npy with its scores next to it.

    Raises UserError if a file is missing, damaged, from another training than the rest, or for another network.
    """
    path = Path(path)
    return _ours(path) if path.is_dir() else _official(path)


def _ours(folder):
    if not (folder / "train.json").is_file():
        begun = (folder / "train.part").is_dir()
        state = "the training is not finished" if begun else "no trained models"
        raise UserError(f"{folder}: {state}: run train.py (the same command resumes a stopped training)")
    recipe = record.require(folder / "train.json", "train")
    try:
        blocks, grid = {}, None
        for name in recipe["models"]:
            block, number, grid = _read_block(folder / Path(name).name, recipe["key"])
            blocks[number] = block
        known = {key: recipe.get(key) for key in ("id", "settings", "input", "learned")}
        return Models(blocks, grid, recipe["settings"]["precision"], known, folder / "train.json")
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # the file may contain anything
        raise UserError(f"{folder}: has no models of train.py ({type(error).__name__} {error}): run train.py again") from None


def _read_block(path, key):
    """One block's model and scores, its number, and the grid."""
    content = files.load_checkpoint(path, SAVED)
    if content["key"] != key:
        raise UserError(f"{path}: from another training than {path.with_name('train.json')}: run train.py again")
    (row, column), grid = content["block"], tuple(content["grid"])
    model = _network(content["model"], content["model_args"], path)
    scores = [content["scores"].numpy(), *(np.array(content[key]) for key in ("score_mean", "score_std"))]
    if any(part.shape[-1:] != (1 + model.use_flow,) or not np.isfinite(part).all() for part in scores):
        raise UserError(f"{path}: its scores are not finite or do not fit its network: run train.py again")
    return Block(model, scores[1], scores[2], scores[0]), row * grid[1] + column, grid


def _official(path):
    states = load_torch_arrays(path)
    rows = states if isinstance(states, list) and all(isinstance(row, list) for row in states) else []
    cells = [cell for row in rows for cell in row]
    if len({len(row) for row in rows}) != 1 or not all(
            isinstance(cell, list) and all(isinstance(state, dict) for state in cell) for cell in cells):
        raise UserError(f"{path}: not a grid [row][column] of state dicts")
    scores = [load_torch_arrays(scores_file(path, "raw"))]
    if any("of_ae.0.conv.conv.0.weight" in state for row in states for cell in row for state in cell):
        scores.append(load_torch_arrays(scores_file(path, "of")))
    grid, blocks = (len(states), len(states[0])), {}
    for row in range(grid[0]):
        for column in range(grid[1]):
            if states[row][column]:
                cells = np.column_stack([np.asarray(part[row][column], np.float64).ravel() for part in scores])
                state = states[row][column][0]
                model = _network(state, official_args(state, path), path)
                blocks[row * grid[1] + column] = Block(model, cells.mean(axis=0), cells.std(axis=0), cells)
    content = files.sha256([path, *(scores_file(path, kind) for kind in ("raw", "of")[:len(scores)])])
    return Models(blocks, grid, "fp32", {"id": [path.name, content], "settings": {}, "input": {}}, None)


def scores_file(path, kind):
    """The path of an official model file's training scores: D_model.npy -> D_raw_training_scores.npy."""
    path = Path(path)
    if "_model" not in path.name:
        raise UserError(f"{path}: an official model file must be D_model.npy, with D_{kind}_training_scores.npy next to it")
    return path.with_name(path.name.replace("_model", f"_{kind}_training_scores"))


def _network(state, args, path):
    """A ReconCAE with these weights, in eval mode."""
    model = ReconCAE(**args)
    model.load_state_dict(check_state(state, model, path, "python train.py"))
    return model.eval()


def official_args(state, path):
    """The network's arguments, from the shapes of its weights, which are all that an official file has."""
    first = state.get("raw_ae.0.conv.conv.0.weight")  # (f, 3T, 3, 3)
    if not torch.is_tensor(first) or first.ndim != 4 or first.shape[1] % 3:
        raise UserError(f"{path}: has no weights of these autoencoders")
    last = state.get("of_ae.7.conv.weight")  # (2T, f, 1, 1)
    return {"features_root": first.shape[0], "tot_frame_num": first.shape[1] // 3, "use_flow": last is not None,
            "flow_frame_num": None if last is None else len(last) // 2}
