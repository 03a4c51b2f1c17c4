"""Other architectures than Llama are trained as transformers computes them, or refused."""

from pathlib import Path

import pytest

from lvf.models.newer import READS_BOTH
from lvf.models.packed import Layout
from tests.models.architectures import check

PACKED, ROWS = Layout.PACKED.value, Layout.ROWS.value
KINDS = {
    "gpt2": (PACKED, PACKED),  # learned positions, Conv1D, biases
    "gpt_neox": (PACKED, PACKED),  # Pythia: parallel blocks, untied head
    "mistral": (PACKED, PACKED),  # sliding window
    "qwen2": (PACKED, PACKED),  # a sliding window from a later layer on, biases
    "gemma2": (PACKED, PACKED),  # soft-capped scores and logits, alternating windows
    "gemma3_text": (PACKED, PACKED),  # two kinds of rotary embeddings
    "phi3": (PACKED, PACKED),  # one map for q, k and v
    "olmoe": (PACKED, PACKED),  # experts
    "stablelm": (ROWS, ROWS),  # attention that does not know packed documents
    "bloom": (ROWS, ROWS),  # positions by distance
    "mamba": (ROWS, "refused"),  # recurrent; PEFT adapts no out_proj of it
}
"""How each is trained with full finetuning and with LoRA."""
RIGHT_OR_REFUSED = ("gpt_oss", "llama4_text", "deepseek_v3", "opt", "jamba", "falcon", "qwen3_moe")
"""Sinks, chunks, values narrower than keys, hybrids, experts: by the version of transformers."""


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("model_type", [*KINDS, *RIGHT_OR_REFUSED])
def test_a_batch_teaches_what_each_document_alone_does(
    model_type: str, method: str, tmp_path: Path
) -> None:
    layout = check(model_type, method, tmp_path)
    if model_type in RIGHT_OR_REFUSED:
        return
    expected = KINDS[model_type][method == "lora"]
    if not READS_BOTH and expected == PACKED:  # less of version 4 goes through its interfaces
        assert layout in (PACKED, ROWS)
    else:
        assert layout.startswith(expected), layout


@pytest.mark.parametrize("method", ["full", "lora"])
def test_recomputed_layers_give_the_same_with_windows_and_caps(method: str, tmp_path: Path) -> None:
    assert check("gemma2", method, tmp_path, recompute=True) == PACKED


def test_a_model_that_sees_later_tokens_is_refused(tmp_path: Path) -> None:
    assert check("bert", "full", tmp_path, is_decoder=False).startswith(
        "refused: model.path: bert is no causal language model"
    )
