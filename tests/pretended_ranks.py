"""Under torchrun: an epoch of batches of 8 and 1 on pretended cards; rank 0 prints "equal" for each kind of batch norm."""

import contextlib
import os
from types import SimpleNamespace

import torch
import torch._dynamo  # which DDP imports, before anything is replaced
import torch.distributed as dist
from pretended import PLACE, pretended, tensors_in
from torch import nn

from models.cae import ReconCAE
from train import train_epoch
from utils import ranks
from utils.cubes import Batch
from utils.device import device_of

given, init = [], dist.init_process_group
for name in ("all_gather", "all_reduce", "broadcast"):
    def counted(*args, real=getattr(dist, name), **more):  # noqa: B008
        given.extend(str(PLACE.get(tensor)) for tensor in tensors_in(args))
        return real(*args, **more)
    setattr(dist, name, counted)
dist.init_process_group = lambda backend, **more: init("gloo", **more)


class Exchange(torch.autograd.Function):
    """Where SyncBatchNorm exchanges statistics: a collective in the forward pass and one in the backward pass."""

    @staticmethod
    def forward(ctx, values):
        dist.all_reduce(torch.ones(1, device=values.device))
        return values * 1

    @staticmethod
    def backward(ctx, gradient):
        dist.all_reduce(torch.ones(1, device=gradient.device))
        return gradient


def synced(values, weight, bias, *_):
    normal = (values - values.mean()) / 9 if len(values) else values
    return Exchange.apply(normal * weight[:, None, None] + bias[:, None, None])


with pretended(count=4):
    device = device_of("cuda")
    ranks.start(device)
    nn.modules.batchnorm.sync_batch_norm = SimpleNamespace(apply=synced)
    cfg = SimpleNamespace(sp_mode="mixture", shrink_rate=0.05, warmup_epoch=0, lambda_raw=1.0, lambda_of=1.0)
    for sync_bn in (False, True):
        torch.manual_seed(0)
        given.clear()
        model = ReconCAE(4, 5).to(device)
        network = ranks.distributed(model, sync_bn)
        raw = torch.rand(9, 15, 16, 16).to(device)
        parts = [Batch(rows[ranks.own_part(len(rows))], None, len(rows)) for rows in raw.split(8)]
        train_epoch(network, torch.optim.Adam(network.parameters()), parts, 0, 0, contextlib.nullcontext(), cfg)
        weights = sum(parameter.double().sum().item() for parameter in model.parameters())
        own = [len(given), set(given) - {"cpu", "None"} == {str(device)}, weights]
        if ranks.RANK == 0:
            print("equal" if ranks.from_all(own) == [own] * ranks.WORLD and own[1] else "differ", flush=True)
        else:
            ranks.from_all(own)
os._exit(0)
