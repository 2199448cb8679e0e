#!/usr/bin/env python
"""Score every cube with its block's autoencoder, every frame by its worst cube, and compare with the ground truth.

    z     = (loss - mean) / std            by the block's training cubes
    box   = z_raw                          with motion enhancement: w_raw * z_raw + w_of * z_of
    frame = highest box, -20 if none;      then a moving average over --window_size frames

reads   data/D/MODE/bboxes.npy and cubes; the models there, or --model PATH: a folder that train.py wrote (also for
        another mode or dataset), or an official D_model.npy with its training scores next to it
writes  results/D/MODE/box_scores.npy (N,), frame_scores.npy (F,) before smoothing, labels.npy (F,)
        results/D/MODE/metrics.json: AUROC, EER, average precision, and what they were computed from
        results/D/MODE/events.csv, events.json: where the score is above --event_z, or in the highest --event_share
        results/D/MODE/frame_results.npz: curves under the official names
        results/D/MODE/roc.png, scores.png, cubes.png
Without labels there are scores but no AUROC. One-class protocol (not in the paper): train.py --mode train, then
test.py --mode test --model data/D/train.
"""

import numpy as np

from models.checkpoint import NO_MODELS, load_models
from utils import files, metrics, ranks, record, stages
from utils.boxes import Boxes
from utils.config import dataset_of, parse_config
from utils.cubes import Cubes, score
from utils.datasets import rates
from utils.device import device_of, precision_of, use_threads
from utils.errors import UserError
from utils.evaluation import alignment, events, inputs, plots, protocols
from utils.labels import read_labels
from utils.run import progress, run

MAX_FALL, MAX_ERROR = 0.1, 0.3  # of `hardly_trained`: four videos of Ped2 have 81% AUROC at 0.37, 0.44 and 95% at 0.05, 0.23


def main():
    cfg = parse_config(__doc__, stages=("test",))
    device = device_of(cfg.device)
    use_threads(cfg.threads, device)
    ranks.start(device)
    folder = stages.folder_of(cfg)
    cubes_made = record.require(stages.require_cubes(folder), "cubes")
    models = NO_MODELS if stages.scores_are_given(cfg) else load_models(cfg.model or folder)
    boxes, dataset = Boxes.load(folder), dataset_of(cfg)
    labels, source = read_labels(dataset, boxes.sizes)  # (F,) bool, of all videos, or None
    stage = stages.test(cfg, dataset, models, labels, source)
    for note in stages.notes_on_models(cfg, boxes.record):
        print(note)
    if not stage.is_done():
        with stage.writing(stages.test_room(len(boxes)), "--results_dir"):
            cubes = Cubes(folder, models.use_flow, device, cubes_made)
            box_scores = inputs.vector(stage.folder / "box_scores.npy", None, each="box") if stage.given else (
                score_boxes(cfg, cubes, boxes, models, cubes_made["id"]))  # (N,)
            if ranks.RANK == 0:  # only the scoring is shared between ranks
                frame_scores = score_frames(stage, dataset, boxes, box_scores)  # (F,)
                abnormal = None if labels is None else labels[dataset.chosen]
                evaluate(stage, dataset, frame_scores, abnormal, made_from(stage, boxes, cubes_made, models))
                draw(stage, dataset, boxes, cubes, box_scores, frame_scores, abnormal)
    save_events(cfg, dataset, boxes)
    if ranks.RANK == 0:
        report(files.load_json(stage.folder / "metrics.json"), stage.folder)


def score_boxes(cfg, cubes, boxes, models, cubes_id):
    """(N,) float32 box scores; +20 where the block has no model. cubes_id: id in the cubes' record."""
    scores, block = np.full(len(cubes), metrics.NO_MODEL, np.float32), boxes.block(models.grid)
    scored = models.recipe["input"].get("cubes") == cubes_id  # the models were trained on these cubes and scored them
    if not scored:
        cubes.to_device()
    autocast = precision_of(models.precision, cubes.device)
    with progress(len(cubes), "cube", "scores") as bar:
        for number in np.unique(block):
            rows, trained = np.flatnonzero(block == number), models.blocks.get(int(number))
            if trained is None:
                print(f"warning: block {divmod(int(number), models.grid[1])} has {len(rows):,} cubes but no model: "
                      f"each scores {metrics.NO_MODEL:+g}")
                continue
            cubes.require_fit(trained.model)
            losses = trained.scores if scored else score(
                trained.model.to(cubes.device), cubes, rows, 256, autocast, bar.update)  # (n, 1 or 2)
            bar.update(len(rows) if scored else 0)
            scores[rows] = trained.box_scores(losses, cfg.w_raw, cfg.w_of)
    return scores


def score_frames(stage, dataset, boxes, box_scores):
    """Saves the box scores (N,) and the chosen frames' scores before smoothing (F,); returns the latter."""
    if box_scores.shape != (len(boxes),) or not (np.abs(box_scores) <= np.finfo(np.float32).max).all():
        raise UserError(f"{stage.folder}: box_scores.npy has shape {box_scores.shape}, must have one finite score per box, "
                        f"{len(boxes):,} in all: remove or replace it")
    frame_scores = metrics.frame_scores(box_scores, boxes.rows, dataset.num_frames, boxes.size)[dataset.chosen]
    if not stage.given:
        files.save_array(stage.file("box_scores.npy"), box_scores)
    files.save_array(stage.file("frame_scores.npy"), frame_scores)
    return frame_scores


def evaluate(stage, dataset, frame_scores, abnormal, origin):
    """Writes the figures and curves of frame scores (F,); abnormal: (F,) bool or None; origin: see `made_from`."""
    smooth = metrics.moving_average(frame_scores, stage.cfg.window_size)
    figures = dict.fromkeys(("auroc", "eer", "average_precision", "auroc_unsmoothed"))
    if abnormal is not None:
        files.save_array(stage.file("labels.npy"), abnormal)
        figures |= metrics.evaluate(smooth, abnormal)
        figures["auroc_unsmoothed"] = metrics.evaluate(frame_scores, abnormal)["auroc"]
    if figures["auroc"] is not None:
        files.save_npz(stage.file("frame_results.npz"), metrics.official_results(smooth, abnormal))
        scored = inputs.of_dataset(dataset, frame_scores, abnormal, origin["zero_score"])
        figures["protocols"] = protocols.table(scored, stage.cfg.window_size)
    files.save_json(stage.file("metrics.json"), figures | {
        "frames": len(frame_scores), "abnormal_frames": None if abnormal is None else int(abnormal.sum()), **origin,
        "videos": [[video.name, video.first, len(video.chosen)] for video in dataset.videos],
        "training_videos": sum(not video.testing for video in dataset.videos)})


def made_from(stage, boxes, cubes_made, models):
    """What the figures are computed from, for metrics.json."""
    cfg = stage.cfg
    return {"cubes": len(boxes), "labels": stage.inputs["labels"], "dataset": cfg.dataset_name, "mode": cfg.mode,
            "config": cfg.config, "model": cfg.model or str(stages.folder_of(cfg)),
            "hardly_trained": hardly_trained(models.recipe.get("learned")),
            "seed": models.recipe["settings"].get("seed"), "zero_score": models.zero_score(cfg.w_raw, cfg.w_of),
            "settings": {**boxes.record["settings"], **cubes_made["settings"], **models.recipe["settings"],
                         **stage.wanted["settings"]},
            "input": {**boxes.record["input"], **cubes_made["input"]}}


def hardly_trained(learned):
    """A note if a training (models.training.learned, None if unknown) was too short to judge its scores, else ""."""
    if not learned or learned["fall"] < MAX_FALL and learned["error"] < MAX_ERROR:
        return ""
    return (f"the network is hardly trained: at the end the loss still fell by {learned['fall']:.0%} per epoch, and the error "
            f"is {learned['error']:.0%} of the mean cube's: raise --epochs or --min_steps")


def draw(stage, dataset, boxes, cubes, box_scores, frame_scores, abnormal):
    """Writes the pictures: the score curve, the highest and lowest cubes, and with labels the ROC curve."""
    title, names = f"{stage.cfg.dataset_name}, mode {stage.cfg.mode}", [video.name for video in dataset.videos]
    smooth = metrics.moving_average(frame_scores, stage.cfg.window_size)
    starts = [start for start, _ in dataset.spans]
    plots.save(plots.timeline(smooth, abnormal, starts, names, title), stage.file("scores.png"))
    plots.save(plots.cube_sheet(cubes.raw, box_scores, boxes, names, title), stage.file("cubes.png"))
    if abnormal is not None and 0 < abnormal.mean() < 1:
        plots.save(plots.roc(smooth, abnormal, title), stage.file("roc.png"))


def save_events(cfg, dataset, boxes):
    """Writes events.csv from the saved scores, so a new threshold needs no new scoring."""
    stage = stages.events(cfg, rates(dataset))
    if stage.state[0] == "done":
        return
    with stage.writing() as facts:
        if ranks.RANK:
            return
        frame_scores, box_scores = (files.load_array(stage.folder / f"{kind}_scores.npy") for kind in ("frame", "box"))
        smooth, _, find = events.of_run(frame_scores, box_scores, boxes.rows, dataset, cfg.window_size)
        limit = events.threshold(smooth, cfg.event_z, cfg.event_share)
        found = find(limit)
        events.save(stage.file("events.csv"), found, dataset)
        rule = f"highest {cfg.event_share:.2%} of frames" if cfg.event_share else f"z-score {cfg.event_z:g}"
        facts |= {"rule": rule, "threshold": limit, "count": len(found)}


def report(content, results):
    """The lines a user reads."""
    print(f"{content['frames']:,} frames, {content['cubes']:,} cubes; labels: {content['labels']}")
    if content["auroc"] is None:
        reason = "there are no labels" if content["abnormal_frames"] is None else "all frames have the same label"
        print(f"no AUROC: {reason}; the scores are in {results}")
    else:
        print(f"{content['abnormal_frames']:,} abnormal frames; config {content['config'] or '(defaults)'}")
        print(f"frame AUROC {content['auroc']:.2%}   EER {content['eer']:.2%}   "
              f"average precision {content['average_precision']:.2%}   "
              f"(AUROC without smoothing {content['auroc_unsmoothed']:.2%})")
        print("\n".join(protocols.lines(content["protocols"], brief=True)))
        for line in alignment.hints(inputs.of_results(results)[0]):
            print(line)
    if content.get("hardly_trained"):
        print(f"note: {content['hardly_trained']}")
    found = files.load_json(results / "events.json")
    print(f"{found['count']:,} event{'' if found['count'] == 1 else 's'} above {found['threshold']:.2f} ({found['rule']}): "
          f"{results}/events.csv"
          + ("" if found["count"] else "; for more, use a lower --event_z, or --event_share 0.05"))
    print(f"wrote {results}/metrics.json, frame_scores.npy, scores.png and more")


if __name__ == "__main__":
    run(main)
