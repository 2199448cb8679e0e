"""Show a result in motion: writes results/D/MODE/overlay/VIDEO.webm, which any browser plays.

    python -m tools.overlay D MODE [--events] [--video NAME] [--width 640]

Boxes are coloured by score (blue: 0, yellow: the threshold of events, red: twice that), the highest one shows its score; below
is the score's curve, with abnormal frames shaded and events marked. Frames count from 1 within their video. VP9 in WebM.
--events: instead a clip of each event, with up to 2 seconds before and after, and one picture of them all, the highest first:
overlay/events/VIDEO_0h01m15s_frame1876.webm (its start, as in events.csv), overlay/events/events.jpg.
"""

import argparse
import contextlib
from fractions import Fraction

import av
import cv2
import numpy as np

from tools.pages import pictures, results, summary
from utils import files, frames
from utils.datasets import times
from utils.device import workers
from utils.errors import UserError
from utils.evaluation import events
from utils.locks import locked
from utils.run import Clock, progress, run

PANEL = 120  # height of the curve, in px
AROUND = 2  # seconds before and after an event
CELL, COLUMNS, CELLS = 320, 6, 600  # of the picture of all events: cell width in px, columns, maximum cells
QUICK = {"deadline": "realtime", "cpu-used": "6", "crf": "28", "b": "0"}  # encoder options
FONT = cv2.FONT_HERSHEY_SIMPLEX
PAPER, INK, BLUE, TRUTH, ORANGE = (250, 250, 250), (48, 36, 29), (168, 95, 31), (213, 209, 245), (15, 130, 217)  # BGR


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    results.add_arguments(parser)
    parser.add_argument("--events", action="store_true", help="a clip of each event and a picture of all instead")
    parser.add_argument("--video", metavar="NAME", help="only this video (default: all)")
    parser.add_argument("--width", type=int, default=640, help="width in px; larger frames keep theirs (default: 640)")
    args = parser.parse_args()
    if not 64 <= args.width <= 8192:
        raise UserError(f"--width {args.width}: must be 64 to 8192")
    res = results.load(args)
    names = [video.name for video in res.dataset.videos]
    if args.video and args.video not in names:
        raise UserError(f"--video {args.video}: no such video; known: {', '.join(names)}")
    chosen = [v for v, name in enumerate(names) if args.video in (None, name)]
    folder, clock = res.path / "overlay" / ("events" if args.events else ""), Clock()
    stretches, top = {v: [(*res.dataset.spans[v], folder / f"{names[v]}.webm")] for v in chosen}, []
    if args.events:
        stretches = {v: event_clips(res, v, folder) for v in chosen}
        top = sorted((e for e in res.events if e["video"] in chosen), key=lambda event: -event["score"])[:CELLS]
    parts, peaks, stills = [part for v in chosen for part in stretches[v]], {event["peak"] for event in top}, {}
    with locked(folder), progress(sum(stop - start for start, stop, _ in parts), "frame", "overlay") as bar:
        for old in folder.glob("*_frame*.webm") if args.events else ():  # from another threshold
            old.unlink()
        for found in frames.parallel(lambda v: film(res, v, stretches[v], args.width, peaks, bar.update),
                                     [v for v in chosen if stretches[v]], workers(-1)):
            stills |= found
        if top:
            write_sheet(folder / "events.jpg", stills, top, res.dataset)
    print(f"wrote {len(parts)} films: {folder}, {sum(path.stat().st_size for *_, path in parts) / 1e6:.1f} MB, {clock():.0f} s")


def event_clips(res, v, folder):
    """The stretches of a video that become clips, one per event."""
    found = [event for event in res.events if event["video"] == v]
    stretches = events.around(found, res.dataset.spans[v], round(AROUND * rate_of(res, v)))
    return [(*stretch, clip_path(folder, event, res.dataset)) for stretch, event in zip(stretches, found)]


def clip_path(folder, event, dataset):
    row = events.row(event, dataset)
    when = "{}h{}m{}s_".format(*row["first_time"].split(":")) if row["first_time"] else ""
    return folder / f"{row['video'].replace('/', '_')}_{when}frame{row['first_frame']}.webm"


def write_sheet(path, stills, top, dataset):
    """One picture of these events: their peak frames, in rows of COLUMNS, with video, time and score."""
    blank, columns = np.full((CELL, CELL, 3), PAPER, np.uint8), min(COLUMNS, len(top))
    cells = [blank.copy() for _ in range(-(-len(top) // columns) * columns)]
    for cell, event in zip(cells, top):
        row, shown = events.row(event, dataset), stills[event["peak"]][:CELL - 50]
        cell[:len(shown)] = shown
        when = f"{row['first_time']} to {row['last_time']}" if row["first_time"] else (
            f"frames {row['first_frame']} to {row['last_frame']}")
        for line, words in enumerate((row["video"], f"{when}   score {row['peak_score']:.2f}"), 1):
            cv2.putText(cell, words, (4, len(shown) + 20 * line), FONT, 0.5, INK, 1, cv2.LINE_AA)
    image = np.vstack([np.hstack(cells[k:k + columns]) for k in range(0, len(cells), columns)])
    frames.save_image(path, image)
    print(f"wrote {path}: the {len(top)} highest events")


def rate_of(res, v):
    """Frames per second of a video's overlay."""
    chosen = res.dataset.videos[v].chosen
    return (res.rates[v] or 25) / (chosen[1] - chosen[0] if len(chosen) > 1 else 1)


def film(res, v, stretches, width, peaks, tick):
    """Writes overlays of stretches of one video, which is read once: (start, stop, path), in order, not overlapping.

    Returns {i: small picture} of the frames in `peaks`.
    """
    video, begin, (high, wide) = res.dataset.videos[v], res.dataset.spans[v][0], res.boxes.sizes[v]
    zoom = max(1.0, width / wide)
    size = (int(wide * zoom) // 2 * 2, int(high * zoom) // 2 * 2)  # width, height: encoders need even numbers
    numbers, seconds = np.asarray(video.chosen) + video.first, times(video)
    first, last = (np.searchsorted(res.boxes.rows[:, 0], numbers, side) for side in ("left", "right"))
    stream = frames.load(video, [video.chosen[i - begin] for a, b, _ in stretches for i in range(a, b)], workers(-1), "repeat")
    stills = {}
    for start, stop, path in stretches:
        panel = curve_panel(res, start, stop, size[0])
        with writing(path, rate_of(res, v), size[0], size[1] + PANEL) as write:
            for i in range(start, stop):
                shown, rows = cv2.resize(next(stream), size), slice(first[i - begin], last[i - begin])
                boxes = res.boxes.corners[rows] * np.tile([size[0] / wide, size[1] / high], 2)
                draw_boxes(shown, boxes, res.box_scores[rows], res.limit)
                frame = video.chosen[i - begin]
                when = "" if seconds is None else f"   {events.clock(seconds[frame])}"
                words = f"frame {frame + 1}{when}   score {res.curve[i]:.2f}"
                write(np.concatenate([shown, with_cursor(panel, (i - start + 0.5) / (stop - start), words)]))
                stills |= {i: small_copy(shown)} if i in peaks else {}
                tick()
    next(stream, None)  # at its end it reports damaged frames
    return stills


def small_copy(image):
    """An image as wide as a cell of the picture of all events."""
    high, wide = image.shape[:2]
    return cv2.resize(image, (CELL, round(CELL * high / wide)), interpolation=cv2.INTER_AREA)


@contextlib.contextmanager
def writing(path, rate, width, height):
    """Yields a function that adds an image (height, width, 3) to a video file, which appears once complete."""
    with files.whole(path) as file, av.open(_Disk(file), "w", format="webm") as container:
        stream = container.add_stream("libvpx-vp9", rate=Fraction(rate).limit_denominator(1000), options=QUICK)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        yield lambda image: container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")))
        container.mux(stream.encode())


class _Disk:
    """A file that fails only once: at a second error PyAV would print a traceback."""

    def __init__(self, file):
        self.file, self.tell, self.failed = file, file.tell, False

    def write(self, data):
        return self._try(self.file.write, data)

    def seek(self, *where):
        return self._try(self.file.seek, *where)

    def _try(self, call, *args):
        if self.failed:
            return 0
        self.failed = True
        done = call(*args)
        self.failed = False
        return done


def draw_boxes(image, boxes, scores, limit):
    """Draws boxes (n, 4) in the colours of their scores (n,) on an image, the highest one last, with its score."""
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
