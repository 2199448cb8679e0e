"""Events: the stretches of a video whose score is above a threshold, each with its peak and the box there."""

import numpy as np

from utils.datasets import times
from utils.files import save_csv
from utils.metrics import NO_BOX, average_within

COLUMNS = ("video", "first_frame", "last_frame", "peak_frame", "peak_score", "x1", "y1", "x2", "y2",
           "first_second", "last_second")


def curve(frame_scores, spans, window_size):
    """The frame scores averaged over window_size frames, each video by itself: what events and pictures are taken from.

    frame_scores: (S,) of all videos in a row; spans: (start, stop) of each video in it. Unlike the official moving
    average, the window ends where the video ends (`metrics.average_within`), and a frame without boxes counts as 0 (the
    average training cube) in place of -20, so that one missed box does not split an event. Returns (S,) float64.
    """
    scores = np.where(frame_scores <= NO_BOX, 0, frame_scores).astype(np.float64)
    smooth = np.empty_like(scores)
    for start, stop in spans:
        smooth[start:stop] = average_within(scores[start:stop], window_size)
    return smooth


def threshold(scores, z, share):
    """The score that an event exceeds: z, or with share > 0 the score that this share of all frames exceeds."""
    return float(np.quantile(scores, 1 - share)) if share > 0 else float(z)


def runs(flags, spans):
    """Stretches of True that don't cross the spans' borders: list of (start, stop)."""
    found = []
    for start, stop in spans:
        edges = np.flatnonzero(np.diff(np.concatenate([[False], flags[start:stop], [False]]).astype(np.int8)))
        found += [(int(start + a), int(start + b)) for a, b in edges.reshape(-1, 2)]
    return found


def closed(flags, gap, spans):
    """The same flags (S,), True as well in gaps of fewer than `gap` frames within a video."""
    flags, ends = flags.copy(), set(np.ravel(spans))
    for start, stop in runs(~flags, spans):
        flags[start:stop] = stop - start < gap and not {start, stop} & ends
    return flags


def highest_rows(box_scores, boxes, numbers):
    """The row of the highest box of each frame, -1 where it has none.

    box_scores: (N,); boxes: (N, 5) sorted by frame; numbers: (S,) frame numbers, ascending. Returns (S,) int64.
    """
    frame = boxes[:, 0].astype(np.int64)
    order = np.lexsort((box_scores, frame))  # by frame, the highest score last
    last = np.searchsorted(frame[order], numbers, "right") - 1
    there = last >= 0
    there[there] = frame[order[last[there]]] == np.asarray(numbers)[there]
    return np.where(there, order[last], -1)


def find(scores, limit, gap, rows, boxes, spans):
    """The events in order: where the averaged scores are above the limit, with gaps of fewer than `gap` frames closed.

    scores: (S,) averaged, see `curve`; rows: (S,) the highest box of each frame; boxes: (N, 5); spans: (start, stop) of each
    video in S. Returns dicts of start, stop (indices into S), video (position), peak (index of the highest averaged score),
    score (there) and box (the highest of that frame, or of the nearest one in the event that has any; x1 y1 x2 y2 or None).
    """
    starts, found = [start for start, _ in spans], []
    for start, stop in runs(closed(scores > limit, gap, spans), spans):
        peak = start + int(np.argmax(scores[start:stop]))
        near = min((i for i in range(start, stop) if rows[i] >= 0), key=lambda i: abs(i - peak), default=None)
        found.append({"start": start, "stop": stop, "video": int(np.searchsorted(starts, start, "right")) - 1,
                      "score": float(scores[peak]), "peak": peak,
                      "box": None if near is None else boxes[rows[near], 1:].tolist()})
    return found


def save(path, events, dataset, spans):
    """Writes events.csv: frames counted from 1 within their video, seconds from 0 where they are known; peak_score is the
    highest averaged score, peak_frame its frame, whose highest box is given.
    """
    rows = []
    for event in events:
        video, (start, _) = dataset.videos[event["video"]], spans[event["video"]]
        shown = times(video)
        first, last, peak = (video.chosen[i - start] + 1 for i in (event["start"], event["stop"] - 1, event["peak"]))
        box = [round(side, 1) for side in event["box"]] if event["box"] else [""] * 4
        seconds = ["", ""] if shown is None else np.round(shown[[first - 1, last]], 2).tolist()
        rows.append(dict(zip(COLUMNS, [video.name, first, last, peak, round(event["score"], 3), *box, *seconds])))
    save_csv(path, rows, COLUMNS)
