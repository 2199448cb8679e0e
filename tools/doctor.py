"""What a run would do, what it lacks and what it would cost, before anything is started.

    python run_pipeline.py --dataset_name D --mode MODE [flags] --dry_run

Frames found, and whether they are as many as the dataset is known to have; packages, device, weights; per stage whether
it is done, to do, or stale and why; its time and its room on the disk, and what is free there. Time comes from rates that
are measured on this machine, once for each method and size (some seconds), and kept in data/rates.json; nothing else is
written (torchvision may fetch the weights of its models). Before there are boxes, 10 per frame are assumed. Ends with exit
code 2 where something would stop the run.
"""

import functools
import os
import shutil
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch

from FlowNet2_src.methods import METHODS, stamp, weights_file
from fore_det import detector
from fore_det.boxes import moving
from fore_det.published import read_boxes
from models.cae import ReconCAE
from models.checkpoint import earlier, load_models
from utils import files, frames, labels, plan, record
from utils.config import dataset_of, parse_config
from utils.datasets import DATASETS
from utils.errors import UserError
from utils.rates import Rates, cube_rates, duration, flow_rate, network_rates, per_second
from utils.run import cores, device_of, free_cores, run, use_threads, versions, workers

ASSUMED = 10  # boxes per frame, before there are any
CANNOT = "cannot be done"


class Row(NamedTuple):
    """How a stage stands, and what is left of its work and costs."""

    stage: str
    state: str  # done, to do, stale, or CANNOT
    why: str = ""  # where it is stale or cannot be done; else what it is done with
    made: dict | None = None  # the record that its output has or would have; None where that cannot be told yet
    frames: int = 0  # left to do
    share: float = 1.0  # of the cubes, or of the training, that is left to do
    work: str = ""
    seconds: float | None = 0.0  # None: not known
    bytes: int = 0


def main():
    cfg = parse_config(__doc__)
    use_threads(cfg.threads)
    dataset, device = dataset_of(cfg), device_of(cfg.device)
    size = frames.size_of(dataset.videos[0])
    print(f"frames      {size[0]}x{size[1]} (height x width), {completeness(cfg, dataset)}")
    print("packages    " + ", ".join(f"{name} {version}" for name, version in versions().items() if name != "code"))
    print(f"device      {in_words(device)}; {free_cores()} of {cores()} cores are free now")
    rows = {}
    for stage in plan.stages(cfg):
        try:
            rows[stage] = LOOK[stage](cfg, dataset, Path(cfg.data_root_dir, cfg.dataset_name, cfg.mode), rows)
        except UserError as error:
            rows[stage] = Row(stage, CANNOT, str(error), frames=len(dataset.chosen))
        print(f"{stage:11} {rows[stage].state}{f': {rows[stage].why}' if rows[stage].why else ''}")
    threads = f"{torch.get_num_threads()} threads of networks, {workers(cfg.num_workers)} of frames"
    rates = Rates(Path(cfg.data_root_dir, "rates.json"), f"{in_words(device)}, {threads}")
    rows["boxes"], cubes, guess = expected(cfg, dataset, rows["boxes"])
    left = []
    for row in (row for row in rows.values() if row.state != "done"):
        try:
            left.append(cost(cfg, row, dataset, size, device, rates, cubes, guess))
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
    if device.type == "cpu":
        return "cpu"
    there = torch.cuda.get_device_properties(device)
    return f"{device} ({there.name}, {there.total_memory / 2 ** 30:.0f} GiB)"


def look_at_flow(cfg, dataset, folder, rows):
    left, wanted, changed = 0, [], []
    for video in dataset.videos:
        needed = plan.flow_frames(cfg, video)
        todo, old, new = plan.flow_left(cfg, video, needed, lambda: stamp(weights_file(cfg.flow_method, cfg.flow_weights)))
        changed += [video.name] if old and old["id"] != new["id"] else []
        left += len(todo)
        wanted.append(new)
    made = {**wanted[0]["settings"], "id": record.digest([one["id"] for one in wanted])}
    if not left:
        return Row("flow", "done", made=made)
    weights = weights_file(cfg.flow_method, cfg.flow_weights)
    why = [f"frames of {', '.join(changed)} have changed"] * bool(changed) + [f"by {weights}"] * bool(weights)
    return Row("flow", "stale" if changed else "to do", "; ".join(why), made, left)


def look_at_boxes(cfg, dataset, folder, rows):
    known = (record.load(folder / "boxes.json") or {}).get("input", {})
    source = detector.source(cfg.boxes_from, cfg.detector, cfg.detector_weights, cfg.detector_scale, known)
    flow = rows["flow"].made if plan.boxes_read_flow(cfg) else None
    if plan.boxes_read_flow(cfg) and flow is None:
        return Row("boxes", "to do", frames=len(dataset.chosen))
    wanted, part = plan.wanted_boxes(cfg, dataset, source, flow), folder / "bboxes.part"
    begun = (record.load(part / "record.json") or {}).get("id") == wanted["id"]
    left = sum(len(v.chosen) for v in dataset.videos if not (begun and (part / f"{v.first:08d}.npy").is_file()))
    row = compared("boxes", folder / "boxes.json", wanted, ["bboxes.npy"], left)
    if row.state == "done" or cfg.boxes_from or cfg.detector == "none":
        return row
    weights = detector.weights_file(cfg.detector, cfg.detector_weights, cfg.detector_scale)
    if weights:
        files.size(weights)  # it may be believed from the record, but now it is read
    return row._replace(why="; ".join([row.why] * bool(row.why) + [f"by {weights}"] * bool(weights)))


def look_at_cubes(cfg, dataset, folder, rows):
    flow = rows["flow"].made if cfg.use_flow else None
    if rows["boxes"].made is None or cfg.use_flow and flow is None:
        return Row("cubes", "to do", frames=len(dataset.chosen))
    wanted, done = plan.wanted_cubes(cfg, rows["boxes"].made["id"], flow), set()
    for part in (record.load(path) for path in folder.glob("cubes.part*.json")):  # of a stopped run, one for each rank
        done |= set(part["videos"]) if part["id"] == wanted["id"] else set()
    left = sum(len(video.chosen) for k, video in enumerate(dataset.videos) if k not in done)
    row = compared("cubes", folder / "cubes.json", wanted, plan.cube_files(cfg), left)
    return row._replace(share=left / len(dataset.chosen))


def look_at_training(cfg, dataset, folder, rows):
    if rows["cubes"].made is None:
        return Row("train", "to do")
    row = compared("train", folder / "train.json", record.wanted(cfg, "train", cubes=rows["cubes"].made["id"]))
    if row.state == "done" or rows["cubes"].state != "done":
        return row
    done, count = 0, record.load(folder / "cubes.json")["cubes"]
    for path in {path.with_name(path.name.replace(".resume.pt", ".pt")) for path in folder.glob("model_*.pt")}:
        state, _ = earlier(path, row.made, plan.epochs_to_end(cfg), cfg.epochs)
        done += state["epoch"] * len(state["cube_weights"][0]) if state else 0
    return row._replace(share=1 - done / (count * cfg.epochs))


def look_at_scores(cfg, dataset, folder, rows):
    found, source = labels.read_labels(dataset, [frames.size_of(video) for video in dataset.videos])
    if any(rows[stage].state != "done" for stage in ("cubes", "train") if stage in rows):
        return Row("test", "to do")
    models = load_models(cfg.model or folder)
    wanted = plan.wanted_scores(cfg, rows["cubes"].made["id"], models.recipe["id"], models.statistics, found, source)
    return compared("test", Path(cfg.results_dir, cfg.dataset_name, cfg.mode, "test.json"), wanted, ["metrics.json"])


LOOK = {"flow": look_at_flow, "boxes": look_at_boxes, "cubes": look_at_cubes, "train": look_at_training, "test": look_at_scores}


def compared(stage, path, wanted, outputs=(), count=0):
    """A Row from what a record tells and what is wanted now."""
    done, why = record.is_done(path, wanted, outputs)
    stale = why.startswith("made differently")
    return Row(stage, "done" if done else "stale" if stale else "to do", why if stale else "", wanted, count)


def expected(cfg, dataset, row):
    """The Row of the boxes, the number of boxes that there are or will be, and whether that is a guess."""
    if row.state == "done":
        return row, record.load(Path(cfg.data_root_dir, cfg.dataset_name, cfg.mode, "boxes.json"))["boxes"], False
    try:
        if cfg.boxes_from and row.state != CANNOT:
            given = read_boxes(cfg.boxes_from, dataset.num_frames)
            return row, int(np.isin(given[:, 0], dataset.chosen).sum()), False
    except UserError as error:
        print(f"{row.stage:11} {CANNOT}: {error}")
        row = row._replace(state=CANNOT)
    return row, ASSUMED * len(dataset.chosen), True


def cost(cfg, row, dataset, size, device, rates, cubes, guess):
    """The Row with its work, seconds and bytes; cubes: how many there are, guess: or may be."""
    about, image = f"{'about ' * guess}{cubes:,} cubes", f"{size[0]}x{size[1]}"
    room = functools.partial(plan.room, cfg, row.stage, row.frames, size, cubes)
    first = functools.partial(first_frames, cfg, dataset.videos[0])
    if row.stage == "flow":
        weights = stamp(weights_file(cfg.flow_method, cfg.flow_weights)) if row.state != CANNOT else ""
        seconds = None if row.state == CANNOT else row.frames / rates(
            f"flow by {cfg.flow_method}{weights or ''} of {image}", lambda: flow_rate(METHODS[cfg.flow_method](
                weights_file(cfg.flow_method, cfg.flow_weights), cfg.device), first, size, cfg.flow_dtype))
        return row._replace(work=f"{row.frames:,} frames by {cfg.flow_method}", seconds=seconds, bytes=room())
    if row.stage == "boxes":
        seconds = 0 if cfg.boxes_from else None
        if row.state != CANNOT and not cfg.boxes_from:
            source = detector.source("", cfg.detector, cfg.detector_weights, cfg.detector_scale).get("weights", "")
            what = f"boxes by {cfg.detector}{source}, scale {cfg.detector_scale}, of {image}"
            seconds = row.frames / rates(what, lambda: boxes_rate(cfg, first, device))
        return row._replace(work=f"{row.frames:,} frames", seconds=seconds, bytes=room())
    if row.stage == "cubes":
        decoded, cut = rates(f"cubes of {shape_of_cubes(cfg)} from {image}", lambda: cube_rates(
            first, plan.span(cfg.context_frame_num, cfg.border_mode), cfg.patch_size))
        seconds = row.frames / decoded + cubes * row.share * (1 + cfg.use_flow) / cut
        return row._replace(work=about, seconds=seconds, bytes=room() if row.share == 1 else 0)  # begun: the room is taken
    if row.stage == "test" and not cfg.model:  # training has scored the cubes
        return row._replace(work=about, seconds=0, bytes=room())
    batch, channels = cfg.batch_size if row.stage == "train" else 256, [count for count, _ in plan.cube_files(cfg).values()]
    refining, scoring, step, network = rates(
        f"network of width {cfg.num_feature_root}, {shape_of_cubes(cfg)}, batches of {batch}, {cfg.precision}",
        lambda: network_rates(ReconCAE(cfg.num_feature_root, channels[0] // 3, cfg.use_flow, (*channels, 0)[1] // 2),
                              [(batch, count, cfg.patch_size, cfg.patch_size) for count in channels], cfg.precision, device))
    if row.stage == "test":
        return row._replace(work=about, seconds=cubes / scoring, bytes=room())
    refined = max(0, cfg.epochs - cfg.warmup_epoch) if cfg.sp_mode != "none" else 0
    scored = max(1, cfg.epochs // cfg.score_every if cfg.score_every else 1)
    seconds = cubes * (row.share * (cfg.epochs / step + refined / refining) + scored / scoring)
    return row._replace(work=f"{cfg.epochs * row.share:.0f} epochs of {about}, {cfg.precision}", seconds=seconds,
                        bytes=room(network, cfg.h_block * cfg.w_block))


def shape_of_cubes(cfg):
    """A cube's shape in words: 15x32x32, with flow 15+10x32x32."""
    return f"{'+'.join(str(channels) for channels, _ in plan.cube_files(cfg).values())}x{cfg.patch_size}x{cfg.patch_size}"


def table(rows):
    """Lines about what is left: stage, time, disk, work."""
    lines = ["", f"{'left to do':11} {'time':>8} {'disk':>10}   work"]
    for row in rows:
        lines.append(f"{row.stage:11} {duration(row.seconds):>8} {f'{row.bytes / 1e9:.2f} GB':>10}   {row.work}")
    total = sum(row.seconds or 0 for row in rows)
    known = "in one process, as free as this machine was when it was measured"
    return [*lines, f"{'all':11} {duration(total):>8} {f'{sum(row.bytes for row in rows) / 1e9:.2f} GB':>10}   {known}", ""]


def full_disks(cfg, rows):
    """Prints what is needed and free on each disk; returns a line for each that is too small."""
    roots = {"flow": cfg.flow_root_dir, "test": cfg.results_dir}
    disks, lacking = {}, []
    for row in rows:
        root = Path(roots.get(row.stage, cfg.data_root_dir)).absolute()
        there = next(place for place in (root, *root.parents) if place.exists())
        stages, needed, _ = disks.get(os.stat(there).st_dev, ([], 0, there))
        disks[os.stat(there).st_dev] = ([*stages, row.stage], needed + row.bytes, there)
    for stages, needed, there in disks.values():
        free = shutil.disk_usage(there).free
        print(f"disk        {there}: {needed / 1e9:.2f} GB for {', '.join(stages)}; {free / 1e9:.2f} GB are free")
        lacking += [f"no room at {there}"] if free < needed else []
    return lacking


def first_frames(cfg, video, count):
    """The first frames of a video, decoded as the stages do."""
    return list(frames.load(video, range(min(len(video), count)), workers(cfg.num_workers), cfg.on_bad_frame))


def boxes_rate(cfg, first, device):
    """Frames per second of the detector on the first frames; without one, of motion boxes where a few things move."""
    images = first(8 if device.type == "cuda" else 1)
    if cfg.detector != "none":
        weights = detector.weights_file(cfg.detector, cfg.detector_weights, cfg.detector_scale)
        detect = detector.load_detector(cfg.detector, weights, cfg.detector_scale, device)
        return per_second(len(images), lambda: detect(images))
    flow = np.zeros((*images[0].shape[:2], 2), np.float32)
    for k in range(4):
        cv2.rectangle(flow, (20 * k, 10), (20 * k + 15, 50), (2, 2), -1)
    none, rest = np.empty((0, 4), np.float32), (cfg.motion_thr, cfg.min_area, cfg.box_margin)
    return per_second(16, lambda: list(frames.parallel(
        lambda _: moving(flow, none, *rest), range(16), workers(cfg.num_workers))))


if __name__ == "__main__":
    run(main)
