"""The object detector: YOLOv3 on Darknet-53, from a frame to its boxes.

YOLOv3 (Redmon and Farhadi, 2018) as arranged in mmdetection 2.11, whose published COCO checkpoints load
unchanged. `detect(load_yolov3(path), image, scale)` does it all; everything runs on the parameters' device.
"""

from collections import OrderedDict

import cv2
import numpy as np
import torch
from torch import nn

from utils.weights import load_published

FIX = "python -m tools.download_weights yolov3"

CLASSES = 80                 # of COCO
STRIDES = (32, 16, 8)        # input pixels per cell, one for each output map, coarse to fine
ANCHORS = (((116, 90), (156, 198), (373, 326)),      # width, height in input pixels, for each stride
           ((30, 61), (62, 45), (59, 119)),
           ((10, 13), (16, 30), (33, 23)))


def conv_bn(inputs, outputs, kernel, stride=1):
    """Convolution, batch norm, leaky ReLU: (B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
    return nn.Sequential(OrderedDict(
        conv=nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False),
        bn=nn.BatchNorm2d(outputs, eps=1e-5),
        act=nn.LeakyReLU(0.1, inplace=True)))


class Residual(nn.Module):
    """x plus a 1x1 and a 3x3 convolution of x, with half as many channels in between."""

    def __init__(self, width):
        super().__init__()
        self.conv1 = conv_bn(width, width // 2, 1)
        self.conv2 = conv_bn(width // 2, width, 3)

    def forward(self, x):
        return x + self.conv2(self.conv1(x))


class Darknet53(nn.Module):
    """(B, 3, H, W) -> features (B, 1024, H/32, W/32), (B, 512, H/16, W/16), (B, 256, H/8, W/8)."""

    def __init__(self):
        super().__init__()
        self.conv1 = conv_bn(3, 32, 3)
        for i, blocks in enumerate((1, 2, 8, 8, 4), start=1):
            width = 32 * 2 ** i
            layers = OrderedDict(conv=conv_bn(width // 2, width, 3, stride=2))
            layers.update((f"res{j}", Residual(width)) for j in range(blocks))
            self.add_module(f"conv_res_block{i}", nn.Sequential(layers))

    def forward(self, x):
        fine = self.conv_res_block3(self.conv_res_block2(self.conv_res_block1(self.conv1(x))))
        middle = self.conv_res_block4(fine)
        return self.conv_res_block5(middle), middle, fine


class Neck(nn.Module):
    """Carries the coarse features to the finer levels; returns 512, 256 and 128 channels."""

    def __init__(self):
        super().__init__()
        self.detect1 = self._five(1024, 512)
        self.conv1 = conv_bn(512, 256, 1)
        self.detect2 = self._five(256 + 512, 256)
        self.conv2 = conv_bn(256, 128, 1)
        self.detect3 = self._five(128 + 256, 128)
        self.upsample = nn.Upsample(scale_factor=2, mode="nearest")

    @staticmethod
    def _five(inputs, width):
        """Alternating 1x1 and 3x3 convolutions, ending with `width` channels."""
        layers = ((inputs, width, 1), (width, 2 * width, 3), (2 * width, width, 1), (width, 2 * width, 3),
                  (2 * width, width, 1))
        return nn.Sequential(OrderedDict((f"conv{i}", conv_bn(*layer)) for i, layer in enumerate(layers, start=1)))

    def forward(self, features):
        coarse, middle, fine = features
        coarse = self.detect1(coarse)
        middle = self.detect2(torch.cat((self.upsample(self.conv1(coarse)), middle), dim=1))
        fine = self.detect3(torch.cat((self.upsample(self.conv2(middle)), fine), dim=1))
        return coarse, middle, fine


class Head(nn.Module):
    """Per level a 3x3 convolution and the prediction: 3 anchors x (x, y, w, h, objectness, 80 classes)."""

    def __init__(self):
        super().__init__()
        self.convs_bridge = nn.ModuleList(conv_bn(width, 2 * width, 3) for width in (512, 256, 128))
        self.convs_pred = nn.ModuleList(nn.Conv2d(2 * width, 3 * (5 + CLASSES), 1) for width in (512, 256, 128))

    def forward(self, features):
        return tuple(pred(bridge(x)) for x, bridge, pred in zip(features, self.convs_bridge, self.convs_pred))


class YOLOv3(nn.Module):
    """(B, 3, H, W) RGB in 0..1, H and W multiples of 32 -> raw maps (B, 255, H/s, W/s) for s in `STRIDES`.

    Created in eval mode; parameter names are those of mmdetection's checkpoints.
    """

    def __init__(self):
        super().__init__()
        self.backbone = Darknet53()
        self.neck = Neck()
        self.bbox_head = Head()
        self.eval()                                  # never trained here

    def forward(self, x):
        return self.bbox_head(self.neck(self.backbone(x)))


def load_yolov3(path):
    """Published mmdetection checkpoint -> YOLOv3. Raises UserError if it is incomplete (utils.weights.load_published)."""
    return load_published(YOLOv3, path, FIX)


def preprocess(image, scale):
    """(H, W, 3) uint8 BGR -> network input, scale factor, resized shape.

    The image is resized, keeping its ratio, so that its long side is `scale`, converted to RGB in
    0..1 and padded with zeros on the right and at the bottom to multiples of 32.
    Returns the input (3, H', W') float32 tensor, the (x, y) ratios new / old after rounding, and (h, w) before padding.
    """
    height, width = image.shape[:2]
    factor = scale / max(height, width)
    h, w = int(height * factor + 0.5), int(width * factor + 0.5)
    resized = cv2.resize(image, (w, h), interpolation=cv2.INTER_LINEAR)  # (h, w, 3) uint8 BGR
    padded = np.zeros((3, -h % 32 + h, -w % 32 + w), np.float32)
    padded[:, :h, :w] = resized[:, :, ::-1].transpose(2, 0, 1)
    return torch.from_numpy(padded) / 255, (w / width, h / height), (h, w)


def decode(maps, scale_factor, min_objectness=0.005, min_class=0.05, candidates=1000, iou=0.45, keep=100):
    """Raw maps of one image -> boxes (n, 4) x1 y1 x2 y2, scores (n,), labels (n,) int64; n <= keep; float32 or float64.

    `maps` are the three (255, h, w) tensors of the network, `scale_factor` the (x, y) of `preprocess`. Boxes are in
    pixels of the original image and may extend beyond it, sorted by falling score. Each place gives one candidate per class
    with a probability above `min_class`; the `candidates` most probable ones enter the non-maximum suppression, which
    compares boxes of the same class only. The numbers are mmdetection's test settings.
    """
    from torchvision.ops import batched_nms

    boxes, objectness, classes = [], [], []
    for level, stride, anchors in zip(maps, STRIDES, ANCHORS):
        exact = level.to(torch.promote_types(level.dtype, torch.float32))
        t = exact.unflatten(0, (3, 5 + CLASSES)).permute(2, 3, 0, 1)  # (h, w, 3, 85)
        y, x, anchor = (t[..., 4].sigmoid() >= min_objectness).nonzero(as_tuple=True)
        t = t[y, x, anchor]  # (n, 85)
        centre = (torch.stack((x, y), dim=1) + 0.5) * stride + (t[:, :2].sigmoid() - 0.5) * stride  # (n, 2)
        half = t.new_tensor(anchors)[anchor] / 2 * t[:, 2:4].exp()
        boxes.append(torch.cat((centre - half, centre + half), dim=1))
        objectness.append(t[:, 4].sigmoid())
        classes.append(t[:, 5:].sigmoid())
    boxes, objectness, classes = torch.cat(boxes), torch.cat(objectness), torch.cat(classes)

    place, labels = (classes > min_class).nonzero(as_tuple=True)
    order = classes[place, labels].argsort(descending=True, stable=True)[:candidates]
    place, labels = place[order], labels[order]
    boxes = boxes[place] / boxes.new_tensor((*scale_factor, *scale_factor))
    scores = classes[place, labels] * objectness[place]
    kept = batched_nms(boxes, scores, labels, iou)[:keep]
    return boxes[kept], scores[kept], labels[kept]


def detect_batch(model, images, scale):
    """Images, each (H, W, 3) uint8 BGR, all of one size -> list of (boxes, scores, labels), one per image.

    numpy arrays: boxes (n, 4) x1 y1 x2 y2 in the image's pixels, scores (n,), labels (n,) int64; numbers as in `decode`.
    """
    return detect_prepared(model, [preprocess(image, scale) for image in images])


@torch.no_grad()
def detect_prepared(model, prepared):
    """The same for images that `preprocess` has prepared."""
    inputs, factors, _ = zip(*prepared)  # B x (3, H', W'), B x (x, y)
    maps = model(torch.stack(inputs).to(next(model.parameters())))  # 3 x (B, 255, h, w)
    results = (decode(one, factor) for one, factor in zip(zip(*maps), factors))
    return [tuple(part.cpu().numpy() for part in result) for result in results]


def detect(model, image, scale):
    """`detect_batch` for one image: (H, W, 3) uint8 BGR, scale -> boxes (n, 4), scores (n,), labels (n,)."""
    return detect_batch(model, [image], scale)[0]
