#!/usr/bin/env python
"""Train one autoencoder per image block on unlabelled cubes, with self-paced refinement (paper, section 3.3).

Cubes that are normal are many and alike, so an autoencoder learns them first (normality advantage). After the warm-up
every batch first gets weights from its own reconstruction losses s, with their mean and standard deviation:

    l1 = mean + std,   l2 = mean + max(1, 4 - t * shrink_rate) * std        t: batches since warm-up
    w  = 1 if s <= l1,   0 if s >= l2,   l1 (l2 - s) / (s (l2 - l1)) between       (mixture; see --sp_mode)
    loss = sum(w * s) / (batch size * channels * P * P)

so that cubes which are reconstructed badly, likely anomalies, teach less and less. With --use_flow true a second
autoencoder of the block predicts the cube's optical flow from its frames (motion enhancement).

reads   data/D/MODE/bboxes.npy, stc_raw.npy; stc_of.npy with --use_flow true
writes  data/D/MODE/model_ROW_COL.pt    one per block that has cubes: weights, settings, scores of its training cubes
        data/D/MODE/training_log.csv    per epoch and block: loss, weights, scores
        data/D/MODE/epoch_scores.npy    with --score_every N: (E, cubes, 1 or 2) float32
        data/D/MODE/train.json          what they were made from
Every epoch is saved (model_ROW_COL.resume.pt): a stopped run goes on with the next one and ends in the same weights.
"""

from pathlib import Path

import numpy as np
import torch

from models.cae import ReconCAE
from models.spr import self_paced_weights, weighted_loss
from utils import files, record
from utils.config import parse_config
from utils.cubes import Cubes, score
from utils.errors import UserError
from utils.run import Clock, device_of, finishing, locked, precision_of, progress, run
from utils.stc import block_of

SAVED = {"id", "epoch", "step", "log", "epoch_scores", "seconds", "model", "optimizer"}


def main():
    cfg = parse_config(__doc__, stages=("train",))
    folder = Path(cfg.data_root_dir, cfg.dataset_name, cfg.mode)
    cubes_made, boxes_made = record.cubes_of(folder)
    record.require_selection(cfg, cubes_made, folder / "cubes.json")
    device = device_of(cfg.device)
    wanted = record.wanted(cfg, "train", cubes=cubes_made["id"])
    if cfg.verify:
        record.verify_cubes(folder, cfg.use_flow)
    with locked(folder):
        record.require_still(folder / "cubes.json", cubes_made)
        done, why = record.is_done(folder / "train.json", wanted)
        print(f"{folder}: models are {why}")
        if not done:
            for note in boxes_made["notes"]:  # before hours are spent: were all videos there?
                print(note)
            cubes = Cubes(folder, cfg.use_flow, device, cubes_made)
            boxes = record.boxes_of(folder, boxes_made)
            block = block_of(boxes[:, 1:], record.sizes_of(boxes, boxes_made), cfg.h_block, cfg.w_block)
            print(f"reads {folder}: {len(cubes):,} cubes in {len(np.unique(block))} of {cfg.h_block}x{cfg.w_block} blocks, "
                  f"{cfg.precision} on {device}")
            train(cfg, folder, cubes, block, wanted)
        if cfg.verify:
            record.verify_models(folder)
    print(f"next: python test.py --dataset_name {cfg.dataset_name} --mode {cfg.mode}")


def train(cfg, folder, cubes, block, wanted):
    """Trains the blocks one after another; block: (N,) int64, the block of each cube."""
    logs, names, seconds = [], [], 0
    kept = np.zeros((cfg.epochs // cfg.score_every if cfg.score_every else 0, len(cubes), 2 if cfg.use_flow else 1), np.float32)
    for number in np.unique(block):
        row, column = divmod(int(number), cfg.w_block)
        path = folder / f"model_{row}_{column}.pt"
        names.append(path.name)
        rows = np.flatnonzero(block == number)
        finished = files.load_checkpoint(path, SAVED) if path.is_file() else {}
        if finished.get("id") != wanted["id"]:
            finished = train_block(cfg, path, cubes, rows, (row, column), wanted)
        if len(kept):
            kept[:, rows] = torch.stack(finished["epoch_scores"])
        logs += finished["log"]
        seconds += finished["seconds"]
    (folder / "train.json").unlink(missing_ok=True)  # until the new one is written no models are valid
    for other in folder.glob("model_*.pt"):
        if other.name not in names:  # blocks of an earlier grid, and what was saved on the way
            other.unlink()
    (folder / "epoch_scores.npy").unlink(missing_ok=True)
    if len(kept):
        files.save_array(folder / "epoch_scores.npy", kept)
    files.save_csv(folder / "training_log.csv", logs)
    record.save(folder / "train.json", wanted, seconds, models=names)
    print(f"wrote {', '.join(names)} in {folder}: {seconds:,.0f} s")


def train_block(cfg, path, cubes, rows, place, wanted):
    """Trains one block's network from its own start, or from where an earlier run stopped; returns its checkpoint."""
    resume = path.with_suffix(".resume.pt")
    torch.manual_seed(block_seed(cfg.seed, place, 0))
    model = ReconCAE(cfg.num_feature_root, cubes.frames, cfg.use_flow, cubes.flow_frames)
    model = model.to(cubes.device, memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lr=cfg.lr)
    content = files.load_checkpoint(resume, SAVED) if resume.is_file() else {}
    done, step, log, kept = 0, 0, [], []  # epochs done; batches since warm-up; statistics; scores of kept epochs
    if content.get("id") == wanted["id"]:
        model.load_state_dict(content["model"])
        optimizer.load_state_dict(content["optimizer"])
        done, step, log, kept = (content[key] for key in ("epoch", "step", "log", "epoch_scores"))
        print(f"{resume}: going on after epoch {done} of {cfg.epochs}")
    clock = Clock(log[-1]["seconds"] if log else 0)
    autocast = precision_of(cfg.precision, cubes.device)
    with progress(cfg.epochs * len(rows), "cube", f"block {place[0]},{place[1]}") as bar:
        bar.update(done * len(rows))
        for epoch in range(done, cfg.epochs):
            with finishing(f"epoch {epoch + 1}"):
                order = np.random.default_rng(block_seed(cfg.seed, place, 1 + epoch)).permutation(rows)
                batches = (cubes.batch(order[i:i + cfg.batch_size]) for i in range(0, len(order), cfg.batch_size))
                stats, step = train_epoch(model, optimizer, batches, epoch, step, autocast, cfg, bar.update)
                if not np.isfinite(stats["loss"]):
                    raise UserError(f"{path}: the loss is {stats['loss']} in epoch {epoch + 1}: lower --lr, or take "
                                    f"--precision fp32; the epochs before are kept in {resume}")
                if cfg.score_every and (epoch + 1) % cfg.score_every == 0:
                    kept.append(torch.from_numpy(score(model, cubes, rows, cfg.batch_size, autocast)))  # (n, 1 or 2)
                log.append({"row": place[0], "column": place[1], "epoch": epoch + 1, **stats, "seconds": clock()})
                bar.write(f"block {place[0]},{place[1]} epoch {epoch + 1}/{cfg.epochs}: " + describe(log[-1]), file=None)
                content = {**wanted, "block": list(place), "grid": [cfg.h_block, cfg.w_block], "epoch": epoch + 1,
                           "step": step, "log": log, "epoch_scores": kept, "seconds": clock(),
                           "model": model.state_dict(), "optimizer": optimizer.state_dict()}
                files.save_torch(resume, content)
    scored = cfg.score_every and cfg.epochs % cfg.score_every == 0
    scores = kept[-1].numpy() if scored else score(model, cubes, rows, cfg.batch_size, autocast)  # (n, 1 or 2)
    content |= {"scores": torch.from_numpy(scores), "score_mean": scores.mean(axis=0, dtype=np.float64).tolist(),
                "score_std": scores.std(axis=0, dtype=np.float64).tolist(), "seconds": clock()}
    files.save_torch(path, content)
    resume.unlink(missing_ok=True)
    return content


def train_epoch(model, optimizer, batches, epoch, step, autocast, cfg, tick=lambda count: None):
    """One pass over the batches (raw, flow); step counts batches since warm-up. Returns the epoch's statistics and step."""
    sums, count = 0, 0
    for raw, flow in batches:  # (B, 3T, P, P), (B, 2T, P, P) or None
        weights = None
        if epoch >= cfg.warmup_epoch and cfg.sp_mode != "none":
            model.eval()
            with torch.no_grad(), autocast:
                weights = self_paced_weights(model.raw_errors(raw), step, cfg.shrink_rate, cfg.sp_mode)  # (B,)
        step += epoch >= cfg.warmup_epoch
        model.train()
        with autocast:
            raw_errors, flow_errors = model.errors(raw, flow)  # (B,) each
        loss = weighted_loss(raw_errors, weights, raw[0].numel())
        if flow is not None:
            loss = cfg.lambda_raw * loss + cfg.lambda_of * weighted_loss(flow_errors, weights, flow[0].numel())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        sums = sums + statistics(loss.detach(), raw_errors.detach(), weights)  # on the device: nothing waits for it
        count += len(raw)
        tick(len(raw))
    loss, scores, full, none = (sums / count).tolist()
    return {"loss": loss, "score": scores, "weight_1": full, "weight_0": none}, step


def statistics(loss, errors, weights):
    """Sums over a batch: loss * B, raw errors, cubes of weight 1, cubes of weight 0."""
    weights = torch.ones_like(errors) if weights is None else weights
    return torch.stack([loss * len(errors), errors.sum(), (weights == 1).sum(), (weights == 0).sum()]).double()


def block_seed(seed, place, use):
    """A seed of its own for each block and use (0: initial weights, 1 + epoch: the order of the cubes)."""
    return int(np.random.SeedSequence([seed, *place, use]).generate_state(1)[0])


def describe(entry):
    """One line about an epoch."""
    between = 1 - entry["weight_1"] - entry["weight_0"]
    return (f"loss {entry['loss']:.6f}, mean score {entry['score']:.2f}, weights 1/between/0: "
            f"{entry['weight_1']:.1%} / {between:.1%} / {entry['weight_0']:.1%}, {entry['seconds']:,.0f} s")


if __name__ == "__main__":
    run(main)
