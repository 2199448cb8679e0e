"""Reading files that may come from strangers, and writing files that appear whole or not at all.

Nothing here ever runs code that a file brings along: plain arrays are read without pickle, torch files with
`weights_only=True`, and the object arrays of older projects by an unpickler that knows numpy arrays and numbers alone.
"""

import contextlib
import csv
import hashlib
import json
import math
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np

from utils import legacy, text
from utils.errors import UserError


def _require(path):
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    return path


def size(path):
    """Bytes in a file. Raises UserError if there is none."""
    return _require(path).stat().st_size


def sha256(paths):
    """SHA-256 of the contents of files, one after another. Raises UserError if one is missing."""
    whole = hashlib.sha256()
    for path in paths:
        with open(_require(path), "rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()


def require_room(folder, needed, what, flag):
    """Raises UserError if the disk of a folder, which need not be there yet, has less than `needed` bytes free."""
    there = next(place for place in (Path(folder).absolute(), *Path(folder).absolute().parents) if place.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise UserError(f"{folder}: no room for {what}: {needed / 1e9:,.2f} GB, and {free / 1e9:,.2f} GB are free there: "
                        f"make room, or give {flag} on another disk")


def load_array(path, mmap=False):
    """The array in a plain `.npy` file; with `mmap` it is mapped read-only and not read.

    Raises UserError if the file is missing, cut short, or holds pickled objects.
    """
    path = _require(path)
    try:
        array = np.load(path, mmap_mode="r" if mmap else None, allow_pickle=False)
    except Exception as error:  # a damaged header can raise many types, of memory among them
        raise UserError(f"{path}: not a whole plain .npy file ({_first_line(error)})") from None
    if not isinstance(array, np.ndarray):
        raise UserError(f"{path}: not a whole plain .npy file (it is an archive)")
    return array


def load_object_array(path):
    """The array in a `.npy` file that may be a pickled object array of numeric arrays, as older projects wrote them.

    Raises UserError if the file is missing, damaged, or asks for anything but numpy arrays and numbers.
    """
    path = _require(path)
    try:
        with open(path, "rb") as file:
            version = np.lib.format.read_magic(file)
            read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            dtype = read_header[version](file)[2]
            if not dtype.hasobject:
                return load_array(path)
            return legacy.load(file)
    except UserError:
        raise
    except Exception as error:  # a hostile pickle can raise anything at all
        raise UserError(f"{path}: not a readable array of arrays ({_first_line(error)})") from None


def load_torch(path, allow=()):
    """What `torch.save` put into a file, read with `weights_only=True` onto the CPU.

    allow: further types that the file may name, as `torch.serialization.safe_globals` takes them.
    Raises UserError if the file is missing, damaged, or asks for anything that is not allowed.
    """
    import torch  # here, because not every stage needs it

    path = _require(path)
    try:
        with torch.serialization.safe_globals(list(allow)):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged archives raise many different types
        raise UserError(f"{path}: not a whole, safe torch file ({_first_line(error)})") from None


def load_checkpoint(path, keys):
    """The dict that this suite has saved into a torch file, after its checksums were compared, which torch itself leaves out.

    Raises UserError if the file is missing, damaged, or has not all of these keys.
    """
    mend = "remove it and run train.py again"
    try:
        with zipfile.ZipFile(_require(path)) as archive:
            damaged = archive.testzip()
    except UserError:
        raise
    except Exception as error:  # damaged archives raise many different types
        damaged = error
    if damaged:
        raise UserError(f"{path}: not a whole, safe torch file (a checksum differs, {_first_line(damaged)}): {mend}")
    try:
        content = load_torch(path)
    except UserError as error:
        raise UserError(f"{error}: {mend}") from None
    if not isinstance(content, dict) or not keys <= content.keys():
        raise UserError(f"{path}: is no checkpoint of train.py: {mend}")
    return content


def load_torch_arrays(path):
    """Like `load_torch`, for files in which old versions of numpy left arrays (official model and score files)."""
    scalar_types = {type(np.dtype(code)) for code in ("f4", "f8", "i4", "i8", "u1", "b1")}
    reconstruct = np._core.multiarray._reconstruct
    allow = [(reconstruct, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")]
    return load_torch(path, [*allow, np.ndarray, np.dtype, *sorted(scalar_types, key=str)])


def load_json(path):
    """The object in a JSON file. Raises UserError if the file is missing or damaged."""
    path = _require(path)
    try:
        return json.loads(path.read_bytes())  # UTF-8, or UTF-16 by its byte order mark
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a whole JSON file ({_first_line(error)}): remove it and run the stage again") from None


@contextlib.contextmanager
def whole(path):
    """Gives `<path>.part` to write to, and renames it to `path` once it is complete.

    Raises UserError if the disk is full or the place cannot be written; the part is then removed.
    """
    path = Path(path)
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        os.replace(part, path)
    except BaseException as error:
        with contextlib.suppress(OSError):  # the folder may have become read-only
            part.unlink(missing_ok=True)
        if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
            raise UserError(f"{path}: cannot be written ({error.strerror or error})") from None
        raise


def create_map(path, dtype, shape):
    """A new `.npy` file of this type and shape, mapped for writing; all its room on the disk is taken at once.

    Raises UserError if there is not enough, which a map would else find out by being killed half-way.
    """
    try:
        array = np.lib.format.open_memmap(path, "w+", dtype, shape)
        with open(path, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, max(os.fstat(file.fileno()).st_size, 1))
    except OSError as error:
        Path(path).unlink(missing_ok=True)
        size = np.dtype(dtype).itemsize * math.prod(shape)
        raise UserError(f"{path}: no room for {size / 1e9:,.2f} GB ({error.strerror}): make room, "
                        "then run the same command again") from None
    return array


def save_array(path, array):
    """Writes an array as a plain `.npy` file, whole or not at all."""
    with whole(path) as part, open(part, "wb") as file:
        np.save(file, array, allow_pickle=False)


def save_npz(path, arrays):
    """Writes a dict of arrays as an `.npz` file, whole or not at all."""
    with whole(path) as part, open(part, "wb") as file:
        np.savez(file, **arrays)


def save_json(path, content):
    """Writes a JSON file, whole or not at all."""
    with whole(path) as part:
        part.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def save_csv(path, rows, columns=None):
    """Writes a list of dicts with the same keys as CSV, whole or not at all; columns: those keys, where rows may be empty."""
    with whole(path) as part, open(part, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.DictWriter(file, columns or rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: text.cell(value) for key, value in row.items()} for row in rows)


def save_torch(path, content):
    """Writes a torch file, whole or not at all."""
    import torch

    with whole(path) as part, open(part, "wb") as file:  # given a path torch hides why it failed
        torch.save(content, file)


def _first_line(error):
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
