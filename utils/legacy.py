"""Reads the object arrays of older projects without numpy's own unpickling.

A pickle is a program. This one may name only the five things that an array of numeric arrays is made of, and gets
stand-ins for them: they check the few arguments that such a file contains and build arrays from plain bytes.
"""

import pickle
import pickletools
import re

import numpy as np

MOST = 1 << 30  # bytes of all arrays, each counted as often as it is named

_OPCODES = {  # those of protocols 0 to 4 that arrays of numbers use
    "PROTO", "FRAME", "STOP", "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD", "MARK", "NONE", "NEWTRUE", "NEWFALSE",
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "FLOAT", "BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING",
    "BINBYTES", "SHORT_BINBYTES", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2",
    "TUPLE3", "EMPTY_LIST", "LIST", "APPEND", "APPENDS", "GET", "BINGET", "LONG_BINGET", "PUT", "BINPUT", "LONG_BINPUT",
    "MEMOIZE"}


def load(file):
    """The array in an open `.npy` file of objects, positioned after its header.

    Returns an array of numbers, or an object array of such arrays and of numbers. Raises UnpicklingError, or any
    error from damaged bytes, if the file contains anything else.
    """
    start = file.tell()
    for opcode, value, position in pickletools.genops(file):
        if opcode.name not in _OPCODES:
            raise pickle.UnpicklingError(f"it contains the opcode {opcode.name}, which no array needs")
        if opcode.name.endswith("PUT") and int(value) > position:  # the unpickler would allocate that many at once
            raise pickle.UnpicklingError("it memoizes more objects than it contains")
    file.seek(start)
    found = _Unpickler(file, encoding="latin1").load()
    if not isinstance(found, _Array):
        raise pickle.UnpicklingError(f"it contains a {type(found).__name__.strip('_')}, not an array")
    return found.array(objects=True)


class _Type:
    """In place of numpy.dtype of numbers, or of objects."""

    def __init__(self, code, align=False, copy=False):
        if not isinstance(code, str) or not re.fullmatch(r"[iu][1248]|f[248]|b1|O8?", code):
            raise pickle.UnpicklingError(f"it has the type {str(code)[:20]!r}, which is not a number")
        self.code, self.order = code, "<"

    def __setstate__(self, state):
        _, order, *rest = state  # version, byte order, then what plain numbers lack
        if order not in ("<", ">", "|", "=") or any(part is not None for part in rest[:3]):
            raise pickle.UnpicklingError("it has a type with fields")
        self.order = order

    def dtype(self):
        return np.dtype("O") if self.code[0] == "O" else np.dtype(self.code).newbyteorder(self.order)


class _Array:
    """In place of an array."""

    made = None  # kept, because a file may name it any number of times

    def __setstate__(self, state):
        _, self.shape, self.type, self.fortran, self.data = state
        if not isinstance(self.type, _Type) or not isinstance(self.data, list if self.type.code[0] == "O" else (bytes, str)):
            raise pickle.UnpicklingError("it contains an array whose values do not match its type")

    def array(self, objects=False):
        """The array; objects: whether it may contain arrays."""
        dtype, order = self.type.dtype(), "F" if self.fortran else "C"
        if self.made is not None:
            return self.made
        if not dtype.hasobject:
            data = self.data.encode("latin1") if isinstance(self.data, str) else self.data  # str: written by Python 2
            self.made = np.frombuffer(data, dtype).reshape(self.shape, order=order).copy()
            return self.made
        if not objects:
            raise pickle.UnpicklingError("it contains arrays of arrays of arrays")
        flat, size = np.empty(len(self.data), object), 0
        for i, item in enumerate(self.data):
            flat[i] = item.array() if isinstance(item, _Array) else _number(item)
            size += flat[i].nbytes if isinstance(item, _Array) else 0
            if size > MOST:
                raise pickle.UnpicklingError(f"its arrays, each counted as often as it is named, exceed {MOST >> 30} GiB")
        return flat.reshape(self.shape, order=order)


class _ndarray:
    """In place of the class itself, which is only named."""

    def __new__(cls, *_):
        raise pickle.UnpicklingError("it calls numpy.ndarray, which no array needs")


def _number(item):
    if isinstance(item, (bool, int, float, np.generic)):
        return item
    raise pickle.UnpicklingError(f"it contains a {type(item).__name__.strip('_')}, not an array or a number")


def _reconstruct(kind, shape=(0,), code=b"b"):
    if kind is not _ndarray:
        raise pickle.UnpicklingError("it rebuilds something that is not an array")
    return _Array()


def _scalar(kind, data):
    if not isinstance(kind, _Type) or kind.code[0] == "O":
        raise pickle.UnpicklingError("it contains a value that is not a number")
    return np.frombuffer(data.encode("latin1") if isinstance(data, str) else data, kind.dtype(), 1)[0]


def _encode(text, coding="latin1"):
    """In place of how Python 3 writes bytes for Python 2. Returns the text itself: a file may call it any number of times."""
    if coding != "latin1":
        raise pickle.UnpicklingError(f"it uses the encoding {str(coding)[:20]!r}")
    return text


def _no_bytes():
    return b""  # how Python 3 writes the bytes of an empty array for Python 2


_NAMES = {("numpy", "ndarray"): _ndarray, ("numpy", "dtype"): _Type, ("_codecs", "encode"): _encode,
          ("__builtin__", "bytes"): _no_bytes}
for _core in ("core", "_core"):  # numpy 1 and numpy 2
    _NAMES |= {(f"numpy.{_core}.multiarray", "_reconstruct"): _reconstruct, (f"numpy.{_core}.multiarray", "scalar"): _scalar}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module, name):
        if (module, name) in _NAMES:
            return _NAMES[module, name]
        raise pickle.UnpicklingError(f"it names {module}.{name}, which no array needs")
