"""Makes an experiment's table from its runs."""

import numpy as np

from utils.evaluation import bootstrap, epochs, inputs, protocols

AUROC, MORE, SPREAD = "AUROC", "less the first row", "spread"


def measured(run, first=None):
    """The figures of a run in %: its AUROC with the 95% interval over videos, and its difference to `first`.

    run, first: dicts of data and results (folders) and seconds; `measured` adds what a `first` needs. Without labels of both
    classes there are only the seconds.
    """
    figures = {"seconds": round(run["seconds"])}
    if run["metrics"]["auroc"] is None:
        return figures
    smooth = protocols.official(*inputs.of_results(run["results"]))
    videos, spread = len(smooth.counts), epochs.spread(epochs.load(run["data"], run["results"]))
    run["many"] = bootstrap.resampled_figures(smooth.scores, smooth.labels, smooth.video, bootstrap.resamples(videos))[:, 0]
    auroc = run["metrics"]["auroc"]
    figures |= {"auroc": auroc, "unsmoothed": run["metrics"]["auroc_unsmoothed"]}
    figures |= dict(zip(("low", "high"), bootstrap.interval(auroc, run["many"], videos)))
    if spread is not None:
        figures["spread"] = spread[0]
    if first and len(first.get("many", ())) == len(run["many"]):
        more = auroc - first["metrics"]["auroc"]
        ends = bootstrap.interval(more, run["many"] - first["many"], videos, share=False)
        figures |= dict(zip(("more", "more_low", "more_high"), (more, *ends)))
    return {key: value if key == "seconds" else round(100 * float(value), 2) for key, value in figures.items()}


def table(runs, cited):
    """The rows of a table, dicts of text, from runs: dicts of row (its settings by the grid), seed and what `measured` returns,
    or state, why there is none. cited: a row's values -> a figure from the literature.

    Figures are means over seeds, the AUROC with its standard deviation; interval ends are means too.
    """
    rows = {}
    for run in runs:
        rows.setdefault(" ".join(run["row"].values()), []).append(run)
    return [{**found[0]["row"], **summary(found), "cited": cited.get(name, "")} for name, found in rows.items()]


def summary(runs):
    """The columns of a row."""
    done = [run for run in runs if "state" not in run]
    columns = dict.fromkeys(("runs", AUROC, "95% over videos", MORE, "95% of that", "unsmoothed", SPREAD, "seconds"), "")
    if not done:
        return columns | {"runs": runs[0]["state"]}
    columns |= {"runs": f"{len(done)}" + (f" of {len(runs)}" if len(done) < len(runs) else ""), AUROC: "no labels"}
    columns["seconds"] = f"{np.mean([run['seconds'] for run in done]):.0f}"

    def mean(key, form=".2f"):
        values = [run[key] for run in done if key in run]
        return f"{np.mean(values):{form}}" if len(values) == len(done) else ""

    def ends(low, high, form=".2f"):
        return f"{mean(low, form)} to {mean(high, form)}" if mean(low) else ""
    if not mean("auroc"):
        return columns
    for column, key in ((AUROC, "auroc"), ("unsmoothed", "unsmoothed")):
        columns[column] = mean(key) + (f" ± {np.std([run[key] for run in done], ddof=1):.2f}" if len(done) > 1 else "")
    columns |= {MORE: mean("more", "+.2f"), "95% of that": ends("more_low", "more_high", "+.2f"), SPREAD: mean("spread")}
    return columns | {"95% over videos": ends("low", "high")}


def markdown(columns, rows):
    """A table as lines of Markdown. columns: names; rows: lists of text and numbers, None for an empty cell."""
    def line(cells):
        return "| " + " | ".join(f"{cell:.2f}" if isinstance(cell, float) else f"{cell:,}" if isinstance(cell, int) else
                                 str(cell or "") for cell in cells) + " |"
    return [line(columns), "|" + "---|" * len(columns), *map(line, rows)]
