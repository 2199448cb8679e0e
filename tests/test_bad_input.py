"""Bad input: one line that names the file and the fix, exit code 2, no traceback, nothing overwritten."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SUITE, copied, run_script
from test_pipeline import SMALL, STAGES
from trees import ucsd_tree

from utils import record
from utils.errors import UserError

NAME = ["--dataset_name", "UCSDped2"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Frames, flow, boxes and cubes of a small UCSD tree."""
    root = tmp_path_factory.mktemp("made")
    ucsd_tree(root, frames=8)
    with contextlib.chdir(root):
        for script in list(STAGES)[:3]:
            run_script(script, *NAME, *STAGES[script])
    return root


@pytest.fixture
def tree(made, tmp_path, monkeypatch):
    return copied(made, tmp_path, monkeypatch)


def refused(script, *words, names):
    """Runs a script on bad input: it must end with 2, one line with all these words, and leave every file as it was."""
    before = {p: p.read_bytes() for p in Path().rglob("*") if p.is_file() and p.name != ".lock"}
    done = run_script(script, *words, rc=2)
    lines = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1 and "Traceback" not in done.stderr, done.stderr
    for name in names:
        assert name in lines[0], f"{name!r} is not in: {lines[0]}"
    after = {p: p.read_bytes() for p in Path().rglob("*") if p.is_file() and p.name != ".lock"}
    assert {p: after.get(p) for p in before} == before
    return lines[0]


@pytest.mark.parametrize("script", STAGES)
def test_no_dataset(tmp_path, monkeypatch, script):
    monkeypatch.chdir(tmp_path)
    names = {"calc_optical_flow.py": ["raw_datasets/UCSDped2", "raw_datasets/README.md"],
             "extract_bbox.py": ["raw_datasets/UCSDped2", "raw_datasets/README.md"],
             "extract_stc.py": ["data/UCSDped2/test/boxes.json", "extract_bbox.py"],
             "train.py": ["data/UCSDped2/test/cubes.json", "extract_stc.py"],
             "test.py": ["data/UCSDped2/test/cubes.json", "extract_stc.py"]}[script]
    refused(script, *NAME, *STAGES[script], names=names)


def test_unknown_dataset_and_settings(tree):
    refused("train.py", "--dataset_name", "mine", names=["mine", "configs/mine.cfg", "layout"])
    refused("train.py", "--dataset_name", "../mine", names=["../mine"])
    refused("train.py", *NAME, "--config", "none.cfg", names=["none.cfg"])
    refused("train.py", *NAME, "--epochs", "0", names=["--epochs", "1 to 1,000,000"])
    refused("train.py", *NAME, "--epochs", "ten", names=["--epochs", "int"])
    refused("train.py", *NAME, "--device", "cuda:7", names=["cuda:7", "auto"])
    refused("train.py", *NAME, "--device", "gpu", names=["gpu", "cuda:N"])
    refused("train.py", *NAME, "--videos", "2-1", names=["2-1"])


def test_no_frames(tree):
    shutil.rmtree("raw_datasets/UCSDped2/Test/Test002")
    os.mkdir("raw_datasets/UCSDped2/Test/Test002")
    for script in list(STAGES)[:3]:
        refused(script, *NAME, *STAGES[script], names=["Test002", "no frames"])


def test_missing_flow_of_one_video(tree):
    shutil.rmtree("optical_flow/UCSDped2/Test/Test002")
    refused("extract_bbox.py", *NAME, *STAGES["extract_bbox.py"], names=["Test002", "calc_optical_flow.py"])


@pytest.mark.parametrize("keep", [0, 900])
def test_truncated_frame(tree, keep):
    frame = Path("raw_datasets/UCSDped2/Test/Test002/004.tif")
    frame.write_bytes(frame.read_bytes()[:keep])
    shutil.rmtree("optical_flow/UCSDped2/Test/Test002")
    words = [*NAME, "--flow_method", "dis"]
    refused("calc_optical_flow.py", *words, names=["Test002/004.tif", "frame 4 of 8", "--on_bad_frame repeat"])
    done = run_script("calc_optical_flow.py", *words, "--on_bad_frame", "repeat")
    assert done.stderr.count("replaced by the previous frame") == 1
    assert len(list(Path("optical_flow/UCSDped2/Test/Test002").glob("*.npy"))) == 8


def test_frame_of_another_size(tree):
    import cv2
    cv2.imwrite("raw_datasets/UCSDped2/Test/Test002/004.tif", np.zeros((50, 90, 3), np.uint8))
    shutil.rmtree("optical_flow/UCSDped2/Test/Test002")
    refused("calc_optical_flow.py", *NAME, "--flow_method", "dis", names=["004.tif", "50x90", "60x90"])


@pytest.mark.parametrize("content, names", [
    (np.zeros((60, 80, 2), np.float16), ["Test001/003.npy", "(60, 80, 2)"]),
    (np.full((60, 90, 2), np.nan, np.float16), ["Test001/003.npy", "finite"]),
    (b"\x93NUMPY", ["Test001/003.npy", "not a whole"]),
    (np.array([None, "x"], object), ["Test001/003.npy", "not a whole plain"]),
])
def test_bad_flow_file(tree, content, names):
    path = Path("optical_flow/UCSDped2/Test/Test001/003.npy")
    path.write_bytes(content) if isinstance(content, bytes) else np.save(path, content, allow_pickle=True)
    words = STAGES["extract_bbox.py"]
    refused("extract_bbox.py", *NAME, *words, "--motion_thr", "0.5", names=names)


def test_flow_made_otherwise_is_not_mixed_or_removed(tree):
    refused("calc_optical_flow.py", *NAME, "--flow_method", "dis", "--flow_dtype", "float32",
            names=["flow_dtype float16, now float32", "--flow_root_dir"])
    os.unlink("optical_flow/UCSDped2/Test/Test001/flow.json")
    refused("calc_optical_flow.py", *NAME, "--flow_method", "dis", names=["Test001", "no record (flow.json)"])


@pytest.mark.parametrize("boxes, names", [
    (np.zeros((15, 2, 4)), ["boxes for 15 frames", "16"]),
    (np.array([[16, 0, 0, 9, 9]], np.float32), ["frame 16", "0 to 15"]),
    (np.array([[0, 0, 0, np.nan, 9]], np.float32), ["not finite", "frame 0"]),
    (np.zeros((16, 3)), ["(16, 3)"]),
    (np.zeros((16, 2, 4))[:, :, :3], ["frame 0", "(2, 3)"]),
    (np.array(["a", "b"]), ["(2,)"]),
])
def test_bad_published_boxes(tree, boxes, names):
    np.save("theirs.npy", boxes)
    refused("extract_bbox.py", *NAME, "--boxes_from", "theirs.npy", names=["theirs.npy", *names])


def test_boxes_outside_the_image_are_dropped_with_a_count(tree):
    rows = np.array([[0, -5, -5, 20, 20], [0, 95, 10, 120, 30], [1, 30, 30, 20, 40], [1, 10, 10, 10, 20], [1, 1, 1, 9, 9]])
    np.save("theirs.npy", rows)
    done = run_script("extract_bbox.py", *NAME, "--boxes_from", "theirs.npy")
    assert "3 boxes were dropped" in done.stdout
    np.testing.assert_array_equal(np.load("data/UCSDped2/test/bboxes.npy"), rows[[0, 4]])
    np.save("theirs.npy", rows[1:4])
    refused("extract_bbox.py", *NAME, "--boxes_from", "theirs.npy", names=["no box", "--boxes_from"])


def test_stale_and_foreign_input(tree):
    run_script("train.py", *NAME, *SMALL)
    run_script("test.py", *NAME)
    run_script("extract_bbox.py", *NAME, "--detector", "none", "--min_area", "160")
    for script in ("train.py", "test.py"):
        refused(script, *NAME, *SMALL, names=["other boxes", "extract_stc.py"])
    run_script("extract_stc.py", *NAME)
    refused("test.py", *NAME, names=["other cubes", "train.py"])
    refused("train.py", *NAME, *SMALL, "--use_flow", "true", names=["no flow cubes", "extract_stc.py --use_flow true"])
    shutil.copytree("raw_datasets/UCSDped2/Test/Test001", "raw_datasets/UCSDped2/Test/Test003")
    refused("extract_stc.py", *NAME, names=["frames of UCSDped2", "extract_bbox.py"])


@pytest.mark.parametrize("damage, names", [
    (lambda p: p.write_bytes(p.read_bytes()[:500]), ["model_0_0.pt", "not a whole, safe torch file"]),
    (lambda p: p.unlink(), ["model_0_0.pt", "is missing"]),
    (lambda p: torch.save({**torch.load(p), "key": "other"}, p), ["model_0_0.pt", "another training"]),
    (lambda p: torch.save(torch.load(p) | {"model": {}}, p), ["model_0_0.pt", "not the weights"]),
])
def test_bad_models(tree, damage, names):
    run_script("train.py", *NAME, *SMALL)
    path = Path("data/UCSDped2/test/model_0_0.pt")
    damage(path)
    if path.exists():  # noticed by the record of the training, and without it by what the file holds
        refused("test.py", *NAME, names=["model_0_0.pt has changed since it was written", "train.py"])
        made = record.load("data/UCSDped2/test/train.json")
        record.write("data/UCSDped2/test/train.json", {**made, "outputs": made["outputs"] | {path.name: record.describe(path)}})
    refused("test.py", *NAME, names=names)


@pytest.mark.parametrize("scores", [[1e308, -1e308, 1.7e308], [np.nan], ["high"], [[0, 1]]])
def test_box_scores_of_the_user_that_no_sum_can_hold(tree, scores):
    Path("results/UCSDped2/test").mkdir(parents=True)
    np.save("results/UCSDped2/test/box_scores.npy", np.resize(scores, len(np.load("data/UCSDped2/test/bboxes.npy"))))
    np.save("results/UCSDped2/test/box_scores.npy", scores) if np.ndim(scores) == 2 else None
    refused("test.py", *NAME, names=["box_scores.npy", "finite score per box"])


@pytest.mark.parametrize("given, message", [
    ({"WORLD_SIZE": "4"}, "RANK is 'missing'"), ({"WORLD_SIZE": "x", "RANK": "1"}, "WORLD_SIZE is 'x'"),
    ({"WORLD_SIZE": "2", "RANK": "5", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, "RANK is '5'"),
    ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "x"}, "MASTER_PORT is 'x'"),
    ({"LOCAL_WORLD_SIZE": "0"}, "LOCAL_WORLD_SIZE is '0'")])
def test_variables_of_a_launcher(given, message):
    from utils.run import launched

    with pytest.raises(UserError, match=f"environment variable {message}: start several processes with torchrun"):
        launched(given)
    assert launched({"RANK": "1"}) == launched({"RANK": "x", "WORLD_SIZE": "1"}) == (0, 1)  # left over: one process
    assert launched({"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"}) == (1, 2)


def test_official_model_without_its_scores(tree, golden):
    shutil.copy(golden("official_model/UCSDped2_model.npy"), "UCSDped2_model.npy")
    refused("test.py", *NAME, "--model", "UCSDped2_model.npy", names=["UCSDped2_raw_training_scores.npy"])
    refused("test.py", *NAME, "--model", "nowhere", names=["nowhere"])


@pytest.mark.parametrize("spoil, names", [
    (lambda root: next(root.glob("Test/Test002_gt/*.bmp")).unlink(), ["Test002_gt", "7 masks for 8 frames", "no mask for"]),
    (lambda root: shutil.rmtree(root / "Test/Test002_gt"), ["Test002", "no masks"]),
    (lambda root: (root / "Test/Test002_gt/003.bmp").write_bytes(b"BM"), ["Test002_gt/003.bmp", "decoded"]),
])
def test_bad_labels(tree, spoil, names):
    run_script("train.py", *NAME, *SMALL)
    spoil(Path("raw_datasets/UCSDped2"))
    refused("test.py", *NAME, names=names)


def test_missing_weights_name_the_command_that_fetches_them(tree, monkeypatch):
    shutil.rmtree("optical_flow")
    for script, names in (("calc_optical_flow.py", ["FlowNet2_checkpoint.pth.tar", "download_weights flownet2"]),
                          ("extract_bbox.py", ["yolov3", "download_weights yolov3"])):
        if not (SUITE / "FlowNet2_src" / "pretrained").is_dir() and not (SUITE / "fore_det/obj_det_checkpoints").is_dir():
            refused(script, *NAME, names=names)
    refused("extract_bbox.py", *NAME, "--detector", "mmdet:a.py:b.pth", names=["a.py"])
    refused("extract_bbox.py", *NAME, "--detector", "yolov9", names=["yolov9", "yolov3"])


def test_a_second_process_on_the_same_folder_stops(tree):
    import fcntl
    with open("data/UCSDped2/test/.lock", "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        refused("train.py", *NAME, *SMALL, names=["data/UCSDped2/test", "another process"])


def test_as_a_real_process(tree):
    train = [sys.executable, str(SUITE / "train.py")]
    done = subprocess.run([*train, "--dataset_name", "nothing"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: unknown dataset nothing") and done.stderr.count("\n") == 1
    shown = subprocess.run([*train, "--help"], capture_output=True, text=True)
    assert shown.returncode == 0 and "l1 = mean + std" in shown.stdout and "--shrink_rate" in shown.stdout


def test_contents_are_held_to_with_verify(tree):
    """Frames of one size, boxes and cubes with a byte changed: names and sizes alone can't tell."""
    words = {**STAGES, "extract_bbox.py": STAGES["extract_bbox.py"]}
    for script in words:
        run_script(script, *NAME, *words[script], "--verify", "true")
    assert set(load("data/UCSDped2/test/boxes.json")["sha256"]) == {"bboxes.npy", "Test001", "Test002"}
    for script in words:  # nothing has changed
        run_script(script, *NAME, *words[script], "--verify", "true")
    for path, script, names in (
            ("raw_datasets/UCSDped2/Test/Test001/003.tif", "calc_optical_flow.py", ["Test001", "frames"]),
            ("optical_flow/UCSDped2/Test/Test002/003.npy", "calc_optical_flow.py", ["Test002", "flow"]),
            ("raw_datasets/UCSDped2/Test/Test001/003.tif", "extract_stc.py", ["Test001/001.tif", "boxes.json"]),
            ("data/UCSDped2/test/bboxes.npy", "extract_stc.py", ["bboxes.npy", "extract_bbox.py"]),
            ("data/UCSDped2/test/stc_raw.npy", "train.py", ["stc_raw.npy", "extract_stc.py"]),
            ("results/UCSDped2/test/box_scores.npy", "test.py", ["box_scores.npy", "test.py"])):
        data = Path(path).read_bytes()
        Path(path).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        known = "have changed" if path.endswith("3.tif") or "flow" in path else "is not the array"
        refused(script, *NAME, *words[script], "--verify", "true", names=[*names, known])
        Path(path).write_bytes(data)
    train = Path("data/UCSDped2/test/model_0_0.pt")
    data = bytearray(train.read_bytes())
    data[len(data) // 2] ^= 1  # of a weight: noticed also without --verify
    train.write_bytes(data)
    refused("test.py", *NAME, names=["model_0_0.pt", "has changed since it was written", "train.py"])


def load(path):
    return json.loads(Path(path).read_text())


def test_records_tell_what_was_made_with_what(tree):
    for path, count in (("optical_flow/UCSDped2/Test/Test001/flow.json", "flows"), ("data/UCSDped2/test/boxes.json", "boxes"),
                        ("data/UCSDped2/test/cubes.json", "cubes")):
        made = load(path)
        assert made[count] > 0 and made["seconds"] >= 0 and made["command"]
        assert {"code", "python", "numpy", "torch"} <= set(made["versions"])
    Path("data/UCSDped2/test/cubes.json").write_text(json.dumps({**made, "cubes": 3}))
    refused("train.py", *NAME, *SMALL, names=["cubes.json", "damaged, was edited"])


def test_gaps_and_disorder_in_the_numbers_of_frames(tree):
    folder = Path("raw_datasets/UCSDped2/Test/Test002")
    shutil.rmtree("optical_flow")
    (folder / "003.tif").unlink()
    done = run_script("calc_optical_flow.py", *NAME, "--flow_method", "dis")
    assert "note: Test002: 1 of the numbers 001 to 008 are missing, the first before 004" in done.stdout
    (folder / "007.tif").rename(folder / "10.tif")
    (folder / "008.tif").rename(folder / "9.tif")
    done = run_script("calc_optical_flow.py", *NAME, "--flow_method", "dis")
    assert "note: Test002: frames are sorted by number, 9 before 10" in done.stdout
    for k, name in enumerate(sorted(folder.glob("[0-9]*.tif"))):
        name.rename(folder / f"{k // 4}_{k % 4 + 8}.tif")  # 0_8, 0_9, 0_10, 0_11, 1_8: two numbers
    refused("calc_optical_flow.py", *NAME, "--flow_method", "dis", names=["Test002", "order", "009 and 010"])


def test_links_in_circles_pipes_and_huge_images(tree, monkeypatch):
    shutil.rmtree("optical_flow/UCSDped2/Test/Test002")
    frame = Path("raw_datasets/UCSDped2/Test/Test002/004.tif")
    words, data = [*NAME, "--flow_method", "dis"], frame.read_bytes()
    for make in (lambda: frame.symlink_to("004.tif"), lambda: os.mkfifo(frame), frame.mkdir):
        frame.unlink()
        make()
        refused("calc_optical_flow.py", *words, names=["Test002/004.tif"])
        shutil.rmtree("optical_flow/UCSDped2/Test/Test002", ignore_errors=True)
        frame.rmdir() if frame.is_dir() else frame.unlink()
        frame.write_bytes(data)
    os.symlink("..", "raw_datasets/UCSDped2/Test/Test003")
    refused("calc_optical_flow.py", *words, names=["Test003", "no frames"])
    os.unlink("raw_datasets/UCSDped2/Test/Test003")
    os.symlink("Test003", "raw_datasets/UCSDped2/Test/Test003")
    refused("calc_optical_flow.py", *words, names=["Test003", "links to Test003, which does not exist"])
    os.unlink("raw_datasets/UCSDped2/Test/Test003")
    monkeypatch.setattr("utils.films.MAX_PIXELS", 5000)
    shutil.rmtree("optical_flow")
    refused("calc_optical_flow.py", *words, names=["60x90", "5,000 pixels"])


def test_damaged_frames_are_counted_wherever_they_are_read(tree):
    frame = Path("raw_datasets/UCSDped2/Test/Test002/004.tif")
    frame.write_bytes(frame.read_bytes()[:900])
    shutil.rmtree("optical_flow"), shutil.rmtree("data")
    for script in list(STAGES)[:3]:
        done = run_script(script, *NAME, *STAGES[script], "--on_bad_frame", "repeat")
    assert load("optical_flow/UCSDped2/Test/Test002/flow.json")["repeated"] == ["004.tif"]
    assert load("data/UCSDped2/test/cubes.json")["repeated"] == ["Test002/004.tif"]
    assert "1 frames are damaged" in done.stdout


def test_flow_that_overflows_its_number_format(tree, monkeypatch):
    import FlowNet2_src.methods as methods
    monkeypatch.setattr(methods.Dis, "flow", lambda self, pairs: [np.full((384, 512, 2), 1e5, np.float32) for _ in pairs])
    shutil.rmtree("optical_flow")
    refused("calc_optical_flow.py", *NAME, "--flow_method", "dis", names=["001.npy", "not finite in float16", "float32"])


@pytest.mark.parametrize("spoil", [lambda b: b[::-1], lambda b: b[:, :4], lambda b: b * np.float32(np.nan), lambda b: b + 0.5,
                                   lambda b: b.astype(str), lambda b: b + [0, 500, 500, 500, 500], lambda b: b[1:]])
def test_boxes_that_someone_wrote_there(tree, spoil):
    path = Path("data/UCSDped2/test/bboxes.npy")
    np.save(path, spoil(np.load(path)))
    for script in ("extract_stc.py", "train.py"):
        Path("data/UCSDped2/test/cubes.json").unlink() if script == "extract_stc.py" else None
        refused(script, *NAME, *STAGES[script], names=["bboxes.npy" if script == "extract_stc.py" else "json", "extract_"])


def test_labels_all_normal_and_names_with_spaces_and_umlauts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ucsd_tree(tmp_path, "Straße bei Nacht", frames=8)
    Path("configs").mkdir()
    Path("configs/Straße bei Nacht.cfg").write_text("[dataset]\nlayout = ucsd\nmin_area = 100\n")
    for mask in tmp_path.glob("raw_datasets/*/Test/*_gt/*.bmp"):
        import cv2
        cv2.imencode(".bmp", np.zeros((60, 90), np.uint8))[1].tofile(mask)
    for script, words in STAGES.items():
        done = run_script(script, "--dataset_name", "Straße bei Nacht", *words)
    assert "no AUROC: all frames have the same label" in done.stdout
    assert load("results/Straße bei Nacht/test/metrics.json")["abnormal_frames"] == 0


@pytest.mark.parametrize("words, message", [
    (["--dataset", "UCSDped2"], "--dataset: no such flag; did you mean --dataset_name?"),
    (["--dataset_name", "UCSDped2", "--epoch=3"], "did you mean --epochs?"),
    (["--dataset_name", "UCSDped2", "--mode", "tets"], "invalid choice: 'tets'"),
    (["--dataset_name", "mine"], "python -m tools.prepare_videos mine"),
    ([], "required: --dataset_name (see --help)"),
])
def test_words_that_are_no_flags(suite, words, message):
    error = suite("train.py", *words, rc=2).stderr
    assert message in error and error.count("\n") == 1


def test_a_model_that_is_not_there_is_told_before_the_first_stage(suite, tmp_path):
    ucsd_tree(tmp_path)
    done = suite("run_pipeline.py", "--dataset_name", "UCSDped2", "--model", "data/other/test", rc=2)
    assert "--model data/other/test: no such folder" in done.stderr and "== flow" not in done.stdout


def test_one_box_over_all_is_warned_of(suite, tmp_path):
    ucsd_tree(tmp_path)
    whole = [[frame, 0, 0, 89, 59] for frame in range(14)]  # the first video's frames; the second has a small box
    np.save("boxes.npy", np.array([*whole, [14, 10, 10, 30, 30]], np.float32))
    done = suite("extract_bbox.py", "--dataset_name", "UCSDped2", "--boxes_from", "boxes.npy")
    assert "warning: Test001: in more than a fifth of the frames one box covers" in done.stdout
