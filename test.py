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
            box_scores = inputs.vector(stage.folder / "box_scores.npy", None) if stage.given else (
                score_boxes(cfg, cubes, boxes, models, cubes_made["id"]))  # (N,)
            if ranks.RANK == 0:  # the scores are all that the ranks share
                evaluate(cfg, stage, dataset, boxes, box_scores, labels, settings_of(cfg, stage, boxes, cubes_made, models))
                draw_cubes(stage, dataset, cubes, boxes, box_scores)
    save_events(cfg, dataset, boxes)
    if ranks.RANK == 0:
        report(files.load_json(stage.folder / "metrics.json"), stage.folder)


def score_boxes(cfg, cubes, boxes, models, cubes_id):
    """(N,) float32 box scores; +20 where the block has no model. cubes_id: of the cubes' record."""
    scores, block = np.full(len(cubes), metrics.NO_MODEL, np.float32), boxes.block(models.grid)
    scored = models.recipe["input"].get("cubes") == cubes_id  # the models were trained on these cubes and scored them
    if not scored:
        cubes.to_device()
    autocast = precision_of(models.precision, cubes.device)
    with progress(len(cubes), "cube", "scores") as bar:
        for number in np.unique(block):
            rows, trained = np.flatnonzero(block == number), models.blocks.get(int(number))
            if trained is None:
                print(f"warning: block {divmod(int(number), models.grid[1])} has {len(rows):,} cubes and no model: "
                      f"each scores {metrics.NO_MODEL:+g}")
                continue
            require_fit(trained.model, cubes)
            losses = trained.scores if scored else score(
                trained.model.to(cubes.device), cubes, rows, 256, autocast, bar.update)  # (n, 1 or 2)
            bar.update(len(rows) if scored else 0)
            z = metrics.normalise(losses, trained.mean, trained.std)
            scores[rows] = z @ [cfg.w_raw, cfg.w_of] if trained.model.use_flow else z[:, 0]
    return scores


def require_fit(model, cubes):
    """Raises UserError if a network takes other cubes than these."""
    takes = (model.tot_frame_num, model.flow_frame_num)
    if takes != (cubes.frames, cubes.flow_frames):
        raise UserError(f"the model takes cubes of {takes[0]} frames and {takes[1] or 0} flow fields, these have "
                        f"{cubes.frames} and {cubes.flow_frames or 0}: run extract_stc.py with the model's settings")


def evaluate(cfg, stage, dataset, boxes, box_scores, labels, made_from):
    """From box scores to frame scores, figures and their pictures; labels: (F,) bool or None; made_from: for metrics.json."""
    if box_scores.shape != (len(boxes),) or not (np.abs(box_scores) <= np.finfo(np.float32).max).all():
        raise UserError(f"{stage.folder}: box_scores.npy is {box_scores.shape}, not one finite score (float32) for each of "
                        f"{len(boxes):,} boxes: remove it, or write it again")
    frame_scores = metrics.frame_scores(box_scores, boxes.rows, dataset.num_frames, boxes.size)[dataset.chosen]
    smooth = metrics.moving_average(frame_scores, cfg.window_size)
    figures = dict.fromkeys(("auroc", "eer", "average_precision", "auroc_unsmoothed"))
    abnormal = None if labels is None else labels[dataset.chosen]
    if not stage.given:
        files.save_array(stage.file("box_scores.npy"), box_scores)
    files.save_array(stage.file("frame_scores.npy"), frame_scores)
    if abnormal is not None:
        files.save_array(stage.file("labels.npy"), abnormal)
        figures |= metrics.evaluate(smooth, abnormal)
        figures["auroc_unsmoothed"] = metrics.evaluate(frame_scores, abnormal)["auroc"]
    title = f"{cfg.dataset_name}, mode {cfg.mode}"
    if figures["auroc"] is not None:
        figures["protocols"] = protocols.table(
            inputs.of_dataset(dataset, frame_scores, abnormal, made_from["zero_score"]), cfg.window_size)
        curves = metrics.official_results(smooth, abnormal)
        files.save_npz(stage.file("frame_results.npz"), curves)
        plots.save(plots.roc(curves["fpr"], curves["tpr"], figures["auroc"], figures["eer"], title), stage.file("roc.png"))
    files.save_json(stage.file("metrics.json"), figures | {
        "frames": len(frame_scores), "abnormal_frames": None if abnormal is None else int(abnormal.sum()), **made_from,
        "videos": [[video.name, video.first, len(video.chosen)] for video in dataset.videos],
        "training_videos": sum(not video.testing for video in dataset.videos)})
    starts = [start for start, _ in dataset.spans]
    plots.save(plots.timeline(smooth, abnormal, starts, [video.name for video in dataset.videos], title),
               stage.file("scores.png"))


def settings_of(cfg, stage, boxes, cubes_made, models):
    """What the figures were computed from, for metrics.json."""
    return {"cubes": len(boxes), "labels": stage.inputs["labels"], "dataset": cfg.dataset_name, "mode": cfg.mode,
            "config": cfg.config, "model": cfg.model or str(stages.folder_of(cfg)),
            "seed": models.recipe["settings"].get("seed"), "zero_score": None if stage.given else min(
                float(metrics.normalise(0, block.mean, block.std) @ ([cfg.w_raw, cfg.w_of] if block.model.use_flow else [1]))
                for block in models.blocks.values()),  # score of a cube that is reconstructed without any error
            "settings": {**boxes.record["settings"], **cubes_made["settings"], **models.recipe["settings"],
                         **stage.wanted["settings"]},
            "input": {**boxes.record["input"], **cubes_made["input"]}}


def draw_cubes(stage, dataset, cubes, boxes, box_scores):
    """Writes cubes.png: the highest and lowest scored cubes."""
    order = np.argsort(box_scores, kind="stable")
    shown = np.stack([plots.in_turn(rows, boxes.video, 8) for rows in (order[::-1], order)])  # (2, k) rows
    strips = np.stack([np.stack([cubes.raw[row].reshape(-1, 3, *cubes.raw.shape[2:]) for row in side]) for side in shown])
    captions = [[f"{dataset.videos[boxes.video[row]].name}\nframe {boxes.frame[row] - boxes.firsts[boxes.video[row]] + 1}"
                 for row in side] for side in shown]
    title = f"{stage.cfg.dataset_name}, mode {stage.cfg.mode}"
    plots.save(plots.cube_sheet(strips.transpose(0, 1, 2, 4, 5, 3), box_scores[shown], captions, title),
               stage.file("cubes.png"))


def save_events(cfg, dataset, boxes):
    """Writes events.csv from the scores that are there, so that another threshold costs nothing."""
    stage = stages.events(cfg, rates(dataset))
    if stage.state[0] == "done":
        return
    with stage.writing() as facts:
        if ranks.RANK:
            return
        frame_scores, box_scores = (files.load_array(stage.folder / f"{kind}_scores.npy") for kind in ("frame", "box"))
        smooth = events.curve(frame_scores, dataset.spans, cfg.window_size)
        limit = events.threshold(smooth, cfg.event_z, cfg.event_share)
        highest = events.highest_rows(box_scores, boxes.rows, dataset.chosen)
        found = events.find(smooth, limit, cfg.window_size, highest, boxes.rows, dataset.spans)
        events.save(stage.file("events.csv"), found, dataset)
        rule = f"highest {cfg.event_share:.2%} of frames" if cfg.event_share else f"z-score {cfg.event_z:g}"
        facts |= {"rule": rule, "threshold": limit, "count": len(found)}


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
        print("\n".join(protocols.lines(content["protocols"], brief=True)))
        for line in alignment.hints(inputs.of_results(results)[0]):
            print(line)
    found = files.load_json(results / "events.json")
    print(f"{found['count']:,} event{'' if found['count'] == 1 else 's'} above {found['threshold']:.2f} ({found['rule']}): "
          f"{results}/events.csv"
          + ("" if found["count"] else "; for more take a lower --event_z, or --event_share 0.05"))
    print(f"wrote {results}/metrics.json, frame_scores.npy, scores.png and more")


if __name__ == "__main__":
    run(main)
