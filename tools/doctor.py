"""What a run would do, what it lacks and what it would cost, before anything is started.

    python run_pipeline.py --dataset_name D --mode MODE [flags] --dry_run
    python -m tools.doctor --dataset_name D --mode MODE [flags]             the same

Frames found, and whether they are as many as the dataset is known to have; packages, device, weights; per stage whether
it is done, to do, or stale and why; its time and its room on the disk, and what is free there. Time comes from rates that
are measured on this machine, once for each method and size (some seconds), and kept in data/rates.json; nothing else is
written. Before there are boxes, 10 per frame are assumed. Ends with exit code 2 where something would stop the run.
"""

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
from models.checkpoint import load_models
from utils import files, frames, labels, plan, record
from utils.config import dataset_of, parse_config
from utils.datasets import DATASETS
from utils.errors import UserError
from utils.rates import Rates, duration, per_second
from utils.run import cores, device_of, free_cores, precision_of, run, use_threads, versions, workers
from utils.stc import crop

ASSUMED = 10  # boxes per frame, before there are any


class Row(NamedTuple):
    """How a stage stands, and what is left of its work and costs."""

    stage: str
    state: str  # done, to do, stale, cannot be done
    why: str = ""  # where it is stale or cannot be done; else what it is done with
    made: dict | None = None  # the record that its output has or would have; None where that cannot be told yet
    frames: int = 0  # left to do
    share: float = 1.0  # of the training that is left to do
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
            rows[stage] = Row(stage, "cannot be done", str(error), frames=len(dataset.chosen))
        print(f"{stage:11} {rows[stage].state}{f': {rows[stage].why}' if rows[stage].why else ''}")
    rates = Rates(Path(cfg.data_root_dir, "rates.json"), in_words(device))
    left = []
    for row in (row for row in rows.values() if row.state != "done"):
        try:
            left.append(cost(cfg, row, dataset, size, device, rates, *expected(cfg, dataset, rows["boxes"])))
        except UserError as error:  # weights that can't be read, for one, or a detector that can't be imported
            print(f"{row.stage:11} cannot be done: {error}")
            left.append(row._replace(state="cannot be done"))
    if left:
        print("\n".join(table(left)))
    lacking = [row.stage for row in left if row.state == "cannot be done"] + full_disks(cfg, left)
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
    return row._replace(why="; ".join([row.why] * bool(row.why) + [f"by {weights}"] * bool(weights)))


def look_at_cubes(cfg, dataset, folder, rows):
    flow = rows["flow"].made if cfg.use_flow else None
    if rows["boxes"].made is None or cfg.use_flow and flow is None:
        return Row("cubes", "to do", frames=len(dataset.chosen))
    wanted = plan.wanted_cubes(cfg, rows["boxes"].made["id"], flow)
    return compared("cubes", folder / "cubes.json", wanted, plan.cube_files(cfg), len(dataset.chosen))


def look_at_training(cfg, dataset, folder, rows):
    if rows["cubes"].made is None:
        return Row("train", "to do")
    row = compared("train", folder / "train.json", record.wanted(cfg, "train", cubes=rows["cubes"].made["id"]))
    if row.state == "done" or rows["cubes"].state != "done":
        return row
    done, count = 0, record.load(folder / "cubes.json")["cubes"]
    for path in folder.glob("model_*.pt"):  # finished blocks of this training, and the one that was stopped
        state = files.load_checkpoint(path, {"training", "epoch", "cube_weights"})
        done += state["epoch"] * len(state["cube_weights"][0]) if state["training"] == record.training_id(row.made) else 0
    return row._replace(share=1 - done / (count * cfg.epochs))


def look_at_scores(cfg, dataset, folder, rows):
    path = Path(cfg.results_dir, cfg.dataset_name, cfg.mode, "test.json")
    recipe = load_models(cfg.model).recipe if cfg.model else rows["train"].made
    if any(row.state != "done" for row in rows.values()):
        return Row("test", "to do", "" if record.load(path) is None else "what they are made from will be")
    found, source = labels.read_labels(dataset, record.load(folder / "boxes.json")["sizes"])
    models = ((record.load(path) or {}).get("input", {}).get("model") or [None, None])[1]  # the digest of their statistics
    wanted = record.wanted(cfg, "test", cubes=rows["cubes"].made["id"], model=[recipe["id"], models], labels=source,
                           abnormal=None if found is None else record.digest(found.tolist()))
    return compared("test", path, wanted, ["metrics.json"])


LOOK = {"flow": look_at_flow, "boxes": look_at_boxes, "cubes": look_at_cubes, "train": look_at_training, "test": look_at_scores}


def compared(stage, path, wanted, outputs=(), count=0):
    """A Row from what a record tells and what is wanted now."""
    done, why = record.is_done(path, wanted, outputs)
    stale = why.startswith("made differently")
    return Row(stage, "done" if done else "stale" if stale else "to do", why if stale else "", wanted, count)


def expected(cfg, dataset, boxes):
    """How many boxes there are or will be, and whether that is a guess."""
    if boxes.state == "done":
        return record.load(Path(cfg.data_root_dir, cfg.dataset_name, cfg.mode, "boxes.json"))["boxes"], False
    if cfg.boxes_from and boxes.state != "cannot be done":
        return int(np.isin(read_boxes(cfg.boxes_from, dataset.num_frames)[:, 0], dataset.chosen).sum()), False
    return ASSUMED * len(dataset.chosen), True


def cost(cfg, row, dataset, size, device, rates, cubes, guess):
    """The Row with its work, seconds and bytes; cubes: how many there are, guess: or may be."""
    seconds, network, about = None, 0, f"{'about ' * guess}{cubes:,} cubes"
    work = {"flow": f"{row.frames:,} frames by {cfg.flow_method}", "boxes": f"{row.frames:,} frames", "cubes": about,
            "train": f"{cfg.epochs * row.share:.0f} epochs of {about}, {cfg.precision}", "test": about}[row.stage]
    if row.stage == "flow" and row.state != "cannot be done":
        seconds = row.frames / rates(f"flow by {cfg.flow_method}", lambda: flow_rate(cfg, dataset.videos[0]))
    elif row.stage == "boxes" and row.state != "cannot be done":
        seconds = 0 if cfg.boxes_from else row.frames / rates(
            f"boxes by {cfg.detector}, {cfg.detector_scale}, of {size[0]}x{size[1]}", lambda: boxes_rate(cfg, dataset, device))
    elif row.stage == "cubes":
        what = f"cubes of {shape_of_cubes(cfg)} from {size[0]}x{size[1]}"
        decoded, cut = rates(what, lambda: cube_rates(cfg, dataset.videos[0]))
        seconds = row.frames / decoded + cubes / cut
    elif row.stage in ("train", "test"):
        what = f"network of width {cfg.num_feature_root}, {shape_of_cubes(cfg)}, batches of {cfg.batch_size}, {cfg.precision}"
        forward, step, network = rates(what, lambda: network_rates(cfg, device))
        refined = max(0, cfg.epochs - cfg.warmup_epoch) if cfg.sp_mode != "none" else 0
        scored = cfg.epochs // cfg.score_every if cfg.score_every else 1
        trained = cubes * row.share * (cfg.epochs / step + (refined + scored) / forward)
        seconds = trained if row.stage == "train" else cubes / forward if cfg.model else 0  # else training has scored them
    return row._replace(work=work, seconds=seconds, bytes=plan.room(cfg, row.stage, row.frames, size, cubes, network))


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


def flow_rate(cfg, video):
    """Frames per second, with the method's own weights, on the first frames."""
    method = METHODS[cfg.flow_method](weights_file(cfg.flow_method, cfg.flow_weights), cfg.device)
    count = 17 if method.threaded else method.batch + 1
    images = [method.prepare(frame) for frame in frames.load(video, range(min(len(video), count)))]
    batches = list(frames.batched(zip(images, images[1:] or images), method.batch))
    threads = workers(cfg.num_workers) if method.threaded else 0
    return per_second(sum(map(len, batches)), lambda: list(frames.parallel(method.flow, batches, threads)))


def boxes_rate(cfg, dataset, device):
    """Frames per second of the detector on the first frames; without one, of motion boxes where a few things move."""
    video = dataset.videos[0]
    images = list(frames.load(video, range(min(len(video), 8 if device.type == "cuda" else 1))))
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


def cube_rates(cfg, video):
    """Frames per second that are decoded, and cubes per second that are cut out of decoded ones."""
    few = range(min(len(video), 8))
    decoded = per_second(len(few), lambda: list(frames.load(video, few, workers(cfg.num_workers))))
    span = plan.span(cfg.context_frame_num, cfg.border_mode)
    images = list(frames.load(video, few))
    near = (images * span)[:span]
    cut = per_second(100, lambda: [crop(near, (10, 10, 50, 50), cfg.patch_size) for _ in range(100)])
    return [decoded, cut / (1 + cfg.use_flow)]


def network_rates(cfg, device):
    """Cubes per second that are scored, and that are learnt from; bytes of the network."""
    channels = [count for count, _ in plan.cube_files(cfg).values()]
    model = ReconCAE(cfg.num_feature_root, channels[0] // 3, cfg.use_flow, channels[1] // 2 if cfg.use_flow else None)
    model = model.to(device, memory_format=torch.channels_last)
    raw, *flow = (torch.rand(cfg.batch_size, count, cfg.patch_size, cfg.patch_size, device=device).contiguous(
        memory_format=torch.channels_last) for count in channels)
    autocast = precision_of(cfg.precision, device)

    def forward():
        with torch.no_grad(), autocast:
            model.eval().raw_errors(raw).cpu()  # waits for the device

    def step():
        model.train().zero_grad(set_to_none=True)
        with autocast:
            losses = model.errors(raw, *flow)
        sum(loss.mean() for loss in losses if loss is not None).backward()
        losses[0].detach().cpu()
    rates = [per_second(cfg.batch_size, work, 3) for work in (forward, step)]
    return [*rates, sum(value.nbytes for value in model.state_dict().values())]


if __name__ == "__main__":
    run(main)
