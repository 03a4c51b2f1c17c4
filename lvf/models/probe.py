"""How packed documents go through a model, tried out on a few layers of its own configuration.

No list of architectures decides it. A few layers with random weights see three short documents, as
training will hand them over, and every loss and gradient is compared with transformers' own
attention on each document alone. So an architecture that nobody has tried is right or refused.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lvf.config.schema import IGNORED_LABEL, MethodConfig
from lvf.errors import UserError
from lvf.models.packed import Layout
from lvf.models.token_loss import mean_loss

if TYPE_CHECKING:
    from transformers import PretrainedConfig

LENGTHS = (5, 24, 13)
"""Tokens of the documents."""
LOCAL_TOKENS = 8
"""Sliding windows and chunks while trying, so that the documents are longer."""
MOST_LAYERS = 12
"""Layers that are tried where kinds of layers alternate."""
RANDOM = ("drop", "jitter")
"""Parts of the names of settings by which a model draws random numbers."""
SHARPER = 4
"""Factor of random matrices, so that attention is far from uniform."""
TOLERANCE = {False: 1e-3, True: 0.1}
"""Relative difference of losses and gradients; by whether the products are of bf16."""


Adapt = Callable[[Any, MethodConfig, Layout], Any]
"""Makes a base what is trained: attention, lean layers, adapters."""


def choose_layout(
    config: PretrainedConfig,
    trust_remote_code: bool,
    method: MethodConfig,
    adapt: Adapt,
    in_bf16: bool,
) -> Layout:
    """The first layout in which a few layers learn what they learn from each document alone.

    Raises:
        UserError: none is right, or a token sees those after it; says what differs.
    """
    from transformers.utils import is_flash_attn_2_available

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    flash = in_bf16 and device.type == "cuda" and is_flash_attn_2_available()
    if method.kind == "lora":  # no random draws, and PiSSA's start takes long
        method = replace(method, dropout=0.0, init="zero")
    name, failures = config.model_type, []
    with torch.random.fork_rng([device] if device.type == "cuda" else []), device:
        torch.manual_seed(0)
        try:
            base = sharp_base(config, trust_remote_code)
            documents = [torch.randint(4, base.config.vocab_size, (length,)) for length in LENGTHS]
            causal = _is_causal(base, documents[1])
            reference = base if method.kind == "full" else _with_adapters(base, method)
            wanted = _outcome(reference, [_batch([one]) for one in documents], _plain_loss)
            measured = (
                _measured(reference, _batch(documents[1:2])) if reference is not base else 0.0
            )
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            raise UserError(
                f"model.path: lvf cannot train the architecture {name} with method={method.name}: "
                f"a few layers of it, given ids alone, answer {_first_line(error)}"
            ) from error
        if not causal:
            raise UserError(
                f"model.path: {name} is no causal language model as it is configured: what it "
                "predicts depends on tokens that come later. Choose a decoder (is_decoder=true in "
                "config.json)."
            )
        if not measured <= TOLERANCE[False]:
            raise UserError(
                f"model.path: the losses of {name} with the adapters of method={method.name}, and "
                f"of the same merged into it, differ by {measured:.1%}: the measured model would "
                "not be the trained one. Choose other method.target_modules"
            )

        def adapted(layout: Layout) -> Any:
            tried = adapt(copy.deepcopy(base), method, layout)
            tried.load_state_dict(reference.state_dict())
            return tried

        for layout in Layout if flash else list(Layout)[1:]:
            wrong = _what_is_wrong(layout, partial(adapted, layout), documents, wanted)
            if wrong is None:
                return layout
            failures.append(f"{layout.value}: {wrong}")
    raise UserError(
        f"model.path: lvf cannot train the architecture {name} rightly. A few layers of it, given "
        "three documents together, should learn what they learn from each alone, by transformers' "
        f"own attention. Tried: {'; '.join(failures)}. docs/architectures.md lists what works."
    )


def _what_is_wrong(
    layout: Layout, make: Callable[[], Any], documents: list[Tensor], wanted: Any
) -> str | None:
    """How a model learns otherwise from documents together than from each alone, if it does."""
    together = _batch(documents)
    batches = [_only(together, place) for place in range(len(documents))]
    kind = documents[0].device.type
    with torch.autocast(kind, torch.bfloat16, enabled=layout is Layout.FLASH):
        try:
            got = _outcome(make(), batches, partial(mean_loss, layout=layout))
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - code of any architecture
            return _first_line(error)
    difference = _difference(got, wanted)
    if difference <= TOLERANCE[layout is Layout.FLASH]:
        return None
    return f"losses or gradients differ by {difference:.1%}"


def few_layers(config: PretrainedConfig, least: int = 2, repeats: int = 1) -> PretrainedConfig:
    """A model's configuration with so few layers that each kind of them occurs.

    Args:
        config: Of the whole model.
        least: Layers at least.
        repeats: How often each kind occurs.

    Returns:
        A copy. Lists with an entry for each layer are cut; nothing else changes.
    """
    small = copy.deepcopy(config)
    total = small.num_hidden_layers
    per_layer = {
        name: values
        for name, values in vars(small).items()
        if isinstance(values, list | tuple) and len(values) == total
    }
    kinds = list(zip(*(map(str, v) for v in per_layer.values()), strict=True)) or [()] * total
    first_of_each = max(kinds.index(kind) for kind in kinds)
    if first_of_each >= MOST_LAYERS:  # a list of numbers, say, that differ in every layer
        first_of_each = MOST_LAYERS - 1
    dense = getattr(small, "first_k_dense_replace", 0) or 0  # then come layers of experts
    layers = min(total, max(least, first_of_each + 1, min(dense + 1, MOST_LAYERS)) * repeats)
    for name, values in per_layer.items():
        setattr(small, name, values[:layers])
    small.num_hidden_layers = layers
    return small


def sharp_base(config: PretrainedConfig, trust_remote_code: bool) -> Any:
    """Few layers with random weights, transformers' plain attention, short windows, no dropout."""
    from transformers import AutoModelForCausalLM

    small = few_layers(config)
    for name in ("sliding_window", "attention_chunk_size"):
        if getattr(small, name, None):
            setattr(small, name, LOCAL_TOKENS)
    for name, value in list(vars(small).items()):
        if any(word in name for word in RANDOM) and isinstance(value, float):
            setattr(small, name, 0.0)
    small.use_cache = False
    base = AutoModelForCausalLM.from_config(
        small,
        attn_implementation="eager",
        dtype=torch.float32,
        trust_remote_code=trust_remote_code,
    )
    with torch.no_grad():
        for parameter in base.parameters():
            if parameter.dim() > 1:
                parameter.mul_(SHARPER)
    return base.train()


def _with_adapters(base: Any, method: MethodConfig) -> Any:
    """A copy of the base with PEFT's own forward, and adapters that do something."""
    from lvf.models.lora import add_adapters

    model = add_adapters(copy.deepcopy(base), method)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad and not parameter.any():
                parameter.normal_(std=0.02)
    return model


def _measured(model: Any, batch: dict[str, Tensor]) -> float:
    """Relative difference between the losses of a model with adapters and with them merged."""
    with torch.no_grad():
        trained = _plain_loss(model.eval(), batch)
        merged = _plain_loss(copy.deepcopy(model).merge_and_unload(), batch)
    return abs(float(merged / trained) - 1)


def _batch(documents: list[Tensor]) -> dict[str, Tensor]:
    """Documents of which the first has a row of its own, as `collate` gives them."""
    rows = [documents[:1], documents[1:]] if len(documents) > 1 else [documents]
    lengths = [sum(map(len, row)) for row in rows]
    ids = torch.zeros(len(rows), max(lengths), dtype=torch.long)
    positions, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORED_LABEL)
    for place, row in enumerate(rows):
        joined = torch.cat(row)
        ids[place, : len(joined)] = joined
        labels[place, : len(joined)] = joined
        positions[place, : len(joined)] = torch.cat([torch.arange(len(one)) for one in row])
    labels[positions == 0] = IGNORED_LABEL  # a document's first token is not predicted
    num_tokens = torch.tensor(lengths)
    return {"input_ids": ids, "labels": labels, "position_ids": positions, "num_tokens": num_tokens}


def _only(together: dict[str, Tensor], document: int) -> dict[str, Tensor]:
    """The batch with labels for one document."""
    row, start = (0, 0) if document == 0 else (1, sum(LENGTHS[1:document]))
    labels = torch.full_like(together["labels"], IGNORED_LABEL)
    kept = slice(start, start + LENGTHS[document])
    labels[row, kept] = together["labels"][row, kept]
    return together | {"labels": labels}


def _plain_loss(model: Any, batch: dict[str, Tensor]) -> Tensor:
    logits = model(input_ids=batch["input_ids"], use_cache=False).logits
    return cross_entropy(logits[0, :-1].float(), batch["labels"][0, 1:])


def _outcome(
    model: Any, batches: list[dict[str, Tensor]], loss: Callable[[Any, dict[str, Tensor]], Tensor]
) -> tuple[list[float], dict[str, Tensor]]:
    """Loss of each batch, and the gradients of their sum by parameter, on the CPU."""
    model.train().zero_grad()
    losses = []
    for batch in batches:
        value = loss(model, batch)
        value.backward()
        losses.append(float(value))
    gradients = {
        name: (torch.zeros_like(p) if p.grad is None else p.grad).cpu()
        for name, p in model.named_parameters()
        if p.requires_grad
    }
    model.zero_grad()
    return losses, gradients


def _difference(
    got: tuple[list[float], dict[str, Tensor]], wanted: tuple[list[float], dict[str, Tensor]]
) -> float:
    """Largest relative difference of a loss, or of a parameter's gradient.

    A gradient that is small beside the largest, such as that of a key's bias, which rounding alone
    makes differ from 0, is compared with a thousandth of that.
    """
    pairs = zip(got[0], wanted[0], strict=True)
    worst = max(abs(one - other) / max(abs(other), 1e-6) for one, other in pairs)
    norms = {name: float(gradient.norm()) for name, gradient in wanted[1].items()}
    least = 1e-3 * max(norms.values())
    for name, gradient in wanted[1].items():
        away = float((got[1][name] - gradient).norm())
        worst = max(worst, away / max(norms[name], least, 1e-12))
    return worst if worst == worst else float("inf")  # NaN


def _is_causal(base: Any, ids: Tensor) -> bool:
    """Whether no prediction depends on a later token, as it does in BERT."""
    changed = ids.clone()
    changed[-1] = ids[0] if ids[-1] != ids[0] else ids[1]
    with torch.no_grad():
        before, after = (
            base(input_ids=tokens[None], use_cache=False).logits[0, :-1]
            for tokens in (ids, changed)
        )
    return torch.allclose(before, after, rtol=1e-3, atol=1e-3 * float(before.abs().max()))


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
