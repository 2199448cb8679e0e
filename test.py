#!/usr/bin/env python
"""Score every cube with its block's autoencoder, every frame by its worst cube, and compare with the ground truth.

    z     = (loss - mean) / std            by the block's training cubes
    box   = z_raw                          with motion enhancement: w_raw * z_raw + w_of * z_of
    frame = highest box, -20 without any;  then a moving average over --window_size frames

reads   data/D/MODE/bboxes.npy and cubes; the models there, or those of --model PATH: a folder that train.py wrote
        (also of another mode or dataset), or an official D_model.npy with its training scores beside it
writes  results/D/MODE/box_scores.npy (N,), frame_scores.npy (F,) before smoothing, labels.npy (F,)
        results/D/MODE/metrics.json: AUROC, EER, average precision, and what they were computed from
        results/D/MODE/events.csv, events.json: where the score is above --event_z or among the --event_share highest
        results/D/MODE/frame_results.npz: curves under the official names
        results/D/MODE/roc.png, scores.png, cubes.png
Without labels there are scores and no AUROC. Protocol of the one-class literature, outside the paper: train.py --mode
train, then test.py --mode test --model data/D/train.
"""

from pathlib import Path

import numpy as np

from models.checkpoint import load_models
from utils import files, metrics, plan, ranks, record
from utils.config import dataset_of, parse_config
from utils.cubes import Cubes, score
from utils.datasets import rates
from utils.errors import UserError
from utils.evaluation import events, plots, protocols
from utils.labels import read_labels
from utils.run import Clock, device_of, locked, precision_of, progress, run, use_threads
from utils.stc import block_of


def main():
    cfg = parse_config(__doc__, stages=("test",))
    folder, results = folders(cfg)
    use_threads(cfg.threads)
    cubes_made, boxes_made = record.cubes_of(folder)
    record.require_selection(cfg, cubes_made, folder / "cubes.json")
    models = load_models(cfg.model or folder)
    if not cfg.model and models.recipe["input"]["cubes"] != cubes_made["id"]:
        raise UserError(f"{folder}: the models were trained on other cubes than those there now: run train.py again")
    dataset = dataset_of(cfg)
    record.require_frames(dataset, boxes_made, folder / "bboxes.npy")
    if any(folder.glob("model_*.resume.pt")):
        print(f"note: {folder} holds a training that is not finished; the one before it is scored")
    if cfg.model and (note := record.unlike(cfg.model, boxes_made)):
        print(note)
    if cfg.verify:
        record.verify_cubes(folder, any(block.model.use_flow for block in models.blocks.values()))
        if not cfg.model:
            record.verify_models(folder, own=False)
    labels, source = read_labels(dataset, boxes_made["sizes"])
    wanted = plan.wanted_scores(cfg, cubes_made["id"], models.recipe["id"], models.statistics, labels, source)
    ranks.start(device_of(cfg.device))
    with ranks.together(results), locked(folder, shared=True):
        record.require_still(folder / "cubes.json", cubes_made)
        done, why = record.is_done(results / "test.json", wanted, ["metrics.json"])
        print(f"{results}: scores are {why}")
        if not done:
            evaluate(cfg, dataset, models, cubes_made, boxes_made, labels, source, wanted)
        if ranks.RANK == 0:
            find_events(cfg, dataset, record.boxes_of(folder, boxes_made), results)
        if cfg.verify and ranks.RANK == 0:
            record.verify(results / "test.json", {name: [results / name] for name in ("box_scores.npy", "metrics.json")})
    report(files.load_json(results / "metrics.json"), results)


def folders(cfg):
    """Where the cubes are, and where the results go."""
    return tuple(Path(root, cfg.dataset_name, cfg.mode) for root in (cfg.data_root_dir, cfg.results_dir))


def evaluate(cfg, dataset, models, cubes_made, boxes_made, labels, source, wanted):
    """From cubes to figures and pictures."""
    folder, results = folders(cfg)
    clock = Clock()
    print(f"reads {folder} and models of {cfg.model or folder}")
    use_flow = any(block.model.use_flow for block in models.blocks.values())
    boxes = record.boxes_of(folder, boxes_made)  # (N, 5)
    files.require_room(results, plan.room(cfg, "test", cubes=len(boxes)), "scores and pictures", "--results_dir")
    cubes = Cubes(folder, use_flow, device_of(cfg.device), cubes_made)
    sizes = record.sizes_of(boxes, boxes_made)  # (N, 2)
    same_cubes = models.recipe["input"].get("cubes") == cubes_made["id"]
    if not same_cubes:
        cubes.to_device()
    box_scores = score_boxes(cfg, cubes, block_of(boxes[:, 1:], sizes, *models.grid), models, same_cubes)
    if ranks.RANK:  # the scores are all that the ranks share
        return
    chosen = dataset.chosen
    frame_scores = metrics.frame_scores(box_scores, boxes, dataset.num_frames, sizes)[chosen]
    smooth = metrics.moving_average(frame_scores, cfg.window_size)

    (results / "test.json").unlink(missing_ok=True)  # until the last line the results are not whole
    files.save_array(results / "box_scores.npy", box_scores)
    files.save_array(results / "frame_scores.npy", frame_scores)
    figures = {"auroc": None, "eer": None, "average_precision": None, "auroc_unsmoothed": None}
    abnormal = None if labels is None else labels[chosen]
    for name in ("labels.npy", "frame_results.npz", "roc.png", "events.json"):
        (results / name).unlink(missing_ok=True)
    if abnormal is not None:
        files.save_array(results / "labels.npy", abnormal)
        figures |= metrics.evaluate(smooth, abnormal)
        figures["auroc_unsmoothed"] = metrics.evaluate(frame_scores, abnormal)["auroc"]
    if figures["auroc"] is not None:
        figures["protocols"] = protocols.table(protocols.of_dataset(dataset, frame_scores, abnormal), cfg.window_size)
        official = metrics.official_results(smooth, abnormal)
        with files.whole(results / "frame_results.npz") as part, open(part, "wb") as file:
            np.savez(file, **official)
    files.save_json(results / "metrics.json", {
        **figures, "frames": len(chosen), "abnormal_frames": None if abnormal is None else int(abnormal.sum()),
        "cubes": len(boxes), "labels": source, "dataset": cfg.dataset_name, "mode": cfg.mode, "config": cfg.config,
        "model": cfg.model or str(folder), "seed": models.recipe["settings"].get("seed"),
        "settings": {**boxes_made["settings"], **cubes_made["settings"], **models.recipe["settings"],
                     **wanted["settings"]},
        "input": {**boxes_made["input"], **cubes_made["input"]},
        "videos": [[video.name, video.first, len(video.chosen)] for video in dataset.videos],
        "training_videos": sum(not video.testing for video in dataset.videos)})
    draw(cfg, dataset, results, cubes, boxes, box_scores, smooth, abnormal, figures)
    record.save(results / "test.json", wanted, clock())


def find_events(cfg, dataset, boxes, results):
    """Writes events.csv from the scores that are there, so that another threshold costs nothing."""
    frame_scores, box_scores = (files.load_array(results / f"{kind}_scores.npy") for kind in ("frame", "box"))
    spans = dataset.spans
    smooth = events.curve(frame_scores, spans, cfg.window_size)
    limit = events.threshold(smooth, cfg.event_z, cfg.event_share)
    rows = events.highest_rows(box_scores, boxes, dataset.chosen)
    found = events.find(smooth, limit, cfg.window_size, rows, boxes, spans)
    rule = f"highest {cfg.event_share:.2%} of frames" if cfg.event_share else f"z-score {cfg.event_z:g}"
    content = {"rule": rule, "threshold": limit, "count": len(found)}
    there = all((results / name).is_file() for name in ("events.json", "events.csv"))
    if not there or files.load_json(results / "events.json") != content:
        events.save(results / "events.csv", found, dataset, spans, rates(dataset))
        files.save_json(results / "events.json", content)


def score_boxes(cfg, cubes, block, models, same_cubes):
    """(N,) block numbers -> (N,) float32 box scores; +20 where the block has no model.

    same_cubes: the models were trained on these very cubes, so their losses lie in the checkpoint already.
    """
    scores = np.full(len(cubes), metrics.NO_MODEL, np.float32)
    autocast = precision_of(models.precision, cubes.device)
    with progress(len(cubes), "cube", "scores") as bar:
        for number in np.unique(block):
            rows = np.flatnonzero(block == number)
            if number not in models.blocks:
                print(f"warning: block {divmod(int(number), models.grid[1])} has {len(rows):,} cubes and no model: "
                      f"each scores {metrics.NO_MODEL:+g}")
                continue
            trained = models.blocks[number]
            takes = (trained.model.tot_frame_num, trained.model.flow_frame_num)
            if takes != (cubes.frames, cubes.flow_frames):
                raise UserError(f"the model takes cubes of {takes[0]} frames and {takes[1] or 0} flow fields, these have "
                                f"{cubes.frames} and {cubes.flow_frames or 0}: run extract_stc.py with the model's settings")
            losses = trained.scores if same_cubes else score(
                trained.model.to(cubes.device), cubes, rows, 256, autocast, bar.update)  # (n, 1 or 2)
            bar.update(len(rows) if same_cubes else 0)
            z = metrics.normalise(losses, trained.mean, trained.std)
            scores[rows] = z @ [cfg.w_raw, cfg.w_of] if trained.model.use_flow else z[:, 0]
    return scores


def draw(cfg, dataset, results, cubes, boxes, box_scores, smooth, abnormal, figures):
    """Writes the pictures."""
    title = f"{cfg.dataset_name}, mode {cfg.mode}"
    if figures["auroc"] is not None:
        curve = np.load(results / "frame_results.npz")
        plots.save(plots.roc(curve["fpr"], curve["tpr"], figures["auroc"], figures["eer"], title), results / "roc.png")
    starts = np.cumsum([0, *(len(video.chosen) for video in dataset.videos)])[:-1]
    plots.save(plots.timeline(smooth, abnormal, starts, [video.name for video in dataset.videos], title),
               results / "scores.png")
    order = np.argsort(box_scores, kind="stable")
    video_of = np.searchsorted([video.first for video in dataset.videos], boxes[:, 0], "right")
    shown = np.stack([in_turn(rows, video_of[rows], 8) for rows in (order[::-1], order)])  # (2, k) rows
    strips = np.stack([np.stack([cubes.raw[row].reshape(-1, 3, *cubes.raw.shape[2:]) for row in side]) for side in shown])
    captions = [[caption(dataset, int(boxes[row, 0])) for row in side] for side in shown]
    plots.save(plots.cube_sheet(strips.transpose(0, 1, 2, 4, 5, 3), box_scores[shown], captions, title), results / "cubes.png")


def in_turn(rows, group, count):
    """The first `count` of some rows, as evenly from all groups as can be: else one object would fill the sheet."""
    by_group = np.argsort(group, kind="stable")
    turn = np.empty(len(rows), np.int64)  # how many rows of the same group come before
    turn[by_group] = np.arange(len(rows)) - np.searchsorted(group[by_group], group[by_group])
    return rows[np.sort(np.argsort(turn, kind="stable")[:count])]


def caption(dataset, number):
    """Where a frame is: its video and its place there, from 1."""
    video = next(v for v in dataset.videos if v.first <= number < v.first + len(v))
    return f"{video.name}\nframe {number - video.first + 1}"


def report(content, results):
    """The lines a user reads."""
    print(f"{content['frames']:,} frames, {content['cubes']:,} cubes; labels: {content['labels']}")
    if content["auroc"] is None:
        reason = "there are no labels" if content["abnormal_frames"] is None else "all frames are of one class"
        print(f"no AUROC: {reason}; the scores are in {results}")
    else:
        print(f"{content['abnormal_frames']:,} abnormal frames; config {content['config'] or '(defaults)'}")
        print(f"frame AUROC {content['auroc']:.2%}   EER {content['eer']:.2%}   "
              f"average precision {content['average_precision']:.2%}   "
              f"(AUROC without smoothing {content['auroc_unsmoothed']:.2%})")
        print("\n".join(protocols.lines(content["protocols"])))
    found = files.load_json(results / "events.json")
    print(f"{found['count']:,} event{'' if found['count'] == 1 else 's'} above {found['threshold']:.2f} ({found['rule']}): "
          f"{results}/events.csv"
          + ("" if found["count"] else "; for more take a lower --event_z, or --event_share 0.05"))
    print(f"wrote {results}/metrics.json, frame_scores.npy, scores.png and more")


if __name__ == "__main__":
    run(main)
