"""How a training ends: with the last epoch's network, as the official code, or with a steadier one."""

import copy

import torch
from torch.optim.swa_utils import AveragedModel, update_bn


def snapshot(model):
    """A copy of a network's weights and statistics, on the CPU."""
    return {name: value.detach().to("cpu", copy=True) for name, value in model.state_dict().items()}


def end(model, recent, recalibrate, batches, autocast):
    """The network that a training ends with.

    model: of the right shape, is left with the last weights; recent: one state dict, or those of several epochs, whose
    mean is taken (stochastic weight averaging). With a mean, or with `recalibrate`, batch norm's running statistics are
    estimated anew: their plain mean over the batches (raw, flow). In training they are moving averages that mostly know
    the last few batches, by the weights of before, which is why the scores of this network jump between epochs.
    Returns `model` itself, or a copy.
    """
    model.load_state_dict(recent[-1])
    if len(recent) == 1 and not recalibrate:
        return model
    averaged, carrier = AveragedModel(model), copy.deepcopy(model)
    for state in recent:
        carrier.load_state_dict(state)
        averaged.update_parameters(carrier)
    with torch.no_grad(), autocast:
        update_bn(batches, averaged.module)
    return averaged.module
