"""A CPU that keeps host and device apart as a GPU does, for tests where there is none.

What the host has is told by its storage: batches of the loader, results of factories without a
device, copies to the host, and all that is made of these alone. Everything else counts as the
device's. Collectives refuse what is the host's, as NCCL does; NumPy refuses what is the device's;
and each wait of the host for the device is counted. Operations on both are not refused: a tensor
that is made on the device of another may be of either.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import streaming
import torch
from composer.devices import DeviceCPU
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

COLLECTIVES = (
    "all_reduce", "broadcast", "reduce", "all_gather", "all_gather_into_tensor", "gather",
    "scatter", "reduce_scatter", "reduce_scatter_tensor", "all_to_all", "send", "recv",
)  # fmt: skip
OF_OBJECTS = ("all_gather_object", "gather_object", "broadcast_object_list", "scatter_object_list")
"""Collectives of Python objects, whose tensors torch itself moves."""
FACTORIES = (
    torch.tensor, torch.as_tensor, torch.zeros, torch.ones, torch.empty, torch.full, torch.arange,
    torch.rand, torch.randn, torch.randint, torch.eye, torch.linspace,
)  # fmt: skip
WAITS = ("item", "__bool__", "__int__", "__float__", "__index__", "tolist", "cpu", "nonzero",
         "unique", "masked_select")  # fmt: skip
"""Functions that make the host wait for the device."""


class OnHostError(RuntimeError):
    """A GPU would have refused it."""


class StrictDevice(TorchFunctionMode):
    """Keep host and device apart within this context."""

    def __init__(self) -> None:
        super().__init__()
        self._host: dict[int, StorageWeakRef] = {}
        self.waits: Counter[str] = Counter()
        """By the file of lvf or Composer, the line and the function that waited."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Judge the inputs, call, and mark the outputs."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        of_device = [one for one in tensors if not self.is_hosts(one)]
        if name == "numpy" and of_device:
            raise OnHostError("NumPy cannot read what is on the device")
        if of_device and (name in WAITS or _is_masked(name, args)):
            self.waits[f"{_caller()} {name}"] += 1
        result = func(*args, **kwargs)
        if name == "cpu" or (name == "to" and "cpu" in args[1:]):
            result = self.to_host(result.clone() if result is args[0] else result)
        elif (tensors and not of_device) or (func in FACTORIES and kwargs.get("device") is None):
            for one in tree_leaves(result):
                if isinstance(one, Tensor):
                    self.to_host(one)
        return result

    def is_hosts(self, tensor: Tensor) -> bool:
        """Whether the host has it."""
        reference = self._host.get(_storage(tensor)._cdata)
        return reference is not None and not reference.expired()

    def to_host(self, tensor: Tensor) -> Tensor:
        """Say that the host has a tensor."""
        storage = _storage(tensor)
        self._host[storage._cdata] = StorageWeakRef(storage)  # no other gets the address meanwhile
        return tensor

    def let_pass(self, collective: Callable[..., Any]) -> Callable[..., Any]:
        """The collective, unjudged."""

        def call(*args: Any, **kwargs: Any) -> Any:
            with torch._C.DisableTorchFunction():
                return collective(*args, **kwargs)

        return call

    def refuse_hosts(self, collective: Callable[..., Any]) -> Callable[..., Any]:
        """The collective, for tensors of the device only."""

        def call(*args: Any, **kwargs: Any) -> Any:
            for one in tree_leaves((args, kwargs)):
                if isinstance(one, Tensor) and self.is_hosts(one):
                    raise OnHostError(f"{collective.__name__} of a tensor of the host: NCCL")
            return collective(*args, **kwargs)

        return call


def _storage(tensor: Tensor) -> torch.UntypedStorage:
    with torch._C.DisableTorchFunction():
        while torch._C._functorch.is_functorch_wrapped_tensor(tensor):  # within torch.vmap
            tensor = torch._C._functorch.get_unwrapped(tensor)
        local = getattr(tensor, "_local_tensor", tensor)  # a DTensor's own part
        return local.untyped_storage()


def _is_masked(name: str, args: Any) -> bool:
    masks = [one for one in tree_leaves(args[1:]) if isinstance(one, Tensor)]
    return name == "__getitem__" and any(mask.dtype == torch.bool for mask in masks)


def _caller() -> str:
    """File and function of lvf or Composer in which it happens."""
    frame = sys._getframe(1)
    while frame.f_back and not {"lvf", "composer"} & set(Path(frame.f_code.co_filename).parts):
        frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).name} {frame.f_code.co_name}"


@contextmanager
def strict_device() -> Iterator[StrictDevice]:
    """Let Composer's CPU, streaming's loader and torch's collectives keep to it."""
    device = StrictDevice()

    def tensor_to_device(_self: Any, tensor: Tensor) -> Tensor:
        with torch._C.DisableTorchFunction():
            return tensor.clone() if device.is_hosts(tensor) else tensor

    def module_to_device(_self: Any, module: torch.nn.Module) -> torch.nn.Module:
        for tensor in (*module.parameters(), *module.buffers()):
            device._host.pop(_storage(tensor)._cdata, None)
        return module

    def batches(loader: Any) -> Iterator[Any]:
        for batch in read(loader):
            yield tree_map(device.to_host, batch)

    read = streaming.StreamingDataLoader.__iter__
    with (
        mock.patch.object(DeviceCPU, "tensor_to_device", tensor_to_device),
        mock.patch.object(DeviceCPU, "module_to_device", module_to_device),
        mock.patch.object(streaming.StreamingDataLoader, "__iter__", batches),
        mock.patch.multiple(
            torch.distributed,
            **{name: device.refuse_hosts(getattr(torch.distributed, name)) for name in COLLECTIVES},
            **{name: device.let_pass(getattr(torch.distributed, name)) for name in OF_OBJECTS},
        ),
        device,
    ):
        yield device
