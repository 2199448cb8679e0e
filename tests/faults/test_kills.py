"""Killed at every change to the disk and at random moments, a stage resumed ends in the bytes of an undisturbed run."""

import random
import shutil
from pathlib import Path

import pytest
from stages import ROWS, STAGES, Run, outputs, resumed, rows, run, tries

OUTPUTS = {"boxes": ["bboxes.npy"], "cubes": ["stc_raw.npy", "stc_of.npy"], "test": ["metrics.json", "box_scores.npy"]}
AT_WORK = (".part",)


def whole_or_not_there(folder, made, name):
    """Every file under its final name is that of before or that of after, and a record never vouches for another's."""
    before, after = made(name).stale, made(name).wanted
    there = {path: found for path, found in outputs(folder).items()  # a record that says "unfinished" vouches for nothing
             if not (path.endswith(".json") and '"unfinished": true' in Path(folder, path).read_text())}
    for path, found in there.items():
        if not any(word in path for word in AT_WORK) and not path.endswith("flow.json"):
            assert found in (before.get(path), after.get(path)), f"{path} is neither the old file nor the new one"
    record = {"boxes": "boxes.json", "cubes": "cubes.json", "test": "test.json"}.get(name)
    for path in (p for p in there if record and p.endswith(record)):
        of = before if there[path] == before.get(path) else after
        folder_of = str(Path(path).parent)
        for other in (f"{folder_of}/{n}" for n in OUTPUTS[name]):
            if other in of:
                assert there.get(other) == of[other], f"{path} vouches for another {other}"


@pytest.mark.parametrize("name", rows(STAGES, ("flow", "boxes", "cubes", "train")))
def test_every_write_and_rename_interrupted_once(made, name, tmp_path, long, count):
    all_tries = list(tries(made(name).changes))
    assert len(all_tries) > 8, all_tries
    chosen = all_tries if long else random.Random(name).sample(all_tries, 2)
    for number, (what, fault) in enumerate(chosen):
        folder = shutil.copytree(made(name).start, tmp_path / str(number))
        killed = run(folder, name, fault=fault)
        assert killed.code < 0, f"{name} {what}: was not killed: {killed.code} {killed.text}"
        whole_or_not_there(folder, made, name)
        resumed(folder, made, name, f"{name} {what}")
        shutil.rmtree(folder)
        count(name, "half-way" if "half-way" in what else "before " + what.split()[2])


@pytest.mark.parametrize("name", rows(ROWS, ("boxes", "cubes")))
def test_killed_at_random_moments(made, name, tmp_path, long, count):
    """Up to three kills in a row before it may end: 50 kills of each row that met it at work, 350 in all."""
    rng, kills, number, window = random.Random(f"kill {name}"), 0, 0, made(name).seconds
    while kills < (50 if long else 2):
        folder = shutil.copytree(made(name).start, tmp_path / str(number))
        for _ in range(3):
            at_work = Run(folder, ROWS[name][0], *ROWS[name][1])
            at_work.process.join(rng.uniform(0, window))
            at_work.kill()
            killed = at_work.end().code < 0
            kills += killed
            window *= 1 if killed else 0.9  # it was measured while the machine had more to do
            count(name, "killed at a random moment" if killed else "was done before the kill")
            if name in STAGES:
                whole_or_not_there(folder, made, name)
        resumed(folder, made, name, f"{name}, folder {number}")
        shutil.rmtree(folder)
        number += 1
