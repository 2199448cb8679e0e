#!/usr/bin/env python
"""Run all stages in order, skipping what is done with the same settings and input.

    calc_optical_flow.py -> extract_bbox.py -> extract_stc.py -> train.py -> test.py

Every stage runs as a process of its own and looks for itself whether there is something to do; it says why. All flags of
the stages are taken here and handed on to those that know them. A stage that fails ends the run with its exit code. The
flow is left out where nothing reads it (--boxes_from without --use_flow).
"""

import sys
import time

from utils.config import STAGES, SUITE, flow_is_read, parse_config, stage_takes
from utils.record import SCRIPTS
from utils.run import run, run_stage


def main():
    cfg = parse_config(__doc__)
    words = flags_given(sys.argv[1:])
    started = time.monotonic()
    for stage in STAGES:
        if stage == "flow" and not flow_is_read(cfg):
            print("== flow: skipped, no later stage reads it with --boxes_from", flush=True)
            continue
        if stage == "train" and cfg.model:
            print(f"== train: skipped, scoring uses {cfg.model}", flush=True)
            continue
        command = [SCRIPTS[stage], *(word for name, pair in words for word in pair if stage_takes(stage, name))]
        print(f"== {stage}: python {' '.join(command)}", flush=True)
        code = run_stage([sys.executable, str(SUITE / command[0]), *command[1:]])
        if code:
            print(f"== {stage} ended with exit code {code}; the same command goes on from there", file=sys.stderr)
            sys.exit(code if code > 0 else 128 - code)
    print(f"== all stages done in {time.monotonic() - started:,.0f} s")


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
