"""run_pipeline.py --dry_run: what it foretells is what the stages then do, and it writes nothing but rates."""

import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import SMALL, STAGES, SUITE, run_script

from utils import run

NAME = ["--dataset_name", "UCSDped2"]
WORDS = [*NAME, "--flow_method", "dis", "--detector", "none", "--min_area", "100", *SMALL, "--score_every", "1"]
ORDER = ["flow", "boxes", "cubes", "train", "test"]


def states(*words, rc=0):
    """stage -> how the doctor says it stands; and all that it prints."""
    done = run_script("tools.doctor", *words, rc=rc)
    rows = [line.split(maxsplit=1) for line in done.stdout.split("left to do")[0].splitlines() if " " in line]
    return {stage: rest for stage, rest in rows if stage in ORDER}, done.stdout + done.stderr


def test_nothing_is_written_but_rates_which_are_measured_once(suite, tmp_path):
    from trees import ucsd_tree

    ucsd_tree(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    found, told = states(*WORDS)
    assert found == dict.fromkeys(ORDER, "to do")
    assert "is known to have 12 testing videos with 2010 frames" in told and "see the notes" in told
    assert sorted(set(tmp_path.rglob("*")) - set(before)) == [tmp_path / "data", tmp_path / "data" / "rates.json"]
    assert "28 frames by dis" in told and "about 280 cubes" in told and "GB are free" in told and "measures" in told
    assert "measures" not in states(*WORDS)[1]


def test_what_is_foretold_is_what_the_stages_do(copy):
    assert states(*WORDS)[0] == dict.fromkeys(ORDER, "done")
    for flags, expected in ((["--window_size", "1"], ["done", "done", "done", "done", "stale"]),
                            (["--seed", "7"], ["done", "done", "done", "stale", "to do"]),
                            (["--patch_size", "16"], ["done", "done", "stale", "stale", "to do"]),
                            (["--min_area", "150"], ["done", "stale", "stale", "stale", "to do"])):
        found, _ = states(*WORDS, *flags)
        assert [row.partition(":")[0] for row in found.values()] == expected
        assert flags[0][2:] in found[ORDER[expected.index("stale")]]
        for script, stage in zip(STAGES, ORDER):
            told = run_script(script, *WORDS, *flags).stdout
            made = "made differently" in told or "(28 were done)" not in told and stage == "flow"
            assert made == (found[stage] != "done"), (stage, told)
    assert states(*WORDS, *flags)[0] == dict.fromkeys(ORDER, "done")


def test_half_done_work_counts(copy):
    for path in sorted((copy / "optical_flow").rglob("*.npy"))[:5]:
        path.unlink()
    state = torch.load("data/UCSDped2/test/model_0_0.pt", weights_only=True)
    state["log"], state["cube_weights"], state["epoch"] = state["log"][:1], state["cube_weights"][:1], 1
    torch.save(state, "data/UCSDped2/test/model_0_0.resume.pt")
    for name in ("train.json", "model_0_0.pt"):
        os.remove(f"data/UCSDped2/test/{name}")
    found, told = states(*WORDS)
    assert found["flow"] == "to do" and found["boxes"] == "done" and "5 frames by dis" in told
    assert found["train"] == "to do" and "1 epochs of" in told


def test_changed_frames_make_all_stale(copy):
    shutil.copy("raw_datasets/UCSDped2/Test/Test001/001.tif", "raw_datasets/UCSDped2/Test/Test001/015.tif")
    found, _ = states(*WORDS)
    assert "Test001 have changed" in found["flow"] and "other frames" in found["boxes"]
    assert all(row.startswith("stale") for row in list(found.values())[:4])


def test_what_would_stop_the_run_is_told_at_once(copy, monkeypatch):
    found, told = states(*NAME, "--flow_root_dir", "new", rc=2)
    assert "download_weights flownet2" in found["flow"] and "download_weights yolov3" in found["boxes"]
    assert "this run would stop: flow, boxes" in told
    (copy / "broken.pth").write_bytes(b"nothing")
    found, told = states(*WORDS, "--data_root_dir", "other", "--detector", "yolov3", "--detector_weights", "broken.pth", rc=2)
    assert "boxes       cannot be done: broken.pth" in told and "would stop: boxes (see above)" in told
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    found, told = states(*WORDS, "--seed", "3", rc=2)
    assert "no room at" in told and "0.00 GB are free" in told


def test_through_the_pipeline(copy):
    words = [sys.executable, str(SUITE / "run_pipeline.py"), *WORDS, "--dry_run"]
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*.*")}
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0 and "train       done" in done.stdout, done.stderr
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.parametrize("count, given, expected", [(3, None, "3"), (0, None, "2"), (0, "1", "1"), (-1, "1", "1")])
def test_threads(monkeypatch, count, given, expected):
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(run, "cores", lambda: 2)
    monkeypatch.setattr(run, "free_cores", lambda: 1)
    monkeypatch.delenv("OMP_NUM_THREADS")
    if given:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    run.use_threads(count)
    assert os.environ["OMP_NUM_THREADS"] == expected


def test_cores_are_those_that_are_free():
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        assert 1 <= run.free_cores() <= run.cores() <= os.cpu_count()
    finally:
        busy.kill()
    assert np.isfinite(run.free_cores(0.05))
