"""From a name in the configuration to a model, a tokenizer or a model's shape."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lvf.config.schema import ModelConfig
from lvf.embedded.corpora import base_dir
from lvf.errors import UserError
from lvf.models.gguf_file import from_gguf
from lvf.models.hub import ask_hub
from lvf.models.special_tokens import drop_appended_tokens
from lvf.models.text_part import has_text_part, text_part
from lvf.models.untrusted import check_model, needs_safetensors

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

RANDOM_WEIGHTS_SEED = 0
ANY_POSITION = 1 << 20


def model_source(model: ModelConfig) -> str:
    """What `model.path` names: a local folder, a GGUF file, or an id on the hub.

    Raises:
        UserError: a path that looks local holds no model.
    """
    if model.path == "embedded":
        return str(base_dir())
    if model.path.endswith(".gguf"):
        file = Path(model.path).expanduser().resolve()
        if not file.is_file():
            raise UserError(f"model.path={model.path}: there is no such file")
        return str(file)
    return _checked_path("model.path", model.path, "config.json")


def model_folder_or_id(model: ModelConfig) -> str:
    """What transformers is given for this model: a local folder, or an id on the hub.

    A GGUF file, and the text part of a local model for more than text, are first written as
    folders of their own.

    Raises:
        UserError: a path that looks local holds no model, or it cannot be written.
    """
    source = Path(model_source(model))
    if source.is_file():
        return str(from_gguf(source))
    if source.is_dir() and not model.random_weights and has_text_part(source):
        return str(text_part(source))
    return str(source)


def _checked_path(key: str, path: str, needed_file: str) -> str:
    local = Path(path).expanduser()
    looks_local = local.is_absolute() or path.startswith((".", "~")) or local.exists()
    if not looks_local:
        return path
    if not (local / needed_file).is_file():
        raise UserError(
            f"{key}={path}: no {needed_file} in that folder; give a folder in Hugging Face format "
            "(written by save_pretrained) or an id on the hub"
        )
    return str(local.resolve())


def load_model_config(model: ModelConfig) -> PretrainedConfig:
    """Shape of the base model, without its weights.

    Raises:
        UserError: neither the folder nor the hub has it; or, of random weights, this machine.
    """
    from transformers import AutoConfig

    path = model_folder_or_id(model)
    if model.random_weights and model.shape and not Path(path).is_dir():
        shape = {name: value for name, value in asdict(model.shape).items() if value is not None}
        # The shape does not say for how many positions; rotary embeddings have any.
        return AutoConfig.for_model(**shape, max_position_embeddings=ANY_POSITION)
    kwargs: dict[str, Any] = {"local_files_only": model.random_weights}
    kwargs |= {"revision": model.revision, "trust_remote_code": model.trust_remote_code}
    return _or_user_error(AutoConfig, "model.path", path, **kwargs)


def load_tokenizer(model: ModelConfig) -> PreTrainedTokenizerBase:
    """Tokenizer of the run: `model.tokenizer` where it is set, else the base model's own.

    It puts nothing behind a text, whatever its files say (`lvf.models.special_tokens`).

    Random weights whose model is not on this machine have the packaged base's.

    Raises:
        UserError: it cannot be loaded, has no end-of-text token, or ends every text itself.
    """
    from transformers import AutoTokenizer

    if model.tokenizer is None:
        key, path, revision = "model.path", model_folder_or_id(model), model.revision
        if model.random_weights and not Path(path).is_dir():
            path, revision = str(base_dir()), None
    else:
        path = _checked_path("model.tokenizer", model.tokenizer, "tokenizer_config.json")
        key, revision = "model.tokenizer", None
    kwargs = {"revision": revision, "trust_remote_code": model.trust_remote_code}
    tokenizer = _or_user_error(AutoTokenizer, key, path, **kwargs)
    if tokenizer.eos_token_id is None:
        raise UserError(f"{key}={path}: the tokenizer has no eos token, which ends every document")
    drop_appended_tokens(tokenizer, path)
    return tokenizer


def load_base(model: ModelConfig, attention_dropout: float = 0.0) -> PreTrainedModel:
    """Base model with fp32 weights, as Composer's mixed precision expects its masters.

    In training it drops `attention_dropout` of its attention probabilities.

    Raises:
        UserError: neither the folder nor the hub has it.
    """
    import torch
    from transformers import AutoModelForCausalLM

    kwargs: dict[str, Any] = {"dtype": torch.float32, "trust_remote_code": model.trust_remote_code}
    if attention_dropout:  # not every architecture knows it
        kwargs["attention_dropout"] = attention_dropout
    if model.random_weights:
        base = random_model(load_model_config(model), **kwargs)
    else:
        path = model_folder_or_id(model)
        kwargs |= {"revision": model.revision, "use_safetensors": needs_safetensors() or None}
        base = _or_user_error(AutoModelForCausalLM, "model.path", path, **kwargs)
    base.config.use_cache = False  # with a cache, transformers lets packed examples see each other
    return base


def base_without_memory(model: ModelConfig, attention_dropout: float = 0.0) -> PreTrainedModel:
    """What `load_base` gives, on the meta device: without reading or drawing a weight.

    Raises:
        UserError: neither the folder nor the hub has its configuration.
    """
    import torch
    from transformers import AutoModelForCausalLM

    config = load_model_config(model)
    if attention_dropout:
        config.attention_dropout = attention_dropout
    with torch.device("meta"):
        base = AutoModelForCausalLM.from_config(
            config, dtype=torch.float32, trust_remote_code=model.trust_remote_code
        )
    base.config.use_cache = False
    return base


def random_model(config: PretrainedConfig, **kwargs: Any) -> PreTrainedModel:
    """A model that transformers has initialised, the same each time; on the GPU where there is one.

    There 7 B parameters take seconds, on a CPU minutes.
    """
    import torch
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(), torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        torch.manual_seed(RANDOM_WEIGHTS_SEED)
        return AutoModelForCausalLM.from_config(config, **kwargs)


def load_export(
    export: Path, model: ModelConfig
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Measured model from an export folder: full weights, or an adapter merged into its base.

    Merging in fp32 adds rounding of the order of 1e-7 and saves the adapters' cost at evaluation.

    Raises:
        UserError: the folder holds neither weights nor an adapter, or what is not to be trusted.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from lvf.models.newer import from_pretrained

    trust = model.trust_remote_code
    check_model("export", str(export), trust_remote_code=trust)
    if (export / "adapter_config.json").is_file():
        from peft import PeftModel

        # The adapter names its base, but a folder that moved is found through the configuration.
        merged = PeftModel.from_pretrained(load_base(model), str(export)).merge_and_unload()
        return merged, load_tokenizer(model)
    if not (export / "config.json").is_file():
        raise UserError(f"{export} holds neither a model (config.json) nor an adapter")
    weights = from_pretrained(
        AutoModelForCausalLM,
        str(export),
        dtype=torch.float32,
        trust_remote_code=trust,
        use_safetensors=needs_safetensors() or None,
    )
    return weights, load_tokenizer(model)


def read_export_facts(export: Path) -> dict[str, Any]:
    """What the exporter wrote beside a checkpoint: batch, tokens, duration, cost."""
    return json.loads((export / "export.json").read_text())


def _or_user_error(auto_class: Any, key: str, path: str, **kwargs: Any) -> Any:
    from lvf.models.newer import from_pretrained

    to_check = ("revision", "trust_remote_code", "local_files_only")
    try:
        checked = {name: kwargs[name] for name in to_check if name in kwargs}
        kwargs["revision"] = check_model(key, path, **checked)
        return ask_hub(lambda: from_pretrained(auto_class, path, **kwargs))
    except (UserError, RuntimeError, MemoryError):  # such as a GPU without memory
        raise
    except Exception as error:  # tokenizers and safetensors raise classes of their own
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{key}={path} cannot be loaded: {first_line} Give a local folder in Hugging Face "
            f"format ({key}=/path/to/folder), or log in with `hf auth login` where the hub asks it."
        ) from error
