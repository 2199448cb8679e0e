"""Tables of abnormal frame ranges: a line per video or event with its name, first and last."""

import re
from typing import NamedTuple

import numpy as np

from utils import names
from utils.errors import UserError

OTHERS = r".*(fps|rate|frames|length|total|count|duration|width|height)"  # columns whose numbers are neither first nor last


class Range(NamedTuple):
    where: str  # for messages: the file and the line
    video: str
    first: float  # a frame, counted from 1; or a second, from 0
    last: float  # the last abnormal frame; or the second at which it ends
    timed: bool = False  # whether they are seconds


def read_ranges(path, lines, known):
    """The ranges in the lines of a table (`text.rows`): list of Range.

    A line is a video and pairs of first and last, or -1 and -1, or nothing. Whole numbers are frames counted from 1, both
    ends included; h:m:s is a time; under a header with "second" or "time" all are seconds, under one with "frame" 10.0 is
    frame 10. A word before or after the numbers, such as a class, is ignored. The first line is a header if it has no
    number and does not start with a video name. known: name, normalised by `names.same` -> the videos it may stand for.
    Raises UserError with the line number for anything else.
    """
    found, unit = [], ""
    if lines and names.same(lines[0][1][0]) not in known and not any(re.match(r"-?\d", cell) for cell in lines[0][1][1:]):
        unit = " ".join(lines[0][1][1:]).lower()
        if other := [cell for cell in lines[0][1][1:] if re.fullmatch(OTHERS, cell, re.IGNORECASE)]:
            raise UserError(f"{path}: line {lines[0][0]}: column {other[0]} is neither first nor last: remove it")
        lines = lines[1:]
    for number, (name, *cells) in lines:
        videos, where = known.get(names.same(name), ()), f"{path}: line {number}: video {name}"
        if len(videos) != 1:
            there = "no such video; known: " + ", ".join(sorted(set().union(*known.values()))[:20])
            raise UserError(f"{where}: {'several videos have this name' if videos else there}")
        found += [Range(where, *videos, *pair) for pair in _pairs(cells, unit, where)]
    return found


def _pairs(cells, unit, where):
    """(first, last, whether they are seconds) of each event in the cells after a video's name."""
    words = re.sub(r"(?<=\d)(\n[-\u2013]\n| *[-\u2013] *)(?=\d)", "\n", "\n".join(cells).rstrip()).split("\n")  # 10-15: a pair
    while len(words) > 1 and (beside := [k for k in (0, -1) if not re.search(r"\d", words[k])]):
        words.pop(beside[0])
    if words == [""] and len(cells) > 1:
        return []
    pairs = [(_value(a, unit), _value(b, unit)) for a, b in zip(words[::2], words[1::2]) if not a == b == "-1"]
    if len(words) % 2 or any(None in pair or pair[0][1] != pair[1][1] or pair[0] > pair[1] for pair in pairs):
        raise UserError(f"{where}: {', '.join(cells)}: must be pairs of first and last, in frames (from 1) or times (0:01:30); "
                        "seconds and decimal numbers need a header: video,first_second,last_second (or first_frame)")
    return [(first, last, timed) for (first, timed), (last, _) in pairs]


def _value(word, unit):
    """The value of a word, (number, whether it is seconds), or None; unit: the header in lower case."""
    seconds, frames = "sec" in unit or "time" in unit, "frame" in unit
    if time := re.fullmatch(r"(\d{1,4}):([0-5]\d):([0-5]\d(?:[.,]\d{1,9})?)", word):
        return 3600 * int(time[1]) + 60 * int(time[2]) + float(time[3].replace(",", ".")), True
    if not re.fullmatch(r"\d{1,9}([.,]\d{1,9})?", word) or seconds and frames:
        return None
    number = float(word.replace(",", "."))
    return (number, True) if seconds else (int(number), False) if word.isdecimal() or frames and number % 1 == 0 else None


def abnormal(frames, ranges, times=None):
    """Which of a video's frames are in its ranges: (F,) bool.

    frames: their names, in order; times: (F + 1,) seconds at which they begin and the last one ends.
    Raises UserError if a range does not fit.
    """
    flags = np.zeros(len(frames), bool)
    if ranges and names.gap(frames):
        raise UserError(f"{ranges[0].where}: the frame numbers have gaps, so the ranges are ambiguous: restore the missing "
                        "frames, or renumber them")
    for where, video, first, last, timed in ranges:
        if timed and times is None:
            raise UserError(f"{where}: seconds need frames per second, which are unknown: give --fps, or fill in videos.csv")
        if timed:  # first: the frame shown at that time; last: the last one that begins before it
            first = int(np.searchsorted(times, first + 1e-6, "right"))
            last = max(first, int(np.searchsorted(times, last - 1e-6)))
        if not 1 <= first <= last <= len(frames):
            raise UserError(f"{where}: frames {first} to {last} of {video}: the video has {len(frames)} frames, counted from 1")
        flags[first - 1:last] = True
    return flags
