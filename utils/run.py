"""How a script runs: errors, output, signals, progress, versions."""

import contextlib
import errno
import functools
import hashlib
import os
import platform
import re
import signal
import subprocess
import sys
import time
import traceback
from importlib import metadata
from pathlib import Path

from tqdm import tqdm

from utils.errors import UserError

SUITE = Path(__file__).resolve().parent.parent
PIPELINE = "LBR_SPR_PIPELINE"  # environment variable that run_pipeline.py sets for its stages
PACKAGES = ("torch", "torchvision", "numpy", "opencv-contrib-python", "av", "pillow", "scikit-learn", "scipy")
MEMORY = (r"(?i)(out of|not enough|insufficient|cannot allocate|can't allocate|unable to allocate).{0,9} memory|_ALLOC_FAILED|"
          r"bad_alloc|can't start new thread|unable to allocate")  # in the words of CUDA, torch, C++, Python, numpy and OpenCV
TROUBLES = (  # a library's own words, what they mean, the fix
    (MEMORY, "not enough memory",
     "lower --num_workers (for training: --batch_size or --num_feature_root), or use a larger machine"),
    (r"\bgloo\b|\bNCCL\b|^Dist\w*Error", "another process of this run failed or hung",
     "read its message, then run the same command to resume"),
    (r"\bMPS\b", "a Mac's GPU cannot do this", "add --device cpu to this stage"))
LAUNCHER = {"RANK": r"\d{1,4}", "WORLD_SIZE": r"[1-9]\d{0,3}", "MASTER_ADDR": r".+", "MASTER_PORT": r"\d{1,5}",
            "LOCAL_RANK": r"(\d{1,4})?", "LOCAL_WORLD_SIZE": r"([1-9]\d{0,3})?"}  # environment variables of torchrun


def launched(given):
    """(rank, number of processes) that torchrun started for one stage (utils/ranks.py), from environment variables.

    Without WORLD_SIZE it is one process, whatever RANK another program has set. Raises UserError.
    """
    one = given.get("WORLD_SIZE", "1") == "1"
    wrong = [name for name, pattern in LAUNCHER.items()
             if not (one and not name.startswith("LOCAL")) and not re.fullmatch(pattern, given.get(name, ""))]
    if not wrong and not one and int(given["RANK"]) >= int(given["WORLD_SIZE"]):
        wrong = ["RANK"]
    if wrong:
        raise UserError(f"the environment variable {wrong[0]} is {given.get(wrong[0], 'missing')!a}: start several processes "
                        "with torchrun; for a single one unset RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE")
    return (0, 1) if one else (int(given["RANK"]), int(given["WORLD_SIZE"]))


try:
    RANK, WORLD = launched(os.environ)
except UserError:  # `run` reports it in one line
    RANK, WORLD = 0, 1
_at_work = []  # what a signal must wait for, innermost last
_told = []  # the signals that this process has received


def run(main):
    """Runs a script's main and exits: 0 when done, 2 with one line for a UserError, 130 or 143 when stopped by a signal."""
    _told.clear()
    _open_streams()
    if RANK:  # only rank 0 prints
        sys.stdout = open(os.devnull, "w", encoding="utf-8")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    try:
        code = _code_of(main)
    except Exception:
        if WORLD == 1:
            raise
        traceback.print_exc()
        code = 1
    _flushed(sys.stdout), _flushed(sys.stderr)
    if WORLD > 1:  # no clean-up: torch's would wait for the other processes
        os._exit(code)
    sys.exit(code)


def _code_of(main):
    """Runs main; returns the exit code and prints a line about what went wrong."""
    try:
        launched(os.environ)
        return _all_printed(main)
    except UserError as error:
        return _failed(f"error: {error}" if not RANK else f"error (rank {RANK}): {error}")
    except KeyboardInterrupt:
        return _failed("stopped; run the same command to resume", 128 + (_told or [signal.SIGINT])[0])
    except BrokenPipeError:  # nobody reads our output any more
        return 1
    except Exception as error:
        meaning = _meaning(error)
        if not meaning and isinstance(error, OSError):
            place = error.filename or ("standard output or a file" if _flushed(sys.stdout) else "standard output")
            meaning = f"{place}: {error.strerror or error}"
        if not meaning:
            raise
        return _failed(f"error: {meaning}")


def _all_printed(main):
    """Runs main and flushes its output, so that a full disk shows here at the latest."""
    code = 0
    try:
        main()
    except SystemExit as stop:  # from argparse
        code = stop.code or 0
    sys.stdout.flush()
    return code


def memory_is_short(error):
    """Whether an exception, from whatever library, means that memory ran out."""
    without = isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM
    return without or re.search(MEMORY, str(error)) is not None


def _meaning(error):
    """A line about a library's error, or ""."""
    reason = str(error).partition("\n")[0][:120] or type(error).__name__
    for words, meaning, way_out in TROUBLES:
        if re.search(words, f"{type(error).__name__}: {error}") or words is MEMORY and memory_is_short(error):
            return f"{meaning} ({reason}): {way_out}"
    return ""


def _open_streams():
    """Reopens closed standard streams (2>&-), else the next file that is opened would get their number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")
    sys.stderr = sys.stderr or sys.stdout
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # for names that the terminal cannot encode


def _failed(line, code=2):
    """Prints why the script ends; returns the exit code."""
    for stream in (sys.stderr, sys.stdout):
        with contextlib.suppress(OSError):  # one of them, or both, may be a file on a full disk
            print(line, file=stream, flush=True)
            break
    return code


def _flushed(stream):
    """Whether a stream took all that was printed; if not, the rest is discarded, so that Python can exit quietly."""
    try:
        stream.flush()
        return True
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return False


def _stop(number, _):
    """SIGINT or SIGTERM: the first waits for the block in `finishing`; a second ends the process at once."""
    _told.append(number)
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_DFL)  # at once even if a library hangs
    if not _at_work:
        raise KeyboardInterrupt
    with contextlib.suppress(OSError):
        line = f"\nstopping after {_at_work[-1]} (press Ctrl-C again to quit now)\n"
        os.write(2, line.encode())  # print is not re-entrant


@contextlib.contextmanager
def finishing(what):
    """Delays SIGINT and SIGTERM until the block is done and saved. Yields a list that holds the signals received."""
    _at_work.append(what)
    try:
        yield _told
    finally:
        _at_work.pop()
    if _told:
        raise KeyboardInterrupt


def run_stage(command, **more):
    """Runs a stage in its own process and waits for it, also after a signal; returns its exit code.

    Ctrl-C reaches both processes from the terminal; every SIGTERM is passed on. more: for subprocess.Popen.
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
    """A progress bar with rate and time left; an occasional line if the output is not a terminal."""
    terminal = sys.stderr.isatty()
    return tqdm(total=total, unit=unit, desc=what, smoothing=0.1, dynamic_ncols=terminal, unit_scale=False,
                mininterval=0.2 if terminal else 30, file=sys.stderr, disable=RANK > 0)


@functools.cache
def code():
    """A hash of the suite's own sources."""
    folders = (".", "utils", "utils/evaluation", "models", "fore_det", "FlowNet2_src")
    sources = sorted(path for folder in folders for path in SUITE.glob(f"{folder}/*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]


@functools.cache
def versions():
    """Versions of this code, Python and packages, the processor, and the GPU if there is one, for the record.

    code: see `code`; git: what `git describe` says, if available ("-dirty": with changes).
    """
    found = {"code": code(), "python": platform.python_version()}
    found["processor"] = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            found["processor"] = next(line for line in lines if line.startswith("model name")).partition(":")[2].strip()
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        git = ["git", "-C", str(SUITE), "describe", "--always", "--dirty"]
        found["git"] = subprocess.run(git, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def print_next(script, cfg):
    """Prints the command to run next, unless run_pipeline.py starts it."""
    if PIPELINE not in os.environ:
        print(f"next: python {script} --dataset_name {cfg.dataset_name} --mode {cfg.mode}")


class Clock:
    """Seconds since it was created, plus those of the runs before a resumed stage."""

    def __init__(self, before=0.0):
        self.start = time.monotonic() - before

    def __call__(self):
        return round(time.monotonic() - self.start, 1)
