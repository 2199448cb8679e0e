"""Write one page that shows what was found, where and why: results/D/MODE/report.html, opened from disk.

    python -m tools.report D MODE [--megabytes 13]

The file is self-contained: it loads nothing else. It shows the figures, a timeline of each video with the frame under the
cursor, its boxes and the highest box's cube, the highest alarms, the worst misses and false alarms, what refinement dropped,
settings, versions, seconds and commands. As many frames get a picture as fit in --megabytes; if that is fewer than every
fifth, the videos are split over report_1.html, report_2.html, ..., which report.html links to. Frames count from 1 within
their video, and the last frame of an event belongs to it.
"""

import argparse
import base64

import jinja2
import numpy as np

from tools.pages import pictures, provenance, summary
from tools.pages.results import add_arguments, load
from utils import files, metrics, record
from utils.config import SUITE
from utils.errors import UserError
from utils.evaluation import events
from utils.locks import locked
from utils.run import Clock, progress, run

TEMPLATE = SUITE / "tools" / "report.html"
STEP = 5  # at least every fifth frame gets a picture, or the videos are split over several files


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--megabytes", type=float, default=13, help="approximate size limit of one file (default: 13)")
    args = parser.parse_args()
    if not 0 < args.megabytes <= 1e6:
        raise UserError(f"--megabytes {args.megabytes}: must be above 0, and at most 1,000,000")
    results, clock = load(args), Clock()
    template = TEMPLATE.read_text(encoding="utf-8")
    made_from = record.digest([record.load(results.path / "test.json")["id"], results.made, args.megabytes, template])
    page = results.path / "report.html"
    with locked(results.path):
        if page.is_file() and made_from in page.read_text(encoding="utf-8")[:2000]:
            print(f"{page}: up to date")
            return
        write(results, pictures.Pictures(results), args.megabytes, made_from)
    size = sum(path.stat().st_size for path in results.path.glob("report*.html"))
    print(f"wrote {page}: {size / 1e6:.1f} MB in {clock():,.0f} s; open it in a browser")


def write(results, shots, megabytes, made_from):
    """Writes report.html, and pages for groups of videos if they do not fit in one file."""
    lists, spans = summary.lists(results), results.dataset.spans
    cards = [card for group in lists for card in group["cards"]]
    wanted = {*(card["i"] for card in cards), *(event["peak"] for event in results.events),
              *(start + int(np.argmax(results.curve[start:stop])) for start, stop in spans)}
    groups, scale = split(results, shots, megabytes, wanted), summary.scale(results)
    render = renderer(results, scale, shots.note, made_from)
    for old in results.path.glob("report*.html"):  # until report.html is written the pages do not match
        old.unlink()
    thumbs, timelines, data = {}, [], None
    with progress(sum(len(chosen) for _, chosen in groups), "frame", "report") as bar:
        for number, (videos, chosen) in enumerate(groups, 1):
            page = f"report_{number}.html" if len(groups) > 1 else ""
            shown = shots.of_frames(chosen, bar.update)
            thumbs |= {i: (shown[i], page) for i in wanted & shown.keys()}
            lines = [{**timeline(results, v, *scale), "page": page} for v in videos]
            data = page_data(results, videos, scale, shown, shots.of_cubes(chosen))
            if page:
                render(page, index=False, timelines=lines, data=data, lists=[])
            timelines += lines
    for card in cards:
        card["picture"], card["page"] = thumbs[card["i"]]
    weights, stages = summary.kept_weights(results), provenance.stages(results)
    render("report.html", index=True, timelines=timelines, data=data if len(groups) == 1 else None, lists=lists,
           results=results, seconds=summary.seconds(results), curves=summary.curves(results.path / "frame_results.npz"),
           refinement=summary.refinement(results), taken_away=summary.taken_away(results, weights),
           dropped=shots.of_dropped(summary.most_dropped(results, weights)), stages=stages,
           settings=provenance.settings(results), versions=provenance.versions(stages))


def renderer(results, scale, note, made_from):
    """A function that writes a page of the report, given its name and the template's variables."""
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATE.parent), autoescape=True, trim_blocks=True,
                                     lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    environment.filters["clock"] = events.clock
    common = {"name": results.cfg.dataset_name, "mode": results.cfg.mode, "made": results.made, "made_from": made_from,
              "note": note, "limit": results.limit, "low": scale[0], "high": scale[1],
              "rows_of_cube": ["cube", "reconstruction", "error", "error of the flow"]}

    def render(name, **variables):
        with files.whole(results.path / name) as file:
            file.write(environment.get_template(TEMPLATE.name).render(common, **variables).encode())
    return render


def split(results, shots, megabytes, wanted):
    """Groups of videos that fit in one file each: list of (their positions, indices of the frames with a picture)."""
    spans = results.dataset.spans
    sample = [spans[v][0] + min((spans[v][1] - spans[v][0]) // 2, 100)
              for v in np.unique(np.linspace(0, len(spans) - 1, 8).astype(int))]
    uris = [*shots.of_frames(sample).values(), *shots.of_cubes(np.array(sample)).values()]
    capacity = max(1, int(0.85 * megabytes * 1e6 / (sum(map(len, uris)) / len(sample) + 300)))  # frames in a file
    groups = [[]]
    for v, (_, stop) in enumerate(spans):
        if groups[-1] and stop - spans[groups[-1][0]][0] > STEP * capacity:
            groups.append([])
        groups[-1].append(v)
    return [(videos, chosen(spans[videos[0]:videos[-1] + 1], capacity, wanted)) for videos in groups]


def chosen(spans, capacity, wanted):
    """Indices of the frames that get a picture: at regular intervals in each video of a file, and the wanted ones."""
    first, last = spans[0][0], spans[-1][1]
    step = max(1, (last - first) / capacity)
    regular = [np.arange(start, stop, step).astype(int) for start, stop in spans]  # rounded down
    return np.unique(np.concatenate([*regular, [i for i in wanted if first <= i < last]]).astype(int))


def timeline(results, v, low, high):
    """What the page draws for one video, between the scores low and high."""
    video, (start, stop), rate = results.dataset.videos[v], results.dataset.spans[v], results.rates[v]
    curve, raw = results.curve[start:stop], results.frame_scores[start:stop]
    raw = np.where(raw <= metrics.NO_BOX, np.nan, raw)
    truth, auroc = [], None
    if results.labels is not None:
        truth = events.runs(results.labels[start:stop], [(0, stop - start)])
        auroc = metrics.evaluate(curve, results.labels[start:stop])["auroc"]
    return {"v": v, "name": video.name, "frames": stop - start, "seconds": len(video) / rate if rate else None,
            "first": video.chosen[0] + 1, "last": video.chosen[-1] + 1, "auroc": auroc, "truth": truth,
            "alarms": [(e["start"] - start, e["stop"] - start) for e in results.events if e["video"] == v],
            "peak": float(curve.max()), "raw": pictures.path_of(raw, low, high), "curve": pictures.path_of(curve, low, high)}


def page_data(results, videos, scale, shown, sheets):
    """What the page needs when the cursor moves, for JSON; it starts at the highest peak of its videos."""
    first, last = results.dataset.spans[videos[0]][0], results.dataset.spans[videos[-1]][1]
    peak = first + int(np.argmax(results.curve[first:last]))
    v = results.video_of(peak)[0]
    return {"start": [v - videos[0], peak - results.dataset.spans[v][0]], "palette": pictures.palette(),
            "given": round(results.limit, 4), "rule": results.made["events"]["rule"], "low": scale[0], "high": scale[1],
            "gap": results.made["settings"]["window_size"], "patch": results.made["settings"].get("patch_size", 32),
            "videos": [video_data(results, v, shown, sheets) for v in videos]}


def video_data(results, v, shown, sheets):
    """The numbers of each frame of one video, and its pictures. shown, sheets: data URIs of frames and of their cubes."""
    video, (start, stop), rows = results.dataset.videos[v], results.dataset.spans[v], results.boxes.rows
    numbers = np.asarray(video.chosen) + video.first
    here = np.flatnonzero(np.isin(rows[:, 0], numbers))
    table = np.column_stack([rows[here, 1:], results.box_scores[here] * 100]).round().clip(-32768, 32767)  # (n, 5)
    return {"v": v, "name": video.name, "size": list(results.boxes.sizes[v]), "fps": results.rates[v],
            "frame": [t + 1 for t in video.chosen], "score": results.curve[start:stop].round(4).tolist(),
            "count": (np.diff(np.searchsorted(rows[here, 0], [*numbers, np.inf]))).tolist(),
            "boxes": base64.b64encode(table.astype("<i2").tobytes()).decode("ascii"),
            "pictures": {i - start: [uri, sheets.get(i, "")] for i, uri in shown.items() if start <= i < stop}}


if __name__ == "__main__":
    run(main)
