"""Closed forms of the planner against models on the meta device, and published counts."""

from dataclasses import replace

import pytest
from transformers import AutoConfig, LlamaConfig, Olmo2Config, Qwen3Config

from lvf.config.compose import compose
from lvf.config.schema import ModelConfig, ShapeConfig
from lvf.models import counts
from lvf.planning.shapes import (
    num_parameters,
    num_trainable_parameters,
    shape_of,
    train_flops_per_token,
)

CLASSES = {"llama": LlamaConfig, "qwen3": Qwen3Config, "olmo2": Olmo2Config}
# As their authors publish them; for SmolLM2 and Qwen3 the files on the hub.
PUBLISHED = {
    "llama2_7b": 6_738_415_616,
    "llama2_13b": 13_015_864_320,
    "llama3_8b": 8_030_261_248,
    "qwen3_8b": 8_190_735_360,
    "smollm2_135m": 134_515_008,
    "smollm2_360m": 361_821_120,
    "embedded": 1_119_360,
}
METHODS = (
    "full", "lora", "lora_attention", "lora_v1_mlp", "dora", "oft", "vera", "miss", "shira", "ia3",
    "lora_embeddings",
)  # fmt: skip


def hugging_face(shape: ShapeConfig) -> AutoConfig:
    given = {k: v for k, v in vars(shape).items() if v is not None and k != "model_type"}
    return CLASSES[shape.model_type](**given)


def shape_in_conf(name: str) -> ShapeConfig:
    shape = shape_of(compose(f"model={name}").model)
    assert shape is not None
    return shape


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_model_has_its_published_number_of_parameters(name: str) -> None:
    assert num_parameters(shape_in_conf(name)) == PUBLISHED[name]


@pytest.mark.parametrize("name", ["llama2_7b", "qwen3_8b", "olmo2_7b", "smollm2_360m"])
def test_the_closed_forms_equal_the_counts_on_the_meta_device(name: str) -> None:
    shape = replace(shape_in_conf(name), num_hidden_layers=2)
    config = hugging_face(shape)
    assert num_parameters(shape) == counts.num_parameters(config)
    tied = shape.tie_word_embeddings
    for method in METHODS[: -1 if tied else None]:
        ranked = method not in ("full", "oft", "ia3")
        one = compose(f"method={method}", "method.rank=16" if ranked else "seed=0").method
        trained = counts.num_trainable_parameters(config, one)
        assert num_trainable_parameters(shape, one) == trained
        assert train_flops_per_token(shape, one) == counts.train_flops_per_token(config, one)


def test_a_model_without_a_known_shape_is_unknown(tmp_path) -> None:  # noqa: ANN001
    (tmp_path / "config.json").write_text('{"model_type": "mamba"}')
    assert shape_of(ModelConfig(name="x", path=str(tmp_path))) is None
    assert shape_of(ModelConfig(name="x", path=str(tmp_path / "gone"))) is None
    assert shape_of(ModelConfig(name="x", path="nobody/has-this")) is None
