"""Speed on a GPU: one command, some minutes, one JSON record.

    python -m benchmarks.gpu [--out gpu.json]                            the first card
    torchrun --nproc_per_node=N -m benchmarks.gpu                        also training on N cards
    python -m benchmarks.gpu --device cpu                                a reduced form that only shows that it runs

The record: scores of one network on the CPU and on the card, in fp32, tf32 and bf16; items per second of the five stages, each
with its floor (the network alone on prepared tensors; none for cubes, which the CPU crops); training in
each number format, channels_last and NCHW; peak memory of the card; AUROC of the demo, trained on the card. Networks have
random weights: speed does not depend on them.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from FlowNet2_src import FlowNet2
from FlowNet2_src.methods import Network
from fore_det import detector, yolov3
from models.cae import ReconCAE
from tools.rates import per_second
from train import train_epoch
from utils import files, ranks
from utils.cubes import Batch
from utils.device import FORMATS, device_of, precision_of, use_threads
from utils.run import SUITE, run
from utils.stc import crops

CFG = SimpleNamespace(sp_mode="mixture", shrink_rate=0.005, warmup_epoch=0, lambda_raw=1.0, lambda_of=1.0)
FULL = SimpleNamespace(width=32, cubes=2560, batch=256, images=32, seconds=2.0, pipeline=[])
REDUCED = SimpleNamespace(width=8, cubes=64, batch=32, images=1, seconds=0.0, pipeline=[
    "--videos", "1-2", "--epochs", "2", "--warmup_epoch", "1", "--num_feature_root", "8"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", default="gpu.json", metavar="FILE")
    args = parser.parse_args()
    device = device_of(args.device)
    use_threads(0, device)
    ranks.start(device)
    size = FULL if device.type == "cuda" else REDUCED
    if size is REDUCED:
        print(f"reduced: no card found, so this only shows that the benchmark runs on {device}; its rates mean nothing")
    formats = [word for word in FORMATS if device.type == "cpu" or FORMATS[word].native(device)]
    record = {"reduced": size is REDUCED, "device": name_of(device), "torch": torch.__version__, "cuda": torch.version.cuda,
              "python": platform.python_version(), "processes": ranks.WORLD, "training_cubes_per_second": {}}
    for word in formats:
        for layout in ("channels_last", "contiguous_format"):
            record["training_cubes_per_second"][f"{word} {layout}"] = training(size, word, getattr(torch, layout), device)
    if ranks.RANK == 0:
        record["scores_against_cpu_fp32"] = {word: scores(size, word, device) for word in formats}
        record["stages_per_second"] = {row.__name__: row(size, device) for row in (flow, boxes, cubes, scoring)}
        record["demo"] = demo(size, device)
        files.save_json(Path(args.out), record)
        print(f"wrote {args.out}")
    ranks.wait()


def name_of(device):
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device} ({platform.machine()})"


def measured(count, work, size, device):
    """Items per second, and the card's peak memory in MB."""
    if device.type != "cuda":
        return {"rate": per_second(count, work, size.seconds), "peak_mb": None}
    torch.cuda.reset_peak_memory_stats(device)

    def done():
        work()
        torch.cuda.synchronize(device)
    return {"rate": per_second(count, done, size.seconds), "peak_mb": torch.cuda.max_memory_allocated(device) / 2 ** 20}


def batches_of(size, layout, device):
    """This process's parts of random batches with flow."""
    torch.manual_seed(1)
    raw, flow = (torch.rand(size.batch, channels, 32, 32) for channels in (15, 10))
    own = ranks.own_part(size.batch)
    raw, flow = (cubes[own].to(device).contiguous(memory_format=layout) for cubes in (raw, flow))
    return [Batch(raw, flow, size.batch)] * (size.cubes // size.batch)


def training(size, word, layout, device):
    """An epoch as train.py does it, and its floor: forward, backward and step without self-paced weights."""
    torch.manual_seed(0)
    network = ranks.distributed(ReconCAE(size.width, 5, True).to(device, memory_format=layout))
    optimizer, autocast = torch.optim.Adam(network.parameters()), precision_of(word, device)
    batches, plain = batches_of(size, layout, device), SimpleNamespace(**{**vars(CFG), "sp_mode": "none"})
    if ranks.WORLD > 1:  # the same number of epochs on each process
        size = SimpleNamespace(**{**vars(size), "seconds": 0.0})

    def epoch(cfg):
        return measured(size.cubes, lambda: train_epoch(network, optimizer, batches, 0, 0, autocast, cfg), size, device)
    return epoch(CFG) | {"floor": epoch(plain)["rate"]}


def scores(size, word, device):
    """Largest difference of a cube's score from the CPU's in fp32, as a share of it."""
    torch.manual_seed(0)
    model, raw = ReconCAE(size.width, 5), torch.rand(size.batch, 15, 32, 32)
    with torch.no_grad():
        wanted = model.eval().raw_errors(raw)
        with precision_of(word, device):
            found = model.to(device).raw_errors(raw.to(device)).cpu()
    return ((found - wanted).abs() / wanted).max().item()


def flow(size, device):
    """FlowNet2 from decoded frames, in the stage's batches."""
    class Random(Network):
        def load(self, weights):
            return FlowNet2().eval().requires_grad_(False).to(memory_format=torch.channels_last)

        def run(self, images):
            return self.network(images)

    method = Random(None, str(device))
    images = [np.random.default_rng(k).integers(0, 256, (240, 360, 3), np.uint8) for k in range(size.images + 1)]
    floor_input = torch.rand(method.batch, 3, 2, 384, 512, device=device) * 255

    def stage():
        prepared = [method.prepare(image) for image in images]
        for start in range(0, size.images, method.batch):
            method.flow(list(zip(prepared[start:start + method.batch], prepared[start + 1:])))
    with torch.no_grad():
        floor = measured(method.batch, lambda: method.network(floor_input), size, device)["rate"]
    return measured(size.images, stage, size, device) | {"floor": floor}


def boxes(size, device):
    """YOLOv3 at scale 608 from decoded frames; biased so that it finds few objects, like a trained one."""
    network = yolov3.YOLOv3()
    for pred in network.bbox_head.convs_pred:
        torch.nn.init.constant_(pred.bias, -8)
    with tempfile.TemporaryDirectory() as folder:
        torch.save({"state_dict": network.state_dict()}, Path(folder, "yolov3.pth"))
        detect = detector.load_detector("yolov3", Path(folder, "yolov3.pth"), 608, device)
    images = [np.random.default_rng(k).integers(0, 256, (240, 360, 3), np.uint8) for k in range(size.images)]
    prepared, network = torch.rand(detect.batch, 3, 416, 608, device=device), network.to(device)
    with torch.no_grad():
        floor = measured(detect.batch, lambda: network(prepared), size, device)["rate"]
    return measured(size.images, lambda: detect(images), size, device) | {"floor": floor}


def cubes(size, device):
    """Cropping and resizing, on the CPU."""
    images, places = [np.zeros((240, 360, 3), np.uint8)] * 5, np.tile([0, 0, 40, 40], (100, 1))
    return measured(100, lambda: crops(images, places, 32), size, torch.device("cpu"))


def scoring(size, device):
    """The network's forward pass with and without the errors."""
    model, autocast = ReconCAE(size.width, 5, True).to(device, memory_format=torch.channels_last).eval(), nullcontext()
    (raw, flow_cubes, _), *_ = batches_of(size, torch.channels_last, device)
    precision_of("fp32", device)
    with torch.no_grad(), autocast:
        floor = measured(len(raw), lambda: model(raw), size, device)["rate"]
        return measured(len(raw), lambda: model.errors(raw, flow_cubes), size, device) | {"floor": floor}


def demo(size, device):
    """The demo's figures, by the five stages."""
    alone = {name: value for name, value in os.environ.items() if "RANK" not in name and "WORLD_SIZE" not in name}
    with tempfile.TemporaryDirectory() as folder:
        for words in (["-m", "tools.make_demo"], [SUITE / "run_pipeline.py", "--dataset_name", "demo", "--device", device,
                                                  *size.pipeline]):
            subprocess.run([sys.executable, *map(str, words)], cwd=folder, check=True, stdout=subprocess.DEVNULL,
                           env={**alone, "PYTHONPATH": str(SUITE)})
        figures = files.load_json(Path(folder, "results/demo/test/metrics.json"))
    return {key: figures[key] for key in ("auroc", "eer", "average_precision", "frames", "cubes")}


if __name__ == "__main__":
    run(main)
