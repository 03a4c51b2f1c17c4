"""A GGUF file gives the model and the tokenizer that it was made from, or is refused."""

import json
import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import dequantize, quantize
from transformers import AutoModelForCausalLM, AutoTokenizer

from lvf.config.schema import ModelConfig
from lvf.data.fingerprint import model_fingerprint
from lvf.embedded.corpora import base_dir
from lvf.errors import UserError
from lvf.models.load import load_base, load_tokenizer
from lvf.models.special_tokens import end_ids
from lvf.models.weights import check_weights

TEXT = "The bees count 17 jars.\nQ: how many?  A: 34</s>"
Q8 = GGMLQuantizationType.Q8_0


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LVF_CACHE", str(tmp_path / "cache"))


def original_weights() -> dict[str, torch.Tensor]:
    model = AutoModelForCausalLM.from_pretrained(base_dir(), dtype=torch.float32)
    return model.state_dict()


def neighbours(weight: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp rotates neighbouring rows of a head, transformers its two halves."""
    halves = weight.reshape(heads, 2, len(weight) // heads // 2, weight.shape[1])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def write(file: Path, *, eos: int = 1, q8: bool = False, scaled: bool = False, lost: str = "",
          more: str = "") -> Path:  # fmt: skip
    """The packaged model as llama.cpp's converter writes a Llama."""
    config = json.loads((base_dir() / "config.json").read_text())
    tokens = json.loads((base_dir() / "tokenizer.json").read_text())["model"]
    writer = GGUFWriter(file, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(sorted(tokens["vocab"], key=tokens["vocab"].__getitem__))
    writer.add_token_types([3] * 3 + [1] * (config["vocab_size"] - 3))  # control, normal
    writer.add_token_merges([" ".join(merge) for merge in tokens["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(eos)
    writer.add_pad_token_id(2)
    if scaled:
        writer.add_tensor("rope_freqs.weight", np.ones(config["head_dim"] // 2, np.float32))
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    for name, tensor in original_weights().items():
        weight = tensor.numpy()
        if "q_proj" in name or "k_proj" in name:
            weight = neighbours(weight, config["num_attention_heads"])
        if name == lost:
            continue
        target = names.get_name(name, try_suffixes=(".weight",))
        if q8 and "self_attn" in name:
            writer.add_tensor(target, quantize(weight, Q8), raw_dtype=Q8)
        else:
            writer.add_tensor(target, np.ascontiguousarray(weight))
    if more:
        writer.add_tensor(more, np.ones(4, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def test_the_model_is_the_original_to_the_last_bit(tmp_path: Path) -> None:
    config = ModelConfig(path=str(write(tmp_path / "tiny.gguf")))
    check_weights(config)
    ids = torch.arange(3, 99)[None]
    original = AutoModelForCausalLM.from_pretrained(base_dir(), dtype=torch.float32)
    model = load_base(config)
    with torch.no_grad():
        assert torch.equal(model(ids).logits, original(ids).logits)
    weights = model.state_dict()
    assert all(torch.equal(weights[name], weight) for name, weight in original_weights().items())
    model.save_pretrained(tmp_path / "saved")  # a quantised model could not be
    assert end_ids(model, load_tokenizer(config)) == {1}


def test_what_lies_beside_the_file_is_not_read(tmp_path: Path) -> None:
    file = write(tmp_path / "tiny.gguf")
    code = json.dumps({"auto_map": {"AutoTokenizer": ["own.T", None], "AutoConfig": "own.C"}})
    for name in ("config.json", "tokenizer_config.json"):
        (tmp_path / name).write_text(code)
    (tmp_path / "own.py").write_text("raise SystemExit(1)")
    adapter = {"peft_type": "LORA", "base_model_name_or_path": "someone/model"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(adapter))
    config = ModelConfig(path=str(file), trust_remote_code=True)
    loaded = load_base(config).state_dict()
    assert all(torch.equal(loaded[name], weight) for name, weight in original_weights().items())
    assert load_tokenizer(config).eos_token_id == 1


def test_quantised_weights_are_those_that_gguf_says_they_are(tmp_path: Path) -> None:
    model = load_base(ModelConfig(path=str(write(tmp_path / "tiny.gguf", q8=True))))
    for name, weight in original_weights().items():
        expected = weight.numpy()
        if "self_attn" in name:  # rows are quantised one by one, in any order
            expected = dequantize(quantize(expected, Q8), Q8)
        assert np.array_equal(model.state_dict()[name].numpy(), expected)


@pytest.mark.parametrize("eos", [1, 5])
def test_its_tokenizer_has_the_ids_and_the_special_tokens_of_the_file(
    tmp_path: Path, eos: int
) -> None:
    config = ModelConfig(path=str(write(tmp_path / "tiny.gguf", eos=eos)))
    tokenizer, original = load_tokenizer(config), AutoTokenizer.from_pretrained(base_dir())
    assert tokenizer(TEXT)["input_ids"] == original(TEXT)["input_ids"]
    special = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    assert special == (0, eos, 2)
    assert end_ids(load_base(config), tokenizer) == {eos}


def test_what_a_file_is_decides_the_identity_of_a_run_and_not_where_it_lies(tmp_path: Path) -> None:
    file = write(tmp_path / "tiny.gguf")
    (tmp_path / "elsewhere").mkdir()
    moved = Path(shutil.copy(file, tmp_path / "elsewhere" / "other.gguf"))
    changed = write(tmp_path / "changed.gguf", q8=True)
    one, same, other = (
        model_fingerprint(ModelConfig(path=str(path))) for path in (file, moved, changed)
    )
    assert one == same != other


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"scaled": True}, "rope_freqs.weight"),
        ({"lost": "model.layers.1.mlp.up_proj.weight"}, "without model.layers.1.mlp.up_proj"),
        ({"more": "blk.0.attn_output.bias"}, "numbers"),
    ],
)
def test_a_file_of_which_transformers_would_read_a_part_is_refused(
    tmp_path: Path, how: dict[str, bool | str], message: str
) -> None:
    file = write(tmp_path / "tiny.gguf", **how)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=message):
        load_base(ModelConfig(path=str(file)))


def test_what_is_no_gguf_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        load_base(ModelConfig(path=str(tmp_path / "none.gguf")))
    (tmp_path / "text.gguf").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(UserError, match="does not read it"):
        load_base(ModelConfig(path=str(tmp_path / "text.gguf")))
