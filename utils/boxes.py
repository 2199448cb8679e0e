"""The foreground boxes of a mode as later stages use them: one row per box, with its image size and block."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils import files, record, stc
from utils.errors import UserError


@dataclass(frozen=True)
class Boxes:
    rows: np.ndarray  # (N, 5) float32: frame, x1, y1, x2, y2, sorted by frame
    num_frames: int  # F, of all videos of the mode
    firsts: tuple  # number of each video's first frame
    sizes: tuple  # (H, W) of each video's frames
    record: dict  # boxes.json

    @classmethod
    def load(cls, folder):
        """The boxes in data/D/MODE. Raises UserError if there are none, or they are not valid for cubes."""
        made, path = record.require(Path(folder, "boxes.json"), "boxes"), Path(folder, "bboxes.npy")
        firsts = tuple(first for _, first, _ in made["videos"])
        return checked(cls(files.load_array(path), made["num_frames"], firsts, made["sizes"], made), path)

    def __len__(self):
        return len(self.rows)

    @property
    def corners(self):
        """(N, 4) x1 y1 x2 y2."""
        return self.rows[:, 1:]

    @property
    def frame(self):
        """(N,) int64 number of each box's frame in the mode."""
        return self.rows[:, 0].astype(np.int64)

    @property
    def video(self):
        """(N,) int64 position of each box's video."""
        return np.searchsorted(self.firsts, self.rows[:, 0], "right") - 1

    @property
    def size(self):
        """(N, 2) H, W of the image that each box is in."""
        return np.asarray(self.sizes)[self.video]

    def block(self, grid):
        """(N,) int64: row * w_block + column of each box in a grid (h_block, w_block)."""
        return stc.block_of(self.corners, self.size, *grid)

    def of_frames(self, first, count):
        """The slice of rows on frames first .. first + count - 1."""
        return slice(*np.searchsorted(self.rows[:, 0], (first, first + count)).tolist())

    def frames_covered(self, first, count):
        """Number of these frames in which a single box covers nearly the whole image."""
        own = self.of_frames(first, count)
        (x1, y1, x2, y2), (height, width) = self.corners[own].T, self.size[own].T
        return len(np.unique(self.rows[own, 0][(x2 - x1) * (y2 - y1) > 0.8 * height * width]))


def checked(boxes, path):
    """The boxes. Raises UserError unless all rows are finite, sorted by frame, and have some pixel in the image."""
    rows = boxes.rows
    fix = "run extract_bbox.py again, or use --boxes_from FILE for boxes from elsewhere"
    if rows.ndim != 2 or rows.shape[1] != 5 or rows.dtype.kind not in "fiu" or not len(rows):
        raise UserError(f"{path}: has shape {rows.shape} and type {rows.dtype}, not (N, 5) numbers: {fix}")
    frame = rows[:, 0]
    if not (np.isfinite(rows).all() and (frame % 1 == 0).all() and (np.diff(frame) >= 0).all()
            and 0 <= frame[0] and frame[-1] < boxes.num_frames and stc.not_empty(boxes.corners, boxes.size).all()):
        raise UserError(f"{path}: rows must be finite, sorted by frame, with frames 0 to {boxes.num_frames - 1} and some "
                        f"pixel inside the image: {fix}")
    return boxes
