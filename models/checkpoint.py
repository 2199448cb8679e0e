"""Trained blocks, from our own folder of checkpoints or from an official model file: each carries its recipe."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from models.cae import ReconCAE
from utils import record
from utils.errors import UserError
from utils.files import load_checkpoint, load_torch_arrays
from utils.weights import check_state

SAVED = {"id", "settings", "block", "grid", "model", "scores", "score_mean", "score_std"}


class Block(NamedTuple):
    model: ReconCAE
    mean: np.ndarray  # (1,) or (2,): mean of the raw (and flow) scores of the training cubes
    std: np.ndarray  # likewise
    scores: np.ndarray  # (n, 1) or (n, 2): those scores, in order of the block's cubes


class Models(NamedTuple):
    blocks: dict  # row * w_block + column -> Block
    grid: tuple  # (h_block, w_block)
    precision: str  # "fp32" or "bf16", as they were trained
    recipe: dict  # id, settings and input of the training, or the file they come from

    @property
    def statistics(self):
        """Each block's number, mean and std: what a z-score depends on."""
        return [[number, *block.mean, *block.std] for number, block in self.blocks.items()]


def earlier(path, wanted, needed, epochs):
    """What an earlier run left of a block's training: finished, finished in another way, half-way, or {}; and a line or "".

    path: of the block's checkpoint; wanted: the training's record; needed: after how many of its last epochs the weights are
    needed to end it; epochs: that it has.
    """
    for file in (path, path.with_suffix(".resume.pt")):
        state = load_checkpoint(file, {"id"}) if file.is_file() else {}
        if state.get("training") != record.training_id(wanted):
            continue
        if state["id"] == wanted["id"]:
            return state, ""
        if len(state["recent"]) + epochs - state["epoch"] >= min(needed, epochs):
            return {**state, "epoch_scores": {}}, (
                f"{file}: the same training, ended otherwise ({record.difference(state, wanted)}): its weights are taken")
        note = f"{file}: keeps the weights after {len(state['recent'])} epochs, too few to end otherwise: training again"
        return {}, note
    return {}, ""


def load_models(path):
    """The trained blocks in a folder written by train.py, or in an official D_model.npy with its scores beside it.

    Raises UserError if a file is missing, damaged, of another training than the rest, or not of this network.
    """
    path = Path(path)
    return _ours(path) if path.is_dir() else _official(path)


def _ours(folder):
    if not (folder / "train.json").is_file():
        resume = sorted(folder.glob("model_*.resume.pt"))
        state = "the training there is not finished" if resume else "no trained models there"
        raise UserError(f"{folder}: {state}: run train.py (it goes on where it stopped)")
    recipe = record.load(folder / "train.json")
    try:
        blocks, grid = {}, None
        for name in recipe["models"]:
            if Path(name).name != name:
                raise UserError(f"{folder / 'train.json'}: names a model outside its folder ({name}): run train.py again")
            block, number, grid = _read_block(folder / name, recipe["id"])
            blocks[number] = block
        return Models(blocks, grid, recipe["settings"]["precision"], {key: recipe[key] for key in ("id", "settings", "input")})
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # strangers may have put anything there
        raise UserError(f"{folder}: holds no models of train.py ({type(error).__name__} {error}): run train.py again") from None


def _read_block(path, recipe_id):
    """One block's model and scores, its number, and the grid."""
    content = load_checkpoint(path, SAVED)
    if content["id"] != recipe_id:
        raise UserError(f"{path}: is of another training than {path.with_name('train.json')}: run train.py again")
    (row, column), grid = content["block"], tuple(content["grid"])
    model = _network(content["model"], path)
    if model.use_flow != content["settings"]["use_flow"]:
        raise UserError(f"{path}: its weights and its setting use_flow disagree: run train.py again")
    scores = [content["scores"].numpy(), *(np.array(content[key]) for key in ("score_mean", "score_std"))]
    if any(part.shape[-1:] != (1 + model.use_flow,) or not np.isfinite(part).all() for part in scores):
        raise UserError(f"{path}: its scores are no finite numbers of its network: run train.py again")
    return Block(model, scores[1], scores[2], scores[0]), row * grid[1] + column, grid


def _official(path):
    states = load_torch_arrays(path)
    rows = states if isinstance(states, list) and all(isinstance(row, list) for row in states) else []
    cells = [cell for row in rows for cell in row]
    if len({len(row) for row in rows}) != 1 or not all(
            isinstance(cell, list) and all(isinstance(state, dict) for state in cell) for cell in cells):
        raise UserError(f"{path}: holds no grid [row][column] of state dicts")
    scores = [load_torch_arrays(scores_file(path, "raw"))]
    if any("of_ae.0.conv.conv.0.weight" in state for row in states for cell in row for state in cell):
        scores.append(load_torch_arrays(scores_file(path, "of")))
    grid, blocks = (len(states), len(states[0])), {}
    for row in range(grid[0]):
        for column in range(grid[1]):
            if states[row][column]:
                cells = np.column_stack([np.asarray(part[row][column], np.float64).ravel() for part in scores])
                blocks[row * grid[1] + column] = Block(
                    _network(states[row][column][0], path), cells.mean(axis=0), cells.std(axis=0), cells)
    return Models(blocks, grid, "fp32", {"id": [path.name, path.stat().st_size], "settings": {}, "input": {}})


def scores_file(path, kind):
    """Where an official model file's training scores lie: D_model.npy -> D_raw_training_scores.npy."""
    path = Path(path)
    if "_model" not in path.name:
        raise UserError(f"{path}: an official model file is named D_model.npy, with D_{kind}_training_scores.npy beside it")
    return path.with_name(path.name.replace("_model", f"_{kind}_training_scores"))


def _network(state, path):
    """Rebuilds the network from its weights' shapes alone."""
    first = state.get("raw_ae.0.conv.conv.0.weight") if isinstance(state, dict) else None
    if first is None or first.ndim != 4 or first.shape[1] % 3:
        raise UserError(f"{path}: holds no weights of these autoencoders")
    last = state.get("of_ae.7.conv.weight")  # (2T, f, 1, 1)
    model = ReconCAE(first.shape[0], first.shape[1] // 3, last is not None, None if last is None else len(last) // 2)
    model.load_state_dict(check_state(state, model, path, "python train.py"))
    return model.eval()
