"""The long run (make faults, pytest --long) tries all; make test a short share. Counts are shown at the end."""

import collections
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
_counts = collections.Counter()


@pytest.fixture
def long(request):
    return request.config.getoption("--long")


@pytest.fixture
def count():
    """count(row, what): one more."""
    def one_more(*key):
        _counts[key] += 1
    return one_more


def pytest_terminal_summary(terminalreporter, config):
    if config.getoption("--long") and _counts:
        terminalreporter.section("counts")
        for (row, what), number in sorted(_counts.items()):
            terminalreporter.write_line(f"{row:20s} {what:40s} {number:5d}")
