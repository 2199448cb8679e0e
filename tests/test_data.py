"""Windows, boxes and cubes against the official system's numbers, and the properties they must have."""

import json

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fore_det.boxes import camera_motion, changed, confident, moving, noise, uncovered
from fore_det.published import read_boxes
from utils.cubes import Cubes
from utils.datasets import window
from utils.errors import UserError
from utils.files import load_object_array
from utils.frames import slide
from utils.stc import block_of, crop, not_empty

pytestmark = pytest.mark.numeric  # boxes are compared bit for bit: single operations, which IEEE 754 rounds alike everywhere
MIN_AREA = {"UCSDped1": 100, "UCSDped2": 100, "avenue": 1600, "ShanghaiTech": 900}


def test_windows(golden):
    cases = json.loads(golden("context_windows.json").read_text())
    for case in cases:
        firsts = np.cumsum([0, *case["lengths"]])
        found = [window(int(i), case["context"], int(first), int(first) + n - 1, case["border_mode"])
                 for first, n in zip(firsts, case["lengths"]) for i in range(first, first + n)]
        assert found == case["windows"], (case["lengths"], case["context"], case["border_mode"])


@given(st.integers(1, 12), st.integers(0, 5), st.sampled_from(["hard", "elastic", "predict", "what"]), st.data())
def test_windows_stay_in_their_video(length, context, border_mode, data):
    i = data.draw(st.integers(0, length - 1))
    found = window(100 + i, context, 100, 99 + length, border_mode)
    assert len(found) == (context + 1 if border_mode == "predict" else 2 * context + 1)
    assert found == sorted(found) and 100 <= found[0] and found[-1] < 100 + length
    assert 100 + i in found


@given(st.integers(1, 15), st.integers(0, 4), st.sampled_from(["hard", "elastic", "predict"]))
def test_sliding_gives_every_window_from_one_pass(length, context, border_mode):
    windows = [window(i, context, 0, length - 1, border_mode) for i in range(length)]
    needed = sorted({n for w in windows for n in w})
    assert list(slide(needed, iter(needed), windows)) == windows


@pytest.mark.parametrize("name", MIN_AREA)
def test_foreground_boxes(golden, name):
    data = np.load(golden("foreground.npz"))
    sure = confident(data[f"{name}_detections"], 0.2, MIN_AREA[name])
    np.testing.assert_array_equal(sure, data[f"{name}_confident"])
    left = uncovered(sure, 0.6)
    np.testing.assert_array_equal(left, data[f"{name}_uncovered"])
    found = moving(data[f"{name}_flow"], left, 1, MIN_AREA[name])
    assert sorted(map(tuple, found)) == sorted(map(tuple, data[f"{name}_motion"]))


def test_no_motion_boxes_where_everything_moves():
    flow = np.full((60, 80, 2), 3.0, np.float32)
    nothing = np.empty((0, 4))
    assert len(moving(flow, nothing, 1, 100)) == 0
    assert moving(flow, nothing, 1, 100, all_motion_quirk=False).tolist() == [[0, 0, 80, 60]]
    flow[0, 0] = 0
    assert moving(flow, nothing, 1, 100).tolist() == [[0, 0, 80, 60]]


@given(st.lists(st.tuples(*[st.integers(0, 50)] * 4), max_size=8))
def test_uncovered_keeps_the_largest_and_loses_covered_ones(corners):
    boxes = np.array([[min(a, c), min(b, d), max(a, c), max(b, d)] for a, b, c, d in corners], float).reshape(-1, 4)
    left = uncovered(boxes, 0.6)
    area = (left[:, 2] - left[:, 0] + 1) * (left[:, 3] - left[:, 1] + 1)
    assert (np.diff(area) >= 0).all()
    if len(boxes):
        assert area[-1] == ((boxes[:, 2] - boxes[:, 0] + 1) * (boxes[:, 3] - boxes[:, 1] + 1)).max()
    assert len(uncovered(left, 0.6)) == len(left)


def box_of_motion(width, height, value=2.0, dtype=np.float32):
    flow = np.zeros((60, 80, 2), dtype)
    flow[5:5 + height, 7:7 + width, 0] = value
    return flow


@pytest.mark.parametrize("width, height, value, motion_thr, min_area, found", [
    (9, 4, 2.0, 1, 49, True), (9, 4, 2.0, 1, 50, False), (4, 9, 2.0, 1, 49, True),  # (w+1)(h+1) > min_area
    (19, 2, 2.0, 1, 1, True), (20, 2, 2.0, 1, 1, False), (2, 19, 2.0, 1, 1, True), (2, 20, 2.0, 1, 1, False),  # below 10 to 1
    (9, 4, 1.0, 1, 1, False), (9, 4, 1.001, 1, 1, True)])  # u^2 + v^2 > motion_thr
def test_motion_boxes_at_their_limits(width, height, value, motion_thr, min_area, found):
    boxes = moving(box_of_motion(width, height, value), np.empty((0, 4)), motion_thr, min_area)
    assert boxes.dtype == np.int64 and boxes.shape == (found, 4)
    assert not found or boxes.tolist() == [[5, 3, 9 + width, 7 + height]]


def test_motion_is_found_in_single_precision_and_nothing_has_four_columns():
    assert len(moving(box_of_motion(9, 4, 1e-4, np.float16), np.empty((0, 4)), 0, 1)) == 1  # its square is 0 in half
    for flow in (np.full((60, 80, 2), 3.0), np.zeros((60, 80, 2))):
        nothing = moving(flow, np.empty((0, 4)), 1, 100)
        assert nothing.shape == (0, 4) and nothing.dtype == np.int64


def test_covered_boxes_at_their_limits():
    large = [0, 0, 9, 9]
    assert uncovered(np.array([[0, 0, 4, 3.0], large]), 0.6).tolist() == [large]  # all of it
    assert len(uncovered(np.array([[7, 0, 11, 3.0], large]), 0.6)) == 2  # 3 of 5 columns: not more than 0.6
    assert len(uncovered(np.array([[7, 0, 11, 3.0], large]), 0.59)) == 1
    assert len(uncovered(np.array([[50, 0, 50, 9.0], large]), 0.6)) == 2  # beside it, one pixel wide
    assert len(uncovered(np.array([[0, 50, 9, 50.0], large]), 0.6)) == 2  # below it, one pixel high
    same = np.array([[i, 30 + 9 * (i % 2), i, 30 + 9 * (i % 2)] for i in range(40)], float)
    assert uncovered(same, 0.6).tolist() == same.tolist()  # equal areas keep their order


def test_cubes_and_network_input(golden, tmp_path):
    """Raw cubes in whole numbers, flow in float64: off by 1.27e-6, the rounding of the recording, which is in float32."""
    data, wanted = np.load(golden("cubes.npz")), np.load(golden("network_input.npz"))
    raw, flow = (list(data[kind].transpose(0, 2, 3, 1)) for kind in ("raw", "flow"))
    cubes = np.stack([crop(raw, box, 32) for box in data["boxes"]])
    np.testing.assert_array_equal(cubes, data["cube_raw"].reshape(cubes.shape))
    of_flow = np.stack([crop(flow, box, 32) for box in data["boxes"]])
    exact = np.stack([crop([field.astype(np.float64) for field in flow], box, 32) for box in data["boxes"]])
    np.testing.assert_allclose(exact, data["cube_flow"].reshape(exact.shape), rtol=0, atol=1.4e-6)
    # In float32 two columns, then two rows are mixed: 6 roundings of up to eps / 2 of the largest value, some of them fused.
    np.testing.assert_allclose(of_flow, exact, rtol=0, atol=3 * np.finfo(np.float32).eps * np.abs(exact).max())
    np.save(tmp_path / "stc_raw.npy", cubes)
    np.save(tmp_path / "stc_of.npy", data["cube_flow"].reshape(exact.shape))
    made = {"settings": {"use_flow": True}, "cubes": len(data["boxes"])}
    raw, flow = Cubes(tmp_path, True, "cpu", made).batch(np.arange(made["cubes"]))
    np.testing.assert_array_equal(raw, wanted["raw"])  # one division, which IEEE 754 rounds alike everywhere
    np.testing.assert_array_equal(flow, wanted["flow"])


def test_blocks(golden):
    for case in json.loads(golden("block_index.json").read_text()):
        rows, columns = case["grid"]
        found = block_of(np.array(case["boxes"]), case["size"], rows, columns)
        assert [[int(b) // columns, int(b) % columns] for b in found] == case["block"]


def test_a_centre_on_the_far_edge_belongs_to_the_last_block():
    assert block_of(np.array([[100, 158, 376, 158]]), (158, 238), 4, 2).tolist() == [7]


@given(st.tuples(*[st.floats(-50, 150)] * 4))
def test_what_is_not_empty_can_be_cropped(box):
    frames = [np.zeros((60, 80, 3), np.uint8)] * 2
    if not_empty(np.array([box]), (60, 80))[0]:
        assert crop(frames, box, 8).shape == (6, 8, 8)
    else:
        with pytest.raises(ValueError, match="no pixel"):
            crop(frames, box, 8)


def test_half_precision_flow_is_cropped_like_single():
    flow = np.random.default_rng(0).normal(size=(40, 50, 2)).astype(np.float16)
    whole = cv2.resize(flow[3:30, 4:41].astype(np.float32), (32, 32)).transpose(2, 0, 1)
    np.testing.assert_array_equal(crop([flow], [4, 3, 41, 30], 32), whole.astype(np.float16))


def test_published_boxes_in_all_their_shapes(tmp_path):
    per_frame = [np.array([[1, 2, 3, 4]], np.float32), np.empty((0, 4), np.float32), np.array([[5, 6, 7, 8]] * 2, np.float32)]
    wanted = [[0, 1, 2, 3, 4], [2, 5, 6, 7, 8], [2, 5, 6, 7, 8]]
    ragged = np.empty(3, object)
    ragged[:] = per_frame
    np.save(tmp_path / "ragged.npy", ragged, allow_pickle=True)
    scored = np.empty(3, object)
    scored[:] = [np.insert(boxes, 4, 0.9, axis=1) for boxes in per_frame]
    np.save(tmp_path / "scored.npy", scored, allow_pickle=True)
    np.save(tmp_path / "rows.npy", np.array(wanted, np.float32)[[2, 0, 1]])
    for name in ("ragged", "scored", "rows"):
        assert read_boxes(tmp_path / f"{name}.npy", 3).tolist() == wanted
    np.save(tmp_path / "plain.npy", np.arange(24, dtype=np.float64).reshape(3, 2, 4))
    assert read_boxes(tmp_path / "plain.npy", 3)[:, 0].tolist() == [0, 0, 1, 1, 2, 2]
    with pytest.raises(UserError, match="boxes for 3 frames, but there are 4"):
        read_boxes(tmp_path / "ragged.npy", 4)


def test_a_pickle_that_is_no_array_runs_nothing(tmp_path):
    class Bomb:
        def __reduce__(self):
            return open, (str(tmp_path / "written"), "w")

    hostile = np.empty(1, object)
    hostile[0] = Bomb()
    np.save(tmp_path / "boxes.npy", hostile, allow_pickle=True)
    with pytest.raises(UserError, match="_io.open|io.open"):
        load_object_array(tmp_path / "boxes.npy")
    assert not (tmp_path / "written").exists()


def test_the_camera_is_told_from_what_moves():
    y, x = np.mgrid[:96, :128].astype(np.float32)
    camera = np.stack([2 + x / 100, -1 - y / 200], axis=2)
    flow = camera.copy()
    flow[30:60, 40:60] += 4
    assert np.abs(camera_motion(flow) - camera).max() < 0.01
    assert moving(flow - camera_motion(flow), np.empty((0, 4)), 1, 100).tolist() == [[38, 28, 62, 62]]
    still = np.zeros((96, 128, 2), np.float32)
    still[20:60, 20:60] = 5
    assert not camera_motion(still).any()


def test_the_noise_gate():
    rng = np.random.default_rng(0)
    floor = cv2.GaussianBlur(rng.integers(60, 200, (96, 128), dtype=np.uint8), (0, 0), 3)
    before, after = floor.copy(), np.roll(floor, 3, axis=1)  # the camera moves 3 pixels to the right
    before[30:60, 40:60], after[30:60, 53:73] = 250, 250
    camera = np.zeros((96, 128, 2), np.float32) + [3, 0]
    assert noise(before) < 2 and changed(before, after, camera.astype(np.float32)).all()  # nothing to gate
    before, after = (np.clip(image + rng.normal(0, 8, image.shape), 0, 255).astype(np.uint8) for image in (before, after))
    where = changed(before, after, camera.astype(np.float32))
    assert 6 < noise(before) < 10 and where[32:58, 40:50].all() and where[:, 90:].mean() < 0.02
