"""Write the tables of README.md and docs/RESULTS.md from the records in docs/results/.

    python -m tools.results                                        the tables, from the existing records
    python -m tools.results experiments/NAME/record.json ...       first adds these runs to docs/results/NAME.json

A table is written below a line <!-- results/NAME.json TABLE -->: TABLE is one of the record's `tables` (columns and rows), or
runs: the table of an experiment (tools.run_experiments). Runs with new seeds or rows are added, existing ones replaced.
"""

import argparse
import functools
import re
from pathlib import Path

from utils import files
from utils.config import SUITE
from utils.errors import UserError
from utils.evaluation.experiments import markdown, table
from utils.run import run

PAGES = ("README.md", "docs/RESULTS.md")
PLACE = re.compile(r"<!-- results/(\w+\.json) (\w+) -->\n(?:\n(?:\|.*\n)+)?")
RECORDS = SUITE / "docs" / "results"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", metavar="experiments/NAME/record.json", type=Path, nargs="*")
    for path in parser.parse_args().records:
        take(path, RECORDS / f"{path.parent.name}.json")
    for page in PAGES:
        text = (SUITE / page).read_text(encoding="utf-8")
        if (made := PLACE.sub(tables(), text)) != text:
            with files.whole(SUITE / page) as file:
                file.write(made.encode())
            print(f"wrote {page}")


def take(path, kept):
    """Adds the runs of an experiment to its record, ordered by row and seed."""
    new = files.load_json(path)
    old = files.load_json(kept) if kept.is_file() else {"runs": []}
    if not isinstance(new, dict) or not {"settings", "runs"} <= new.keys():
        raise UserError(f"{path}: is no record of an experiment: run tools.run_experiments again")
    if new["settings"] != old.get("settings", new["settings"]):
        raise UserError(f"{kept}: has runs with other settings than {path}: remove it, or rename the experiment")
    rows = [run["row"] for run in new["runs"]]
    again = [[run["row"], run["seed"]] for run in new["runs"]]
    runs = [run for run in old["runs"] if [run["row"], run["seed"]] not in again and run["row"] in rows] + new["runs"]
    files.save_json(kept, new | {"runs": sorted(runs, key=lambda run: (rows.index(run["row"]), run["seed"]))})
    print(f"wrote {kept}: {len(runs)} runs")


def tables():
    """A function that returns the table for a match of PLACE."""
    read = functools.cache(lambda name: files.load_json(RECORDS / name))

    def written(match):
        name, which = match.groups()
        place = f"{match[0].splitlines()[0]}\n\n"
        record = read(name)
        if which != "runs":
            return place + "\n".join([*markdown(*record["tables"][which].values()), ""])
        rows = table(record["runs"], record["cited"])
        columns = [key for key in rows[0] if any(row[key] for row in rows)]
        return place + "\n".join([*markdown(columns, [[row[key] for key in columns] for row in rows]), ""])
    return written


if __name__ == "__main__":
    run(main)
