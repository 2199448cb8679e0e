"""What the work is done on: cores and threads, the device, the number format. Each is resolved once."""

import functools
import os
import time
from pathlib import Path
from typing import Any, NamedTuple

import joblib

from utils.errors import UserError


class Format(NamedTuple):
    """A number format of networks."""

    autocast: str | None  # the torch type of convolutions and matrix products; None: that of the weights
    native: Any  # function: torch.device -> whether it has instructions for this format


def _computes_in_bf16(device):
    """Whether a device computes in bfloat16 itself; else torch emulates it."""
    import torch

    if device.type == "cuda":
        with torch.cuda.device(device):
            return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu" or not torch.backends.mkldnn.is_available() or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False  # oneDNN, which computes the convolutions, also says yes to AVX-512 without these instructions:
    here = torch.cpu.get_capabilities()
    return any(here.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"))  # the last two: of ARM


FORMATS = {"bf16": Format("bfloat16", _computes_in_bf16), "fp32": Format(None, lambda device: True)}  # fastest first


def fastest_format(device):
    """The first of FORMATS that a torch.device has instructions for: what --precision auto stands for."""
    return next(word for word, number_format in FORMATS.items() if number_format.native(device))


@functools.cache
def tell_emulated(word, device):
    """Says once if a processor or card has no instructions for a number format (of a Mac's GPU that is not known)."""
    if device.type != "mps" and not FORMATS[word].native(device):
        factor = "about 20 times " if device.type == "cpu" else ""
        print(f"note: this {device.type} has no instructions for {word} and emulates it, {factor}slower than fp32: train with "
              "--precision auto (or fp32)", flush=True)


def precision_of(word, device):
    """The autocast context for one of FORMATS on a torch.device. Raises UserError for another word."""
    import torch

    if word not in FORMATS:
        raise UserError(f"number format {word}: must be one of {', '.join(FORMATS)}")
    tell_emulated(word, device)
    number_type = FORMATS[word].autocast
    return torch.autocast(device.type, getattr(torch, number_type or "bfloat16"), enabled=number_type is not None)


def device_of(word):
    """The torch.device for auto (cuda, else mps, else cpu), cpu, cuda:N or mps. Raises UserError if there is no such device."""
    import torch

    apple = torch.backends.mps.is_available()
    if word == "auto":
        if torch.cuda.is_available():
            return torch.device(f"cuda:{os.environ.get('LOCAL_RANK', 0)}")
        alone = os.environ.get("WORLD_SIZE", "1") == "1"  # several processes exchange what lies on the CPU or on cuda
        return torch.device("mps" if apple and alone else "cpu")
    try:
        device = torch.device(word)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda", "mps"):
        raise UserError(f"--device {word}: must be auto, cpu, cuda:N or mps")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device {word}: this machine has {torch.cuda.device_count()} CUDA devices; try --device auto")
    if device.type == "mps" and not apple:
        raise UserError(f"--device {word}: torch finds no GPU of a Mac here; try --device auto")
    return device


def cores():
    """Cores that this process may use, by its affinity and by the limit of its container."""
    return joblib.cpu_count()


def free_cores(seconds=0.3):
    """Of those cores, how many nobody uses just now, at least 1; all of them where only Linux would tell."""
    def idle():
        rows = (line.split() for line in Path("/proc/stat").read_text(encoding="utf-8").splitlines())
        return sum(int(row[4]) + int(row[5]) for row in rows if row[0][3:].isdecimal() and int(row[0][3:]) in mine)

    try:
        mine, ticks = os.sched_getaffinity(0), os.sysconf("SC_CLK_TCK")
        before, start = idle(), time.monotonic()
        time.sleep(seconds)
        return min(cores(), max(1, round((idle() - before) / ticks / (time.monotonic() - start))))
    except (AttributeError, OSError):
        return cores()


def warn_of_busy_cores(device):
    """A line if networks on the CPU would share it with other work."""
    import torch

    if device.type == "cpu" and "WORLD_SIZE" not in os.environ and free_cores() < 0.75 * torch.get_num_threads():
        print(f"note: other processes use this machine's cores: {torch.get_num_threads()} threads may be slower than fewer; "
              "--threads -1 takes as many as cores are free")


def use_threads(count):
    """Sets how many threads networks use.

    count: their number; 0: OMP_NUM_THREADS, else torch's own number but no more than cores that this process may use;
    -1: the cores that are free now, shared by the processes of torchrun.
    """
    import torch

    if count < 0:
        count = max(1, free_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
    elif count == 0:
        count = torch.get_num_threads() if "OMP_NUM_THREADS" in os.environ else min(cores(), torch.get_num_threads())
    torch.set_num_threads(count)


def workers(num_workers):
    """Number of threads that read and prepare frames: one per core that this process may use for -1."""
    return cores() if num_workers < 0 else num_workers
