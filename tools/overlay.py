"""Films that show a result in motion: results/D/MODE/overlay/VIDEO.webm, which any browser plays.

    python -m tools.overlay D MODE [--events] [--video NAME] [--width 640]

Boxes are coloured by score (blue: 0, yellow: an event's threshold, red: twice that), the highest one with its score; below
runs the score's curve, abnormal frames shaded, events marked. VP9 in WebM; where OpenCV has no VP9 encoder, H.264 or AV1.
--events: instead a clip of each event, with up to 2 seconds before and after, and one picture of them all, the highest first:
overlay/events/VIDEO_0h01m15s_frame1876.webm (where it begins, as in events.csv), overlay/events/events.jpg.
"""

import argparse
import contextlib
import itertools
import os
import threading

import cv2
import numpy as np

from tools.pages import pictures, results, summary
from utils import files, films, frames
from utils.datasets import times
from utils.device import workers
from utils.errors import UserError
from utils.evaluation import events
from utils.locks import locked
from utils.run import Clock, progress, run

CODECS = (("VP90", ".webm"), ("avc1", ".mp4"), ("AV01", ".webm"))
PANEL = 120  # height of the curve, in px
AROUND = 2  # seconds before and after an event
CELL, COLUMNS, CELLS = 320, 6, 600  # of the picture of all events: width in px, columns, cells at most
QUIET = threading.Lock()
FONT = cv2.FONT_HERSHEY_SIMPLEX
PAPER, INK, BLUE, TRUTH, ORANGE = (250, 250, 250), (48, 36, 29), (168, 95, 31), (213, 209, 245), (15, 130, 217)  # BGR


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    results.add_arguments(parser)
    parser.add_argument("--events", action="store_true", help="a clip of each event and a picture of all, in place of films")
    parser.add_argument("--video", metavar="NAME", help="only this video (default: all)")
    parser.add_argument("--width", type=int, default=640, help="of the film in px; larger frames keep theirs (default: 640)")
    args = parser.parse_args()
    if not 64 <= args.width <= 8192:
        raise UserError(f"--width {args.width}: must be 64 to 8192")
    res = results.load(args)
    names = [video.name for video in res.dataset.videos]
    if args.video and args.video not in names:
        raise UserError(f"--video {args.video}: there is no such video; there are {', '.join(names)}")
    chosen = [v for v, name in enumerate(names) if args.video in (None, name)]
    folder, clock = res.path / "overlay" / ("events" if args.events else ""), Clock()
    with locked(folder):
        if args.events:
            write_events(res, chosen, folder, args.width)
        else:
            write(res, {v: [(*res.dataset.spans[v], folder / names[v])] for v in chosen}, args.width)
    print(f"all in {folder}, {clock():,.0f} s")


def write_events(res, chosen, folder, width):
    """Writes a clip of each event of the chosen videos, and the picture of all."""
    for old in folder.glob("*_frame*.*"):  # of another threshold
        old.unlink()
    stretches, top = {}, sorted((e for e in res.events if e["video"] in chosen), key=lambda e: -e["score"])[:CELLS]
    if not top:
        print(f"there are no events above {res.limit:.2f}; lower it with test.py --event_z, or --event_share 0.05")
        return
    for v in chosen:
        found = [event for event in res.events if event["video"] == v]
        bounds = around(found, res.dataset.spans[v], round(AROUND * rate_of(res, v)))
        if found:
            stretches[v] = [(*bound, folder / clip_name(event, res.dataset)) for event, bound in zip(found, bounds)]
    stills = write(res, stretches, width, {event["peak"] for event in top})
    with files.whole(folder / "events.jpg") as file:
        file.write(cv2.imencode(".jpg", sheet([cell(stills[event["peak"]], event, res.dataset) for event in top]))[1].tobytes())


def around(found, span, rest):
    """(start, stop) of each event of a video with up to `rest` frames on both sides, at most half way to the next event."""
    cuts = [span[0], *((a["stop"] + b["start"]) // 2 for a, b in itertools.pairwise(found)), span[1]]
    return [(max(low, event["start"] - rest), min(high, event["stop"] + rest))
            for event, low, high in zip(found, cuts, cuts[1:])]


def clip_name(event, dataset):
    row = events.row(event, dataset)
    when = "{}h{}m{}s_".format(*row["first_time"].split(":")) if row["first_time"] else ""
    return f"{row['video'].replace('/', '_')}_{when}frame{row['first_frame']}"


def cell(still, event, dataset):
    """One picture for the sheet, (CELL, CELL, 3): the frame, the video's name, when, and the score."""
    row, zoom = events.row(event, dataset), CELL / still.shape[1]
    image, when = np.full((CELL, CELL, 3), PAPER, np.uint8), [row["first_time"], row["last_time"]]
    shown = cv2.resize(still, (CELL, round(still.shape[0] * zoom)), interpolation=cv2.INTER_AREA)[:CELL - 50]
    image[:len(shown)] = shown
    stretch = " to ".join(when) if all(when) else f"frames {row['first_frame']} to {row['last_frame']}"
    for line, words in enumerate((row["video"][:40], f"{stretch}   score {row['peak_score']:.2f}")):
        cv2.putText(image, words, (4, len(shown) + 20 + 20 * line), FONT, 0.5, INK, 1, cv2.LINE_AA)
    return image


def sheet(cells):
    """Pictures of one size in rows of COLUMNS."""
    cells += [np.full_like(cells[0], PAPER)] * (-len(cells) % min(COLUMNS, len(cells)))
    return np.vstack([np.hstack(cells[k:k + COLUMNS]) for k in range(0, len(cells), COLUMNS)])


def write(res, stretches, width, peaks=()):
    """Writes the films of {video: its stretches}, see `film`. Returns {i: picture} of the frames `peaks`."""
    count, stills = sum(stop - start for parts in stretches.values() for start, stop, _ in parts), {}
    with progress(count, "frame", "overlay") as bar:  # an encoder takes one core
        for paths, pictures in frames.parallel(lambda v: film(res, v, stretches[v], width, peaks, bar.update), stretches,
                                               workers(-1)):
            stills |= pictures
            for path in paths:
                bar.write(f"wrote {path}: {path.stat().st_size / 1e6:.1f} MB", file=None)
    return stills


def rate_of(res, v):
    """Frames per second of a video's film."""
    chosen = res.dataset.videos[v].chosen
    return (res.rates[v] or 25) / (chosen[1] - chosen[0] if len(chosen) > 1 else 1)


def film(res, v, stretches, width, peaks, tick):
    """Writes films of stretches of one video, which is read once: (start, stop, path without suffix), in order and apart.

    Returns the films' paths, and {i: picture} of the frames among `peaks`.
    """
    video, begin, (high, wide) = res.dataset.videos[v], res.dataset.spans[v][0], res.boxes.sizes[v]
    zoom = max(1.0, width / wide)
    size = (int(wide * zoom) // 2 * 2, int(high * zoom) // 2 * 2)  # width, height: encoders want even numbers
    numbers, seconds = np.asarray(video.chosen) + video.first, times(video)
    first, last = (np.searchsorted(res.boxes.rows[:, 0], numbers, side) for side in ("left", "right"))
    stream = frames.load(video, [video.chosen[i - begin] for a, b, _ in stretches for i in range(a, b)], workers(-1), "repeat")
    made, stills = [], {}
    for start, stop, path in stretches:
        panel = curve_panel(res, start, stop, size[0])
        with writing(path, rate_of(res, v), (size[0], size[1] + PANEL), stop - start) as (writer, whole):
            for i in range(start, stop):
                shown, rows = cv2.resize(next(stream), size), slice(first[i - begin], last[i - begin])
                boxes = res.boxes.corners[rows] * np.tile([size[0] / wide, size[1] / high], 2)
                draw_boxes(shown, boxes, res.box_scores[rows], res.limit)
                frame = video.chosen[i - begin]
                words = f"frame {frame + 1}   score {res.curve[i]:.2f}" + (
                    "" if seconds is None else f"   {events.clock(seconds[frame])}")
                writer.write(np.concatenate([shown, with_cursor(panel, (i - start + 0.5) / (stop - start), words)]))
                if i in peaks:
                    stills[i] = shown
                tick()
        made.append(whole)
    next(stream, None)  # its end says what was damaged
    return made, stills


@contextlib.contextmanager
def writing(path, rate, size, count):
    """A cv2.VideoWriter and the path of its film, which is there when it is whole; path: without suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)  # of "Train/01"
    writer, part, suffix = open_writer(path, rate, size)
    whole = path.with_name(path.name + suffix)
    try:
        yield writer, whole
        writer.release()
        require_frames(part, count)
        os.replace(part, whole)
    finally:
        part.unlink(missing_ok=True)


def require_frames(path, count):
    """Raises UserError if a film does not hold `count` frames: OpenCV says nothing where a disk is full."""
    try:
        there = films.read(path).count
    except UserError:
        there = 0
    if there != count:
        raise UserError(f"{path}: cannot be written ({there} of {count} frames are there): is the disk full?")


def open_writer(path, rate, size):
    """The first encoder that works here: (cv2.VideoWriter, the file it writes to, its suffix). Raises UserError without any."""
    for codec, suffix in CODECS:
        part = path.with_name(f"{path.name.replace('%', '_')}.part{suffix}")  # OpenCV takes the container from the suffix
        part.unlink(missing_ok=True)  # never written into: it may be a link
        with quiet():
            writer = cv2.VideoWriter(str(part), cv2.VideoWriter_fourcc(*codec), rate, size)
        if writer.isOpened():
            return writer, part, suffix
        part.unlink(missing_ok=True)
    raise UserError(f"{path.parent}: OpenCV can write none of {', '.join(codec for codec, _ in CODECS)} there: is there room, "
                    "and is opencv-contrib-python from PyPI?")


@contextlib.contextmanager
def quiet():
    """Hides what OpenCV's FFmpeg prints while encoders are tried."""
    with QUIET, open(os.devnull, "w") as nothing:
        kept = os.dup(2)
        os.dup2(nothing.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def draw_boxes(image, boxes, scores, limit):
    """Draws boxes (n, 4) in the colours of their scores (n,) into an image, the highest one last, with its score."""
    colours = pictures.colours(scores, limit).tolist()
    for rank, k in enumerate(np.argsort(scores), 1):
        x1, y1, x2, y2 = boxes[k].round().astype(int).tolist()
        highest = rank == len(scores)
        cv2.rectangle(image, (x1, y1), (x2, y2), colours[k], 3 if highest else 1, cv2.LINE_AA)
        if highest:
            place = (max(0, min(x1, image.shape[1] - 50)), y1 - 6 if y1 > 24 else min(y2 + 18, image.shape[0] - 4))
            cv2.rectangle(image, (place[0] - 2, place[1] - 14), (place[0] + 40, place[1] + 5), INK, -1)
            cv2.putText(image, f"{scores[k]:.2f}", place, FONT, 0.5, colours[k], 1, cv2.LINE_AA)


def curve_panel(res, start, stop, width):
    """The picture of one video's curve, (PANEL, width, 3): abnormal frames shaded, the threshold, events."""
    image = np.full((PANEL, width, 3), PAPER, np.uint8)
    spans, (low, high) = [(start, stop)], summary.scale(res)

    def x(i):
        return round((i - start) / (stop - start) * (width - 1))

    def y(score):
        return round(PANEL - 8 - (PANEL - 30) * (min(max(score, low), high) - low) / (high - low))

    for a, b in events.runs(res.labels, spans) if res.labels is not None else ():
        image[:, x(a):x(b) + 1] = TRUTH
    cv2.line(image, (0, y(res.limit)), (width, y(res.limit)), ORANGE, 1)
    for a, b in ((event["start"], event["stop"]) for event in res.events if start <= event["start"] < stop):
        image[-5:, x(a):x(b) + 1] = ORANGE
    points = np.array([(x(i + 0.5), y(res.curve[i])) for i in range(start, stop)], np.int32)
    cv2.polylines(image, [points], False, BLUE, 2, cv2.LINE_AA)
    return image


def with_cursor(panel, share, words):
    """The panel with a line at this share of its width, and words above."""
    image = panel.copy()
    x = int(share * panel.shape[1])
    cv2.line(image, (x, 20), (x, PANEL), INK, 1)
    cv2.putText(image, words, (8, 15), FONT, 0.45, INK, 1, cv2.LINE_AA)
    return image


if __name__ == "__main__":
    run(main)
