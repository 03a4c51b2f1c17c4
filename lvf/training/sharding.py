"""How a model lies on several ranks: replicated, or sharded by FSDP2."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from composer.core import Callback, State
from composer.loggers import Logger
from composer.utils import dist

from lvf.config.schema import RunConfig

if TYPE_CHECKING:
    from composer.devices import Device
    from torch import Tensor

    from lvf.training.packed_model import PackedModel


def uses_fsdp(cfg: RunConfig) -> bool:
    """Full finetuning on several ranks shards; LoRA only its base, and only if asked to."""
    several = cfg.runtime.world_size > 1
    return several and (cfg.method.kind == "full" or cfg.runtime.fsdp_base)


def shard(model: PackedModel, cfg: RunConfig, device: Device) -> None:
    """Shard rank 0's model over all ranks, layer by layer, in place; adapters stay replicated.

    The precision is that of autocast on one device, and of LoRA under DDP: products in bf16, the
    residual stream, embeddings, norms and the loss in fp32. So the weights of layers travel in
    bf16, those outside of layers in fp32 (else the first hidden state would be rounded), and no
    input is cast, which autocast does at each product. Weights of norms within layers are rounded
    on the way where they are trained; frozen ones, which hold next to nothing, stay replicated.

    Composer takes a model with FSDP2 modules as it is; its own `FSDP2Config` knows no parameters to
    be left out, and would shard the adapters, too. `sharded_checkpoint.py` saves and loads it.
    """
    import torch
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    from lvf.models.layers import decoder_layers
    from lvf.training.shared_weights import own_device, receive

    # Master weights, gradients and their sums stay fp32. DoRA takes the norm of its matrices.
    in_bf16 = cfg.training.precision == "amp_bf16" and not cfg.method.needs_fp32_base
    within, outside = (
        MixedPrecisionPolicy(
            param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False
        )
        for dtype in (torch.bfloat16 if in_bf16 else None, None)
    )
    settings: dict[str, Any] = {
        "mesh": init_device_mesh(own_device().type, (dist.get_world_size(),))
    }
    if cfg.method.kind == "lora":
        frozen = (p for p in model.parameters() if not p.requires_grad and p.dim() < 2)
        settings["ignored_params"] = {*adapters(model), *frozen}
    for layer in decoder_layers(model.model):
        receive(layer, device)
        fully_shard(layer, mp_policy=within, **settings)
    receive(model.model, device)
    fully_shard(model.model, mp_policy=outside, **settings)


def adapters(model: PackedModel) -> list[Tensor]:
    """What LoRA trains."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


class AverageShardedGradients(Callback):
    """Work around gloo, which computes ReduceOp.AVG as SUM.

    FSDP2 averages gradients with ReduceOp.AVG. With gloo on torch 2.7 the result is the sum, and no
    error is raised; gradient clipping hides this unless gradients are small. The factor is measured
    at the start of training, and the gradient of the loss is divided by it.
    """

    def fit_start(self, state: State, logger: Logger) -> None:
        """Measure by how much a mean of ones exceeds 1."""
        import torch
        from torch.distributed import ReduceOp, reduce_scatter_tensor

        ones = state.device.tensor_to_device(torch.ones(dist.get_world_size()))
        mean = torch.empty_like(ones[:1])
        reduce_scatter_tensor(mean, ones, op=ReduceOp.AVG)
        self.excess = float(mean)

    def after_loss(self, state: State, logger: Logger) -> None:
        """Scale what flows back from the loss, not the loss that is shown."""
        loss: Any = state.loss
        if self.excess != 1:
            loss.register_hook(lambda gradient: gradient / self.excess)


class AverageAdapterGradients(Callback):
    """Data parallelism for replicated adapters on a sharded base, where DDP cannot be used.

    All adapters travel as one tensor. A later microbatch adds to gradients that are averaged
    already, which a further average leaves as they are.
    """

    def after_backward(self, state: State, logger: Logger) -> None:
        """Average the adapters' gradients over the ranks."""
        import torch

        gradients = [p.grad for p in adapters(state.model) if p.grad is not None]  # type: ignore[arg-type]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat, reduce_operation="SUM")
        flat /= dist.get_world_size()
        sizes = [gradient.numel() for gradient in gradients]
        for gradient, average in zip(gradients, flat.split(sizes), strict=True):
            gradient.copy_(average.view_as(gradient))
