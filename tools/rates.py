"""Measures this machine's speed once and keeps it, to estimate the time of a run."""

import contextlib
import platform
import statistics
import time

import cv2
import numpy as np
import torch

from fore_det import detector
from fore_det.boxes import moving
from utils import files, frames
from utils.device import cores, precision_of, workers
from utils.errors import UserError
from utils.stc import crops


class Rates:
    """Items per second of each kind of work, kept in a JSON file per machine."""

    def __init__(self, path, device):
        """device: its name and the number of threads, in words."""
        self.path, self.machine = path, f"{platform.node()}: {device}"
        self.known = {}
        with contextlib.suppress(UserError):  # missing or damaged: measured again
            known = files.load_json(path)
            if isinstance(known, dict) and all(isinstance(own, dict) for own in known.values()):
                self.known = known

    def __call__(self, what, measure):
        """The known rate of `what`, else what measure() returns, which is saved."""
        own = self.known.setdefault(self.machine, {})
        if what not in own:
            print(f"measuring   {what}", flush=True)
            own[what] = measure()
            with contextlib.suppress(UserError):  # not writable, or another process is writing it: measured again next time
                files.save_json(self.path, self.known)
        return own[what]


def per_second(count, work, seconds=1.0):
    """Items per second of work(), which does `count`: the median over some seconds, after a warm-up run."""
    times, start = [], time.perf_counter()
    work()
    while not times or len(times) < 9 and time.perf_counter() - start < seconds:
        before = time.perf_counter()
        work()
        times.append(time.perf_counter() - before)
    return count / statistics.median(times)


def duration(seconds):
    """12 s, 3 min, 2.5 h; ? for None."""
    if seconds is None:
        return "?"
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def flow(method, first, size, dtype):
    """Frames per second of a flow method (FlowNet2_src.methods), from decoding to resizing, without writing.

    first: first(n) gives the first n frames of a video, (H, W, 3); size: their H, W; dtype: of the flow files.
    """
    count = 16 if method.threaded else method.batch

    def work():
        images = list(frames.parallel(method.prepare, first(count + 1), cores()))
        batches = frames.batched(zip(images, images[1:] or images), method.batch)
        for flows in frames.parallel(method.flow, batches, cores() if method.threaded else 0):
            for flow in flows:
                cv2.resize(np.ascontiguousarray(flow), size[::-1]).astype(dtype)
    return per_second(min(count, max(1, len(first(count + 1)) - 1)), work)


def boxes(cfg, first, device):
    """Frames per second of the detector on the first frames; without one, of motion boxes with a few moving objects."""
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


def cubes(first, span, patch_size):
    """Frames decoded per second, and cubes of `span` patches cropped from decoded frames per second."""
    images = first(8)
    near = (images * span)[:span]
    return [per_second(len(images), lambda: first(8)),
            per_second(100, lambda: crops(near, np.tile([0, 0, 40, 40], (100, 1)), patch_size))]


def network(model, shapes, precision, device):
    """Cubes per second in the self-paced pass, in scoring, and in training.

    model: a ReconCAE; shapes: (B, 3T, P, P), and (B, 2T, P, P) with flow; precision: fp32 or bf16.
    """
    model, autocast = model.to(device, memory_format=torch.channels_last), precision_of(precision, device)
    raw, *flow = (torch.rand(shape, device=device).contiguous(memory_format=torch.channels_last) for shape in shapes)

    @torch.no_grad()
    def refine():
        with autocast:
            model.eval().raw_errors(raw).cpu()  # waits for the device

    @torch.no_grad()
    def score():
        with autocast:
            model.eval().errors(raw, *flow)[0].cpu()

    def step():
        model.train().zero_grad(set_to_none=True)
        with autocast:
            losses = model.errors(raw, *flow)
        sum(loss.mean() for loss in losses if loss is not None).backward()
        losses[0].detach().cpu()
    return [per_second(len(raw), work, 3) for work in (refine, score, step)]
