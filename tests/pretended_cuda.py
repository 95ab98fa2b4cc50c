"""Tensors that claim to be on cuda:0 while their values are on the CPU, for tests of devices without a GPU.

    with PretendedCuda() as cuda:
        trainer = nnUNetTrainerMoESD(..., torch.device("cuda"))  # no gradient scaler, no autocast
        trainer.train_step(batch)      # an operation on tensors of both devices raises, as on a GPU
    cuda.waits                         # what made the host wait for the device -> how often

It needs no driver. It does not emulate float16. For C++, such a tensor is on `meta`, whose backward pass needs no
thread for a device; for Python, it is on cuda:0.
"""

import sys
import threading
from collections import Counter
from contextlib import nullcontext
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

CUDA, META = torch.device("cuda", 0), torch.device("meta")
READ_BY_THE_HOST = {
    *("nonzero", "_unique2", "unique_dim", "masked_select", "_local_scalar_dense", "equal", "bincount"),
}
"""Operations whose result, or the size of it, the host needs at once."""
MAY_MIX = {"copy_", "_to_copy", "index", "index_put_"}
"""Operations that take tensors of both devices on a GPU, too; an index on the CPU is copied at once."""


class MixedDevicesError(RuntimeError):
    """An operation has tensors of both devices, as on a GPU."""


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
        if function is torch.device or name in ("autocast", "is_autocast_enabled"):
            return function(*args, **kwargs)
        if name in ("tensor", "as_tensor") and _says_cuda(kwargs.get("device")):
            PretendedCuda.now.wait("copy of numbers")
            return OnCuda(function(*args, **{**kwargs, "device": "cpu"}))
        if name in ("__getitem__", "__setitem__") and isinstance(args[0], OnCuda):
            index = args[1]
            index = tuple(map(_moved, index)) if isinstance(index, tuple) else _moved(index)
            return function(args[0], index, *args[2:])
        return function(*_mapped(_to_meta, args), **_mapped(_to_meta, kwargs))


def _mapped(function, value):
    """What torch's `tree_map` gives for the arguments of operations, in a tenth of its time."""
    if type(value) in (tuple, list):
        return type(value)([_mapped(function, each) for each in value])
    if type(value) is dict:
        return {key: _mapped(function, each) for key, each in value.items()}
    return function(value)


def _tensors(value):
    """All tensors among the arguments or results of an operation."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, (tuple, list)):
        return [tensor for each in value for tensor in _tensors(each)]
    return [tensor for each in value.values() for tensor in _tensors(each)] if isinstance(value, dict) else []


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
    """Inside the block, cuda:0 exists.

    Attributes:
        waits: by what and where the host waited for the device -> how often.
        on_the_host: by what and where the host computed -> the most elements of a tensor on the CPU that it read or
            wrote in one operation. Views and copies to the device do not count.
        mixed: operations that failed because of tensors of both devices; nnU-Net's predictor catches such errors.
    """

    now: "PretendedCuda"

    def __init__(self):
        super().__init__()
        self.waits: Counter = Counter()
        self.on_the_host: Counter = Counter()
        self.mixed: list[str] = []
        self._names = _DeviceNames()
        self._patches = (
            mock.patch("torch.nn.Module.to", lambda module, *_, **__: on_cuda(module)),
            # tensors of an inference mode have no versions, which views of our tensors need
            mock.patch("torch._C._InferenceMode", lambda mode: torch.no_grad() if mode else nullcontext()),
            mock.patch("threading.Thread.run", self._in_thread(threading.Thread.run)),
        )

    def __enter__(self):
        PretendedCuda.now = self
        self._names.__enter__()
        for patch in self._patches:
            patch.start()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        for patch in self._patches:
            patch.stop()
        self._names.__exit__(*error)

    def _in_thread(self, run):
        """Let a new thread, such as that of nnU-Net's predictor, have the modes of the one that makes it."""

        def run_with_modes(thread):
            with self._names:
                TorchDispatchMode.__enter__(self)
                try:
                    run(thread)
                finally:
                    TorchDispatchMode.__exit__(self, None, None, None)

        return run_with_modes

    def forget(self):
        """Count from here."""
        self.waits.clear()
        self.on_the_host.clear()

    def wait(self, what):
        self.waits[what, _caller()] += 1

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs, name = dict(kwargs or {}), function._schema.name.removeprefix("aten::")
        tensors = _tensors((args, kwargs))
        is_on_cuda = any(isinstance(each, OnCuda) for each in tensors)
        on_cpu = [each for each in tensors if not isinstance(each, OnCuda) and each.ndim]  # numbers may be anywhere
        if is_on_cuda and on_cpu:
            self._check_mixed(name, args, on_cpu)
        if name in READ_BY_THE_HOST and is_on_cuda:
            self.wait(name)
        is_result_on_cuda = is_on_cuda
        if (goal := kwargs.get("device")) is not None:
            kwargs["device"] = "cpu"
            is_result_on_cuda = torch.device(goal).type in ("meta", "cuda")
            if name == "_to_copy" and is_result_on_cuda != is_on_cuda and not kwargs.get("non_blocking"):
                self.wait(f"copy to {'cuda' if is_result_on_cuda else 'cpu'}")
        if name == "copy_" and is_on_cuda and on_cpu:
            is_result_on_cuda = isinstance(args[0], OnCuda)
        with _disable_current_modes():
            result = function(*_mapped(_value, args), **_mapped(_value, kwargs))
        if not is_result_on_cuda and not function.is_view:
            most = max((each.numel() for each in [*on_cpu, *_tensors(result)]), default=0)
            self.on_the_host[name, _caller()] = max(most, self.on_the_host[name, _caller()])
        if function._schema.is_mutable:
            return args[0] if name.endswith("_") and function._schema.returns else kwargs.get("out")
        return _mapped(_claiming_cuda, result) if is_result_on_cuda else result

    def _check_mixed(self, name, args, on_cpu):
        if name not in MAY_MIX or (name.startswith("index") and not isinstance(args[0], OnCuda)):
            self.mixed.append(f"{name}, {_caller()}: on cuda:0 and on the CPU, {[tuple(t.shape) for t in on_cpu]}")
            raise MixedDevicesError(self.mixed[-1])
        if name != "_to_copy":
            self.wait(name)


def _caller():
    """Where the code that is not torch's called the operation."""
    frame = sys._getframe(1)
    while frame and ("/site-packages/torch/" in frame.f_code.co_filename or frame.f_code.co_filename == __file__):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame else "backward"


def _claiming_cuda(each):
    return OnCuda(each) if isinstance(each, torch.Tensor) else each


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
