"""run_pipeline.py --dry_run: what it predicts is what the stages then do, and it writes nothing but rates."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import SMALL, STAGES, SUITE, run_script

from tools import rates
from utils import device, record

NAME = ["--dataset_name", "UCSDped2"]
WORDS = [*NAME, "--flow_method", "dis", "--detector", "none", "--min_area", "100", *SMALL, "--score_every", "1"]
ORDER = ["flow", "boxes", "cubes", "train", "test"]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Rates are measured once, not for seconds."""
    once = rates.per_second
    monkeypatch.setattr(rates, "per_second", lambda count, work, seconds=0: once(count, work, 0))


def states(*words, rc=0):
    """stage -> how the doctor says it stands; and all that it prints."""
    done = run_script("tools.doctor", *words, rc=rc)
    rows = [line.split(maxsplit=1) for line in done.stdout.split("left to do")[0].splitlines() if " " in line]
    return {stage: rest for stage, rest in rows if stage in ORDER}, done.stdout + done.stderr


def test_what_takes_more_than_an_hour_is_offered_smaller(suite, tmp_path, monkeypatch):
    from trees import ucsd_tree

    ucsd_tree(tmp_path)
    monkeypatch.setattr(rates, "per_second", lambda count, work, seconds=0: 0.1)
    words = ["--dataset_name", "UCSDped2", "--flow_method", "dis", "--detector", "none", "--epochs", "5"]
    assert "this takes more than an hour: for a first look add --frame_step" in suite("tools.doctor", *words).stdout


def test_nothing_is_written_but_rates_which_are_measured_once(suite, tmp_path):
    from trees import ucsd_tree

    ucsd_tree(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    found, output = states(*WORDS)
    assert found == dict.fromkeys(ORDER, "to do")
    assert "should have 12 testing videos with 2010 frames" in output and "see the notes" in output
    assert sorted(set(tmp_path.rglob("*")) - set(before)) == [tmp_path / "data", tmp_path / "data" / "rates.json"]
    assert "28 frames with dis" in output and "about 280 cubes" in output and "GB are free" in output and "measuring" in output
    assert "measuring" not in states(*WORDS)[1]
    rates_file = tmp_path / "data" / "rates.json"
    rates_file.write_bytes(rates_file.read_bytes()[:20])  # damaged: measured again
    assert states(*WORDS)[0] == found and "measuring" not in states(*WORDS)[1]
    rates_file.unlink()
    rates_file.mkdir()  # cannot be written, as on a full disk: estimates are given nevertheless
    found, output = states(*WORDS)
    assert found == dict.fromkeys(ORDER, "to do") and "measuring" in output and "cannot" not in output


def test_the_stages_do_what_is_predicted(copy):
    assert states(*WORDS)[0] == dict.fromkeys(ORDER, "done")
    for flags, expected in ((["--window_size", "1"], ["done", "done", "done", "done", "outdated"]),
                            (["--seed", "7"], ["done", "done", "done", "outdated", "outdated"]),
                            (["--patch_size", "16"], ["done", "done", "outdated", "outdated", "outdated"]),
                            (["--min_area", "150"], ["done", "outdated", "outdated", "outdated", "outdated"])):
        found, _ = states(*WORDS, *flags)
        assert [row.partition(":")[0] for row in found.values()] == expected
        assert flags[0][2:] in found[ORDER[expected.index("outdated")]]
        for script, stage in zip(STAGES, ORDER):
            output = run_script(script, *WORDS, *flags).stdout
            made = "outdated" in output or "(28 already done)" not in output and stage == "flow"
            assert made == (found[stage] != "done"), (stage, output)
    assert states(*WORDS, *flags)[0] == dict.fromkeys(ORDER, "done")


def test_a_training_is_ended_again_where_that_takes_no_new_one(copy):
    """The doctor asks what train.py asks: which weights were kept."""
    assert "0 epochs of" in states(*WORDS, "--recalibrate_bn", "true")[1]
    assert "2 epochs of" in states(*WORDS, "--average_last", "2")[1]  # one was kept
    run_script("train.py", *WORDS, "--keep_epochs", "2", "--seed", "1")
    assert "0 epochs of" in states(*WORDS, "--average_last", "2", "--seed", "1")[1]


def test_each_block_counts_once(copy):
    words = [*WORDS, "--h_block", "2"]
    run_script("train.py", *words)
    first, second = (f"data/UCSDped2/test/model_{row}_0.pt" for row in (0, 1))
    os.makedirs("data/UCSDped2/test/train.part")
    shutil.copy(first, "data/UCSDped2/test/train.part")  # killed after the first block
    os.remove(second)
    os.remove("data/UCSDped2/test/train.json")
    found, output = states(*words)
    assert found["train"] == "to do" and "1 epochs of" in output and "-" not in output.split("left to do")[1].split("epochs")[0]


def test_half_done_work_counts(copy):
    for path in sorted((copy / "optical_flow").rglob("*.npy"))[:5]:
        path.unlink()
    state = torch.load("data/UCSDped2/test/model_0_0.pt", weights_only=True)
    state["log"], state["cube_weights"], state["epoch"] = state["log"][:1], state["cube_weights"][:1], 1
    state["scores"] = None
    torch.save(state, "data/UCSDped2/test/model_0_0.pt")
    os.remove("data/UCSDped2/test/train.json")
    found, output = states(*WORDS)
    assert found["flow"] == "to do" and found["boxes"] == "done" and "5 frames with dis" in output
    assert found["train"] == "to do" and "1 epochs of" in output
    run_script("extract_bbox.py", *WORDS)
    part = Path("data/UCSDped2/test/boxes.part")
    made = record.load("data/UCSDped2/test/boxes.json")
    os.remove("data/UCSDped2/test/boxes.json"), os.remove("data/UCSDped2/test/bboxes.npy")
    record.write(part / "00000000.json", {**made, "rows": [[0, 1, 1, 20, 20]]})
    found, output = states(*WORDS)
    assert found["boxes"] == "to do" and "14 frames" in output and found["cubes"] == "outdated: boxes changed"


def test_changed_frames_make_all_outdated(copy):
    shutil.copy("raw_datasets/UCSDped2/Test/Test001/001.tif", "raw_datasets/UCSDped2/Test/Test001/015.tif")
    found, _ = states(*WORDS, rc=2)
    assert "14 masks for 15 frames: no mask for frame 015.tif" in found["test"]
    assert "Test001 have changed" in found["flow"] and "flow changed" in found["boxes"]
    assert all(row.startswith("outdated") for row in list(found.values())[:4])


def test_what_would_stop_the_run_is_said_at_once(copy, monkeypatch):
    found, output = states(*NAME, *SMALL, "--flow_root_dir", "new", rc=2)
    assert "download_weights flownet2" in found["flow"] and "download_weights yolov3" in found["boxes"]
    assert "this run would stop: flow, boxes" in output
    (copy / "broken.pth").write_bytes(b"nothing")
    found, output = states(*WORDS, "--data_root_dir", "other", "--detector", "yolov3", "--detector_weights", "broken.pth", rc=2)
    assert "boxes       cannot be done: broken.pth" in output and "would stop: boxes (see above)" in output
    np.save("theirs.npy", np.load("data/UCSDped2/test/bboxes.npy"))  # boxes of others need neither flow nor weights
    found, output = states(*NAME, "--data_root_dir", "other", "--boxes_from", "theirs.npy", *SMALL)
    assert list(found) == ORDER[1:] and "about" not in output.split("left to do")[1]
    found, output = states(*WORDS, "--boxes_from", "none.npy", rc=2)
    assert "none.npy: no such file" in found["boxes"] and "cubes, " not in output.split("would stop")[1]
    os.remove("raw_datasets/UCSDped2/Test/Test001_gt/001.bmp")
    assert "Test001" in states(*WORDS, rc=2)[0]["test"]
    shutil.rmtree("raw_datasets/UCSDped2/Test/Test001_gt"), shutil.rmtree("raw_datasets/UCSDped2/Test/Test002_gt")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    found, output = states(*WORDS, "--seed", "3", rc=2)
    assert "no room at" in output and "0.00 GB are free" in output


def test_through_the_pipeline(copy):
    words = [sys.executable, str(SUITE / "run_pipeline.py"), *WORDS, "--dry_run"]
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*.*")}
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0 and "train       done" in done.stdout, done.stderr
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.parametrize("count, given, ranks, expected", [
    (3, None, "1", 3), (0, None, "1", 2), (0, "1", "1", 5), (-1, "1", "1", 4), (-1, None, "2", 2), (-1, None, "8", 1)])
def test_threads(monkeypatch, count, given, ranks, expected):
    before = torch.get_num_threads()
    monkeypatch.setattr(device, "cores", lambda: 2)
    monkeypatch.setattr(device, "free_cores", lambda: 4)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", ranks)
    monkeypatch.delenv("OMP_NUM_THREADS")
    if given:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    try:
        torch.set_num_threads(5)
        device.use_threads(count)
        assert torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(before)


def test_cores_are_those_that_are_free():
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        assert 1 <= device.free_cores() <= device.cores() <= os.cpu_count()
    finally:
        busy.kill()
    assert np.isfinite(device.free_cores(0.05))
