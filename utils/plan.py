"""What a stage is about to do: the part of its work that is left, the record it would write, and the room that takes."""

import math

import numpy as np

from utils import record
from utils.config import flow_is_read
from utils.datasets import window
from utils.errors import UserError


def flow_frames(cfg, video):
    """Frames whose flow later stages read: the scored ones, and their windows where flow cubes are made."""
    context = cfg.context_of_num if cfg.use_flow or cfg.drop_still_boxes else 0
    return sorted({t for i in video.chosen for t in window(i, context, 0, len(video) - 1, cfg.border_mode)})


def flow_left(cfg, video, needed, stamp):
    """Which of the frames `needed` of a video have no valid flow yet, the record that is there or None, and the wanted one.

    stamp: gives what the weights are; not called where no flow is left to be made, for flow that was made on another
    machine needs no weights here. Raises UserError where other flow is there already, or flow without a record.
    """
    folder = video.flow_folder
    old = record.load(folder / "flow.json")
    there = {path.name for path in folder.glob("*.npy")}
    left = [t for t in needed if video.flow_file(t).name not in there]
    if there and old is None:
        raise UserError(f"{folder}: holds flow files without a record (flow.json) of how they were made: remove them, "
                        "or keep them and take another --flow_root_dir for this and the later stages")
    weights = stamp() if left or old is None else old["input"]["weights"]
    wanted = record.wanted_flow(cfg, video, weights)
    if old and (old["settings"] != wanted["settings"] or old["input"]["weights"] != weights):
        raise UserError(f"{folder}: flow is there already, made differently ({record.difference(old, wanted)}): remove it, "
                        "or keep both with --flow_root_dir OTHER_FOLDER for this and the later stages")
    return needed if old and old["id"] != wanted["id"] else left, old, wanted


def boxes_read_flow(cfg):
    """Whether the boxes depend on optical flow."""
    return not cfg.boxes_from or cfg.drop_still_boxes


def wanted_boxes(cfg, dataset, source, flow):
    """The record that the boxes would have; source: see fore_det.detector.source; flow: see `record.flow_of`, or None."""
    read = {"flow": flow} if boxes_read_flow(cfg) else {}
    return record.wanted(cfg, "boxes", frames=record.frames_of(dataset), **source, **read)


def wanted_cubes(cfg, boxes_id, flow):
    """The record that the cubes of these boxes would have; flow: see `record.flow_of`, or None."""
    return record.wanted(cfg, "cubes", boxes=boxes_id, **({"flow": flow} if cfg.use_flow else {}))


def wanted_scores(cfg, cubes_id, recipe_id, statistics, labels, source):
    """The record that scores would have; the models' recipe and statistics (models.checkpoint); labels (F,) or None, source."""
    return record.wanted(cfg, "test", cubes=cubes_id, model=[recipe_id, record.digest(statistics)], labels=source,
                         abnormal=None if labels is None else record.digest(labels.tolist()))


def epochs_to_end(cfg):
    """After how many of the last epochs the weights are needed to end a training."""
    return max(1, cfg.average_last)


def cube_files(cfg):
    """File name -> channels and number type of the cubes in it."""
    files = {"stc_raw.npy": (3 * span(cfg.context_frame_num, cfg.border_mode), np.dtype(np.uint8))}
    if cfg.use_flow:
        files["stc_of.npy"] = (2 * span(cfg.context_of_num, cfg.border_mode), np.dtype(np.float16))
    return files


def span(context, border_mode):
    """Frames in a window."""
    return len(window(0, context, 0, 0, border_mode))


def room(cfg, stage, frames=0, size=(0, 0), cubes=0, network=0, blocks=1):
    """Bytes that a stage takes on the disk while it is at work, at most.

    frames: that are left to do, of `size` (H, W); cubes: their number; network: bytes of each of `blocks` networks.
    """
    if stage == "flow":
        return frames * 2 * math.prod(size) * np.dtype(cfg.flow_dtype).itemsize
    if stage == "boxes":
        return frames * 4096  # about 100 boxes a frame, twice
    if stage == "cubes":
        return cubes * cfg.patch_size ** 2 * sum(channels * dtype.itemsize for channels, dtype in cube_files(cfg).values())
    if stage == "train":  # each block's checkpoint, with Adam's state and the last epochs' weights, and one being replaced
        scored = cfg.epochs // cfg.score_every if cfg.score_every else 0
        per_cube = 2 * cfg.epochs + 4 * (1 + cfg.use_flow) * scored
        return (blocks + 1) * network * (4 + max(epochs_to_end(cfg), cfg.keep_epochs)) + 3 * cubes * per_cube
    return 16 * cubes + 10 ** 7  # scores and pictures


def stages(cfg):
    """The stages that a run takes: no flow where nothing reads it, no training where --model gives trained ones."""
    left_out = {"flow": not flow_is_read(cfg), "train": bool(cfg.model)}
    return [stage for stage in record.SCRIPTS if not left_out.get(stage)]
