"""How a run was made: seconds, disk, commands, settings and versions of its stages, from their records."""

from utils import record
from utils.datasets import DATASETS
from utils.settings import SETTINGS


def stages(results):
    """Name, seconds, bytes, commands and versions of each stage."""
    flow = [video.flow_folder for video in results.dataset.videos]
    trained = [results.model_folder] if results.model_folder else []
    return [_stage("optical flow", flow, "flow.json", "*.npy"),
            _stage("boxes", [results.folder], "boxes.json", "bboxes.npy"),
            _stage("cubes", [results.folder], "cubes.json", "stc_*.npy"),
            _stage("training", trained, "train.json", "model_*.pt"),
            _stage("scores", [results.path], "test.json", "*")]


def _stage(name, folders, file, pattern):
    records = [found for folder in folders if (found := record.load(folder / file)) and found.get("command")]
    sizes = [path.stat().st_size for folder in folders for path in folder.glob(pattern)
             if path.is_file() and not path.name.startswith("report")]
    return {"name": name, "seconds": sum(found["seconds"] for found in records) if records else None, "bytes": sum(sizes),
            "commands": list(dict.fromkeys(f"python {found['command']}" for found in records)),
            "versions": records[-1].get("versions", {}) if records else {}}


def settings(results):
    """Name, value, default and whether they differ, of every setting that was used."""
    values = (results.made["input"].get("flow") or {}) | results.made["settings"]
    defaults = {name: setting.default for name, setting in SETTINGS.items()} | DATASETS.get(results.cfg.dataset_name, {})
    return [{"name": name, "value": _shown(values[name]), "default": _shown(defaults[name]),
             "own": values[name] != defaults[name]} for name in SETTINGS if name in values]


def _shown(value):
    """A setting's value as a user would type it."""
    if value is None or value == "":
        return "–"
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, int | float) else value


def versions(stages):
    """Package versions at scoring, and at other stages if they differ."""
    *others, last = stages
    return [{"name": name, "version": version, "other": ", ".join(
        f"{stage['name']} {stage['versions'][name]}" for stage in others
        if stage["versions"].get(name, version) != version)} for name, version in last["versions"].items()]
