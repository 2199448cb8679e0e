"""What a run would do, what is missing and what it would cost, before anything starts.

    python run_pipeline.py --dataset_name D --mode MODE [flags] --dry_run

Prints the frames, packages, device and weights; for each stage whether it is done, to do, or outdated and why; its time and
disk space. Times come from rates that are measured on this machine once (some seconds) and kept in data/rates.json; nothing
else is written (torchvision may download the weights of its models). Before there are boxes, 10 per frame are assumed.
Exit code 2: something would stop the run.
"""

import functools
import os
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from FlowNet2_src.methods import METHODS, stamp, weights_file
from fore_det import detector
from fore_det.published import read_boxes
from models.cae import ReconCAE
from models.checkpoint import load_models
from models.ending import Ending
from models.training import resumed
from tools import rates
from utils import files, frames, labels, record, stages
from utils.boxes import Boxes
from utils.config import dataset_of, lengthen, parse_config
from utils.datasets import DATASETS
from utils.device import cores, device_of, find_card, free_cores, use_threads, workers
from utils.errors import UserError
from utils.run import run, versions

ASSUMED = 10  # boxes per frame, before there are any
CANNOT = "cannot be done"


class Row(NamedTuple):
    """How a stage stands, and what is left of its work and costs."""

    stage: str
    state: str  # done, to do, outdated, or CANNOT
    why: str = ""  # where it is outdated or cannot be done; else what it is done with
    frames: int = 0  # left to do
    share: float = 1.0  # of the training that is left to do
    work: str = ""
    seconds: float | None = 0.0  # None: not known
    bytes: int = 0
    changes: bool = True  # whether its output will be another


class Plan(NamedTuple):
    """What the costs depend on."""

    cfg: object
    dataset: object
    size: tuple  # (H, W)
    device: torch.device
    measured: rates.Rates
    cubes: int
    guess: bool  # whether their number is one

    @property
    def about(self):
        """The cubes in words."""
        return f"{'about ' * self.guess}{self.cubes:,} cubes"

    def first(self, count):
        """The first frames of the first video, decoded as the stages do."""
        video = self.dataset.videos[0]
        return list(frames.load(video, range(min(len(video), count)), workers(self.cfg.num_workers), self.cfg.on_bad_frame))


def main():
    cfg = parse_config(__doc__)
    dataset, device = dataset_of(cfg), device_of(cfg.device)
    use_threads(cfg.threads, device)
    size = frames.size_of(dataset.videos[0])
    print(f"frames      {size[0]}x{size[1]} (height x width), {completeness(cfg, dataset)}")
    print("packages    " + ", ".join(f"{name} {version}" for name, version in versions().items() if name != "code"))
    trouble = find_card()[1] if device.type == "cpu" else ""
    print(f"device      {in_words(device)}; {free_cores()} of {cores()} cores are free now{trouble and f'; no GPU: {trouble}'}")
    rows = look(cfg, dataset)
    rows["boxes"], cubes, guess = expected_cubes(cfg, dataset, rows["boxes"])
    if cfg.min_steps:
        lengthen(cfg, cubes)
    threads = f"{torch.get_num_threads()} threads of networks, {workers(cfg.num_workers)} of frames"
    measured = rates.Rates(Path(cfg.data_root_dir, "rates.json"), f"{in_words(device)}, {threads}")
    plan, left = Plan(cfg, dataset, size, device, measured, cubes, guess), []
    for row in (row for row in rows.values() if row.state != "done"):
        try:
            left.append(COST[row.stage](plan, row))
        except UserError as error:  # weights that can't be read, for one, or a detector that can't be imported
            print(f"{row.stage:11} {CANNOT}: {error}")
            left.append(row._replace(state=CANNOT))
    if left:
        print("\n".join(table(left)))
    lacking = [row.stage for row in left if row.state == CANNOT] + full_disks(cfg, left)
    if lacking:
        raise UserError(f"this run would stop: {', '.join(lacking)} (see above)")


def completeness(cfg, dataset):
    """Whether all frames are there, in a few words."""
    if dataset.notes:
        return "but see the notes above"
    return "all that the dataset is known to have" if cfg.dataset_name in DATASETS else "how many there should be is not known"


def in_words(device):
    """A device by its name."""
    if device.type != "cuda":
        return device.type
    there = torch.cuda.get_device_properties(device)
    return f"{device} ({there.name}, {there.total_memory / 2 ** 30:.0f} GiB)"


def look(cfg, dataset):
    """stage -> Row, from the objects through which the scripts work; prints a line about each."""
    rows, before = {}, ""  # before: the last stage whose output will be another
    for stage in stages.chosen(cfg):
        try:
            row = LOOK[stage](cfg, dataset, before)
        except UserError as error:
            row = Row(stage, CANNOT, str(error), len(dataset.chosen))
        rows[stage] = row
        before = stage if row.state != "done" and row.changes else before
        print(f"{stage:11} {row.state}{f': {row.why}' if row.why else ''}")
    return rows


def from_stage(stage, frames=0):
    """A Row from a record.Stage."""
    state, why = stage.state
    why = why.removeprefix("outdated: ").removesuffix("; rebuilding") if state == "outdated" else ""
    return Row(stage.name, state, why, frames)


def after(cfg, stage, before, frames=0):
    """A Row of a stage whose input will be made first."""
    folder = stages.results_of(cfg) if stage == "test" else stages.folder_of(cfg)
    there = record.load(folder / f"{stage}.json", {}) is not None
    return Row(stage, "outdated" if there else "to do", f"other {record.MADE[before]}" if there else "", frames)


def look_at_flow(cfg, dataset, before):
    weights = functools.partial(weights_file, cfg.flow_method, cfg.flow_weights)
    source = functools.cache(lambda: stamp(weights()))
    flows = [stages.Flow(cfg, video, frames.size_of(video), source) for video in dataset.videos]
    left, changed = sum(len(flow.todo) for flow in flows), [flow.state[1] for flow in flows if flow.state[0] == "outdated"]
    if not left:
        return Row("flow", "done")
    why, unmade = changed + [f"by {weights()}"] * bool(weights()), any(flow.old is None for flow in flows)
    return Row("flow", "outdated" if changed else "to do", "; ".join(why), left, changes=bool(changed) or unmade)


def look_at_boxes(cfg, dataset, before):
    source = functools.partial(detector.source, cfg.boxes_from, cfg.detector, cfg.detector_weights, cfg.detector_scale,
                               stages.input_of(stages.folder_of(cfg) / "boxes.json"))
    source()
    if before and stages.reads_flow(cfg):
        return after(cfg, "boxes", before, len(dataset.chosen))
    stage = stages.boxes(cfg, dataset, source)
    left = sum(len(v.chosen) for v in dataset.videos if not stage.kept(f"{v.first:08d}.json"))
    row = from_stage(stage, left)
    if row.state == "done" or cfg.boxes_from or cfg.detector == "none":
        return row
    weights = detector.weights_file(cfg.detector, cfg.detector_weights, cfg.detector_scale)
    if weights:
        files.size(weights)  # it may be believed from the record, but now it is read
    return row._replace(why="; ".join([row.why] * bool(row.why) + [f"by {weights}"] * bool(weights)))


def look_at_cubes(cfg, dataset, before):
    count = len(dataset.chosen)
    return after(cfg, "cubes", before, count) if before else from_stage(stages.cubes(cfg, dataset), count)


def look_at_training(cfg, dataset, before):
    if before:
        return after(cfg, "train", before)
    stage = stages.train(cfg)
    row, ending = from_stage(stage), Ending.of(cfg)
    count, done = stage.read[stage.folder / "cubes.json"]["cubes"], 0
    for name in {path.name for folder in (stage.folder, stage.part) for path in folder.glob("model_*.pt")}:
        state, _ = resumed(stage, name, ending) if row.state != "done" else (None, "")
        done += state.epoch * len(state.cube_weights[0]) if state and state.epoch else 0
    return row._replace(share=1 - done / (count * cfg.epochs))


def look_at_scores(cfg, dataset, before):
    found, source = labels.read_labels(dataset, [frames.size_of(video) for video in dataset.videos])
    print(f"labels      {source}")
    if before:
        return after(cfg, "test", before)
    return from_stage(stages.test(cfg, dataset, load_models(cfg.model or stages.folder_of(cfg)), found, source))


LOOK = {"flow": look_at_flow, "boxes": look_at_boxes, "cubes": look_at_cubes, "train": look_at_training, "test": look_at_scores}


def expected_cubes(cfg, dataset, row):
    """The Row of the boxes, the number of boxes that there are or will be, and whether that is a guess."""
    if row.state == "done":
        return row, len(Boxes.load(stages.folder_of(cfg))), False
    try:
        if cfg.boxes_from and row.state != CANNOT:
            given = read_boxes(cfg.boxes_from, dataset.num_frames)
            return row, int(np.isin(given[:, 0], dataset.chosen).sum()), False
    except UserError as error:
        print(f"{row.stage:11} {CANNOT}: {error}")
        row = row._replace(state=CANNOT)
    return row, ASSUMED * len(dataset.chosen), True


def cost_of_flow(plan, row):
    cfg, image = plan.cfg, "{}x{}".format(*plan.size)
    weights = None if row.state == CANNOT else weights_file(cfg.flow_method, cfg.flow_weights)
    seconds = None if row.state == CANNOT else row.frames / plan.measured(
        f"flow by {cfg.flow_method}{weights and weights.name or ''} of {image}",
        lambda: rates.flow(METHODS[cfg.flow_method](weights, cfg.device), plan.first, plan.size, cfg.flow_dtype))
    room = row.frames * 2 * plan.size[0] * plan.size[1] * np.dtype(cfg.flow_dtype).itemsize
    return row._replace(work=f"{row.frames:,} frames by {cfg.flow_method}", seconds=seconds, bytes=room)


def cost_of_boxes(plan, row):
    cfg, seconds = plan.cfg, 0 if plan.cfg.boxes_from else None
    if row.state != CANNOT and not cfg.boxes_from:
        source = detector.source("", cfg.detector, cfg.detector_weights, cfg.detector_scale).get("weights", "")
        what = (f"boxes by {cfg.detector}{source}, scale {cfg.detector_scale}, {cfg.detector_tiles} tiles, of "
                f"{plan.size[0]}x{plan.size[1]}")
        seconds = row.frames / plan.measured(what, lambda: rates.boxes(cfg, plan.first, plan.device))
    return row._replace(work=f"{row.frames:,} frames", seconds=seconds, bytes=stages.boxes_room(plan.dataset))


def cost_of_cubes(plan, row):
    cfg = plan.cfg
    decoded, cut = plan.measured(f"cubes of {shape_of_cubes(cfg)} from {plan.size[0]}x{plan.size[1]}", lambda: rates.cubes(
        plan.first, stages.span(cfg.context_frame_num, cfg.border_mode), cfg.patch_size))
    seconds = row.frames / decoded + plan.cubes * (1 + cfg.use_flow) / cut
    return row._replace(work=plan.about, seconds=seconds, bytes=stages.cubes_room(cfg, plan.cubes))


def cost_of_training(plan, row):
    cfg = plan.cfg
    refining, scoring, step = network_rates(plan, cfg.batch_size)
    refined = max(0, cfg.epochs - cfg.warmup_epoch) if cfg.sp_mode != "none" else 0
    scored = max(1, cfg.epochs // cfg.score_every if cfg.score_every else 1)
    seconds = plan.cubes * (row.share * (cfg.epochs / step + refined / refining) + scored / scoring)
    return row._replace(work=f"{cfg.epochs * row.share:.0f} epochs of {plan.about}, {cfg.precision}", seconds=seconds,
                        bytes=stages.train_room(cfg, plan.cubes, network_of(cfg)))


def cost_of_scores(plan, row):
    seconds = plan.cubes / network_rates(plan, 256)[1] if plan.cfg.model else 0  # training has scored the cubes
    return row._replace(work=plan.about, seconds=seconds, bytes=stages.test_room(plan.cubes))


COST = {"flow": cost_of_flow, "boxes": cost_of_boxes, "cubes": cost_of_cubes, "train": cost_of_training, "test": cost_of_scores}


def network_of(cfg):
    channels = [count for count, _ in stages.cube_files(cfg).values()]
    return ReconCAE(cfg.num_feature_root, channels[0] // 3, cfg.use_flow, (*channels, 0)[1] // 2)


def network_rates(plan, batch):
    """Cubes per second that get self-paced weights, that are scored, that are learnt from."""
    cfg, shapes = plan.cfg, [(batch, count, plan.cfg.patch_size, plan.cfg.patch_size)
                             for count, _ in stages.cube_files(plan.cfg).values()]
    return plan.measured(f"network of width {cfg.num_feature_root}, {shape_of_cubes(cfg)}, batches of {batch}, {cfg.precision}",
                         lambda: rates.network(network_of(cfg), shapes, cfg.precision, plan.device))


def shape_of_cubes(cfg):
    """A cube's shape in words: 15x32x32, with flow 15+10x32x32."""
    return f"{'+'.join(str(channels) for channels, _ in stages.cube_files(cfg).values())}x{cfg.patch_size}x{cfg.patch_size}"


def table(rows):
    """Lines about what is left: stage, time, disk, work."""
    lines = ["", f"{'left to do':11} {'time':>8} {'disk':>10}   work"]
    for row in rows:
        lines.append(f"{row.stage:11} {rates.duration(row.seconds):>8} {f'{row.bytes / 1e9:.2f} GB':>10}   {row.work}")
    total = sum(row.seconds or 0 for row in rows)
    known = "in one process, as free as this machine was when it was measured"
    disk = sum(row.bytes for row in rows)
    return [*lines, f"{'all':11} {rates.duration(total):>8} {f'{disk / 1e9:.2f} GB':>10}   {known}", ""]


def full_disks(cfg, rows):
    """Prints what is needed and free on each disk; returns a line for each that is too small."""
    roots = {"flow": cfg.flow_root_dir, "test": cfg.results_dir}
    disks, lacking = {}, []
    for row in rows:
        root = Path(roots.get(row.stage, cfg.data_root_dir)).absolute()
        there = next(place for place in (root, *root.parents) if place.exists())
        stages_there, needed, _ = disks.get(os.stat(there).st_dev, ([], 0, there))
        disks[os.stat(there).st_dev] = ([*stages_there, row.stage], needed + row.bytes, there)
    for stages_there, needed, there in disks.values():
        free = shutil.disk_usage(there).free
        print(f"disk        {there}: {needed / 1e9:.2f} GB for {', '.join(stages_there)}; {free / 1e9:.2f} GB are free")
        lacking += [f"no room at {there}"] if free < needed else []
    return lacking


if __name__ == "__main__":
    run(main)
