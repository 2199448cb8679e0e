#!/usr/bin/env python
"""Run all stages in order, skipping those already done with the same settings and input, then write the report.

    calc_optical_flow.py -> extract_bbox.py -> extract_stc.py -> train.py -> test.py -> python -m tools.report

Each stage runs as a separate process, says what it does and why, and gets only the flags it uses. If a stage fails, the
run ends with its exit code. Flow is skipped if nothing reads it (--boxes_from without --use_flow).

--dry_run runs no stage. It prints which stages are done, to do or outdated and why, which frames or weights are missing,
and how much time and disk space the run needs (python -m tools.doctor).

--model data/OTHER/MODE scores the videos with models trained on other videos: training is skipped, and the cube settings
(use_flow, patch_size, context_frame_num, context_of_num, border_mode) are taken from the model.
"""

import os
import sys
import time
from pathlib import Path

from utils import record, stages
from utils.config import STAGES, SUITE, parse_config, stage_takes
from utils.errors import UserError
from utils.record import SCRIPTS
from utils.run import PIPELINE, run, run_stage

SHAPE = ("use_flow", "patch_size", "context_frame_num", "context_of_num", "border_mode")  # settings that define a cube
REPORT = ("config", "data_root_dir", "results_dir", "device")  # the flags that the report uses


def main():
    cfg = parse_config(__doc__)
    words = flags_given(sys.argv[1:])
    if cfg.model and not Path(cfg.model).exists():
        there = [str(path.parent) for path in sorted(Path(cfg.data_root_dir).glob("*/*/train.json"))]
        raise UserError(f"--model {cfg.model}: no such folder or file; trained models are in "
                        f"{', '.join(there) or 'no folder yet'}")
    words += settings_of_model(cfg, {name for name, _ in words})
    cfg = parse_config(__doc__, [word for _, pair in words for word in pair])
    if cfg.dry_run:
        given = [word for name, pair in words for word in pair if name != "dry_run"]
        sys.exit(python(["-m", "tools.doctor", *given]))
    started = time.monotonic()
    for stage in STAGES:
        if stage not in stages.chosen(cfg):
            why = "no later stage reads it with --boxes_from" if stage == "flow" else f"scoring uses {cfg.model}"
            print(f"== {stage}: skipped, {why}", flush=True)
            continue
        given = [word for name, pair in words for word in pair if stage_takes(stage, name)]
        start(stage, [SCRIPTS[stage], *given], [str(SUITE / SCRIPTS[stage]), *given])
    given = ["tools.report", cfg.dataset_name, cfg.mode, *(word for name, pair in words for word in pair if name in REPORT)]
    start("report", ["-m", *given], ["-m", *given])
    print(f"== all stages done in {time.monotonic() - started:,.0f} s")


def start(stage, shown, command):
    """Runs a stage; ends this process with the stage's exit code if it fails."""
    print(f"== {stage}: python {' '.join(shown)}", flush=True)
    code = python(command)
    if code:
        then = "fix that, then run the same command to resume" if code == 2 else "run the same command to resume"
        print(f"== {stage} ended with exit code {code}; {then}", file=sys.stderr)
        sys.exit(code if code > 0 else 128 - code)


def python(command):
    """Runs Python in a new process that finds the suite's packages; returns its exit code."""
    path = os.pathsep.join(filter(None, (str(SUITE), os.environ.get("PYTHONPATH"))))
    return run_stage([sys.executable, *command], env={**os.environ, "PYTHONPATH": path, PIPELINE: "1"})


def settings_of_model(cfg, given):
    """The cube settings of the --model models, as flags like those of `flags_given`, unless given as flags already."""
    trained, cubes = (record.load(Path(cfg.model or ".", name)) for name in ("train.json", "cubes.json"))
    if not cfg.model or not trained or not cubes or trained["input"].get("cubes") != cubes["id"]:
        return []
    found = [(name, [f"--{name}", str(cubes["settings"][name]).lower()]) for name in SHAPE
             if name not in given and cubes["settings"].get(name, getattr(cfg, name)) != getattr(cfg, name)]
    if found:
        print(f"== cube settings of {cfg.model}: {' '.join(word for _, pair in found for word in pair)}", flush=True)
    return found


def flags_given(argv):
    """["--a", "1", "--b=2", "--c"] -> [("a", ["--a", "1"]), ("b", ["--b=2"]), ("c", ["--c"])]."""
    found = []
    for word in argv:
        if word.startswith("--"):
            found.append((word[2:].partition("=")[0], [word]))
        else:
            found[-1][1].append(word)
    return found


if __name__ == "__main__":
    run(main)
