"""Reads the settings: defaults < the dataset's own < configs/D.cfg < flags. The table is in utils/settings.py."""

import argparse
import configparser
import contextlib
import difflib
import math
import re
import sys
from pathlib import Path
from types import SimpleNamespace

from utils import datasets, device, files, text
from utils.datasets import DATASETS, LAYOUTS
from utils.errors import UserError
from utils.run import SUITE
from utils.settings import END, SETTINGS, Setting

STAGES = ("flow", "boxes", "cubes", "train", "test")
MODES = ("test", "merge", "train")
CONFIG_SECTIONS = ("data_parameters", "LBR_SPR_parameters")  # the official two; any setting may be in either
DATASET_KEYS = {"layout": tuple(LAYOUTS), "min_area": int, "detector_scale": int}


def parse_config(description, argv=None, stages=STAGES):
    """Reads the command line and the dataset's config file into one namespace of plain values.

    description: the script's docstring, shown by --help; argv: the command-line arguments, None for sys.argv;
    stages: whose settings --help shows; flags for other stages are accepted with a note, so every stage can get the same flags.
    Besides every setting the namespace has dataset_name, mode, config (the file's path or "") and layout. If train is one
    of the stages, the number format is resolved: it is never "auto".
    Raises UserError for an unknown key, a bad value, or an undescribed dataset.
    """
    shown = [s for s in SETTINGS.values() if set(s.stages.split()) & set(stages)]
    flags = vars(_parser(description, shown, stages).parse_args(argv))
    name = flags["dataset_name"]
    if Path(name).name != name or name in ("", ".", ".."):
        raise UserError(f"--dataset_name {name}: must be the name of a folder under raw_datasets/")
    values = {s.name: s.default for s in SETTINGS.values()}
    values |= {key: value for key, value in DATASETS.get(name, {}).items() if key in values or key in DATASET_KEYS}
    path = _config_file(name, flags["config"])
    if path:
        values |= _read_config(path)
    given = [s for s in SETTINGS.values() if flags[s.name] is not None]
    for setting in given:
        values[setting.name] = _value(setting, flags[setting.name], f"--{setting.name}")
    for setting in (s for s in given if s not in shown):
        print(f"note: --{setting.name} is ignored: used only by {setting.stages}")
    if "layout" not in values:
        own = sorted(p.stem for p in Path("configs").glob("*.cfg") if p.stem not in DATASETS)
        raise UserError(f"unknown dataset {name}; known: {', '.join([*DATASETS, *own])}. For your own videos run python -m "
                        f"tools.prepare_videos {name} FILES, or set layout and min_area in section [dataset] of "
                        f"configs/{name}.cfg (raw_datasets/README.md)")
    values |= {"dataset_name": name, "mode": flags["mode"], "config": str(path or "")}
    values |= {key: flags[key] for key in flags if key not in values}
    cfg = _checked(SimpleNamespace(**values))
    if cfg.min_steps and "train" in stages:
        with contextlib.suppress(UserError, KeyError, TypeError):  # no cubes yet, or damaged: the stage reports it
            lengthen(cfg, files.load_json(Path(cfg.data_root_dir, name, cfg.mode, "cubes.json"))["cubes"])
    if cfg.precision == "auto" and "train" in stages:
        cfg.precision = _trained_in(cfg) or device.fastest_format(device.device_of(cfg.device))
    return cfg


def lengthen(cfg, cubes):
    """Raises epochs, and warmup_epoch in proportion, until a block (its share of `cubes`) gets min_steps batches."""
    batches = math.ceil(cubes / (cfg.h_block * cfg.w_block) / cfg.batch_size)
    epochs = max(cfg.epochs, math.ceil(cfg.min_steps / batches))
    cfg.warmup_epoch, cfg.epochs = round(cfg.warmup_epoch * epochs / cfg.epochs), epochs


def dataset_of(cfg):
    """The Dataset that the settings select; prints what was found. Raises UserError if it is missing."""
    dataset = datasets.find(cfg.dataset_name, cfg.mode, cfg.layout,
                            parse_videos(cfg.videos), cfg.limit_frames, cfg.frame_step, cfg.flow_root_dir)
    print(f"reading {datasets.RAW / cfg.dataset_name}: {len(dataset.videos)} videos, {len(dataset.chosen):,} frames to score, "
          f"mode {cfg.mode}")
    for note in dataset.notes:
        print(note)
    return dataset


def stage_settings(cfg, stage):
    """The settings that determine a stage's output, as a plain dict: only those that are read under the other settings."""
    if stage == "flow":
        return {"flow_method": cfg.flow_method, "flow_dtype": cfg.flow_dtype}
    unread = set()
    if stage == "boxes" and not cfg.drop_still_boxes:
        unread |= {"border_mode", "context_of_num", "patch_size"}
    if stage == "boxes" and (cfg.boxes_from or not cfg.detector.startswith(("yolov3", "onnx:"))):
        unread |= {"detector_scale"}
    if stage == "boxes" and (cfg.boxes_from or cfg.detector == "none"):
        unread |= {"score_thr", "cover_thr", "detector_tiles"}
    if stage == "boxes" and cfg.boxes_from:
        unread |= {"detector", "min_area", "motion_thr", "box_margin", "all_motion_quirk", "global_motion", "noise_gate"}
    if stage == "cubes" and not cfg.use_flow:
        unread |= {"context_of_num"}
    if stage == "test":
        unread |= {"event_z", "event_share"}  # they belong to stage "events"
    return {s.name: getattr(cfg, s.name) for s in SETTINGS.values()
            if s.identity and stage in s.stages.split() and s.name not in unread}


def flow_is_read(cfg):
    """Whether any stage reads optical flow: published boxes need none."""
    return not cfg.boxes_from or cfg.use_flow or cfg.drop_still_boxes


def stage_takes(stage, flag):
    """Whether a flag (without its dashes) applies to a stage."""
    if flag.startswith("extract_"):
        return stage == "cubes"
    return flag not in SETTINGS or stage in SETTINGS[flag].stages.split()


class _Parser(argparse.ArgumentParser):
    """Reports an error in one line, without listing all flags."""

    def parse_args(self, words=None):
        for word in sys.argv[1:] if words is None else words:
            if re.search("[\ud800-\udfff]", word):
                raise UserError(f"{word!a}: is not UTF-8: rename it, or set the environment variable PYTHONUTF8=1")
            flag = word.partition("=")[0]
            if flag.startswith("--") and len(flag) > 2 and flag not in self._option_string_actions:
                raise UserError(f"{flag}: no such flag{_nearest(flag, self._option_string_actions, 'see --help')}")
        return super().parse_args(words)

    def error(self, message):
        raise UserError(f"{message} (see --help)")


def _parser(description, shown, stages):
    parser = _Parser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--dataset_name", required=True, metavar="D",
                        help=f"{', '.join(DATASETS)}, or your own, described in configs/D.cfg")
    parser.add_argument("--mode", choices=MODES, default="test",
                        help="test: only the testing videos (default); merge: training and testing videos together; "
                             "train: only the training videos (one-class protocol, not in the paper)")
    parser.add_argument("--config", metavar="FILE", default=None, help="config file instead of configs/D.cfg")
    for s in shown:
        words = s.type if isinstance(s.type, tuple) else ("true", "false") if s.type is bool else None
        default = "by dataset" if s.default is None else str(s.default).lower() if s.type is bool else s.default
        default = "" if default == "" else f" (default: {default})"
        parser.add_argument(f"--{s.name}", metavar="|".join(words) if words else {int: "N", float: "X"}.get(s.type, "TEXT"),
                            help=s.help.replace("%", "%%") + default)
    for s in SETTINGS.values():
        if s not in shown:  # so that all stages accept the same flags
            parser.add_argument(f"--{s.name}", help=argparse.SUPPRESS)
    if set(stages) == set(STAGES):
        parser.add_argument("--dry_run", action="store_true", help="print what is left to do, what is missing, and the cost")
    if "cubes" in stages:
        for kind in ("training", "testing"):
            parser.add_argument(f"--extract_{kind}_stc", action="store_true",
                                help="official flag; here a mode's training and testing cubes are the same file")
    return parser


def _config_file(name, given):
    if given:
        if not Path(given).is_file():
            raise UserError(f"--config {given}: no such file")
        return Path(given)
    return next((p for p in (Path("configs", f"{name}.cfg"), SUITE / "configs" / f"{name}.cfg") if p.is_file()), None)


def _read_config(path):
    parser = configparser.ConfigParser(interpolation=None, default_section="", empty_lines_in_values=False)
    parser.optionxform = str
    try:
        parser.read_string(text.read(path), source=str(path))
    except configparser.Error as error:
        raise UserError(f"{path}: not a config file ({str(error).splitlines()[0]})") from None
    values = {}
    for section in parser.sections():
        if section not in (*CONFIG_SECTIONS, "dataset"):
            raise UserError(f"{path}: unknown section [{section}]; known: [{'], ['.join((*CONFIG_SECTIONS, 'dataset'))}]")
        known = {key: Setting(key, words, None, "", "", 1, 10 ** 9) for key, words in DATASET_KEYS.items()}
        known = known if section == "dataset" else SETTINGS
        for key, words in parser.items(section):
            where = f"{path}: {key} = {' '.join(words.split())}"
            if key not in known:
                raise UserError(f"{where}: unknown key in [{section}]{_nearest(key, known)}")
            if key in values:
                raise UserError(f"{where}: set in two sections: remove one of them")
            values[key] = _value(known[key], _without_comment(known[key].type, words, where), where)
    return values


def _without_comment(kind, words, where):
    """A value without its trailing comment. Raises UserError if part of the value might be lost."""
    mark = re.search(r"(^|\s+)[#;]", words)
    if "\n" in words:
        raise UserError(f"{where}: the line below is indented, which is ambiguous: do not indent it")
    if quoted := re.fullmatch(r'"([^"]*)"\s*([#;].*)?', words):
        return quoted[1]
    if mark and kind is str and mark[1] in ("", " "):
        raise UserError(f"{where}: is {mark[0].strip()} part of the value or a comment? Put the value in double quotes, or the "
                        "comment on its own line")
    return words[:mark.start()] if mark else words


def _nearest(key, known, otherwise=None):
    near = difflib.get_close_matches(key, known, 1)
    return f"; did you mean {near[0]}?" if near else f"; {otherwise or 'known: ' + ', '.join(known)}"


def _value(setting, text, where):
    try:
        return setting.parse(text)
    except ValueError as error:
        reason = str(error) if "must be" in str(error) else f"must be {setting.type.__name__}"
        raise UserError(f"{where}: {reason}") from None


def _trained_in(cfg):
    """The number format of an existing training, finished or not, that is otherwise the same; None if there is none."""
    folder, apart = Path(cfg.data_root_dir, cfg.dataset_name, cfg.mode), {"precision": None} | dict.fromkeys(END)
    for path in (folder / "train.part" / "record.json", folder / "train.json"):
        with contextlib.suppress(UserError, KeyError, TypeError):  # missing, or damaged: the stage reports it
            made = files.load_json(path)
            same = made["settings"] | apart == stage_settings(cfg, "train") | apart
            if same and made["input"]["cubes"] == files.load_json(folder / "cubes.json")["id"]:
                return device.FORMATS.get(made["settings"]["precision"]) and made["settings"]["precision"]
    return None


def _checked(cfg):
    if cfg.patch_size % 8:
        raise UserError(f"patch_size {cfg.patch_size}: must be a multiple of 8")
    if cfg.min_area is None:
        raise UserError(f"dataset {cfg.dataset_name}: set min_area in section [dataset] of {cfg.config}")
    parse_videos(cfg.videos)
    return cfg


def parse_videos(text):
    """"1,3-5" -> {1, 3, 4, 5}; "" -> the empty set, which means all. Raises UserError."""
    numbers = set()
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        if not re.fullmatch(r"\d{1,6}(-\d{1,6})?", part) or not 1 <= int(first) <= int(last or first):
            raise UserError(f"--videos {text}: must be positions such as 1,3-5")
        numbers.update(range(int(first), int(last or first) + 1))
    return numbers
