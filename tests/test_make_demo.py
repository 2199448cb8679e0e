"""The demo dataset: its shape, its determinism, its labels, and that it appears whole or not at all."""

import json

import cv2
import numpy as np
import pytest

from tools.make_demo import KINDS, PLAN, SIZE, background, draw_video, make_dataset

pytestmark = pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
SMALL = ["--videos", "3", "--frames", "12"]


def contents(folder):
    """Path -> bytes of all files below a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_command_writes_ucsd_form(tmp_path, suite):
    done = suite("tools.make_demo", *SMALL)
    demo = tmp_path / "raw_datasets" / "demo"
    assert "next: python run_pipeline.py --dataset_name demo --mode test" in done.stdout
    assert sorted(p.name for p in (demo / "Train").iterdir()) == ["Train001"]
    assert sorted(p.name for p in (demo / "Test").iterdir()) == [
        "Test001", "Test001_gt", "Test002", "Test002_gt", "Test003", "Test003_gt"]
    for folder, suffix in (("Train/Train001", ".png"), ("Test/Test001", ".png"), ("Test/Test001_gt", ".bmp")):
        assert sorted(p.name for p in (demo / folder).iterdir()) == [f"{t:03d}{suffix}" for t in range(1, 13)]
    assert cv2.imread(str(demo / "Test/Test001/001.png")).shape == (*SIZE, 3)
    mask = cv2.imread(str(demo / "Test/Test001_gt/012.bmp"), cv2.IMREAD_UNCHANGED)
    assert mask.shape == SIZE and set(np.unique(mask)) == {0, 255}
    assert not (demo.parent / "demo.part").exists()


def test_same_seed_same_bytes(tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        make_dataset(tmp_path / name, videos=2, train_videos=1, frames=8, seed=seed, size=(60, 90))
    first, second, other = (contents(tmp_path / name) for name in "abc")
    assert first == second
    assert first.keys() == other.keys() and all(first[name] != other[name] for name in first if name.endswith(".png"))


def test_a_video_does_not_depend_on_the_others(tmp_path):
    make_dataset(tmp_path / "one", videos=1, train_videos=0, frames=8, seed=0, size=(60, 90))
    make_dataset(tmp_path / "three", videos=3, train_videos=1, frames=8, seed=0, size=(60, 90))
    assert contents(tmp_path / "one").items() <= contents(tmp_path / "three").items()


@pytest.mark.parametrize("kind", [None, *KINDS])
def test_masks_show_the_anomaly_alone(kind):
    scene = background(np.random.default_rng(0), SIZE)
    video, masks = draw_video(np.random.default_rng(1), scene, 40, kind)  # (40, H, W, 3), (40, H, W)
    abnormal = masks.any(axis=(1, 2))
    assert video.dtype == masks.dtype == np.uint8 and set(np.unique(masks)) <= {0, 255}
    assert not abnormal[:3].any()  # it comes in later
    assert abnormal.any() == (kind is not None)
    if kind:
        middles = [np.nonzero(mask)[1].mean() for mask in masks[abnormal]]
        assert (middles[-1] < middles[0]) == (kind == "against")  # all others go with the stream, to the right


@pytest.mark.parametrize("size", [(60, 90), (158, 238)])
def test_short_videos_have_both_labels(size):
    scene = background(np.random.default_rng(0), size)
    for i, kind in enumerate(PLAN):
        _, masks = draw_video(np.random.default_rng((0, 1, i)), scene, 8, kind)
        abnormal = masks.any(axis=(1, 2))
        assert not abnormal[0] and abnormal[-1] == (kind is not None)


def test_done_already(tmp_path, suite):
    suite("tools.make_demo", *SMALL)
    before = contents(tmp_path / "raw_datasets")
    assert "already exists" in suite("tools.make_demo", *SMALL).stdout
    assert contents(tmp_path / "raw_datasets") == before


@pytest.mark.parametrize("damage", ["other seed", "no recipe", "broken recipe", "a file"])
def test_refuses_what_it_did_not_write(tmp_path, suite, damage):
    demo = tmp_path / "raw_datasets" / "demo"
    demo.mkdir(parents=True)
    if damage == "other seed":
        recipe = {"videos": 3, "train_videos": 1, "frames": 12, "seed": 1, "drawing": 1}
        (demo / "demo.json").write_text(json.dumps(recipe))
    elif damage == "broken recipe":
        (demo / "demo.json").write_text("{")
    elif damage == "a file":
        demo.rmdir()
        demo.write_text("mine")
    before = contents(tmp_path)
    done = suite("tools.make_demo", *SMALL, rc=2)
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and "demo" in done.stderr
    assert contents(tmp_path) == before


def test_a_stopped_run_is_begun_again(tmp_path, suite):
    part = tmp_path / "raw_datasets" / "demo.part" / "Train" / "Train001"
    part.mkdir(parents=True)
    (part / "999.png").write_bytes(b"half")
    suite("tools.make_demo", *SMALL)
    assert not (tmp_path / "raw_datasets" / "demo" / "Train" / "Train001" / "999.png").exists()


@pytest.mark.parametrize("words", [["--videos", "0"], ["--frames", "7"], ["--seed", "-1"]])
def test_wrong_numbers(suite, words):
    assert suite("tools.make_demo", *words, rc=2).stderr.startswith("error: --videos must be 1 or more")
