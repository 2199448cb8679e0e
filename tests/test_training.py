"""The autoencoders, self-paced weights and training loop against the official system's numbers."""

import contextlib
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from models.cae import ReconCAE
from models.checkpoint import load_models
from models.spr import self_paced_weights
from train import train_epoch
from utils import cubes, record
from utils.cubes import Batch


@pytest.fixture(scope="module")
def forward(golden):
    data = np.load(golden("cae_forward.npz"))
    weights = {key[2:]: torch.from_numpy(data[key]) for key in data.files if key.startswith("w:")}
    raw = torch.from_numpy(data["raw"]).float() / 255
    return SimpleNamespace(weights=weights, raw=raw, flow=torch.from_numpy(data["flow"]).float(), data=data)


def official(forward, use_flow):
    model = ReconCAE(4, 5, use_flow)
    model.load_state_dict({k: v for k, v in forward.weights.items() if use_flow or k.startswith("raw_ae")})
    return model.eval()


def test_names_and_shapes_are_the_official_ones(golden):
    wanted = json.loads(golden("cae_state_dict.json").read_text())
    state = ReconCAE(32, 5, use_flow=True).state_dict()
    assert {k: [list(v.shape), str(v.dtype)] for k, v in state.items()} == wanted
    raw_alone = ReconCAE(32, 5).state_dict()
    assert list(raw_alone) == [k for k in wanted if k.startswith("raw_ae.")] and len(raw_alone) == 106


def test_forward(forward):
    with torch.no_grad():
        raw_out, flow_out = official(forward, True)(forward.raw)
    np.testing.assert_allclose(raw_out, forward.data["out_raw"], atol=1e-5)
    np.testing.assert_allclose(flow_out, forward.data["out_flow"], atol=1e-5)


def test_official_model_files(golden, forward):
    """Written by old torch on a GPU and old numpy; the 1x1 file holds the network of the forward test."""
    models = load_models(golden("official_model/UCSDped2_model.npy"))
    assert models.grid == (1, 1) and list(models.blocks) == [0]
    with torch.no_grad():
        out = models.blocks[0].model(forward.raw)[0]
    np.testing.assert_allclose(out, forward.data["out_raw"], atol=1e-5)
    assert models.blocks[0].std[0] == pytest.approx(models.blocks[0].scores.std())
    blocks = load_models(golden("official_model/UCSDped1_model.npy"))
    assert blocks.grid == (4, 1) and [len(b.scores) for b in blocks.blocks.values()] == [8, 8, 7, 7]


def test_self_paced_weights(golden):
    data = np.load(golden("self_paced.npz"))
    for k in range(int(data["count"])):
        sp_mode, shrink_rate, step = data[f"{k}_arg"]
        weights = self_paced_weights(torch.from_numpy(data[f"{k}_scores"]), int(step), float(shrink_rate), sp_mode)
        np.testing.assert_allclose(weights, data[f"{k}_weights"], atol=1e-6, err_msg=f"case {k}: {data[f'{k}_arg']}")


def test_self_paced_weights_at_their_limits():
    equal, two = torch.full((5,), 2.0), torch.tensor([1.0, 3.0])
    for sp_mode, weight in (("mixture", 0), ("hard", 0), ("linear", 0), ("huber", 1), ("none", 1)):
        assert self_paced_weights(equal, 0, 0.1, sp_mode).tolist() == [weight] * 5  # no deviation: l1 = l2 = s
        assert self_paced_weights(equal[:1], 0, 0.1, sp_mode).tolist() == [1]  # one cube has none
    assert float(self_paced_weights(two, 0, 0, "linear")[1]) == pytest.approx(1 - 3 / (2 + 4 * 2 ** 0.5))
    with pytest.raises(ValueError, match="one of mixture, hard, linear, huber, none, not 'soft'"):
        self_paced_weights(two, 0, 0, "soft")


@pytest.mark.parametrize("name", ["raw_mixture", "flow_mixture", "raw_hard", "raw_linear", "raw_huber"])
def test_training_trajectory(golden, forward, name):
    data = np.load(golden("training.npz"))
    use_flow, sp_mode, shrink_rate, warmup_epoch, epochs = data[f"{name}_settings"]
    use_flow = use_flow == "True"
    cfg = SimpleNamespace(sp_mode=sp_mode, shrink_rate=float(shrink_rate), warmup_epoch=int(warmup_epoch),
                          lambda_raw=1.0, lambda_of=1.0)
    model = official(forward, use_flow)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    losses, step = [], 0
    for epoch in range(int(epochs)):
        for rows in torch.arange(30).split(12):
            batch = [Batch(forward.raw[rows], forward.flow[rows] if use_flow else None, len(rows))]
            stats, _, step = train_epoch(model, optimizer, batch, epoch, step, contextlib.nullcontext(), cfg)
            losses.append(stats["loss"])
    log = data[f"{name}_log"]
    wanted = log[:, 2] + log[:, 3]
    np.testing.assert_allclose(losses[:2], wanted[:2], rtol=1e-5)
    np.testing.assert_allclose(losses, wanted, rtol=0.02)
    model.eval()
    with torch.no_grad():
        raw, flow = model.errors(forward.raw, forward.flow)
    np.testing.assert_allclose(raw, data[f"{name}_raw_scores"], rtol=0.02)
    if use_flow:
        np.testing.assert_allclose(flow, data[f"{name}_flow_scores"], rtol=0.02)


def test_cubes_that_lie_on_the_device_give_the_same_batches(copy, monkeypatch):
    made = record.load("data/UCSDped2/test/cubes.json")
    mapped = cubes.Cubes("data/UCSDped2/test", False, torch.device("cpu"), made)
    monkeypatch.setattr(cubes, "_free_on", lambda device: 10 ** 12)
    resident = cubes.Cubes("data/UCSDped2/test", False, torch.device("cpu"), made)
    resident.to_device()
    assert not mapped.copies and resident.copies["raw"].dtype == torch.uint8
    for rows in (np.arange(5), np.array([7, 0, 3])):
        for one, other in zip(mapped.batch(rows), resident.batch(rows)):
            assert one is other is None or torch.equal(one, other)
            assert one is None or one.is_contiguous(memory_format=torch.channels_last)
