"""Reading files that may come from strangers, and writing files that appear whole or not at all.

Nothing here ever runs code that a file brings along: plain arrays are read without pickle, torch files with
`weights_only=True`, and the object arrays of older projects by an unpickler that knows numpy arrays and numbers alone.
"""

import contextlib
import csv
import json
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np

from utils.errors import UserError

# What the pickle of an object array of plain arrays is made of, under the names of numpy 1 and numpy 2.
_ARRAY_PARTS = {(f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")}
_ARRAY_PARTS |= {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")}


def _require(path):
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    return path


def size(path):
    """Bytes in a file. Raises UserError if there is none."""
    return _require(path).stat().st_size


def load_array(path, mmap=False):
    """The array in a plain `.npy` file; with `mmap` it is mapped read-only and not read.

    Raises UserError if the file is missing, cut short, or holds pickled objects.
    """
    path = _require(path)
    try:
        return np.load(path, mmap_mode="r" if mmap else None, allow_pickle=False)
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: not a whole plain .npy file ({_first_line(error)})") from None


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module, name):
        if (module, name) in _ARRAY_PARTS:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no array needs")


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
            array = _ArrayUnpickler(file, encoding="latin1").load()
    except UserError:
        raise
    except Exception as error:  # a hostile pickle can raise anything at all
        raise UserError(f"{path}: not a readable array of arrays ({_first_line(error)})") from None
    if not isinstance(array, np.ndarray):
        raise UserError(f"{path}: holds a {type(array).__name__}, not an array")
    return array


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
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
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
        part.unlink(missing_ok=True)
        if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
            raise UserError(f"{path}: cannot be written ({error.strerror or error})") from None
        raise


def create_map(path, dtype, shape):
    """A new `.npy` file of this type and shape, mapped for writing; all its room on the disk is taken at once.

    Raises UserError if there is not enough, which a map would else find out by being killed half-way.
    """
    array = np.lib.format.open_memmap(path, "w+", dtype, shape)
    try:
        with open(path, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, max(os.fstat(file.fileno()).st_size, 1))
    except OSError as error:
        Path(path).unlink()
        raise UserError(f"{path}: no room for {array.nbytes / 1e9:.2f} GB ({error.strerror}): make room, "
                        "then run the same command again") from None
    return array


def save_array(path, array):
    """Writes an array as a plain `.npy` file, whole or not at all."""
    with whole(path) as part, open(part, "wb") as file:
        np.save(file, array, allow_pickle=False)


def save_json(path, content):
    """Writes a JSON file, whole or not at all."""
    with whole(path) as part:
        part.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def save_csv(path, rows, columns=None):
    """Writes a list of dicts with the same keys as CSV, whole or not at all; columns: those keys, where rows may be empty."""
    with whole(path) as part, open(part, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns or rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def save_torch(path, content):
    """Writes a torch file, whole or not at all."""
    import torch

    with whole(path) as part:
        torch.save(content, part)


def _first_line(error):
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
