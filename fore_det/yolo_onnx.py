"""YOLO object detectors in ONNX files, run by OpenCV on the CPU.

    layout  written by               output          columns                                       network input
    yolox   YOLOX                    (1, N, 5 + C)   cx cy w h of the cell, objectness, classes    BGR 0..255, frame top left
    yolov5  YOLOv5, YOLOv7           (1, 3N, 5 + C)  cx cy w h in pixels, objectness, classes      RGB 0..1, frame centred
    yolov8  YOLOv8, v11 and others   (1, 4 + C, N)   cx cy w h in pixels, classes                  RGB 0..1, frame centred
    nms     these with NMS inside    (1, K, 6)       x1 y1 x2 y2 in pixels, score, class           RGB 0..1, frame centred

N is the number of cells in the grids of stride 8, 16 and 32, C the number of classes. A file does not name its layout: it
is recognised by these shapes and the range of the values, or refused.
"""

import re

import cv2
import numpy as np

from utils.errors import UserError
from utils.files import size as size_of

STRIDES = (8, 16, 32)
PAD = 114          # grey level around the frame, in all families
IOU = 0.45         # for the suppression within each class
CANDIDATES = 1000  # that enter the suppression, those with the highest scores


class Yolo:
    """The detector in an ONNX file: (H, W, 3) uint8 BGR image -> (n, 5) float32 x1 y1 x2 y2 score, in its pixels.

    scale: length to which an image's long side is resized, if the file does not fix its input size.
    Raises UserError if OpenCV cannot read the file, or the network is not in the table; also later, if its output does not
    fit its layout.
    """

    def __init__(self, path, scale=640):
        self.path, self.scale, self.layout = path, scale, None
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # errors are raised anyway
        size_of(path)  # UserError if there is no file
        try:
            self.net = cv2.dnn.readNetFromONNX(np.fromfile(path, np.uint8), cv2.dnn.ENGINE_NEW)
            self.size = self._input_size(self.net.dump())  # (H, W), None if not fixed
            height, width = self.size or (-(-scale // 32) * 32,) * 2
            shape = self._forward(np.zeros((1, 3, height, width), np.float32)).shape
        except (cv2.error, ValueError) as error:
            raise UserError(f"{path}: OpenCV cannot use this as an ONNX network ({one_line(error)})") from None
        self.layout = layout_of(shape, height, width)
        if self.layout is None:
            self._refuse(f"its output is {shape} for an input of {height}x{width}")
        self(np.full((height, width, 3), PAD, np.uint8))  # checks the values against the layout

    def _refuse(self, found):
        raise UserError(f"{self.path}: {found}: use a YOLOX (not decoded), YOLOv5, YOLOv8 or YOLOv11 detector as written by "
                        "its own exporter, with float32 input and batch 1")

    def _input_size(self, dump):
        """(H, W) of the input, or None if not fixed; OpenCV gives it only in its text dump of a network."""
        inputs = re.findall(r'" // <Input> (\w+) \[(.*?)\]', dump.partition("layers:")[0])
        kind, shape = inputs[0] if len(inputs) == 1 else ("", "")
        sides = [int(side) if side.isdecimal() else None for side in shape.split(" x ")]
        if kind != "CV_32FC1" or len(sides) != 4 or sides[0] not in (1, None) or sides[1] not in (3, None):
            self._refuse(f"its input is {', '.join(' '.join(one) for one in inputs) or 'none'}")
        return None if None in sides[2:] else tuple(sides[2:])

    def _forward(self, blob):
        """(1, 3, H, W) float32 -> the output."""
        self.net.setInput(blob)
        outputs = self.net.forward(self.net.getUnconnectedOutLayersNames())
        if len(outputs) != 1:
            self._refuse(f"it has {len(outputs)} outputs, {', '.join(str(one.shape) for one in outputs)}")
        return outputs[0]

    def __call__(self, image):
        yolox = self.layout == "yolox"
        blob, factor, corner = letterbox(image, self.size, self.scale, centred=not yolox)  # (H, W, 3)
        height, width = blob.shape[:2]
        blob = cv2.dnn.blobFromImage(blob, 1 if yolox else 1 / 255, swapRB=not yolox)
        try:
            found = decode(self._forward(blob), self.layout, height, width)
        except (cv2.error, ValueError) as error:
            self._refuse(f"its output does not fit the layout {self.layout} ({one_line(error)})")
        found[:, :4] = (found[:, :4] - [*corner, *corner]) / factor
        return found[:, :5] if self.layout == "nms" else found[suppressed(*np.split(found, (4, 5), axis=1)), :5]


def layout_of(shape, height, width):
    """The layout (see above) of an output of this shape for an input of height x width, or None."""
    cells = sum((height // stride) * (width // stride) for stride in STRIDES)
    if len(shape) != 3 or shape[0] != 1:
        return None
    if shape[1] in (cells, 3 * cells) and shape[2] > 5:
        return "yolox" if shape[1] == cells else "yolov5"
    if shape[2] == cells and shape[1] > 4:
        return "yolov8"
    return "nms" if shape[2] == 6 else None


def letterbox(image, size, scale, centred):
    """An image with its aspect ratio kept, on a grey one of the network's size, as in the YOLO projects' own code.

    size: (H, W), or None: then the long side becomes `scale`, and the sides are padded to multiples of 32.
    Returns (H, W, 3) uint8, the factor, and the corner (x, y) of the image in it.
    """
    height, width = image.shape[:2]
    factor = min(size[0] / height, size[1] / width) if size else scale / max(height, width)
    w, h = (round(side * factor) if centred else int(side * factor + 1e-6) for side in (width, height))
    right, below = (size[1] - w, size[0] - h) if size else (-w % 32, -h % 32)
    left, top = (round(right / 2 - 0.1), round(below / 2 - 0.1)) if centred else (0, 0)
    border = (top, below - top, left, right - left)
    padded = cv2.copyMakeBorder(cv2.resize(image, (w, h)), *border, cv2.BORDER_CONSTANT, value=[PAD] * 3)
    return padded, factor, (left, top)


def decode(output, layout, height, width):
    """The output of a network for an input of height x width -> (n, 6) x1 y1 x2 y2 score class in pixels of the input.

    Raises ValueError if a value is not finite, a score is not in 0..1, or YOLOX's boxes are already decoded.
    """
    rows = output[0].T if layout == "yolov8" else output[0]  # (n, columns)
    chances = rows[:, 4:5] if layout == "nms" else rows[:, 4:]
    if not (np.isfinite(rows).all() and chances.min() >= 0 and chances.max() <= 1.001):
        raise ValueError("scores must be 0 to 1, all values finite")
    if layout == "nms":
        return rows.astype(np.float32)
    classes, middle, sides = chances[:, layout != "yolov8":], rows[:, :2], rows[:, 2:4]
    if layout == "yolox":
        if middle.max() > max(height, width) / 2:
            raise ValueError("its boxes are already decoded, or it is damaged")
        cells, strides = grid(height, width)
        middle, sides = (middle + cells) * strides, np.exp(sides) * strides
    scores = classes.max(axis=1) * (1 if layout == "yolov8" else chances[:, 0])
    return np.column_stack([middle - sides / 2, middle + sides / 2, scores, classes.argmax(axis=1)]).astype(np.float32)


def grid(height, width):
    """For each cell, row by row, one stride after another: (N, 2) column and row, (N, 1) stride."""
    cells = [np.indices((height // stride, width // stride)).reshape(2, -1)[::-1].T for stride in STRIDES]
    return np.concatenate(cells), np.repeat(STRIDES, [len(of_stride) for of_stride in cells])[:, None]


def suppressed(boxes, scores, classes):
    """Rows left after suppression within each class: (n, 4), (n, 1), (n, 1) -> (m,) row numbers, by falling score."""
    xywh = np.column_stack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]]).astype(np.float64)
    kept = cv2.dnn.NMSBoxesBatched(xywh, scores.ravel(), classes.ravel().astype(int), 0.0, IOU, top_k=CANDIDATES)
    return np.asarray(kept, int)


def one_line(error):
    """OpenCV's error message, without the position in its own code."""
    return " ".join(str(getattr(error, "err", error)).split())[:200]
