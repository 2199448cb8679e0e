"""Several processes at one piece of work, as torchrun starts them. One process by itself is rank 0 of 1."""

import atexit
import contextlib
import datetime
import os

from utils.errors import UserError
from utils.run import RANK, locked

WORLD = int(os.environ.get("WORLD_SIZE", 1))
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


@contextlib.contextmanager
def together(folder):
    """Holds a folder for all ranks of a run: rank 0 locks it, the others go in once it has."""
    start()
    with locked(folder) if RANK == 0 else contextlib.nullcontext():
        wait()
        yield
        wait()


def share(costs):
    """Which items this rank does, ascending: the costliest first, each to the rank that has least so far."""
    loads, mine = [0] * WORLD, []
    for item in sorted(range(len(costs)), key=lambda item: (-costs[item], item)):
        rank = loads.index(min(loads))
        loads[rank] += costs[item]
        if rank == RANK:
            mine.append(item)
    return sorted(mine)


def each(content):
    """What every rank holds, in order of the ranks: a list, the same on all of them."""
    if WORLD == 1:
        return [content]
    import torch.distributed as dist

    found = [None] * WORLD
    dist.all_gather_object(found, content)
    return found


def cut(count):
    """Where each rank's share of a batch starts and ends: WORLD + 1 bounds, shares differ by at most one."""
    return [count * rank // WORLD for rank in range(WORLD + 1)]


def gathered(values, count):
    """The values of a whole batch, from each rank's share of it as `cut` gives them.

    values: (own share, ...) a tensor on any device; count: of the batch. Returns (count, ...), the same on every rank.
    """
    if WORLD == 1:
        return values
    import torch
    import torch.distributed as dist

    bounds = cut(count)
    widest = max(b - a for a, b in zip(bounds, bounds[1:]))
    padded = values.new_zeros(widest, *values.shape[1:])
    padded[:len(values)] = values
    parts = [torch.empty_like(padded) for _ in range(WORLD)]
    dist.all_gather(parts, padded)
    return torch.cat([part[:b - a] for part, a, b in zip(parts, bounds, bounds[1:])])


def total(values):
    """The sum of a tensor over all ranks."""
    if WORLD > 1:
        import torch.distributed as dist

        dist.all_reduce(values)
    return values


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


def take_buffers(model):
    """Batch norm's running statistics as rank 0 has them, as in the official DataParallel."""
    if WORLD > 1:
        import torch.distributed as dist

        for buffer in model.buffers():
            dist.broadcast(buffer, 0)
