"""The cubes of a mode, mapped from their files and turned into batches of network input on the device."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from utils import files, ranks
from utils.errors import UserError

ROOM = 3e9  # bytes of a GPU that networks need


class Batch(NamedTuple):
    """Cubes as network input: a whole batch, or this rank's part of it."""

    raw: torch.Tensor  # (b, 3T, P, P) float32 in 0..1
    flow: torch.Tensor  # (b, 2T, P, P) float32 or None
    count: int  # cubes in the whole batch


class Cubes:
    """raw: (N, 3T, P, P) uint8; flow: (N, 2T, P, P) float16 or None. Both are memory maps: rows are read as needed.

    `to_device` copies them to a GPU as a whole, in the files' own number types.
    """

    def __init__(self, folder, use_flow, device, made):
        """made: the record of the cubes. Raises UserError if flow cubes are wanted but were not made with the raw ones."""
        if use_flow and not made["settings"]["use_flow"]:
            raise UserError(f"{folder}: no flow cubes for motion enhancement: run extract_stc.py --use_flow true")
        self.raw = _mapped(Path(folder, "stc_raw.npy"), "u", 3, made["cubes"])
        self.flow = _mapped(Path(folder, "stc_of.npy"), "f", 2, made["cubes"]) if use_flow else None
        self.frames = self.raw.shape[1] // 3
        self.flow_frames = self.flow.shape[1] // 2 if use_flow else None
        self.device, self.source = torch.device(device), {"raw": self.raw, "flow": self.flow}

    def require_fit(self, model):
        """Raises UserError if a network takes other cubes than these."""
        takes = (model.tot_frame_num, model.flow_frame_num)
        if takes != (self.frames, self.flow_frames):
            raise UserError(f"the model needs cubes of {takes[0]} frames and {takes[1] or 0} flow fields, these have "
                            f"{self.frames} and {self.flow_frames or 0}: run extract_stc.py with the model's settings")

    def to_device(self):
        """Copies all cubes to the GPU if they fit there with the network (0.7 GiB for batches of 256, 1.3 with flow)."""
        maps = {name: array for name, array in self.source.items() if array is not None}
        size = sum(array.nbytes for array in maps.values())
        if size + ROOM < _free_on(self.device):
            print(f"copying all cubes to {self.device}: {size / 1e9:.2f} GB", flush=True)
            self.source = {name: _on_device(array, self.device) for name, array in maps.items()}
        ranks.wait()  # a copy can take longer than the time-out of a batch

    def __len__(self):
        return len(self.raw)

    def batch(self, rows):
        """(B,) row numbers -> raw (B, 3T, P, P) float32 in 0..1, flow (B, 2T, P, P) float32 or None, on the device."""
        raw = self._rows("raw", rows).float().div_(255)
        return raw, None if self.flow is None else self._rows("flow", rows).float()

    def mean_cube_error(self, count=1000):
        """The mean score of cubes if each were reconstructed as the mean cube, from `count` of them, evenly spaced."""
        raw, _ = self.batch(np.unique(np.linspace(0, len(self) - 1, count).astype(int)))
        return (raw - raw.mean(dim=0)).square().sum(dim=(1, 2, 3)).mean().item()

    def _rows(self, name, rows):
        source, device = self.source[name], self.device
        taken = source[_sent(rows, device)] if torch.is_tensor(source) else _sent(source[rows], device)  # a copy
        return taken.contiguous(memory_format=torch.channels_last)


class BlockCubes:
    """The cubes of one image block, in a random order per epoch that depends only on seed, block and epoch."""

    def __init__(self, cubes, rows, batch_size, seed, place):
        """cubes: Cubes; rows: (n,) row numbers of the block's cubes; place: its row and column in the grid."""
        self.all, self.rows, self.batch_size, self.seed, self.place = cubes, rows, batch_size, seed, place

    def __len__(self):
        return len(self.rows)

    def seed_of(self, use):
        """A seed for each use: 0 for the initial weights, an epoch (from 1) for its order."""
        return int(np.random.SeedSequence([self.seed, *self.place, use]).generate_state(1)[0])

    def order(self, epoch):
        """(n,) positions: the cubes' random order in an epoch."""
        return np.random.default_rng(self.seed_of(epoch)).permutation(len(self))

    def shuffled(self, epoch, whole=False):
        """The epoch's batches, one after another: this rank's part of each, or the whole batch."""
        rows = self.rows[self.order(epoch)]
        for batch in (rows[i:i + self.batch_size] for i in range(0, len(rows), self.batch_size)):
            own = slice(None) if whole else ranks.own_part(len(batch))
            yield Batch(*self.all.batch(batch[own]), len(batch))

    def in_order(self, values, epoch):
        """Values (n,) in an epoch's order, put into the order of the block's cubes."""
        sorted_values = torch.empty_like(values)
        sorted_values[self.order(epoch)] = values
        return sorted_values

    def scores(self, model, autocast):
        """(n, 1 or 2): see `score`."""
        return score(model, self.all, self.rows, self.batch_size, autocast)


def _mapped(path, kind, of_frame, count):
    """A file of `count` cubes, memory-mapped; kind: of its dtype; of_frame: channels of one frame."""
    array = files.load_array(path, mmap=True)
    if not (array.ndim == 4 and len(array) == count and array.dtype.kind == kind and array.shape[1] % of_frame == 0
            and array.shape[2] == array.shape[3] and array.shape[2] % 8 == 0 and array.size):
        raise UserError(f"{path}: has shape {array.shape} and type {array.dtype}, not the {count:,} cubes of cubes.json: "
                        "run extract_stc.py again")
    return array


def _free_on(device):
    """Free bytes on a GPU; 0 for the CPU, where a copy would only repeat the map's pages."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0


def _on_device(array, device, rows=4096):
    """A mapped array as a tensor on a device, copied piece by piece."""
    copy = torch.empty(array.shape, dtype=torch.from_numpy(array[:0].copy()).dtype, device=device)
    for start in range(0, len(array), rows):
        copy[start:start + rows] = torch.from_numpy(np.array(array[start:start + rows]))
    return copy


def _sent(array, device):
    """An array as a tensor on a device; to a GPU from pinned memory, without waiting for it."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


@torch.no_grad()
def score(model, cubes, rows, batch_size, autocast, tick=lambda count: None):
    """Every cube's reconstruction losses in eval mode; the ranks take whole batches in turn.

    model: a ReconCAE; cubes: Cubes; rows: (n,) row numbers; tick gets the number of cubes of each batch.
    Returns (n, 1) float32 of the raw losses, or (n, 2) of raw and flow losses.
    """
    model.eval()
    scores = torch.zeros(len(rows), 2 if model.use_flow else 1, device=cubes.device)
    for number, start in enumerate(range(0, len(rows), batch_size)):
        if number % ranks.WORLD == ranks.RANK:
            raw, flow = cubes.batch(rows[start:start + batch_size])
            with autocast:
                errors = model.errors(raw, flow)
            for column, error in zip(scores[start:start + batch_size].T, errors):
                column.copy_(error)
        tick(min(batch_size, len(rows) - start))
    return ranks.total(scores).cpu().numpy()  # each score comes from one rank; it is 0 on the others
