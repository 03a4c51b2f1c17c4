"""Rank 0 alone reads the base: the others build it without memory and receive its tensors.

So the host memory of all nodes together holds one copy of a model, not one for each rank. A sharded
model is received layer by layer, and no device holds more than one whole layer.
"""

from __future__ import annotations

from itertools import chain
from typing import Any

import torch
from composer.devices import Device
from composer.utils import dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


def check_same_structure(model: nn.Module) -> None:
    """Refuse to share a model of which the ranks have built different tensors; each calls this.

    Raises:
        RuntimeError: names a tensor that not all of them have.
    """
    own = [
        (name, tuple(tensor.shape), str(tensor.dtype))
        for name, tensor in chain(model.named_parameters(), model.named_buffers())
    ]
    of_first: list[Any] = [own]
    dist.broadcast_object_list(of_first)
    if different := set(own) ^ set(of_first[0]):
        raise RuntimeError(
            f"rank {dist.get_global_rank()} has built another model than rank 0: {min(different)}"
        )


def own_device() -> torch.device:
    """The device of this rank."""
    if torch.cuda.is_available():
        return torch.device("cuda", dist.get_local_rank())
    return torch.device("cpu")


def receive(module: nn.Module, device: Device) -> None:
    """Give all ranks, on their devices, rank 0's tensors of a module; every rank calls this.

    Parameters stay the objects that they are, so those that are tied stay so. What is sharded
    already is left alone.
    """
    for tensor in {id(one): one for one in chain(module.parameters(), module.buffers())}.values():
        if isinstance(tensor, DTensor):
            continue
        _move(tensor, device)
        data = tensor.detach()
        sent = data.contiguous()
        dist.broadcast(sent.view(-1).view(torch.uint8), src=0)  # gloo does not know every type
        if sent.data_ptr() != data.data_ptr():
            data.copy_(sent)


def _move(tensor: Tensor, device: Device) -> None:
    """Put a tensor on a device, in place; one without memory gets some, with any values."""
    if not tensor.is_meta:
        tensor.data = device.tensor_to_device(tensor.data)
        return
    empty = device.tensor_to_device(torch.empty_like(tensor, device=own_device()))
    if isinstance(tensor, nn.Parameter):
        empty = nn.Parameter(empty, requires_grad=tensor.requires_grad)
    torch.utils.swap_tensors(tensor, empty)
