"""The analysis of whole models against dense float64 SVDs of what transformers and PEFT load."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from lvf.analysis.changes import Change, pieces
from lvf.analysis.intruders import decompose
from lvf.analysis.subjects import base_weights, models
from lvf.analysis.table import TOP_K, intruders, matrices, matrix_table, summaries
from lvf.analysis.weights import analyse_matrix, analyse_weights
from lvf.config.compose import compose
from lvf.config.schema import RunConfig
from lvf.errors import UserError
from lvf.records.schema import read_record
from tests.analysis.conftest import TARGETS, save_adapter


def configured(base: Path, tuned: Path, work: Path) -> RunConfig:
    return compose(
        "+experiment=math_ift", f"model.path={base}", f"tuned={tuned}",
        f"paths.runs={work}/runs", f"paths.records={work}/records",
    )  # fmt: skip


def analyse(base: Path, tuned: Path, work: Path) -> Path:
    """Path of the record of one model."""
    cfg = configured(base, tuned, work)
    return analyse_weights(models(cfg), base_weights(cfg), Path(cfg.paths.records))[0]


def state(folder: Path) -> dict[str, torch.Tensor]:
    """Every linear weight and embedding in float64, as transformers and PEFT load the model."""
    from transformers import AutoModelForCausalLM

    if not (folder / "adapter_config.json").is_file():
        loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    else:
        from peft import PeftModel

        base = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
        plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64)
        loaded = PeftModel.from_pretrained(plain, str(folder)).double().merge_and_unload()
    return {name: value for name, value in loaded.state_dict().items() if value.dim() == 2}


def dense_row(base: torch.Tensor, tuned: torch.Tensor) -> dict[str, Any]:
    """The definitions, written down with numpy's dense SVD."""
    left, base_sigma, _ = np.linalg.svd(base.numpy(), full_matrices=False)
    tuned_left, tuned_sigma, _ = np.linalg.svd(tuned.numpy(), full_matrices=False)
    sigma = np.linalg.svd((tuned - base).numpy(), compute_uv=False)
    p = sigma[sigma > 0] / sigma.sum()
    cosines = np.abs(left.T @ tuned_left[:, :TOP_K]).max(axis=0)
    return {
        "rank90": 1 + int(np.sum(np.cumsum(sigma**2) < 0.9 * np.sum(sigma**2))),
        "effective_rank": np.exp(-np.sum(p * np.log(p))),
        "stable_rank": np.sum(sigma**2) / sigma[0] ** 2,
        "frobenius_norm": np.linalg.norm((tuned - base).numpy()),
        "spectral_norm": np.linalg.norm((tuned - base).numpy(), 2),
        "relative_norm": np.linalg.norm((tuned - base).numpy()) / np.linalg.norm(base.numpy()),
        "intruders@0.5": int((cosines < 0.5).sum()),
        "largest_cosines": cosines,
        "singular_values": sigma,
        "base_singular_values": base_sigma,
        "tuned_singular_values": tuned_sigma,
    }


def assert_dense(table: pd.DataFrame, base: Path, tuned: Path) -> None:
    """Every row of the table equals the dense computation."""
    before, after = state(base), state(tuned)
    for row in table.to_dict("records"):
        expected = dense_row(before[row["name"]], after[row["name"]])
        for key, value in expected.items():
            if key.endswith("singular_values"):
                found = np.asarray(row[key])
                np.testing.assert_allclose(found, value[: len(found)], atol=2e-7 * value[0])
            else:
                np.testing.assert_allclose(row[key], value, rtol=1e-6, err_msg=row["name"] + key)


def test_a_full_finetune_in_bf16_equals_dense_svds(
    base_dir: Path, full_dir: Path, tmp_path: Path
) -> None:
    table = matrices(analyse(base_dir, full_dir, tmp_path))
    assert set(table.module) == {*TARGETS, "embed_tokens", "lm_head"}
    assert sorted(table.layer.unique()) == [-1, 0, 1]
    assert_dense(table, base_dir, full_dir)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"use_rslora": True},
        {"r": 4, "lora_alpha": 2, "alpha_pattern": {"q_proj": 16}, "rank_pattern": {"v_proj": 2}},
        {"target_modules": ["up_proj", "k_proj"], "layers_to_transform": [1]},
        {"use_dora": True},
        {"modules_to_save": ["lm_head"]},
    ],
    ids=["plain", "rslora", "patterns", "some matrices", "dora", "a module trained whole"],
)
def test_an_adapter_equals_dense_svds_of_what_peft_merges(
    config: dict[str, Any], base_dir: Path, tmp_path: Path
) -> None:
    adapter = save_adapter(base_dir, tmp_path / "adapter", **config)
    table = matrices(analyse(base_dir, adapter, tmp_path))
    targets = config.get("target_modules", TARGETS)
    blocks = table[table.layer >= 0]
    assert len(blocks) == len(targets) * (1 if "layers_to_transform" in config else 2)
    assert len(table) - len(blocks) == len(config.get("modules_to_save", []))
    if "use_dora" not in config:  # whose update is not of low rank
        ranks = {"v_proj": 2} if "rank_pattern" in config else {}
        lengths = [ranks.get(module, config.get("r", 3)) for module in blocks.module]
        assert list(blocks.singular_values.map(len)) == lengths
    assert_dense(table, base_dir, adapter)


@pytest.mark.parametrize("size", [0.02, 0.3, 3.0])
def test_intruders_are_those_that_peft_counts(size: float, base_dir: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from peft.tuners.lora.intruders import reduce_intruder_dimension
    from transformers import AutoModelForCausalLM

    adapter = save_adapter(base_dir, tmp_path / "adapter", size=size)
    base = AutoModelForCausalLM.from_pretrained(base_dir, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, str(adapter))
    for epsilon in (0.3, 0.5, 0.8):
        said: list[str] = []
        reduce_intruder_dimension(
            model, new_adapter_name=f"reduced{epsilon}".replace(".", "_"),
            threshold_epsilon=epsilon, top_k=TOP_K, logging_sink=said.append,
        )  # fmt: skip
        told = {
            line.split(":")[0].removeprefix("base_model.model."): line.rsplit(" ", 1)[-1]
            for line in said
            if ": " in line
        }
        table = matrices(analyse(base_dir, adapter, tmp_path))
        ours = dict(zip(table.name, intruders(table, epsilon), strict=True))
        assert {
            f"{name}.weight": int(n) if n != "intruders" else 0 for name, n in told.items()
        } == ours
    if size == 3.0:
        assert sum(ours.values()) > 0


def test_the_record_summarises_its_table(base_dir: Path, adapter_dir: Path, tmp_path: Path) -> None:
    path = analyse(base_dir, adapter_dir, tmp_path)
    record, table = read_record(path), matrices(path)
    assert record.task == "weights" and record.settings["table"] == path.stem + ".parquet"
    assert (record.axes.method, record.axes.rank, record.axes.alpha) == ("lora", 3, 6)
    queries = table[table.module == "q_proj"]
    assert record.metrics["rank90.q_proj"].items == list(queries.rank90)
    assert record.metrics["effective_rank"].value == pytest.approx(table.effective_rank.mean())
    swept = [record.metrics[f"intruders@0.{digit}"].value for digit in range(1, 10)]
    assert swept == sorted(swept) and record.metrics["intruders@0.9"].n == len(table)


def test_the_embeddings_have_their_own_summary_and_take_no_part_in_the_blocks(
    base_dir: Path, full_dir: Path, tmp_path: Path
) -> None:
    path = analyse(base_dir, full_dir, tmp_path)
    record, table = read_record(path), matrices(path)
    assert record.metrics["stable_rank"].n == 2 * len(TARGETS) == len(table) - 2
    assert record.metrics["stable_rank.lm_head"].n == 1


def test_a_restart_does_only_the_matrices_that_are_missing(
    base_dir: Path, full_dir: Path, tmp_path: Path
) -> None:
    record = analyse(base_dir, full_dir, tmp_path)
    whole = matrices(record)
    files = sorted((tmp_path / "runs").rglob("*.weight.json"))
    assert len(files) == len(whole)
    record.unlink()
    record.with_suffix(".parquet").unlink()
    files[0].unlink()
    kept = {file: file.stat().st_mtime_ns for file in files[1:]}
    assert analyse(base_dir, full_dir, tmp_path) == record
    assert {file: file.stat().st_mtime_ns for file in kept} == kept
    pd.testing.assert_frame_equal(matrices(record), whole)
    written = record.stat().st_mtime_ns
    analyse(base_dir, full_dir, tmp_path)
    assert record.stat().st_mtime_ns == written


@pytest.mark.parametrize(
    "config", [{"init_lora_weights": "pissa"}, {"bias": "all"}], ids=["PiSSA", "trained biases"]
)
def test_an_adapter_that_is_more_than_its_factors_is_refused(
    config: dict[str, Any], base_dir: Path, tmp_path: Path
) -> None:
    adapter = save_adapter(base_dir, tmp_path / "adapter")
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | config))
    if "bias" in config:
        weights = load_file(adapter / "adapter_model.safetensors")
        bias = {"base_model.model.model.layers.0.self_attn.q_proj.bias": torch.zeros(32)}
        save_file(weights | bias, adapter / "adapter_model.safetensors")
    with pytest.raises(UserError, match="more than LoRA's factors.*merge_and_unload"):
        analyse(base_dir, adapter, tmp_path)


def test_a_model_or_adapter_of_another_base_is_refused(base_dir: Path, tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    LlamaForCausalLM(LlamaConfig(**shape, intermediate_size=40)).save_pretrained(tmp_path / "other")
    adapter = save_adapter(tmp_path / "other", tmp_path / "adapter")
    for tuned in (tmp_path / "other", adapter):
        with pytest.raises(UserError, match="not finetuned from.*model.path="):
            analyse(base_dir, tuned, tmp_path)


def test_a_folder_without_safetensors_is_refused(base_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no .safetensors file.*save_pretrained"):
        analyse(base_dir, tmp_path / "empty", tmp_path)


def test_a_run_without_exports_says_how_to_train_it(tmp_path: Path) -> None:
    cfg = compose("+experiment=math_ift", f"paths.runs={tmp_path}")
    with pytest.raises(UserError, match="no exported model.*lvf.train"):
        models(cfg)


@pytest.mark.parametrize("norm", [1e-3, 1e-1])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_ranks_that_rounding_made_are_not_recorded(norm: float, dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(0)
    base = torch.randn(256, 512, generator=draw).bfloat16()
    update = torch.randn(256, 16, generator=draw) @ torch.randn(16, 512, generator=draw)
    update *= norm * base.float().norm() / update.norm()
    exact = base.float() + update
    stored = exact.to(dtype)
    change = Change(base, tuned=stored)
    row = analyse_matrix("model.layers.0.mlp.up_proj.weight", change, decompose(pieces(base)))
    lost = (stored.double() - exact.double()).square().sum() / row["frobenius_norm"] ** 2
    if norm > 1e-3 or dtype == torch.float32:
        assert row["rounding_share"] == pytest.approx(float(lost), rel=0.02, abs=1e-9)
    else:  # below half a step of most weights: these keep nothing of their update
        assert row["rounding_share"] > lost > 0.9
    recorded = summaries(matrix_table([row])).keys()
    assert ("rank90" in recorded) == ("rank90.up_proj" in recorded) == (row["rank90"] <= 16)
    assert "relative_norm" in recorded
