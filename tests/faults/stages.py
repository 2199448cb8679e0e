"""Runs stages in forked children of a process that has imported torch, so that a try costs a fraction of a second, and
kills them: at the k-th change to the disk, half-way through a file, or after some seconds.
"""

import builtins
import contextlib
import hashlib
import json
import multiprocessing
import os
import resource
import runpy
import shutil
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from types import SimpleNamespace

import pytest
from trees import ucsd_tree

SUITE = Path(__file__).resolve().parents[2]
SMALL = ["--num_feature_root", "4", "--epochs", "3", "--warmup_epoch", "1", "--batch_size", "16", "--device", "cpu"]
NAME = ["--dataset_name", "UCSDped2"]
FLOW, BOXES, TRAIN = ["--flow_method", "dis"], ["--detector", "none"], [*SMALL, "--h_block", "2", "--score_every", "2"]

# What is killed: a name, the script, its words, and the words of an earlier run whose output it replaces. A new script is one
# more row.
ROWS = {
    "flow": ("calc_optical_flow.py", [*NAME, *FLOW], None),
    "boxes": ("extract_bbox.py", [*NAME, *BOXES], [*NAME, *BOXES, "--min_area", "150"]),
    "cubes": ("extract_stc.py", [*NAME, "--use_flow", "true"], NAME),
    "train": ("train.py", [*NAME, *TRAIN, "--use_flow", "true"], [*NAME, *TRAIN, "--use_flow", "true", "--seed", "1"]),
    "test": ("test.py", NAME, [*NAME, "--window_size", "1"]),
    "pipeline": ("run_pipeline.py", [*NAME, *FLOW, *BOXES, *TRAIN, "--use_flow", "true"], None),
    "experiments": ("tools.run_experiments", ["grid.cfg"], None),
}
GRID = """[settings]
dataset_name = UCSDped2
flow_method = dis
detector = none
num_feature_root = 4
epochs = 3
warmup_epoch = 1
batch_size = 16
device = cpu
keep_epochs = 2
event_z = 0.5
[grid]
average_last = 0, 2
"""
STAGES = list(ROWS)[:5]
NOT_COMPARED = (".lock", "run.log", "table.md", "report.html")  # they tell seconds; what else they tell is in other files


def rows(names, short):
    """Rows as parameters of a test: those in `short` for make test too, the others for make faults alone."""
    return [name if name in short else pytest.param(name, marks=pytest.mark.long) for name in names]


os.environ["PYTHONPATH"] = os.pathsep.join(map(str, (SUITE, SUITE / "tests", SUITE / "tests" / "faults")))  # of the forks
forks = multiprocessing.get_context("forkserver")
forks.set_forkserver_preload(["torch", "torchvision", "sklearn.metrics", "scipy.io", "matplotlib.figure", "train", "test",
                               "extract_stc", "extract_bbox", "calc_optical_flow", "stages"])


class Run:
    """A stage at work in `folder`, in a process group of its own."""

    def __init__(self, folder, script, *words, fault=None, log="log.txt"):
        self.log = Path(folder, log)
        self.process = forks.Process(target=child, args=(str(folder), script, [str(w) for w in words], fault, log))
        self.process.start()

    def end(self, seconds=60):
        """Waits for the end. Returns the exit code (negative: the signal that killed it) and what was printed."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.kill()
            raise AssertionError(f"still running after {seconds} s: {self.log.read_text()}")
        return SimpleNamespace(code=self.process.exitcode, text=self.log.read_text() if self.log.exists() else "")

    def kill(self, number=signal.SIGKILL):
        """Signals the process group, as a terminal or a machine that runs out of memory does."""
        for send in (os.killpg, os.kill):  # before it has a group: the process
            with contextlib.suppress(ProcessLookupError):
                send(self.process.pid, number)
                break
        if number == signal.SIGKILL:  # its stages die with it, a moment later where the machine is busy
            self.process.join(5)
            with contextlib.suppress(ProcessLookupError):
                for _ in range(100):
                    os.killpg(self.process.pid, 0)
                    time.sleep(0.01)


def run(folder, name, words=None, fault=None, seconds=60):
    """Runs a row of the table to its end; see `Run.end`."""
    script, usual, _ = ROWS[name]
    return Run(folder, script, *(usual if words is None else words), fault=fault).end(seconds)


def child(folder, script, words, fault, log="log.txt"):
    """Becomes the stage; does not return."""
    os.setpgid(0, 0)
    os.chdir(folder)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(out, 1), os.dup2(out, 2)
    sys.argv = [script, *words]
    started = subprocess.Popen
    subprocess.Popen = lambda command, *args, **more: (
        _Forked(command, **more) if command[0] == sys.executable else started(command, *args, **more))
    if fault:
        fault()
    _run_script(script)


def _run_script(script):
    code = 1
    try:
        if script.startswith("tools."):
            runpy.run_module(script, run_name="__main__")
        else:
            runpy.run_path(str(SUITE / script), run_name="__main__")
        code = 0
    except SystemExit as stop:
        code = stop.code or 0
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush(), sys.stderr.flush()
    os._exit(code)


class _Forked:
    """Stands in for subprocess.Popen where a stage is started: it is forked, not started with imports of its own."""

    def __init__(self, command, stdout=None, stderr=None, env=None):
        self.pid = os.fork()
        if not self.pid:
            for number, file in ((1, stdout), (2, stderr)):
                os.dup2(file.fileno() if file else number, number)
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            sys.argv = command[2:] if command[1] == "-m" else [Path(command[1]).name, *command[2:]]
            _run_script(sys.argv[0])

    def wait(self):
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def send_signal(self, number):
        os.kill(self.pid, number)


class Changes:
    """Counts every change that a process makes to the disk, by Python's own audit events, and does something just before the
    one with number `at`: `die`, `Limit` or another function.
    """

    def __init__(self, at=None, act=None, list_to=None):
        self.at, self.act, self.list_to = at, act, list_to

    def __call__(self):
        self.count, self.folder = 0, os.getcwd()
        self.list = builtins.open(self.list_to, "w") if self.list_to else None
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # what `Limit` needs; Python ignores it
        sys.addaudithook(self._event)

    def _event(self, event, args):
        if event == "open":
            path, _, flags = args
            if not isinstance(path, (str, bytes, os.PathLike)) or not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
        elif event not in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"):
            return
        path = os.fsdecode(args[0])
        if os.path.isabs(path) and not path.startswith(self.folder) or path.endswith((".lock", "log.txt")):
            return
        if event == "os.remove" and not os.path.lexists(path):
            return
        if self.list:
            size = os.path.getsize(path) if event == "os.rename" else event == "open" and bool(flags & (os.O_TRUNC | os.O_EXCL))
            self.list.write(json.dumps([event, os.path.relpath(path), size]) + "\n")
            self.list.flush()
        self.count += 1
        if self.count - 1 == self.at:
            self.act()


def die():
    os.kill(os.getpid(), signal.SIGKILL)


class Limit:
    """The kernel kills the process once it writes beyond this size, in the middle of a file."""

    def __init__(self, size):
        self.size = size

    def __call__(self):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, self.size))


def tries(listed):
    """From the list of changes in an undisturbed run: (name, fault) for every one before it happens, and for every new file
    half-way, by its size when it is renamed."""
    sizes = {path: size for event, path, size in listed if event == "os.rename"}
    for k, (event, path, new) in enumerate(listed):
        yield f"{k} before {event} {path}", Changes(k, die)
        if event == "open" and new and sizes.get(path, 0) > 1:
            yield f"{k} half-way {path}", Changes(k, Limit(sizes[path] // 2))


def outputs(folder):
    """Every file that stages have written below a folder -> a hash of what must be the same after any number of kills.

    That is all bytes, but for seconds: JSON without `seconds`, `command` and `check`, CSV without that column, checkpoints
    without them and by the bits of their tensors. Locks are left out; everything else, strays too, is compared.
    """
    found = {}
    for path in sorted(p for top in ("optical_flow", "data", "results", "grid") for p in Path(folder, top).rglob("*")):
        if path.is_file() and path.name not in NOT_COMPARED:
            found[str(path.relative_to(folder))] = hashlib.sha256(_essence(path)).hexdigest()
    return found


def _essence(path):
    if path.suffix == ".json":
        content = json.loads(path.read_text())
        for name, made in content.get("outputs", {}).items() if isinstance(content, dict) else ():
            if name.endswith((".csv", ".pt")):  # they have seconds in them
                made.clear()
        kept = {key: value for key, value in content.items() if key not in ("seconds", "check", "command")}
        return json.dumps(kept, sort_keys=True).encode()
    if path.suffix == ".csv":
        rows = [line.split(",") for line in path.read_text().splitlines()]
        kept = [i for i, column in enumerate(rows[0]) if column != "seconds"]
        return json.dumps([[row[i] for i in kept] for row in rows]).encode()
    if path.suffix == ".pt":
        import torch

        return repr(_plain(torch.load(path, weights_only=True))).encode()
    return path.read_bytes()


def _plain(content):
    if isinstance(content, dict):
        return {key: _plain(value) for key, value in content.items() if key != "seconds"}
    if isinstance(content, (list, tuple)):
        return [_plain(value) for value in content]
    return hashlib.sha256(content.contiguous().numpy().tobytes()).hexdigest() if hasattr(content, "numpy") else content


class Made:
    """made(row): the folder to start from, what an undisturbed run makes of it, its changes to the disk and its seconds.

    In the folder an earlier run with other settings has left its output, so that replacing it is interrupted as well.
    """

    def __init__(self, root):
        self.root, self.rows = Path(root), {}

    def __call__(self, name):
        if name not in self.rows:
            self.rows[name] = self._make(name)
        return self.rows[name]

    def _make(self, name):
        start, done_in, list_to = (self.root / f"{what}_{name}" for what in ("start", "done", "list"))
        if name not in STAGES[1:]:
            ucsd_tree(start, frames=6, train=0)
            (start / "grid.cfg").write_text(GRID)
        else:
            shutil.copytree(self(STAGES[STAGES.index(name) - 1]).done, start)
        if name == "flow":  # replaced where the frames have changed
            frame = start / "raw_datasets/UCSDped2/Test/Test001/003.tif"
            data = frame.read_bytes()
            frame.write_bytes(data + b"0")
            assert not run(start, name).code
            frame.write_bytes(data)
        elif ROWS[name][2] is not None:
            assert not run(start, name, ROWS[name][2]).code
        shutil.copytree(start, done_in)
        begun = time.monotonic()
        done = run(done_in, name, fault=Changes(list_to=str(list_to)))
        assert not done.code, done.text
        return SimpleNamespace(start=start, done=done_in, stale=outputs(start), wanted=outputs(done_in),
                               seconds=time.monotonic() - begun, changes=[json.loads(line) for line in open(list_to)])


def resumed(folder, made, name, what):
    """Runs the row to its end and compares all outputs, strays among them."""
    done = run(folder, name)
    assert done.code == 0 and "Traceback" not in done.text, f"{what}: {done.text}"
    found = outputs(folder)
    wanted = made(name).wanted
    different = sorted(path for path in found.keys() | wanted.keys() if found.get(path) != wanted.get(path))
    assert not different, f"{what}: not as undisturbed: {different}"
