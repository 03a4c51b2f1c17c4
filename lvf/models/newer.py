"""Models and tokenizers saved by either version of transformers: read rightly, or refused.

Version 5 writes `rope_parameters` into config.json where version 4 reads `rope_theta` and
`rope_scaling`, and 4 then takes its default of 10000 without a word. It names the tokenizer class
`TokenizersBackend`, which 4 does not know. Version 5 reads the models of both, but builds
parts of many tokenizers again instead of reading them.
"""

from __future__ import annotations

from typing import Any

import transformers

from lvf.errors import UserError

READS_BOTH = int(transformers.__version__.split(".")[0]) >= 5
SCALING_FIELDS = {
    "default": set(),
    "linear": {"factor"},
    "llama3": {
        "factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor",
    },
}  # fmt: skip
"""Fields of each type of rotary embedding that means the same in both versions."""
PROBES = ("words", " words", "  two  spaces", "a\n    line\n", "\u00e9 \u20ac \ufb01 A", "")
"""Texts by which a tokenizer is compared with sentencepiece."""
BOS_BY_DEFAULT = ("LlamaTokenizer", "CodeLlamaTokenizer", "GemmaTokenizer")
"""Classes whose `add_bos_token` is true by default in version 4."""


def from_pretrained(auto_class: Any, path: str, **kwargs: Any) -> Any:
    """`auto_class.from_pretrained(path, **kwargs)` of files of either version.

    Args:
        auto_class: AutoConfig, AutoModelForCausalLM or AutoTokenizer.
        path: Local folder, or id on the hub.
        kwargs: Of `from_pretrained`.

    Raises:
        UserError: this transformers would read them wrongly.
        OSError, ValueError: they cannot be read.
    """
    places = ("revision", "local_files_only")
    place = {name: kwargs[name] for name in places if kwargs.get(name) is not None}
    if auto_class is transformers.AutoTokenizer:
        if READS_BOTH:
            tokenizer = _as_its_file_says(auto_class.from_pretrained(path, **kwargs), path, kwargs)
        else:
            tokenizer = _tokenizer(path, place, kwargs)
        _check_sentencepiece(tokenizer, path, place)
        return tokenizer
    if READS_BOTH:
        return auto_class.from_pretrained(path, **kwargs)
    saved, _ = transformers.PretrainedConfig.get_config_dict(path, **place)
    return auto_class.from_pretrained(path, **kwargs, **fields_of_4(saved, path))


def fields_of_4(saved: dict[str, Any], path: str) -> dict[str, Any]:
    """The fields of version 4 that say what `rope_parameters` of a config.json says.

    Raises:
        UserError: there are none.
    """
    rope = saved.get("rope_parameters")
    if rope is None and not _is_anywhere("rope_parameters", saved):
        return {}
    rope = rope or {}
    kind = rope.get("rope_type", "default")
    of_4 = transformers.AutoConfig.for_model(saved["model_type"]).to_dict()
    same = kind in SCALING_FIELDS and (
        rope.keys() - {"rope_type"} == {"rope_theta"} | SCALING_FIELDS[kind]
    )
    if not same or "rope_theta" not in of_4:
        raise UserError(
            f"{path} was saved by transformers {saved.get('transformers_version', '5')}, and its "
            f"rope_parameters={rope} mean nothing to transformers {transformers.__version__}, "
            "which would compute other positions. The packages that `make demo` installs read it"
        )
    scaling = {name: value for name, value in rope.items() if name != "rope_theta"}
    found = {"rope_theta": rope["rope_theta"]}
    return found if kind == "default" else found | {"rope_scaling": scaling}


def _is_anywhere(name: str, tree: Any) -> bool:
    if not isinstance(tree, dict):
        return False
    return name in tree or any(_is_anywhere(name, inner) for inner in tree.values())


def _as_its_file_says(tokenizer: Any, path: str, kwargs: dict[str, Any]) -> Any:
    """The tokenizer of version 5 that follows tokenizer.json, or else tokenizer.model.

    Classes such as version 5's LlamaTokenizer read vocabulary and merges from these files, and
    build the rest again: with Llama 2's file, " a" gets other ids than sentencepiece gives it.
    Special tokens that no file names, as in GPT-2's folder, are those of the class.
    """
    own_code = type(tokenizer).__module__.split(".")[0] != "transformers"
    if own_code or not tokenizer.is_fast:
        return tokenizer
    asked = ("revision", "local_files_only")
    place: dict[str, Any] = {name: kwargs[name] for name in asked if name in kwargs}
    for file in ("tokenizer.json", "tokenizer.model"):
        if _file(path, file, place):
            if file == "tokenizer.model" and _puts_bos_by_default(tokenizer, path, place):
                kwargs = kwargs | {"add_bos_token": True}
            as_saved = transformers.PreTrainedTokenizerFast.from_pretrained(path, **kwargs)
            vocabulary = as_saved.get_vocab()
            for name in ("bos_token", "eos_token", "unk_token", "pad_token"):
                token = getattr(tokenizer, name)
                if getattr(as_saved, name) is None and token in vocabulary:
                    setattr(as_saved, name, token)
            return as_saved
    return tokenizer


def _file(path: str, name: str, place: dict[str, Any]) -> str | None:
    """Where a file of the tokenizer lies on this machine; None if it has no such file."""
    return transformers.utils.cached_file(
        path, name, **place, _raise_exceptions_for_missing_entries=False
    )


def _check_sentencepiece(tokenizer: Any, path: str, place: dict[str, Any]) -> None:
    """Compare what was made of tokenizer.model alone with sentencepiece itself.

    transformers makes a tokenizer of `tokenizers` of it. Version 5.20, the newest for Python 3.10,
    loses the blank in front of a text and puts merges in another order.

    Raises:
        UserError: they give a text other ids.
    """
    if not tokenizer.is_fast or _file(path, "tokenizer.json", place):
        return
    file = _file(path, "tokenizer.model", place)
    if file is None:
        return
    from sentencepiece import SentencePieceProcessor

    reference = SentencePieceProcessor(file)
    for text in PROBES:
        if tokenizer(text, add_special_tokens=False)["input_ids"] != reference.encode(text):
            raise UserError(
                f"{path}: transformers {transformers.__version__} gives {text!r} other ids than "
                "sentencepiece does with tokenizer.model. Put the model's tokenizer.json beside "
                "it; for Llama's, Python 3.11 or later helps, too, whose transformers reads it"
            )


def _puts_bos_by_default(tokenizer: Any, path: str, place: dict[str, Any]) -> bool:
    """Whether version 4 put BOS in front of every text, with no file that says so."""
    from transformers.models.auto.tokenization_auto import get_tokenizer_config

    saved = get_tokenizer_config(path, **place)
    name = str(saved.get("tokenizer_class") or type(tokenizer).__name__).removesuffix("Fast")
    return name in BOS_BY_DEFAULT and saved.get("add_bos_token") is None


def _tokenizer(path: str, place: dict[str, Any], kwargs: dict[str, Any]) -> Any:
    """A `TokenizersBackend` is its tokenizer.json and the names of its special tokens."""
    from transformers.models.auto.tokenization_auto import get_tokenizer_config

    saved = get_tokenizer_config(path, **place)
    if saved.get("tokenizer_class") != "TokenizersBackend":
        return transformers.AutoTokenizer.from_pretrained(path, **kwargs)
    extra = saved.get("extra_special_tokens") or []
    if isinstance(extra, list):  # version 4 has a name for each, and this field for those without
        kwargs = kwargs | {"additional_special_tokens": extra, "extra_special_tokens": {}}
    return transformers.PreTrainedTokenizerFast.from_pretrained(path, **kwargs)
