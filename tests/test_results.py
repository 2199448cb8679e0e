"""The tables of docs/RESULTS.md that cite a record show its figures and no others."""

import json
import re

import pytest

from utils.config import SUITE

RECORDS = sorted((SUITE / "docs" / "results").glob("*.json"))


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_a_table_shows_what_its_record_says(path):
    page = (SUITE / "docs" / "RESULTS.md").read_text(encoding="utf-8")
    section = next(part for part in re.split(r"^## ", page, flags=re.M) if f"(results/{path.name})" in part)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line.startswith("| ")][1:]
    metrics = json.loads(path.read_text(encoding="utf-8"))["metrics"]
    assert rows == [[name, *(f"{figure:.2f}" for figure in figures)] for name, figures in metrics.items()]
