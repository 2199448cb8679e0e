"""The CUDA path without a card, by two stand-ins: whole scripts on a pretended card (pretended.py), and FakeTensorMode, torch's
own rules of devices, for the large networks. Not shown: kernels, NCCL, speed; `python -m benchmarks.gpu` is for a card."""

import contextlib
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import cv2
import numpy as np
import pytest
import torch
from conftest import SUITE, run_script
from pretended import CARD, pretended
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from trees import ucsd_tree

import FlowNet2_src
from fore_det import yolov3
from models.cae import ReconCAE
from train import train_epoch
from utils import device, files, record
from utils.cubes import Batch
from utils.errors import UserError
from utils.run import run

NAME, DATA = ["--dataset_name", "UCSDped2"], Path("data/UCSDped2/test")
SMALL = ["--num_feature_root", "4", "--epochs", "3", "--warmup_epoch", "1", "--batch_size", "16", "--use_flow", "true"]
OTHER = ["--use_flow", "true", "--data_root_dir", "other"]


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Cubes with flow of two small videos, and other ones to score."""
    with contextlib.chdir(tmp_path_factory.mktemp("tree")):
        ucsd_tree(".", frames=8)
        run_script("calc_optical_flow.py", *NAME, "--flow_method", "dis", "--use_flow", "true")
        for more, margin in ((OTHER[:2], "2"), (OTHER, "4")):
            run_script("extract_bbox.py", *NAME, *more, "--detector", "none", "--min_area", "100", "--box_margin", margin)
            run_script("extract_stc.py", *NAME, *more)
        yield Path.cwd()


def on_card(script, *words, rc=0, **how):
    """Runs a script on the pretended card: what it counted, and what it printed."""
    with pretended(**how) as card:
        done = run_script(script, *words, rc=rc)
    return card.counts, done.stdout + done.stderr


@pytest.mark.parametrize("more", [[], ["--precision", "bf16", "--average_last", "2", "--score_every", "1"]])
def test_training_scores_and_report_are_the_cpus_bytes(tree, more):
    found = []
    for where in ("cpu", "auto"):
        (DATA / "train.json").unlink(missing_ok=True), [path.unlink() for path in DATA.glob("model*.pt")]
        with pretended() if where == "auto" else contextlib.nullcontext() as card:
            printed = run_script("train.py", *NAME, *SMALL, *more, "--device", where).stdout
            run_script("test.py", *NAME, *OTHER[2:], "--model", DATA, "--results_dir", where, "--device", where)
            run_script("test.py", *NAME, "--device", where), run_script("tools.report", "UCSDped2", "test")
        content = files.load_checkpoint(DATA / "model_0_0.pt", {"model"})
        found.append([content["scores"], *content["model"].values(), Path(where, "UCSDped2/test/box_scores.npy").read_bytes()])
    assert all(one == two if isinstance(one, bytes) else torch.equal(one, two) for one, two in zip(*found))
    assert "on cuda:0" in printed and "copying all cubes" in printed and card.counts["cuda"] > 1000


def test_no_batch_waits_and_copies_are_pinned_also_where_batch_norm_is_estimated_anew(tree):
    """As many waits for 4 cubes a batch as for 16, and for cubes on the card, which takes them with 3 GB beside."""
    waits = []
    for size, free in (("16", 0), ("4", 0), ("4", 3.1e9)):
        with mock.patch("utils.cubes._on_device", lambda array, where, rows=0: torch.from_numpy(np.array(array)).to(where)):
            counts, printed = on_card("train.py", *NAME, *SMALL, "--batch_size", size, "--seed", size + str(int(free)),
                                      "--recalibrate_bn", "true", free=free)
        waits.append(counts["wait"])
        assert ("copying all cubes" in printed) == (free > 0) and counts["unpinned"] <= waits[0] and "resuming" not in printed
    assert len(set(waits)) == 1, waits


def test_a_cards_training_is_resumed_and_one_thread_gathers(tree):
    save = files.save_torch

    def stop(path, content):
        save(path, content)
        if content["epoch"] == 2:
            raise KeyboardInterrupt
    with mock.patch.object(files, "save_torch", stop):
        on_card("train.py", *NAME, *SMALL, "--seed", "3", rc=130)
    with mock.patch.object(torch, "set_num_threads") as threads, mock.patch.object(torch, "get_num_threads", lambda: 2):
        assert "resuming after epoch 2" in on_card("train.py", *NAME, *SMALL, "--seed", "3")[1]
    threads.assert_called_once_with(1)


class Moves(nn.Module):
    """In place of both large networks: sums of single values, the same in any batch."""

    def __init__(self, *_):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, images):
        if images.ndim == 5:
            return (images[:, :2, 1] - images[:, :2, 0]) * self.weight
        cells = [nn.functional.avg_pool2d(images[:, :1], stride) * self.weight for stride in yolov3.STRIDES]
        return [torch.cat([cell * 8 - 3] * 255, dim=1) for cell in cells]


def test_flow_and_boxes_are_the_cpus_bytes_also_where_memory_is_short(tree, monkeypatch):
    monkeypatch.setattr(FlowNet2_src, "load_flownet2", Moves), monkeypatch.setattr(yolov3, "load_yolov3", Moves)
    Path("weights").write_bytes(b"1")
    threads = set()
    prepare, forward = yolov3.preprocess, Moves.forward
    monkeypatch.setattr(yolov3, "preprocess",
                        lambda image, scale: (threads.add(threading.get_ident()), prepare(image, scale))[1])

    def short(self, images):
        if len(images) > 3:
            raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
        return forward(self, images)

    found = []
    for where in ("cpu", "auto", "short"):
        words = [*NAME, "--device", where.replace("short", "auto"),
                 *(f"--{kind}_root_dir=new/{where}" for kind in ("flow", "data"))]
        monkeypatch.setattr(Moves, "forward", short if where == "short" else forward)
        with contextlib.nullcontext() if where == "cpu" else pretended():
            printed = run_script("calc_optical_flow.py", *words, "--flow_weights", "weights").stdout
            printed += run_script("extract_bbox.py", *words, "--detector_weights", "weights", "--num_workers", "1").stdout
        found.append([path.read_bytes() for path in sorted(Path("new", where).rglob("*.npy"))])
    assert found[0] == found[1] == found[2] and printed.count("batches of 4 from here on") == printed.count("batches of 2") == 2
    assert threading.get_ident() not in threads


def test_the_large_networks_on_one_device():
    def faked(module):
        for part in module.modules():
            for store in (part._parameters, part._buffers):
                for name, value in store.items():
                    made = None if value is None else torch.empty_strided(
                        value.shape, value.stride(), dtype=value.dtype, device=CARD)
                    store[name] = nn.Parameter(made, False) if isinstance(value, nn.Parameter) else made
        return module

    with FakeTensorMode(), torch.no_grad():
        assert faked(FlowNet2_src.FlowNet2())(torch.empty(8, 3, 2, 384, 512, device=CARD)).device == CARD
        assert {found.device for found in faked(yolov3.YOLOv3())(torch.empty(8, 3, 416, 608, device=CARD))} == {CARD}


def test_planted_mistakes_are_caught():
    with pretended() as card:
        here, there = torch.rand(3), torch.rand(3, device="cuda")
        for wrong in (lambda: here + there, lambda: here[there.long()], lambda: nn.Linear(3, 3)(there), lambda: torch.stack(
                [there[0], here[0]]), lambda: torch.where(there > 0, there, here)):
            with pytest.raises(RuntimeError, match="same device"):
                wrong()
        for wrong in (there.numpy, torch.rand(3, device="mps").double):
            with pytest.raises(TypeError):
                wrong()
        for what, mistake in (("wait", there[0].item), ("wait", there.cpu), ("unpinned", lambda: here.to("cuda"))):
            before = card.counts[what]
            mistake()
            assert card.counts[what] == before + 1
        assert (there * here[0] + 2).device == there[torch.tensor([0, 2])].device == CARD


def test_a_macs_gpu_gets_no_float64():
    cfg = SimpleNamespace(sp_mode="mixture", shrink_rate=0.1, warmup_epoch=0, lambda_raw=1.0, lambda_of=1.0)
    with pretended():
        model = ReconCAE(4, 5).to("mps")
        train_epoch(model, torch.optim.Adam(model.parameters()), [Batch(torch.rand(4, 15, 16, 16).to("mps"), None, 4)], 0, 0,
                    contextlib.nullcontext(), cfg)


def test_fp32_is_float32_and_tf32_a_word_of_its_own(tree, monkeypatch):
    torch.backends.cudnn.allow_tf32 = True  # torch's default
    on_card("train.py", *NAME, *SMALL, "--seed", "32")
    assert not torch.backends.cudnn.allow_tf32
    on_card("train.py", *NAME, *SMALL, "--precision", "tf32")
    assert torch.backends.cudnn.allow_tf32 and torch.backends.cuda.matmul.allow_tf32
    assert record.load(DATA / "train.json")["settings"]["precision"] == "tf32"
    with pretended():
        device.device_of("auto")  # as flow and boxes begin
    assert not torch.backends.cudnn.allow_tf32
    on_card("test.py", *NAME, *OTHER[2:], "--model", DATA)
    assert torch.backends.cudnn.allow_tf32
    assert "has no tf32; using fp32" in run_script("test.py", *NAME, *OTHER[2:], "--model", DATA, "--box_margin", "4",
                                                            "--results_dir", "new", "--device", "cpu").stdout
    assert "use fp32" in on_card("train.py", *NAME, *SMALL, "--precision", "tf32", "--seed", "2", rc=2, capability=(7, 5))[1]


@pytest.mark.parametrize("word, how, outcome", [
    ("auto", {}, "cuda:0"), ("cuda", dict(count=2, LOCAL_RANK="1", LOCAL_WORLD_SIZE="2"), "cuda:1"),
    ("cuda", dict(LOCAL_RANK="3", LOCAL_WORLD_SIZE="4"), "cuda:0"),  # one visible card for each process
    ("auto", dict(count=2, LOCAL_RANK="3", LOCAL_WORLD_SIZE="4", WORLD_SIZE="4"), "2 CUDA devices for 4 processes"),
    ("cuda:0", dict(count=2, LOCAL_WORLD_SIZE="2"), "omit its number"), ("cuda:2", dict(count=2), "2 CUDA devices"),
    ("auto", dict(capability=(7, 0)), "cpu"), ("cuda", dict(capability=(6, 1)), "capability 6.1, this torch needs 7.5"),
    ("auto", dict(capability=(8, 9)), "cuda:0"), ("auto", dict(NVIDIA_TF32_OVERRIDE="1"), "cpu")])
def test_words_of_devices(word, how, outcome, capsys):
    with pretended(**how):
        try:
            chosen = str(device.device_of(word))
        except UserError as error:
            chosen = str(error)
    assert outcome in chosen and ("note: networks run on the CPU" in capsys.readouterr().out) == (outcome == "cpu")


def test_a_driver_that_is_too_old_and_bf16_that_would_be_emulated(tree):
    words = [*NAME, *SMALL, "--flow_method", "dis", "--detector", "none", "--min_area", "100", "--dry_run"]
    too_old = RuntimeError("The NVIDIA driver is too old (found 11040). Update")
    with mock.patch.object(torch.cuda, "init", side_effect=too_old), \
            mock.patch("tools.rates.per_second", lambda count, work, seconds=1: work() or count):
        assert "no GPU: The NVIDIA driver is too old" in run_script("tools.doctor", *words).stdout
        assert on_card("tools.doctor", *words)[0]["cuda"] > 10
    with pretended(capability=(7, 5)):
        assert device.fastest_format(CARD) == "fp32"
        device.precision_of("bf16", CARD)


WORKER = Path(__file__).with_name("pretended_ranks.py")


@pytest.mark.parametrize("processes", [2, 3])
def test_ranks_of_a_small_last_batch_meet_also_with_sync_bn(processes):
    """gloo in NCCL's place, a stand-in for batch norm's collectives: as many on all ranks, on each one's own card."""
    start = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    paths = {"GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": os.pathsep.join([str(SUITE), str(SUITE / "tests")])}
    done = subprocess.run([sys.executable, *start, WORKER], capture_output=True, text=True, timeout=120, env=os.environ | paths)
    assert done.returncode == 0 and done.stdout.count("equal") == 2, done.stderr[-3000:]


@pytest.mark.parametrize("error", [
    MemoryError(), OSError(12, "Cannot allocate memory"), cv2.error("error: (-4:Insufficient memory) Failed"),
    *map(RuntimeError, ("CUDA out of memory. Tried to allocate 2 GiB", "CUDNN_STATUS_ALLOC_FAILED", "std::bad_alloc",
                        "DefaultCPUAllocator: can't allocate memory", "can't start new thread"))])
def test_memory_that_is_short_is_one_line(error, capsys):
    with pytest.raises(SystemExit) as stop:
        run(mock.Mock(side_effect=error))
    assert stop.value.code == 2 and capsys.readouterr().err.startswith("error: not enough memory (")


@pytest.mark.parametrize("more, line", [
    ({"RANK": "1"}, "reading raw_datasets"),
    ({"RANK": "1", "WORLD_SIZE": "2"}, "start several processes with torchrun; for a single one unset")])
def test_variables_of_a_launcher_without_a_launcher(tree, more, line):
    done = subprocess.run([sys.executable, SUITE / "extract_bbox.py", *NAME, "--detector", "none", "--min_area", "100"],
                          env=os.environ | more, capture_output=True, text=True)
    assert line in done.stdout + done.stderr and done.returncode == ("unset" in line) * 2
