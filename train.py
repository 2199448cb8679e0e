#!/usr/bin/env python
"""Train one autoencoder per image block on unlabelled cubes, with self-paced refinement (paper, section 3.3).

Normal cubes are many and similar, so an autoencoder learns them first (normality advantage). After the warm-up each batch
is first weighted by its own reconstruction losses s, from their mean and standard deviation:

    l1 = mean + std,   l2 = mean + max(1, 4 - t * shrink_rate) * std        t: batches since warm-up
    w  = 1 if s <= l1,   0 if s >= l2,   l1 (l2 - s) / (s (l2 - l1)) between       (mixture; see --sp_mode)
    loss = sum(w * s) / (batch size * channels * P * P)

so cubes that are reconstructed badly, likely anomalies, contribute less and less. With --use_flow true a second
autoencoder per block predicts the cube's optical flow from its frames (motion enhancement).

reads   data/D/MODE/bboxes.npy, stc_raw.npy; stc_of.npy with --use_flow true
writes  data/D/MODE/model_ROW_COL.pt    one per block that has cubes: weights, settings, scores of its training cubes
        data/D/MODE/training_log.csv    per epoch and block: loss, thresholds, weights, scores
        data/D/MODE/epoch_weights.npy   (epochs, cubes) float16: the self-paced weight of each cube
        data/D/MODE/epoch_scores.npy    with --score_every N: (E, cubes, 1 or 2) float32
        data/D/MODE/train.json          what they were made from
Every epoch is saved (train.part/). Run the same command to resume a stopped training; the final weights are the same.

--recalibrate_bn true and --average_last K make the final scores steadier. They also apply to a finished training, without
repeating it, if it kept enough epochs (--keep_epochs).
"""

import numpy as np
import torch

from models.cae import ReconCAE, errors
from models.ending import Ending
from models.spr import self_paced_weights, thresholds, weighted_loss
from models.training import EpochLog, Training, collect, learned, resumed
from utils import ranks, stages
from utils.boxes import Boxes
from utils.config import parse_config
from utils.cubes import BlockCubes, Cubes
from utils.device import device_of, precision_of, use_threads, warn_of_busy_cores
from utils.run import Clock, finishing, print_next, progress, run


def main():
    cfg = parse_config(__doc__, stages=("train",))
    device = device_of(cfg.device)
    use_threads(cfg.threads, device)
    ranks.start(device)
    stage = stages.train(cfg)
    if not stage.is_done():
        boxes = Boxes.load(stage.folder)
        cubes = Cubes(stage.folder, cfg.use_flow, device, stage.read[stage.folder / "cubes.json"])
        with stage.writing(stages.train_room(cfg, len(cubes), build_network(cfg, cubes))) as facts:
            facts |= train(cfg, stage, cubes, boxes)
        print(f"wrote {', '.join(facts.get('models', ()))} in {stage.folder}: {facts['seconds']:,.0f} s")
    print_next("test.py", cfg)


def train(cfg, stage, cubes, boxes):
    """Trains the blocks one after another; returns the record's facts."""
    block = boxes.block((cfg.h_block, cfg.w_block))  # (N,)
    for note in boxes.record["notes"]:  # before spending hours: were all videos there?
        print(note)
    print(f"reading {stage.folder}: {len(cubes):,} cubes in {len(np.unique(block))} of {cfg.h_block}x{cfg.w_block} blocks, "
          f"{cfg.precision} on {cubes.device}")
    warn_of_busy_cores(cubes.device)
    cubes.to_device()
    trained = {}  # block -> its Training
    for number in np.unique(block):
        place = divmod(int(number), cfg.w_block)
        own = BlockCubes(cubes, np.flatnonzero(block == number), cfg.batch_size, cfg.seed, place)
        trained[number] = train_block(cfg, stage, own)
    if ranks.RANK:
        return {}
    return collect(stage, block, trained) | {"learned": learned(trained, cubes.mean_cube_error())}


def train_block(cfg, stage, cubes):
    """Trains one block's network, or resumes, and finishes the training; returns its Training."""
    path, ending = stage.part / "model_{}_{}.pt".format(*cubes.place), Ending.of(cfg)
    state, note = resumed(stage, path.name, ending)
    print(note, end="\n" * bool(note))
    torch.manual_seed(cubes.seed_of(0))
    model = build_network(cfg, cubes.all).to(cubes.all.device, memory_format=torch.channels_last)
    state = state or Training.of(stage, cubes.place, (cfg.h_block, cfg.w_block), model.args)
    if not state.finished:
        autocast = precision_of(cfg.precision, cubes.all.device, training=True)
        train_epochs(cfg, model, cubes, state, ending, autocast, path)
        ending.finish(model, cubes, state, autocast)
    state.save(path)
    ranks.wait()
    return state


def build_network(cfg, cubes):
    """A new network that takes these cubes."""
    return ReconCAE(cfg.num_feature_root, cubes.frames, cfg.use_flow, cubes.flow_frames)


def train_epochs(cfg, model, cubes, state, ending, autocast, path):
    """Trains a network from the epoch in `state` to the last one, and saves `state` after each."""
    clock, network = Clock(state.seconds), ranks.distributed(model, cfg.sync_bn)
    optimizer = torch.optim.Adam(network.parameters(), lr=cfg.lr)
    state.restore(model, optimizer)
    with progress(cfg.epochs * len(cubes), "cube", "block {},{}".format(*cubes.place)) as bar:
        bar.update(state.epoch * len(cubes))
        for epoch in range(state.epoch + 1, cfg.epochs + 1):
            with finishing(f"epoch {epoch}"):
                log, weights, step = train_epoch(
                    network, optimizer, cubes.shuffled(epoch), epoch - 1, state.step, autocast, cfg, bar.update)
                state.add_epoch(model, optimizer, cubes.in_order(weights, epoch), step, log, clock(), ending.kept)
                ending.score(epoch, model, cubes, state, autocast)
                state.save(path)
            bar.write(f"block {state.describe(cfg.epochs)}", file=None)


def train_epoch(network, optimizer, batches, epoch, step, autocast, cfg, tick=lambda count: None):
    """One pass over the batches (utils.cubes.Batch); epoch counts from 0, step counts batches since warm-up.

    network: a ReconCAE, or what `ranks.distributed` makes of it. Each process has a part of each batch, but weights come from
    the scores of the whole batch. Returns the epoch's statistics, the cubes' weights (n,) in batch order, and step.
    """
    model, log = getattr(network, "module", network), EpochLog(tick)
    for batch in batches:
        weights = self_paced(model, batch, epoch, step, autocast, cfg, log)  # (B,)
        ranks.train_mode(model, batch.raw)
        with autocast:
            raw_errors, flow_errors = errors(network(batch.raw), batch.raw, batch.flow)  # (b,) each
        loss = batch_loss(raw_errors, flow_errors, weights[ranks.own_part(batch.count)], batch, cfg)
        optimizer.zero_grad(set_to_none=True)
        ranks.backward(loss)
        optimizer.step()
        step += epoch >= cfg.warmup_epoch
        log.add(batch.count, weights, loss, raw_errors)
    ranks.same_statistics(model)
    return log.statistics(), torch.cat(log.weights), step


def self_paced(model, batch, epoch, step, autocast, cfg, log):
    """Self-paced weights (B,) of a whole batch, from its scores in eval mode; all 1 during the warm-up."""
    if epoch < cfg.warmup_epoch or cfg.sp_mode == "none":
        return torch.ones(batch.count, device=batch.raw.device)
    ranks.same_statistics(model)
    model.eval()
    with torch.no_grad(), autocast:
        scores = ranks.whole_batch(model.raw_errors(batch.raw), batch.count)  # (B,)
    if batch.count > 1:
        log.thresholds.append(torch.stack(thresholds(scores, step, cfg.shrink_rate)))
    return self_paced_weights(scores, step, cfg.shrink_rate, cfg.sp_mode)


def batch_loss(raw_errors, flow_errors, weights, batch, cfg):
    """This process's part of a batch's loss; raw_errors, flow_errors (or None), weights: (b,)."""
    loss = weighted_loss(raw_errors, weights, batch.raw.shape[1:].numel(), batch.count)
    if flow_errors is None:
        return loss
    return cfg.lambda_raw * loss + cfg.lambda_of * weighted_loss(
        flow_errors, weights, batch.flow.shape[1:].numel(), batch.count)


if __name__ == "__main__":
    run(main)
