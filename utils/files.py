"""Reads files that may come from strangers, and writes files that appear whole or not at all.

Nothing here runs code from a file: plain arrays are read without pickle, torch files with `weights_only=True`, and object
arrays of older projects with an unpickler that knows only numpy arrays and numbers.
"""

import contextlib
import csv
import errno
import hashlib
import io
import json
import math
import os
import re
import shutil
import threading
import time
import zipfile
from pathlib import Path

import numpy as np

from utils import legacy, text
from utils.errors import UserError

WAITS = (0.1, 0.3, 1.0) if os.name == "nt" else ()  # seconds to wait for a file that another program has open, on Windows
HEADERS = threading.Lock()  # numpy parses a header as Python code; in two threads at once Python 3.11 sometimes fails


@contextlib.contextmanager
def _reading(path, kind, fix=""):
    """Yields the path of a file that must exist. Any exception while reading becomes a UserError that names it.

    kind: what the file should be; fix: what the user can do.
    """
    path = Path(path)
    if not path.is_file():  # reading a named pipe would wait forever
        raise UserError(f"{path}: no such file")
    try:
        yield path
    except UserError:
        raise
    except Exception as error:  # damaged and hostile files raise any type, even MemoryError
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise UserError(f"{path}: not a {kind} ({reason}){fix}") from None


@contextlib.contextmanager
def _writing(path):
    """Creates a file's folder; a system error while it is written becomes a UserError that names it."""
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        yield
    except (OSError, RuntimeError) as error:
        cause = error if isinstance(error, OSError) else error.__context__  # torch hides the disk's error behind its own
        if not isinstance(cause, OSError) or isinstance(cause, BrokenPipeError):
            raise
        raise UserError(f"{path}: cannot be written ({cause.strerror or cause})") from None


def size(path):
    """Bytes in a file. Raises UserError if there is none."""
    with _reading(path, "readable file") as path:
        return path.stat().st_size


def _hashed(path):
    with _reading(path, "readable file") as path, open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256")


def identity(path):
    """The identity of a file from elsewhere: name and SHA-256 of its content. Raises UserError if it is missing."""
    return [Path(path).name, _hashed(path).hexdigest()]


def sha256(paths):
    """SHA-256 of the contents of files, one after another. Raises UserError if one is missing."""
    return hashlib.sha256(b"".join(_hashed(path).digest() for path in paths)).hexdigest()


def require_room(folder, needed, what, flag):
    """Raises UserError if the disk of a folder, which need not exist yet, has less than `needed` bytes free."""
    there = next(place for place in (Path(folder).absolute(), *Path(folder).absolute().parents) if place.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise UserError(f"{folder}: no room for {what}: needs {needed / 1e9:,.2f} GB, {free / 1e9:,.2f} GB are free: "
                        f"free some space, or set {flag} to a folder on another disk")


def load_array(path, mmap=False):
    """The array in a plain `.npy` file; with `mmap` it is mapped read-only instead of read.

    Raises UserError if the file is missing, truncated, or has pickled objects.
    """
    with _reading(path, "whole plain .npy file") as path:
        with HEADERS:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(array, np.ndarray):
            raise ValueError("it is an archive")
        return array if mmap else np.array(array)


def load_object_array(path):
    """The array in a `.npy` file that may be a pickled object array of numeric arrays, as older projects wrote them.

    Raises UserError if the file is missing, damaged, or refers to anything but numpy arrays and numbers.
    """
    with _reading(path, "readable array of arrays") as path, open(path, "rb") as file:
        version = np.lib.format.read_magic(file)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        return legacy.load(file) if read_header[version](file)[2].hasobject else load_array(path)


def load_torch(path, allow=(), fix="", sums=False):
    """What `torch.save` wrote into a file, read with `weights_only=True` onto the CPU.

    allow: more types that the file may name, as for `torch.serialization.safe_globals`; fix: for the message;
    sums: also compare the checksums, which torch does not.
    Raises UserError if the file is missing, damaged, or refers to anything that is not allowed.
    """
    import torch  # here, because not every stage needs it

    with _reading(path, "whole, safe torch file", fix) as path, torch.serialization.safe_globals(list(allow)):
        if sums or zipfile.is_zipfile(path):
            _check_archive(path, sums)
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            if other := re.search(r"GLOBAL ([\w.]+)", str(error)):
                raise UserError(f"{path}: contains more than tensors ({other[1]}), which is not read: save only the weights, "
                                f"on the original system, with torch.save(model.state_dict(), FILE){fix}") from None
            raise


def _check_archive(path, sums):
    """Raises ValueError if a torch file has compressed data or, with `sums`, a wrong checksum."""
    with zipfile.ZipFile(path) as archive:
        packed = next((info.filename for info in archive.infolist() if info.compress_type), None)
        if packed:  # torch never compresses; a few bytes can unpack to gigabytes
            raise ValueError(f"{packed} is compressed")
        if sums and (damaged := archive.testzip()):
            raise ValueError(f"the checksum of {damaged} differs")


def load_checkpoint(path, keys):
    """The dict that this suite saved into a torch file, with its checksums compared.

    Raises UserError if the file is missing, damaged, or lacks one of these keys.
    """
    fix = ": remove it and run train.py again"
    content = load_torch(path, fix=fix, sums=True)
    if not isinstance(content, dict) or not keys <= content.keys():
        raise UserError(f"{path}: not a checkpoint of train.py{fix}")
    return content


def load_torch_arrays(path):
    """Like `load_torch`, for files that also contain numpy arrays or numbers (official files, other people's weights)."""
    scalar_types = {type(np.dtype(code)) for code in ("f4", "f8", "i4", "i8", "u1", "b1")}
    reconstruct = np._core.multiarray._reconstruct
    makers = {"_reconstruct": reconstruct, "scalar": np._core.multiarray.scalar}
    allow = [(maker, f"numpy.{core}.multiarray.{name}") for core in ("core", "_core") for name, maker in makers.items()]
    return load_torch(path, [*allow, np.ndarray, np.dtype, *sorted(scalar_types, key=str)])


def load_json(path):
    """The object in a JSON file. Raises UserError if the file is missing or damaged."""
    with _reading(path, "whole JSON file", ": remove it and run the stage again") as path:
        return json.loads(path.read_bytes())  # UTF-8, or UTF-16 by its byte order mark


@contextlib.contextmanager
def whole(path, sync=False):
    """Yields `<path>.part`, a new binary file to write to, and renames it to `path` once it is complete.

    sync: waits until it is on the disk, so that it survives a power failure.
    Raises UserError if the disk is full or not writable; the part is then removed.
    """
    path = Path(path)
    part = path.with_name(path.name + ".part")
    try:
        with _writing(path):
            part.unlink(missing_ok=True)  # never write into it: it may be a link
            with open(part, "xb") as file:
                yield file
                file.flush()
                size = file.seek(0, os.SEEK_END)
            if part.stat().st_size != size:
                raise OSError(errno.EIO, f"only {part.stat().st_size:,} of {size:,} bytes were written")
            rename(part, path, sync)
    except BaseException:
        with contextlib.suppress(OSError):  # the folder may have become read-only
            part.unlink(missing_ok=True)
        raise


def log(path, line):
    """Appends a line (bytes) to a log and returns it, open; a link in its place is removed, not followed. Raises UserError."""
    path = Path(path)
    with _writing(path):
        if path.is_symlink() or not path.is_file():
            path.unlink(missing_ok=True)
        file = open(path, "ab")
        file.write(line)
        file.flush()
        return file


def new_folder(path):
    """Creates an empty folder; removes what a stopped run left there, without following a link. Raises UserError."""
    path = Path(path)
    with _writing(path):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        path.mkdir()


def rename(part, path, sync=False):
    """Renames a finished file, replacing an existing one; waits a little if another program has that open.

    sync: waits until it is on the disk, so that a power failure leaves either the old file or the new one.
    """
    if sync:
        with open(part, "r+b") as file:
            os.fsync(file.fileno())
    for seconds in WAITS:
        with contextlib.suppress(PermissionError):
            return os.replace(part, path)
        time.sleep(seconds)
    os.replace(part, path)


def create_array(path, dtype, shape):
    """Creates an `.npy` file of this type and shape, for `write_rows` to fill. Raises UserError if it cannot be written."""
    with _writing(path):
        Path(path).unlink(missing_ok=True)
        with open(path, "xb") as file:
            file.write(npy_header(dtype, shape))
            file.truncate(file.tell() + np.dtype(dtype).itemsize * math.prod(shape))


def write_rows(path, start, parts):
    """Writes arrays into the file of `create_array` from row `start` on, and yields how many rows each had.

    Raises UserError if the disk is full.
    """
    array = np.load(path, mmap_mode="r")
    with _writing(path), open(path, "r+b") as file:
        file.seek(array.offset + start * array.strides[0])
        for part in parts:
            file.write(part.data)
            yield len(part)


def save_array(path, array, sync=False):
    """Writes an array as a plain `.npy` file, whole or not at all."""
    array = np.asarray(array, order="C")
    values = array.reshape(-1).view(np.uint8)  # not by numpy, which writes through C and misses errors in the last block
    with whole(path, sync) as file:
        file.write(npy_header(array.dtype, array.shape))
        file.write(values.data)


def npy_header(dtype, shape):
    """The header bytes of an `.npy` file of this type and shape."""
    header = io.BytesIO()
    description = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": tuple(shape)}
    np.lib.format.write_array_header_1_0(header, description)
    return header.getvalue()


def save_npz(path, arrays):
    """Writes a dict of arrays as an `.npz` file, whole or not at all."""
    with whole(path) as file:
        np.savez(file, **arrays)


def save_json(path, content):
    """Writes a JSON file, whole or not at all."""
    with whole(path, sync=True) as file:
        file.write((json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


def save_csv(path, rows, columns=None):
    """Writes a list of dicts with the same keys as CSV, whole or not at all; columns: those keys, if rows may be empty."""
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, columns or rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: text.cell(value) for key, value in row.items()} for row in rows)
    with whole(path) as file:
        file.write(table.getvalue().encode(errors="backslashreplace"))


def save_torch(path, content):
    """Writes a torch file, whole or not at all."""
    import torch

    with whole(path, sync=True) as file:
        torch.save(content, file)
