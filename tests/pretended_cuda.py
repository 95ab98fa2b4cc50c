"""Tensors that claim to be on cuda:0 while their values are on the CPU, for tests of devices without a GPU.

    with PretendedCuda() as cuda:
        trainer = nnUNetTrainerMoESD(..., torch.device("cuda"))  # no gradient scaler, no autocast
        trainer.train_step(batch)      # an operation on tensors of both devices raises, as on a GPU
    cuda.waits                         # what made the host wait for the device -> how often

It needs no driver. It does not emulate float16. For C++, such a tensor is on `meta`, whose backward pass needs no
thread for a device; for Python, it is on cuda:0.
"""

import sys
from collections import Counter
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

CUDA, META = torch.device("cuda", 0), torch.device("meta")
READ_BY_THE_HOST = {
    *("nonzero", "_unique2", "unique_dim", "masked_select", "_local_scalar_dense", "equal", "bincount"),
}
"""Operations whose result, or the size of it, the host needs at once."""
MAY_MIX = {"copy_", "_to_copy", "index", "index_put_"}
"""Operations that take tensors of both devices on a GPU, too."""


class OnCuda(torch.Tensor):
    """A tensor that claims to be on cuda:0."""

    @staticmethod
    def __new__(cls, value):
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            value.size(),
            strides=value.stride(),
            storage_offset=value.storage_offset(),
            dtype=value.dtype,
            device=META,
        )
        made.value = value
        return made

    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    __torch_function__ = torch._C._disabled_torch_function_impl

    def tolist(self):
        PretendedCuda.now.wait("tolist")
        with _disable_current_modes():
            return self.value.tolist()

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return PretendedCuda.now.__torch_dispatch__(function, types, args, kwargs or {})


class _DeviceNames(TorchFunctionMode):
    """Says `meta` where `device="cuda"` would ask for a driver before anything is dispatched."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs, name = dict(kwargs or {}), getattr(function, "__name__", "")
        if name in ("autocast", "is_autocast_enabled"):
            return function(*args, **kwargs)
        if name in ("tensor", "as_tensor") and _says_cuda(kwargs.get("device")):
            PretendedCuda.now.wait("copy of numbers")
            return OnCuda(function(*args, **{**kwargs, "device": "cpu"}))
        if name in ("__getitem__", "__setitem__") and isinstance(args[0], OnCuda):
            index = args[1]
            index = tuple(map(_moved, index)) if isinstance(index, tuple) else _moved(index)
            return function(args[0], index, *args[2:])
        return function(*tree_map(_to_meta, args), **tree_map(_to_meta, kwargs))


def _says_cuda(value):
    return isinstance(value, (torch.device, str)) and str(value).startswith("cuda")


def _to_meta(value):
    return META if _says_cuda(value) else value


def _moved(index):
    """A list as an index is copied to the device each time."""
    if not isinstance(index, list):
        return index
    PretendedCuda.now.wait("index by a list")
    return OnCuda(torch.tensor(index))


class PretendedCuda(TorchDispatchMode):
    """Inside the block, cuda:0 exists; `waits` counts by what and where the host waits for it."""

    now: "PretendedCuda"

    def __init__(self):
        super().__init__()
        self.waits: Counter = Counter()
        self._names = _DeviceNames()
        self._moves = mock.patch("torch.nn.Module.to", lambda module, *_, **__: on_cuda(module))

    def __enter__(self):
        PretendedCuda.now = self
        self._names.__enter__()
        self._moves.start()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self._moves.stop()
        self._names.__exit__(*error)

    def wait(self, what):
        frame = sys._getframe(1)
        while frame and ("/site-packages/torch/" in frame.f_code.co_filename or frame.f_code.co_filename == __file__):
            frame = frame.f_back
        self.waits[what, f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame else "backward"] += 1

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs, name = dict(kwargs or {}), function._schema.name.removeprefix("aten::")
        tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
        is_on_cuda = any(isinstance(each, OnCuda) for each in tensors)
        on_cpu = [each for each in tensors if not isinstance(each, OnCuda) and each.ndim]  # numbers may be anywhere
        if is_on_cuda and on_cpu and name not in MAY_MIX:
            raise RuntimeError(f"{function}: tensors on cuda:0 and on the CPU, {[tuple(t.shape) for t in tensors]}")
        if name in READ_BY_THE_HOST and is_on_cuda:
            self.wait(name)
        if (goal := kwargs.get("device")) is not None:
            kwargs["device"] = "cpu"
            to_cuda = torch.device(goal).type == "meta"
            if name == "_to_copy" and to_cuda != is_on_cuda and not kwargs.get("non_blocking"):
                self.wait(f"copy to {'cuda' if to_cuda else 'cpu'}")
            is_on_cuda = to_cuda
        if name == "copy_" and on_cpu:
            self.wait("copy_")
            is_on_cuda = isinstance(args[0], OnCuda)
        with _disable_current_modes():
            result = function(*tree_map(_value, args), **tree_map(_value, kwargs))
        if function._schema.is_mutable:
            return args[0] if name.endswith("_") and function._schema.returns else kwargs.get("out")
        return tree_map(lambda each: OnCuda(each) if is_on_cuda and isinstance(each, torch.Tensor) else each, result)


def _value(each):
    return each.value if isinstance(each, OnCuda) else each


def on_cuda(module):
    """Move the parameters and buffers of a module."""
    for part in module.modules():
        for kept in (part._parameters, part._buffers):
            for name, value in kept.items():
                if value is not None and not isinstance(value, OnCuda):
                    moved = OnCuda(value.detach())
                    is_parameter = kept is part._parameters
                    kept[name] = torch.nn.Parameter(moved, value.requires_grad) if is_parameter else moved
    return module
