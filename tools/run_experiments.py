"""Run a grid of settings with several seeds, and put the results into one table.

    python -m tools.run_experiments experiments/spr.cfg
    python -m tools.run_experiments experiments/spr.cfg --seeds 0,1,2,3,4 --epochs 10

reads   an experiment file (see experiments/ for examples):
            [experiment]  title; seeds = 0,1,2
            [settings]    for all runs: any setting of the stages, dataset_name, mode, config
            [grid]        KEY = VALUE, VALUE: a row for every combination. Keys that vary together:
                          KEY KEY = VALUE VALUE, VALUE VALUE. {dataset_name} in a value means the row's dataset
            [cited]       a row's values = a figure from the literature, in %
writes  experiments/NAME/table.md, table.csv       AUROC: mean and deviation over seeds, interval over videos, difference to
                                                   the first row with the same seeds, wall time
        experiments/NAME/record.json               the figures of every run, with settings, processor and versions
        experiments/NAME/runs/ROW/seed_S/          each run's own models, results and run.log
        experiments/NAME/shared/                   boxes and cubes, made once for all runs that need the same ones
Run the same command to resume a stopped experiment. A missing dataset is reported as absent. Rows that differ only in how the
training ends (average_last, recalibrate_bn, score_every) are trained once.
"""

import argparse
import configparser
import itertools
import math
import os
import re
import shlex
import sys
from pathlib import Path

from utils import files, record, text
from utils.config import SUITE, flow_is_read, parse_config, stage_settings, stage_takes
from utils.datasets import RAW
from utils.errors import UserError
from utils.evaluation.experiments import markdown, measured, table
from utils.locks import locked
from utils.run import run, run_stage
from utils.settings import SETTINGS

SHARED = ("bboxes.npy", "boxes.json", "stc_raw.npy", "stc_of.npy", "cubes.json")
BESIDE_SETTINGS = ("dataset_name", "mode", "config")
MOST_ROWS = 10_000
TEXT = ("Frame AUROC in %: mean and standard deviation over the seeds; 95% interval over videos, and that of the difference "
        "to the first row; spread: highest minus lowest of the last 6 epochs; the last three are means over the seeds.")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", metavar="experiments/NAME.cfg", type=Path)
    parser.add_argument("--seeds", metavar="0,1,2", help="instead of the file's")
    parser.add_argument("--epochs", metavar="N", help="instead of the file's or the datasets' (the runs go to NAME_Nepochs)")
    args = parser.parse_args()
    if not re.fullmatch(r"\d{0,9}", args.epochs or ""):
        raise UserError(f"--epochs {args.epochs}: must be a number")
    experiment = read(args.file, args.seeds, args.epochs)
    out = args.file.with_suffix("")
    out = out.with_name(f"{out.name}_{args.epochs}epochs") if args.epochs else out
    with locked(out):
        ready = set()  # the shared boxes and cubes that this run has checked
        runs, firsts = [], {}  # firsts: seed -> the run of the first row
        for row, seed in itertools.product(experiment["rows"], experiment["seeds"]):
            found = run_one(out, row, seed, experiment, ready)
            figures = {"state": found} if isinstance(found, str) else measured(found, firsts.get(seed))
            firsts.setdefault(seed, {} if isinstance(found, str) else found)
            runs.append({"row": row, "seed": seed, **figures})
            page = write_table(out, experiment, runs, next(filter(None, firsts.values()), {}).get("versions", {}))
        print(f"{page}\nwrote {out / 'table.md'}, table.csv, record.json")
    if any(run.get("state") == "failed" for run in runs):
        raise UserError(f"some runs failed: see their run.log in {out / 'runs'}; run the same command to retry them")


def read(path, seeds, epochs_given):
    """title, keys of the grid, rows (dicts of settings), seeds, cited. Raises UserError for unknown sections or keys."""
    parser = configparser.ConfigParser(interpolation=None, inline_comment_prefixes=("#", ";"), delimiters=("=",))
    parser.optionxform = str
    try:
        parser.read_string(text.read(path), source=str(path))
    except configparser.Error as error:
        raise UserError(f"{path}: not an experiment file ({str(error).splitlines()[0]})") from None
    sections = {name: dict(parser[name]) if name in parser else {} for name in ("experiment", "settings", "grid", "cited")}
    unknown = [*(set(parser.sections()) - set(sections)), *(set(sections["experiment"]) - {"title", "seeds"})]
    keys = [key for group in sections["grid"] for key in group.split()]
    unknown += [key for key in (*sections["settings"], *keys) if key not in SETTINGS and key not in BESIDE_SETTINGS]
    if unknown:
        raise UserError(f"{path}: unknown section or key {unknown[0]}")
    choices = [[value.split() for value in values.split(",")] for values in sections["grid"].values()]
    for group, values in zip(sections["grid"], choices):
        if not all(len(value) == len(group.split()) for value in values):
            raise UserError(f"{path}: {group}: every value must have {len(group.split())} parts")
    if math.prod(map(len, choices)) > MOST_ROWS:
        raise UserError(f"{path}: the grid has more than {MOST_ROWS:,} rows: split it")
    rows = [dict(zip(keys, sum(values, []))) for values in itertools.product(*choices)]
    shared = sections["settings"] | ({"epochs": epochs_given} if epochs_given else {})
    for settings in (*rows, shared):
        for key, value in settings.items():
            settings[key] = value.replace("{dataset_name}", (shared | settings).get("dataset_name", ""))
    seeds = seeds or sections["experiment"].get("seeds", "0")
    if not all(re.fullmatch(r"\d{1,9}", seed.strip()) for seed in seeds.split(",")):
        raise UserError(f"seeds {seeds}: must be numbers such as 0,1,2")
    return {"title": sections["experiment"].get("title", path.stem), "keys": keys, "shared": shared, "rows": rows,
            "seeds": [int(seed) for seed in seeds.split(",")], "cited": sections["cited"]}


def run_one(out, row, seed, experiment, ready):
    """One run through all stages that are not done; returns its results, "absent" or "failed"."""
    settings = experiment["shared"] | row | {"seed": str(seed)}
    name = settings.get("dataset_name", "")
    if name and not (RAW / name).is_dir():
        print(f"{label(row)}: {RAW / name} does not exist")
        return "absent"
    cfg = parse_config("", words(settings))
    folder = out / "runs" / label(row).replace("/", "_").replace(" ", "_") / f"seed_{cfg.seed}"
    wanted = {"settings": {stage: stage_settings(cfg, stage) for stage in record.SCRIPTS}, "dataset": [name, cfg.mode]}
    key = record.digest([wanted["dataset"], cfg.flow_root_dir, *(wanted["settings"][s] for s in ("flow", "boxes", "cubes"))])
    shared, data, results = (Path(root, name, cfg.mode) for root in (out / "shared" / key, folder / "data", folder / "results"))
    made = [*(data / f"{stage}.json" for stage in ("boxes", "cubes", "train")), results / "test.json", results / "events.json"]
    done = files.load_json(folder / "run.json") if (folder / "run.json").is_file() else {}
    whole = isinstance(done, dict) and done.get("id") == record.digest(wanted) and all(map(record.finished, made))
    if not whole:
        for stage, script in record.SCRIPTS.items():
            own = stage in ("train", "test")
            if stage == "flow" and not flow_is_read(cfg) or not own and key in ready:
                continue
            if stage == "train":
                ready.add(key)
                link(shared, data, SHARED)
                take_over(out, cfg, data)
            roots = {"data_root_dir": str(folder / "data" if own else out / "shared" / key),
                     "results_dir": str(folder / "results")}
            command = [script, *words({k: v for k, v in (settings | roots).items() if stage_takes(stage, k)})]
            print(f"{label(row)}, seed {cfg.seed}: {script}   (log: {folder / 'run.log'})", flush=True)
            if call(command, folder / "run.log"):
                print(f"{label(row)}, seed {cfg.seed}: failed: {last_line(folder / 'run.log')}")
                return "failed"
        files.save_json(folder / "run.json", {"id": record.digest(wanted), **wanted})
    return {"metrics": files.load_json(results / "metrics.json"), "data": data, "results": results,
            "versions": record.load(results / "test.json")["versions"],
            "seconds": sum(record.load(path)["seconds"] for path in (data / "train.json", results / "test.json"))}


def label(row):
    """A row's name: its values in the grid."""
    return " ".join(row.values()) or "all"


def words(flags):
    """{"seed": "1"} -> ["--seed", "1"]."""
    return [word for name, value in flags.items() for word in (f"--{name}", value)]


def call(command, log):
    """Runs a stage and appends its command and output to a log; returns the exit code."""
    with files.log(log, f"$ python {shlex.join(command)}\n".encode()) as file:
        return run_stage([sys.executable, str(SUITE / command[0]), *command[1:]], stdout=file, stderr=file)


def last_line(path):
    return (path.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["no output"])[-1]


def link(source, target, names):
    """Links files from another folder of the experiment (files are replaced as a whole, never written into)."""
    target.mkdir(parents=True, exist_ok=True)
    for name in names:
        (target / name).unlink(missing_ok=True)
        if (source / name).is_file():
            os.link(source / name, target / name)


def take_over(out, cfg, data):
    """Links the models of a run with the same seed that differs only in how training ends, if there is one."""
    if (data / "train.json").is_file() or any(data.glob("model_*.pt")):
        return
    wanted = record.training_key(record.wanted("train", stage_settings(cfg, "train"),
                                               {"cubes": record.load(data / "cubes.json")["id"]}))
    for other in sorted(out.glob(f"runs/*/*/data/{cfg.dataset_name}/{cfg.mode}/train.json")):
        if record.finished(other) and record.training_key(content := record.load(other)) == wanted:
            return link(other.parent, data, [name for name in content["outputs"] if name.endswith(".pt")])


def write_table(out, experiment, runs, versions):
    """Writes the table of the runs so far as Markdown and CSV, and the runs as a record; returns the Markdown, untitled."""
    rows = table(runs, experiment["cited"])
    files.save_csv(out / "table.csv", rows)
    page = [f"# {experiment['title']}", "", TEXT, "", *markdown(list(rows[0]), [list(row.values()) for row in rows]), ""]
    with files.whole(out / "table.md") as file:
        file.write("\n".join(page).encode())
    files.save_json(out / "record.json", {
        "title": experiment["title"], "settings": experiment["shared"], "cited": experiment["cited"], "versions": versions,
        "runs": runs})
    return "\n".join(page[2:])


if __name__ == "__main__":
    run(main)
