"""Real models and tokenizers for tests, from the development data, in Hugging Face form."""

import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from sentencepiece import sentencepiece_model_pb2 as sentencepiece
from transformers import LlamaConfig, LlamaForCausalLM
from transformers import __version__ as version

READS_SENTENCEPIECE = not (5, 0) <= tuple(map(int, version.split(".")[:2])) < (5, 24)
"""Whether this transformers gives sentencepiece's ids to a tokenizer.model of Llama's kind."""

LLAMA_TOKENIZER = {
    "tokenizer_class": "LlamaTokenizer",
    "legacy": True,
    "add_bos_token": True,
    "add_eos_token": False,
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
}


def convert_stories260k(source: Path, target: Path) -> Path:
    """A really trained Llama of 260 K parameters, from llama2.c's fp32 format version 0."""
    _convert_tokenizer(source / "tok512.bin", target)
    with (source / "stories260K.bin").open("rb") as file:
        dim, hidden, layers, heads, kv_heads, vocab, seq_len = struct.unpack("7i", file.read(28))
        flat = torch.from_numpy(np.fromfile(file, np.float32))
    kv_dim, at = dim // heads * kv_heads, 0

    def take(*shape: int) -> torch.Tensor:
        nonlocal at
        size = int(np.prod(shape))
        at += size
        return flat[at - size : at].reshape(shape)

    state = {"model.embed_tokens.weight": take(vocab, dim)}
    kinds = [
        ("input_layernorm", (dim,)),
        ("self_attn.q_proj", (dim, dim)),
        ("self_attn.k_proj", (kv_dim, dim)),
        ("self_attn.v_proj", (kv_dim, dim)),
        ("self_attn.o_proj", (dim, dim)),
        ("post_attention_layernorm", (dim,)),
        ("mlp.gate_proj", (hidden, dim)),
        ("mlp.down_proj", (dim, hidden)),
        ("mlp.up_proj", (hidden, dim)),
    ]
    for name, shape in kinds:
        for layer, weight in enumerate(take(layers, *shape)):
            if name.endswith(("q_proj", "k_proj")):
                weight = _halves_for_pairs(weight, dim // heads)
            state[f"model.layers.{layer}.{name}.weight"] = weight
    state["model.norm.weight"] = take(dim)
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocab,
            hidden_size=dim,
            intermediate_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            max_position_embeddings=seq_len,
            rms_norm_eps=1e-5,
            tie_word_embeddings=True,
            bos_token_id=1,
            eos_token_id=2,
        )
    )
    model.load_state_dict(state)
    model.save_pretrained(target)
    return target


def _halves_for_pairs(weight: torch.Tensor, head_dim: int) -> torch.Tensor:
    """llama2.c rotates neighbouring rows, transformers the two halves of a head."""
    rows, columns = weight.shape
    pairs = weight.reshape(rows // head_dim, head_dim // 2, 2, columns)
    return pairs.transpose(1, 2).reshape(rows, columns)


def _convert_tokenizer(source: Path, target: Path) -> None:
    """llama2.c's list of pieces and scores as a sentencepiece model."""
    model = sentencepiece.ModelProto()
    model.trainer_spec.model_type = sentencepiece.TrainerSpec.BPE
    model.trainer_spec.byte_fallback = True
    model.normalizer_spec.add_dummy_prefix = True
    model.normalizer_spec.remove_extra_whitespaces = False
    model.normalizer_spec.name = "identity"
    types = sentencepiece.ModelProto.SentencePiece
    with source.open("rb") as file:
        file.read(4)  # longest piece
        while header := file.read(8):
            score, size = struct.unpack("fi", header)
            piece = file.read(size).decode()
            index = len(model.pieces)
            kind = types.BYTE if 3 <= index < 259 else types.NORMAL
            special = {
                0: ("<unk>", types.UNKNOWN),
                1: ("<s>", types.CONTROL),
                2: ("</s>", types.CONTROL),
            }
            piece, kind = special.get(index, (piece.replace(" ", "▁"), kind))
            if kind == types.BYTE:
                piece = f"<0x{index - 3:02X}>"
            model.pieces.add(piece=piece, score=score, type=kind)
    model.trainer_spec.vocab_size = len(model.pieces)
    target.mkdir(parents=True, exist_ok=True)
    (target / "tokenizer.model").write_bytes(model.SerializeToString())
    _write_config(target)


def llama2_tokenizer(shared_data: Path, target: Path) -> Path:
    """Writes the Llama 2 tokenizer as its publishers give it: sentencepiece's file and settings."""
    target.mkdir(parents=True, exist_ok=True)
    shutil.copy(shared_data / "tokenizer" / "llama2" / "tokenizer.model", target)
    _write_config(target)
    return target


def random_llama_with_llama2_tokenizer(shared_data: Path, target: Path) -> Path:
    """A small random Llama behind the real Llama 2 tokenizer."""
    llama2_tokenizer(shared_data, target)
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=32000,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=1024,
    )
    LlamaForCausalLM(shape).save_pretrained(target)
    return target


def _write_config(target: Path) -> None:
    if not READS_SENTENCEPIECE:
        pytest.skip(f"lvf refuses tokenizer.model without tokenizer.json on transformers {version}")
    (target / "tokenizer_config.json").write_text(json.dumps(LLAMA_TOKENIZER))
