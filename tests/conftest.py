"""Shared by all tests: where golden files lie, and how a script is run."""

import subprocess
import sys
from pathlib import Path

import pytest

SUITE = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(SUITE))
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


@pytest.fixture
def suite(tmp_path, monkeypatch):
    """suite("train.py", "--dataset_name", ...) runs a script in tmp_path and gives the finished process."""
    monkeypatch.chdir(tmp_path)

    def run(script, *words, rc=0, **options):
        words = [str(w) for w in words]
        command = [sys.executable, "-m", script, *words] if script.startswith("tools.") else [
            sys.executable, str(SUITE / script), *words]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, **options)
        assert done.returncode == rc, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done
    return run
