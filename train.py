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
        data/D/MODE/training_log.csv    per epoch and block: loss, thresholds, weights, scores
        data/D/MODE/epoch_weights.npy   (epochs, cubes) float16: the self-paced weight of each cube
        data/D/MODE/epoch_scores.npy    with --score_every N: (E, cubes, 1 or 2) float32
        data/D/MODE/train.json          what they were made from
Every epoch is saved (model_ROW_COL.resume.pt): a stopped run goes on with the next one and ends in the same weights.

The last epoch is a lottery: scores jump between epochs. --recalibrate_bn true and --average_last K end the training in
another way; a training that is done is ended again without being repeated, where the weights that takes were kept.
"""

from pathlib import Path

import numpy as np
import torch

from models.cae import ReconCAE, errors
from models.checkpoint import earlier
from models.ending import end, snapshot
from models.spr import self_paced_weights, thresholds, weighted_loss
from utils import files, plan, ranks, record
from utils.config import parse_config
from utils.cubes import BlockCubes, Cubes
from utils.errors import UserError
from utils.run import Clock, device_of, finishing, free_cores, precision_of, progress, run, use_threads
from utils.stc import block_of


def main():
    cfg = parse_config(__doc__, stages=("train",))
    folder = Path(cfg.data_root_dir, cfg.dataset_name, cfg.mode)
    use_threads(cfg.threads)
    cubes_made, boxes_made = record.cubes_of(folder)
    record.require_selection(cfg, cubes_made, folder / "cubes.json")
    device = device_of(cfg.device)
    ranks.start(device)
    wanted = record.wanted(cfg, "train", cubes=cubes_made["id"])
    if cfg.verify:
        record.verify_cubes(folder, cfg.use_flow)
    with ranks.together(folder):
        record.require_still(folder / "cubes.json", cubes_made)
        done, why = record.is_done(folder / "train.json", wanted)
        print(f"{folder}: models are {why}")
        if not done:
            for note in boxes_made["notes"]:  # before hours are spent: were all videos there?
                print(note)
            cubes = Cubes(folder, cfg.use_flow, device, cubes_made)
            cubes.to_device()
            boxes = record.boxes_of(folder, boxes_made)
            block = block_of(boxes[:, 1:], record.sizes_of(boxes, boxes_made), cfg.h_block, cfg.w_block)
            print(f"reads {folder}: {len(cubes):,} cubes in {len(np.unique(block))} of {cfg.h_block}x{cfg.w_block} blocks, "
                  f"{cfg.precision} on {device}")
            if device.type == "cpu" and ranks.WORLD == 1 and free_cores() < 0.75 * torch.get_num_threads():
                print(f"note: others use this machine's cores: {torch.get_num_threads()} threads may be slower than fewer; "
                      "--threads -1 takes as many as cores are free")
            train(cfg, folder, cubes, block, wanted)
        if cfg.verify and ranks.RANK == 0:
            record.verify_models(folder)
    print(f"next: python test.py --dataset_name {cfg.dataset_name} --mode {cfg.mode}")


def train(cfg, folder, cubes, block, wanted):
    """Trains the blocks one after another; block: (N,) int64, the block of each cube."""
    done = {}  # block -> its checkpoint
    for number in np.unique(block):
        place = divmod(int(number), cfg.w_block)
        of_block = BlockCubes(cubes, np.flatnonzero(block == number), cfg.batch_size, cfg.seed, place)
        done[number] = train_block(cfg, folder / "model_{}_{}.pt".format(*place), of_block, wanted)
    if ranks.RANK == 0:
        collect(cfg, folder, cubes, block, done, wanted)


def collect(cfg, folder, cubes, block, done, wanted):
    """Writes what was kept of all blocks, in order of the cubes; done: block -> its checkpoint."""
    (folder / "train.json").unlink(missing_ok=True)  # until the new one is written no models are valid
    names = ["model_{}_{}.pt".format(*state["block"]) for state in done.values()]
    for other in (*folder.glob("model_*.pt"), *folder.glob("epoch_*.npy")):
        if other.name not in names:  # blocks of an earlier grid, and what was saved on the way
            other.unlink()
    weights = np.empty((cfg.epochs, len(cubes)), np.float16)
    scored = sorted(set.intersection(*(set(state["epoch_scores"]) for state in done.values())))
    scores = np.empty((len(scored), len(cubes), 2 if cfg.use_flow else 1), np.float32)
    for number, state in done.items():
        weights[:, block == number] = torch.stack(state["cube_weights"])
        for index, epoch in enumerate(scored):
            scores[index, block == number] = state["epoch_scores"][epoch]
    files.save_array(folder / "epoch_weights.npy", weights)
    if scored:
        files.save_array(folder / "epoch_scores.npy", scores)
    files.save_csv(folder / "training_log.csv", [entry for state in done.values() for entry in state["log"]])
    seconds = sum(state["seconds"] for state in done.values())
    record.save(folder / "train.json", wanted, seconds, models=names, scored_epochs=scored, ranks=ranks.WORLD)
    print(f"wrote {', '.join(names)} in {folder}: {seconds:,.0f} s")


def train_block(cfg, path, cubes, wanted):
    """Trains one block's network, or goes on where an earlier run stopped, and ends the training; returns its checkpoint."""
    resume = path.with_suffix(".resume.pt")
    state, note = earlier(path, wanted, plan.epochs_to_end(cfg), cfg.epochs)
    if note:
        print(note)
    if state.get("id") == wanted["id"] and "scores" in state:
        return state
    torch.manual_seed(cubes.seed_of(0))
    model = ReconCAE(cfg.num_feature_root, cubes.all.frames, cfg.use_flow, cubes.all.flow_frames)
    model = model.to(cubes.all.device, memory_format=torch.channels_last)
    size = sum(value.nbytes for value in model.state_dict().values())
    room = plan.room(cfg, "train", cubes=len(cubes), network=size)
    files.require_room(path.parent, room, "the checkpoints", "--data_root_dir")
    state = {"epoch": 0, "step": 0, "seconds": 0,  # epochs done; batches since warm-up
             "log": [],  # one entry per epoch
             "cube_weights": [],  # (n,) float16 per epoch
             "recent": [],  # the network's weights after the last epochs
             "epoch_scores": {},  # epoch -> (n, 1 or 2)
             **state, **wanted, "training": record.training_id(wanted),
             "block": list(cubes.place), "grid": [cfg.h_block, cfg.w_block]}
    clock, autocast = Clock(state["seconds"]), precision_of(cfg.precision, cubes.all.device)
    fit(cfg, model, cubes, state, clock, autocast, resume)
    finish(cfg, model, cubes, state, autocast)
    if ranks.RANK == 0:
        files.save_torch(path, state | {"seconds": clock()})
        resume.unlink(missing_ok=True)
    ranks.wait()
    return state


def fit(cfg, model, cubes, state, clock, autocast, resume):
    """Trains a network to its last epoch, from its start or from where `state` is, and keeps `state` up to date."""
    network = ranks.network_of(model, cfg.sync_bn)
    optimizer = torch.optim.Adam(network.parameters(), lr=cfg.lr)
    if 0 < state["epoch"] < cfg.epochs:
        model.load_state_dict(state["recent"][-1])
        optimizer.load_state_dict(state["optimizer"])
        print(f"{resume}: going on after epoch {state['epoch']} of {cfg.epochs}")
    row, column = cubes.place
    with progress(cfg.epochs * len(cubes), "cube", f"block {row},{column}") as bar:
        bar.update(state["epoch"] * len(cubes))
        for epoch in range(state["epoch"], cfg.epochs):
            with finishing(f"epoch {epoch + 1}"):
                batches = cubes.shuffled(epoch + 1)
                stats, weights, step = train_epoch(network, optimizer, batches, epoch, state["step"], autocast, cfg, bar.update)
                if not np.isfinite(stats["loss"]):
                    raise UserError(f"{resume}: the loss is {stats['loss']} in epoch {epoch + 1}: lower --lr, or take "
                                    "--precision fp32; the epochs before are kept")
                state["cube_weights"].append(cubes.in_order(weights.half().cpu(), epoch + 1))
                state["recent"] = [*state["recent"], snapshot(model)][-max(plan.epochs_to_end(cfg), cfg.keep_epochs):]
                if is_scored(cfg, epoch + 1) and epoch + 1 < cfg.epochs:
                    state["epoch_scores"][epoch + 1] = ended_after(cfg, model, cubes, state["recent"], epoch + 1, autocast)[1]
                state["log"].append({"row": row, "column": column, "epoch": epoch + 1, **stats, "seconds": clock()})
                bar.write(f"block {row},{column} epoch {epoch + 1}/{cfg.epochs}: {describe(state['log'][-1])}", file=None)
                state |= {"epoch": epoch + 1, "step": step, "optimizer": optimizer.state_dict(), "seconds": clock()}
                if ranks.RANK == 0:
                    files.save_torch(resume, state)


def finish(cfg, model, cubes, state, autocast):
    """Ends a training: the final network and its scores; where it is ended again, scores of the last epochs as well."""
    recent = state["recent"]
    kept = max(0, len(recent) - plan.epochs_to_end(cfg))
    for back in range(kept, -1, -1):  # epochs whose weights were kept, the last one last
        epoch = cfg.epochs - back
        if back == 0 or is_scored(cfg, epoch) and epoch not in state["epoch_scores"]:
            ended, scores = ended_after(cfg, model, cubes, recent[:len(recent) - back], epoch, autocast)
            state["epoch_scores"] |= {epoch: scores} if is_scored(cfg, epoch) else {}
    state |= {"model": recent[-1] if ended is model else ended.state_dict(), "scores": scores,
              "score_mean": scores.double().mean(dim=0).tolist(),
              "score_std": scores.double().std(dim=0, correction=0).tolist()}


def ended_after(cfg, model, cubes, recent, epoch, autocast):
    """The network as it is if training ends after this epoch, and the scores (n, 1 or 2) of its cubes."""
    ended = end(model, recent[-plan.epochs_to_end(cfg):], cfg.recalibrate_bn, cubes.shuffled(epoch, whole=True), autocast)
    return ended, torch.from_numpy(cubes.scores(ended, autocast))


def is_scored(cfg, epoch):
    """Whether the cubes' scores after this epoch (from 1) are kept."""
    return cfg.score_every > 0 and epoch % cfg.score_every == 0


def train_epoch(network, optimizer, batches, epoch, step, autocast, cfg, tick=lambda count: None):
    """One pass over the batches (see utils.cubes.Batch); epoch counts from 0, step counts batches since warm-up.

    network: a ReconCAE, or what `ranks.network_of` makes of it; of each batch the ranks have a share, but weights come from
    the scores of the whole. Returns the epoch's statistics, the cubes' weights (n,) in order of the batches, and step.
    """
    model = getattr(network, "module", network)
    sums, count, all_weights, limits = torch.zeros(2, dtype=torch.float64), 0, [], []
    for raw, flow, whole in batches:  # (b, 3T, P, P), (b, 2T, P, P) or None, cubes of all ranks
        own, weights = slice(*ranks.cut(whole)[ranks.RANK:][:2]), torch.ones(whole, device=raw.device)
        if epoch >= cfg.warmup_epoch and cfg.sp_mode != "none":
            ranks.take_buffers(model)
            model.eval()
            with torch.no_grad(), autocast:
                scores = ranks.gathered(model.raw_errors(raw), whole)  # (B,)
            weights = self_paced_weights(scores, step, cfg.shrink_rate, cfg.sp_mode)  # (B,)
            if whole > 1:
                limits.append(torch.stack(thresholds(scores, step, cfg.shrink_rate)))
        step += epoch >= cfg.warmup_epoch
        model.train(len(raw) > 0)  # a rank may have no share of a small last batch, and steps with the others all the same
        with autocast:
            raw_errors, flow_errors = errors(network(raw), raw, flow)  # (b,) each
        loss = weighted_loss(raw_errors, weights[own], raw.shape[1:].numel(), whole)
        if flow is not None:
            flow_loss = weighted_loss(flow_errors, weights[own], flow.shape[1:].numel(), whole)
            loss = cfg.lambda_raw * loss + cfg.lambda_of * flow_loss
        optimizer.zero_grad(set_to_none=True)
        (loss * ranks.WORLD).backward()  # gradients are averaged over the ranks
        optimizer.step()
        all_weights.append(weights)
        sums = sums.to(raw.device) + torch.stack([loss.detach() * whole, raw_errors.detach().sum()]).double()  # no waiting
        count += whole
        tick(whole)
    ranks.take_buffers(model)
    all_weights = torch.cat(all_weights)
    full, none = ((all_weights == value).double().mean().item() for value in (1, 0))
    loss, score = (ranks.total(sums) / count).tolist()
    low, high = torch.stack(limits).mean(dim=0).tolist() if limits else ("", "")
    return {"loss": loss, "score": score, "threshold_1": low, "threshold_2": high,
            "weight_1": full, "weight_between": 1 - full - none, "weight_0": none}, all_weights, step


def describe(entry):
    """One line about an epoch."""
    return (f"loss {entry['loss']:.6f}, mean score {entry['score']:.2f}, weights 1/between/0: {entry['weight_1']:.1%} / "
            f"{entry['weight_between']:.1%} / {entry['weight_0']:.1%}, {entry['seconds']:,.0f} s")


if __name__ == "__main__":
    run(main)
