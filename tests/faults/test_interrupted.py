"""Signals, a second process, a disk that fills, a folder that becomes read-only: one line, nothing lost, and on it goes."""

import ctypes
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from stages import ROWS, STAGES, Changes, Run, child, forks, outputs, resumed, rows, run

CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
# What is there once a stage is at work on its first item.
STARTED = {"flow": "optical_flow/UCSDped2/Test/Test001/001.npy", "boxes": "data/UCSDped2/test/boxes.part/record.json",
           "train": "data/UCSDped2/test/train.part/model_0_0.pt"}


class Slow:
    """Makes every step of a progress bar take a while."""

    def __call__(self):
        import tqdm

        update = tqdm.tqdm.update
        tqdm.tqdm.update = lambda bar, n=1: (time.sleep(0.15), update(bar, n))[1]


def at_work(folder, name, path):
    """A slowed run, once `path` is there, anew where an earlier run has left it."""
    path = Path(folder, path)
    before = path.stat().st_mtime_ns if path.exists() else None
    running = Run(folder, ROWS[name][0], *ROWS[name][1], fault=Slow())
    until = time.monotonic() + 60
    while running.process.is_alive() and time.monotonic() < until:
        if path.exists() and path.stat().st_mtime_ns != before:
            break
        time.sleep(0.01)
    time.sleep(0.1)
    return running


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("name", rows(STARTED, ("boxes",)))
def test_the_first_signal_waits_for_the_item_at_work(made, name, number, tmp_path):
    folder = shutil.copytree(made(name).start, tmp_path / "tree")
    running = at_work(folder, name, STARTED[name])
    running.kill(number)
    done = running.end()
    assert done.code == 128 + number, done.text
    assert done.text.count("stopping after") == 1 and done.text.count("stopped; run the same command to resume") == 1, done.text
    assert "Traceback" not in done.text
    assert not [p for p in outputs(folder) if p.endswith(".part")]
    saved = {"flow": "optical_flow/UCSDped2/Test/Test001/002.npy", "boxes": "data/UCSDped2/test/boxes.part/00000000.json",
             "train": STARTED["train"]}[name]
    assert (folder / saved).exists()
    resumed(folder, made, name, name)


@pytest.mark.long
def test_a_second_signal_ends_it_at_once(made, tmp_path):
    folder = shutil.copytree(made("train").start, tmp_path / "tree")
    running = at_work(folder, "train", STARTED["train"])
    running.kill(signal.SIGINT)
    while running.process.is_alive() and "stopping after" not in running.log.read_text():
        time.sleep(0.001)
    begun = time.monotonic()
    running.kill(signal.SIGINT)
    assert running.end().code == -signal.SIGINT and time.monotonic() - begun < 2  # which a shell shows as 130
    resumed(folder, made, "train", "train")


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_pipeline_waits_for_its_stage(made, number, tmp_path):
    folder = shutil.copytree(made("pipeline").start, tmp_path / "tree")
    running = at_work(folder, "pipeline", STARTED["boxes"])
    if number == signal.SIGINT:
        running.kill(number)  # a terminal tells the stage as well
    else:
        os.kill(running.process.pid, number)
    done = running.end()
    assert done.code == 128 + number and "stopping after video" in done.text, done.text
    said = done.text.count("stopped; run the same command to resume")  # the stage, then the pipeline
    assert said == 2 and "Traceback" not in done.text, done.text
    resumed(folder, made, "pipeline", "pipeline")


@pytest.mark.long
def test_two_pipelines_at_once_on_one_folder(made, tmp_path):
    folder = shutil.copytree(made("pipeline").start, tmp_path / "tree")
    first = at_work(folder, "pipeline", STARTED["boxes"])
    second = Run(folder, ROWS["pipeline"][0], *ROWS["pipeline"][1], "--min_area", "150", log="second_log.txt").end()
    assert second.code == 2 and "another process is using this folder" in second.text, second.text
    assert second.text.count("error:") == 1 and "Traceback" not in second.text
    assert first.end().code == 0
    assert outputs(folder) == made("pipeline").wanted


@pytest.mark.long
def test_a_killed_pipeline_leaves_its_stage_which_the_next_one_meets(made, tmp_path):
    folder = shutil.copytree(made("pipeline").start, tmp_path / "tree")
    running = at_work(folder, "pipeline", STARTED["train"])
    os.kill(running.process.pid, signal.SIGKILL)
    assert running.end().code == -signal.SIGKILL
    second = Run(folder, ROWS["pipeline"][0], *ROWS["pipeline"][1], log="second_log.txt").end()
    assert second.code in (0, 2) and "Traceback" not in second.text, second.text
    if second.code:
        assert "another process is using this folder" in second.text
        running.kill()
    resumed(folder, made, "pipeline", "pipeline")


class ReadOnly:
    """Takes away the right to write in all folders of results; as root by chattr, which needs a file system that knows it."""

    def __call__(self):
        set_read_only(os.getcwd(), True)


def set_read_only(folder, on):
    places = [str(place) for top in ("optical_flow", "data", "results") for place in
              [Path(folder, top), *(p for p in Path(folder, top).rglob("*") if p.is_dir())] if place.is_dir()]
    command = ["chattr", "+i" if on else "-i"] if os.geteuid() == 0 else ["chmod", "a-w" if on else "u+w"]
    return not places or subprocess.run([*command, *places], capture_output=True).returncode == 0


@pytest.mark.parametrize("name", rows(STAGES, ("cubes",)))
def test_a_folder_made_read_only_in_mid_run(made, name, tmp_path, long, count):
    if not shutil.which("chattr") or not set_read_only(made("cubes").done, True):
        pytest.skip("as root, folders are made read-only by chattr +i, which does not work here")
    set_read_only(made("cubes").done, False)
    changes = [k for k, (event, path, _) in enumerate(made(name).changes) if event == "open"]
    for k in changes if long else changes[len(changes) // 2:][:1]:
        folder = shutil.copytree(made(name).start, tmp_path / str(k))
        try:
            done = run(folder, name, fault=Changes(k, ReadOnly()))
        finally:
            set_read_only(folder, False)
        assert (done.code, done.text.count("error:")) == (2, 1) and "Traceback" not in done.text, f"{k}: {done.text}"
        count(name, "folder became read-only")
        resumed(folder, made, name, f"{name} read-only at {k}")


class Fill:
    """Fills the disk to the last byte, or leaves some free."""

    def __init__(self, free=0):
        self.free = free

    def __call__(self):
        Path("filler").touch()
        with open("filler", "ab", buffering=0) as file:
            for size in (1 << 20, 1 << 12, 1):
                try:
                    while file.write(bytes(size)):
                        pass
                except OSError:
                    pass
            file.truncate(file.tell() - self.free)


def _on_a_small_disk(start, disk, name, changes, results):
    """In a mount name space of its own: the stage on a disk that fills at the k-th change, then again with room.

    changes: of (k, bytes that are left free).
    """
    libc = ctypes.CDLL(None, use_errno=True)
    user = os.geteuid()
    if libc.unshare(CLONE_NEWNS | (CLONE_NEWUSER if user else 0)):
        Path(results).write_text(json.dumps("no mount name space of its own: " + os.strerror(ctypes.get_errno())))
        return
    if user:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    mounts = [["mount", "--make-rprivate", "/"], ["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(disk)]]
    for command in mounts:
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            Path(results).write_text(json.dumps(f"{' '.join(command)}: {done.stderr}"))
            return
    seen, script = [], ROWS[name][0]
    for k, free in changes:
        folder = shutil.copytree(start, disk / "tree")
        codes = []
        for fault in (Changes(k, Fill(free)), None):
            pid = os.fork()
            if not pid:
                child(str(folder), script, ROWS[name][1], fault)
            codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
            text = (folder / "log.txt").read_text()
            if fault:
                first, left = text, [str(p) for p in folder.rglob("*.part") if p.is_file() and not p.name.startswith("stc_")]
                (folder / "filler").unlink(missing_ok=True)
        seen.append([k, codes, first, left, text, outputs(folder)])
        shutil.rmtree(folder)
    Path(results).write_text(json.dumps(seen))


@pytest.mark.parametrize("name", rows(STAGES, ("boxes",)))
def test_a_disk_that_fills_half_way(made, name, tmp_path, long, count):
    """At every file that is opened for writing, on a small tmpfs: with no room, and with room for all but its last block."""
    sizes = {path: size for event, path, size in made(name).changes if event == "os.rename"}
    changes = [(k, free) for k, (event, path, new) in enumerate(made(name).changes) if event == "open" and new
               for free in sorted({0, (sizes.get(path, 1) - 1) // 4096 * 4096})]
    chosen, disk, results = changes if long else changes[len(changes) // 2:][:1], tmp_path / "disk", tmp_path / "results.json"
    disk.mkdir()
    process = forks.Process(target=_on_a_small_disk, args=(made(name).start, disk, name, chosen, results))
    process.start()
    process.join(600)
    seen = json.loads(results.read_text())
    if isinstance(seen, str):
        pytest.skip(seen)
    for k, codes, first, left, text, found in seen:
        assert codes == [2, 0], f"{name} {k}: {codes}\n{first}\n{text}"
        assert first.count("error:") == 1 and "Traceback" not in first + text, f"{name} {k}: {first}"
        assert not left, f"{name} {k}: left {left}"
        assert found == made(name).wanted, f"{name} {k}"
        count(name, "disk full half-way")
    assert len(seen) == len(chosen)


def test_space_is_checked_before_a_stage_starts(tmp_path):
    from utils import files
    from utils.errors import UserError

    with pytest.raises(UserError, match="no room for the flow.*GB are free: free some space, or set --flow_root_dir"):
        files.require_room(tmp_path / "not" / "there", 1 << 60, "the flow", "--flow_root_dir")
    files.require_room(tmp_path, 1, "the flow", "--flow_root_dir")
