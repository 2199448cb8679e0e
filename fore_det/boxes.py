"""The geometry of foreground boxes: confident, uncovered, moving (paper, section 3.1); camera motion and noise."""

import cv2
import numpy as np

NOISY = 4.0  # grey levels of noise above which the gate closes


def confident(detections, score_thr, min_area):
    """Detections with a high enough score and area.

    detections: (n, 5) x1 y1 x2 y2 score. Kept: all finite, score > score_thr and (x2-x1+1)(y2-y1+1) >= min_area; negative
    coordinates then become 0. Returns (m, 4).
    """
    detections = detections[np.isfinite(detections).all(axis=1)]
    boxes, scores = detections[:, :4], detections[:, 4]
    kept = boxes[(scores > score_thr) & (_area(boxes) >= min_area)]
    return np.maximum(kept, 0)


def uncovered(boxes, cover_thr):
    """Boxes that no larger box covers by more than cover_thr of their area, in ascending order of area.

    A larger box counts even if it is itself dropped. (n, 4) -> (m, 4).
    """
    boxes = boxes[np.argsort(_area(boxes), kind="stable")]
    area = _area(boxes)
    width = np.minimum.outer(boxes[:, 2], boxes[:, 2]) - np.maximum.outer(boxes[:, 0], boxes[:, 0]) + 1
    height = np.minimum.outer(boxes[:, 3], boxes[:, 3]) - np.maximum.outer(boxes[:, 1], boxes[:, 1]) + 1
    cover = np.maximum(width, 0) * np.maximum(height, 0) / area[:, None]  # of row's area by column
    return boxes[~np.triu(cover > cover_thr, k=1).any(axis=1)]


def moving(flow, boxes, motion_thr, min_area, margin=2, all_motion_quirk=True, where=True):
    """Boxes around moving pixels outside the given boxes.

    flow: (H, W, 2) pixels per frame; boxes: (n, 4). A pixel moves if u^2 + v^2 > motion_thr. The given boxes, grown
    by margin, are blanked out; each remaining outer contour gives its bounding rectangle, kept if (w+1)(h+1) > min_area
    and neither side is 10 times the other or more, grown by margin and clipped to the image. Returns (m, 4) int64.
    all_motion_quirk: if every pixel moves *and no box blanked any of them out* the result is empty, since the official map
    is then min-max normalised. where: (H, W) bool, the only pixels that may count as moving.
    """
    flow = np.asarray(flow, np.float32)
    height, width = flow.shape[:2]
    moves = ((np.square(flow).sum(axis=2) > motion_thr) & where).astype(np.uint8)
    grown = np.trunc(np.asarray(boxes).reshape(-1, 4) + [-margin, -margin, margin, margin]).astype(np.int64)
    for x1, y1, x2, y2 in np.maximum(grown + [0, 0, 1, 1], 0):  # ends inclusive
        moves[y1:y2, x1:x2] = 0
    if all_motion_quirk and moves.all():
        return np.empty((0, 4), np.int64)
    contours = cv2.findContours(moves, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]
    found = np.array([cv2.boundingRect(contour) for contour in contours], np.int64).reshape(-1, 4)
    x, y, w, h = found[((found[:, 2] + 1) * (found[:, 3] + 1) > min_area)
                       & (found[:, 2] < 10 * found[:, 3]) & (found[:, 3] < 10 * found[:, 2])].T
    return np.stack([np.maximum(x - margin, 0), np.maximum(y - margin, 0),
                     np.minimum(x + w + margin, width), np.minimum(y + h + margin, height)], axis=1)


def camera_motion(flow, step=8, rounds=5):
    """The motion of the camera: (H, W, 2) float32, affine in x and y, fitted to the flow (H, W, 2) of the still background.

    Starting from the median flow, each round fits the pixels close to the last fit: most of the image must be background.
    Motion below half a pixel everywhere, or below the median residual (noise), counts as none.
    """
    height, width = flow.shape[:2]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    terms = np.stack([np.ones_like(x), x / width - 0.5, y / height - 0.5], axis=2)  # (H, W, 3)
    some, values = (field[::step, ::step].reshape(-1, field.shape[2]).astype(np.float32) for field in (terms, flow))
    fit = np.stack([np.median(values, axis=0), (0, 0), (0, 0)]).astype(np.float32)  # (3, 2)
    for _ in range(rounds):
        off = np.linalg.norm(values - some @ fit, axis=1)
        near = off <= max(0.25, 2.5 * np.median(off))
        fit = np.linalg.lstsq(some[near], values[near], rcond=None)[0]
    camera = terms @ fit
    return camera * (np.abs(camera).max() >= max(0.5, np.median(off)))


def noise(image):
    """The standard deviation of an image's noise, in grey levels, from differences that ignore edges (Immerkaer 1996).

    image: (H, W) uint8. Uses the median instead of the mean because of texture.
    """
    rough = cv2.filter2D(image, cv2.CV_32F, np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32))
    return 1.4826 * float(np.median(np.abs(rough))) / 6


def changed(now, after, camera, blur=2.0, sure=4.0, reach=4):
    """Where two frames differ by more than their noise: (H, W) bool, grown by `reach` pixels: moving objects are flat inside.

    now, after: (H, W) uint8; camera: (H, W, 2), by which `after` is moved back. A global brightness change is no difference.
    True everywhere for frames with less noise than NOISY.
    """
    level = noise(now)
    if level < NOISY:
        return np.ones(now.shape, bool)
    y, x = np.mgrid[:now.shape[0], :now.shape[1]].astype(np.float32)
    back = cv2.remap(after, x + camera[..., 0], y + camera[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    difference = cv2.GaussianBlur(now.astype(np.float32) - back, (0, 0), blur)
    difference = np.abs(difference - np.median(difference))
    left = level * 2 ** 0.5 / (2 * np.pi ** 0.5 * blur)  # noise of a difference, after the blur
    return cv2.dilate((difference > sure * left).astype(np.uint8), np.ones((2 * reach + 1,) * 2, np.uint8)) > 0


def _area(boxes):
    return (boxes[:, 2] - boxes[:, 0] + 1) * (boxes[:, 3] - boxes[:, 1] + 1)
