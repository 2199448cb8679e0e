"""Object detectors, each as one function: a batch of frames -> their detections."""

import functools
from pathlib import Path

import numpy as np

from utils.errors import UserError
from utils.files import size

CHECKPOINTS = Path(__file__).resolve().parent / "obj_det_checkpoints"
YOLOV3 = {608: "yolov3_d53_mstrain-608_273e_coco-139f5633.pth", 320: "yolov3_d53_320_273e_coco-421362b6.pth"}


def weights_file(word, given, scale):
    """The weights file that a detector reads, or None. Raises UserError if the official one is not there."""
    _parts(word)
    if word != "yolov3" or given:
        return Path(given) if given else None
    if scale not in YOLOV3:
        raise UserError(f"--detector_scale {scale}: published weights are for {' and '.join(map(str, YOLOV3))}; "
                        "give others with --detector_weights")
    path = CHECKPOINTS / YOLOV3[scale]
    if not path.is_file():
        raise UserError(f"{path}: YOLOv3's weights are not there: fetch them with python -m tools.download_weights yolov3, "
                        "or take --detector none (motion boxes alone), which needs none")
    return path


def source(boxes_from, word, given, scale, known=None):
    """What boxes come from, by files' names and sizes, for their record; empty for motion boxes alone.

    boxes_from: a file of boxes, which then counts alone, or ""; known: the input that an earlier record tells of, which is
    believed where the weights are not here (boxes made on another machine). Raises UserError where a file is missing.
    """
    if boxes_from:
        return {"boxes_from": [Path(boxes_from).name, size(boxes_from)]}
    if word == "none":
        return {}
    try:
        path = weights_file(word, given, scale)
        files = [path] if path else [Path(p) for p in word.split(":")[1:] if word.startswith("mmdet:")]
        return {"weights": [[file.name, size(file)] for file in files]}
    except UserError:
        if "weights" not in (known or {}):
            raise
        return {"weights": known["weights"]}


def load_detector(word, path, scale, device):
    """The function of a detector: list of (H, W, 3) uint8 BGR images of one size -> list of (n, 5) x1 y1 x2 y2 score.

    word: yolov3, torchvision:MODEL or mmdet:CONFIG:CHECKPOINT. Raises UserError if it cannot be had.
    """
    kind, rest = _parts(word)
    if kind == "yolov3":
        return _yolov3(path, scale, device)
    return _torchvision(*rest, path, device) if kind == "torchvision" else _mmdet(*rest, device)


def _parts(word):
    """"torchvision:MODEL" -> "torchvision", ["MODEL"]. Raises UserError if there is no such detector."""
    kind, *rest = word.split(":")
    if {"yolov3": 0, "torchvision": 1, "mmdet": 2}.get(kind) != len(rest):
        raise UserError(f"--detector {word}: must be yolov3, torchvision:MODEL, mmdet:CONFIG:CHECKPOINT or none")
    return kind, rest


def _yolov3(path, scale, device):
    from fore_det.yolov3 import detect_batch, load_yolov3

    model = load_yolov3(path).to(device)

    def detect(images):
        return [np.column_stack([boxes, scores]) for boxes, scores, _ in detect_batch(model, images, scale)]
    return detect


def _torchvision(name, path, device):
    import torch
    from torchvision.models import detection, get_model, get_model_weights, list_models

    from utils.weights import load_into

    if name not in list_models(module=detection):
        raise UserError(f"--detector torchvision:{name}: torchvision has no such detector; it has "
                        f"{', '.join(list_models(module=detection))}")
    # Without weights_backbone=None the library would fetch a backbone's weights only to have them replaced.
    build = functools.partial(get_model, name, weights_backbone=None)
    try:
        model = load_into(build, path, "give torchvision's weights of this model with --detector_weights") if path else (
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
        raise UserError(f"--detector mmdet: mmdet cannot be imported here ({error}): make an environment for "
                        "this stage with `make mmdet` and run it there: .venv-mmdet/bin/python extract_bbox.py ...") from None

    model = init_detector(config, checkpoint, device=str(device))

    def detect(images):
        found = [result.pred_instances.cpu().numpy() for result in inference_detector(model, images)]
        return [np.column_stack([one.bboxes, one.scores]) for one in found]
    return detect
