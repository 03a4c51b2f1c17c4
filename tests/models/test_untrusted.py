"""Models, tokenizers and adapters that would fetch or run code, or write elsewhere, are refused."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from lvf.analysis.subjects import models
from lvf.config.compose import compose
from lvf.config.schema import ModelConfig
from lvf.embedded.corpora import base_dir
from lvf.errors import UserError
from lvf.evals.released import measure_released
from lvf.models.load import load_base, load_export, load_model_config, load_tokenizer
from lvf.models.untrusted import needs_safetensors
from lvf.train import run
from lvf.training.exporter import write_export

LOADERS: list[Callable[[ModelConfig], Any]] = [
    load_model_config,
    load_base,
    load_tokenizer,
    lambda model: load_export(Path(model.path), ModelConfig(name="base", path="embedded")),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny Llama with the packaged tokenizer, as transformers saves them."""
    shape = LlamaConfig(
        vocab_size=1280, hidden_size=32, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, bos_token_id=0, eos_token_id=1, pad_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(shape).save_pretrained(tmp_path / "in" / "model")
    AutoTokenizer.from_pretrained(base_dir()).save_pretrained(tmp_path / "in" / "model")
    return tmp_path / "in" / "model"


def edit(file: Path, **values: Any) -> None:
    tree = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(tree | values))


def model_of(folder: Path, **settings: Any) -> ModelConfig:
    return ModelConfig(name="tiny", path=str(folder), **settings)


def adapter(folder: Path) -> Path:
    base = LlamaForCausalLM.from_pretrained(folder)
    wrapped = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"]))
    wrapped.save_pretrained(str(folder.parent / "adapter"))
    return folder.parent / "adapter"


def files_below(place: Path) -> set[Path]:
    return set(place.rglob("*"))


CODE = [
    {"_attn_implementation_internal": "someone/kernel"},
    {"_attn_implementation": "someone/kernel@v1:forward"},
    {"attn_implementation": "kernels-community/flash-attn2"},
    {"attn_implementation": "flash_attention_2"},  # transformers 5 fetches it where it is missing
    {"attn_implementation": {"": "someone/kernel"}},
    {"text_config": {"_attn_implementation_internal": "someone/kernel"}},
    {"layers": [{"inner": {"_attn_implementation": "paged|someone/kernel"}}]},
    {"_experts_implementation_internal": "someone/kernel"},
    {"kernel_config": {"RMSNorm": "someone/kernel:RMSNorm"}},
]


@pytest.mark.parametrize("fields", CODE, ids=json.dumps)
def test_a_configuration_that_names_a_kernel_of_the_hub(
    folder: Path, fields: dict[str, Any]
) -> None:
    edit(folder / "config.json", **fields)
    for load in LOADERS:
        with pytest.raises(UserError, match=r"config.json has .*fetch and run code") as error:
            load(model_of(folder))
        assert str(folder) in str(error.value)


def test_such_a_field_in_the_configuration_of_another_version_of_transformers(folder: Path) -> None:
    edit(folder / "config.4.0.0.json", **json.loads((folder / "config.json").read_text()))
    edit(folder / "config.4.0.0.json", _attn_implementation_internal="someone/kernel")
    edit(folder / "config.json", configuration_files=["config.4.0.0.json"])
    with pytest.raises(UserError, match=r"config.4.0.0.json has .*fetch and run code"):
        load_base(model_of(folder))
    (folder / "config.4.0.0.json").unlink()
    edit(folder / "config.json", configuration_files=["../other/config.4.0.0.json"])
    with pytest.raises(UserError, match=r"not a list of names such as config.4.0.0.json"):
        load_base(model_of(folder))


@pytest.mark.parametrize(
    "fields",
    [
        {"_attn_implementation_autoset": True},  # as transformers 4.48 to 4.51 wrote it
        {"_attn_implementation": "sdpa"},
        {"attn_implementation": None},
        {"conv_kernel_size": 4},
        {"auto_map": {}},
    ],
    ids=json.dumps,
)
def test_a_harmless_configuration_loads(folder: Path, fields: dict[str, Any]) -> None:
    edit(folder / "config.json", **fields)
    assert load_base(model_of(folder)).config.hidden_size == 32


@pytest.mark.parametrize(
    "name", ["../../escaped", "/escaped", "a/b", "..", ".hidden", "", "a\\b", "c:x", 3, None]
)
@pytest.mark.parametrize(
    "file", ["tokenizer_config.json", "chat_template.json", "special_tokens_map.json"]
)
def test_a_template_whose_name_leaves_the_folder(folder: Path, file: str, name: Any) -> None:
    edit(folder / file, chat_template=[{"name": name, "template": "x"}])
    for load in LOADERS:
        with pytest.raises(UserError, match=f"{file} names a chat template"):
            load(model_of(folder))


def test_templates_by_name_are_checked_too(folder: Path) -> None:
    edit(folder / "tokenizer_config.json", chat_template={"../../escaped": "x"})
    with pytest.raises(UserError, match="names a chat template '../../escaped'"):
        load_tokenizer(model_of(folder))


def test_a_template_file_with_such_a_name(folder: Path) -> None:
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "..\\escaped.jinja").write_text("x")
    with pytest.raises(UserError, match="additional_chat_templates holds a template"):
        load_tokenizer(model_of(folder))


def test_templates_with_plain_names_are_kept_and_saved_with_the_export(
    folder: Path, tmp_path: Path
) -> None:
    templates = [{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}]
    edit(folder / "tokenizer_config.json", chat_template=templates)
    tokenizer: PreTrainedTokenizerBase = load_tokenizer(model_of(folder))
    model, target = load_base(model_of(folder)), tmp_path / "out" / "export"
    target.parent.mkdir()
    write_export(model, model.state_dict(), tokenizer, target, {})
    again = AutoTokenizer.from_pretrained(target)
    assert again.chat_template == {"default": "a", "tool_use": "b"}


@pytest.mark.parametrize("setting", ["model.path", "model.tokenizer"])
def test_a_training_with_such_a_template_ends_before_it_writes_data_or_exports(
    folder: Path, tmp_path: Path, setting: str
) -> None:
    templates = [{"name": "../../escaped", "template": "x"}]
    edit(folder / "tokenizer_config.json", chat_template=templates)
    before = files_below(tmp_path)
    cfg = compose(
        f"{setting}={folder}", f"paths.runs={tmp_path}/runs", f"paths.shards={tmp_path}/shards"
    )
    with pytest.raises(UserError, match=f"{setting}={folder} is refused: .*'../../escaped'"):
        run(cfg)
    new = {path for path in files_below(tmp_path) - before if path.is_file()}
    assert [path.name for path in new] == ["refused.json"]  # in the run's own folder
    assert new.pop().is_relative_to(tmp_path / "runs")


CODE_OF_ITS_OWN = "raise SystemExit(1)"


def test_code_of_the_models_own_runs_only_with_the_setting(folder: Path) -> None:
    edit(folder / "config.json", model_type="own", auto_map={"AutoConfig": "own.OwnConfig"})
    (folder / "own.py").write_text(
        "from transformers import LlamaConfig\nclass OwnConfig(LlamaConfig):\n    model_type='own'"
    )
    for load in LOADERS[:3]:
        with pytest.raises(UserError, match=r"auto_map.*set model.trust_remote_code=true"):
            load(model_of(folder))
    loaded = load_model_config(model_of(folder, trust_remote_code=True))
    assert type(loaded).__name__ == "OwnConfig" and loaded.hidden_size == 32


def test_a_tokenizers_own_code_and_a_models_own_sampling_are_refused(folder: Path) -> None:
    edit(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["own.Tokenizer", None]})
    (folder / "own.py").write_text(CODE_OF_ITS_OWN)
    with pytest.raises(UserError, match=r"tokenizer_config.json has auto_map.*trust_remote_code"):
        load_tokenizer(ModelConfig(name="tiny", path="embedded", tokenizer=str(folder)))
    edit(folder / "tokenizer_config.json", auto_map=None)
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(CODE_OF_ITS_OWN)
    with pytest.raises(UserError, match=r"custom_generate/.*model.trust_remote_code=true"):
        load_base(model_of(folder))


def test_a_base_model_that_is_an_adapter_of_another_one(folder: Path) -> None:
    edit(folder / "adapter_config.json", peft_type="LORA", base_model_name_or_path="someone/model")
    with pytest.raises(UserError, match=r"model.path=.* it holds an adapter"):
        load_model_config(model_of(folder))


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"peft_type": "XLORA", "adapters": {"0": "someone/adapter"}}, "allowed is LORA"),
        ({"megatron_config": {"x": 1}, "megatron_core": "os"}, "imports a module"),
    ],
)
def test_an_adapter_that_names_other_adapters_or_modules(
    folder: Path, fields: dict[str, Any], told: str
) -> None:
    place = adapter(folder)
    edit(place / "adapter_config.json", **fields)
    with pytest.raises(UserError, match=told):
        load_export(place, model_of(folder))


def test_a_released_model_is_refused_before_the_base_is_measured(
    folder: Path, tmp_path: Path
) -> None:
    place = tmp_path / "released" / "magicoder-full" / "main"
    shutil.copytree(folder, place)
    edit(place / "config.json", _attn_implementation_internal="someone/kernel")
    before = files_below(tmp_path)
    settings = ["scale=embedded", f"model.path={folder}", "evals.tasks=[nll_target]"]
    paths = [f"paths.runs={tmp_path}/runs", f"paths.records={tmp_path}/records"]
    with pytest.raises(UserError, match=r"released=.*fetch and run code"):
        measure_released(str(tmp_path / "released"), [*settings, *paths])
    assert files_below(tmp_path) == before


def test_a_model_from_elsewhere_is_refused_before_the_analysis(folder: Path) -> None:
    edit(folder / "config.json", _attn_implementation_internal="someone/kernel")
    with pytest.raises(UserError, match=r"tuned=.*fetch and run code"):
        models(compose(f"tuned={folder}"))


@pytest.mark.parametrize("file", ["../elsewhere.safetensors", "/elsewhere.safetensors", "evil.bin"])
def test_an_index_that_names_weights_elsewhere_or_pickles(folder: Path, file: str) -> None:
    edit(folder / "model.safetensors.index.json", weight_map={"lm_head.weight": file})
    with pytest.raises(UserError, match="names other files than .safetensors files beside it"):
        load_base(model_of(folder))


@pytest.mark.parametrize("text", ["no JSON", "[]", '{"weight_map": ["a.safetensors"]}', "[" * 9999])
def test_an_index_of_weights_that_cannot_be_read(folder: Path, text: str) -> None:
    (folder / "model.safetensors.index.json").write_text(text)
    with pytest.raises(UserError, match=rf"model.path={folder} is refused: .*index.json"):
        load_base(model_of(folder))


@pytest.mark.parametrize("text", ["{}", '{"model": {"type": "unknown"}}', "[]"])
def test_a_tokenizer_that_tokenizers_cannot_read(folder: Path, text: str) -> None:
    (folder / "tokenizer.json").write_text(text)
    with pytest.raises(UserError, match=rf"model.path={folder} cannot be loaded"):
        load_tokenizer(model_of(folder))


def test_weights_that_are_pickles_are_loaded_by_a_torch_that_can_do_so_safely(folder: Path) -> None:
    weights = LlamaForCausalLM.from_pretrained(folder).state_dict()
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    if needs_safetensors():
        for load in (LOADERS[1], LOADERS[3]):
            with pytest.raises(UserError, match=r"Install torch 2.10"):
                load(model_of(folder))
    else:
        loaded = load_base(model_of(folder)).state_dict()
        assert all(torch.equal(loaded[name], weights[name]) for name in weights)


def test_an_adapter_that_is_a_pickle_likewise(folder: Path) -> None:
    place = adapter(folder)
    weights = {
        name: one + 1 for name, one in load_file(place / "adapter_model.safetensors").items()
    }
    torch.save(weights, place / "adapter_model.bin")
    (place / "adapter_model.safetensors").unlink()
    if needs_safetensors():
        with pytest.raises(UserError, match=r"Install torch 2.10"):
            load_export(place, model_of(folder))
    else:
        base = LlamaForCausalLM.from_pretrained(folder)
        expected = PeftModel.from_pretrained(base, str(place)).merge_and_unload().state_dict()
        found = load_export(place, model_of(folder))[0].state_dict()
        assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("kind", ["kernel", "template"])
def test_a_model_of_the_hub_is_checked_like_a_folder(
    folder: Path, tmp_path: Path, kind: str
) -> None:
    if kind == "kernel":
        edit(folder / "config.json", _attn_implementation_internal="someone/kernel")
    else:
        templates = [{"name": "../../escaped", "template": "x"}]
        edit(folder / "tokenizer_config.json", chat_template=templates)
    commit, repo = "a" * 40, tmp_path / "hub" / "models--someone--model"
    shutil.copytree(folder, repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    offline = {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    before = files_below(tmp_path)
    paths = [f"paths.runs={tmp_path}/runs", f"paths.shards={tmp_path}/shards"]
    ended = subprocess.run(
        [sys.executable, "-m", "lvf.train", "model.path=someone/model", *paths],
        env=os.environ | offline, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode and "model.path=someone/model is refused" in ended.stderr
    assert "Traceback" not in ended.stderr
    new = {path for path in files_below(tmp_path) - before if path.is_file()}
    assert [path.name for path in new] == ["refused.json"]
