"""FlowNet2 against the recorded outputs of the original, and what is said about unfit images and files."""

import copy
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import rounding

from FlowNet2_src import FlowNet2, load_flownet2, ops
from utils.errors import UserError
from utils.weights import check_state

# What each network's first output is off from the recorded one in float64, where this side is the same everywhere to 2e-14.
# The recording is in float32, which is what it is off: by up to 2e-4 px in all.
DISTANCES = {"flownetc": 2e-7, "flownets_1": 2.2e-5, "flownets_2": 1.1e-5, "flownets_d": 3e-7, "flownetfusion": 1.9e-4}
BEFORE = {"flownetc": [], "flownets_1": ["flownetc"], "flownets_2": ["flownetc", "flownets_1"], "flownets_d": [],
          "flownetfusion": ["flownetc", "flownets_1", "flownets_2"]}  # the longest way to each
EPS = torch.finfo(torch.float32).eps
FIX = "python -m tools.download_weights flownet2"


@pytest.fixture(scope="module")
def recorded(golden):
    with np.load(golden("flownet2.npz")) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


@pytest.fixture(scope="module")
def shapes(golden):
    return json.loads(golden("flownet2_state_dict.json").read_text())


def random_weights(shapes):
    """The weights behind the recorded outputs: drawn in the order of the sorted names."""
    rng = np.random.default_rng(0)
    state = {}
    for name, shape in sorted(shapes.items()):
        if name.endswith("bias"):
            gain = 0.01
        else:
            upwards = "deconv" in name or "upsampled_flow" in name
            fan = shape[0] * shape[2] * shape[3] / 4 if upwards else shape[1] * shape[2] * shape[3]
            gain = np.sqrt(2 / fan) * (0.6 if "predict_flow" in name else 1)
        values = rng.standard_normal(shape, dtype=np.float32)
        values *= np.float32(gain)
        state[name] = torch.from_numpy(values)
    return state


@pytest.fixture(scope="module")
def network(shapes, tmp_path_factory):
    """FlowNet2 with these weights, by way of a file like the published one."""
    path = tmp_path_factory.mktemp("weights") / "FlowNet2_checkpoint.pth.tar"
    torch.save({"epoch": 0, "state_dict": random_weights(shapes)}, path)
    try:
        return load_flownet2(path)
    finally:
        path.unlink()  # 650 MB


@pytest.fixture
def checkpoint(shapes, tmp_path):
    """checkpoint(edit) writes a file of the right names and shapes, after `edit` has changed them; it takes no room."""
    def write(edit=lambda state: None):
        state = {name: torch.zeros(1).expand(shape) for name, shape in shapes.items()}
        edit(state)
        path = tmp_path / "FlowNet2_checkpoint.pth.tar"
        torch.save({"state_dict": state}, path)
        return path
    return write


def close(result, expected, tolerance):
    torch.testing.assert_close(result, expected.to(result), rtol=0, atol=tolerance)


@pytest.mark.numeric
def test_operators(recorded):
    """In float64: off by 1.5e-7, 1.3e-6 and 3.8e-7, measured."""
    first, second, flow = (recorded[name].double() for name in ("op_a", "op_b", "op_flow"))
    close(ops.correlation(first, second), recorded["correlation"], 1.6e-7)
    close(ops.resample2d(first, flow), recorded["resample2d"], 1.4e-6)
    close(ops.channelnorm(first), recorded["channelnorm"], 4e-7)


@pytest.mark.numeric
def test_operators_in_float32(recorded):
    """Each operation rounds by eps / 2 of what it gives."""
    first, second, flow = (recorded[name] for name in ("op_a", "op_b", "op_flow"))
    channels, height, width = first.shape[1:]
    exact = ops.correlation(first.double(), second.double())
    terms = ops.correlation(first.double().abs(), second.double().abs())  # a mean of products, none larger than their sum
    assert bool(((ops.correlation(first, second) - exact).abs() <= (channels + 1) * EPS / 2 * terms).all())
    exact = ops.channelnorm(first.double())
    close(ops.channelnorm(first) / exact, torch.ones_like(exact), (channels + 2) * EPS / 2)
    # A place is a pixel plus its flow, scaled to -1..1 and back: 6 roundings of at most the largest. It moves the value by the
    # steepest step between pixels; the value itself is 4 pixels with their shares, 8 roundings.
    place = 6 * EPS / 2 * (max(height, width) + flow.abs().max())
    steepest = max(first.diff(dim=2).abs().max(), first.diff(dim=3).abs().max())
    limit = float(2 * place * steepest + 8 * EPS / 2 * first.abs().max())
    close(ops.resample2d(first, flow), ops.resample2d(first.double(), flow.double()), limit)


@pytest.mark.numeric
@pytest.mark.parametrize("size", [(1, 1), (7, 9), (30, 45)])
def test_correlation_is_its_definition(size):
    generator = torch.Generator().manual_seed(1)
    first, second = torch.randn(2, 2, 5, *size, dtype=torch.float64, generator=generator)
    padded = torch.nn.functional.pad(second, (20,) * 4)
    expected = [
        (first * padded[..., dy : dy + size[0], dx : dx + size[1]]).mean(dim=1)
        for dy in range(0, 41, 2) for dx in range(0, 41, 2)
    ]
    torch.testing.assert_close(ops.correlation(first, second), torch.stack(expected, dim=1))


@pytest.mark.numeric
def test_warping_in_half_precision_keeps_exact_pixels():
    image = torch.arange(512.0).expand(1, 1, 2, 512)
    flow = torch.zeros(1, 2, 2, 512, dtype=torch.bfloat16)
    flow[:, 0] = 1
    warped = ops.resample2d(image, flow)
    close(warped, (image + 1).clamp(max=511), 512 * 7 * EPS / 2)  # a step of 1 between pixels, 6 roundings of a place up to 512


def test_names_and_shapes_are_the_published_ones(shapes):
    with torch.device("meta"):
        state = FlowNet2().state_dict()
    assert {name: list(value.shape) for name, value in state.items()} == shapes


def outputs(network, images):
    """Stage -> its output; the last one is the flow."""
    seen = {}
    hooks = [getattr(network, stage).register_forward_hook(lambda _, __, output, stage=stage: seen.update({stage: output}))
             for stage in DISTANCES]
    with torch.no_grad():
        flow = network(images)
    for hook in hooks:
        hook.remove()
    assert flow is seen["flownetfusion"] and flow.dtype == images.dtype
    return seen


@pytest.fixture(scope="module")
def exact(network, recorded):
    """What it gives in float64."""
    return outputs(copy.deepcopy(network).double(), recorded["images"].double())


@pytest.mark.numeric
def test_flow_and_stages(exact, recorded):
    for stage, distance in DISTANCES.items():
        close(exact[stage], recorded[f"stage_{stage}"], distance)
    close(exact["flownetfusion"], recorded["flow"], DISTANCES["flownetfusion"])


@pytest.mark.numeric
def test_flow_and_stages_in_float32(network, exact, recorded):
    for stage, found in outputs(network, recorded["images"]).items():
        way = [getattr(network, name) for name in (*BEFORE[stage], stage)]
        close(found.double(), exact[stage], rounding(*way) * float(exact[stage].abs().max()))


@pytest.mark.numeric
def test_batch_is_its_samples(network):
    images = torch.rand(4, 3, 2, 64, 64, generator=torch.Generator().manual_seed(2)) * 255
    with torch.no_grad():
        alone = torch.cat([network(image[None]) for image in images])
        limit = 2 * rounding(*(getattr(network, name) for name in DISTANCES)) * float(alone.abs().max())
        close(network(images), alone, limit)


@pytest.mark.parametrize("shape", [(1, 3, 2, 100, 128), (1, 3, 2, 128, 100), (1, 2, 3, 64, 64), (3, 2, 64, 64)])
def test_unfit_images(network, shape):
    with pytest.raises(ValueError, match=r"multiples of 64.*" + re.escape(str(shape))):
        network(torch.zeros(shape))


def one_line(path, *words):
    """Loading the file fails with one line that names file, fault, and fix."""
    with pytest.raises(UserError) as caught:
        load_flownet2(path)
    message = str(caught.value)
    assert "\n" not in message
    for word in (str(path), FIX, *words):
        assert word in message


def test_missing_tensor(checkpoint):
    one_line(checkpoint(lambda state: state.pop("flownets_d.conv0.0.bias")), "flownets_d.conv0.0.bias", "1 tensor ")


def test_renamed_tensor(checkpoint):
    def rename(state):
        state["module.conv.weight"] = state.pop("flownetc.conv1.0.weight")
    one_line(checkpoint(rename), "flownetc.conv1.0.weight is missing", "2 tensors")


def test_unknown_tensor(checkpoint):
    one_line(checkpoint(lambda state: state.update(extra=torch.zeros(1))), "extra is unknown", "1 tensor ")


def test_misshapen_tensors(checkpoint):
    def transpose(state):
        for name in ("flownetc.conv1.0.weight", "flownetc.conv2.0.weight"):
            state[name] = state[name].transpose(0, 1)
    one_line(checkpoint(transpose), "flownetc.conv1.0.weight", "(3, 64, 7, 7)", "(64, 3, 7, 7)", "2 tensors")


@pytest.mark.parametrize("value", [torch.zeros(64, dtype=torch.int64), [0.0] * 64, None])
def test_not_numbers_like_the_network_s(checkpoint, value):
    one_line(checkpoint(lambda state: state.update({"flownetc.conv1.0.bias": value})), "flownetc.conv1.0.bias")


def test_truncated_file(checkpoint):
    path = checkpoint()
    path.write_bytes(path.read_bytes()[:-1000])
    one_line(path)


@pytest.mark.parametrize("content", [[1, 2], {}, {"state_dict": None}, {"state_dict": {}}, torch.zeros(3)])
def test_not_a_checkpoint(tmp_path, content):
    torch.save(content, tmp_path / "other.pth")
    one_line(tmp_path / "other.pth", "FlowNet2")


def test_no_torch_file(tmp_path):
    (tmp_path / "page.html").write_text("<html>not found</html>")
    one_line(tmp_path / "page.html")
    one_line(Path("nowhere") / "FlowNet2_checkpoint.pth.tar")


def test_check_state_leaves_out_what_it_was_told_to():
    model = torch.nn.Linear(2, 3)
    state = model.state_dict()
    kept = check_state({**state, "steps": torch.zeros(())}, model, "a.pth", "get it", ignore=["steps"])
    assert kept.keys() == state.keys()
    with pytest.raises(UserError, match=r"a\.pth.*Linear.*steps is unknown.*get it"):
        check_state({**state, "steps": torch.zeros(())}, model, "a.pth", "get it")
