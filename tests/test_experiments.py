"""Evaluating saved scores, ending a training in other ways, and grids of experiments, through the command line."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import SMALL, SUITE, all_stages, outcome, run_script

RESULTS = Path("results/UCSDped2/test")


def table(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_protocols_of_a_run(copy):
    found = outcome("UCSDped2", "test")
    done = run_script("tools.evaluate", "UCSDped2", "test")
    rows = table(RESULTS / "protocols.csv")
    assert [row["name"] for row in rows] == [row["name"] for row in found["protocols"]]
    assert rows[0]["official"] == "True" and float(rows[0]["auroc"]) == found["auroc"]
    plain = next(row for row in rows if row["name"] == "micro, no smoothing")
    assert float(plain["auroc"]) == found["auroc_unsmoothed"]
    assert "* micro, average of 10 across videos" in done.stdout and f"{found['auroc']:7.2%} [" in done.stdout
    videos = table(RESULTS / "videos.csv")
    assert [(row["video"], row["frames"], row["abnormal"]) for row in videos] == [
        ("Test001", "14", "7"), ("Test002", "14", "7")]


@pytest.mark.numeric
def test_epoch_by_epoch(copy):
    found = outcome("UCSDped2", "test")
    run_script("tools.evaluate", "UCSDped2", "test", "--training")
    rows = table(RESULTS / "epochs.csv")
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert float(rows[1]["auroc"]) == pytest.approx(found["auroc"], abs=1e-6)
    weights = np.load("data/UCSDped2/test/epoch_weights.npy")
    log = table("data/UCSDped2/test/training_log.csv")
    assert (weights[0] == 1).all() and float(rows[0]["dropped"]) == 0 and rows[0]["dropped_on_abnormal"] == ""
    assert np.mean(weights[1] == 1) == pytest.approx(float(log[1]["weight_1"]))
    assert np.mean(weights[1] == 0) == pytest.approx(float(log[1]["weight_0"]))
    assert log[0]["threshold_1"] == "" and 0 < float(log[1]["threshold_1"]) < float(log[1]["threshold_2"])
    boxes, labels = np.load("data/UCSDped2/test/bboxes.npy"), np.load(RESULTS / "labels.npy")
    abnormal = labels[boxes[:, 0].astype(int)]
    lost = 1 - weights[1].astype(float)
    assert float(rows[1]["dropped_on_abnormal"]) == pytest.approx(lost[abnormal].sum() / lost.sum())
    losses = np.load("data/UCSDped2/test/epoch_scores.npy")[1, :, 0]
    assert float(rows[1]["normality_advantage"]) == pytest.approx(losses[abnormal].mean() / losses[~abnormal].mean(), rel=1e-5)
    assert cv2.imread(str(RESULTS / "training.png")).std() > 1
    run_script("train.py", "--dataset_name", "UCSDped2", *SMALL)
    run_script("test.py", "--dataset_name", "UCSDped2")
    assert "--score_every 1" in run_script("tools.evaluate", "UCSDped2", "test", "--training").stdout


def test_scores_of_another_method(copy):
    own = run_script("tools.evaluate", "UCSDped2").stdout
    scores = np.load(RESULTS / "frame_scores.npy")
    np.save("theirs.npy", scores)
    os.mkdir("theirs")
    for name, part in zip(("Test001", "Test002"), np.split(scores, 2)):
        np.savetxt(f"theirs/{name}.txt", part, fmt="%.9g")
    for path in ("theirs.npy", "theirs"):
        done = run_script("tools.evaluate", "UCSDped2", "--scores", path).stdout
        assert "micro, no smoothing" in own and "scores are -20, which means frames without boxes" in done
        for line in own.split("\nwrote")[0].splitlines():  # but for the error of 0, which the other method does not tell
            assert line in done or re.search("HF2-VAD|Jigsaw-VAD|CKNN", line)
    boxes, box_scores = np.load("data/UCSDped2/test/bboxes.npy"), np.load(RESULTS / "box_scores.npy")
    np.save("boxes.npy", np.column_stack([boxes, box_scores])[::-1])
    mine = run_script("tools.evaluate", "UCSDped2", "--masks").stdout
    theirs = run_script("tools.evaluate", "UCSDped2", "--masks", "--scores", "theirs", "--boxes", "boxes.npy").stdout
    found = re.findall(r"[RT]BDC from masks +[\d.]+%.*", mine)
    assert len(found) == 2 and all(line in theirs for line in found)
    os.mkdir("tracks")
    for name in ("Test001", "Test002"):
        Path("tracks", f"{name}.txt").write_text("0, 10, 5, 5, 30, 30\n0, 11, 6, 5, 31, 30\n")
    assert "4 regions in 2 tracks" in run_script("tools.evaluate", "UCSDped2", "--tracks", "tracks").stdout


def test_two_methods_on_the_same_videos(copy):
    scores = np.load(RESULTS / "frame_scores.npy")
    np.save("same.npy", scores)
    assert "difference +0.00% [+0.00%, +0.00%], first better in 0%" in run_script(
        "tools.evaluate", "UCSDped2", "--against", "same.npy").stdout
    labels = np.load(RESULTS / "labels.npy")
    np.save("best.npy", labels + np.linspace(0, 0.1, len(labels)))
    done = run_script("tools.evaluate", "UCSDped2", "--scores", "best.npy", "--against", RESULTS).stdout
    assert re.search(r"no smoothing, AUROC +: +100.00% and .* difference \+", done)
    before = (RESULTS / "protocols.csv").read_bytes()
    some = run_script("tools.evaluate", "UCSDped2", "--videos", "Test002", "--against", RESULTS).stdout  # of this run alone
    assert "Test001" not in some and "resamples of the 1 videos" in some and "wrote" not in some
    assert "* micro, average of 10 across videos" in some and before == (RESULTS / "protocols.csv").read_bytes()
    np.save("second.npy", scores[14:])
    np.save("second_labels.npy", labels[14:].astype(int))
    alone = run_script("tools.evaluate", "--scores", "second.npy", "--labels", "second_labels.npy", "--lengths", "14").stdout
    figure = re.compile(r"micro, no smoothing +([\d.]+%)")
    assert figure.search(some).group(1) == figure.search(alone).group(1)


@pytest.mark.parametrize("words, message", [
    (["--scores", "short.npy"], "has 27 scores, UCSDped2 has 28 frames"),
    (["--scores", "nan.npy"], "one finite score per frame"),
    (["--scores", "words.txt"], "not a column of numbers"),
    (["--scores", "none.npy"], "no such file"),
    (["--scores", "folder"], "no scores of video Test001"),
    (["--scores", "good.npy", "--masks"], "add --boxes"),
    (["--scores", "good.npy", "--masks", "--boxes", "good.npy"], "must be (N, 6)"),
    (["--videos", "Test003"], "has no video Test003; it has Test001, Test002"),
    (["--videos", "Test001", "--masks"], "need the scores of all 28 frames"),
    (["--tracks", "folder"], "every testing video needs a file"),
    (["--tracks", "beyond"], "frame must be 0 to 13"),
    (["--against", "short.npy"], "has 27 scores"),
])
def test_scores_that_do_not_fit(copy, words, message):
    np.save("good.npy", np.arange(28.0))
    np.save("short.npy", np.arange(27.0))
    np.save("nan.npy", np.append(np.arange(27.0), np.nan))
    Path("words.txt").write_text("a\nb\n")
    os.mkdir("folder")
    os.mkdir("beyond")
    Path("beyond/Test001.txt").write_text("0 14 1 1 5 5")
    assert message in run_script("tools.evaluate", "UCSDped2", *words, rc=2).stderr


def test_merge_mode_shows_the_testing_frames_alone(suite, tmp_path):
    from trees import ucsd_tree

    ucsd_tree(tmp_path)
    all_stages("UCSDped2", "merge")
    found = outcome("UCSDped2", "merge")
    names = [row["name"] for row in found["protocols"]]
    assert found["training_videos"] == 1 and "micro, this run's smoothing, testing frames alone" in names
    assert next(row for row in found["protocols"] if row["name"].startswith("macro, as SSMTL"))["videos"] == 2


def model(path="data/UCSDped2/test/model_0_0.pt"):
    return torch.load(path, weights_only=True)


@pytest.mark.numeric
def test_ending_a_training_in_other_ways(copy):
    train = ["train.py", "--dataset_name", "UCSDped2", *SMALL, "--epochs", "5", "--score_every", "1"]
    run_script(*train, "--keep_epochs", "3")
    plain, losses = model(), np.load("data/UCSDped2/test/epoch_scores.npy")
    assert len(plain["recent"]) == 3 and all(torch.equal(v, plain["recent"][-1][k]) for k, v in plain["model"].items())
    done = run_script(*train, "--keep_epochs", "3", "--average_last", "2")
    assert "the same training with another ending" in done.stdout
    averaged = model()
    key = "raw_ae.0.conv.conv.0.weight"
    mean = (plain["recent"][-1][key] + plain["recent"][-2][key]) / 2
    torch.testing.assert_close(averaged["model"][key], mean)
    assert json.loads(Path("data/UCSDped2/test/train.json").read_text())["scored_epochs"] == [4, 5]
    assert np.load("data/UCSDped2/test/epoch_scores.npy").shape[0] == 2
    run_script(*train, "--keep_epochs", "3", "--recalibrate_bn", "true")
    recalibrated = model()
    assert torch.equal(recalibrated["model"][key], plain["model"][key])
    assert not torch.equal(recalibrated["model"]["raw_ae.0.conv.conv.1.running_mean"],
                           plain["model"]["raw_ae.0.conv.conv.1.running_mean"])
    cubes = torch.from_numpy(np.load("data/UCSDped2/test/stc_raw.npy")).float() / 255
    weight, bias = (plain["model"][f"raw_ae.0.conv.conv.0.{name}"] for name in ("weight", "bias"))
    order = np.random.default_rng(np.random.SeedSequence([0, 0, 0, 5]).generate_state(1)[0]).permutation(len(cubes))
    first = torch.nn.functional.conv2d(cubes[order], weight, bias, padding=1)
    wanted = torch.stack([part.mean(dim=(0, 2, 3)) for part in first.split(32)]).mean(dim=0)
    torch.testing.assert_close(recalibrated["model"]["raw_ae.0.conv.conv.1.running_mean"], wanted, rtol=1e-4, atol=1e-5)
    run_script(*train)  # back to the official end, again without a training
    assert torch.equal(model()["model"][key], plain["model"][key])
    np.testing.assert_array_equal(np.load("data/UCSDped2/test/epoch_scores.npy"), losses[2:])
    os.unlink("data/UCSDped2/test/model_0_0.pt")
    done = run_script(*train, "--average_last", "2")  # from scratch, it ends in the same weights
    assert "its weights are taken" not in done.stdout
    assert all(torch.equal(model()["model"][k], v) for k, v in averaged["model"].items())
    assert len(np.load("data/UCSDped2/test/epoch_scores.npy")) == 5
    done = run_script(*train, "--average_last", "4")
    assert "too few for this ending; training again" in done.stdout


EXPERIMENT = """
[experiment]
title = Modes
seeds = 0,1
[settings]
boxes_from = data/UCSDped2/test/bboxes.npy
num_feature_root = 4
epochs = 30
warmup_epoch = 1
batch_size = 32
score_every = 1
keep_epochs = 7
[grid]
dataset_name = UCSDped2, avenue
sp_mode average_last = mixture 0, mixture 2
[cited]
UCSDped2 mixture 0 = 97.2
"""


def test_a_killed_experiment_gives_the_same_table(copy):
    os.mkdir("experiments")
    for name in ("whole", "killed"):
        Path(f"experiments/{name}.cfg").write_text(EXPERIMENT)
    words = ["--epochs", "8", "--seeds", "0"]
    done = run_script("tools.run_experiments", "experiments/whole.cfg", *words).stdout
    assert done.count("extract_stc.py") == 1 and done.count("train.py") == 2  # boxes and cubes are shared
    whole, killed = Path("experiments/whole_8epochs"), Path("experiments/killed_8epochs")
    assert "the same training with another ending" in (whole / "runs/UCSDped2_mixture_2/seed_0/run.log").read_text()
    process = subprocess.Popen([sys.executable, "-m", "tools.run_experiments", "experiments/killed.cfg", *words],
                               env=os.environ | {"PYTHONPATH": str(SUITE)}, stdout=subprocess.DEVNULL, start_new_session=True)
    while not list(killed.glob("runs/UCSDped2_mixture_0/seed_0/data/*/*/train.part/*.pt")):
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    run_script("tools.run_experiments", "experiments/killed.cfg", *words)
    assert "resuming after epoch" in (killed / "runs/UCSDped2_mixture_0/seed_0/run.log").read_text()
    rows = [[row | {"seconds": ""} for row in table(folder / "table.csv")] for folder in (whole, killed)]
    assert rows[0] == rows[1]
    assert [row["runs"] for row in rows[0]] == ["1", "1", "absent", "absent"]
    assert rows[0][0]["cited"] == "97.2" and all(float(row["AUROC"]) > 0 and row["spread"] for row in rows[0][:2])
    assert "| UCSDped2 | mixture | 2 | 1 |" in (whole / "table.md").read_text()
    assert "train.py" not in run_script("tools.run_experiments", "experiments/whole.cfg", *words).stdout


def test_a_failed_run_is_named(suite, tmp_path):
    from trees import ucsd_tree

    ucsd_tree(tmp_path)
    Path("failing.cfg").write_text("[grid]\ndataset_name = UCSDped2\nflow_method = flownet2")
    done = run_script("tools.run_experiments", "failing.cfg", rc=2)
    assert "failed: error: " in done.stdout and "download_weights" in done.stdout and "run.log" in done.stderr
    assert table("failing/table.csv")[0]["runs"] == "failed"


@pytest.mark.parametrize("text, message", [
    ("[grid]\nsp_mod = none", "sp_mod"), ("[grids]\n", "grids"), ("[grid]\nh_block w_block = 1 1, 2", "must have 2 parts"),
    ("[experiment]\nseeds = a", "must be numbers"), ("sp_mode = none", "not an experiment file"),
    ("[grid]\ndataset_name = UCSDped2\nsp_mode = soft", "must be one of"),
])
def test_files_of_experiments_that_are_wrong(suite, tmp_path, text, message):
    from trees import ucsd_tree

    ucsd_tree(tmp_path)
    Path("wrong.cfg").write_text(text)
    assert message in run_script("tools.run_experiments", "wrong.cfg", rc=2).stderr


@pytest.mark.parametrize("path", sorted((SUITE / "experiments").glob("*.cfg")), ids=lambda path: path.stem)
def test_shipped_experiments_can_be_read(suite, path):
    """Without any dataset every row is absent, and its settings are known."""
    target = Path("experiments", path.name)
    target.parent.mkdir()
    target.write_text(path.read_text())
    assert "absent" in run_script("tools.run_experiments", target).stdout
