"""How a script runs: its errors, progress, device, seed and number format, each decided once."""

import contextlib
import fcntl
import functools
import hashlib
import os
import platform
import re
import signal
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

from tqdm import tqdm

from utils.errors import UserError

SUITE = Path(__file__).resolve().parent.parent
PACKAGES = ("torch", "torchvision", "numpy", "opencv-contrib-python", "scikit-learn", "scipy")


RANK = int(os.environ.get("RANK", 0))  # of the processes that torchrun started for one stage (utils/ranks.py)

_at_work = []  # what a signal has to wait for, innermost last
_told = []  # the signals that this process has got


def run(main):
    """Runs a script's main and exits: 0 when done, 2 with one line for a UserError, 130 or 143 when told to stop."""
    _told.clear()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):  # a terminal that knows no UTF-8 gets escapes
            stream.reconfigure(errors="backslashreplace")
    if RANK:  # rank 0 alone tells what goes on
        sys.stdout = open(os.devnull, "w")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    try:
        main()
        if "WORLD_SIZE" in os.environ:  # torch's threads can abort a process that ends while others are still at it
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(0)
    except UserError as error:
        print(f"error: {error}" if not RANK else f"error (rank {RANK}): {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        sys.exit(128 + (_told or [signal.SIGINT])[0])
    except BrokenPipeError:  # the reader of our output has gone
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:
        print(f"error: {error.filename or ''}: {error.strerror or error}", file=sys.stderr)
        sys.exit(2)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not re.search("(out of|not enough) memory", str(error)):  # torch's own words
            raise
        print(f"error: not enough memory ({str(error).splitlines()[0][:120] if str(error) else 'it is full'}): lower "
              "--batch_size, --patch_size or --num_workers, or take a larger machine", file=sys.stderr)
        sys.exit(2)


def _stop(number, _):
    """SIGINT or SIGTERM: the first one waits for what `finishing` holds; a second one ends the process at once."""
    _told.append(number)
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_DFL)  # at once also where a library hangs
    if not _at_work:
        raise KeyboardInterrupt
    with contextlib.suppress(OSError):
        os.write(2, f"\nstopping after {_at_work[-1]} (once more: at once)\n".encode())  # print may not be entered twice


@contextlib.contextmanager
def finishing(what):
    """Holds SIGINT and SIGTERM back until the block is done and saved. Gives a list that is no longer empty once one came."""
    _at_work.append(what)
    try:
        yield _told
    finally:
        _at_work.pop()
    if _told:
        raise KeyboardInterrupt


def run_stage(command, **more):
    """Runs a stage as a process of its own and waits until it has finished its item; returns its exit code.

    Ctrl-C reaches both processes from the terminal; SIGTERM is handed on, as often as it comes. more: for subprocess.Popen.
    """
    stage = subprocess.Popen(command, **more)

    def told(number, _):
        _told.append(number)
        if number == signal.SIGTERM:
            stage.send_signal(number)

    before = {number: signal.signal(number, told) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        code = stage.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if _told:
        raise KeyboardInterrupt
    return code


def progress(total, unit, what):
    """A progress bar with rate and time left; a line now and then where the output is no terminal."""
    terminal = sys.stderr.isatty()
    return tqdm(total=total, unit=unit, desc=what, smoothing=0.1, dynamic_ncols=terminal, unit_scale=False,
                mininterval=0.2 if terminal else 30, file=sys.stderr, disable=RANK > 0)


@contextlib.contextmanager
def locked(folder, shared=False):
    """Holds a folder for one process; a killed process lets go of it. Raises UserError if another one has it.

    shared: only that nobody may write there meanwhile; where the folder can't be written it is not held at all.
    """
    folder, flags = Path(folder), os.O_CREAT | (os.O_RDONLY if shared else os.O_RDWR)
    try:
        if not shared:
            folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / ".lock", flags, 0o644)
    except OSError as error:
        if not shared:
            raise UserError(f"{folder}: cannot be written ({error.strerror})") from None
        handle = os.open(os.devnull, os.O_RDONLY)
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise UserError(f"{folder}: another process is at work there: wait until it is done") from None
    try:
        yield
    finally:
        os.close(handle)


def cores():
    """Cores that this process may use, by its affinity and by the limit of its container (cgroup v2)."""
    allowed = len(os.sched_getaffinity(0))
    with contextlib.suppress(OSError, ValueError):  # no such file, or "max"
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        allowed = min(allowed, max(1, round(int(quota) / int(period))))
    return allowed


def free_cores(seconds=0.3):
    """Of those cores, how many nobody uses just now, at least 1."""
    def idle():
        rows = (line.split() for line in Path("/proc/stat").read_text().splitlines())
        return sum(int(row[4]) + int(row[5]) for row in rows if row[0][3:].isdecimal() and int(row[0][3:]) in mine)

    mine = os.sched_getaffinity(0)
    before, start = idle(), time.monotonic()
    time.sleep(seconds)
    ticks = (idle() - before) / os.sysconf("SC_CLK_TCK") / (time.monotonic() - start)
    return min(cores(), max(1, round(ticks)))


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


def device_of(word):
    """The torch.device for auto, cpu or cuda:N. Raises UserError if there is no such device."""
    import torch

    if word == "auto":
        own = int(os.environ.get("LOCAL_RANK", 0))
        return torch.device(f"cuda:{own}" if torch.cuda.is_available() else "cpu")
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


@functools.cache
def versions():
    """Versions of this code, Python and the packages at work, for the record.

    code: a hash of the suite's own sources, and what git calls them where it is at hand ("-dirty": with changes).
    """
    folders = (".", "utils", "utils/evaluation", "models", "fore_det", "FlowNet2_src")
    sources = sorted(path for folder in folders for path in SUITE.glob(f"{folder}/*.py"))
    found = {"code": hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16],
             "python": platform.python_version()}
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        git = ["git", "-C", str(SUITE), "describe", "--always", "--dirty"]
        found["git"] = subprocess.run(git, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
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
