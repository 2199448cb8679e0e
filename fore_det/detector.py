"""Object detectors, each as one function: a batch of frames -> their detections."""

import functools
import math
from pathlib import Path

import cv2
import numpy as np

from utils.device import InParts
from utils.errors import UserError
from utils.files import identity

CHECKPOINTS = Path(__file__).resolve().parent / "obj_det_checkpoints"
OVERLAP = 0.2  # of neighbouring tiles, as a share of a tile
YOLOV3 = {608: "yolov3_d53_mstrain-608_273e_coco-139f5633.pth", 320: "yolov3_d53_320_273e_coco-421362b6.pth"}


def weights_file(word, given, scale):
    """The weights file that a detector reads, or None. Raises UserError if the official one is missing."""
    if _parts(word)[0] in ("onnx", "mmdet") and given:
        raise UserError(f"--detector_weights {given}: --detector {word} already names its weights: omit this flag")
    if word != "yolov3" or given:
        return Path(given) if given else None
    if scale not in YOLOV3:
        raise UserError(f"--detector_scale {scale}: published weights exist for {' and '.join(map(str, YOLOV3))}: "
                        "give other weights with --detector_weights")
    path = CHECKPOINTS / YOLOV3[scale]
    if not path.is_file():
        raise UserError(f"{path}: no YOLOv3 weights: fetch them with python -m tools.download_weights yolov3, "
                        "or use --detector none (only motion boxes), which needs none")
    return path


def at_hand(scale):
    """The word for a detector whose weights are present: yolov3, else YOLOX-nano, else none."""
    nano = CHECKPOINTS / "yolox_nano.onnx"
    return "yolov3" if (CHECKPOINTS / YOLOV3[scale]).is_file() else f"onnx:{nano}" if nano.is_file() else "none"


def source(boxes_from, word, given, scale, known=None):
    """What boxes come from, as file names and the SHA-256 of their contents, for the record; empty for motion boxes only.

    boxes_from: a file of boxes, then the only source, or ""; known: the input in an earlier record, trusted if the
    weights are not here (boxes made on another machine). Raises UserError if a file is missing.
    """
    if boxes_from:
        return {"boxes_from": identity(boxes_from)}
    if word == "none":
        return {}
    try:
        path, (kind, rest) = weights_file(word, given, scale), _parts(word)
        return {"weights": [identity(file) for file in ([path] if path else rest if kind in ("mmdet", "onnx") else [])]}
    except UserError:
        if "weights" not in (known or {}):
            raise
        return {"weights": known["weights"]}


class Detector:
    """A detector: list of (H, W, 3) uint8 BGR images of one size -> list of (n, 5) x1 y1 x2 y2 score.

    prepare: work on a single image that any thread can do; find: list of prepared images -> the result; batch: how many
    images at once.
    """

    def __init__(self, find, prepare=lambda image: image, batch=1):
        self.find, self.prepare, self.batch = InParts(find, batch), prepare, batch

    def __call__(self, images):
        return self.find([self.prepare(image) for image in images])


def load_detector(word, path, scale, device, tiles=1):
    """The Detector for a word: yolov3, torchvision:MODEL, onnx:FILE or mmdet:CONFIG:CHECKPOINT; tiles: see `tiled`.

    Raises UserError if it is not available.
    """
    kind, rest = _parts(word)
    batch = 8 if str(device).startswith("cuda") else 1
    if kind == "yolov3":
        detect = Detector(*_yolov3(path, scale, device), batch)
    elif kind == "onnx":
        detect = Detector(_onnx(*rest, scale))
    else:
        detect = Detector(_torchvision(*rest, path, device) if kind == "torchvision" else _mmdet(*rest, device), batch=batch)
    return tiled(detect, tiles) if tiles > 1 else detect


def tiled(detect, count):
    """A Detector that searches `count` overlapping tiles of each image, for small objects, and merges their boxes with one
    non-maximum suppression over all classes.
    """
    from fore_det.yolo_onnx import suppressed

    def prepare(image):
        cuts = split(*image.shape[:2], count)
        return cuts, [detect.prepare(image[y1:y2, x1:x2]) for y1, y2, x1, x2 in cuts]

    def find(prepared):
        found = iter(detect.find([tile for _, tiles in prepared for tile in tiles]))
        joined = [np.concatenate([next(found) + [x1, y1, x1, y1, 0] for y1, _, x1, _ in cuts]) for cuts, _ in prepared]
        return [rows[suppressed(rows[:, :4], rows[:, 4:], np.zeros(len(rows)))] for rows in joined]
    return Detector(find, prepare, detect.batch)


def split(height, width, count):
    """Ends y1, y2, x1, x2 of `count` overlapping, equal tiles that cover an image, as square as a grid of them can be."""
    grids = [(rows, count // rows) for rows in range(1, count + 1) if count % rows == 0]
    rows, columns = min(grids, key=lambda grid: abs(math.log(height / grid[0] / (width / grid[1]))))
    return [(*y, *x) for y in _spans(height, rows) for x in _spans(width, columns)]


def _spans(length, count):
    """The ends of `count` overlapping parts of a length."""
    part = math.ceil(length / (count - (count - 1) * OVERLAP))
    return [(start, start + part) for start in np.linspace(0, length - part, count).round().astype(int).tolist()]


def _parts(word):
    """"torchvision:MODEL" -> "torchvision", ["MODEL"]. Raises UserError if there is no such detector."""
    kind, *rest = word.split(":", 1 if word.startswith("onnx:") else -1)  # a Windows path has a colon itself
    if {"yolov3": 0, "torchvision": 1, "onnx": 1, "mmdet": 2}.get(kind) != len(rest):
        raise UserError(f"--detector {word}: must be yolov3, torchvision:MODEL, onnx:FILE, mmdet:CONFIG:CHECKPOINT or none")
    return kind, rest


def _onnx(path, scale):
    import torch

    from fore_det.yolo_onnx import Yolo

    network = Yolo(path, scale)
    cv2.setNumThreads(torch.get_num_threads())  # from --threads; the boxes do not depend on it
    return lambda images: [network(image) for image in images]


def _yolov3(path, scale, device):
    from fore_det.yolov3 import detect_prepared, load_yolov3, preprocess

    model = load_yolov3(path).to(device)

    def find(prepared):
        return [np.column_stack([boxes, scores]) for boxes, scores, _ in detect_prepared(model, prepared)]
    return find, functools.partial(preprocess, scale=scale)


def _torchvision(name, path, device):
    import torch
    from torchvision.models import detection, get_model, get_model_weights, list_models

    from utils.weights import load_into

    if name not in list_models(module=detection):
        raise UserError(f"--detector torchvision:{name}: torchvision has no such detector; it has "
                        f"{', '.join(list_models(module=detection))}")
    # Without weights_backbone=None the library would download backbone weights that are then replaced.
    build = functools.partial(get_model, name, weights_backbone=None)
    try:
        model = load_into(build, path, "give torchvision's weights for this model with --detector_weights") if path else (
            get_model(name, weights="DEFAULT").eval())
    except OSError as error:
        raise UserError(f"torchvision could not download the weights of {name} ({error}): give a file with "
                        f"--detector_weights, from {get_model_weights(name).DEFAULT.url}") from None
    model = model.to(device)

    @torch.no_grad()
    def detect(images):
        rgb = [torch.from_numpy(image[:, :, ::-1].copy()).to(device).permute(2, 0, 1).float() / 255 for image in images]
        return [torch.column_stack([found["boxes"], found["scores"]]).cpu().numpy() for found in model(rgb)]
    return detect


def _mmdet(config, checkpoint, device):
    try:
        from mmdet.apis import inference_detector, init_detector
    except ImportError as error:
        raise UserError(f"--detector mmdet: mmdet cannot be imported here ({error}): create an environment for "
                        "this stage with `make mmdet` and run it there: .venv-mmdet/bin/python extract_bbox.py ...") from None

    model = init_detector(config, checkpoint, device=str(device))

    def detect(images):
        found = [result.pred_instances.cpu().numpy() for result in inference_detector(model, images)]
        return [np.column_stack([one.bboxes, one.scores]) for one in found]
    return detect
