"""A finished run as test.py wrote it, for the tools that show it."""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from utils import files, record, stages
from utils.boxes import Boxes
from utils.config import MODES, dataset_of, parse_config
from utils.datasets import Dataset, rates
from utils.errors import UserError
from utils.evaluation import events


@dataclass(frozen=True)
class Results:
    cfg: SimpleNamespace  # settings, with the scored part of the data
    made: dict  # metrics.json
    dataset: Dataset
    folder: Path  # data/D/MODE
    path: Path  # results/D/MODE
    boxes: Boxes
    box_scores: np.ndarray  # (N,)
    frame_scores: np.ndarray  # (S,) of the scored frames, before averaging
    curve: np.ndarray  # (S,) averaged within each video, see utils.evaluation.events.curve
    labels: np.ndarray | None  # (S,) bool
    highest: np.ndarray  # (S,) row of each frame's highest box, -1 without any
    events: list  # of dicts, see utils.evaluation.events.find
    rates: list  # frames per second of each video, or None

    @property
    def limit(self):
        """The score that events exceed."""
        return self.made["events"]["threshold"]

    @property
    def model_folder(self):
        """The folder of the models that gave the scores, or None if they come from an official file."""
        folder = Path(self.made["model"])
        return folder if folder.is_dir() else None

    def video_of(self, i):
        """Position of the video of scored frame i, and the frame's number there, counted from 0."""
        position = next(k for k, (start, stop) in enumerate(self.dataset.spans) if start <= i < stop)
        return position, self.dataset.videos[position].chosen[i - self.dataset.spans[position][0]]


def add_arguments(parser):
    """The arguments that identify a run: D MODE and its folders."""
    parser.add_argument("dataset_name", metavar="D")
    parser.add_argument("mode", metavar="MODE", choices=MODES, help=", ".join(MODES))
    parser.add_argument("--config", metavar="FILE", help="config file instead of configs/D.cfg")
    parser.add_argument("--data_root_dir", help="folder of boxes, cubes and models (default: data)")
    parser.add_argument("--results_dir", help="folder of scores and figures (default: results)")
    parser.add_argument("--device", help="auto, cpu, or cuda:N (default: auto)")


def load(args):
    """The Results for the arguments of `add_arguments`. Raises UserError if something is missing or does not match."""
    cfg = _settings(args, args.config)
    path = Path(cfg.results_dir, cfg.dataset_name, cfg.mode)
    if not (path / "test.json").is_file() or not (path / "events.csv").is_file():
        raise UserError(f"{path}: no finished scores: run test.py first")
    tested, made = record.require(path / "test.json", "test"), files.load_json(path / "metrics.json")
    made["events"] = record.require(path / "events.json", "events")
    if not args.config and made["config"] != cfg.config and Path(made["config"]).is_file():
        cfg = _settings(args, made["config"])
    for key in ("videos", "limit_frames", "frame_step"):
        setattr(cfg, key, made["settings"][key])
    folder = Path(cfg.data_root_dir, cfg.dataset_name, cfg.mode)
    if tested["input"]["cubes"] != record.load(stages.require_cubes(folder))["id"]:
        raise UserError(f"{path}: the scores are for other cubes than those in {folder}: run test.py again")
    dataset = dataset_of(cfg)
    boxes = Boxes.load(folder)
    stages.require_frames(dataset, boxes.record, folder / "bboxes.npy")
    box_scores, frame_scores = (files.load_array(path / f"{kind}_scores.npy") for kind in ("box", "frame"))
    labels = files.load_array(path / "labels.npy") if (path / "labels.npy").is_file() else None
    curve, highest, found = events.of_run(frame_scores, box_scores, boxes.rows, dataset, made["settings"]["window_size"])
    return Results(cfg, made, dataset, folder, path, boxes, box_scores, frame_scores, curve, labels,
                   highest, found(made["events"]["threshold"]), rates(dataset))


def _settings(args, config):
    words = {"dataset_name": args.dataset_name, "mode": args.mode, "config": config, "device": args.device,
             "data_root_dir": args.data_root_dir, "results_dir": args.results_dir}
    return parse_config("", [word for key, value in words.items() if value for word in (f"--{key}", value)])
