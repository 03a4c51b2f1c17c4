"""A model in one GGUF file, written once as a folder in Hugging Face format.

transformers reads the file: it undoes the quantisation, and gives a model that counts as quantised
and cannot be saved. Its weights are saved here as a plain fp32 model, which every part of lvf reads
like any other.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lvf.errors import UserError
from lvf.models.written_once import written_once

if TYPE_CHECKING:
    from gguf import GGUFReader

ROTARY = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
"""Tensors that change the rotary embedding, which transformers passes over."""
SPECIAL = ("bos", "eos", "pad")


def from_gguf(file: Path) -> Path:
    """The folder, in lvf's cache, of the model that a GGUF file holds.

    Raises:
        UserError: transformers does not read all of it rightly, or there is no room.
    """
    status = file.stat()
    return written_once(file, [status.st_size, status.st_mtime_ns], partial(_write, file))


def _write(file: Path, target: Path) -> None:
    import torch
    import transformers
    from gguf import GGUFReader

    from lvf.models.newer import READS_BOTH

    model_class: Any = transformers.AutoModelForCausalLM
    place: dict[str, Any] = {"gguf_file": file.name}
    try:
        reader = GGUFReader(file)
        _check_rotary(file, reader)
        with tempfile.TemporaryDirectory() as alone:  # transformers reads what lies beside it, too
            (Path(alone) / file.name).symlink_to(file)
            model, loaded = model_class.from_pretrained(
                alone, dtype=torch.float32, output_loading_info=True, **place
            )
            tokenizer: Any = transformers.AutoTokenizer.from_pretrained(alone, **place)
            config = transformers.AutoConfig.from_pretrained(alone, **place)
    except (ValueError, KeyError, NotImplementedError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        raise UserError(
            f"model.path={file}: transformers does not read it: {type(error).__name__}: {reason}. "
            "Give the model that it was made from, in Hugging Face format"
        ) from error
    weights = model.state_dict()
    _check_complete(file, reader, weights, loaded["missing_keys"])
    for name in SPECIAL:
        index = _field(reader, f"tokenizer.ggml.{'padding' if name == 'pad' else name}_token_id")
        token = None if index is None else tokenizer.convert_ids_to_tokens(index)
        setattr(tokenizer, f"{name}_token", token)
        setattr(config, f"{name}_token_id", index)
    if not READS_BOTH:  # version 4 puts BOS in front of a Llama's texts in any case
        puts_bos = _field(reader, "tokenizer.ggml.add_bos_token")
        is_sentencepiece = _field(reader, "tokenizer.ggml.model") == "llama"
        puts_bos = is_sentencepiece if puts_bos is None else puts_bos
        setattr(tokenizer, "add_bos_token", puts_bos)  # noqa: B010  read-only in version 5
    with torch.device("meta"):
        plain = model_class.from_config(config, dtype=torch.float32)
    plain.load_state_dict(weights, assign=True)
    plain.tie_weights()
    plain.save_pretrained(target)
    tokenizer.save_pretrained(target)


def _check_rotary(file: Path, reader: GGUFReader) -> None:
    """transformers takes the plain rotary embedding, whatever else the file says."""
    architecture = _field(reader, "general.architecture")
    scaling = _field(reader, f"{architecture}.rope.scaling.type")
    odd = [tensor.name for tensor in reader.tensors if tensor.name in ROTARY]
    if scaling not in (None, "none"):
        odd.append(f"{architecture}.rope.scaling.type={scaling}")
    if odd and architecture != "gpt-oss":  # of which transformers reads it
        raise UserError(
            f"model.path={file} scales its rotary embedding ({', '.join(odd)}), which transformers "
            "leaves out when it reads GGUF: it would compute other positions. Give the model that "
            "the file was made from, in Hugging Face format"
        )


def _check_complete(
    file: Path, reader: GGUFReader, weights: dict[str, Any], missing: set[str]
) -> None:
    """Every number of the file has its place in the model, and the other way round."""
    held = {weight.data_ptr(): weight.numel() for weight in weights.values()}
    there = sum(int(tensor.n_elements) for tensor in reader.tensors)
    if missing or there != sum(held.values()):
        without = f", without {', '.join(sorted(missing)[:4])}" if missing else ""
        raise UserError(
            f"model.path={file} holds {there:,} numbers, and the model that transformers makes of "
            f"it {sum(held.values()):,}{without}. "
            "Give the model that it was made from, in Hugging Face format"
        )


def _field(reader: GGUFReader, name: str) -> Any:
    return reader.fields[name].contents() if name in reader.fields else None
