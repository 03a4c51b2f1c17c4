"""Parameters and FLOPs of a decoder from its shape in closed form, without torch."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

from lvf.config.schema import ALL_LINEAR, MethodConfig, ModelConfig, ShapeConfig
from lvf.errors import UserError
from lvf.models import relatives
from lvf.models.counts import product_flops_per_token
from lvf.models.load import model_folder_or_id

KNOWN = ("llama", "qwen3", "olmo2")


def shape_of(model: ModelConfig) -> ShapeConfig | None:
    """Shape from the model's config.json where it is on this machine, else from conf/model.

    None where neither has it, or the architecture is not one of `KNOWN`.
    """
    file = _config_file(model)
    if file is None:
        return model.shape
    tree = json.loads(file.read_text())
    if tree.get("model_type") not in KNOWN or tree.get("attention_bias") or tree.get("mlp_bias"):
        return None
    names = [one.name for one in fields(ShapeConfig)]
    return ShapeConfig(**{name: tree[name] for name in names if name in tree})


def _config_file(model: ModelConfig) -> Path | None:
    try:
        local = Path(model_folder_or_id(model)) / "config.json"
    except UserError:  # a local folder that is not there: training says so, the planner goes on
        return None
    if local.is_file():
        return local
    if model.shape is not None:
        return None
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(model.path, "config.json", revision=model.revision)
    return Path(cached) if isinstance(cached, str) else None


def linear_maps(shape: ShapeConfig) -> dict[str, tuple[int, int]]:
    """(d_in, d_out) of the linear maps of one block, by name."""
    hidden, inner = shape.hidden_size, shape.intermediate_size
    query, key = (heads * head_dim(shape) for heads in _heads(shape))
    return {
        "q_proj": (hidden, query),
        "k_proj": (hidden, key),
        "v_proj": (hidden, key),
        "o_proj": (query, hidden),
        "gate_proj": (hidden, inner),
        "up_proj": (hidden, inner),
        "down_proj": (inner, hidden),
    }


def head_dim(shape: ShapeConfig) -> int:
    """Width of one attention head."""
    return shape.head_dim or shape.hidden_size // shape.num_attention_heads


def num_parameters(shape: ShapeConfig) -> int:
    """All parameters; tied embeddings count once."""
    embeddings = (1 if shape.tie_word_embeddings else 2) * shape.vocab_size * shape.hidden_size
    return num_block_parameters(shape) + shape.hidden_size + embeddings


def num_block_parameters(shape: ShapeConfig) -> int:
    """Those of all blocks: without embeddings and the last norm."""
    maps = sum(d_in * d_out for d_in, d_out in linear_maps(shape).values())
    norms = (
        2 * shape.hidden_size
        + {
            "llama": 0,
            "qwen3": 2 * head_dim(shape),  # of queries and keys, one for all heads
            "olmo2": sum(_heads(shape)) * head_dim(shape),  # of queries and keys, whole
        }[shape.model_type]
    )
    return shape.num_hidden_layers * (maps + norms)


def num_adapter_parameters(shape: ShapeConfig, method: MethodConfig) -> int:
    """Of all targets of all blocks (`lvf.models.relatives`)."""
    return _over_targets(shape, method, relatives.num_parameters)


def _adapter_flops(shape: ShapeConfig, method: MethodConfig) -> int:
    return _over_targets(shape, method, relatives.train_flops)


def _over_targets(
    shape: ShapeConfig, method: MethodConfig, count: Callable[[MethodConfig, str, int, int], int]
) -> int:
    """Sum of a count over the maps of all blocks that get adapters; 0 without any."""
    if method.kind == "full":
        return 0
    targets = _targets(shape, method).items()
    return shape.num_hidden_layers * sum(
        count(method, name, d_out, d_in) for name, (d_in, d_out) in targets
    )


def num_trainable_parameters(shape: ShapeConfig, method: MethodConfig) -> int:
    """What the method trains: everything, or adapters and modules that are trained whole."""
    if method.kind == "full":
        return num_parameters(shape)
    trained = num_adapter_parameters(shape, method)
    if method.dora:  # one magnitude for each output
        trained += shape.num_hidden_layers * sum(
            d_out for _, d_out in _targets(shape, method).values()
        )
    return trained + len(method.modules_to_save) * shape.vocab_size * shape.hidden_size


def train_flops_per_token(shape: ShapeConfig, method: MethodConfig) -> int:
    """Matrix-product FLOPs of one training token, as `lvf.models.counts` defines them."""
    sizes = {
        name: shape.num_hidden_layers * d_in * d_out
        for name, (d_in, d_out) in linear_maps(shape).items()
    }
    sizes["lm_head"] = shape.vocab_size * shape.hidden_size
    return product_flops_per_token(sizes, _adapter_flops(shape, method), method)


def forward_share(shape: ShapeConfig, method: MethodConfig) -> float:
    """Share of a training token's FLOPs that the forward pass has: full 1/3, LoRA about 1/2."""
    in_products = train_flops_per_token(shape, MethodConfig(kind="full")) // 6
    forward = 2 * in_products + _adapter_flops(shape, method) // 3
    return forward / train_flops_per_token(shape, method)


def _targets(shape: ShapeConfig, method: MethodConfig) -> dict[str, tuple[int, int]]:
    """(d_in, d_out) of the maps of one block that get adapters, by name."""
    assert method.target_modules is not None
    maps = linear_maps(shape)
    targets = maps if method.target_modules == [ALL_LINEAR] else method.target_modules
    return {name: maps[name] for name in targets if name in maps}


def _heads(shape: ShapeConfig) -> tuple[int, int]:
    return shape.num_attention_heads, shape.num_key_value_heads
