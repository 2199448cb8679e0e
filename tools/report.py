"""One page that shows what was found, where and why: results/D/MODE/report.html, to be opened from disk.

    python -m tools.report D MODE [--megabytes 13]

Everything is in the file: nothing is fetched when it is read. It shows the figures, a timeline of each video with the frame,
its boxes and the highest box's cube under the cursor, the highest alarms, the worst misses and false alarms, what
refinement dropped, settings, versions, seconds and the commands. As many frames get a picture as fit in --megabytes;
where fewer than every fifth would, the videos are split over report_1.html, report_2.html, ... and report.html leads to them.
"""

import argparse
import base64

import jinja2
import numpy as np

from models.checkpoint import load_models
from tools.pages import pictures, results, summary
from utils import files, frames, metrics, record
from utils.config import SUITE
from utils.cubes import Cubes
from utils.device import device_of, precision_of, workers
from utils.errors import UserError
from utils.evaluation import events
from utils.locks import locked
from utils.run import Clock, progress, run

TEMPLATE = SUITE / "tools" / "report.html"
STEP = 5  # at least every fifth frame gets a picture, or the videos are split over several files


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    results.add_arguments(parser)
    parser.add_argument("--megabytes", type=float, default=13, help="size of one file at most, roughly (default: 13)")
    args = parser.parse_args()
    if not args.megabytes > 0:
        raise UserError(f"--megabytes {args.megabytes}: must be above 0")
    res, clock = results.load(args), Clock()
    template = TEMPLATE.read_text(encoding="utf-8")
    made_from = record.digest([record.load(res.path / "test.json")["id"], res.made, args.megabytes, template])
    page = res.path / "report.html"
    if page.is_file() and made_from in page.read_text(encoding="utf-8")[:2000]:
        print(f"{page}: up to date")
        return
    with locked(res.path):
        write(res, Pictures(res), args.megabytes, made_from)
    size = sum(path.stat().st_size for path in res.path.glob("report*.html"))
    print(f"wrote {page}: {size / 1e6:.1f} MB in {clock():,.0f} s; open it in a browser")


class Pictures:
    """Thumbnails of frames, and of their highest box's cube, reconstruction and error."""

    def __init__(self, res):
        self.res, self.note = res, ""
        try:
            self.models = load_models(res.made["model"])
            made = record.load(res.folder / "cubes.json")
            self.cubes = Cubes(res.folder, self.models.use_flow, device_of(res.cfg.device), made)
            self.block = res.boxes.block(self.models.grid)
        except UserError as error:
            self.models, self.note = None, f"no reconstructions: {error}"
            print(f"note: {self.note}")

    def of_cubes(self, chosen):
        """Indices into the scored frames -> {index: data URI} where a frame has a box."""
        rows = self.res.highest[chosen]
        if self.models is None:
            return {}
        autocast = precision_of(self.models.precision, self.cubes.device)
        sheets = {row: pictures.data_uri(sheet, pictures.QUALITY) for row, sheet in pictures.cube_sheets(
            self.models, self.cubes, np.unique(rows[rows >= 0]), self.block, autocast)}
        return {int(i): sheets[row] for i, row in zip(chosen, rows) if row >= 0}

    def of_dropped(self, cubes):
        """The middle frame of each cube that `summary.most_dropped` names: adds `picture` to each."""
        for cube in cubes if self.models is not None else ():
            frames_of_cube = self.cubes.raw[cube["row"]].reshape(self.cubes.frames, 3, *self.cubes.raw.shape[2:])
            middle = np.ascontiguousarray(frames_of_cube[self.cubes.frames // 2].transpose(1, 2, 0))
            cube["picture"] = pictures.data_uri(middle, pictures.QUALITY)
        return [cube for cube in cubes if "picture" in cube]

    def of_frames(self, chosen, tick=lambda: None):
        """Indices into the scored frames, ascending -> {index: data URI}; each video is read once, in order."""
        found = {}
        for video, (start, stop) in zip(self.res.dataset.videos, self.res.dataset.spans):
            here = [int(i) for i in chosen if start <= i < stop]
            stream = frames.load(video, [video.chosen[i - start] for i in here], workers(-1), "repeat")
            for i, uri in zip(here, frames.parallel(pictures.thumbnail, stream, workers(-1))):
                found[i] = uri
                tick()
        return found


def write(res, shots, megabytes, made_from):
    """Writes report.html, and the pages of groups of videos where one file cannot hold all."""
    lists = summary.lists(res)
    wanted = {card["i"] for group in lists for card in group["cards"]} | {event["peak"] for event in res.events}
    wanted = sorted(wanted | {start + int(np.argmax(res.curve[start:stop])) for start, stop in res.dataset.spans})
    groups = split(res, shots, megabytes)
    pages = [f"report_{k}.html" for k in range(1, len(groups) + 1)] if len(groups) > 1 else ["report.html"]
    page_of = {v: page for page, (videos, _) in zip(pages, groups) for v in videos}
    shown = [np.unique(np.concatenate([np.arange(start, stop, step) for start, stop in (res.dataset.spans[v] for v in videos)]
                                      + [[i for i in wanted if res.video_of(i)[0] in videos]])).astype(int)  # rounded down
             for videos, step in groups]
    low, high = summary.scale(res)
    common = {"name": res.cfg.dataset_name, "mode": res.cfg.mode, "made_from": made_from, "limit": res.limit,
              "note": shots.note, "made": res.made, "low": low, "high": high, "single": len(groups) == 1,
              "rows_of_cube": ["cube", "reconstruction", "error", "error of the flow"]}
    template = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATE.parent), autoescape=True, trim_blocks=True,
                                  lstrip_blocks=True, undefined=jinja2.StrictUndefined).get_template(TEMPLATE.name)
    thumbs, overview = {}, []
    (res.path / "report.html").unlink(missing_ok=True)  # until the last line the pages do not belong together
    for old in res.path.glob("report_*.html"):
        old.unlink()
    with progress(sum(map(len, shown)), "frame", "report") as bar:
        for page, (videos, _), chosen in zip(pages, groups, shown):
            frames_shown, cubes_shown = shots.of_frames(chosen, bar.update), shots.of_cubes(chosen)
            thumbs |= {i: frames_shown[i] for i in wanted if i in frames_shown}
            timelines = [timeline(res, v, low, high) for v in videos]
            best = max(videos, key=lambda v: timelines[videos.index(v)]["peak"])
            peak = int(np.argmax(res.curve[slice(*res.dataset.spans[best])]))
            data = {"start": [videos.index(best), peak], "limit": res.limit, "palette": pictures.palette(),
                    "patch": res.made["settings"].get("patch_size", 32),
                    "videos": [content(res, v, frames_shown, cubes_shown) for v in videos]}
            if len(groups) > 1:
                save(res.path / page, template.render(common, timelines=timelines, data=data, lists=[], index=False))
                overview += [{**line, "page": page} for line in timelines]
    for card in (card for group in lists for card in group["cards"]):
        card["picture"], card["page"] = thumbs[card["i"]], page_of[card["v"]] if len(groups) > 1 else ""
    whole = {"timelines": timelines, "data": data} if len(groups) == 1 else {"timelines": overview, "data": None}
    dropped = shots.of_dropped(summary.most_dropped(res))
    whole |= {"lists": lists, "index": True, "dropped": dropped, **summary.of(res)}
    save(res.path / "report.html", template.render(common, **whole))


def split(res, shots, megabytes):
    """Groups of videos for one file each: list of (positions, step of 1 or more from one frame with a picture to the next)."""
    sample = []
    for v in np.unique(np.linspace(0, len(res.dataset.videos) - 1, 8).astype(int)):
        start, stop = res.dataset.spans[v]
        sample.append(start + min((stop - start) // 2, 100))
    uris = [*shots.of_frames(sample).values(), *shots.of_cubes(np.array(sample)).values()]
    capacity = max(1, int(0.85 * megabytes * 1e6 / (sum(map(len, uris)) / len(sample) + 300)))
    groups, held = [[]], 0
    for v, (start, stop) in enumerate(res.dataset.spans):
        if groups[-1] and held + stop - start > STEP * capacity:
            groups.append([])
            held = 0
        groups[-1].append(v)
        held += stop - start
    counts = [sum(stop - start for start, stop in (res.dataset.spans[v] for v in group)) for group in groups]
    return [(group, max(1, count / capacity)) for group, count in zip(groups, counts)]


def timeline(res, v, low, high):
    """What the page draws of one video."""
    video, (start, stop), rate = res.dataset.videos[v], res.dataset.spans[v], res.rates[v]
    raw = np.where(res.frame_scores[start:stop] <= metrics.NO_BOX, np.nan, res.frame_scores[start:stop])
    truth = [] if res.labels is None else [(a - start, b - start) for a, b in events.runs(res.labels, [(start, stop)])]
    auroc = None if res.labels is None else metrics.evaluate(res.curve[start:stop], res.labels[start:stop])["auroc"]
    return {"v": v, "name": video.name, "frames": stop - start, "seconds": len(video) / rate if rate else None,
            "first": video.chosen[0] + 1, "last": video.chosen[-1] + 1, "auroc": auroc, "truth": truth,
            "peak": float(res.curve[start:stop].max()), "alarms": [
                (e["start"] - start, e["stop"] - start) for e in res.events if e["video"] == v],
            "raw": pictures.path_of(raw, low, high), "curve": pictures.path_of(res.curve[start:stop], low, high)}


def content(res, v, frames_shown, cubes_shown):
    """What the page needs of one video when the cursor moves: numbers of each frame, and the pictures."""
    video, (start, stop), size = res.dataset.videos[v], res.dataset.spans[v], res.boxes.sizes[v]
    numbers = np.asarray(video.chosen) + video.first
    ends = [np.searchsorted(res.boxes.rows[:, 0], numbers, side) for side in ("left", "right")]
    rows = np.concatenate([np.arange(a, b) for a, b in zip(*ends)]) if len(numbers) else []
    rows = np.asarray(rows, np.int64)
    table = np.column_stack([res.boxes.rows[rows, 1:].round(), (res.box_scores[rows] * 100).round()])  # (n, 5)
    table = table.clip(-32768, 32767).astype("<i2")
    return {"v": v, "name": video.name, "size": list(size), "fps": res.rates[v], "frame": [t + 1 for t in video.chosen],
            "score": res.curve[start:stop].round(2).tolist(), "count": (ends[1] - ends[0]).tolist(),
            "events": [event["peak"] - start for event in res.events if event["video"] == v],
            "boxes": base64.b64encode(table.tobytes()).decode("ascii"),
            "pictures": {i - start: [uri, cubes_shown.get(i, "")] for i, uri in frames_shown.items() if start <= i < stop}}


def save(path, text):
    """Writes a page, whole or not at all."""
    with files.whole(path) as file:
        file.write(text.encode())


if __name__ == "__main__":
    run(main)
