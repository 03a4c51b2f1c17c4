"""What a run trains: its base with lean layers and adapters, in Composer's wrapper."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lvf.config.schema import MethodConfig, RunConfig
from lvf.models.fused_lora import use_fused_lora
from lvf.models.joined_adapter import load_adapter
from lvf.models.load import (
    base_without_memory,
    load_base,
    load_export,
    load_model_config,
    load_tokenizer,
    random_model,
)
from lvf.models.lora import add_adapters, check_rank, hold_base_in_bf16
from lvf.models.memory_efficient import use_memory_efficient_layers
from lvf.models.packed import NAME, Layout
from lvf.models.probe import choose_layout, few_layers
from lvf.models.token_loss import give_loss_in_chunks
from lvf.models.weights import check_weights
from lvf.runs.run_folder import is_rank_zero
from lvf.runs.sequence import first_export

if TYPE_CHECKING:
    from lvf.training.packed_model import PackedModel


def make_model(cfg: RunConfig) -> PackedModel:
    """Base model in Composer's wrapper, with adapters for LoRA.

    On ranks other than 0 its tensors have no memory until `lvf.training.shared_weights` fills them.

    Raises:
        UserError: lvf cannot train this architecture rightly.
    """
    from lvf.training.outcome import on_rank_zero
    from lvf.training.packed_model import PackedModel

    layout = on_rank_zero(lambda: check_architecture(cfg))  # whose probe takes memory
    model = _rounded(_base_with_adapters(cfg, layout), cfg)
    packed = PackedModel(model, load_tokenizer(cfg.model))
    packed.in_bf16, packed.layout = in_bf16(cfg), layout
    return packed


def _base_with_adapters(cfg: RunConfig, layout: Layout) -> Any:
    if is_rank_zero():
        model = adapt(_start(cfg), cfg.method, layout, cfg)
        if cfg.sequence.keep_adapter and (export := first_export(cfg)):
            load_adapter(model, export)
        return model
    import torch

    base = base_without_memory(cfg.model, cfg.training.attention_dropout)
    with torch.device("meta"):  # of which PiSSA's start cannot be computed
        return adapt(base, replace(cfg.method, init="zero"), layout, cfg)


def _start(cfg: RunConfig) -> Any:
    """The weights below a run's adapters, or those that it trains: the base's, or the first run's.

    The first run's are copied into the base, whose configuration is this run's.
    """
    base = load_base(cfg.model, cfg.training.attention_dropout)
    export = first_export(cfg)
    if export and not cfg.sequence.keep_adapter:
        tuned, _ = load_export(export, cfg.model)
        base.load_state_dict(tuned.state_dict())
    return base


def check_model(cfg: RunConfig) -> None:
    """Refuse a model that cannot be trained as the run says, before its data are prepared.

    Raises:
        UserError: its files are not whole, a target cannot have the rank, or lvf cannot train its
            architecture rightly.
    """
    check_weights(cfg.model)
    check_rank(load_model_config(cfg.model), cfg.method)
    if check_architecture(cfg) is Layout.ROWS:
        print("this architecture cannot be packed: each document is a row of its own, padded")


def check_architecture(cfg: RunConfig) -> Layout:
    """How documents are handed to the run's model.

    Raises:
        UserError: lvf cannot train this architecture rightly, with this method.
    """

    def adapted(base: Any, method: MethodConfig, layout: Layout) -> Any:
        return adapt(base, method, layout, cfg)

    config, trust = load_model_config(cfg.model), cfg.model.trust_remote_code
    return choose_layout(config, trust, cfg.method, adapted, in_bf16(cfg))


def adapt(base: Any, method: MethodConfig, layout: Layout, cfg: RunConfig) -> Any:
    """Make a base what is trained, in place."""
    if layout is not Layout.ROWS:
        base.set_attn_implementation("flash_attention_2" if layout is Layout.FLASH else NAME)
    use_memory_efficient_layers(base)
    model = base
    if method.kind == "lora":
        fused = cfg.training.fused_lora and method.adapter == "lora" and not method.peft
        model = add_adapters(base, method, fused)
        if fused:
            use_fused_lora(model, cfg.training.dropout_per_map)
    if layout is not Layout.ROWS:
        give_loss_in_chunks(model, cfg.runtime.loss_chunk_tokens)
    return model


def few_layer_model(cfg: RunConfig, layout: Layout, repeats: int) -> Any:
    """The run's model with few layers and random weights, for what only shapes decide."""
    config = few_layers(load_model_config(cfg.model), 1, repeats)
    base = random_model(config, trust_remote_code=cfg.model.trust_remote_code)
    return _rounded(adapt(base, replace(cfg.method, init="zero"), layout, cfg), cfg)


def _rounded(model: Any, cfg: RunConfig) -> Any:
    from lvf.training.sharding import uses_fsdp  # Composer, which a check need not wait for

    is_lora = cfg.method.kind == "lora" and cfg.method.adapter == "lora"
    if is_lora and cfg.runtime.bf16_base and in_bf16(cfg):
        hold_base_in_bf16(model, sharded=uses_fsdp(cfg))
    return model


def in_bf16(cfg: RunConfig) -> bool:
    """Whether products are of bf16."""
    return cfg.training.precision == "amp_bf16"
