"""Compare two methods of one stage on the same frames, from their output files.

    python -m tools.compare flow optical_flow/D optical_flow_dis/D
    python -m tools.compare boxes data/D/MODE/bboxes.npy other/D/MODE/bboxes.npy [--dataset_name D --mode MODE]

flow: mean end-point difference, and how often the two agree on moving pixels (u^2 + v^2 > 1), over the frames of both.
boxes: pairs of boxes with an intersection over union of 0.5 or more, each box in at most one pair, and unmatched boxes.
    Both files are as extract_bbox.py writes them: (N, 5) rows, whose frames count from 0 across the videos of the mode.
Both write a picture of the frame where the two differ most: OUT/flow.png or OUT/boxes.png.
"""

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from scipy.optimize import linear_sum_assignment
from torchvision.utils import flow_to_image

from utils import files, frames
from utils.config import dataset_of, parse_config
from utils.errors import UserError
from utils.evaluation import plots
from utils.run import progress, run

MATCH = 0.5  # minimum intersection over union of a pair of boxes


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("flow", "boxes"))
    parser.add_argument("a", metavar="A", type=Path)
    parser.add_argument("b", metavar="B", type=Path)
    parser.add_argument("--out", type=Path, default=Path("results", "compare"), help="folder (default: results/compare)")
    parser.add_argument("--dataset_name", metavar="D", help="draw the boxes on this dataset's frames")
    parser.add_argument("--mode", default="test", choices=("test", "merge", "train"), help="mode of the boxes (default: test)")
    args = parser.parse_args()
    compare_flow(args.a, args.b, args.out) if args.what == "flow" else compare_boxes(args)


def compare_flow(a, b, out):
    """Prints figures over the flow files with the same name in both folders."""
    names = sorted({p.relative_to(a) for p in a.rglob("*.npy")} & {p.relative_to(b) for p in b.rglob("*.npy")})
    if not names:
        raise UserError(f"{a}, {b}: no flow files with the same names: give two folders such as optical_flow/D")
    differences, agree, worst = [], [], (-1.0, None)
    with progress(len(names), "frame", "flow") as bar:
        for name in names:
            pair = [files.load_array(folder / name).astype(np.float32) for folder in (a, b)]  # (H, W, 2) each
            if pair[0].shape != pair[1].shape:
                raise UserError(f"{a / name} is {pair[0].shape}, {b / name} is {pair[1].shape}: not the same frames")
            differences.append(float(np.linalg.norm(pair[0] - pair[1], axis=2).mean()))
            moves = [np.square(flow).sum(axis=2) > 1 for flow in pair]
            agree.append(float((moves[0] == moves[1]).mean()))
            worst = max(worst, (differences[-1], name))
            bar.update()
    print(f"{len(names):,} frames: mean end-point difference {np.mean(differences):.3f} px "
          f"(median frame {np.median(differences):.3f}, largest {worst[0]:.3f} at {worst[1]}); "
          f"the same {np.mean(agree):.2%} of pixels are moving or still in both")
    figure = Figure(figsize=(11, 4))
    for axes, folder in zip(figure.subplots(1, 2), (a, b)):
        axes.imshow(colours(files.load_array(folder / worst[1]).astype(np.float32)))
        axes.set_title(str(folder), fontsize=9)
        axes.set_axis_off()
    figure.suptitle(f"{worst[1]}: mean difference {worst[0]:.2f} px", fontsize=10)
    plots.save(figure, out / "flow.png")
    print(f"wrote {out / 'flow.png'}")


def colours(flow):
    """(H, W, 2) -> (H, W, 3) uint8 RGB: hue is direction, saturation is length."""
    import torch

    return flow_to_image(torch.from_numpy(flow).permute(2, 0, 1)).permute(1, 2, 0).numpy()


def compare_boxes(args):
    """Prints how many boxes of two files (N, 5) match."""
    rows = [files.load_array(path) for path in (args.a, args.b)]
    for path, found in zip((args.a, args.b), rows):
        if found.ndim != 2 or found.shape[1] != 5:
            raise UserError(f"{path}: has shape {found.shape}, not (N, 5) like a bboxes.npy")
    matched, overlaps, worst = 0, [], (-1, 0)
    numbers = np.union1d(rows[0][:, 0], rows[1][:, 0])
    ends = [[np.searchsorted(found[:, 0], numbers, side) for side in ("left", "right")] for found in rows]
    for k, number in enumerate(numbers):
        one, other = (found[first[k]:last[k], 1:] for found, (first, last) in zip(rows, ends))
        pairs = match(one, other)
        matched += len(pairs)
        overlaps.extend(pairs)
        worst = max(worst, (len(one) + len(other) - 2 * len(pairs), int(number)))
    print(f"{len(numbers):,} frames: {len(rows[0]):,} and {len(rows[1]):,} boxes; {matched:,} pairs with IoU >= {MATCH} "
          f"(mean IoU {np.mean(overlaps or [0]):.3f}); {len(rows[0]) - matched:,} boxes of A and "
          f"{len(rows[1]) - matched:,} of B are unmatched, most in frame {worst[1]} ({worst[0]})")
    figure = Figure(figsize=(8, 6))
    axes = figure.subplots()
    axes.imshow(frame_of(args, worst[1], rows)[:, :, ::-1])
    for found, colour, path in zip(rows, (plots.BLUE, plots.RED), (args.a, args.b)):
        for _, x1, y1, x2, y2 in found[found[:, 0] == worst[1]]:
            axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, color=colour, lw=1.2))
        axes.plot([], [], color=colour, label=str(path))
    axes.legend(loc="upper left", fontsize=7)
    axes.set_axis_off()
    axes.set_title(f"frame {worst[1]}: {worst[0]} unmatched boxes", fontsize=10)
    plots.save(figure, args.out / "boxes.png")
    print(f"wrote {args.out / 'boxes.png'}")


def match(one, other):
    """(n, 4), (m, 4) -> the IoU of each pair in the best one-to-one matching at IoU >= 0.5."""
    low = np.maximum(one[:, None, :2], other[None, :, :2])
    high = np.minimum(one[:, None, 2:], other[None, :, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=2)
    area = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (one, other)]
    iou = shared / np.maximum(area[0][:, None] + area[1][None] - shared, 1e-9)
    iou = np.where(iou >= MATCH, iou, 0)
    found = iou[linear_sum_assignment(-iou)]
    return found[found > 0].tolist()


def frame_of(args, number, rows):
    """The frame's picture, or a white one as large as its boxes if no dataset is given."""
    if not args.dataset_name:
        here = np.concatenate([found[found[:, 0] == number] for found in rows])
        return np.full((int(here[:, 4].max()) + 1, int(here[:, 3].max()) + 1, 3), 255, np.uint8)
    dataset = dataset_of(parse_config("", ["--dataset_name", args.dataset_name, "--mode", args.mode]))
    video = next((v for v in dataset.videos if v.first <= number < v.first + len(v)), None)
    if video is None:
        raise UserError(f"frame {number} is not in {args.dataset_name}, mode {args.mode}: give the boxes' own dataset")
    return next(iter(frames.load(video, [number - video.first])))


if __name__ == "__main__":
    run(main)
