"""Events: the stretches of a video whose score is above a threshold, each with its peak and the box there."""

import itertools

import numpy as np

from utils.datasets import times
from utils.files import save_csv
from utils.metrics import NO_BOX, average_within

COLUMNS = ("video", "first_frame", "last_frame", "peak_frame", "peak_score", "x1", "y1", "x2", "y2",
           "first_second", "last_second", "first_time", "last_time")


def curve(frame_scores, spans, window_size):
    """The scores that events and pictures use: averaged over window_size frames within each video.

    Unlike the official moving average, the window ends where the video ends, and a frame without boxes counts as 0 (the
    average training cube) instead of -20, so that one missed box does not split an event.
    frame_scores: (S,) of all videos in a row; spans: (start, stop) of each video in S. Returns (S,) float64.
    """
    scores = np.where(frame_scores <= NO_BOX, 0, frame_scores).astype(np.float64)
    return np.concatenate([average_within(scores[start:stop], window_size) for start, stop in spans])


def threshold(scores, z, share):
    """The score that events must exceed: z, or with share > 0 the score that this share of all frames exceeds."""
    return float(np.quantile(scores, 1 - share)) if share > 0 else float(z)


def runs(flags, spans, gap=0):
    """The stretches of True within each video, merged if fewer than `gap` frames apart: list of (start, stop)."""
    found = []
    for start, stop in spans:
        edges = start + np.flatnonzero(np.diff(np.pad(flags[start:stop].astype(np.int8), 1)))
        starts, stops = edges[::2], edges[1::2]
        close = np.flatnonzero(starts[1:] - stops[:-1] < gap)
        found += zip(np.delete(starts, close + 1).tolist(), np.delete(stops, close).tolist())
    return found


def highest_rows(box_scores, boxes, numbers):
    """The row of each frame's highest box, -1 without any: (S,) int64.

    box_scores: (N,); boxes: (N, 5); numbers: (S,) frame numbers.
    """
    frame, order = boxes[:, 0].astype(np.int64), np.argsort(box_scores, kind="stable")
    rows = np.full(max(frame.max(initial=0), np.max(numbers)) + 1, -1)
    rows[frame[order]] = order  # for equal indices the last one, the highest, stays
    return rows[numbers]


def find(scores, limit, gap, rows, boxes, spans):
    """The events in order: where the averaged scores are above the limit; gaps of fewer than `gap` frames are closed.

    scores: (S,) from `curve`; rows: (S,) from `highest_rows`; boxes: (N, 5); spans: (start, stop) of each video in S.
    Returns dicts of start, stop (indices into S), video (position), peak (index of the highest averaged score), score (there)
    and box (x1 y1 x2 y2, the highest of the peak's frame, else of the nearest frame in the event that has one, else None).
    """
    found = []
    for video, span in enumerate(spans):
        for start, stop in runs(scores > limit, [span], gap):
            peak = start + int(np.argmax(scores[start:stop]))
            near = min((i for i in range(start, stop) if rows[i] >= 0), key=lambda i: abs(i - peak), default=None)
            found.append({"start": start, "stop": stop, "video": video, "peak": peak, "score": float(scores[peak]),
                          "box": None if near is None else boxes[rows[near], 1:].tolist()})
    return found


def of_run(frame_scores, box_scores, boxes, dataset, window_size):
    """`curve` (S,), `highest_rows` (S,), and a function that finds the events above a threshold (`find`)."""
    scores = curve(frame_scores, dataset.spans, window_size)
    rows = highest_rows(box_scores, boxes, dataset.chosen)
    return scores, rows, lambda limit: find(scores, limit, window_size, rows, boxes, dataset.spans)


def around(found, span, rest):
    """(start, stop) of a video's events with up to `rest` more frames on each side, at most half way to the next event."""
    cuts = [span[0], *((a["stop"] + b["start"]) // 2 for a, b in itertools.pairwise(found)), span[1]]
    return [(max(low, event["start"] - rest), min(high, event["stop"] + rest))
            for event, low, high in zip(found, cuts, cuts[1:])]


def clock(seconds):
    """75.3 -> "0:01:15"."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def row(event, dataset):
    """An event's line in events.csv: frames from 1 within their video, seconds and h:m:s from 0 if known."""
    video, start = dataset.videos[event["video"]], dataset.spans[event["video"]][0]
    shown = times(video)
    first, last, peak = (video.chosen[i - start] + 1 for i in (event["start"], event["stop"] - 1, event["peak"]))
    box = [round(side, 1) for side in event["box"]] if event["box"] else [""] * 4
    seconds = [] if shown is None else np.round(shown[[first - 1, last]], 2).tolist()
    when = [*seconds, *map(clock, seconds)] or [""] * 4
    return dict(zip(COLUMNS, [video.name, first, last, peak, round(event["score"], 3), *box, *when]))


def save(path, events, dataset):
    """Writes events.csv."""
    save_csv(path, [row(event, dataset) for event in events], COLUMNS)
