"""The five stages as `record.Stage` objects: what each reads, and what decides whether its output is up to date.

A script works through its object; `run_pipeline.py --dry_run` uses the same ones.
"""

import math
import os
from pathlib import Path

import numpy as np

from utils import datasets, record
from utils.config import flow_is_read
from utils.datasets import window
from utils.errors import UserError
from utils.files import npy_header
from utils.record import Stage


def chosen(cfg):
    """The stages of a run: no flow if nothing reads it, no training if --model gives trained models."""
    left_out = {"flow": not flow_is_read(cfg), "train": bool(cfg.model)}
    return [stage for stage in record.SCRIPTS if not left_out.get(stage)]


def folder_of(cfg):
    """data/D/MODE."""
    return Path(cfg.data_root_dir, cfg.dataset_name, cfg.mode)


def results_of(cfg):
    """results/D/MODE."""
    return Path(cfg.results_dir, cfg.dataset_name, cfg.mode)


def boxes(cfg, dataset, source):
    """The Stage of extract_bbox.py.

    source: function giving what the boxes come from (fore_det.detector.source); not called if another program made them.
    """
    given = record.is_given(folder_of(cfg) / "boxes.json", "bboxes.npy")
    reads = flow_records(dataset) if reads_flow(cfg) and not given else {}
    return Stage(cfg, "boxes", folder_of(cfg), reads, contents(cfg, dataset), takes=["bboxes.npy"],
                 frames=frames_of(dataset), **({} if given else source()))


def input_of(path):
    """What the record in a file says that its output was made from, or {}."""
    return (record.load(path, {}) or {}).get("input", {})


def reads_flow(cfg):
    """Whether the boxes depend on optical flow."""
    return cfg.drop_still_boxes or not cfg.boxes_from


def boxes_room(dataset):
    """Bytes of the boxes, about 100 per frame, twice."""
    return len(dataset.chosen) * 4096


def cube_files(cfg):
    """File name -> channels and number type of the cubes in it."""
    files = {"stc_raw.npy": (3 * span(cfg.context_frame_num, cfg.border_mode), np.dtype(np.uint8))}
    if cfg.use_flow:
        files["stc_of.npy"] = (2 * span(cfg.context_of_num, cfg.border_mode), np.dtype(np.float16))
    return files


def span(context, border_mode):
    """Frames in a window."""
    return len(window(0, context, 0, 0, border_mode))


def cubes_room(cfg, count):
    """Bytes of `count` cubes."""
    return count * cfg.patch_size ** 2 * sum(channels * dtype.itemsize for channels, dtype in cube_files(cfg).values())


def train_room(cfg, count, network):
    """Bytes of a training on `count` cubes: each block's network, Adam's state and kept epochs, and one being replaced."""
    size = sum(value.nbytes for value in network.state_dict().values())
    scored = cfg.epochs // cfg.score_every if cfg.score_every else 0
    per_cube = 2 * cfg.epochs + 4 * (1 + cfg.use_flow) * scored
    kept = max(1, cfg.average_last, cfg.keep_epochs)
    return (cfg.h_block * cfg.w_block + 1) * size * (4 + kept) + 3 * count * per_cube


def test_room(count):
    """Bytes of the scores of `count` cubes, and of pictures."""
    return 16 * count + 10 ** 7


def cubes(cfg, dataset):
    """The Stage of extract_stc.py. Raises UserError if the boxes were made from other frames."""
    folder = folder_of(cfg)
    reads = {"boxes": folder / "boxes.json"} | (flow_records(dataset) if cfg.use_flow else {})
    stage = Stage(cfg, "cubes", folder, reads, contents(cfg, dataset), takes=list(cube_files(cfg)))
    require_frames(dataset, stage.read[folder / "boxes.json"], folder / "bboxes.npy")
    return stage


def train(cfg):
    """The Stage of train.py. Raises UserError if the cubes were made from other boxes than the present ones."""
    folder = folder_of(cfg)
    return Stage(cfg, "train", folder, {"cubes": require_cubes(folder)})


def test(cfg, dataset, models, labels, source):
    """The Stage of test.py. models: models.checkpoint.Models; labels: (F,) bool or None, and their source.

    Raises UserError if the models were trained on other cubes, or the boxes were made from other frames.
    """
    folder, abnormal = folder_of(cfg), None if labels is None else record.digest(labels.tolist())
    reads = {"cubes": require_cubes(folder)} | ({"train": models.path} if models.path else {})
    stage = Stage(cfg, "test", results_of(cfg), reads, takes=["box_scores.npy"], labels=source, abnormal=abnormal,
                  model=models.key)
    if models.blocks and not cfg.model and models.recipe["input"]["cubes"] != stage.read[reads["cubes"]]["id"]:
        raise UserError(f"{folder}: the models were trained on other cubes than the present ones: run train.py again")
    require_frames(dataset, record.load(folder / "boxes.json"), folder / "bboxes.npy")
    return stage


def scores_are_given(cfg):
    """Whether box_scores.npy was made by another program, so that no models are needed."""
    return record.is_given(results_of(cfg) / "test.json", "box_scores.npy")


def notes_on_models(cfg, boxes_made):
    """Notes about the models used for scoring: an unfinished training, boxes found differently."""
    if (folder_of(cfg) / "train.part").is_dir():
        yield f"note: {folder_of(cfg)} has an unfinished training; scoring with the previous models"
    theirs = record.load(Path(cfg.model, "boxes.json")) if cfg.model else None
    if theirs:
        keys = ("detector", "score_thr", "cover_thr", "motion_thr")
        changed = record.difference(*({"input": {}, "settings": {
            **{key: made["settings"].get(key) for key in keys},
            "flow_method": (made["input"].get("flow") or {}).get("flow_method")}} for made in (theirs, boxes_made)))
        if changed:
            yield f"note: {cfg.model} was trained on boxes found differently ({changed}): scores may not be comparable"


def events(cfg, rates):
    """The Stage of test.py's events. rates: frames per second of each video, or None."""
    return Stage(cfg, "events", results_of(cfg), {"test": results_of(cfg) / "test.json"}, rates=rates)


def require_cubes(folder):
    """The path of the cubes' record. Raises UserError if the cubes were cut at other boxes than the present ones."""
    made = record.require(folder / "cubes.json", "cubes")
    if made["input"]["boxes"] != record.require(folder / "boxes.json", "boxes")["id"]:
        raise UserError(f"{folder}: the cubes were made from other boxes than the present ones: run extract_stc.py again")
    return folder / "cubes.json"


def require_frames(dataset, boxes_made, path):
    """Raises UserError if the boxes were made from other frames."""
    if boxes_made["input"]["frames"] != frames_of(dataset):
        raise UserError(f"{path}: made from other frames of {dataset.name} than the present ones (a video or frame was "
                        "added, removed or replaced): run extract_bbox.py again")


def frames_of(dataset):
    """Fingerprint of the chosen videos' frames, by names and sizes."""
    return record.digest([[v.name, v.first, datasets.fingerprint(v), list(v.chosen)] for v in dataset.videos])


def contents(cfg, dataset):
    """What --verify covers besides outputs: frames in the boxes' record; frames and flow files in each flow's."""
    flows = {video.flow_folder / "flow.json": flow_contents(video) for video in dataset.videos if cfg.verify}
    return flows | {folder_of(cfg) / "boxes.json": dataset.contents}


def flow_contents(video):
    """The same for one video's flow."""
    return {"frames": video.frame_files(), "flow": video.flow_files()}


def flow_records(dataset):
    """The records of the chosen videos' flow, as a Stage reads them."""
    return {"flow": [video.flow_folder / "flow.json" for video in dataset.videos]}


def flow_frames(cfg, video):
    """Frames whose flow later stages read: the scored ones, and their windows if flow cubes are made."""
    context = cfg.context_of_num if cfg.use_flow or cfg.drop_still_boxes else 0
    return sorted({t for i in video.chosen for t in window(i, context, 0, len(video) - 1, cfg.border_mode)})


class Flow(Stage):
    """The flow of one video: a file per frame. Later runs add files, so it is done frame by frame (`todo`).

    It depends on neither mode nor trial settings.
    """

    def __init__(self, cfg, video, size, weights, given=False):
        """size: (H, W); given: whether to accept files without a record; weights: function that identifies the weights; not
        called if no flow is left to do, since flow made on another machine needs no weights here.

        Raises UserError if there is other flow, or flow without a record.
        """
        self.video, self.shape, self.dtype = video, (*size, 2), np.dtype(cfg.flow_dtype)
        self.needed = flow_frames(cfg, video)
        there = self._files_there()
        self.todo = [t for t in self.needed if video.flow_file(t).name not in there]
        known = input_of(video.flow_folder / "flow.json")
        super().__init__(cfg, "flow", video.flow_folder, frames=record.digest(datasets.fingerprint(video)),
                         weights=weights() if self.todo or not known else known["weights"])
        self.place = os.path.relpath(os.path.realpath(video.path), os.path.realpath(video.flow_folder))  # both can be moved
        if not known and not given and any(video.flow_folder.glob("*.npy")):
            raise UserError(f"{self.folder}: has flow files but no record (flow.json) of how they were made: remove it, or "
                            "keep it and use another --flow_root_dir for this and the later stages")
        differs = record.difference(self.old, self.wanted) if known else ""
        same_frames = {**self.wanted, "input": {**self.wanted["input"], "frames": known.get("frames")}}
        self.other_frames = (differs != "" and not record.difference(self.old, same_frames)
                             and self.old["place"] == self.place)
        if differs and not self.other_frames:
            raise UserError(f"{self.folder}: has other flow already ({differs}): remove it, or keep both with "
                            "--flow_root_dir OTHER_FOLDER for this and the later stages")
        self.todo = self.needed if self.other_frames else self.todo

    def _files_there(self):
        """Names of the flow files that have the right type, shape and size; contents are for --verify."""
        header = npy_header(self.dtype, self.shape)
        size = len(header) + math.prod(self.shape) * self.dtype.itemsize
        return {path.name for path in self.video.flow_files() if path.stat().st_size == size and _begins_with(path, header)}

    @property
    def state(self):
        """("done" | "to do" | "outdated", why)."""
        if self.other_frames:
            return "outdated", f"the frames of {self.video.name} have changed"
        return ("to do", "") if self.todo or not self.old or self.old.get("unfinished") else ("done", "")

    def begin(self):
        """Before the first file is written: removes the flow of other frames and records what is being made."""
        if self.other_frames:
            print(f"{self.folder}: the frames have changed; calculating their flow again")
            for path in self.video.flow_files():
                path.unlink()
        if not self.old or self.other_frames:
            self.old = {**self.wanted, "place": self.place, "unfinished": True}
            record.write(self.path, self.old)

    def finish(self, seconds, repeated):
        """Writes the record; repeated: names of frames replaced by another. Returns those of all runs, sorted."""
        old = self.old or {}
        repeated = sorted({*old.get("repeated", ()), *repeated})
        record.save(self.path, {**self.wanted, "place": self.place}, {}, {
            "seconds": round(old.get("seconds", 0) + seconds, 1), "flows": len(self.video.flow_files()), "repeated": repeated})
        return repeated


def flow_room(flow):
    """Bytes of a video's missing flow files."""
    return len(flow.todo) * math.prod(flow.shape) * flow.dtype.itemsize


def _begins_with(path, data):
    with open(path, "rb") as file:
        return file.read(len(data)) == data
