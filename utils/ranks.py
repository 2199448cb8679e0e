"""Several processes that share one stage's work, started by torchrun. A single process is rank 0 of 1."""

import datetime
import functools
import platform

from utils.errors import UserError
from utils.run import RANK, WORLD

if WORLD > 1:
    import torch
    import torch.distributed as dist

BATCH = datetime.timedelta(minutes=10)  # a process that has not delivered its part of a batch by then hangs
STAGE = datetime.timedelta(days=14)  # videos and blocks can take days; a process that dies ends the wait at once


def start(device=None):
    """Joins the other processes; device: what the work runs on, None for the CPU. Does nothing for one process.

    Raises UserError if two of them share a card.
    """
    if WORLD == 1:
        return
    cuda = device is not None and device.type == "cuda"
    if not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=BATCH)
    card = f"{platform.node()} {torch.cuda.get_device_properties(device).uuid}" if cuda else str(RANK)
    cards = from_all(card)
    if len(set(cards)) < WORLD:
        raise UserError(f"{WORLD} processes share {len(set(cards))} cards: start as many processes as cards")


@functools.cache
def _patient():
    """The group in which all processes wait for each other's videos or blocks."""
    return dist.new_group(backend="gloo", timeout=STAGE)


def wait():
    """Waits until all ranks are here."""
    from_all(None)


def share(costs):
    """The items that this rank does, ascending: the costliest are assigned first, each to the rank with the least so far."""
    loads, mine = [0] * WORLD, []
    for item in sorted(range(len(costs)), key=lambda item: (-costs[item], item)):
        rank = loads.index(min(loads))
        loads[rank] += costs[item]
        if rank == RANK:
            mine.append(item)
    return sorted(mine)


def from_all(content):
    """The content of every rank, in rank order: the same list on all ranks."""
    if WORLD == 1:
        return [content]
    found = [None] * WORLD
    dist.all_gather_object(found, content, group=_patient())
    return found


def own_part(count, rank=RANK):
    """A rank's own slice of a batch of `count`; parts differ by at most one in length."""
    return slice(count * rank // WORLD, count * (rank + 1) // WORLD)


def whole_batch(values, count):
    """The values of a whole batch of `count`, the same on every rank. values: (own part, ...), on any device."""
    if WORLD == 1:
        return values
    padded = values.new_zeros(-(-count // WORLD), *values.shape[1:])
    padded[:len(values)] = values
    parts = [torch.empty_like(padded) for _ in range(WORLD)]
    dist.all_gather(parts, padded)
    lengths = (own.stop - own.start for own in (own_part(count, rank) for rank in range(WORLD)))
    return torch.cat([part[:length] for part, length in zip(parts, lengths)])


def total(values):
    """The sum of a tensor over all ranks."""
    if WORLD > 1:
        dist.all_reduce(values)
    return values


def backward(loss):
    """Gradients of a loss that is the sum of the ranks' parts; the network averages gradients over the ranks."""
    (loss * WORLD).backward()


def distributed(model, sync_bn=False):
    """The model for training: wrapped so that all ranks take the same step, on the mean of their gradients.

    Batch norm's statistics are each rank's own, as in the official DataParallel; with sync_bn those of the whole batch.
    Raises UserError if that is not possible.
    """
    if WORLD == 1:
        return model
    card = next(model.parameters()).device
    if sync_bn and card.type != "cuda":
        raise UserError("--sync_bn true: torch supports batch norm over several processes only on GPUs")
    if sync_bn:
        model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return torch.nn.parallel.DistributedDataParallel(model, [card] if card.type == "cuda" else None, forward_sync_buffers=False)


def train_mode(model, part):
    """Train mode; eval mode, to keep its statistics, for a rank whose part (0, ...) of a small last batch is empty.

    With batch norm over all ranks it trains too, because the others wait for its (empty) statistics.
    """
    model.train(len(part) > 0 or any(type(layer).__name__ == "SyncBatchNorm" for layer in model.modules()))


def same_statistics(model):
    """Gives batch norm the running statistics of rank 0 on every rank, as in the official DataParallel."""
    if WORLD > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)
