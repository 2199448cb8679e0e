"""How a script runs: its errors, progress, device, seed and number format, each decided once."""

import contextlib
import fcntl
import os
import platform
import signal
import sys
import time
from importlib import metadata
from pathlib import Path

from tqdm import tqdm

from utils.errors import UserError

PACKAGES = ("torch", "torchvision", "numpy", "opencv-contrib-python", "scikit-learn", "scipy")


def run(main):
    """Runs a script's main and exits: 0 when done, 2 with one line for a UserError, 130 or 143 when told to stop."""
    told = []

    def stop(number, _):
        told.append(number)
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        sys.exit(128 + (told or [signal.SIGINT])[0])
    except BrokenPipeError:  # the reader of our output has gone
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:
        print(f"error: {error.filename or ''}: {error.strerror or error}", file=sys.stderr)
        sys.exit(2)


def progress(total, unit, what):
    """A progress bar with rate and time left; a line now and then where the output is no terminal."""
    terminal = sys.stderr.isatty()
    return tqdm(total=total, unit=unit, desc=what, smoothing=0.1, dynamic_ncols=terminal, unit_scale=False,
                mininterval=0.2 if terminal else 30, file=sys.stderr)


@contextlib.contextmanager
def locked(folder):
    """Holds a folder for one process; a killed process lets go of it. Raises UserError if another one has it."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror})") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise UserError(f"{folder}: another process is writing there: wait until it is done") from None
    finally:
        os.close(handle)


def workers(num_workers):
    """Number of threads: one per core that this process may use for -1."""
    return len(os.sched_getaffinity(0)) if num_workers < 0 else num_workers


def device_of(word):
    """The torch.device for auto, cpu or cuda:N. Raises UserError if there is no such device."""
    import torch

    if word == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(word)
    except RuntimeError:
        raise UserError(f"--device {word}: must be auto, cpu or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"--device {word}: must be auto, cpu or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device {word}: this machine has {torch.cuda.device_count()} CUDA devices; try --device auto")
    return device


def precision_of(word, device):
    """The autocast context for fp32 or bf16 on a device."""
    import torch

    return torch.autocast(device.type, torch.bfloat16, enabled=word == "bf16")


def versions():
    """Versions of Python and the packages at work, for the record."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


class Clock:
    """Seconds since it was made, over all the processes that a resumed stage took."""

    def __init__(self, before=0.0):
        self.start = time.monotonic() - before

    def __call__(self):
        return round(time.monotonic() - self.start, 1)
