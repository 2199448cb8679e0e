"""Detectors in ONNX files: YOLOX-nano as it is published, and the layouts of its relatives by tiny networks made here."""

import json
import re

import cv2
import numpy as np
import pytest
from conftest import SUITE, run_script
from trees import ucsd_tree

from fore_det import detector
from fore_det.yolo_onnx import Yolo
from utils.errors import UserError

NANO = SUITE.parent / "shared" / "detector" / "yolox_nano.onnx"
SIZE = 64, 96  # H, W of the tiny networks' input
CELLS = range(96 + 24 + 6)


# A writer of ONNX files, which are protocol buffers: a field is its number and a varint, or a length and bytes.

def varint(value):
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varint(value >> 7)


def field(number, value):
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def tensor(name, array):
    array = np.asarray(array, np.float32)
    return b"".join(field(1, side) for side in array.shape) + field(2, 1) + field(8, name) + field(9, array.tobytes())


def value(name, shape, kind=1):
    """A graph's input or output: its name, number type and shape, with words for sides that are open."""
    sides = b"".join(field(1, field(2 if isinstance(side, str) else 1, side)) for side in shape)
    return field(1, name) + field(2, field(1, field(1, kind) + field(2, sides)))


def node(kind, inputs, output, *attributes):
    return b"".join(field(1, name) for name in inputs) + field(2, output) + field(4, kind) + b"".join(
        field(5, one) for one in attributes)


def network(path, output, weights=(0, 0, 0), factor=0, shape=(1, 3, *SIZE), kind=1, outputs=1):
    """Writes a network whose output is `output` + `factor` * s; s: sum over the input, its channels times `weights`."""
    keepdims = field(1, "keepdims") + field(3, 0) + field(20, 2)
    nodes = [node("Mul", ["x", "w"], "weighted"), node("ReduceSum", ["weighted"], "s", keepdims),
             node("Mul", ["s", "factor"], "scaled"), *(node("Add", ["scaled", "b"], f"y{k}") for k in range(outputs))]
    output = np.asarray(output, np.float32)
    constants = [tensor("w", np.reshape(weights, (1, 3, 1, 1))), tensor("factor", np.broadcast_to(factor, output.shape)),
                 tensor("b", output)]
    graph = b"".join([*(field(1, one) for one in nodes), field(2, "g"), *(field(5, one) for one in constants),
                      field(11, value("x", shape, kind)), *(field(12, value(f"y{k}", output.shape)) for k in range(outputs))])
    path.write_bytes(field(1, 8) + field(8, field(2, 13)) + field(7, graph))
    return path


# Plain references

def overlap(a, b):
    w, h = (min(a[k + 2], b[k + 2]) - max(a[k], b[k]) for k in (0, 1))
    both = max(w, 0) * max(h, 0)
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def reference(rows, layout, factor, left=0, top=0):
    """Candidates (x1, y1, x2, y2, score, class) by the description of the layout, then suppression at IoU 0.45."""
    found = []
    for k, row in enumerate(np.asarray(rows, np.float64)):
        x, y, w, h = row[:4]
        if layout == "yolox":
            column, line, stride = grid_of(len(rows))[k]
            x, y, w, h = (x + column) * stride, (y + line) * stride, np.exp(w) * stride, np.exp(h) * stride
        chances = row[4:] if layout == "yolov8" else row[5:] * row[4]
        box = np.array([x - w / 2 - left, y - h / 2 - top, x + w / 2 - left, y + h / 2 - top]) / factor
        found.append((*box, chances.max(), chances.argmax()))
    found = sorted(found, key=lambda one: -one[4])[:1000]
    kept = []
    for one in found:
        if all(one[5] != other[5] or overlap(one, other) <= 0.45 for other in kept):
            kept.append(one)
    return np.array(kept)[:, :5]


def grid_of(count):
    h, w = SIZE if count == len(CELLS) else (416, 416)
    return [(x, y, stride) for stride in (8, 16, 32) for y in range(h // stride) for x in range(w // stride)]


def random_rows(rng, count, columns, pixels):
    """Rows as a network could give: boxes by cell, or in pixels of a 64x96 input; then probabilities."""
    boxes = rng.uniform([0, 0, 8, 8], [96, 64, 40, 40], (count, 4)) if pixels else rng.normal(0, 0.7, (count, 4))
    return np.column_stack([boxes, rng.random((count, columns - 4))])


@pytest.mark.parametrize("layout, count, columns", [
    ("yolox", len(CELLS), 8), ("yolov5", 3 * len(CELLS), 7), ("yolov8", len(CELLS), 6)])
def test_each_layout_against_its_description(tmp_path, layout, count, columns):
    rows = random_rows(np.random.default_rng(0), count, columns, layout != "yolox").astype(np.float32)
    path = network(tmp_path / "net.onnx", (rows.T if layout == "yolov8" else rows)[None])
    found = Yolo(path)(np.zeros((40, 90, 3), np.uint8))  # enlarged to 96x43, 64 high with borders of 10 and 11
    assert found.dtype == np.float32
    wanted = reference(rows, layout, 96 / 90, top=0 if layout == "yolox" else 10)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-3)


def test_boxes_of_a_network_with_suppression_inside_are_taken_as_they_are(tmp_path):
    rows = np.zeros((1, 300, 6))
    rows[0, :2] = [[10, 20, 30, 40, 0.9, 3], [10, 20, 30, 41, 0.8, 3]]
    found = Yolo(network(tmp_path / "net.onnx", rows))(np.zeros((64, 48, 3), np.uint8))  # 24 grey columns on both sides
    np.testing.assert_allclose(found[:2], [[-14, 20, 6, 40, 0.9], [-14, 20, 6, 41, 0.8]], rtol=1e-6)
    assert not found[2:, 4].any()


@pytest.mark.parametrize("layout, first, most", [("yolox", "blue", 255), ("yolov8", "red", 1)])
def test_colours_and_range_of_the_input(tmp_path, layout, first, most):
    shape = (len(CELLS), 6) if layout == "yolox" else (5, len(CELLS))
    output, factor = np.zeros((1, *shape)), np.zeros((1, *shape))
    if layout == "yolox":
        output[..., 4] = 1
    factor[(..., -1) if layout == "yolox" else (0, -1)] = 1 / (most * SIZE[0] * SIZE[1])
    detect = Yolo(network(tmp_path / "net.onnx", output, (1, 0, 0), factor))
    for channel, colour in enumerate(("blue", "green", "red")):
        image = np.zeros((*SIZE, 3), np.uint8)
        image[:, :, channel] = 204
        assert detect(image)[:, 4].max(initial=0) == pytest.approx(0.8 if colour == first else 0, abs=1e-3)


def test_an_open_input_takes_the_scale(tmp_path):
    path = network(tmp_path / "net.onnx", np.zeros((1, 5, 16 * 12 + 8 * 6 + 4 * 3)), shape=("batch", 3, "h", "w"))
    with pytest.raises(UserError, match=r"output is \(1, 5, 252\) for an input of 640x640"):
        Yolo(path)
    with pytest.raises(UserError, match="for an input of 128x128"):
        Yolo(path, 100)
    detect = Yolo(network(tmp_path / "nms.onnx", [[[0, 0, 128, 64, 1, 0]]], shape=("batch", 3, "h", "w")), 128)
    np.testing.assert_allclose(detect(np.zeros((100, 256, 3), np.uint8)), [[0, -14, 256, 114, 1]])  # 128x50 in 128x64


# What is refused, in one line

GOOD = np.full((1, 5, len(CELLS)), 0.5)
BAD = {
    "another shape": (dict(output=np.zeros((1, 7, 100))), r"its output is \(1, 7, 100\) for an input of 64x96"),
    "two dimensions": (dict(output=np.zeros((1, 1000))), r"its output is \(1, 1000\)"),
    "two images": (dict(output=np.zeros((2, 300, 6))), r"its output is \(2, 300, 6\)"),
    "segmentation": (dict(output=GOOD, outputs=2), "it has 2 outputs"),
    "a pose's pixels for scores": (dict(output=GOOD + 40), "scores must be 0 to 1"),
    "not finite": (dict(output=GOOD * np.nan), "all values finite"),
    "decoded YOLOX": (dict(output=[[[k % 12 * 8, 9, 9, 9, 0.5, 0.5] for k in CELLS]]), "already decoded"),
    "one channel": (dict(output=GOOD, shape=(1, 1, *SIZE)), "its input is CV_32FC1 1 x 1 x 64 x 96"),
    "batches of 4": (dict(output=GOOD, shape=(4, 3, *SIZE)), "its input is CV_32FC1 4 x 3"),
    "half precision": (dict(output=GOOD, kind=10), "its input is CV_16FC1|cannot use this"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_not_of_a_known_layout_is_refused(tmp_path, name):
    settings, message = BAD[name]
    with pytest.raises(UserError, match=message) as error:
        Yolo(network(tmp_path / "net.onnx", **settings))
    assert str(error.value).startswith(str(tmp_path / "net.onnx")) and "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"<html>no such file</html>", "half", "missing"])
def test_damaged_files_are_refused(tmp_path, content, capfd):
    path = network(tmp_path / "net.onnx", GOOD)
    Yolo(path)
    if content == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-30] if content == "half" else content)
    with pytest.raises(UserError, match="no such file|cannot use this as an ONNX network") as error:
        Yolo(path)
    assert "\n" not in str(error.value) and capfd.readouterr().err == ""


# Tiles, and the command line

@pytest.mark.parametrize("size, count, grid", [((240, 360), 2, (1, 2)), ((360, 240), 2, (2, 1)), ((240, 360), 6, (2, 3)),
                                               ((50, 900), 4, (1, 4)), ((7, 7), 4, (2, 2)), ((240, 360), 1, (1, 1))])
def test_tiles_cover_the_image_and_overlap(size, count, grid):
    cuts = detector.split(*size, count)
    covered = np.zeros(size, int)
    for y1, y2, x1, x2 in cuts:
        assert 0 <= y1 < y2 <= size[0] and 0 <= x1 < x2 <= size[1]
        covered[y1:y2, x1:x2] += 1
    assert covered.min() == 1 and len(cuts) == count and (covered.max() > 1) == (count > 1)
    assert (len({cut[:2] for cut in cuts}), len({cut[2:] for cut in cuts})) == grid
    assert len({(y2 - y1, x2 - x1) for y1, y2, x1, x2 in cuts}) == 1


def test_boxes_of_tiles_are_joined():
    def detect(images):  # a box around the bright part of each image
        return [np.array([[*cv2.boundingRect(image[:, :, 0])]], float) @ np.array(
            [[1, 0, 1, 0, 0], [0, 1, 0, 1, 0], [0, 0, 1, 0, 0], [0, 0, 0, 1, 0]]) + [0, 0, 0, 0, 0.5] for image in images]

    image = np.zeros((60, 90, 3), np.uint8)
    image[20:40, 42:47] = 255  # within both tiles, 0 to 50 and 40 to 90
    np.testing.assert_allclose(detector.tiled(detector.Detector(detect), 2)([image, image]), [[[42, 20, 47, 40, 0.5]]] * 2)


def test_the_stage_with_a_network_of_two_boxes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ucsd_tree(tmp_path, frames=4)  # of 60x90
    name = ["--dataset_name", "UCSDped2", "--min_area", "50"]
    path = network(tmp_path / "net.onnx", [[[10, 12, 30, 42, 0.9, 0], [50, 20, 70, 40, 0.3, 2], [0, 0, 9, 9, 0.1, 0]]])
    run_script("calc_optical_flow.py", "--dataset_name", "UCSDped2", "--flow_method", "dis")
    run_script("extract_bbox.py", *name, "--detector", f"onnx:{path}", "--motion_thr", "1e9")
    rows = np.load("data/UCSDped2/test/bboxes.npy")
    factor = min(64 / 60, 96 / 90)
    wanted = np.array([[50, 20, 70, 40], [10, 12, 30, 42]]) / factor  # by area; the third one's score is below 0.2
    np.testing.assert_allclose(rows[:2, 1:], wanted, rtol=1e-4)
    made = json.loads(open("data/UCSDped2/test/boxes.json").read())
    assert re.fullmatch("[0-9a-f]{64}", made["input"]["weights"][0][1]) and made["input"]["weights"][0][0] == "net.onnx"
    network(path, [[[10, 12, 30, 42, 0.9, 0]]])  # another network of the same name
    done = run_script("extract_bbox.py", *name, "--detector", f"onnx:{path}", "--motion_thr", "1e9")
    assert "weights" in done.stdout and len(rows) == 16 and len(np.load("data/UCSDped2/test/bboxes.npy")) == 8
    for words in (["--detector_tiles", "2"], ["--detector_scale", "320"]):  # made with 1 and 608
        done = run_script("extract_bbox.py", *name, "--detector", f"onnx:{path}", "--motion_thr", "1e9", *words)
        assert words[0][2:] in done.stdout
    path.write_bytes(b"no network")
    refused = run_script("extract_bbox.py", *name, "--detector", f"onnx:{path}", "--data_root_dir", "other", rc=2)
    assert refused.stderr.count("\n") == 1 and "net.onnx: OpenCV cannot use this" in refused.stderr
    refused = run_script("extract_bbox.py", *name, "--detector", f"onnx:{path}", "--detector_weights", "a.pth", rc=2)
    assert "--detector_weights a.pth" in refused.stderr
    assert "must be yolov3" in run_script("extract_bbox.py", *name, "--detector", "onnx", rc=2).stderr


def test_own_videos_get_yolox_nano_where_it_is_there(tmp_path, monkeypatch):
    from tools import prepare_videos
    from utils.config import parse_config

    tmp_path = tmp_path / "My Data #2 ; x"
    tmp_path.mkdir()
    monkeypatch.setattr(detector, "CHECKPOINTS", tmp_path)
    assert detector.at_hand(608) == "none"
    (tmp_path / "yolox_nano.onnx").touch()
    assert detector.at_hand(608) == f"onnx:{tmp_path / 'yolox_nano.onnx'}"
    plan = prepare_videos.Plan([0, 1], 10, (240, 360), "link")
    (tmp_path / "own.cfg").write_text(prepare_videos.rule([plan], noise=0, moved=0))
    assert parse_config("", ["--dataset_name", "own", "--config", str(tmp_path / "own.cfg")]).detector == detector.at_hand(608)
    (tmp_path / detector.YOLOV3[608]).touch()
    assert (detector.at_hand(608), detector.at_hand(320)) == ("yolov3", f"onnx:{tmp_path / 'yolox_nano.onnx'}")


# The published network

@pytest.fixture(scope="module")
def nano():
    if not NANO.is_file():
        pytest.skip(f"YOLOX-nano is not here (looked for {NANO})")
    return NANO


def test_yolox_nano_against_a_plain_reference(nano):
    rng = np.random.default_rng(0)
    image = cv2.resize(rng.integers(0, 256, (6, 9, 3), np.uint8), (360, 240), interpolation=cv2.INTER_CUBIC)
    padded = np.full((416, 416, 3), 114, np.uint8)
    padded[:277] = cv2.resize(image, (416, 277))
    net = cv2.dnn.readNetFromONNX(str(nano))
    net.setInput(padded.transpose(2, 0, 1)[None].astype(np.float32))
    wanted = reference(net.forward()[0], "yolox", 416 / 360)
    found = Yolo(nano)(image)
    assert len(found) > 100
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-3)


def test_one_image_or_many_and_any_number_of_threads(nano):
    images = list(np.random.default_rng(1).integers(0, 256, (3, 60, 90, 3), np.uint8))
    threads, results = cv2.getNumThreads(), []
    try:
        detect = detector.load_detector(f"onnx:{nano}", None, 608, "cpu", tiles=2)
        results.append(detect(images))
        cv2.setNumThreads(3)
        results.append([detect([image])[0] for image in images])
    finally:
        cv2.setNumThreads(threads)
    for one, other in zip(*results):
        np.testing.assert_array_equal(one, other)
