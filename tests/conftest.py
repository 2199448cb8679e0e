"""Shared by all tests: where golden files lie, and how a script is run."""

import collections
import contextlib
import io
import json
import math
import os
import runpy
import shutil
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import hypothesis
import pytest

# Whatever the user has set: small networks lose by a second thread, and what is compared byte by byte with a process of its
# own, or with one of torchrun's, needs the same number there.
os.environ["OMP_NUM_THREADS"] = "1"

# No deadlines, for other processes may hold the machine; the same examples every time, but for make faults.
hypothesis.settings.register_profile("suite", deadline=None, derandomize=True)
hypothesis.settings.register_profile("long", deadline=None, max_examples=1000)
hypothesis.settings.load_profile("suite")

SUITE = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(SUITE), str(SUITE / "tests"), str(SUITE / "tests" / "faults")]
SMALL = ["--num_feature_root", "4", "--epochs", "2", "--warmup_epoch", "1", "--batch_size", "32", "--device", "cpu"]
STAGES = {"calc_optical_flow.py": ["--flow_method", "dis"], "extract_bbox.py": ["--detector", "none", "--min_area", "100"],
          "extract_stc.py": [], "train.py": SMALL, "test.py": []}
GOLDEN = [SUITE / "tests" / "golden", SUITE.parent / "shared" / "golden"]


@pytest.fixture(scope="session")
def golden():
    """golden("cubes.npz") -> its path; skips the test where the file is not at hand."""
    def find(name):
        for folder in GOLDEN:
            if (folder / name).is_file():
                return folder / name
        pytest.skip(f"golden file {name} is not here (looked in {' and '.join(map(str, GOLDEN))})")
    return find


def rounding(*networks):
    """How far outputs in float32 may be from the same ones in float64, as a share of the largest: eps / 2 * sqrt(N).

    Each product and sum is rounded by up to eps / 2 of its value. Roundings are as good as independent, so n of them add up to
    about sqrt(n) and not to n, in whatever order and with whatever instructions a processor sums (Higham and Mary, SIAM J. Sci.
    Comput. 2019). N: the products behind one value of each convolution, added over the layers of networks in a row. The steps
    between (norms, activations) have a few roundings each, and hand a relative error on as it is. Measured: float32 is at 2 to
    16% of this limit, the same networks in TF32 are at 30 to 85 times and in bf16 at 200 to 620 times it.
    """
    import torch
    from torch import nn

    products = 0
    for layer in (layer for network in networks for layer in network.modules()):
        if isinstance(layer, nn.Conv2d):
            products += layer.weight[0].numel()
        elif isinstance(layer, nn.ConvTranspose2d):
            products += layer.weight[:, 0].numel() / math.prod(layer.stride)
    return torch.finfo(torch.float32).eps / 2 * products ** 0.5


def run_script(script, *words, rc=0):
    """Runs a script of the suite as the command line would, in this process: the imports are paid once.

    script: "train.py" or "tools.make_demo". Asserts the exit code; returns stdout and stderr. prepare_videos measures nothing.
    """
    out, err, code, argv = io.StringIO(), io.StringIO(), 0, sys.argv
    sys.argv = [script, *map(str, words)]
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    quick = contextlib.nullcontext()
    if script == "tools.prepare_videos":
        quick = mock.patch("tools.rates.per_second", lambda count, work, seconds=1: count)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), quick:
        try:
            if script.startswith("tools."):
                runpy.run_module(script, run_name="__main__")
            else:
                runpy.run_path(str(SUITE / script), run_name="__main__")
        except SystemExit as stop:
            code = stop.code or 0
        finally:
            sys.argv = argv
            for number, handler in handlers.items():
                signal.signal(number, handler)
    done = SimpleNamespace(stdout=out.getvalue(), stderr=err.getvalue(), returncode=code)
    assert code == rc, f"{script} ended with {code}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture
def suite(tmp_path, monkeypatch):
    """suite("train.py", "--dataset_name", ...) runs a script in tmp_path."""
    monkeypatch.chdir(tmp_path)
    return run_script


def all_stages(name, mode, *common, train=(), test=()):
    """The five commands, typed in order."""
    more = {"train.py": train, "test.py": test}
    for script, words in STAGES.items():
        done = run_script(script, "--dataset_name", name, "--mode", mode, *words, *common, *more.get(script, ()))
    return done


def outcome(name, mode):
    return json.loads(open(f"results/{name}/{mode}/metrics.json").read())


@pytest.fixture(scope="session")
def ped2(tmp_path_factory):
    """A finished pipeline on a UCSD tree: other tests look at copies of it."""
    from trees import ucsd_tree

    root = tmp_path_factory.mktemp("ped2")
    ucsd_tree(root)
    with contextlib.chdir(root):
        all_stages("UCSDped2", "test", train=["--score_every", "1"])
    return root


def copied(root, tmp_path, monkeypatch):
    """A copy of a finished tree for one test, which then runs in it."""
    shutil.copytree(root, tmp_path / "copy", symlinks=True)
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


@pytest.fixture
def copy(ped2, tmp_path, monkeypatch):
    return copied(ped2, tmp_path, monkeypatch)


# tests/faults: all of it with --long (make faults), else a short share; counts are shown at the end.
COUNTS = collections.Counter()


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="all of tests/faults, not a short share (make faults)")


def pytest_configure(config):
    if config.getoption("--long"):
        hypothesis.settings.load_profile("long")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--long"):
        items[:] = [item for item in items if not item.get_closest_marker("long")]


@pytest.fixture(scope="session")
def long(request):
    return request.config.getoption("--long")


@pytest.fixture(scope="session")
def count():
    """count(what, outcome): one more."""
    def one_more(*key):
        COUNTS[key] += 1
    return one_more


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """Where the runs of tests/faults start, and what undisturbed ones make of it."""
    from stages import Made

    return Made(tmp_path_factory.mktemp("made"))


def pytest_terminal_summary(terminalreporter, config):
    if config.getoption("--long") and COUNTS:
        terminalreporter.section("counts")
        for (what, outcome), number in sorted(COUNTS.items()):
            terminalreporter.write_line(f"{what:24s} {outcome:32s} {number:5d}")
