"""What a run would do, what is missing and what it would cost, before it starts.

    python run_pipeline.py --dataset_name D --mode MODE [flags] --dry_run

Prints the frames, packages, device and weights; for each stage whether it is done, to do, or outdated and why; its time and
disk space. Times come from rates that are measured once on this machine (some seconds) and kept in data/rates.json; nothing
else is written (torchvision may download the weights of its models). Until there are boxes, 10 per frame are assumed.
Exit code 2: something would stop the run.
"""

import functools
import math
import os
import shutil
from dataclasses import dataclass
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

ASSUMED = 10  # boxes per frame, until there are any
CANNOT = "cannot be done"


class Row(NamedTuple):
    """The state of a stage, and the cost of its remaining work."""

    state: str  # done, to do, outdated, or CANNOT
    why: str = ""  # why it is outdated or cannot be done, or what it uses
    work: str = ""
    seconds: float | None = None  # None: unknown
    bytes: int = 0
    changes: bool = True  # whether its output will change


@dataclass
class Plan:
    """What the stages are checked against; each check updates it for the next."""

    cfg: object
    dataset: object
    size: tuple  # (H, W)
    device: torch.device
    measured: rates.Rates
    cubes: int  # their number now or later
    about: str = "about "  # while that is an estimate
    before: str = ""  # the last stage whose output will change

    def first(self, count):
        """The first frames of the first video, decoded as the stages do."""
        video = self.dataset.videos[0]
        return list(frames.load(video, range(min(len(video), count)), workers(self.cfg.num_workers), self.cfg.on_bad_frame))

    def state(self, name, stage):
        """(state, why) of a stage; stage: its record.Stage, or None if its input must be made first."""
        if stage is None:
            folder = stages.results_of(self.cfg) if name == "test" else stages.folder_of(self.cfg)
            there = record.load(folder / f"{name}.json", {}) is not None
            return ("outdated", f"{record.MADE[self.before]} changed") if there else ("to do", "")
        state, why = stage.state
        return state, why.removeprefix("outdated: ").removesuffix("; rebuilding") if state == "outdated" else ""


def main(argv=None):
    cfg = parse_config(__doc__, argv)
    dataset, device = dataset_of(cfg), device_of(cfg.device)
    use_threads(cfg.threads, device)
    size = frames.size_of(dataset.videos[0])
    print(f"frames      {size[0]}x{size[1]} (height x width), {completeness(cfg, dataset)}")
    print("packages    " + ", ".join(f"{name} {version}" for name, version in versions().items() if name != "code"))
    trouble = find_card()[1] if device.type == "cpu" else ""
    print(f"device      {in_words(device)}; {free_cores()} of {cores()} cores are free{trouble and f'; no GPU: {trouble}'}")
    threads = f"{torch.get_num_threads()} threads of networks, {workers(cfg.num_workers)} of frames"
    measured = rates.Rates(Path(cfg.data_root_dir, "rates.json"), f"{in_words(device)}, {threads}")
    plan = Plan(cfg, dataset, size, device, measured, ASSUMED * len(dataset.chosen))
    rows = {stage: look(plan, stage) for stage in stages.chosen(cfg)}
    left = {stage: row for stage, row in rows.items() if row.state != "done"}
    if left:
        print("\n".join(table(left, cfg.frame_step)))
    lacking = [stage for stage, row in left.items() if row.state == CANNOT] + full_disks(cfg, left)
    if lacking:
        raise UserError(f"this run would stop: {', '.join(lacking)} (see above)")


def completeness(cfg, dataset):
    """Whether all frames exist, in a few words."""
    if dataset.notes:
        return "but see the notes above"
    return "complete" if cfg.dataset_name in DATASETS else "expected number unknown"


def in_words(device):
    """A device by its name."""
    if device.type != "cuda":
        return device.type
    there = torch.cuda.get_device_properties(device)
    return f"{device} ({there.name}, {there.total_memory / 2 ** 30:.0f} GiB)"


def look(plan, stage):
    """The Row of a stage, from the same object that its script uses; prints a line about it."""
    try:
        row = LOOK[stage](plan)
    except UserError as error:
        row = Row(CANNOT, str(error))
    print(f"{stage:11} {row.state}{f': {row.why}' if row.why else ''}", flush=True)
    if row.state != "done" and row.changes:
        plan.before = stage
    return row


def look_at_flow(plan):
    cfg, weights = plan.cfg, functools.cache(lambda: weights_file(plan.cfg.flow_method, plan.cfg.flow_weights))
    source = functools.cache(lambda: stamp(weights()))
    flows = [stages.Flow(cfg, video, frames.size_of(video), source) for video in plan.dataset.videos]
    left, changed = sum(len(flow.todo) for flow in flows), [flow.state[1] for flow in flows if flow.state[0] == "outdated"]
    if not left:
        return Row("done")
    what = f"flow by {cfg.flow_method}{weights() and weights().name or ''} of {plan.size[0]}x{plan.size[1]}"
    rate = plan.measured(what, lambda: rates.flow(
        METHODS[cfg.flow_method](weights(), cfg.device), plan.first, plan.size, cfg.flow_dtype))
    why = "; ".join(changed + [f"with {weights()}"] * bool(weights()))
    return Row("outdated" if changed else "to do", why, f"{left:,} frames with {cfg.flow_method}", left / rate,
               sum(map(stages.flow_room, flows)), bool(changed) or any(flow.old is None for flow in flows))


def look_at_boxes(plan):
    cfg, dataset, left = plan.cfg, plan.dataset, len(plan.dataset.chosen)
    source = functools.partial(detector.source, cfg.boxes_from, cfg.detector, cfg.detector_weights, cfg.detector_scale,
                               stages.input_of(stages.folder_of(cfg) / "boxes.json"))
    source()
    stage = None if plan.before and stages.reads_flow(cfg) else stages.boxes(cfg, dataset, source)
    if stage:
        left = sum(len(video.chosen) for video in dataset.videos if not stage.kept(f"{video.first:08d}.json"))
    state, why = plan.state("boxes", stage)
    if state == "done":
        plan.cubes, plan.about = len(Boxes.load(stages.folder_of(cfg))), ""
        return Row("done")
    row = Row(state, why, f"{left:,} frames", 0, stages.boxes_room(dataset))
    if cfg.boxes_from:
        given = read_boxes(cfg.boxes_from, dataset.num_frames)
        plan.cubes, plan.about = int(np.isin(given[:, 0], dataset.chosen).sum()), ""
        return row
    weights = cfg.detector != "none" and detector.weights_file(cfg.detector, cfg.detector_weights, cfg.detector_scale)
    if weights:
        files.size(weights)  # the record may vouch for it, but now it is needed
        row = row._replace(why="; ".join([why] * bool(why) + [f"with {weights}"]))
    what = (f"boxes by {cfg.detector}{source().get('weights', '')}, scale {cfg.detector_scale}, {cfg.detector_tiles} tiles, of "
            f"{plan.size[0]}x{plan.size[1]}")
    return row._replace(seconds=left / plan.measured(what, lambda: rates.boxes(cfg, plan.first, plan.device)))


def look_at_cubes(plan):
    cfg = plan.cfg
    state, why = plan.state("cubes", None if plan.before else stages.cubes(cfg, plan.dataset))
    if state == "done":
        return Row("done")
    decoded, cut = plan.measured(f"cubes of {shape_of_cubes(cfg)} from {plan.size[0]}x{plan.size[1]}", lambda: rates.cubes(
        plan.first, stages.span(cfg.context_frame_num, cfg.border_mode), cfg.patch_size))
    seconds = len(plan.dataset.chosen) / decoded + plan.cubes * (1 + cfg.use_flow) / cut
    return Row(state, why, f"{plan.about}{plan.cubes:,} cubes", seconds, stages.cubes_room(cfg, plan.cubes))


def look_at_training(plan):
    cfg = plan.cfg
    if cfg.min_steps:
        lengthen(cfg, plan.cubes)
    stage = None if plan.before else stages.train(cfg)
    state, why = plan.state("train", stage)
    if state == "done":
        return Row("done")
    share = 1 - done_of(stage, cfg) if stage else 1.0
    refining, scoring, step = network_rates(plan, cfg.batch_size)
    refined = max(0, cfg.epochs - cfg.warmup_epoch) if cfg.sp_mode != "none" else 0
    scored = max(1, cfg.epochs // cfg.score_every if cfg.score_every else 1)
    seconds = plan.cubes * (share * (cfg.epochs / step + refined / refining) + scored / scoring)
    return Row(state, why, f"{cfg.epochs * share:.0f} epochs of {plan.about}{plan.cubes:,} cubes, {cfg.precision}", seconds,
               stages.train_room(cfg, plan.cubes, network_of(cfg)))


def done_of(stage, cfg):
    """The share of a training, a record.Stage, that earlier runs have done."""
    count, done, ending = stage.read[stage.folder / "cubes.json"]["cubes"], 0, Ending.of(cfg)
    for name in {path.name for folder in (stage.folder, stage.part) for path in folder.glob("model_*.pt")}:
        state, _ = resumed(stage, name, ending)
        done += state.epoch * len(state.cube_weights[0]) if state and state.epoch else 0
    return done / (count * cfg.epochs)


def look_at_scores(plan):
    cfg, dataset = plan.cfg, plan.dataset
    found, source = labels.read_labels(dataset, [frames.size_of(video) for video in dataset.videos])
    print(f"labels      {source}")
    state, why = plan.state("test", None if plan.before else stages.test(
        cfg, dataset, load_models(cfg.model or stages.folder_of(cfg)), found, source))
    if state == "done":
        return Row("done")
    seconds = plan.cubes / network_rates(plan, 256)[1] if cfg.model else 0  # training has already scored the cubes
    return Row(state, why, f"{plan.about}{plan.cubes:,} cubes", seconds, stages.test_room(plan.cubes))


LOOK = {"flow": look_at_flow, "boxes": look_at_boxes, "cubes": look_at_cubes, "train": look_at_training, "test": look_at_scores}


def network_of(cfg):
    channels = [count for count, _ in stages.cube_files(cfg).values()]
    return ReconCAE(cfg.num_feature_root, channels[0] // 3, cfg.use_flow, (*channels, 0)[1] // 2)


def network_rates(plan, batch):
    """Cubes per second for self-paced weights, for scoring, and for a training step."""
    cfg, shapes = plan.cfg, [(batch, count, plan.cfg.patch_size, plan.cfg.patch_size)
                             for count, _ in stages.cube_files(plan.cfg).values()]
    return plan.measured(f"network of width {cfg.num_feature_root}, {shape_of_cubes(cfg)}, batches of {batch}, {cfg.precision}",
                         lambda: rates.network(network_of(cfg), shapes, cfg.precision, plan.device))


def shape_of_cubes(cfg):
    """A cube's shape in words: 15x32x32, with flow 15+10x32x32."""
    return f"{'+'.join(str(channels) for channels, _ in stages.cube_files(cfg).values())}x{cfg.patch_size}x{cfg.patch_size}"


def table(rows, frame_step):
    """Lines about the remaining work: stage, time, disk, work; and over an hour, which larger frame_step takes less."""
    seconds, size = sum(row.seconds or 0 for row in rows.values()), sum(row.bytes for row in rows.values())
    last = Row("", "", "in one process, with the machine as busy as when measured", seconds, size)
    hint = f"this takes more than an hour: for a first look add --frame_step {math.ceil(seconds / 3600) * frame_step}"
    return ["", f"{'left to do':11} {'time':>8} {'disk':>10}   work",
            *(f"{stage:11} {rates.duration(row.seconds):>8} {f'{row.bytes / 1e9:.2f} GB':>10}   {row.work}"
              for stage, row in {**rows, "all": last}.items()), "", *[hint] * (seconds > 3600)]


def full_disks(cfg, rows):
    """Prints the space needed and free on each disk; returns a line for each that is too small."""
    roots = {"flow": cfg.flow_root_dir, "test": cfg.results_dir}
    disks, lacking = {}, []
    for stage, row in rows.items():
        root = Path(roots.get(stage, cfg.data_root_dir)).absolute()
        there = next(place for place in (root, *root.parents) if place.exists())
        _, needed, stages_there = disks.get(os.stat(there).st_dev, (there, 0, ()))
        disks[os.stat(there).st_dev] = (there, needed + row.bytes, (*stages_there, stage))
    for there, needed, stages_there in disks.values():
        free = shutil.disk_usage(there).free
        print(f"disk        {there}: {needed / 1e9:.2f} GB for {', '.join(stages_there)}; {free / 1e9:.2f} GB are free")
        lacking += [f"no room at {there}"] if free < needed else []
    return lacking


if __name__ == "__main__":
    run(main)
