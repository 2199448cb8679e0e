"""Runs a stage of the suite inside a benchmark."""

import contextlib
import io
import runpy
import sys

from utils.config import SUITE


def script(name, *words):
    """Runs a stage in this process without output, so that imports do not count."""
    argv, sys.argv = sys.argv, [name, *map(str, words)]
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            runpy.run_path(str(SUITE / name), run_name="__main__")
    finally:
        sys.argv = argv
