"""The text part of a model for images and text computes what the whole model does on text."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoTokenizer
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from lvf.config.schema import ModelConfig
from lvf.embedded.corpora import base_dir
from lvf.errors import UserError
from lvf.models.load import load_base, load_model_config, load_tokenizer
from lvf.models.weights import check_weights

TEXT = {
    "vocab_size": 1280, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    "max_position_embeddings": 256, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
}  # fmt: skip
VISION = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2,
    "image_size": 28, "patch_size": 14,
}  # fmt: skip
MODELS = {
    "gemma3": ("gemma3_text", "siglip_vision_model", {"mm_tokens_per_image": 4}),
    "mistral3": ("mistral", "pixtral", {}),
    "llava": ("llama", "clip_vision_model", {}),
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LVF_CACHE", str(tmp_path / "cache"))


def saved(model_type: str, folder: Path) -> Any:
    """A tiny random model, and the packaged tokenizer."""
    text, vision, more = MODELS[model_type]
    config = CONFIG_MAPPING[model_type](
        text_config={"model_type": text, **TEXT},
        vision_config={"model_type": vision, **VISION},
        image_token_index=1279,
        image_token_id=1279,
        **more,
    )
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config).eval()
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base_dir()).save_pretrained(folder)
    return model


@pytest.mark.parametrize("model_type", MODELS)
def test_the_text_part_has_the_logits_of_the_whole(model_type: str, tmp_path: Path) -> None:
    whole = saved(model_type, tmp_path / "model")
    config = ModelConfig(path=str(tmp_path / "model"))
    check_weights(config)
    assert load_model_config(config).model_type == MODELS[model_type][0]
    ids = torch.arange(3, 99)[None]
    with torch.no_grad():
        expected = whole(input_ids=ids).logits
        torch.testing.assert_close(load_base(config)(input_ids=ids).logits, expected)
    text = "The bees count 17 jars."
    original = AutoTokenizer.from_pretrained(base_dir())
    assert load_tokenizer(config)(text)["input_ids"] == original(text)["input_ids"]


def test_a_text_part_that_is_no_model_of_its_own_is_refused(tmp_path: Path) -> None:
    config = CONFIG_MAPPING["qwen2_5_vl"](
        text_config={"model_type": "qwen2_5_vl_text", **TEXT},
        vision_config={"depth": 1, "hidden_size": 32, "num_heads": 2, "out_hidden_size": 64,
                       "intermediate_size": 48},
    )  # fmt: skip
    AutoModelForImageTextToText.from_config(config).save_pretrained(tmp_path / "model")
    with pytest.raises(UserError, match="for more than text, whose text part cannot be taken out"):
        check_weights(ModelConfig(path=str(tmp_path / "model")))
