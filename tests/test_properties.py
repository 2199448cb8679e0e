"""What must hold for any input: boxes, cubes, self-paced weights, scoring, legacy arrays, the order of resumed work."""

import contextlib
import io
import pickle
import pickletools
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fore_det.boxes import confident, moving
from models.spr import SP_MODES, self_paced_weights, thresholds, weighted_loss
from utils import files, legacy, metrics, stages
from utils.cubes import BlockCubes
from utils.datasets import Video
from utils.errors import UserError
from utils.frames import batched, parallel
from utils.stc import block_of, corners, crop, not_empty

pytestmark = pytest.mark.numeric
SIZE = (40, 60)
numbers = st.floats(-80, 120, allow_nan=False, width=32)
boxes_of_any_kind = hnp.arrays(np.float32, st.tuples(st.integers(0, 12), st.just(4)), elements=numbers)
# Numbers of float32 in float64: sums of 40 of them are exact there, so that they do not depend on a processor's order.
losses = hnp.arrays(np.float32, st.integers(2, 40), elements=st.floats(0.015625, 1000, width=32)).map(
    lambda values: torch.from_numpy(values.astype(np.float64)))


@pytest.fixture(scope="module", autouse=True)
def elsewhere(tmp_path_factory):
    """An empty folder to run in: a pickle that gets its way leaves a file, and other tests at work leave none."""
    with contextlib.chdir(tmp_path_factory.mktemp("elsewhere")):
        yield


# boxes
@given(hnp.arrays(np.float32, st.tuples(st.integers(0, 12), st.just(5)), elements=st.floats(width=32)), st.floats(0, 1),
       st.integers(1, 500))
def test_confident_boxes_are_finite_sure_and_large(detections, score_thr, min_area):
    with np.errstate(all="ignore"):
        found = confident(detections, score_thr, min_area)
        kept = [d for d in detections if np.isfinite(d).all() and d[4] > score_thr
                and (d[2] - d[0] + np.float32(1)) * (d[3] - d[1] + np.float32(1)) >= min_area]
    assert np.isfinite(found).all() and (found >= 0).all()
    np.testing.assert_array_equal(found, np.maximum(np.array(kept, np.float32).reshape(-1, 5)[:, :4], 0))


@given(hnp.arrays(np.bool_, SIZE), boxes_of_any_kind, st.integers(1, 60), st.integers(0, 4))
def test_motion_boxes_lie_in_the_image_and_around_motion_outside_the_given_boxes(mask, boxes, min_area, margin):
    flow = np.stack([mask * 2.0, np.zeros(SIZE)], axis=2).astype(np.float32)
    found = moving(flow, boxes, 1, min_area, margin)
    assert ((found[:, :2] >= 0).all() and (found[:, 2] <= SIZE[1]).all() and (found[:, 3] <= SIZE[0]).all())
    for x1, y1, x2, y2 in found:
        assert (x2 - x1 + 1) * (y2 - y1 + 1) > min_area and mask[y1:y2, x1:x2].any()
    whole = np.array([[0, 0, SIZE[1], SIZE[0]]])
    assert len(moving(flow, whole, 1, min_area, margin)) == 0


# cubes
@given(hnp.arrays(np.uint8, (3, 20, 30, 3)), st.tuples(*[st.floats(-5, 18)] * 2, *[st.floats(19, 35)] * 2),
       st.sampled_from([8, 16]))
@settings(max_examples=40)
def test_a_cube_is_its_frames_patches_in_order(frames, box, patch_size):
    cube = crop(list(frames), box, patch_size)
    assert cube.shape == (9, patch_size, patch_size) and cube.dtype == np.uint8
    for t, frame in enumerate(frames):
        np.testing.assert_array_equal(cube[3 * t:3 * t + 3], crop([frame], box, patch_size))
    x1, y1, x2, y2 = corners(np.array([box]), (20, 30))[0]
    inside = frames[:, y1:y2, x1:x2]
    assert inside.min() <= cube.min() and cube.max() <= inside.max()


@given(boxes_of_any_kind, st.integers(1, 5), st.integers(1, 5))
def test_every_box_has_a_block_and_a_centre_inside_the_image_is_in_it(boxes, h_block, w_block):
    found = block_of(boxes, SIZE, h_block, w_block)
    assert ((0 <= found) & (found < h_block * w_block)).all()
    for (x1, y1, x2, y2), block in zip(boxes.astype(float), found):
        row, column = divmod(int(block), w_block)
        x, y = (x1 + x2) / 2, (y1 + y2) / 2
        if 0 <= x < SIZE[1] and 0 <= y < SIZE[0]:
            assert row * SIZE[0] / h_block - 1e-6 <= y <= (row + 1) * SIZE[0] / h_block + 1e-6
            assert column * SIZE[1] / w_block - 1e-6 <= x <= (column + 1) * SIZE[1] / w_block + 1e-6


# weights
@given(losses, st.integers(0, 10 ** 6), st.floats(0, 1), st.sampled_from(SP_MODES), st.randoms())
def test_weights_lie_between_0_and_1_fall_with_the_loss_and_follow_their_cube(scores, step, shrink_rate, sp_mode, random):
    weights = self_paced_weights(scores, step, shrink_rate, sp_mode)
    assert weights.shape == scores.shape and bool(((0 <= weights) & (weights <= 1)).all())
    assert bool((weights[scores.argsort(stable=True)].diff() <= 1e-6).all())
    order = list(range(len(scores)))
    random.shuffle(order)
    shuffled = self_paced_weights(scores[order], step, shrink_rate, sp_mode)
    torch.testing.assert_close(shuffled, weights[order], atol=1e-6, rtol=0)


@given(losses, st.integers(0, 10 ** 5), st.floats(0, 0.01))
def test_the_upper_threshold_shrinks_from_4_to_1_standard_deviations(scores, step, shrink_rate):
    lower, upper = thresholds(scores, step, shrink_rate)
    mean, std = np.mean(scores.numpy()), np.std(scores.numpy(), ddof=1)
    assert float(lower) == pytest.approx(mean + std, rel=1e-12)
    assert float(upper) == pytest.approx(mean + max(1, 4 - step * shrink_rate) * std, rel=1e-12)
    assert thresholds(scores, step + 1, shrink_rate)[1] <= upper


@given(losses, st.integers(1, 10 ** 4), st.floats(0, 1))
def test_the_weighted_loss_is_the_mean_of_weighted_losses_per_value(scores, values, weight):
    whole = weighted_loss(scores, None, values)
    assert float(whole) == pytest.approx(float(scores.mean()) / values, rel=1e-12)
    found = weighted_loss(scores, torch.full_like(scores, weight), values)
    torch.testing.assert_close(found, weight * whole, rtol=1e-12, atol=0)


# scoring
@given(st.integers(1, 8).flatmap(lambda frames: st.tuples(st.just(frames), st.lists(st.tuples(
    st.integers(0, frames - 1), numbers, numbers, numbers, numbers, st.floats(-19, 99, width=32)), max_size=15))))
def test_a_frame_scores_as_its_highest_box_that_is_in_the_image(case):
    num_frames, rows = case
    rows = np.array(rows, np.float32).reshape(-1, 6)
    found = metrics.frame_scores(rows[:, 5], rows[:, :5], num_frames, SIZE)
    inside = not_empty(rows[:, 1:5], SIZE)
    for frame in range(num_frames):
        of_frame = rows[(rows[:, 0] == frame) & inside, 5]
        assert found[frame] == (of_frame.max() if len(of_frame) else -20)


@given(hnp.arrays(np.float64, st.integers(1, 40), elements=st.floats(-100, 100)), st.integers(1, 60))
def test_smoothing_keeps_length_and_bounds_and_adds_up(scores, window_size):
    smooth = metrics.moving_average(scores, window_size)
    assert smooth.shape == scores.shape
    assert smooth.min() >= min(scores.min(), 0) - 1e-9 and smooth.max() <= max(scores.max(), 0) + 1e-9
    np.testing.assert_allclose(metrics.moving_average(scores * 2 + 1, window_size),
                               smooth * 2 + metrics.moving_average(np.ones_like(scores), window_size), atol=1e-9)


@given(hnp.arrays(np.int16, st.integers(2, 30), elements=st.integers(-9, 9)), st.data())
def test_auroc_is_the_share_of_pairs_in_order_and_ignores_the_scale(scores, data):
    labels = data.draw(hnp.arrays(np.bool_, len(scores)))
    assume(labels.any() and not labels.all())
    found = metrics.evaluate(scores.astype(float), labels)
    pairs = np.sign(np.subtract.outer(scores[labels], scores[~labels]))
    assert found["auroc"] == pytest.approx((pairs + 1).mean() / 2)
    assert metrics.evaluate(np.exp(scores / 3.0), labels)["auroc"] == pytest.approx(found["auroc"])
    assert metrics.evaluate(-scores.astype(float), ~labels)["auroc"] == pytest.approx(found["auroc"])
    one = 1 + len(scores) * np.finfo(float).eps  # a sum of as many products, each rounded
    assert 0 <= found["eer"] <= 1 and labels.mean() / 2 <= found["average_precision"] <= one


# the reader of legacy arrays
plain = hnp.arrays(st.sampled_from(["f4", "f8", ">f4", "i8", "u1", "f2", "b1"]),
                   hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4))


def object_file(items, protocol=4, core=b"numpy._core"):
    """An .npy file of objects, as np.save writes it, with the names of numpy 1 or 2."""
    array = np.empty(len(items), object)
    for i, item in enumerate(items):
        array[i] = item
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "|O", "fortran_order": False, "shape": array.shape})
    body = pickle.dumps(array, protocol)
    if protocol < 4 and core != b"numpy._core":  # later protocols tell the length of a name
        body = body.replace(b"numpy._core", core)
    return head.getvalue() + body


@given(st.lists(plain | st.integers(-9, 9) | plain.map(np.asfortranarray), max_size=4), st.sampled_from([2, 3, 4]),
       st.sampled_from([b"numpy.core", b"numpy._core"]))
def test_legacy_arrays_come_back_as_they_were(tmp_path_factory, items, protocol, core):
    path = tmp_path_factory.getbasetemp() / "legacy.npy"
    path.write_bytes(object_file(items, protocol, core))
    found = files.load_object_array(path)
    assert found.shape == (len(items),) and found.dtype == object
    for old, new in zip(items, found):
        np.testing.assert_array_equal(old, new)
        assert np.asarray(new).dtype == np.asarray(old).dtype


OPCODES = [op.code.encode("latin1") for op in pickletools.opcodes]
NAMES = [b"cnumpy._core.multiarray\n_reconstruct\n", b"cnumpy\nndarray\n", b"cnumpy\ndtype\n",
         b"cnumpy.core.multiarray\nscalar\n",
         b"c_codecs\nencode\n", b"cos\nsystem\n", b"cbuiltins\neval\n", b"cnumpy\nload\n", b"cutils.legacy\nload\n",
         b"\x8c\x02os\x8c\x06system\x93", b"ios\nsystem\n"]
VALUES = [b"N", b"K\x01", b"K\x00\x85", b")", b"(", b"t", b"R", b"b", b"]", b"e", b"\x81", b"C\x02f4", b"\x8c\x02f4",
          b"U\x02f4", b"\x8c\x01O", b"\x8c\x0dtouch outside", b"(K\x03\x8c\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t",
          b"q\x00", b"h\x00", b"p0\n", b"g0\n", b"0", b"2"]
PIECES = [*map(st.sampled_from, (OPCODES, NAMES, VALUES, VALUES)), st.binary(max_size=4)]


@given(st.lists(st.one_of(PIECES), max_size=25))
@settings(max_examples=400)
def test_hand_made_opcodes_give_an_array_or_an_error_and_call_nothing(pieces):
    before = set(Path().iterdir())
    try:
        found = legacy.load(io.BytesIO(b"\x80\x04" + b"".join(pieces) + b"."))
    except Exception:
        found = np.empty(0)
    assert isinstance(found, np.ndarray) and set(Path().iterdir()) == before


@pytest.mark.parametrize("body, message", [
    (b"cos\nsystem\nU\x04true\x85R.", "names os.system"),
    (b"cnumpy\nndarray\n(K\x01tR.", "calls numpy.ndarray"),
    (b"cnumpy\nndarray\n)\x81.", "opcode NEWOBJ"),
    (b"Nr\xff\xff\xff\x7f.", "memoizes more objects than it contains"),  # would take 32 GB
    (b"\x96\x00\x00\x00\x00\x10\x00\x00\x00.", "opcode BYTEARRAY8|exhausted|expected"),  # 64 GB
    (b"cnumpy\ndtype\nU\x02V8\x85R.", "not a number"),
    (b"cnumpy\ndtype\nU\x02f4\x85R(K\x03U\x01<NU\x01a)K\x08K\x04K\x00tb.", "with fields"),  # object fields under plain flags
    (b"c_codecs\nencode\nU\x01aU\x04zlib\x86R.", "the encoding"),
    (b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\ndtype\nK\x00\x85U\x01b\x87R.", "not an array"),
    (b"K\x01.", "contains a int"),
    (b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K\x01\x85cnumpy\ndtype\nU\x01O\x85R\x89]]atb.",
     "contains a list"),
    (b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K\x01\x85cnumpy\ndtype\nU\x01O\x85R\x89U\x08aaaaaaaatb.",
     "do not match its type"),  # bytes that would be taken for addresses of objects
])
def test_hostile_pickles_are_named(body, message):
    with pytest.raises((pickle.UnpicklingError, ValueError), match=message):
        legacy.load(io.BytesIO(b"\x80\x02" + body))


@given(st.binary(min_size=1, max_size=8), st.integers(0, 400), st.sampled_from([2, 3, 4]))
def test_damaged_legacy_files_give_an_array_or_one_line(tmp_path_factory, damage, at, protocol):
    path = tmp_path_factory.getbasetemp() / "damaged.npy"
    data = object_file([np.ones((2, 4), np.float32), np.zeros((0, 4))], protocol)
    path.write_bytes(data[:at] + damage + data[at + len(damage):])
    try:
        assert isinstance(files.load_object_array(path), np.ndarray)
    except UserError as error:
        assert str(path) in str(error) and "\n" not in str(error)


# resumed work
@given(st.integers(1, 8), st.sets(st.integers(0, 7)), st.integers(0, 2), st.sampled_from(["hard", "elastic", "predict"]))
def test_whatever_flow_is_there_the_rest_is_calculated_in_order(tmp_path_factory, length, done, context, border_mode):
    folder = tmp_path_factory.mktemp("flow")
    names = tuple(f"{t:03d}.tif" for t in range(length))
    video = Video("Test001", folder / "frames", names, True, folder / "flow", chosen=tuple(range(0, length, 2)))
    for path in (video.path, video.flow_folder):
        path.mkdir()
    for name in names:
        (video.path / name).touch()
    cfg = SimpleNamespace(context_of_num=context, use_flow=True, drop_still_boxes=False, border_mode=border_mode,
                          flow_method="dis", flow_weights="", flow_dtype="float16")

    def flow():
        return stages.Flow(cfg, video, (4, 6), str)

    needed = stages.flow_frames(cfg, video)
    assert flow().todo == needed
    flow().begin()
    for t in range(length):  # some are there, some are cut or of another size
        np.save(video.flow_file(t), np.zeros((4, 6 if t in done else 5, 2), np.float16))
    assert flow().todo == [t for t in needed if t not in done]


@given(st.integers(0, 2 ** 32), st.integers(0, 3), st.integers(0, 3), st.integers(0, 30), st.integers(2, 50))
def test_an_epochs_order_depends_on_seed_block_and_epoch_alone(seed, row, column, epoch, count):
    def block(*place):
        return BlockCubes(None, np.arange(count), 4, seed, place)

    cubes, order = block(row, column), block(row, column).order(epoch)
    assert sorted(order) == list(range(count)) and (cubes.order(epoch) == order).all()
    values = torch.arange(count)
    assert cubes.in_order(values[order], epoch).tolist() == values.tolist()
    seeds = {block(*place).seed_of(use) for place in ((row, column), (row + 1, column), (row, column + 1)) for use in range(4)}
    assert len(seeds) == 12


@given(st.lists(st.integers(), max_size=20), st.integers(0, 3), st.integers(1, 5))
@settings(max_examples=30)
def test_threads_keep_the_order_and_batches_lose_nothing(items, workers, size):
    assert list(parallel(lambda x: x * 2, items, workers)) == [x * 2 for x in items]
    assert [x for batch in batched(items, size) for x in batch] == items
