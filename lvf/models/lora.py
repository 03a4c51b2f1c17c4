"""LoRA and its relatives over PEFT: which matrices get adapters, and which ranks they can have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lvf.config.schema import ALL_LINEAR, MethodConfig
from lvf.errors import UserError
from lvf.models import relatives
from lvf.models.relatives import ADAPTERS

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PretrainedConfig, PreTrainedModel


def meta_model(config: PretrainedConfig) -> PreTrainedModel:
    """The architecture without memory for its weights, for counting and checking."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def linear_maps(model: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """Linear maps by full name; GPT-2's are Conv1D, which holds the transposed matrix."""
    import torch
    from transformers.pytorch_utils import Conv1D

    kinds = (torch.nn.Linear, Conv1D)
    return {name: module for name, module in model.named_modules() if isinstance(module, kinds)}


def matrix_shape(linear: torch.nn.Module) -> tuple[int, int]:
    """Outputs and inputs of a linear map."""
    import torch

    weight: Any = linear.weight
    first, second = weight.shape
    return (first, second) if isinstance(linear, torch.nn.Linear) else (second, first)


def target_linears(model: torch.nn.Module, targets: list[str]) -> dict[str, torch.nn.Module]:
    """Linear maps whose last name component is a target, by full name, as PEFT matches them.

    With `[all-linear]` all but the output layer.

    Raises:
        UserError: a target matches nothing; lists the names there are.
    """
    linears = linear_maps(model)
    if targets == [ALL_LINEAR]:
        head = model.get_output_embeddings()  # type: ignore[operator]
        return {name: linear for name, linear in linears.items() if linear is not head}
    names = sorted({name.rsplit(".", 1)[-1] for name in linears})
    unknown = sorted(set(targets) - set(names))
    if unknown:
        raise UserError(
            f"method.target_modules: this model has no linear map {', '.join(unknown)}; it has "
            f"{', '.join(names)}"
        )
    return {name: linear for name, linear in linears.items() if name.rsplit(".", 1)[-1] in targets}


def check_rank(config: PretrainedConfig, method: MethodConfig) -> None:
    """Refuse a rank that a target matrix cannot have, and modules that there are not.

    Raises:
        UserError: rank above min(d_in, d_out) of a target; names the matrix and the largest rank.
            Or a module to be trained whole is missing, or tied to another.
    """
    if method.kind != "lora":
        return
    assert method.target_modules is not None
    linears = target_linears(meta_model(config), method.target_modules)
    limits = {name: min(matrix_shape(module)) for name, module in linears.items()}
    narrowest = min(limits, key=lambda name: limits[name])
    _check_modules_to_save(config, method)
    _check_tied_targets(config, linears)
    _check_sizes(method, linears)
    _check_peft_options(config, method)
    # The rank of VeRA's A and B, which are not trained, has no such limit.
    if method.adapter != "vera" and (method.rank or 0) > limits[narrowest]:
        shape = matrix_shape(linears[narrowest])
        raise UserError(
            f"method.rank={method.rank} exceeds what {narrowest} {shape} can have: at most "
            f"{limits[narrowest]}. Choose a smaller rank (method=lora "
            f"method.rank={limits[narrowest]}), other method.target_modules or a wider model."
        )


def _check_modules_to_save(config: PretrainedConfig, method: MethodConfig) -> None:
    names = {name.rsplit(".", 1)[-1] for name, _ in meta_model(config).named_modules()}
    unknown = sorted(set(method.modules_to_save) - names)
    if unknown:
        raise UserError(f"method.modules_to_save: this model has no module {', '.join(unknown)}")
    if method.modules_to_save and config.tie_word_embeddings:
        raise UserError(
            f"method.modules_to_save={method.modules_to_save}: this model's embeddings and output "
            "layer are one matrix, of which PEFT would train two copies. Choose a model with "
            "untied embeddings, or a method without modules_to_save."
        )


def _check_tied_targets(config: PretrainedConfig, targets: dict[str, torch.nn.Module]) -> None:
    model: Any = meta_model(config)
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if head is None or head.weight is not embedding.weight:
        return
    names = [name for name, module in model.named_modules() if module is head and name in targets]
    if names:
        raise UserError(
            f"method.target_modules has {names[0]}, which in this model is one matrix with the "
            "embedding: merged into it, an adapter of the output layer would change the embedding "
            f"too. Leave {names[0].rsplit('.', 1)[-1]} out, or choose a model with untied "
            "embeddings"
        )


def _check_sizes(method: MethodConfig, linears: dict[str, torch.nn.Module]) -> None:
    """OFT's blocks must fill a map's inputs (PEFT would change them), SHiRA's numbers fit in."""
    for name, linear in linears.items():
        d_out, d_in = matrix_shape(linear)
        if method.adapter == "oft" and d_in % relatives.oft_block(method):
            raise UserError(
                f"method.peft.oft_block_size={relatives.oft_block(method)} does not divide the "
                f"{d_in} inputs of {name}: choose a divisor of all of them"
            )
        if (
            method.adapter == "shira"
            and method.rank
            and method.rank * (d_out + d_in) > d_out * d_in
        ):
            most = d_out * d_in // (d_out + d_in)
            raise UserError(
                f"method.rank={method.rank}: SHiRA would train more numbers of {name} "
                f"{(d_out, d_in)} than it has; at most {most}"
            )


OWN_FIELDS = {
    "r": "method.rank", "lora_alpha": "method.alpha",
    **{kind.dropout: "method.dropout" for kind in ADAPTERS.values() if kind.dropout},
    "target_modules": "method.target_modules", "use_rslora": "method.rank_stabilised",
    "use_dora": "method.dora", "modules_to_save": "method.modules_to_save",
}  # fmt: skip
"""Options of PEFT that have a setting of their own."""
NOT_MEASURED = (
    "bias", "layer_replication", "trainable_token_indices", "loftq_config", "eva_config",
    "corda_config", "megatron_config", "megatron_core", "task_type", "peft_type",
    "init_weights", "init_ia3_weights", "save_projection",
)  # fmt: skip
"""Options that change the base or how the adapter starts, or train what an export does not hold."""
INITIALISATIONS = (True, "gaussian", "orthogonal")
"""Those of `init_lora_weights` that change no output; `pissa` has a setting of its own."""


def _check_peft_options(config: PretrainedConfig, method: MethodConfig) -> None:
    options = method.peft or {}
    for option in options:
        if option in OWN_FIELDS:
            raise UserError(f"method.peft.{option}: set {OWN_FIELDS[option]} instead")
        if option in NOT_MEASURED:
            raise UserError(
                f"method.peft.{option} is not supported: the adapter could start as another model "
                "than the base, or the measured model would not be the trained one"
            )
    start = options.get("init_lora_weights", True)
    if start not in INITIALISATIONS:
        raise UserError(
            f"method.peft.init_lora_weights={start!r} is not one of "
            f"{', '.join(map(str, INITIALISATIONS))}; others change the model before it is trained "
            "(method=pissa is supported)"
        )
    if options and method.adapter != "shira":  # which PEFT builds with memory only
        num_adapter_parameters(config, method)  # PEFT itself checks names and values


def num_adapter_parameters(config: PretrainedConfig, method: MethodConfig) -> int:
    """Parameters that PEFT makes trainable, counted on a model without memory.

    Raises:
        UserError: PEFT does not take the method's options.
    """
    import torch

    with torch.device("meta"):
        model = add_adapters(meta_model(config), method)
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def add_adapters(base: PreTrainedModel, method: MethodConfig, fused: bool = False) -> PeftModel:
    """Freeze the base and add PEFT's adapters, which change nothing yet.

    PiSSA takes out of the base what its adapters start with; see `lvf.models.pissa`. `fused` is for
    LoRA whose maps `lvf.models.fused_lora.use_fused_lora` is to compute.

    Raises:
        UserError: PEFT does not take `method.peft`.
    """
    import peft

    from lvf.models.fused_lora import register_fused_lora
    from lvf.models.pissa import remember_start

    kind = ADAPTERS[method.adapter]
    all_linear = method.target_modules == [ALL_LINEAR]
    options: dict[str, Any] = {
        "target_modules": ALL_LINEAR if all_linear else method.target_modules,
        "modules_to_save": method.modules_to_save or None,
        "task_type": "CAUSAL_LM",
    }
    if kind.rank:
        options[kind.rank] = method.rank
    if kind.dropout:
        options[kind.dropout] = method.dropout
    if method.adapter == "lora":
        options |= {
            "lora_alpha": method.alpha,
            "use_rslora": method.rank_stabilised,
            "use_dora": method.dora,
            "init_lora_weights": "pissa" if method.init == "pissa" else True,
        }
    try:
        config = getattr(peft, kind.config)(**options | (method.peft or {}))
        if fused:
            register_fused_lora(config)
        model = peft.get_peft_model(base, config)
    except (TypeError, ValueError) as error:
        if not method.peft:
            raise
        raise UserError(f"method.peft={method.peft}: PEFT does not take it: {error}") from error
    if method.init == "pissa":
        remember_start(model)
    return model


def hold_base_in_bf16(model: PeftModel, sharded: bool = False) -> None:
    """Round the frozen matrices that autocast would round at each product; no output changes.

    Embeddings, and a head tied to them, stay in fp32, which the hidden states are in, too; so do
    the matrices of DoRA, which takes their norm. FSDP2 shards matrices of one type together: of a
    model that is to be `sharded` the head stays as embeddings are, and with DoRA all does.
    """
    import torch

    from lvf.models.layers import decoder_layers

    modules = list((decoder_layers(model) if sharded else model).modules())
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    of_dora = {m.base_layer for m in modules if getattr(m, "lora_variant", None)}
    if sharded and of_dora:
        return
    for module in modules:
        if not isinstance(module, torch.nn.Linear) or module in of_dora:
            continue
        if not module.weight.requires_grad and id(module.weight) not in embeddings:
            module.to(torch.bfloat16)
