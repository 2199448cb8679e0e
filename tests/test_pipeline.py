"""Whole pipelines through the command line, on small generated trees of the official shapes."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import SMALL, STAGES, SUITE, all_stages, outcome, run_script
from trees import avenue_tree, shanghaitech_tree, ucsd_tree

from utils import datasets, record
from utils.labels import read_labels


def test_what_the_five_commands_write(copy):
    boxes = np.load("data/UCSDped2/test/bboxes.npy")
    cubes = np.load("data/UCSDped2/test/stc_raw.npy")
    scores = np.load("results/UCSDped2/test/box_scores.npy")
    assert boxes.shape[1] == 5 and boxes.dtype == np.float32 and (np.diff(boxes[:, 0]) >= 0).all()
    assert cubes.shape == (len(boxes), 15, 32, 32) and cubes.dtype == np.uint8
    assert scores.shape == (len(boxes),) and scores.dtype == np.float32
    flow = np.load("optical_flow/UCSDped2/Test/Test001/001.npy")
    assert flow.shape == (60, 90, 2) and flow.dtype == np.float16
    found = outcome("UCSDped2", "test")
    assert found["frames"] == 28 and found["abnormal_frames"] == 14 and found["cubes"] == len(boxes)
    assert 0 <= found["auroc"] <= 1 and found["seed"] == 0 and found["settings"]["sp_mode"] == "mixture"
    assert found["labels"] == "pixel masks Test/*_gt"
    results = np.load("results/UCSDped2/test/frame_results.npz")
    assert set(results) == {
        "preds", "truth", "fpr", "tpr", "roc_thresholds", "roc_auc", "precision_norm", "recall_norm", "pr_thresholds_norm",
        "pr_auc_norm", "precision_anom", "recall_anom", "pr_thresholds_anom", "pr_auc_anom"}
    assert results["roc_auc"] == pytest.approx(found["auroc"])
    for name in ("roc.png", "scores.png", "cubes.png"):
        assert cv2.imread(f"results/UCSDped2/test/{name}").std() > 1
    log = list(csv.DictReader(open("data/UCSDped2/test/training_log.csv")))
    assert [row["epoch"] for row in log] == ["1", "2"] and float(log[0]["weight_1"]) == 1 > float(log[1]["weight_1"])
    kept = np.load("data/UCSDped2/test/epoch_scores.npy")
    trained = torch.load("data/UCSDped2/test/model_0_0.pt", weights_only=True)
    assert kept.shape == (2, len(boxes), 1)
    np.testing.assert_array_equal(kept[1], trained["scores"])
    assert not [p for p in copy.rglob("*.part*")]


def test_the_first_frame_has_no_motion_and_the_last_one_looks_back(copy):
    run_script("calc_optical_flow.py", "--dataset_name", "UCSDped2", "--flow_method", "dis")
    folder = "optical_flow/UCSDped2/Test/Test001"
    assert np.abs(np.load(f"{folder}/001.npy")).max() < 0.1
    np.testing.assert_array_equal(np.load(f"{folder}/014.npy"), np.load(f"{folder}/013.npy"))


def test_everything_is_skipped_the_second_time_and_redone_when_asked_otherwise(copy):
    before = {p: p.stat().st_mtime_ns for p in copy.rglob("*") if p.is_file() and p.name not in (".lock", "flow.json")}
    all_stages("UCSDped2", "test", train=["--score_every", "1"])
    assert before == {p: p.stat().st_mtime_ns for p in before}
    done = run_script("extract_bbox.py", "--dataset_name", "UCSDped2", "--detector", "none", "--min_area", "150")
    assert "min_area 100, now 150" in done.stdout
    stale = run_script("train.py", "--dataset_name", "UCSDped2", *SMALL, rc=2)
    assert "made from other boxes" in stale.stderr and "extract_stc.py" in stale.stderr


@pytest.mark.numeric
def test_two_runs_give_the_same_bytes(copy):
    first = open("results/UCSDped2/test/box_scores.npy", "rb").read()
    shutil.rmtree("data")
    shutil.rmtree("results")
    all_stages("UCSDped2", "test", train=["--score_every", "1"])
    assert open("results/UCSDped2/test/box_scores.npy", "rb").read() == first
    run_script("train.py", "--dataset_name", "UCSDped2", *SMALL, "--seed", "1")
    run_script("test.py", "--dataset_name", "UCSDped2")
    assert open("results/UCSDped2/test/box_scores.npy", "rb").read() != first
    assert outcome("UCSDped2", "test")["seed"] == 1


@pytest.mark.numeric
def test_a_killed_training_goes_on_and_ends_in_the_same_bytes(copy):
    words = [*SMALL, "--epochs", "6", "--score_every", "2"]
    run_script("train.py", "--dataset_name", "UCSDped2", *words)
    whole = torch.load("data/UCSDped2/test/model_0_0.pt", weights_only=True)
    kept = np.load("data/UCSDped2/test/epoch_scores.npy")
    for path in ("model_0_0.pt", "train.json", "epoch_scores.npy"):
        os.unlink(f"data/UCSDped2/test/{path}")
    process = subprocess.Popen([sys.executable, str(SUITE / "train.py"), "--dataset_name", "UCSDped2", *words],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not os.path.exists("data/UCSDped2/test/train.part/model_0_0.pt") and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not os.path.exists("data/UCSDped2/test/train.json")
    refused = run_script("test.py", "--dataset_name", "UCSDped2", rc=2)
    assert "not finished" in refused.stderr
    done = run_script("train.py", "--dataset_name", "UCSDped2", *words)
    assert "resuming after epoch" in done.stdout
    again = torch.load("data/UCSDped2/test/model_0_0.pt", weights_only=True)
    assert all(torch.equal(whole["model"][key], again["model"][key]) for key in whole["model"])
    np.testing.assert_array_equal(kept, np.load("data/UCSDped2/test/epoch_scores.npy"))
    assert not os.path.exists("data/UCSDped2/test/train.part")


@pytest.mark.parametrize("script, output, words, again", [
    ("extract_bbox.py", "bboxes.npy", STAGES["extract_bbox.py"], ["Test002"]),
    ("extract_stc.py", "stc_raw.npy", [], ["Test001", "Test002"])])
def test_interrupted_boxes_resume_with_the_next_video_and_cubes_start_again(copy, monkeypatch, script, output, words, again):
    whole = open(f"data/UCSDped2/test/{output}", "rb").read()
    for path in (output, "boxes.json" if output == "bboxes.npy" else "cubes.json"):
        os.unlink(f"data/UCSDped2/test/{path}")
    from utils import frames
    reader = "load_flow" if output == "bboxes.npy" else "load"
    real = getattr(frames, reader)

    def stop_at_the_second(video, *rest):
        if video.name == "Test002":
            raise KeyboardInterrupt
        return real(video, *rest)

    monkeypatch.setattr(frames, reader, stop_at_the_second)
    done = run_script(script, "--dataset_name", "UCSDped2", *words, rc=130)
    assert "run the same command to resume" in done.stderr and not os.path.exists(f"data/UCSDped2/test/{output}")
    seen = []
    monkeypatch.setattr(frames, reader, lambda video, *rest: seen.append(video.name) or real(video, *rest))
    run_script(script, "--dataset_name", "UCSDped2", *words)
    assert seen == again
    assert open(f"data/UCSDped2/test/{output}", "rb").read() == whole


def test_blocks_motion_enhancement_and_frame_ranges(tmp_path, monkeypatch):
    """Ped1: 4x1 blocks, labels from UCSDped1.m, with use_flow."""
    monkeypatch.chdir(tmp_path)
    ucsd_tree(tmp_path, "UCSDped1", ranges=True, frames=12)
    all_stages("UCSDped1", "test", "--use_flow", "true", train=["--shrink_rate", "0.5"])
    boxes = np.load("data/UCSDped1/test/bboxes.npy")
    rows = np.unique(np.clip((boxes[:, 2] + boxes[:, 4]) / 2 // 15, 0, 3).astype(int))
    assert sorted(p.name for p in (tmp_path / "data/UCSDped1/test").glob("model_*.pt")) == [f"model_{r}_0.pt" for r in rows]
    assert np.load("data/UCSDped1/test/stc_of.npy").shape == (len(boxes), 10, 32, 32)
    found = outcome("UCSDped1", "test")
    assert found["labels"] == "frame ranges Test/UCSDped1.m" and found["abnormal_frames"] == 12
    assert found["settings"]["use_flow"] and len(rows) > 1



def test_merge_counts_training_frames_as_normal_and_train_serves_the_one_class_protocol(copy):
    all_stages("UCSDped2", "merge")
    found = outcome("UCSDped2", "merge")
    assert found["frames"] == 42 and found["abnormal_frames"] == 14
    assert found["videos"][0] == ["Train001", 0, 14] and not np.load("results/UCSDped2/merge/labels.npy")[:14].any()
    for script, words in list(STAGES.items())[:-1]:
        run_script(script, "--dataset_name", "UCSDped2", "--mode", "train", *words)
    run_script("test.py", "--dataset_name", "UCSDped2", "--mode", "test", "--model", "data/UCSDped2/train")
    assert outcome("UCSDped2", "test")["model"] == "data/UCSDped2/train"


@pytest.mark.parametrize("as_avi", [False, True])
def test_avenue(tmp_path, monkeypatch, as_avi):
    monkeypatch.chdir(tmp_path)
    avenue_tree(tmp_path, as_avi=as_avi)
    for script, words in STAGES.items():
        done = run_script(script, "--dataset_name", "avenue", "--mode", "merge", *words)
        assert "should have 21 testing videos with 15324 frames in total; found 2 with 28" in done.stdout, script
    found = outcome("avenue", "merge")
    assert found["frames"] == 42 and found["abnormal_frames"] == 14 and found["auroc"] is not None
    assert found["labels"].endswith("*.mat")


@pytest.mark.parametrize("distributed", [False, True])
def test_shanghaitech(tmp_path, monkeypatch, distributed):
    monkeypatch.chdir(tmp_path)
    shanghaitech_tree(tmp_path, distributed=distributed)
    all_stages("ShanghaiTech", "merge" if distributed else "test")
    found = outcome("ShanghaiTech", "merge" if distributed else "test")
    names = [name for name, _, _ in found["videos"]]
    assert names == (["01_001", "01_0015", "02_0014"] if distributed else ["02_0014", "01_0015"])
    assert found["abnormal_frames"] == 14 and found["settings"]["window_size"] == 10


def test_trials_take_part_of_the_frames_with_one_meaning_in_all_stages(copy):
    some = ["--videos", "2", "--limit_frames", "9", "--frame_step", "3"]
    all_stages("UCSDped2", "test", *some)
    boxes = np.load("data/UCSDped2/test/bboxes.npy")
    assert set(boxes[:, 0]) <= {14, 17, 20}
    assert outcome("UCSDped2", "test")["frames"] == 3 == len(np.load("results/UCSDped2/test/frame_scores.npy"))
    other = run_script("test.py", "--dataset_name", "UCSDped2", "--videos", "2", "--limit_frames", "9", rc=2)
    assert "frame_step 3, now 1" in other.stderr


@pytest.mark.numeric
def test_windows_of_a_trial_reach_the_true_neighbours(copy):
    whole = np.load("data/UCSDped2/test/stc_raw.npy")
    frame = np.load("data/UCSDped2/test/bboxes.npy")[:, 0]
    for script in ("extract_bbox.py", "extract_stc.py"):
        run_script(script, "--dataset_name", "UCSDped2", *STAGES[script], "--frame_step", "5")
    np.testing.assert_array_equal(np.load("data/UCSDped2/test/stc_raw.npy"), whole[np.isin(frame % 14, (0, 5, 10))])


def test_boxes_of_others_and_the_official_model(copy, golden):
    boxes = np.load("data/UCSDped2/test/bboxes.npy")
    per_frame = np.empty(28, object)
    per_frame[:] = [boxes[boxes[:, 0] == i, 1:] for i in range(28)]
    np.save("theirs.npy", per_frame, allow_pickle=True)
    run_script("extract_bbox.py", "--dataset_name", "UCSDped2", "--boxes_from", "theirs.npy")
    np.testing.assert_array_equal(np.load("data/UCSDped2/test/bboxes.npy"), boxes)
    run_script("extract_stc.py", "--dataset_name", "UCSDped2")
    for name in ("UCSDped2", "UCSDped1"):
        model = golden(f"official_model/{name}_model.npy")
        run_script("test.py", "--dataset_name", "UCSDped2", "--model", model)
        assert outcome("UCSDped2", "test")["model"].endswith(f"{name}_model.npy")
        assert np.isfinite(np.load("results/UCSDped2/test/box_scores.npy")).all()


def test_the_era_of_the_paper_drops_boxes_in_which_nothing_moves(copy):
    boxes = np.load("data/UCSDped2/test/bboxes.npy")
    np.save("theirs.npy", boxes)
    for path in copy.glob("optical_flow/UCSDped2/Test/Test001/*.npy"):
        np.save(path, np.zeros((60, 90, 2), np.float16))
    era = ["--dataset_name", "UCSDped2", "--config", SUITE / "configs/paper_2022/UCSDped2.cfg"]
    run_script("extract_bbox.py", *era, "--boxes_from", "theirs.npy")
    kept = np.load("data_2022/UCSDped2/test/bboxes.npy")
    assert len(kept) and kept[:, 0].min() >= 14
    np.testing.assert_array_equal(np.load("data/UCSDped2/test/bboxes.npy"), boxes)
    for script, words in (("extract_stc.py", []), ("train.py", SMALL), ("test.py", [])):
        run_script(script, *era, *words)
    found = json.loads(open("results_2022/UCSDped2/test/metrics.json").read())
    assert found["config"].endswith("paper_2022/UCSDped2.cfg") and found["auroc"] == found["auroc_unsmoothed"]
    assert found["settings"]["shrink_rate"] == 0.0001 and outcome("UCSDped2", "test")["settings"]["window_size"] == 10


def test_a_block_without_a_model_scores_20(copy):
    run_script("train.py", "--dataset_name", "UCSDped2", *SMALL, "--h_block", "2")
    shutil.copytree("data/UCSDped2/test", "half")
    record.write("half/train.json", record.load("half/train.json") | {"models": ["model_0_0.pt"]})
    done = run_script("test.py", "--dataset_name", "UCSDped2", "--model", "half")
    assert "no model" in done.stdout
    boxes, scores = np.load("data/UCSDped2/test/bboxes.npy"), np.load("results/UCSDped2/test/box_scores.npy")
    lower = (boxes[:, 2] + boxes[:, 4]) / 2 >= 30
    assert (scores[lower] == 20).all() and (scores[~lower] < 20).all()


def test_without_labels_there_are_scores_and_no_auroc(copy):
    for folder in copy.glob("raw_datasets/UCSDped2/Test/*_gt"):
        shutil.rmtree(folder)
    done = run_script("test.py", "--dataset_name", "UCSDped2")
    assert "no AUROC: there are no labels" in done.stdout
    found = outcome("UCSDped2", "test")
    assert found["auroc"] is None and "no labels" in found["labels"]
    assert os.path.exists("results/UCSDped2/test/scores.png")
    assert not os.path.exists("results/UCSDped2/test/labels.npy")


@pytest.mark.parametrize("tree, name", [(ucsd_tree, "UCSDped2"), (avenue_tree, "avenue"), (shanghaitech_tree, "ShanghaiTech")])
def test_labels_are_matched_by_name(tmp_path, monkeypatch, tree, name):
    monkeypatch.chdir(tmp_path)
    base = tree(tmp_path)
    dataset = datasets.find(name, "test", datasets.DATASETS[name]["layout"])
    labels, _ = read_labels(dataset, [(60, 90)] * 2)
    assert labels.tolist() == ([False] * 7 + [True] * 7) * 2
    last = sorted([*base.rglob("Test002_gt/*.bmp"), *base.rglob("2_label.mat"), *base.rglob("01_0015.npy")])[-1]
    last.unlink()
    with pytest.raises(Exception, match="Test002|2_label|01_0015"):
        read_labels(dataset, [(60, 90)] * 2)


def test_run_pipeline_skips_what_is_done_and_passes_exit_codes_on(copy):
    command = [sys.executable, str(SUITE / "run_pipeline.py"), "--dataset_name", "UCSDped2"]
    words = [*STAGES["calc_optical_flow.py"], *STAGES["extract_bbox.py"], *SMALL, "--score_every", "1"]
    done = subprocess.run([*command, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("done with the same settings and input") == 4 and "frame AUROC" in done.stdout
    failed = subprocess.run([*command, "--videos", "9"], capture_output=True, text=True)
    assert failed.returncode == 2 and "there is no video 9" in failed.stderr and "Traceback" not in failed.stderr
    shutil.rmtree("data/UCSDped2")
    first = subprocess.run([*command, *words], capture_output=True, text=True)
    assert first.returncode == 0 and "wrote data" in first.stdout, first.stderr
    assert "next: " not in first.stdout and "not made yet" not in first.stdout  # the pipeline starts the next stage itself
    os.remove("data/UCSDped2/test/train.json")
    assert "next: python test.py --dataset_name UCSDped2" in run_script("train.py", *command[2:], *words).stdout


def test_a_stage_is_replaced_by_writing_its_file(copy):
    """Boxes, cubes and scores made by a program of the user's, in folders without records of ours."""
    data, results = Path("data/UCSDped2/test"), Path("results/UCSDped2/test")
    boxes, cubes, scores = (np.load(path) for path in (data / "bboxes.npy", data / "stc_raw.npy", results / "box_scores.npy"))
    shutil.rmtree("data"), shutil.rmtree("results")
    data.mkdir(parents=True), results.mkdir(parents=True)
    np.save(data / "bboxes.npy", boxes[::2])
    done = run_script("extract_bbox.py", "--dataset_name", "UCSDped2", "--min_area", "9")  # whatever is asked for
    assert f"wrote {data}/bboxes.npy" not in done.stdout and "yours" in done.stdout
    assert "yours" in run_script("extract_bbox.py", "--dataset_name", "UCSDped2").stdout
    np.save(data / "stc_raw.npy", 255 - cubes)
    refused = run_script("extract_stc.py", "--dataset_name", "UCSDped2", rc=2)
    assert f"not the {len(boxes[::2])} cubes" in refused.stderr
    np.save(data / "stc_raw.npy", 255 - cubes[::2])
    run_script("extract_stc.py", "--dataset_name", "UCSDped2")
    np.testing.assert_array_equal(np.load(data / "stc_raw.npy"), 255 - cubes[::2])
    np.save(results / "box_scores.npy", scores[::2])
    run_script("test.py", "--dataset_name", "UCSDped2")  # without models
    assert outcome("UCSDped2", "test")["auroc"] is not None and outcome("UCSDped2", "test")["cubes"] == len(boxes[::2])
    assert "yours" in run_script("test.py", "--dataset_name", "UCSDped2").stdout
    np.save(data / "bboxes.npy", boxes)
    changed = run_script("extract_bbox.py", "--dataset_name", "UCSDped2", rc=2)
    assert "is not the array" in changed.stderr and "remove data/UCSDped2/test/boxes.json" in changed.stderr
    (data / "boxes.json").unlink()
    run_script("extract_bbox.py", "--dataset_name", "UCSDped2")
    other = run_script("extract_stc.py", "--dataset_name", "UCSDped2", rc=2)
    assert "for other input than the present one" in other.stderr


def test_code_that_has_changed_since_is_said_with_the_way_to_rebuild(copy, monkeypatch):
    assert "code has changed" not in run_script("train.py", "--dataset_name", "UCSDped2", *SMALL, "--score_every", "1").stdout
    cubes = Path("data/UCSDped2/test/cubes.json")
    kept, made = cubes.read_bytes(), record.load(cubes)
    record.write(cubes, {key: value for key, value in made.items() if key != "versions"})  # a record may lack them
    assert "the code has changed since" in run_script("extract_stc.py", "--dataset_name", "UCSDped2").stdout
    cubes.write_bytes(kept)
    monkeypatch.setattr(record, "code", lambda: "other")
    for script, words in list(STAGES.items())[1:]:
        words = ["--dataset_name", "UCSDped2", *words, *["--score_every", "1"] * (script == "train.py")]
        said = run_script(script, *words).stdout
        folder, names = re.search(r"(\S+): \w+ are done .*; the code has changed since: to rebuild, remove (.*)", said).groups()
        for name in names.split(", "):
            Path(folder, name).unlink()
        done = run_script(script, *words).stdout
        assert "are done" not in done and "yours" not in done and Path(folder, names.split(", ")[0]).is_file()
