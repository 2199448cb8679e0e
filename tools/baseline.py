"""Score boxes without any training: the baseline that a trained model must beat.

    python -m tools.baseline D MODE [--results_dir results_baseline]

Each box is described by its motion, size and position: a histogram of the directions of its flow (8 bins, weighted by
length, over moving pixels, divided by the box's pixels), the logarithms of its width and height, and the position of its
lower edge (middle and bottom). Each feature is standardised over all boxes. A box's score is the distance to its 10th nearest
neighbour among all boxes more than 50 frames away; boxes of other videos count as far away. No label is read.

reads   data/D/MODE/bboxes.npy and the optical flow
writes  results_baseline/D/MODE/box_scores.npy      (N,) float32, which test.py then evaluates

It is a simple form of nearest-neighbour detection: exemplars of motion and size in Ramachandra and Jones (Street Scene, WACV
2020); velocity, pose and deep features with k nearest neighbours in Reiss and Hoshen (attribute-based representations, 2022).
Those compare with a training set of normal videos; here the videos are compared with themselves, since LBR-SPR needs no
normal videos either. There is no network, and all features have equal weight.
"""

import argparse

import numpy as np
from sklearn.neighbors import NearestNeighbors

from utils import files, frames, record, stages
from utils.boxes import Boxes
from utils.config import MODES, dataset_of, parse_config
from utils.device import workers
from utils.errors import UserError
from utils.run import progress, run
from utils.stc import corners

DIRECTIONS, NEIGHBOUR, APART = 8, 10, 50


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset_name", metavar="D")
    parser.add_argument("mode", metavar="MODE", choices=MODES)
    for name in ("config", "data_root_dir", "flow_root_dir", "results_dir"):
        parser.add_argument(f"--{name}", metavar="PATH", default="results_baseline" if name == "results_dir" else None)
    given = [f"--{name}={value}" for name, value in vars(parser.parse_args()).items() if value is not None]
    cfg = parse_config("", given, ("boxes", "test"))
    boxes, path = Boxes.load(stages.folder_of(cfg)), stages.results_of(cfg) / "box_scores.npy"
    made = boxes.record["settings"]
    part = {name: made[name] for name in record.SELECTION}  # the part of the data that has boxes
    vars(cfg).update(part)
    dataset = dataset_of(cfg)
    stages.require_frames(dataset, boxes.record, stages.folder_of(cfg) / "bboxes.npy")
    if path.with_name("test.json").is_file() and not stages.scores_are_given(cfg):
        raise UserError(f"{path.parent}: has the results of a trained model: use another --results_dir")
    scores = far_neighbours(features(dataset, boxes, made.get("motion_thr", cfg.motion_thr)), boxes)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.save_array(path, scores)
    path.with_name("test.json").unlink(missing_ok=True)  # that of earlier scores
    words = "".join(f" --{name} {value}" for name, value in part.items() if value not in ("", 0, 1))
    print(f"wrote {path}: the scores of {len(scores):,} boxes\nnext: python test.py --dataset_name {cfg.dataset_name} --mode "
          f"{cfg.mode} --results_dir {cfg.results_dir}{words}    (after extract_stc.py: its pictures show the cubes)")


def features(dataset, boxes, motion_thr):
    """(N, 12) of all boxes, standardised."""
    found = np.empty((len(boxes), DIRECTIONS + 4), np.float32)
    with progress(len(boxes), "box", "features") as bar:
        for video, size in zip(dataset.videos, boxes.sizes):
            numbers = np.unique(boxes.frame[boxes.of_frames(video.first, len(video))])
            fields = frames.load_flow(video, (numbers - video.first).tolist(), size, workers(-1))
            for number, flow in zip(numbers, fields):
                rows = boxes.of_frames(number, 1)
                found[rows] = [describe(flow, box, corner, motion_thr) for box, corner in zip(
                    boxes.corners[rows], corners(boxes.corners[rows], size))]
                bar.update(rows.stop - rows.start)
    return (found - found.mean(axis=0)) / np.maximum(found.std(axis=0), 1e-6)


def describe(flow, box, corner, motion_thr):
    """(12,) of one box; flow: (H, W, 2); box: x1 y1 x2 y2; corner: the same in whole pixels inside the image."""
    x1, y1, x2, y2 = corner
    u, v = flow[y1:y2, x1:x2].astype(np.float32).reshape(-1, 2).T
    length, angle = np.hypot(u, v), np.arctan2(v, u)
    direction = np.round(angle / (2 * np.pi) * DIRECTIONS).astype(int) % DIRECTIONS
    moves = length ** 2 > motion_thr
    histogram = np.bincount(direction[moves], length[moves], DIRECTIONS) / len(u)
    width, height = np.maximum(box[2:] - box[:2], 1)
    return [*histogram, np.log(width), np.log(height), (box[0] + box[2]) / 2, box[3]]


def far_neighbours(found, boxes):
    """(N,) float32 distance of each box to its 10th nearest neighbour that is far away in time; found: (N, 12)."""
    time = boxes.frame + boxes.video * 2 * APART  # so that frames of other videos are far
    first, last = np.searchsorted(time, time - APART), np.searchsorted(time, time + APART, "right")
    wanted = min(len(found), NEIGHBOUR + int((last - first).max()))
    index, scores = NearestNeighbors(n_neighbors=wanted).fit(found), np.empty(len(found), np.float32)
    for rows in frames.batched(range(len(found)), 256):
        distances, near = index.kneighbors(found[rows])
        far = (near < first[rows, None]) | (near >= last[rows, None])
        if not (far.sum(axis=1) >= NEIGHBOUR).all():
            raise UserError(f"a box has fewer than {NEIGHBOUR} boxes more than {APART} frames away: use longer videos")
        place = (far.cumsum(axis=1) == NEIGHBOUR).argmax(axis=1)
        scores[rows] = distances[np.arange(len(rows)), place]
    return scores


if __name__ == "__main__":
    run(main)
