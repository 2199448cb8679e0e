"""Spatio-temporal cubes: how they are cropped, and the image block that a box belongs to (paper, section 3.1)."""

import cv2
import numpy as np


def corners(boxes, size):
    """Whole-pixel corners of boxes inside the image: ends of the slices [y1:y2, x1:x2].

    boxes: (n, 4) x1 y1 x2 y2; size: (H, W), or one row each (n, 2). Returns (n, 4) int64.
    """
    height, width = np.asarray(size).T
    limits = np.stack([width, height] * 2, axis=-1)
    return np.ceil(np.asarray(boxes, np.float64)).clip(0, limits).astype(np.int64)


def not_empty(boxes, size):
    """(n, 4) boxes -> (n,) bool: whether the whole-pixel corners contain any of the image."""
    x1, y1, x2, y2 = corners(boxes, size).T
    return (x2 > x1) & (y2 > y1)


def crop(frames, box, patch_size):
    """One cube, (T * C, P, P): see `crops`. box: x1 y1 x2 y2."""
    return crops(frames, np.asarray(box)[None, :4], patch_size)[0]


def crops(frames, boxes, patch_size):
    """A cube for each box: the box cut out of every frame, resized bilinearly.

    frames: T arrays (H, W, C), uint8 or floats; boxes: (n, 4) x1 y1 x2 y2.
    Returns (n, T * C, P, P) in the frames' type, contiguous, channels frame by frame (frame 0's B, G, R, frame 1's ...).
    Raises ValueError if a crop is empty.
    """
    height, width, channels = frames[0].shape
    exact = np.float32 if frames[0].dtype == np.float16 else frames[0].dtype  # cv2.resize does not support float16
    patches = np.empty((len(boxes), len(frames), patch_size, patch_size, channels), exact)
    for cube, box, (x1, y1, x2, y2) in zip(patches, boxes, corners(boxes, (height, width)).tolist()):
        if x2 <= x1 or y2 <= y1:
            raise ValueError(f"box {tuple(box)} has no pixel inside a {height}x{width} image")
        for patch, frame in zip(cube, frames):
            cv2.resize(frame[y1:y2, x1:x2].astype(exact, copy=False), (patch_size, patch_size), dst=patch)
    cubes = patches.transpose(0, 1, 4, 2, 3).astype(frames[0].dtype, "C")  # (n, T, C, P, P)
    return cubes.reshape(len(boxes), -1, patch_size, patch_size)


def block_of(boxes, size, h_block, w_block):
    """The block that each box belongs to, by its centre; a centre on or beyond an edge belongs to the nearest block.

    boxes: (n, 4); size: (H, W), or one row each (n, 2). Returns (n,) int64: row * w_block + column.
    """
    height, width = np.asarray(size, np.float64).T
    x1, y1, x2, y2 = np.asarray(boxes, np.float64).reshape(-1, 4).T
    row = ((y1 + y2) / 2 / (height / h_block)).astype(np.int64)
    column = ((x1 + x2) / 2 / (width / w_block)).astype(np.int64)
    return np.clip(row, 0, h_block - 1) * w_block + np.clip(column, 0, w_block - 1)
