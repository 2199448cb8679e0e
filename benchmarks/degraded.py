"""Motion boxes of noisy, shaken and flickering copies of clips, compared with those of the original clips.

    python -m benchmarks.degraded FOLDERS_OF_FRAMES... [--flow_method dis] [--frames 60] [--min_area 100]

For each clip a table: recall / precision in % (a box is found if one on the other side has an IoU of 0.5), by kind of
degradation and by --global_motion and --noise_gate. The noise is Gaussian of 8 grey levels, a shake moves each frame by up to 3
pixels in x and in y, light flickers by a factor of 0.85 to 1.15. The same seed gives the same table.
"""

import argparse
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np

from extract_bbox import NO_BOXES, motion_boxes
from FlowNet2_src.methods import METHODS
from utils.datasets import images_in
from utils.run import run

MODES = {"today": ("keep", "off"), "gate": ("keep", "auto"), "removed": ("remove", "off"), "both": ("remove", "auto")}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--flow_method", default="dis", choices=("dis", "tvl1"))
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--min_area", type=int, default=100)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    method = METHODS[args.flow_method](None, "cpu")
    for folder in args.folders:
        clip = [cv2.imread(str(folder / name)) for name in images_in(folder)[:args.frames]]
        truth = None
        print(f"\n| {folder.name} | " + " | ".join(MODES) + " |\n|" + "---|" * (1 + len(MODES)))
        for what, (images, moved) in degraded(clip).items():
            found = boxes_of(images, method, args.min_area)
            truth = truth or found["today"]
            shares = [share(by_frame, truth, moved) for by_frame in found.values()]
            cells = " | ".join(f"{recall:.0f}/{precision:.0f}" for recall, precision in shares)
            print(f"| {what} | {cells} |", flush=True)


def degraded(clip):
    """what -> the clip's frames (H, W, 3) uint8, and how far each frame's content was moved (F, 2)."""
    rng, still = np.random.default_rng(0), np.zeros((len(clip), 2), int)
    offsets = rng.integers(-3, 4, (len(clip), 2))
    shaken = [cv2.warpAffine(image, np.float32([[1, 0, x], [0, 1, y]]), image.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)
              for image, (x, y) in zip(clip, offsets)]
    noisy = [np.clip(image + rng.normal(0, 8, image.shape[:2])[..., None], 0, 255).astype(np.uint8) for image in clip]
    lit = [np.clip(image * rng.uniform(0.85, 1.15), 0, 255).astype(np.uint8) for image in clip]
    return {"clean": (clip, still), "noise": (noisy, still), "shake": (shaken, offsets), "flicker": (lit, still)}


def boxes_of(images, method, min_area):
    """mode -> motion boxes (n, 4) of each frame but the last."""
    found, size = {mode: [] for mode in MODES}, images[0].shape[1::-1]
    small = [method.prepare(image) for image in images]
    grey = [cv2.cvtColor(image, cv2.COLOR_BGR2GRAY) for image in images]
    for t in range(len(images) - 1):
        flow = cv2.resize(np.asarray(method.flow([(small[t], small[t + 1])])[0], np.float32), size)
        for mode, (motion, gate) in MODES.items():
            cfg = SimpleNamespace(global_motion=motion, motion_thr=1.0, min_area=min_area, box_margin=2, all_motion_quirk=True)
            pair = (grey[t], grey[t + 1]) if gate == "auto" else None
            found[mode].append(motion_boxes(cfg, flow, NO_BOXES, pair))
    return found


def share(found, truth, moved):
    """Recall and precision in %; found, truth: (n, 4) of each frame; moved: (F, 2) from truth to found."""
    hits = np.zeros(2)
    for own, right, (x, y) in zip(found, truth, moved):
        close = iou(own, right + [x, y, x, y]) >= 0.5
        hits += close.any(axis=0).sum(), close.any(axis=1).sum()
    return 100 * hits / np.maximum([sum(map(len, truth)), sum(map(len, found))], 1)


def iou(a, b):
    """(n, 4), (m, 4) -> (n, m)."""
    low, high = np.maximum(a[:, None, :2], b[:, :2]), np.minimum(a[:, None, 2:], b[:, 2:])
    common = np.prod(np.maximum(high - low, 0), axis=2)
    area = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (a, b)]
    return common / (area[0][:, None] + area[1] - common)


if __name__ == "__main__":
    run(main)
