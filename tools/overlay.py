"""Films that show a result in motion: results/D/MODE/overlay/VIDEO.webm, which any browser plays.

    python -m tools.overlay D MODE [--video NAME] [--width 640]

Boxes are coloured by score (blue: 0, yellow: an event's threshold, red: twice that), the highest one with its score; below
runs the score's curve, abnormal frames shaded, events marked. VP9 in WebM; where OpenCV has no VP9 encoder, H.264 or AV1.
"""

import argparse
import contextlib
import os
import threading

import cv2
import numpy as np

from tools.pages import pictures, results, summary
from utils import films, frames
from utils.device import workers
from utils.errors import UserError
from utils.evaluation import events
from utils.locks import locked
from utils.run import Clock, progress, run

CODECS = (("VP90", ".webm"), ("avc1", ".mp4"), ("AV01", ".webm"))
PANEL = 120  # height of the curve, in px
QUIET = threading.Lock()
FONT = cv2.FONT_HERSHEY_SIMPLEX
PAPER, INK, BLUE, TRUTH, ORANGE = (250, 250, 250), (48, 36, 29), (168, 95, 31), (213, 209, 245), (15, 130, 217)  # BGR


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    results.add_arguments(parser)
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
    folder, clock = res.path / "overlay", Clock()
    with locked(folder), progress(sum(len(res.dataset.videos[v].chosen) for v in chosen), "frame", "overlay") as bar:
        films = frames.parallel(lambda v: film(res, v, folder / names[v], args.width, bar.update), chosen, workers(-1))
        for path in films:  # an encoder takes one core
            bar.write(f"wrote {path}: {path.stat().st_size / 1e6:.1f} MB", file=None)
    print(f"{len(chosen)} films in {folder}, {clock():,.0f} s")


def film(res, v, path, width, tick):
    """Writes the film of one video, whole or not at all; path: without its suffix. Returns the whole path."""
    path.parent.mkdir(parents=True, exist_ok=True)  # of "Train/01"
    video, (start, stop), (high, wide) = res.dataset.videos[v], res.dataset.spans[v], res.boxes.sizes[v]
    zoom = max(1.0, width / wide)
    size = (int(wide * zoom) // 2 * 2, int(high * zoom) // 2 * 2)  # width, height: encoders want even numbers
    step = video.chosen[1] - video.chosen[0] if len(video.chosen) > 1 else 1
    writer, part, suffix = open_writer(path, (res.rates[v] or 25) / step, (size[0], size[1] + PANEL))
    panel = curve_panel(res, start, stop, size[0])
    numbers = np.asarray(video.chosen) + video.first
    ends = zip(*(np.searchsorted(res.boxes.rows[:, 0], numbers, side) for side in ("left", "right")))
    try:
        stream = frames.load(video, video.chosen, workers(-1), "repeat")
        for i, (frame, (first, last)) in enumerate(zip(stream, ends), start):
            shown = cv2.resize(frame, size)
            boxes = res.boxes.corners[first:last] * np.tile([size[0] / wide, size[1] / high], 2)
            draw_boxes(shown, boxes, res.box_scores[first:last], res.limit)
            words = f"frame {video.chosen[i - start] + 1}   score {res.curve[i]:.2f}"
            writer.write(np.concatenate([shown, with_cursor(panel, (i - start + 0.5) / (stop - start), words)]))
            tick()
        writer.release()
        require_frames(part, len(video.chosen))
        whole = path.with_name(path.name + suffix)
        os.replace(part, whole)
    finally:
        part.unlink(missing_ok=True)
    return whole


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
