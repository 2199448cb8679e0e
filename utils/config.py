"""Every setting of the suite in one table: name, type, default, help. Defaults < configs/D.cfg < flags."""

import argparse
import configparser
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from utils.datasets import DATASETS, LAYOUTS
from utils.errors import UserError

STAGES = ("flow", "boxes", "cubes", "train", "test")
MODES = ("test", "merge", "train")
SUITE = Path(__file__).resolve().parent.parent
CONFIG_SECTIONS = ("data_parameters", "LBR_SPR_parameters")  # the official two; any setting may stand in either


class Setting(NamedTuple):
    name: str
    type: Any  # int, float, str, bool, or a tuple of allowed words
    default: Any
    stages: str  # the stages that read it
    help: str
    low: float = float("-inf")
    identity: bool = True  # whether another value makes another output

    def parse(self, text):
        """The value that a word of a config file or a command line stands for. Raises ValueError."""
        if self.type is bool:
            words = {"true": True, "yes": True, "1": True, "on": True, "false": False, "no": False, "0": False, "off": False}
            if text.lower() not in words:
                raise ValueError("must be true or false")
            return words[text.lower()]
        if isinstance(self.type, tuple):
            if text not in self.type:
                raise ValueError(f"must be one of {', '.join(self.type)}")
            return text
        value = self.type(text)
        if self.type in (int, float) and not self.low <= value < float("inf"):
            raise ValueError(f"must be {self.low:g} or more")
        return value


S = Setting
SETTINGS = {s.name: s for s in (
    # data
    S("data_root_dir", str, "data", "flow boxes cubes train test", "folder of boxes, cubes and models", identity=False),
    S("results_dir", str, "results", "test", "folder of scores, figures and pictures", identity=False),
    S("flow_root_dir", str, "optical_flow", "flow boxes cubes", "folder of flow files", identity=False),
    S("videos", str, "", "flow boxes cubes train test",
      "only these videos of the mode, by position: 1,3-5 (for trials)"),
    S("limit_frames", int, 0, "flow boxes cubes train test",
      "only the first N frames of each video, 0 for all (for trials)", 0),
    S("frame_step", int, 1, "flow boxes cubes train test",
      "boxes, cubes and scores for every K-th frame alone; windows still reach the true neighbours (for trials)", 1),
    S("on_bad_frame", ("stop", "repeat"), "stop", "flow boxes cubes",
      "an unreadable frame ends the stage, or the frame before it stands in (with a warning)", identity=False),
    # 1 optical flow
    S("flow_method", ("flownet2", "raft", "dis"), "flownet2", "flow",
      "flownet2 (official), raft (torchvision's RAFT-large), or dis (OpenCV's DIS, which needs no weights)"),
    S("flow_weights", str, "", "flow", "weights file in place of the method's usual one", identity=False),
    S("flow_dtype", ("float16", "float32"), "float16", "flow", "number format of the flow files (official: float32)"),
    # 2 foreground boxes
    S("detector", str, "yolov3", "boxes",
      "yolov3 (official), torchvision:MODEL, mmdet:CONFIG:CHECKPOINT, or none for motion boxes alone"),
    S("detector_weights", str, "", "boxes", "weights file in place of the detector's usual one", identity=False),
    S("detector_scale", int, 608, "boxes", "length to which yolov3 resizes a frame's long side: 608 or 320", 32),
    S("score_thr", float, 0.2, "boxes", "a detection is kept if its score is above this", 0),
    S("cover_thr", float, 0.6, "boxes", "a box is dropped if a larger one covers more than this share of it", 0),
    S("boxes_from", str, "", "boxes",
      "take the boxes in this .npy file: per frame an (n, 4) or (n, 5) array, or (N, 5) rows of frame x1 y1 x2 y2",
      identity=False),
    S("min_area", int, None, "boxes", "smallest box in pixels, with +1 on both sides", 1),
    S("motion_thr", float, 1.0, "boxes", "a pixel moves if u^2 + v^2 is above this", 0),
    S("box_margin", int, 2, "boxes", "pixels around a box that motion boxes keep clear of, and grow by", 0),
    S("all_motion_quirk", bool, True, "boxes",
      "where every pixel of a frame moves there are no motion boxes, as in the official code"),
    S("drop_still_boxes", bool, False, "flow boxes",
      "drop boxes whose flow cube is all zero, as the code of the paper (2022) did"),
    # 3 spatio-temporal cubes
    S("border_mode", ("hard", "elastic", "predict"), "hard", "flow boxes cubes",
      "window at a video's ends: hard holds the end frame, elastic shifts inside, predict takes only i-c..i"),
    S("context_frame_num", int, 2, "cubes", "frames on either side of a cube's frame: T = 2c + 1", 0),
    S("context_of_num", int, 2, "flow boxes cubes", "flow fields on either side, likewise", 0),
    S("patch_size", int, 32, "boxes cubes", "height and width P of a cube, a multiple of 8", 16),
    S("use_flow", bool, False, "flow cubes train", "motion enhancement: a second autoencoder predicts the flow cube"),
    # 4 training
    S("h_block", int, 1, "train", "blocks down the image, one model each", 1),
    S("w_block", int, 1, "train", "blocks across the image", 1),
    S("epochs", int, 30, "train", "passes over all cubes of a block", 1),
    S("warmup_epoch", int, 5, "train", "epochs before self-paced weights come in", 0),
    S("batch_size", int, 256, "train", "cubes in a batch", 1),
    S("num_feature_root", int, 32, "train", "width f of the autoencoder's first level; then 2f, 4f, 8f", 1),
    S("lr", float, 0.001, "train", "Adam's learning rate", 0),
    S("lambda_raw", float, 1.0, "train", "weight of the raw loss (with use_flow)", 0),
    S("lambda_of", float, 1.0, "train", "weight of the flow loss (with use_flow)", 0),
    S("sp_mode", ("mixture", "hard", "linear", "huber", "none"), "mixture", "train",
      "self-paced weights (paper, section 3.3); none: the LBR baseline"),
    S("shrink_rate", float, 0.0001, "train",
      "upper threshold mean + max(1, 4 - t * shrink_rate) * std after t refined batches", 0),
    S("score_every", int, 0, "train", "also keep every cube's score after each N-th epoch, 0 for none", 0),
    S("seed", int, 0, "train", "fixes initial weights and the order of cubes", 0),
    S("precision", ("fp32", "bf16"), "fp32", "train",
      "fp32, or bf16 by autocast (faster, nearly the same); scoring follows the model"),
    # 5 scoring
    S("model", str, "", "test", "score with this folder of models, or this official D_model.npy"),
    S("w_raw", float, 0.5, "test", "weight of the raw z-score (with use_flow)", 0),
    S("w_of", float, 1.0, "test", "weight of the flow z-score", 0),
    S("window_size", int, 10, "test", "frames of the moving average over the frame scores, 1 for none", 1),
    # how it runs
    S("device", str, "auto", "flow boxes train test", "auto, cpu, or cuda:N", identity=False),
    S("num_workers", int, -1, "flow boxes cubes", "threads that read and prepare frames; -1: one per core, 0: none",
      -1, identity=False),
)}
DATASET_KEYS = {"layout": tuple(LAYOUTS), "min_area": int, "detector_scale": int}


def parse_config(description, argv=None, stages=STAGES):
    """Reads the command line and the dataset's config file into one namespace of plain values.

    description: the script's docstring, shown by --help; argv: words of the command line, None for sys.argv;
    stages: only settings that these stages read become flags.
    Beside every setting the namespace has dataset_name, mode, config (the file's path or ""), and layout.
    Raises UserError for an unknown key, a bad value, or a dataset that nobody described.
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
        print(f"note: --{setting.name} is for another stage ({setting.stages}); nothing here depends on it")
    if "layout" not in values:
        raise UserError(f"dataset {name} is not known ({', '.join(DATASETS)}): describe your own in configs/{name}.cfg, "
                        "section [dataset], with layout and min_area (raw_datasets/README.md)")
    values |= {"dataset_name": name, "mode": flags["mode"], "config": str(path or "")}
    values |= {key: flags[key] for key in flags if key not in values}
    return _checked(SimpleNamespace(**values))


def stage_settings(cfg, stage):
    """The settings that decide what a stage's output is, as a plain dict: only those that are read with these values."""
    unread = set()
    if stage == "boxes" and not cfg.drop_still_boxes:
        unread |= {"border_mode", "context_of_num", "patch_size"}
    if stage == "boxes" and (cfg.boxes_from or cfg.detector != "yolov3"):
        unread |= {"detector_scale"}
    if stage == "boxes" and (cfg.boxes_from or cfg.detector == "none"):
        unread |= {"score_thr", "cover_thr"}
    if stage == "boxes" and cfg.boxes_from:
        unread |= {"detector", "min_area", "motion_thr", "box_margin", "all_motion_quirk"}
    if stage == "cubes" and not cfg.use_flow:
        unread |= {"context_of_num"}
    return {s.name: getattr(cfg, s.name) for s in SETTINGS.values()
            if s.identity and stage in s.stages.split() and s.name not in unread}


def _parser(description, shown, stages):
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--dataset_name", required=True, metavar="D",
                        help=f"{', '.join(DATASETS)}, or your own, described in configs/D.cfg")
    parser.add_argument("--mode", choices=MODES, default="test",
                        help="test: the testing videos alone (default); merge: training and testing videos together; "
                             "train: the training videos alone (one-class protocol, not in the paper)")
    parser.add_argument("--config", metavar="FILE", default=None, help="config file in place of configs/D.cfg")
    for s in shown:
        words = s.type if isinstance(s.type, tuple) else ("true", "false") if s.type is bool else None
        default = "by dataset" if s.default is None else str(s.default).lower() if s.type is bool else s.default
        default = "" if default == "" else f" (default: {default})"
        parser.add_argument(f"--{s.name}", metavar="|".join(words) if words else s.type.__name__.upper(),
                            help=s.help.replace("%", "%%") + default)
    for s in SETTINGS.values():
        if s not in shown:  # the same flags can be given to all stages
            parser.add_argument(f"--{s.name}", help=argparse.SUPPRESS)
    if "cubes" in stages:
        for kind in ("training", "testing"):
            parser.add_argument(f"--extract_{kind}_stc", action="store_true",
                                help="official flag; training and testing cubes of a mode are the same file here")
    return parser


def _config_file(name, given):
    if given:
        if not Path(given).is_file():
            raise UserError(f"--config {given}: no such file")
        return Path(given)
    return next((p for p in (Path("configs", f"{name}.cfg"), SUITE / "configs" / f"{name}.cfg") if p.is_file()), None)


def _read_config(path):
    parser = configparser.ConfigParser(interpolation=None, inline_comment_prefixes=("#", ";"))
    parser.optionxform = str
    try:
        parser.read_string(path.read_text(encoding="utf-8"), source=str(path))
    except (configparser.Error, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a config file ({str(error).splitlines()[0]})") from None
    values = {}
    for section in parser.sections():
        if section not in (*CONFIG_SECTIONS, "dataset"):
            raise UserError(f"{path}: unknown section [{section}]; known: [{'], ['.join((*CONFIG_SECTIONS, 'dataset'))}]")
        for key, text in parser.items(section):
            where = f"{path}: {key} = {text}"
            if section == "dataset" and key in DATASET_KEYS:
                values[key] = _value(Setting(key, DATASET_KEYS[key], None, "", "", 1), text, where)
            elif section != "dataset" and key in SETTINGS:
                values[key] = _value(SETTINGS[key], text, where)
            else:
                known = DATASET_KEYS if section == "dataset" else SETTINGS
                raise UserError(f"{where}: unknown key in [{section}]{_nearest(key, known)}")
    return values


def _nearest(key, known):
    import difflib

    near = difflib.get_close_matches(key, known, 1)
    return f"; did you mean {near[0]}?" if near else f"; known: {', '.join(known)}"


def _value(setting, text, where):
    try:
        return setting.parse(text)
    except ValueError as error:
        reason = str(error) if "must be" in str(error) else f"must be {setting.type.__name__}"
        raise UserError(f"{where}: {reason}") from None


def _checked(cfg):
    if cfg.patch_size % 8:
        raise UserError(f"patch_size {cfg.patch_size}: must be a multiple of 8")
    if cfg.min_area is None:
        raise UserError(f"dataset {cfg.dataset_name}: set min_area in section [dataset] of {cfg.config}")
    parse_videos(cfg.videos)
    return cfg


def parse_videos(text):
    """"1,3-5" -> {1, 3, 4, 5}; "" -> the empty set, which stands for all. Raises UserError."""
    numbers = set()
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        if not (first.isdecimal() and (last or first).isdecimal() and 1 <= int(first) <= int(last or first) < 10 ** 6):
            raise UserError(f"--videos {text}: must be positions such as 1,3-5")
        numbers.update(range(int(first), int(last or first) + 1))
    return numbers
