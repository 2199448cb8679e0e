"""The autoencoders, self-paced weights and training loop against the official system's numbers."""

import contextlib
import copy
import functools
import json
import os
import platform
import re
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from conftest import rounding, run_script

from models.cae import ReconCAE
from models.checkpoint import load_models
from models.spr import self_paced_weights
from models.training import learned
from train import train_epoch
from utils import cubes, record
from utils.cubes import Batch

pytestmark = pytest.mark.numeric
TRAININGS = ["raw_mixture", "flow_mixture", "raw_hard", "raw_linear", "raw_huber"]
EPS = torch.finfo(torch.float32).eps

@pytest.fixture(scope="module")
def forward(golden):
    data = np.load(golden("cae_forward.npz"))
    weights = {key[2:]: torch.from_numpy(data[key]) for key in data.files if key.startswith("w:")}
    raw = torch.from_numpy(data["raw"]).double() / 255
    return SimpleNamespace(weights=weights, raw=raw, flow=torch.from_numpy(data["flow"]).double(), data=data)


def official(forward, use_flow):
    model = ReconCAE(4, 5, use_flow)
    model.load_state_dict({k: v for k, v in forward.weights.items() if use_flow or k.startswith("raw_ae")})
    return model.double().eval()


@pytest.mark.skipif("ONEDNN_MAX_CPU_ISA" not in os.environ, reason="nothing is hidden: make numeric hides newer instructions")
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="these are instructions of x86")
def test_hidden_instructions_are_not_used(capfd):
    """make numeric hides them by variables that libraries read when they start; a misspelt one would hide nothing."""
    aten, kernel, numpy_has, opencv_lacks = {
        "AVX2": ("AVX2", "avx2", {"X86_V4": False}, {"AVX512-SKX"}),
        "SSE41": ("DEFAULT", "sse41", {"X86_V3": False, "X86_V4": False}, {"AVX512-SKX", "AVX2", "AVX"}),
    }[os.environ["ONEDNN_MAX_CPU_ISA"]]
    assert torch.backends.cpu.get_cpu_capability() == aten
    with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
        torch.conv2d(torch.ones(4, 16, 32, 32), torch.ones(16, 16, 3, 3))
    assert re.findall(r"exec,cpu,convolution,\w+:(\w+)", capfd.readouterr().out) == [kernel]
    assert np._core._multiarray_umath.__cpu_features__.items() >= numpy_has.items()
    used = {word.lstrip("*") for word in cv2.getCPUFeaturesLine().split()}  # a hidden one has a question mark
    assert not used & opencv_lacks


def test_names_and_shapes_are_the_official_ones(golden):
    wanted = json.loads(golden("cae_state_dict.json").read_text())
    state = ReconCAE(32, 5, use_flow=True).state_dict()
    assert {k: [list(v.shape), str(v.dtype)] for k, v in state.items()} == wanted
    raw_alone = ReconCAE(32, 5).state_dict()
    assert list(raw_alone) == [k for k in wanted if k.startswith("raw_ae.")] and len(raw_alone) == 106


def test_forward(forward):
    """In float64: the recorded values are ours, rounded to float32 (3.2e-8 and 4.1e-8 off)."""
    with torch.no_grad():
        raw_out, flow_out = official(forward, True)(forward.raw)
    np.testing.assert_allclose(raw_out, forward.data["out_raw"], rtol=0, atol=4e-8)
    np.testing.assert_allclose(flow_out, forward.data["out_flow"], rtol=0, atol=5e-8)


def test_forward_in_float32(forward):
    exact = official(forward, True)
    single = official(forward, True).float().to(memory_format=torch.channels_last)
    with torch.no_grad():
        for network, of_float32 in ((exact.raw_ae, single.raw_ae), (exact.of_ae, single.of_ae)):
            wanted = network(forward.raw)
            limit = rounding(network) * float(wanted.abs().max())
            np.testing.assert_allclose(of_float32(forward.raw.float()), wanted, rtol=0, atol=limit)


def test_official_model_files(golden, forward):
    """Written by old torch on a GPU and old numpy; the 1x1 file holds the network of the forward test."""
    models = load_models(golden("official_model/UCSDped2_model.npy"))
    assert models.grid == (1, 1) and list(models.blocks) == [0]
    with torch.no_grad():
        out = models.blocks[0].model.double()(forward.raw)[0]
    np.testing.assert_allclose(out, forward.data["out_raw"], rtol=0, atol=4e-8)
    assert models.blocks[0].std[0] == pytest.approx(models.blocks[0].scores.std())
    blocks = load_models(golden("official_model/UCSDped1_model.npy"))
    assert blocks.grid == (4, 1) and [len(b.scores) for b in blocks.blocks.values()] == [8, 8, 7, 7]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_self_paced_weights(golden, dtype):
    """In float64 1.23e-7 off, measured. In float32 a sum of n losses is off by sqrt(n) eps / 2 of itself, in any order, and a
    weight by up to 5 l2 / (l2 - l1) times that, which is below 20 here. No loss is within 7e-5 of itself of a threshold.
    """
    data = np.load(golden("self_paced.npz"))
    for k in range(int(data["count"])):
        sp_mode, shrink_rate, step = data[f"{k}_arg"]
        scores = torch.from_numpy(data[f"{k}_scores"]).to(dtype)
        weights, wanted = self_paced_weights(scores, int(step), float(shrink_rate), sp_mode).numpy(), data[f"{k}_weights"]
        limit = 1.3e-7 if dtype == torch.float64 else 20 * EPS / 2 * len(scores) ** 0.5
        case = f"case {k}: {data[f'{k}_arg']}"
        np.testing.assert_allclose(weights, wanted, rtol=0, atol=limit, err_msg=case)
        np.testing.assert_array_equal((weights == 0, weights == 1), (wanted == 0, wanted == 1), err_msg=case)


def test_self_paced_weights_at_their_limits():
    equal, two = torch.full((5,), 2.0), torch.tensor([1.0, 3.0])
    for sp_mode, weight in (("mixture", 0), ("hard", 0), ("linear", 0), ("huber", 1), ("none", 1)):
        assert self_paced_weights(equal, 0, 0.1, sp_mode).tolist() == [weight] * 5  # no deviation: l1 = l2 = s
        assert self_paced_weights(equal[:1], 0, 0.1, sp_mode).tolist() == [1]  # one cube has none
    assert float(self_paced_weights(two, 0, 0, "linear")[1]) == pytest.approx(1 - 3 / (2 + 4 * 2 ** 0.5))
    with pytest.raises(ValueError, match="one of mixture, hard, linear, huber, none, not 'soft'"):
        self_paced_weights(two, 0, 0, "soft")


def step_of(model, optimizer, batch, epoch, step, cfg):
    """One batch through the training loop: its loss per value, its weights (B,), and batches since warm-up."""
    stats, weights, step = train_epoch(model, optimizer, [batch], epoch, step, contextlib.nullcontext(), cfg)
    return stats["loss"], weights, step


@pytest.fixture(scope="module")
def trained(golden, forward):
    """trained("raw_mixture"): the recorded training once more, in float64."""
    data = np.load(golden("training.npz"))

    @functools.cache
    def train(name):
        use_flow, sp_mode, shrink_rate, warmup_epoch, epochs = data[f"{name}_settings"]
        cfg = SimpleNamespace(sp_mode=sp_mode, shrink_rate=float(shrink_rate), warmup_epoch=int(warmup_epoch),
                              lambda_raw=1.0, lambda_of=1.0)
        model = official(forward, use_flow == "True")
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        steps, step = [], 0
        for epoch in range(int(epochs)):
            for rows in torch.arange(30).split(12):
                batch = Batch(forward.raw[rows], forward.flow[rows] if model.use_flow else None, len(rows))
                before = SimpleNamespace(model=copy.deepcopy(model), batch=batch, epoch=epoch, step=step)
                loss, weights, step = step_of(model, optimizer, batch, epoch, step, cfg)
                steps.append(SimpleNamespace(**vars(before), loss=loss, weights=weights))
        return SimpleNamespace(model=model.eval(), steps=steps, cfg=cfg,
                               recorded={key: data[f"{name}_{key}"] for key in ("log", "raw_scores")}
                               | ({"flow_scores": data[f"{name}_flow_scores"]} if model.use_flow else {}))
    return train


@pytest.mark.parametrize("name", TRAININGS)
def test_training_trajectory(trained, forward, name):
    """In float64, where this side is the same everywhere to 2e-10. The distances, measured, are the recording's rounding: it
    is in float32, and Adam's first step is lr times the *sign* of a gradient. Of 40,000 weights some 30 have a gradient within
    rounding of 0, so that their sign is chance, and are 0.002 off from then on. Losses: 3.7e-8 off, 1.8e-5, then up to 0.41%.
    """
    training = trained(name)
    log, losses = training.recorded["log"], [step.loss for step in training.steps]
    wanted = log[:, 2] + log[:, 3]
    for losses_of, distance in ((slice(1), 5e-8), (slice(1, 2), 2e-5), (slice(2, None), 0.0045)):
        np.testing.assert_allclose(losses[losses_of], wanted[losses_of], rtol=distance)
    sums = [float(step.weights.sum()) for step in training.steps]
    np.testing.assert_allclose(sums, log[:, 4], rtol=0, atol={"mixture": 0.002, "linear": 0.0003}.get(training.cfg.sp_mode, 0))
    with torch.no_grad():
        scores = training.model.errors(forward.raw, forward.flow)
    for found, key in zip(scores, ("raw_scores", "flow_scores")):
        if found is not None:
            np.testing.assert_allclose(found, training.recorded[key], rtol=0.0045)


@pytest.mark.parametrize("name", TRAININGS)
def test_each_step_of_it_in_float32(trained, name):
    """From every state on that way one step in float32, as train.py takes it (whole trajectories drift apart, see above).

    A score is a sum of squares: it is off by twice what an output is off, as a share of the typical difference; a weight by up
    to 5 l2 / (l2 - l1) times that, and l2 / (l2 - l1) is 122 at most here; a loss by both. No score is within 0.1% of itself of
    a threshold, so that weights of 0 and 1 are the same.
    """
    training = trained(name)
    for at in training.steps:
        raw, flow, count = at.batch
        exact = copy.deepcopy(at.model).train()
        with torch.no_grad():
            outputs = exact(raw)  # raw, flow or None
        pairs = [(output, cubes) for output, cubes in zip(outputs, (raw, flow)) if cubes is not None]
        unweighted = sum(float((output - cubes).square().mean()) for output, cubes in pairs)
        largest = max(float(output.abs().max()) for output, _ in pairs)
        share = 2 * rounding(exact.raw_ae) * largest / unweighted ** 0.5

        single = copy.deepcopy(at.model).float().to(memory_format=torch.channels_last)
        batch = Batch(*(part if part is None else part.float().contiguous(memory_format=torch.channels_last)
                        for part in (raw, flow)), count)
        loss, weights, _ = step_of(single, torch.optim.Adam(single.parameters()), batch, at.epoch, at.step, training.cfg)
        wrong = float((weights - at.weights).abs().max())
        assert wrong <= 5 * 122 * share
        assert loss == pytest.approx(at.loss, rel=0, abs=share * at.loss + wrong * unweighted)
        for value in (0, 1):
            assert torch.equal(weights == value, at.weights == value)


def test_cubes_that_lie_on_the_device_give_the_same_batches(copy, monkeypatch):
    made = record.load("data/UCSDped2/test/cubes.json")
    mapped = cubes.Cubes("data/UCSDped2/test", False, torch.device("cpu"), made)
    monkeypatch.setattr(cubes, "_free_on", lambda device: 10 ** 12)
    resident = cubes.Cubes("data/UCSDped2/test", False, torch.device("cpu"), made)
    resident.to_device()
    assert not torch.is_tensor(mapped.source["raw"]) and resident.source["raw"].dtype == torch.uint8
    for rows in (np.arange(5), np.array([7, 0, 3])):
        for one, other in zip(mapped.batch(rows), resident.batch(rows)):
            assert one is other is None or torch.equal(one, other)
            assert one is None or one.is_contiguous(memory_format=torch.channels_last)


def test_a_small_set_trains_for_min_steps(copy):
    words = ["--dataset_name", "UCSDped2", "--num_feature_root", "4", "--batch_size", "8", "--epochs", "2", "--warmup_epoch"]
    cubes = len(np.load("data/UCSDped2/test/bboxes.npy"))
    epochs = 3 * 2  # three times as many, of as many batches each
    steps = str(-(-cubes // 8) * epochs)
    run_script("train.py", *words, "1", "--min_steps", steps)
    made = json.loads(open("data/UCSDped2/test/train.json").read())["settings"]
    assert made["epochs"] == epochs and made["warmup_epoch"] == 3 and "min_steps" not in made
    words[7] = str(epochs)
    assert "done with the same" in run_script("train.py", *words, "3").stdout
    assert "done with the same" in run_script("train.py", *words, "3", "--min_steps", "1").stdout
    said = run_script("test.py", *words[:2]).stdout
    assert "note: the network is hardly trained: at the end the loss still fell by" in said
    run_script("tools.report", "UCSDped2", "test")
    assert "The network is hardly trained" in Path("results/UCSDped2/test/report.html").read_text(encoding="utf-8")


def test_how_far_a_training_came():
    def state(losses, scores):
        return SimpleNamespace(log=[{"loss": loss} for loss in losses], scores=torch.tensor(scores)[:, None])
    steady = learned({0: state([9.0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5], [1.0, 3.0])}, 20.0)
    assert steady == {"fall": 0, "error": pytest.approx(0.1)}
    falling = [0.9 ** epoch for epoch in range(8)]
    halves = learned({0: state(falling, [2.0]), 1: state(falling, [2.0])}, 4.0)
    assert halves["fall"] == pytest.approx(0.1) and halves["error"] == pytest.approx(0.5)
    assert learned({0: state([1.0], [2.0])}, 4.0)["fall"] == 1
