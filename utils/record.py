"""What an output was made from: one small JSON beside it, so that settings and inputs are never mixed silently.

A record names the stage, its settings and its input (the records before it, or fingerprints of files by names and
sizes); its id is a hash of these three. A stage is done when its record asks for exactly what is wanted now.
"""

import hashlib
import json
import os
import shlex
import sys
from pathlib import Path

import numpy as np

from utils import datasets, files
from utils.config import stage_settings
from utils.errors import UserError
from utils.run import versions
from utils.settings import END
from utils.stc import not_empty

SCRIPTS = {"flow": "calc_optical_flow.py", "boxes": "extract_bbox.py", "cubes": "extract_stc.py", "train": "train.py",
           "test": "test.py"}


def digest(content):
    """A short hash of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def wanted(cfg, stage, **inputs):
    """The record that `stage` would write with these settings and inputs (but for counts, versions and seconds)."""
    return _with_id(stage, stage_settings(cfg, stage), inputs)


def wanted_flow(cfg, video, weights):
    """The record of one video's flow files, which don't depend on the mode or on a trial's part of the data."""
    return _with_id("flow", {"flow_method": cfg.flow_method, "flow_dtype": cfg.flow_dtype},
                    {"frames": digest(datasets.fingerprint(video)), "weights": weights})


def training_id(record):
    """What decides a training's weights after each epoch: all but how it ends and what is scored on the way."""
    settings = {key: value for key, value in record["settings"].items() if key not in END}
    return digest([settings, record["input"]])


def write(path, content):
    """Writes a record, also one of work that is not finished, with a hash of all that it tells."""
    files.save_json(path, {**content, "check": _check(content)})


def save(path, record, seconds, **counts):
    """Writes a finished output's record."""
    write(path, {**record, **counts, "seconds": seconds, "versions": versions(),
                  "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])})


def load(path):
    """The record in a file, or None where there is none. Raises UserError if it is damaged or was edited."""
    if not Path(path).is_file():
        return None
    content = files.load_json(path)
    if not isinstance(content, dict) or content.get("check") != _check(content) and (
            "check" in content or not {"stage", "settings", "input", "id"} <= content.keys()):  # records once had no hash
        raise UserError(f"{path}: this record is damaged or was edited: remove it and run the stage again")
    return content


def verify(path, named, own=True):
    """Holds files to their contents (--verify); named: name -> files that the record in `path` vouches for.

    own: whether the record is the running stage's, and takes the SHA-256 of those that it does not know yet.
    Raises UserError where files differ: no record can tell what they were made from.
    """
    made = load(path)
    known, found = made.get("sha256", {}), {name: files.sha256(paths) for name, paths in named.items()}
    for name, paths in named.items():
        if known.get(name, found[name]) != found[name]:
            raise UserError(f"{path}: the contents of {name} ({paths[0]}{', ...' if paths[1:] else ''}) have changed since "
                            f"it was written: put the old files back, or remove it and run {SCRIPTS[made['stage']]} again")
    unknown = found.keys() - known.keys()
    if unknown and own:
        write(path, {**made, "sha256": known | found})
    elif unknown:
        print(f"note: {path} holds no SHA-256 of {', '.join(sorted(unknown))}: run {SCRIPTS[made['stage']]} --verify true")


def verify_flow(dataset):
    """`verify` for the flow of a dataset's chosen videos."""
    for video in dataset.videos:
        verify(video.flow_folder / "flow.json", {"frames": video.frame_files(), "flow": video.flow_files()}, own=False)


def verify_cubes(folder, use_flow):
    """`verify` for the boxes and cubes in a folder."""
    verify(folder / "boxes.json", {"bboxes.npy": [folder / "bboxes.npy"]}, own=False)
    cubes = ["stc_raw.npy", "stc_of.npy"][:1 + use_flow]
    verify(folder / "cubes.json", {name: [folder / name] for name in cubes}, own=False)


def verify_models(folder, own=True):
    """`verify` for the models in a folder."""
    verify(folder / "train.json", {name: [folder / name] for name in load(folder / "train.json")["models"]}, own)


def difference(record, other):
    """Says in a few words what two records of a stage differ in, or "" if nothing."""
    changed = [f"{key} {_word(record['settings'].get(key))}, now {_word(value)}"
               for key, value in other["settings"].items() if record["settings"].get(key) != value]
    changed += [f"other {key}" for key, value in other["input"].items() if record["input"].get(key) != value]
    return "; ".join(changed)


def is_done(path, record, outputs=()):
    """Whether the record in `path` is the wanted one and all outputs are there, and why (not)."""
    old = load(path)
    if old is None or not all(os.path.exists(Path(path).parent / name) for name in [*outputs, *old.get("models", ())]):
        return False, "not made yet"
    if old["id"] == record["id"]:
        return True, "done with the same settings and input"
    return False, f"made differently: {difference(old, record)}"


def require(path, stage, what):
    """The record of the stage before. Raises UserError if it is missing."""
    record = load(path)
    if record is None:
        raise UserError(f"{path}: not there, so there are no {what} yet: run {SCRIPTS[stage]} first")
    return record


def unlike(model, boxes_made):
    """A line if the boxes that a folder's models were trained on were found in another way than these, else ""."""
    theirs = load(Path(model, "boxes.json"))
    if theirs is None:
        return ""
    changed = difference(*({"input": {}, "settings": {
        **{key: made["settings"].get(key) for key in ("detector", "score_thr", "cover_thr", "motion_thr")},
        "flow_method": (made["input"].get("flow") or {}).get("flow_method")}} for made in (theirs, boxes_made)))
    return changed and f"note: {model} was trained on boxes that were found otherwise ({changed}): scores compare less well"


def require_still(path, record):
    """Raises UserError if the record in `path` is no longer this one: it was read before its folder was locked."""
    if load(path) != record:
        raise UserError(f"{path}: another process has just replaced what it tells of: run the same command again")


def require_selection(cfg, record, path):
    """Raises UserError if a trial's part of the data (--videos, ...) is not the one that an input was made for."""
    for key in ("videos", "limit_frames", "frame_step"):
        made, now = record["settings"][key], getattr(cfg, key)
        if made != now:
            raise UserError(f"{path}: was made with {key} {_word(made)}, now {_word(now)}: "
                            f"give the same --{key} to every stage, or run {SCRIPTS[record['stage']]} again")


def cubes_of(folder):
    """The records of the cubes in a folder and of their boxes. Raises UserError if one is missing or they don't fit."""
    cubes = require(folder / "cubes.json", "cubes", "cubes")
    boxes = require(folder / "boxes.json", "boxes", "boxes")
    if cubes["input"]["boxes"] != boxes["id"]:
        raise UserError(f"{folder}: the cubes were made from other boxes than those there now: run extract_stc.py again")
    return cubes, boxes


def require_frames(dataset, boxes_made, path):
    """Raises UserError if the frames are not those that the boxes were made from."""
    if boxes_made["input"]["frames"] != frames_of(dataset):
        raise UserError(f"{path}: the frames of {dataset.name} are not those that the boxes were made from (a video or frame "
                        "was added, removed or replaced): run extract_bbox.py again")


def sizes_of(boxes, boxes_made):
    """The frame size that belongs to each box: (N, 5) rows and the record of the boxes -> (N, 2) H, W."""
    firsts = [first for _, first, _ in boxes_made["videos"]]
    return np.asarray(boxes_made["sizes"])[np.searchsorted(firsts, boxes[:, 0], "right") - 1]


def frames_of(dataset):
    """Fingerprint of the chosen videos' frames."""
    return digest([[v.name, v.first, datasets.fingerprint(v), list(v.chosen)] for v in dataset.videos])


def flow_of(dataset):
    """How the chosen videos' flow was made, and its fingerprint. Raises UserError where there is none yet."""
    made = [require(v.flow_folder / "flow.json", "flow", f"flow files of {v.name}") for v in dataset.videos]
    return {**made[0]["settings"], "id": digest([one["id"] for one in made])}


def boxes_of(folder, boxes_made):
    """The boxes in a folder, (N, 5): frame x1 y1 x2 y2. Raises UserError if they are not as their record tells."""
    path, count = folder / "bboxes.npy", boxes_made["boxes"]
    boxes = files.load_array(path)
    if boxes.shape != (count, 5) or boxes.dtype.kind not in "fiu":
        raise UserError(f"{path}: is {boxes.shape} of {boxes.dtype}, boxes.json tells of {(count, 5)} numbers: "
                        "run extract_bbox.py again, or --boxes_from FILE to take boxes from elsewhere")
    frame = boxes[:, 0]
    if not (np.isfinite(boxes).all() and (frame % 1 == 0).all() and (np.diff(frame) >= 0).all()
            and 0 <= frame[0] and frame[-1] < boxes_made["num_frames"]
            and not_empty(boxes[:, 1:], sizes_of(boxes, boxes_made)).all()):
        raise UserError(f"{path}: rows must be finite, sorted by frame, with frames 0 to {boxes_made['num_frames'] - 1} and "
                        "some pixel inside the image: run extract_bbox.py again, or --boxes_from FILE for boxes from elsewhere")
    return boxes


def _check(content):
    """A hash of all that a record tells, so that damage does not lead astray."""
    return digest({key: value for key, value in content.items() if key != "check"})


def _with_id(stage, settings, inputs):
    content = {"stage": stage, "settings": settings, "input": inputs}
    return {**content, "id": digest(content)}


def _word(value):
    return {True: "true", False: "false", "": "(none)"}.get(value, value) if isinstance(value, (bool, str)) else value
