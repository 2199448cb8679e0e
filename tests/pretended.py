"""A pretended card: real arithmetic of the CPU under a device name that follows every tensor through every call."""

import collections
import contextlib
import os
from types import SimpleNamespace
from unittest import mock

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from utils import device

CPU, CARD = torch.device("cpu"), torch.device("cuda", 0)
PLACE, PINNED = WeakIdKeyDictionary(), WeakIdKeyDictionary()  # tensor -> its pretended device (none: the CPU); pinned tensors
WAITS = {"item", "tolist", "__bool__", "__float__", "__int__", "__index__", "nonzero", "equal", "allclose", "masked_select"}
MIXED = {"copy_", "__setitem__", "set_", "__deepcopy__", "_has_compatible_shallow_copy_type"}  # take tensors of two devices


def tensors_in(thing):
    if isinstance(thing, torch.Tensor):
        return [thing]
    parts = thing.values() if isinstance(thing, dict) else thing if isinstance(thing, (list, tuple)) else ()
    return [tensor for part in parts for tensor in tensors_in(part)]


def full(name):
    name = torch.device(name)
    return CARD if name.type == "cuda" and name.index is None else name


def placed(thing, where):
    for tensor in tensors_in(thing):
        if where.type == "mps" and tensor.dtype == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        PLACE[tensor] = where
    return thing


class Pretend(TorchFunctionMode):
    """Counts waits for the device and copies to it from memory that is not pinned; raises where torch would."""

    def __init__(self):
        super().__init__()
        self.counts = collections.Counter()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name, kwargs = getattr(func, "__name__", ""), dict(kwargs or {})
        given = tensors_in((args, kwargs))
        here = PLACE.get(given[0], CPU) if given else CPU
        if name in ("__get__", "__set__"):
            return self.attribute(func, name, args, here)
        if name in ("to", "cpu", "cuda"):
            return self.to(name, args[0], list(args[1:]), kwargs, here)
        if name == "pin_memory":
            PINNED[pinned := args[0].clone()] = True
            return pinned
        if name in ("numpy", "__array__") and here != CPU:
            raise TypeError(f"can't convert {here} device type tensor to numpy")
        if name == "__iter__":
            return iter(placed(list(func(*args)), here))
        where = self.common(name, given, here)
        if kwargs.get("device") is not None:
            where, kwargs["device"] = full(kwargs["device"]), CPU
        masked = name == "__getitem__" and any(tensor.dtype == torch.bool for tensor in given[1:])
        self.counts["wait"] += where != CPU and (name in WAITS or masked)
        self.counts[where.type] += 1
        result = func(*args, **kwargs)
        placed([tensor for tensor in tensors_in(result) if all(tensor is not one for one in given)], where)
        return result

    def common(self, name, given, here):
        places = {PLACE.get(tensor, CPU) for tensor in given if tensor.ndim or name in ("cat", "stack")} or {here}
        if name in MIXED or name.startswith("_foreach"):
            if len(places) > 1 and name in ("copy_", "__setitem__"):
                self.counts["wait" if here == CPU else "unpinned"] += 1
            return here
        if name == "__getitem__" and here != CPU:
            places -= {CPU}  # indices may be there
        if len(places) > 1:
            raise RuntimeError(f"Expected all tensors to be on the same device: {name} of {sorted(map(str, places))}")
        return places.pop() if places else CPU

    def to(self, name, tensor, rest, kwargs, here):
        target, first = here, rest[0] if rest else None
        if name != "to":
            target, rest = CPU if name == "cpu" else CARD, []
        elif kwargs.get("device") is not None:
            target = full(kwargs.pop("device"))
        elif isinstance(first, torch.Tensor):
            target, rest[:1] = PLACE.get(first, CPU), [CPU, first.dtype]
        elif isinstance(first, (str, torch.device)):
            target, rest[0] = full(first), CPU
        if here != target:
            kwargs["copy"] = True
            quick = tensor in PINNED and (kwargs.get("non_blocking") or rest[1:2] == [True])
            self.counts["wait" if target == CPU else "unpinned"] += not quick
        result = torch.Tensor.to(tensor, *rest, **kwargs)
        return result if result is tensor else placed(result, target)

    def attribute(self, func, name, args, here):
        what = getattr(func.__self__, "__name__", "")
        if name == "__get__" and what in ("device", "is_cuda", "is_cpu"):
            return here if what == "device" else here.type == what[3:]
        if name == "__set__" and what == "data":
            PLACE[args[0]] = PLACE.get(args[1], CPU)
        result = func(*args)
        placed([tensor for tensor in tensors_in(result) if tensor is not args[0]], here)
        return result


@contextlib.contextmanager
def pretended(count=1, capability=(8, 0), free=12 * 2 ** 30, **environment):
    """torch as on a machine with cards; gives the Pretend."""
    autocast, new_parameter, load = torch.autocast, nn.Parameter.__new__, torch.load

    def new(cls, data=None, requires_grad=True):
        made = new_parameter(cls, data, requires_grad)
        PLACE[made] = CPU if data is None else PLACE.get(data, CPU)
        return made

    def load_on_cpu(*args, **kwargs):
        assert str(kwargs.get("map_location")) == "cpu", "a card's checkpoint must load where there is none"
        return load(*args, **kwargs)

    cuda = {"is_available": lambda: True, "device_count": lambda: count, "mem_get_info": lambda where=None: (free, free),
            "get_device_properties": lambda where=None: SimpleNamespace(name="Card", total_memory=free, uuid=full(where).index),
            "get_device_capability": lambda where=None: capability, "set_device": lambda where: None,
            "device": lambda where: contextlib.nullcontext(), "get_arch_list": lambda: ["sm_75", "sm_80", "sm_90", "sm_120"],
            "is_bf16_supported": lambda including_emulation=True: including_emulation or capability >= (8, 0)}
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.dict(os.environ, environment))
        for owner, name, value in (
                *((torch.cuda, name, value) for name, value in cuda.items()), (nn.Parameter, "__new__", new),
                (torch, "autocast", lambda kind, *args, **more: autocast("cpu", *args, **more)), (torch, "load", load_on_cpu),
                (torch.optim.Optimizer, "_accelerator_graph_capture_health_check", lambda self: None)):
            stack.enter_context(mock.patch.object(owner, name, value))
        device.tell_emulated.cache_clear()
        yield stack.enter_context(Pretend())
