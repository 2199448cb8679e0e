"""Region-based and track-based detection (RBDC, TBDC), from unsmoothed box scores.

Street Scene: A New Dataset and Evaluation Protocol for Video Anomaly Detection, Ramachandra and Jones, WACV 2020.
"""

from collections import Counter
from typing import NamedTuple

import cv2
import numpy as np

from utils import text
from utils.errors import UserError
from utils.evaluation import bootstrap

BETA = 0.1  # a detection matches a region if their IoU is at least this
ALPHA = 0.1  # a track is detected if at least this share of its regions is


class Regions(NamedTuple):
    """The true anomalous regions of a mode's frames."""

    boxes: np.ndarray  # (M, 5) frame x1 y1 x2 y2, corners inclusive
    track: np.ndarray  # (M,) int, from 0: the track of each region


def joined(parts, firsts):
    """Regions of several videos. parts: per video (n, 6) rows of track, frame from 0, x1, y1, x2, y2; firsts: the number
    of each video's first frame.
    """
    video, rows = np.repeat(np.arange(len(parts)), [len(part) for part in parts]), np.concatenate(parts)
    track = np.unique(np.column_stack([video, rows[:, 0]]), axis=0, return_inverse=True)[1].ravel()
    return Regions(np.column_stack([rows[:, 1] + np.take(firsts, video), rows[:, 2:]]), track)


def read_tracks(path, frames):
    """(n, 6) regions of a video with `frames` frames, from a file with lines of track, frame (from 0), x1, y1, x2, y2.

    Numbers are separated by commas or blanks; a video without anomalies has an empty file. If lines have the same track and
    frame the last one counts, as in the code of the ShanghaiTech annotations.
    Raises UserError if the file is missing or a line is not such a region.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file: every testing video needs a file of tracks (empty if it has none)")
    lines, found = text.rows(path), {}
    for line, cells in lines:
        try:
            track, frame, x1, y1, x2, y2 = map(float, cells)
        except ValueError:
            track = frame = np.nan  # not a region
        if not (track % 1 == frame % 1 == 0 and x1 <= x2 < np.inf and y1 <= y2 < np.inf):
            raise UserError(f"{path}: line {line} is {' '.join(cells)}: must be six numbers: track, frame (from 0), x1, y1, "
                            "x2, y2, with x1 <= x2 and y1 <= y2")
        if not 0 <= frame < frames:
            raise UserError(f"{path}: line {line}: the frame must be 0 to {frames - 1}")
        found[track, frame] = (track, frame, x1, y1, x2, y2)
    if len(found) < len(lines):
        print(f"note: {path}: {len(lines) - len(found)} lines repeat a track in the same frame; the last line counts")
    return np.array(list(found.values())).reshape(-1, 6)


def from_masks(masks):
    """(n, 6) regions of a video, as from `read_tracks`, from its pixel masks: connected parts. A part continues the track of
    the part in the previous frame that it overlaps most. These are not the published tracks.

    masks: (H, W) per frame, nonzero where abnormal.
    """
    found, before, tracks = [np.empty((0, 6))], 0, 0  # before: the track of each pixel one frame ago
    for frame, mask in enumerate(masks):
        count, parts, stats, _ = cv2.connectedComponentsWithStats(np.uint8(np.asarray(mask) != 0))
        names = np.zeros(count, int)  # the track of each part, from 1; part 0 is the background
        before = np.broadcast_to(before, parts.shape)
        both = (parts > 0) & (before > 0)
        for (part, name), _ in Counter(zip(parts[both].tolist(), before[both].tolist())).most_common():
            if names[part] == 0 and name not in names:
                names[part] = name
        new = np.flatnonzero(names[1:] == 0) + 1
        names[new] = tracks + 1 + np.arange(len(new))
        tracks += len(new)
        before = names[parts]
        left, top, width, height = stats[1:, :4].T
        found.append(np.column_stack([names[1:], np.full(count - 1, frame), left, top, left + width - 1, top + height - 1]))
    return np.concatenate(found)


def overlaps(detections, regions):
    """All pairs of a detection and a region in the same frame: their rows, and their IoU.

    detections: (N, 5), regions: (M, 5) frame x1 y1 x2 y2, detections sorted by frame; areas with +1 on both sides.
    """
    low, high = (np.searchsorted(detections[:, 0], regions[:, 0], side) for side in ("left", "right"))
    counts = high - low
    region = np.repeat(np.arange(len(regions)), counts)
    detection = np.arange(len(region)) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(low, counts)
    a, b = detections[detection, 1:], regions[region, 1:]
    inner = np.clip(np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]) + 1, 0, None).prod(axis=1)
    union = (a[:, 2:] - a[:, :2] + 1).prod(axis=1) + (b[:, 2:] - b[:, :2] + 1).prod(axis=1) - inner
    return detection, region, inner / union


def evaluate(detections, scores, regions, counts, times=bootstrap.TIMES):
    """RBDC and TBDC with their 95% intervals over videos.

    detections: (N, 5) frame x1 y1 x2 y2, sorted by frame; scores: (N,); regions: Regions; counts: (V,) frames of each
    testing video; frames are numbered from 0 across all of them. A region is detected at a threshold if a detection
    with at least that score matches it; a detection that matches no region is a false positive. The curve is the share
    of regions (tracks) detected against false positives per frame; its area is taken from 0 to 1, extended flat. Detections
    with equal scores pass a threshold together (in the original one after another, so that their order matters).
    Returns {"rbdc", "rbdc_low", "rbdc_high", "tbdc", ...}. Raises UserError if there are no regions.
    """
    if not len(regions.boxes):
        raise UserError("there are no true regions, so RBDC and TBDC are undefined")
    detection, region, iou = overlaps(detections, regions.boxes)
    meets = iou >= BETA
    found_at = np.full(len(regions.boxes), -np.inf)  # the highest threshold at which a region is detected
    np.maximum.at(found_at, region[meets], scores[detection[meets]])
    false = np.ones(len(detections), bool)
    false[detection[meets]] = False
    tracks_at, first_region = of_tracks(found_at, regions.track)
    def video_of(rows):
        return np.searchsorted(np.cumsum(counts), rows[:, 0], "right")
    drawn, of_false, result = bootstrap.resamples(len(counts), times), video_of(detections[false]), {}
    for name, hits, of_hits in (("rbdc", found_at, video_of(regions.boxes)),
                                ("tbdc", tracks_at, video_of(regions.boxes[first_region]))):
        result[name] = float(areas(scores[false], hits, 0, 0, np.array([sum(counts)]), np.ones((1, 1)))[0])
        resampled = areas(scores[false], hits, of_false, of_hits, np.asarray(counts), drawn)
        result[f"{name}_low"], result[f"{name}_high"] = bootstrap.interval(result[name], resampled, len(counts))
    return result


def of_tracks(found_at, track):
    """The highest threshold at which each track is detected, (tracks,), and one region of each."""
    order = np.lexsort((-found_at, track))
    _, first, counts = np.unique(track[order], return_index=True, return_counts=True)
    needed = np.ceil(ALPHA * counts - 1e-9).astype(int)
    return found_at[order][first + needed - 1], order[first]


def areas(false_scores, hits, video_of_false, video_of_hits, counts, drawn):
    """Areas under the curves of resampled videos: (R,), NaN where a resample has nothing to detect.

    false_scores: of the false positives; hits: threshold at which each region or track is detected; then the video of each,
    or 0 for all together; counts: (V,) frames per video; drawn: (R, V).
    """
    thresholds = np.unique(np.concatenate([false_scores, hits[np.isfinite(hits)]]))[::-1]
    thresholds = bootstrap.thinned(thresholds) if drawn.shape[1] > 1 else thresholds
    curves = [bootstrap.passing(values, video, thresholds, drawn)
              for values, video in ((false_scores, video_of_false), (hits, video_of_hits))]
    of_all = drawn @ np.bincount(np.broadcast_to(video_of_hits, len(hits)), minlength=drawn.shape[1])
    with np.errstate(invalid="ignore", divide="ignore"):
        x, y = curves[0] / (drawn @ counts)[:, None], curves[1] / of_all[:, None]
        inside = np.nan_to_num(np.diff(np.minimum(x, 1)) / np.diff(x))  # the part of each step left of 1
    x = np.minimum(x, 1)
    return np.sum(np.diff(x) * (y[:, :-1] + inside * np.diff(y) / 2), axis=1) + (1 - x[:, -1]) * y[:, -1]
