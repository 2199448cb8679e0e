"""The tables of docs/RESULTS.md are those of the records, and no page states a figure that no record carries."""

import json
import re

from conftest import run_script

from utils.config import SUITE

PAGE, README = (SUITE / name for name in ("docs/RESULTS.md", "README.md"))
RECORDS = sorted((SUITE / "docs" / "results").glob("*.json"))
DECIMAL = r"\d[\d,]*\.\d+"


def test_the_pages_tables_are_those_of_the_records():
    before = PAGE.read_bytes(), README.read_bytes()
    assert "wrote" not in run_script("tools.results").stdout
    assert (PAGE.read_bytes(), README.read_bytes()) == before
    text = PAGE.read_text(encoding="utf-8")
    assert len(re.findall(r"^\|---", text, re.M)) == len(re.findall(r"^<!-- results/\w+\.json \w+ -->$", text, re.M))


def test_a_figure_that_no_record_carries_fails():
    known = set()
    for path in RECORDS:
        record = json.loads(path.read_text(encoding="utf-8"), parse_float=str)  # 1.00 stays as it is written
        assert record["title"]
        known |= {float(number.replace(",", "")) for number in re.findall(DECIMAL, json.dumps(record))}
    prose = re.sub(r"```.*?```|`[^`]*`|<!--.*?-->|^\|.*?$|^Every number.*?\n\n", "", PAGE.read_text(encoding="utf-8"),
                   flags=re.S | re.M)
    results = README.read_text(encoding="utf-8").partition("## Results")[2].partition("\n## ")[0]
    stated = {float(number.replace(",", "")) for number in re.findall(DECIMAL, prose + results)}
    assert len(stated) > 30 and not stated - known


def test_runs_of_more_seeds_join_their_record(tmp_path, monkeypatch):
    from tools import results

    monkeypatch.setattr(results, "RECORDS", tmp_path)
    folder = tmp_path / "small"
    folder.mkdir()
    for seed, auroc in ((1, 90.0), (0, 92.5), (1, 93.5)):
        runs = [{"row": {"sp_mode": mode}, "seed": seed, "seconds": 3, "auroc": auroc - more, "unsmoothed": 80.0, "low": 70.0,
                 "high": 99.0} for mode, more in (("none", 0), ("mixture", 1))]
        content = {"title": "Small", "settings": {"epochs": "2"}, "cited": {}, "versions": {}, "runs": runs}
        (folder / "record.json").write_text(json.dumps(content))
        results.take(folder / "record.json", tmp_path / "small.json")
    text = "Before\n\n<!-- results/small.json runs -->\n\n| old |\n\nAfter\n"
    assert results.PLACE.sub(results.tables(), text) == (
        "Before\n\n<!-- results/small.json runs -->\n\n| sp_mode | runs | AUROC | 95% over videos | unsmoothed | seconds |\n"
        "|---|---|---|---|---|---|\n| none | 2 | 93.00 ± 0.71 | 70.00 to 99.00 | 80.00 ± 0.00 | 3 |\n"
        "| mixture | 2 | 92.00 ± 0.71 | 70.00 to 99.00 | 80.00 ± 0.00 | 3 |\n\nAfter\n")
