"""Updates that are scaled, cut to a rank or damped are those of dense computations."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lvf.analysis.alter import Alteration, altered, write_altered
from lvf.analysis.changes import Change
from lvf.config.compose import compose
from lvf.config.schema import ModelConfig
from lvf.embedded.corpora import base_dir as packaged_base
from lvf.errors import UserError
from lvf.evaluate import run
from lvf.models.load import load_base, load_export
from lvf.records.schema import Record, read_record
from lvf.runs.run_folder import run_folder, write_json
from tests.analysis.conftest import save_adapter

State = dict[str, torch.Tensor]
FACTS = {
    "cooled_down": True, "loss_tokens": 5, "train_flops": 6, "train_seconds": 7.0,
    "peak_memory_bytes": 8, "batch": 8, "tokens": 100, "duration": 1.0,
}  # fmt: skip


def _weights(folder: Path) -> State:
    from transformers import AutoModelForCausalLM

    return dict(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict())


def _merged(base: Path, adapter: Path) -> State:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return dict(PeftModel.from_pretrained(model, str(adapter)).merge_and_unload().state_dict())


@pytest.fixture(params=["full", "adapter"])
def pair(request: pytest.FixtureRequest, base_dir: Path) -> tuple[Path, State, State]:
    """Folder of a tuned model, and all weights before and after, as transformers loads them."""
    folder = request.getfixturevalue(f"{request.param}_dir")
    after = _weights(folder) if request.param == "full" else _merged(base_dir, folder)
    return folder, _weights(base_dir), after


def _write(base: Path, tuned: Path, target: Path, **alteration: Any) -> State:
    write_altered(base, tuned, Alteration(**alteration), target)
    return _weights(target)


def test_strength_scales_the_update_of_every_weight(
    pair: tuple[Path, State, State], base_dir: Path, tmp_path: Path
) -> None:
    folder, before, after = pair
    for s in (0.3, 1.2):
        found = _write(base_dir, folder, tmp_path / str(s), strength=s)
        assert found.keys() == before.keys()
        for name, old in before.items():
            dense = old.double() + s * (after[name].double() - old.double())
            torch.testing.assert_close(found[name].double(), dense, rtol=1e-6, atol=1e-7)


def test_strengths_0_and_1_are_the_base_and_the_tuned_model_bit_by_bit(
    pair: tuple[Path, State, State], base_dir: Path, tmp_path: Path
) -> None:
    folder, before, after = pair
    for s, wanted in ((0.0, before), (1.0, after)):
        found = _write(base_dir, folder, tmp_path / f"{s:g}", strength=s)
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_an_update_is_cut_to_the_best_approximation_of_its_rank(
    pair: tuple[Path, State, State], base_dir: Path, tmp_path: Path
) -> None:
    folder, before, after = pair
    found = _write(base_dir, folder, tmp_path / "cut", truncate=2)
    whole = _write(base_dir, folder, tmp_path / "whole", truncate=4096)
    for name, old in before.items():
        assert torch.equal(whole[name], after[name])
        update = after[name].double() - old.double()
        if update.dim() == 2:
            u, sigma, v = torch.linalg.svd(update, full_matrices=False)
            update = u[:, :2] * sigma[:2] @ v[:2]
        torch.testing.assert_close(found[name].double(), old + update, rtol=1e-5, atol=1e-6)


def test_large_updates_are_cut_like_small_ones() -> None:
    torch.manual_seed(0)
    for shape in ((600, 700), (700, 600)):
        base = torch.randn(shape)
        tuned = base + 0.1 * torch.randn(shape)
        found = altered(Change(base, tuned=tuned), Alteration(truncate=16))
        u, sigma, v = torch.linalg.svd(tuned.double() - base.double(), full_matrices=False)
        dense = base + u[:, :16] * sigma[:16] @ v[:16]
        torch.testing.assert_close(found.double(), dense, rtol=1e-4, atol=1e-5)
        same = altered(Change(base, tuned=base), Alteration(truncate=16))
        assert torch.equal(same, base)


@pytest.mark.parametrize("shape", [(24, 40), (40, 24)])
def test_intruders_are_damped_as_peft_does(shape: tuple[int, int]) -> None:
    """Against PEFT's mitigation of an adapter whose rank can hold the damped update."""
    from peft import LoraConfig, get_peft_model

    intruders = pytest.importorskip("peft.tuners.lora.intruders")
    torch.manual_seed(3)
    layers = torch.nn.Sequential(torch.nn.Linear(shape[1], shape[0], bias=False))
    rank = min(shape)
    model = get_peft_model(layers, LoraConfig(r=rank, lora_alpha=rank, target_modules=["0"]))
    layer: Any = model.base_model.model[0]
    with torch.no_grad():
        layer.lora_B["default"].weight.normal_(std=0.4)
    base = layer.get_base_layer().weight.detach()
    tuned = base + layer.get_delta_weight("default").detach()
    intruders.reduce_intruder_dimension(model, mitigation_lambda=0.25, logging_sink=None)
    wanted = base + layer.get_delta_weight("intruder_reduced").detach()
    assert not torch.allclose(wanted, tuned, atol=1e-2)  # there are intruders
    found = altered(Change(base, tuned=tuned), Alteration(damp=0.25))
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)
    assert torch.equal(altered(Change(base, tuned=tuned), Alteration(damp=1.0)), tuned)


def test_damped_intruders_are_those_of_the_definition(
    adapter_dir: Path, base_dir: Path, tmp_path: Path
) -> None:
    before, after = _weights(base_dir), _merged(base_dir, adapter_dir)
    found = _write(base_dir, adapter_dir, tmp_path / "damped", damp=0.0)
    num_intruders = 0
    for name, old in before.items():
        wanted = after[name].double()
        if not torch.equal(old, after[name]):
            x = torch.linalg.svd(old.double(), full_matrices=False)[0]
            u, sigma, v = torch.linalg.svd(wanted, full_matrices=False)
            odd = [j for j in range(10) if (x.T @ u[:, j]).abs().max() < 0.5]
            num_intruders += len(odd)
            wanted = wanted - u[:, odd] * sigma[odd] @ v[odd]
        torch.testing.assert_close(found[name].double(), wanted, rtol=1e-4, atol=1e-5)
    assert num_intruders


def test_weights_of_another_model_are_refused(
    base_dir: Path, adapter_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="was not finetuned from"):
        write_altered(packaged_base(), adapter_dir, Alteration(strength=1.0), tmp_path / "out")


@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_command_measures_altered_checkpoints_like_plain_ones(
    method: str, tmp_path: Path
) -> None:
    cfg = compose(
        "+experiment=math_ift", f"method={method}", "evals.limit=8", "strength=[0,0.5,1]",
        "truncate=[2]", "damp=[0.5]", f"paths.runs={tmp_path}/runs",
        f"paths.shards={tmp_path}/shards", f"paths.records={tmp_path}/records",
    )  # fmt: skip
    folder = run_folder(cfg)
    export = folder.export(8)
    adapter = save_adapter(packaged_base(), tmp_path / "adapter", size=0.02, r=4, lora_alpha=8)
    if method == "lora":
        export.parent.mkdir(parents=True)
        adapter.rename(export)
    else:
        load_export(adapter, ModelConfig(name="embedded", path="embedded"))[0].save_pretrained(
            export
        )
    write_json(export / "export.json", FACTS)
    run(cfg)
    run(cfg)  # all records are there
    by_task: dict[str, dict[str, Record]] = {}
    for record in map(read_record, (tmp_path / "records").rglob("*.json")):
        by_task.setdefault(record.task, {})[record.checkpoint] = record
    ends = ["strength0", "strength0.5", "strength1", "truncate2", "damp0.5"]
    plain, names = "ba000008", [f"ba000008-{end}" for end in ends]
    for task, records in by_task.items():
        base = set() if task == "kl_base" else {"base"}
        assert records.keys() == {plain, *names} | base
        assert records[names[2]].metrics == records[plain].metrics
        if base:
            assert records[names[0]].metrics == records["base"].metrics
        else:
            assert records[names[0]].metrics["kl_per_token"].value == 0
    of_nll = by_task["nll_target"]
    assert of_nll[names[1]].metrics != of_nll[plain].metrics
    axes = [of_nll[name].axes for name in names]
    found = [(one.strength, one.truncate, one.damp) for one in axes]
    assert found == [(0, None, None), (0.5, None, None), (1, None, None), (None, 2, None),
                     (None, None, 0.5)]  # fmt: skip
    assert {one.duration for one in axes} == {1.0}
    assert not list((tmp_path / "runs").rglob("evals/**/*.safetensors"))


def test_a_model_from_elsewhere_is_measured_and_altered(tmp_path: Path) -> None:
    adapter = save_adapter(packaged_base(), tmp_path / "mine", size=0.02, r=4, lora_alpha=8)
    cfg = compose(
        "+experiment=math_ift", f"tuned={adapter}", "strength=[1]", "evals.limit=4",
        "evals.tasks=[nll_target,kl_base]", f"paths.runs={tmp_path}/runs",
        f"paths.shards={tmp_path}/shards", f"paths.records={tmp_path}/records",
    )  # fmt: skip
    run(cfg)
    records = {(one.task, one.checkpoint): one
               for one in map(read_record, (tmp_path / "records").rglob("*.json"))}  # fmt: skip
    for task in ("nll_target", "kl_base"):
        assert records[task, "mine-strength1"].metrics == records[task, "mine"].metrics
    tuned = load_export(adapter, cfg.model)[0].state_dict()
    assert not all(torch.equal(one, tuned[name])
                   for name, one in load_base(cfg.model).state_dict().items())  # fmt: skip
