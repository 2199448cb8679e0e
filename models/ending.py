"""How a training ends: with the last epoch's network, as in the official code, or with a more stable one."""

import copy
from typing import NamedTuple

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel


class Ending(NamedTuple):
    """How a training of `epochs` ends, and what it keeps on the way."""

    epochs: int
    average_last: int  # average the weights of the last so many epochs; 0: use the last ones
    recalibrate_bn: bool  # whether to re-estimate batch norm's statistics
    score_every: int  # keep the cubes' scores after each N-th epoch; 0: never
    keep_epochs: int  # keep the weights of the last so many epochs

    @classmethod
    def of(cls, cfg):
        """From the settings of the same names."""
        return cls(cfg.epochs, cfg.average_last, cfg.recalibrate_bn, cfg.score_every, cfg.keep_epochs)

    @property
    def needed(self):
        """How many of the last epochs' weights are needed."""
        return max(1, self.average_last)

    @property
    def kept(self):
        """How many of the last epochs' weights are kept."""
        return max(self.needed, self.keep_epochs)

    def is_scored(self, epoch):
        """Whether the cubes' scores after this epoch (from 1) are kept."""
        return self.score_every > 0 and epoch % self.score_every == 0

    def after(self, epoch, model, cubes, state, autocast):
        """The network if training ended after this epoch, and the scores (n, 1 or 2) of its cubes.

        model: of the right shape, left with the epoch's weights; cubes: utils.cubes.BlockCubes; state: a
        models.training.Training.
        """
        recent = state.recent[:len(state.recent) - (state.epoch - epoch)][-self.needed:]
        ended = final_network(model, recent, self.recalibrate_bn, cubes.shuffled(epoch, whole=True), autocast)
        return ended, torch.from_numpy(cubes.scores(ended, autocast))

    def score(self, epoch, model, cubes, state, autocast):
        """Keeps the cubes' scores after this epoch if requested; `finish` adds those after the last one."""
        if self.is_scored(epoch) and epoch < self.epochs:
            state.epoch_scores[epoch] = self.after(epoch, model, cubes, state, autocast)[1]

    def finish(self, model, cubes, state, autocast):
        """Ends a training with the final network and its scores; if it is ended again, also scores its last kept epochs."""
        again = max(0, len(state.recent) - self.needed)
        for epoch in range(self.epochs - again, self.epochs + 1):
            if epoch == self.epochs or self.is_scored(epoch) and epoch not in state.epoch_scores:
                ended, scores = self.after(epoch, model, cubes, state, autocast)
                state.epoch_scores |= {epoch: scores} if self.is_scored(epoch) else {}
        state.finish(state.recent[-1] if ended is model else snapshot(ended), scores)


def snapshot(model):
    """A copy of a network's weights and statistics, on the CPU."""
    return {name: value.detach().to("cpu", copy=True) for name, value in model.state_dict().items()}


def final_network(model, recent, recalibrate, batches, autocast):
    """A training's final network: `model` itself, left with the last weights, or a copy.

    recent: one state dict, or those of several epochs, which are averaged (stochastic weight averaging). After averaging, or
    with `recalibrate`, batch norm's running statistics are re-estimated: their plain mean over the batches (raw, flow). In
    training they are moving averages dominated by the last few batches, so scores jump between epochs.
    """
    model.load_state_dict(recent[-1])
    if len(recent) == 1 and not recalibrate:
        return model
    averaged, carrier = AveragedModel(model), copy.deepcopy(model)
    for state in recent:
        carrier.load_state_dict(state)
        averaged.update_parameters(carrier)
    with torch.no_grad(), autocast:
        estimate_statistics(averaged.module, batches)
    return averaged.module


def estimate_statistics(model, batches):
    """Like torch's update_bn, which reads the number of batches from the device and so waits once per layer and batch."""
    layers = [layer for layer in model.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
    model.train()
    for number, (raw, *_) in enumerate(batches, 1):
        for layer in layers:
            layer.momentum = 1 / number  # a plain mean
        model(raw)
    for layer, momentum in zip(layers, momenta):
        layer.momentum = momentum
