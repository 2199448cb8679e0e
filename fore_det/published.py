"""Reads published foreground boxes from their files."""

from pathlib import Path

import numpy as np

from utils.errors import UserError
from utils.files import load_object_array


def read_boxes(path, num_frames):
    """The boxes in a `.npy` file as rows (N, 5) float32: frame, x1, y1, x2, y2, sorted by frame.

    The file has one (n, 4) or (n, 5) array for each of the num_frames frames (an object array, or a plain (F, n, 4)
    one if all frames have equally many), or rows (N, 5) of frame, x1, y1, x2, y2. A fifth value of a box (its
    score) is ignored. Raises UserError if it has anything else, or boxes for another number of frames.
    """
    if Path(path).suffix != ".npy":
        raise UserError(f"{path}: must be a .npy file: one (n, 4) array of x1 y1 x2 y2 per frame, or rows (N, 5) of frame, "
                        "x1, y1, x2, y2 (python -m tools.convert boxes converts COCO's .json)")
    array = load_object_array(path)
    if array.ndim == 2 and array.shape[1] == 5 and array.dtype != object:
        rows = np.asarray(array, np.float32)
        _require_finite(rows, path)
        outside = (rows[:, 0] < 0) | (rows[:, 0] >= num_frames) | (rows[:, 0] % 1 != 0)
        if outside.any():
            raise UserError(f"{path}: row {outside.argmax()} is for frame {rows[outside.argmax(), 0]:g}, "
                            f"but the frames here are 0 to {num_frames - 1}: use boxes of this dataset and mode")
        return rows[np.argsort(rows[:, 0], kind="stable")]
    if array.ndim not in (1, 3) or array.ndim == 1 and array.dtype != object:
        raise UserError(f"{path}: has shape {array.shape}, {array.dtype}: must be an (n, 4) array per frame or (N, 5) rows")
    if len(array) != num_frames:
        raise UserError(f"{path}: has boxes for {len(array)} frames, but there are {num_frames} here: "
                        "use boxes of this dataset and mode")
    counts, boxes = [], []
    for i, found in enumerate(array):
        try:
            found = np.asarray(found, np.float32)
        except (TypeError, ValueError):
            raise UserError(f"{path}: the boxes of frame {i} are not an array of numbers") from None
        if found.size == 0:
            found = np.empty((0, 4), np.float32)
        if found.ndim != 2 or found.shape[1] not in (4, 5):
            raise UserError(f"{path}: the boxes of frame {i} have shape {found.shape}, not (n, 4)")
        counts.append(len(found))
        boxes.append(found[:, :4])
    rows = np.column_stack([np.repeat(np.arange(num_frames, dtype=np.float32), counts), np.concatenate(boxes)])
    _require_finite(rows, path)
    return rows


def require_geometry(rows, videos, path):
    """Checks that boxes are corners in pixels of these frames. rows: (N, 5); videos: (first frame, frames, (H, W)) of each.

    Raises UserError if they are in another form or for another frame size; warns if they may be.
    """
    sizes = np.zeros((len(rows), 2))
    for first, count, size in videos:
        sizes[(rows[:, 0] >= first) & (rows[:, 0] < first + count)] = size
    if not sizes.any():
        return  # no box in these videos
    (high, wide), (x1, y1, x2, y2) = sizes[sizes[:, 0] > 0].T, rows[sizes[:, 0] > 0, 1:].T
    flipped, outside = (x2 < x1) | (y2 < y1), (x2 > wide + 2) | (y2 > high + 2)
    problems = {
        "all values are at most 1, like shares of the frame": max(x1.max(), x2.max(), y2.max()) <= 1.5,
        "the first of four values is never above 1, like a score": (x1 <= 1).all() and (x2 > 1).any(),
        f"in {flipped.sum():,} of {len(x1):,} the second corner is left of or above the first, like x y width height":
            flipped.mean() > 1 / 3,
        f"{outside.sum():,} of {len(x1):,} are partly outside the frame, like those of a larger frame or y x y x":
            outside.mean() > 1 / 3}
    wrong = next((words for words, found in problems.items() if found), None)
    size = "{1:g}x{0:g}".format(*sizes.max(axis=0))
    if wrong:
        raise UserError(f"{path}: {wrong}: must be x1 y1 x2 y2 in pixels of these frames, {size} (width x height)")
    if (x2 <= wide / 2).all() and (y2 <= high / 2).all():
        print(f"warning: {path}: all boxes are in the upper left quarter of the frames, {size} (width x height): are they "
              "for frames half as large?")


def _require_finite(rows, path):
    bad = ~np.isfinite(rows).all(axis=1)
    if bad.any():
        raise UserError(f"{path}: {bad.sum()} boxes have values that are not finite, the first in frame "
                        f"{rows[bad.argmax(), 0]:g}: remove them")
