"""A tiny configuration of every causal architecture that the installed transformers can build."""

from __future__ import annotations

import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.pytorch_utils import Conv1D

from lvf.config.compose import compose
from lvf.config.schema import RunConfig
from lvf.data.loader import collate
from lvf.data.packing import Row
from lvf.embedded.corpora import base_dir
from lvf.errors import UserError
from lvf.models.layers import decoder_layers, recompute_layers
from lvf.models.load import load_export, load_model_config
from lvf.models.lora import add_adapters, check_rank
from lvf.models.packed import Layout
from lvf.training.build_model import make_model
from lvf.training.exporter import write_export
from lvf.training.packed_model import PackedModel

VOCABULARY = 1280
"""That of the packaged tokenizer."""
NUM_LAYERS = 2
SIZES = {
    "vocab_size": VOCABULARY, "unpadded_vocab_size": VOCABULARY,
    "hidden_size": 64, "intermediate_size": 96,
    "num_hidden_layers": NUM_LAYERS, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 256, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
    "n_embd": 64, "n_layer": NUM_LAYERS, "n_head": 4, "n_positions": 256, "rotary_dim": 8,
    "d_model": 64, "n_layers": NUM_LAYERS, "n_heads": 4, "num_layers": NUM_LAYERS, "num_heads": 4,
    "d_kv": 16, "d_ff": 96, "ffn_dim": 96, "max_seq_len": 256, "word_embed_proj_dim": 64,
    "decoder_layers": NUM_LAYERS, "decoder_attention_heads": 4, "decoder_ffn_dim": 96,
    "num_decoder_layers": NUM_LAYERS, "num_decoder_attention_heads": 4,
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2,
    "moe_intermediate_size": 32, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1,
    "kv_lora_rank": 16, "q_lora_rank": 16, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8,
    "v_head_dim": 16, "qk_head_dim": 24, "is_decoder": True,
}  # fmt: skip
MORE: dict[str, dict[str, Any]] = {
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 8},
    "mamba2": {"num_heads": 8, "head_dim": 16, "n_groups": 1},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "phimoe": {"router_jitter_noise": 0.0, "input_jitter_noise": 0.0},
    "zamba2": {"num_hidden_layers": 2, "layers_block_type": ["mamba", "hybrid"]},
    "dots3_note_text": {"num_key_value_heads": 4},
    "zaya": {"num_experts_per_tok": 1},
    "gemma4_assistant": {"hidden_size_per_layer_input": 0},
    "gemma4_text": {"vocab_size_per_layer_input": VOCABULARY, "hidden_size_per_layer_input": 16},
}
LOCAL_TOKENS = 8
"""Sliding windows and chunks."""
LARGEST = 50_000_000
"""Parameters of what is small enough to be tried."""
LENGTHS = ((31,), (7, 1, 19), (2, 26))
"""Tokens of the documents of each row."""
SEQ_LEN = 32


class CannotBuildError(Exception):
    """These sizes do not suit the architecture, or it is not for text alone."""


def tiny_model(model_type: str, **more: Any) -> Any:
    """A model of random weights whose every size is small, and whose attention is not uniform.

    Raises:
        CannotBuildError: says why.
    """
    try:
        config_class = CONFIG_MAPPING[model_type]
        default = config_class()
        known = {*default.to_dict(), *default.attribute_map}
        sizes = {name: value for name, value in SIZES.items() if name in known}
        if "head_dim" in known and "qk_rope_head_dim" not in known:
            sizes["head_dim"] = 16
        if "kv_lora_rank" in known:  # each head has keys of its own
            sizes["num_key_value_heads"] = sizes["num_attention_heads"]
        for name in ("sliding_window", "attention_chunk_size"):
            if getattr(default, name, None):
                sizes[name] = LOCAL_TOKENS
        if "use_sliding_window" in known:
            sizes |= {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}
        sizes |= {n: 0.0 for n in known if "drop" in n and isinstance(getattr(default, n), float)}
        config = config_class(**(sizes | MORE.get(model_type, {}) | more))
        if config.get_text_config() is not config:
            raise CannotBuildError("it is not for text alone")
        with torch.device("meta"):
            meta = AutoModelForCausalLM.from_config(config)
        if sum(parameter.numel() for parameter in meta.parameters()) > LARGEST:
            raise CannotBuildError("it has sizes that are not in this list")
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    except CannotBuildError:
        raise
    except Exception as error:
        raise CannotBuildError(f"{type(error).__name__}: {error}") from error
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(3)
    return model


def check(
    model_type: str, method: str, folder: Path, recompute: bool = False, **config: Any
) -> str:
    """Train one batch as a run does, and compare with transformers on each document alone.

    Args:
        model_type: Architecture, as in config.json.
        method: Of conf/method.
        folder: For the model's files.
        recompute: Whether each layer's forward pass is made again for its gradients.
        config: Further values of config.json.

    Returns:
        How its documents are laid out, or "refused: " and why.

    Raises:
        AssertionError: what the run learns is not what the documents alone teach.
        CannotBuildError: there is no such small model.
    """
    plain = tiny_model(model_type, **config)
    plain.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base_dir()).save_pretrained(folder)
    words = [f"model.path={folder}", f"method={method}", "training.precision=fp32"]
    if method != "full":
        names = sorted({name.rsplit(".", 1)[-1] for name in linear_names(plain)})
        words += ["method.rank=4", "method.dropout=0.0"]
        words.append(f"method.target_modules=[{','.join(names)}]")
    cfg = compose("+experiment=math_ift", *words)
    try:
        check_rank(load_model_config(cfg.model), cfg.method)
        model = make_model(cfg)
    except UserError as error:
        return f"refused: {error}"
    reference = AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager", dtype=torch.float32
    )
    if method != "full":
        reference = add_adapters(reference, cfg.method)
        torch.manual_seed(1)
        for name, parameter in reference.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.05)
        model.model.load_state_dict(reference.state_dict())
    if recompute:
        recompute_layers(model.model)
    compare(model, reference)
    trained, measured = losses_around_export(model, cfg, folder / "export")
    assert measured == pytest.approx(trained, rel=1e-4), "the measured model is another"
    return model.layout.value


def linear_names(model: Any) -> list[str]:
    """Full names of the maps in the layers."""
    maps = (torch.nn.Linear, Conv1D)
    layers = decoder_layers(model)
    names = [name for name, module in layers.named_modules() if isinstance(module, maps)]
    return [name for name in names if not name.endswith("router")]  # gives more than a tensor


def documents(seed: int) -> list[list[Tensor]]:
    """Random documents of the batch's rows."""
    generator = torch.Generator().manual_seed(seed)
    return [[torch.randint(3, VOCABULARY, (n,), generator=generator) for n in row]
            for row in LENGTHS]  # fmt: skip


def compare(model: PackedModel, reference: Any) -> None:
    """Losses, gradients and independence of documents, to a thousandth."""
    rows = documents(seed=2)
    whole = loss_of(model, rows)
    whole.backward()
    total, count = torch.zeros(()), 0
    for document in (document for row in rows for document in row if len(document) > 1):
        logits = reference.train()(input_ids=document[None], use_cache=False).logits[0, :-1]
        total = total + cross_entropy(logits.float(), document[1:], reduction="sum")
        count += len(document) - 1
    (total / count).backward()
    assert float(whole) == pytest.approx(float(total) / count, rel=1e-3)
    wanted = dict(reference.named_parameters())
    largest = max(float(p.grad.norm()) for p in wanted.values() if p.grad is not None)
    for name, parameter in model.model.named_parameters():
        got, other = (
            torch.zeros_like(p) if p.grad is None else p.grad for p in (parameter, wanted[name])
        )
        away = float((got - other).norm()) / max(float(other.norm()), 1e-3 * largest)
        assert away < 1e-3, f"gradient of {name} differs by {away:.1%}"
    changed = documents(seed=2)
    changed[1][0] = documents(seed=3)[1][0]
    first, second = (loss_of(model, one, silent=(1, 0)) for one in (rows, changed))
    assert float(first) == pytest.approx(float(second), rel=1e-4), "documents see each other"


def document_loss(model: Any, rows: list[list[Tensor]]) -> float:
    """Mean loss over the tokens of all documents, each read alone by a plain model."""
    total, count = 0.0, 0
    for document in (document for row in rows for document in row if len(document) > 1):
        with torch.no_grad():
            logits = model.eval()(input_ids=document[None], use_cache=False).logits[0, :-1]
        total += float(cross_entropy(logits.float(), document[1:], reduction="sum"))
        count += len(document) - 1
    return total / count


def losses_around_export(model: PackedModel, cfg: RunConfig, target: Path) -> tuple[float, float]:
    """Change what learns; the loss then as the run sees it, and as its export is measured.

    An adapter that the architecture passes by, as Jamba does dt_proj's, never leaves zero.
    """
    loss_of(model, documents(seed=2)).backward()
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name and (parameter.grad is None or not parameter.grad.any()):
                parameter.zero_()
            elif parameter.grad is not None and parameter.grad.any():
                scale = float(parameter.std()) if len(parameter) > 1 else 0.0
                parameter.add_(max(0.1 * scale, 0.01) * torch.randn_like(parameter))
    trained = float(loss_of(model, documents(seed=2), train=False))
    write_export(model.model, model.model.state_dict(), model.tokenizer, target, {})
    measured, _ = load_export(target, cfg.model)
    return trained, document_loss(measured, documents(seed=2))


def loss_of(
    model: PackedModel,
    rows: list[list[Tensor]],
    silent: tuple[int, int] | None = None,
    train: bool = True,
) -> Tensor:
    """The run's own loss of a batch, without that of the document at (row, place) `silent`."""
    packed = []
    for place, row in enumerate(rows):
        one = Row(SEQ_LEN)
        for index, ids in enumerate(row):
            one.place(ids.numpy(), np.full(len(ids), silent != (place, index)))
        names = ("input_ids", "loss_mask", "segment_ids")
        packed.append({name: np.array(getattr(one, name)) for name in names})
    loss: Tensor = model.train(train)(collate(packed))["loss"]
    return loss


def cell(outcome: str) -> str:
    """What docs/architectures.md says of an outcome of `check`."""
    if "no causal language model" in outcome:
        return "refused (sees later tokens)"
    if "PEFT:" in outcome or "Target module" in outcome:
        return "refused (PEFT cannot adapt all its maps)"
    if outcome.startswith("refused"):
        return "refused"
    return "a row each" if outcome == Layout.ROWS.value else "packed"


def main() -> None:
    """Print the lines of the table in docs/architectures.md, of all architectures or of some.

    The exit status is 1 where a model would be trained wrongly.
    """
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    wrong = 0
    for model_type in sys.argv[1:] or sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES):
        cells = []
        for method in ("full", "lora"):
            with tempfile.TemporaryDirectory() as folder:
                try:
                    cells.append(cell(check(model_type, method, Path(folder))))
                except CannotBuildError:
                    break
                except Exception as error:  # noqa: BLE001 - any is a fault
                    cells.append(
                        f"**wrong: {type(error).__name__}: {' '.join(str(error).split())}**"
                    )
                    wrong += 1
        if cells:
            print(f"| {model_type} | {' | '.join(cells)} |", flush=True)
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
