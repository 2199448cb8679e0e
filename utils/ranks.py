"""Several processes at one piece of work, as torchrun starts them. One process by itself is rank 0 of 1."""

import atexit
import datetime

from utils.errors import UserError
from utils.run import RANK, WORLD

PATIENCE = datetime.timedelta(days=14)  # how long ranks wait for one another: a stage can take days


def start(device=None):
    """Joins the other processes; device: what the work is done on, None for the CPU. Does nothing for one process."""
    if WORLD > 1:
        import torch.distributed as dist

        if not dist.is_initialized():
            backend = "cpu:gloo,cuda:nccl" if device is not None and device.type == "cuda" else "gloo"
            dist.init_process_group(backend, timeout=PATIENCE)
            atexit.register(dist.destroy_process_group)  # its threads must end before the interpreter does


def wait():
    """Waits until all ranks are here."""
    if WORLD > 1:
        import torch.distributed as dist

        dist.barrier()


def share(costs):
    """Which items this rank does, ascending: the costliest first, each to the rank that has least so far."""
    loads, mine = [0] * WORLD, []
    for item in sorted(range(len(costs)), key=lambda item: (-costs[item], item)):
        rank = loads.index(min(loads))
        loads[rank] += costs[item]
        if rank == RANK:
            mine.append(item)
    return sorted(mine)


def from_all(content):
    """What every rank holds, in order of the ranks: a list, the same on all of them."""
    if WORLD == 1:
        return [content]
    import torch.distributed as dist

    found = [None] * WORLD
    dist.all_gather_object(found, content)
    return found


def own_part(count, rank=RANK):
    """The slice of a batch of `count` that is a rank's own; parts differ by at most one in length."""
    return slice(count * rank // WORLD, count * (rank + 1) // WORLD)


def whole_batch(values, count):
    """The values of a whole batch of `count`, the same on every rank. values: (own part, ...), on any device."""
    if WORLD == 1:
        return values
    import torch
    import torch.distributed as dist

    padded = values.new_zeros(-(-count // WORLD), *values.shape[1:])
    padded[:len(values)] = values
    parts = [torch.empty_like(padded) for _ in range(WORLD)]
    dist.all_gather(parts, padded)
    lengths = (own.stop - own.start for own in (own_part(count, rank) for rank in range(WORLD)))
    return torch.cat([part[:length] for part, length in zip(parts, lengths)])


def total(values):
    """The sum of a tensor over all ranks."""
    if WORLD > 1:
        import torch.distributed as dist

        dist.all_reduce(values)
    return values


def backward(loss):
    """Gradients of a loss that is the sum of the ranks' own parts: the network averages gradients over the ranks."""
    (loss * WORLD).backward()


def network_of(model, sync_bn=False):
    """The model as it is trained: wrapped so that all ranks step alike, on the mean of their gradients.

    Batch norm's statistics are each rank's own, as in the official DataParallel; with sync_bn those of the whole batch.
    Raises UserError where that cannot be done.
    """
    if WORLD == 1:
        return model
    from torch import nn

    if sync_bn and not next(model.parameters()).is_cuda:
        raise UserError("--sync_bn true: torch has batch norm over several processes on GPUs alone")
    if sync_bn:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    devices = [next(model.parameters()).device] if next(model.parameters()).is_cuda else None
    return nn.parallel.DistributedDataParallel(model, devices, forward_sync_buffers=False)


def same_statistics(model):
    """Gives batch norm the running statistics of rank 0 on every rank, as in the official DataParallel."""
    if WORLD > 1:
        import torch.distributed as dist

        for buffer in model.buffers():
            dist.broadcast(buffer, 0)
