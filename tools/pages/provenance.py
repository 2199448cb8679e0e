"""How a run was made: seconds, disk, commands, settings and versions of its stages, from their records."""

import os
from pathlib import Path

from utils import record
from utils.datasets import DATASETS
from utils.settings import SETTINGS


def stages(res):
    """Seconds, bytes and command of each stage."""
    flow = [record.load(video.flow_folder / "flow.json") or {} for video in res.dataset.videos]
    trained = res.model_folder
    known = [("optical flow", flow, [video.flow_folder for video in res.dataset.videos], "*.npy"),
             ("boxes", [record.load(res.folder / "boxes.json")], [res.folder], "bboxes.npy"),
             ("cubes", [record.load(res.folder / "cubes.json")], [res.folder], "stc_*.npy"),
             ("training", [record.load(trained / "train.json")] if trained else [], [trained] if trained else [], "model_*.pt"),
             ("scores", [record.load(res.path / "test.json")], [res.path], "*")]
    found = []
    for name, records, folders, pattern in known:
        records = [one for one in records if one and one.get("command")]
        seconds = sum(one["seconds"] for one in records) if records else None
        found.append({"name": name, "seconds": seconds, "bytes": sum(size_of(folder, pattern) for folder in folders),
                      "commands": list(dict.fromkeys(f"python {one['command']}" for one in records))})
    return found


def size_of(folder, pattern):
    """Bytes of the files in a folder that match, reports left out."""
    return sum(os.stat(path).st_size for path in Path(folder).glob(pattern)
               if path.is_file() and not path.name.startswith("report"))


def settings(res):
    """Name, value, default and whether they differ, of every setting that was read."""
    flow = res.made["input"].get("flow") or {}
    values = {**{key: flow[key] for key in flow if key in SETTINGS}, **res.made["settings"]}
    special = {key: value for key, value in DATASETS.get(res.cfg.dataset_name, {}).items() if key in SETTINGS}
    return [{"name": name, "value": shown(values[name]), "default": shown(special.get(name, SETTINGS[name].default)),
             "own": values[name] != special.get(name, SETTINGS[name].default)} for name in SETTINGS if name in values]


def shown(value):
    """A setting's value as a user would type it."""
    return {True: "true", False: "false", "": "–", None: "–"}.get(value, value) if not isinstance(value, (int, float)) or (
        isinstance(value, bool)) else f"{value:g}"


def versions(res):
    """Packages and their versions at scoring, and at the other stages where they differ."""
    files_of = {"boxes": res.folder / "boxes.json", "cubes": res.folder / "cubes.json", "scores": res.path / "test.json"}
    if res.model_folder:
        files_of["training"] = res.model_folder / "train.json"
    known = {stage: (record.load(path) or {}).get("versions", {}) for stage, path in files_of.items()}
    last = known.pop("scores")
    return [{"name": name, "version": version, "other": ", ".join(
        f"{stage} {other[name]}" for stage, other in known.items() if other.get(name, version) != version)}
        for name, version in last.items()]
