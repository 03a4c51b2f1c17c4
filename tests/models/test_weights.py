"""A model whose files are not whole is refused before any work, with the cause."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lvf.config.schema import ModelConfig
from lvf.embedded.corpora import base_dir
from lvf.errors import UserError
from lvf.models.weights import check_weights


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the packaged base model."""
    shutil.copytree(base_dir(), tmp_path / "model")
    return tmp_path / "model"


def edit(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as raised:
        check_weights(ModelConfig(path=str(folder)))
    return str(raised.value)


def test_a_whole_model_passes_without_a_word(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check_weights(ModelConfig(path=str(folder)))
    assert capsys.readouterr().out == ""


def test_a_missing_weight_is_named(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if "down_proj" in name)
    del weights[name]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert name in refusal(folder) and "at random" in refusal(folder)


def test_an_untied_head_that_is_missing_is_not_drawn_at_random(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights.pop("lm_head.weight", None)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    edit(folder, tie_word_embeddings=False)
    assert "lm_head.weight" in refusal(folder)


def test_a_weight_that_the_model_does_not_have_is_reported(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = load_file(folder / "model.safetensors") | {"value_head.weight": torch.zeros(3)}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    check_weights(ModelConfig(path=str(folder)))
    assert "1 weights belong to no part of the model" in capsys.readouterr().out


def test_other_shapes_than_in_the_configuration_are_refused(folder: Path) -> None:
    edit(folder, intermediate_size=96)
    layers = json.loads((folder / "config.json").read_text())["num_hidden_layers"]
    assert f"{3 * layers} weights have other shapes" in refusal(folder)
    assert "model.layers.0.mlp.down_proj.weight" in refusal(folder)


def test_a_pointer_of_git_lfs_is_refused(folder: Path) -> None:
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 2242880\n"
    (folder / "model.safetensors").write_text(pointer)
    assert "git lfs pull" in refusal(folder)


def test_a_quantised_model_is_refused(folder: Path) -> None:
    edit(folder, quantization_config={"quant_method": "gptq", "bits": 4, "group_size": 128})
    assert "quantised" in refusal(folder)


def test_a_model_for_images_and_text_is_refused(folder: Path) -> None:
    text = json.loads((folder / "config.json").read_text())
    text.pop("architectures")
    vision = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    values = {"model_type": "llava", "text_config": text, "vision_config": vision}
    (folder / "config.json").write_text(json.dumps(values))
    assert "for more than text" in refusal(folder)
