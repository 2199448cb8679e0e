"""What the work runs on: cores and threads, the device, the number format. Each is resolved once."""

import functools
import os
import re
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import joblib

from utils.errors import UserError
from utils.run import memory_is_short

os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # cuda:N is nvidia-smi's N; CUDA would put the fastest card first


class Format(NamedTuple):
    """A number format of networks."""

    autocast: str | None  # the torch type of convolutions and matrix products; None: that of the weights
    tf32: bool  # whether a card may round the inputs of float32 products to 10 bits
    native: Any  # function: torch.device -> whether it has instructions for this format


def _computes_in_bf16(device):
    """Whether a device computes in bfloat16 itself; else torch emulates it."""
    import torch

    if device.type == "cuda":
        with torch.cuda.device(device):
            return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu" or not torch.backends.mkldnn.is_available() or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False  # oneDNN, which computes the convolutions, also accepts AVX-512 without these instructions:
    here = torch.cpu.get_capabilities()
    return any(here.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"))  # the last two: ARM


def _has_tf32(device):
    import torch

    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


# In the order of --precision auto, which never picks tf32: a card that has it has bf16 too.
FORMATS = {"bf16": Format("bfloat16", False, _computes_in_bf16), "fp32": Format(None, False, lambda device: True),
           "tf32": Format(None, True, _has_tf32)}


def fastest_format(device):
    """The first of FORMATS that a torch.device has instructions for: what --precision auto means."""
    return next(word for word, number_format in FORMATS.items() if number_format.native(device))


@functools.cache
def tell_emulated(word, device):
    """Notes once if a processor or card has no instructions for a number format (unknown for a Mac's GPU)."""
    if device.type == "mps" or FORMATS[word].native(device):
        return
    if FORMATS[word].tf32:
        print(f"note: this {device.type} has no tf32; using fp32, which is more precise", flush=True)
    else:
        factor = "about 20 times " if device.type == "cpu" else ""
        print(f"note: this {device.type} has no instructions for {word} and emulates it, {factor}slower than fp32: train with "
              "--precision auto or fp32", flush=True)


def precision_of(word, device, training=False):
    """The autocast context for one of FORMATS on a torch.device; also sets whether a card rounds float32 to TF32.

    Raises UserError for another word, or for a training that would be recorded as tf32 and computed in fp32.
    """
    import torch

    if word not in FORMATS:
        raise UserError(f"number format {word}: must be one of {', '.join(FORMATS)}")
    number_type, tf32, native = FORMATS[word]
    if training and tf32 and not native(device):
        raise UserError(f"--precision {word}: needs an NVIDIA card of compute capability 8.0 or higher: use fp32")
    tell_emulated(word, device)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32  # torch's defaults are True and False
    return torch.autocast(device.type, getattr(torch, number_type or "bfloat16"), enabled=number_type is not None)


def device_of(word):
    """The torch.device for auto (cuda, else mps, else cpu), cpu, cuda, cuda:N or mps; under torchrun cuda is the process's own.

    Raises UserError if there is no such device, this torch cannot use the card, or processes outnumber cards.
    """
    import torch

    apple, alone = torch.backends.mps.is_available(), os.environ.get("WORLD_SIZE", "1") == "1"
    if word == "auto":
        trouble = find_card()[1]
        if not trouble or torch.cuda.device_count() and not alone:
            word = "cuda"
        else:  # several processes can only exchange data on the CPU or on cuda
            word = "mps" if apple and alone else "cpu"
            if "no NVIDIA driver" not in trouble and "without CUDA" not in trouble:  # a card is there
                print(f"note: networks run on the CPU: {trouble}", flush=True)
    try:
        device = torch.device(word)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda", "mps"):
        raise UserError(f"--device {word}: must be auto, cpu, cuda, cuda:N or mps")
    if device.type == "mps" and not apple:
        raise UserError(f"--device {word}: torch finds no Mac GPU here; use --device auto")
    if device.type == "cuda":
        number, trouble = find_card(device.index)
        if trouble:
            raise UserError(f"--device {word}: {trouble}; or use --device auto")
        device = torch.device("cuda", number)
        torch.cuda.set_device(device)
        precision_of("fp32", device)
    return device


def find_card(index=None):
    """(number, "") of the card with this index, or this process's own for None; or (None, why torch cannot use it)."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own has several lines; the reason follows
        if not torch.cuda.is_available():
            return None, _no_cuda()
    if os.environ.get("NVIDIA_TF32_OVERRIDE"):
        return None, "the environment variable NVIDIA_TF32_OVERRIDE overrides every number format: unset it"
    count, processes = torch.cuda.device_count(), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    own = int(os.environ.get("LOCAL_RANK", 0)) if count > 1 else 0  # Slurm can show each process only its own card
    number = own if index is None else index
    if index is not None and processes > 1 and count > 1:
        return None, f"all {processes} processes would use this card: omit its number (--device cuda)"
    if number >= count:
        return None, f"this machine has {count} CUDA devices" + (
            f" for {processes} processes: use --nproc_per_node={count}" if index is None else "")
    built_for = [divmod(int(digits), 10) for digits in re.findall(r"sm_(\d+)", " ".join(torch.cuda.get_arch_list()))]
    has = torch.cuda.get_device_capability(number) if built_for else None
    if built_for and has < max(built_for) and not any(has[0] == major and has[1] >= minor for major, minor in built_for):
        return None, (f"cuda:{number} has compute capability {has[0]}.{has[1]}, this torch needs {min(built_for)[0]}."
                      f"{min(built_for)[1]}: install a build for older cards (pytorch.org)")
    return number, ""


def _no_cuda():
    """Why torch finds no card, in its own words."""
    import torch

    if not torch.version.cuda:
        return "this torch is built without CUDA"
    try:
        torch.cuda.init()
    except RuntimeError as error:
        return f"{str(error).partition('. ')[0]} (this torch is built for CUDA {torch.version.cuda})"
    return "torch finds no card"


class InParts:
    """Calls work(items), a list in and a list out, in parts of `size` items; halves the size whenever memory runs out.

    Raises what work raises if even one item is too much.
    """

    def __init__(self, work, size):
        self.work, self.size = work, size

    def __call__(self, items):
        import torch

        found = []
        while len(found) < len(items):
            size = self.size
            try:
                found.extend(self.work(items[len(found):len(found) + size]))
            except Exception as error:
                if size == 1 or not memory_is_short(error):
                    raise
                self.size //= 2
            if self.size < size:  # here, where the error no longer holds what was allocated
                print(f"note: not enough memory: using batches of {self.size} from here on", flush=True)
                torch.cuda.empty_cache()
        return found


def cores():
    """Cores that this process may use, by its affinity and its container's limit."""
    return joblib.cpu_count()


def free_cores(seconds=0.3):
    """How many of those cores are idle now, at least 1; all of them if this is not Linux."""
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
    """Prints a note if networks on the CPU would share it with other work."""
    import torch

    if device.type == "cpu" and "WORLD_SIZE" not in os.environ and free_cores() < 0.75 * torch.get_num_threads():
        print(f"note: other processes use this machine's cores: {torch.get_num_threads()} threads may be slower than fewer; "
              "--threads -1 uses as many as there are free cores")


def use_threads(count, device=None):
    """Sets how many threads torch uses on the CPU.

    count: their number; 0: one if networks run on a card (to gather rows), else OMP_NUM_THREADS, else torch's own number but
    no more than the cores that this process may use; -1: the cores that are free now, divided among torchrun's processes.
    """
    import torch

    if count < 0:
        count = max(1, free_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
    elif count == 0 and device is not None and device.type == "cuda":
        count = 1
    elif count == 0:
        count = torch.get_num_threads() if "OMP_NUM_THREADS" in os.environ else min(cores(), torch.get_num_threads())
    torch.set_num_threads(count)


def workers(num_workers):
    """Number of threads that read and prepare frames; -1: one per core that this process may use."""
    return cores() if num_workers < 0 else num_workers
