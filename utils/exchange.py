"""Writes files that older projects can read: pickled arrays with numpy 1's names, which numpy 2 reads too."""

import codecs
import pickle
from types import SimpleNamespace

import numpy as np

from utils.files import whole

_RECONSTRUCT = np._core.multiarray._reconstruct


class _OldNamesPickler(pickle._Pickler):  # the pure Python one, where names can be changed
    def save_global(self, obj, name=None):
        if obj is _RECONSTRUCT:
            self.write(b"cnumpy.core.multiarray\n_reconstruct\n")
            self.memoize(obj)
        else:
            super().save_global(obj, name)

    def save_bytes(self, obj):
        if obj:
            pickle._Pickler.save_bytes(self, obj)
        else:  # an empty array: without the name of a builtin, which careful readers refuse
            self.save_reduce(codecs.encode, ("", "latin1"), obj=obj)

    dispatch = {**pickle._Pickler.dispatch, bytes: save_bytes}


def save_object_array(path, arrays):
    """Writes arrays of any shapes as one `.npy` object array, as numpy 1 wrote lists of arrays; whole or not at all."""
    content = np.empty(len(arrays), object)
    content[:] = [None] * len(arrays)
    for i, array in enumerate(arrays):
        content[i] = array
    with whole(path) as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(content))
        _OldNamesPickler(file, protocol=2).dump(content)


def save_torch_arrays(path, content):
    """Like `utils.files.save_torch`, for nested lists of arrays that an old torch with numpy 1 can read."""
    import torch

    with whole(path) as file:
        torch.save(content, file, pickle_module=SimpleNamespace(Pickler=_OldNamesPickler, __name__="pickle"),
                   pickle_protocol=2)
