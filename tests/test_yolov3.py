"""YOLOv3: the network, what surrounds it and its loader, against mmdetection's results for the same weights."""

import copy
import functools
import importlib.util
import json
from collections import OrderedDict

import numpy as np
import pytest
import torch
from conftest import rounding

from fore_det.yolov3 import FIX, YOLOv3, decode, detect, detect_batch, load_yolov3, preprocess
from utils.errors import UserError

IMAGES = [f"{scale}_{image}" for scale in (320, 608)
          for image in ("blocks_240x360", "blocks_360x640", "blocks_480x856", "noise_240x360")]
DETECTIONS = [pytest.param(name, marks=[pytest.mark.numeric] * (name in ("320_blocks_240x360", "320_noise_240x360")))
              for name in IMAGES]
# Float64 against the recording, which is in float32: measured 1.8e-4 px and 1.07e-6.
BOX_DISTANCE, SCORE_DISTANCE = 2e-4, 1.2e-6
LARGEST = 22  # in a map, of all these images
EPS = torch.finfo(torch.float32).eps


@pytest.fixture(scope="module")
def shapes(golden):
    """Name -> shape of every tensor in a published checkpoint."""
    entries = json.loads(golden("yolov3/state_dict.json").read_text())
    assert {entry["dtype"] for name, entry in entries.items() if "num_batches" not in name} == {"torch.float32"}
    return {name: tuple(entry["shape"]) for name, entry in entries.items()}


@pytest.fixture(scope="module")
def model(golden, shapes):
    """The network with the weights that the golden files were made with."""
    spec = importlib.util.spec_from_file_location("random_weights", golden("yolov3/random_weights.py"))
    random_weights = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(random_weights)
    golden("yolov3/random_calib.npz")                 # read by random_state; skips where it is not at hand
    state = random_weights.random_state(shapes, seed=0)
    model = YOLOv3()
    model.load_state_dict({name: torch.from_numpy(np.asarray(value)) for name, value in state.items()})
    return model


@pytest.fixture(scope="module")
def exact(model):
    """The same in float64, where this side is the same everywhere to 1e-13."""
    return copy.deepcopy(model).double()


@pytest.fixture(scope="module")
def found(golden, exact):
    """found("320_blocks_240x360"): what it detects."""
    @functools.cache
    def found(name):
        recorded = np.load(golden(f"yolov3/detect_{name}.npz"))
        return detect(exact, recorded["img"], int(recorded["scale"]))
    return found


def assert_same(found, expected, boxes_within, scores_within):
    """The same boxes are kept: equal as sets, since equal scores may come in either order (320_noise_240x360 holds a tie).

    expected: boxes, scores, labels; boxes of one label never lie on each other. The limits are numbers, or one per box.
    """
    boxes, scores, labels = (np.asarray(part) for part in found)
    assert boxes.shape == expected[0].shape and scores.shape == labels.shape == expected[2].shape
    assert boxes.dtype == scores.dtype and labels.dtype == np.int64
    assert (np.diff(scores) <= 0).all()
    if not len(boxes):
        return
    distance = np.abs(expected[0][:, None].astype(np.float64) - boxes).max(axis=2)  # (n, n)
    nearest = np.where(expected[2][:, None] == labels, distance, np.inf).argmin(axis=1)
    assert sorted(nearest) == list(range(len(boxes)))
    np.testing.assert_array_equal(labels[nearest], expected[2])
    assert (np.abs(scores[nearest] - expected[1]) <= scores_within).all()
    assert (distance[np.arange(len(boxes)), nearest] <= boxes_within).all()


def parts(recorded):
    return [recorded[key] for key in ("bboxes", "scores", "labels")]


def test_tensors_are_those_of_the_published_checkpoints(shapes):
    model = YOLOv3()
    assert {name: tuple(value.shape) for name, value in model.state_dict().items()} == shapes
    assert sum(value.numel() for value in model.parameters()) == 61_949_149
    assert not model.training


@pytest.mark.numeric
def test_maps(golden, model, exact):
    """In float64, off by 3.3e-5, measured; in float32 by what rounding adds."""
    expected = np.load(golden("yolov3/maps_320_blocks_240x360.npz"))
    inputs = torch.from_numpy(expected["inputs"])
    with torch.no_grad():
        for i, (found, single) in enumerate(zip(exact(inputs.double()), model(inputs))):
            np.testing.assert_allclose(found, expected[f"pred{i}"], rtol=0, atol=3.5e-5)
            np.testing.assert_allclose(single, found, rtol=0, atol=rounding(model) * float(found.abs().max()))


@pytest.mark.numeric
def test_preprocess_gives_the_network_input(golden):
    image = np.load(golden("yolov3/detect_320_blocks_240x360.npz"))["img"]
    inputs, _, _ = preprocess(image, 320)
    np.testing.assert_array_equal(inputs.numpy(), np.load(golden("yolov3/maps_320_blocks_240x360.npz"))["inputs"][0])


@pytest.mark.parametrize("name", IMAGES)
def test_preprocess_shapes(golden, name):
    expected = np.load(golden(f"yolov3/detect_{name}.npz"))
    inputs, factor, shape = preprocess(expected["img"], int(expected["scale"]))
    assert inputs.shape == (3, *expected["pad_shape"]) and inputs.dtype == torch.float32
    assert shape == tuple(expected["img_shape"])
    np.testing.assert_allclose(factor, expected["scale_factor"], rtol=1e-12)


@pytest.mark.parametrize("size", [(158, 238), (64, 64), (33, 500), (500, 33)])
def test_preprocess_pads_with_zeros_to_multiples_of_32(size):
    inputs, (fx, fy), (h, w) = preprocess(np.full((*size, 3), 255, np.uint8), 320)
    assert max(h, w) == 320 and (fx, fy) == (w / size[1], h / size[0])
    assert inputs.shape[1] % 32 == inputs.shape[2] % 32 == 0
    assert 0 <= inputs.shape[1] - h < 32 and 0 <= inputs.shape[2] - w < 32
    assert (inputs[:, :h, :w] == 1).all() and inputs.sum() == 3 * h * w


@pytest.mark.numeric
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", ["few", "none", "many", "overlap", "extreme_wh"])
def test_decode(golden, name, dtype):
    """A coordinate takes 8 operations that each round by eps / 2 of the box's largest one, in either number format.

    The recording is in float32; scores are products of two functions, off by up to 3 eps each in either.
    """
    expected = np.load(golden(f"yolov3/decode_{name}.npz"))
    maps = [torch.from_numpy(expected[f"pred{i}"][0]).to(dtype) for i in range(3)]
    largest = np.abs(expected["bboxes"]).max(axis=1, initial=0)  # some boxes are 500,000 px wide
    found = decode(maps, expected["scale_factor"])
    assert found[0].dtype == dtype
    assert_same(found, parts(expected), 8 * EPS * largest, 6 * EPS)


@pytest.mark.numeric
def test_decode_of_one_place_by_hand():
    maps = [torch.full((255, 96 // stride, 160 // stride), -20.0) for stride in (32, 16, 8)]
    place = maps[1][85:170, 2, 3]                     # stride 16, anchor (62, 45), row 2, column 3
    place[:5] = 0
    place[5 + 7], place[5 + 70] = 0, -1               # two classes: two boxes, above each other
    boxes, scores, labels = decode(maps, (0.5, 0.25))
    x, y, w, h = 3.5 * 16 / 0.5, 2.5 * 16 / 0.25, 62 / 0.5, 45 / 0.25
    assert labels.tolist() == [7, 70]
    np.testing.assert_allclose(scores, [0.5 * 0.5, 0.5 / (1 + np.e)], rtol=1e-6)
    np.testing.assert_allclose(boxes, [[x - w / 2, y - h / 2, x + w / 2, y + h / 2]] * 2, rtol=1e-6)


@pytest.mark.numeric
@pytest.mark.parametrize("width, label, left", [(41.8, 7, 2), (42.6, 7, 1), (42.6, 8, 2)])
def test_boxes_of_one_class_suppress_each_other_above_iou_045(width, label, left):
    maps = [torch.full((255, 96 // stride, 160 // stride), -20.0) for stride in (32, 16, 8)]
    for column, each in ((3, 7), (4, label)):         # 16 px apart: IoU 0.446 for 41.8 px, 0.454 for 42.6 px
        place = maps[1][85:170, 2, column]
        place[:5] = 0
        place[2] = np.log(width / 62)
        place[5 + each] = 0
    assert len(decode(maps, (1, 1))[0]) == left


@pytest.mark.parametrize("name", DETECTIONS)
def test_detect(golden, found, name):
    assert_same(found(name), parts(np.load(golden(f"yolov3/detect_{name}.npz"))), BOX_DISTANCE, SCORE_DISTANCE)


@pytest.mark.parametrize("name", DETECTIONS)
def test_detect_in_float32(golden, model, found, name):
    """The same boxes, for no decision is close: the 101st score is at least 4e-5 below the 100th, no IoU within 2.9e-4 of 0.45,
    and rounding moves a score by 2e-6, measured. The limits: with a value of the map a centre moves by a quarter of a cell,
    a side by its own length, a score by half.
    """
    recorded, (boxes, scores, labels) = np.load(golden(f"yolov3/detect_{name}.npz")), found(name)
    _, factors, _ = preprocess(recorded["img"], int(recorded["scale"]))
    of_map = rounding(model) * LARGEST
    side = (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
    limit = of_map * (32 / 4 / min(factors) + side / 2) + 8 * EPS * np.abs(boxes).max(axis=1)
    single = detect(model, recorded["img"], int(recorded["scale"]))
    assert single[0].dtype == np.float32
    assert_same(single, (boxes, scores, labels), limit, of_map / 2)


@pytest.mark.numeric
def test_a_batch_gives_what_its_images_give(golden, exact, found):
    names = [f"320_{image}_240x360" for image in ("noise", "blocks")]
    results = detect_batch(exact, [np.load(golden(f"yolov3/detect_{name}.npz"))["img"] for name in names], 320)
    assert len(results) == 2
    for together, name in zip(results, names):
        assert_same(together, found(name), 1e-9, 1e-12)


# Loader. The files are small, since each tensor is one number, repeated.

@pytest.fixture
def state():
    """As in a published checkpoint; the i-th tensor is i everywhere."""
    with torch.device("meta"):
        model = YOLOv3()
    return OrderedDict((name, torch.tensor(i, dtype=value.dtype).expand(value.shape))
                       for i, (name, value) in enumerate(model.state_dict().items()))


@pytest.fixture
def save(tmp_path):
    def save(content):
        torch.save(content, tmp_path / "yolov3.pth")
        return tmp_path / "yolov3.pth"
    return save


def refusal(path):
    """The message with which the loader refuses a file: one line that names the file and what fixes it."""
    with pytest.raises(UserError) as error:
        load_yolov3(path)
    message = str(error.value)
    assert "\n" not in message and str(path) in message and FIX in message
    return message


def test_loader_fills_every_tensor(save, state):
    meta = {"mmdet_version": "2.11.0", "config": "model = dict()", "CLASSES": ("person", "bicycle"), "epoch": 273}
    model = load_yolov3(save({"meta": meta, "state_dict": state}))
    assert not model.training
    loaded = model.state_dict()
    assert loaded.keys() == state.keys()
    for i, (name, value) in enumerate(loaded.items()):
        assert value.device.type == "cpu" and (value == i).all(), name


class HistoryBuffer:
    """As mmengine leaves one beside the weights."""


@pytest.mark.parametrize("change", [
    lambda state: state, lambda state: {"state_dict": {f"module.{name}": value for name, value in state.items()}},
    lambda state: {"state_dict": state, "meta": {"best": np.float64(0.31)}}, lambda state: {"model": state, "epoch": 12}])
def test_weights_of_own_trainings(save, state, change):
    assert load_yolov3(save(change(state))).state_dict().keys() == state.keys()


def test_weights_beside_objects_of_other_packages(save, state):
    message = refusal(save({"state_dict": state, "message_hub": HistoryBuffer()}))
    assert "HistoryBuffer" in message and "torch.save(model.state_dict(), FILE)" in message and "\x1b" not in message


@pytest.mark.parametrize("name", ["backbone.conv_res_block4.res7.conv2.bn.running_var",
                                  "neck.detect3.conv1.conv.weight", "bbox_head.convs_pred.2.bias"])
def test_loader_refuses_a_missing_tensor(save, state, name):
    del state[name]
    assert name in refusal(save({"meta": {}, "state_dict": state}))


def test_loader_refuses_a_renamed_tensor(save, state):
    state["bbox_head.convs_pred.0.weights"] = state.pop("bbox_head.convs_pred.0.weight")
    assert "bbox_head.convs_pred.0.weight" in refusal(save({"meta": {}, "state_dict": state}))


def test_loader_refuses_a_misshapen_tensor(save, state):
    state["bbox_head.convs_pred.0.weight"] = torch.zeros(75, 1024, 1, 1)  # as for 20 classes
    message = refusal(save({"meta": {}, "state_dict": state}))
    assert "bbox_head.convs_pred.0.weight" in message and "75" in message and "255" in message


def test_loader_refuses_a_truncated_file(save, state):
    path = save({"meta": {}, "state_dict": state})
    path.write_bytes(path.read_bytes()[:-2000])
    refusal(path)


def test_loader_refuses_a_missing_file(tmp_path):
    refusal(tmp_path / "absent.pth")


@pytest.mark.parametrize("content", [
    {"state_dict": torch.nn.Linear(2, 2).state_dict()}, {"state_dict": None}, torch.nn.Linear(2, 2).state_dict(),
    [1, 2], torch.zeros(3)], ids=["other network", "no state", "bare state", "list", "tensor"])
def test_loader_refuses_something_else(save, content):
    refusal(save(content))
