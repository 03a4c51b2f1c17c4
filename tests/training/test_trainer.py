"""Real trainings of the packaged base for a few batches: losses, rates, exports, resumption."""

import hashlib
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from composer.loggers import LoggerDestination
from peft import PeftModel
from transformers import AutoModelForCausalLM

from benchmarks.kill_storm import last_weights
from lvf.config.schema import RunConfig
from lvf.data.loader import make_loader
from lvf.data.shards import prepare
from lvf.errors import UserError
from lvf.models.load import load_export, model_folder_or_id
from lvf.runs.checkpoints import is_complete, newest_complete, state_file
from lvf.runs.run_folder import (
    DIVERGED,
    FAILED,
    TRAINED,
    RunFolder,
    open_run_folder,
    run_folder,
)
from lvf.training.build_model import make_model
from tests.conftest import compiles_rightly, needs_compiler
from tests.training.conftest import add_logger, metrics, trained


class CrashAt(LoggerDestination):
    """A logger that breaks the run at a batch, as a full disk or a lost server would."""

    def __init__(self, batch: int) -> None:
        self.batch = batch

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        if step == self.batch:
            raise ConnectionError("the tracker is gone")


def newest_state(folder: RunFolder) -> Path:
    checkpoint = newest_complete(folder.checkpoints)
    assert checkpoint is not None
    return state_file(checkpoint)


def folder_hash(path: str) -> str:
    files = sorted(file for file in Path(path).iterdir() if file.is_file())
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def losses_of_first_rows(cfg: RunConfig) -> list[list[float]]:
    """By transformers: the loss of each predicted token of the first batch, row by row."""
    batch = next(iter(make_loader(prepare(cfg), cfg, "run")))
    model = AutoModelForCausalLM.from_pretrained(
        model_folder_or_id(cfg.model), dtype=torch.float32
    ).eval()
    rows = []
    for ids, labels, positions in zip(
        batch["input_ids"], batch["labels"], batch["position_ids"], strict=True
    ):
        rows.append([])
        starts = [*torch.nonzero(positions == 0).flatten().tolist(), len(ids)]
        for start, end in zip(starts, starts[1:], strict=False):
            with torch.no_grad():
                log_p = model(ids[None, start:end]).logits[0].log_softmax(-1)
            for place in range(start + 1, end):
                if labels[place] != -100:
                    rows[-1].append(-float(log_p[place - start - 1, labels[place]]))
    return rows


def test_the_first_loss_is_the_mean_over_response_tokens_of_each_example_alone(
    composed: Any,
) -> None:
    cfg = composed("method=full")
    losses = [loss for row in losses_of_first_rows(cfg) for loss in row]
    expected = sum(losses) / len(losses)
    assert metrics(trained(cfg), "loss/train/total")[0] == pytest.approx(expected, rel=1e-5)


def test_on_request_the_loss_is_the_mean_of_the_microbatches_means(composed: Any) -> None:
    words = ("method=full", "training.average_loss_over=microbatches")
    with pytest.raises(UserError, match="runtime.device_microbatch_size=6"):
        composed(*words)
    cfg = composed(*words, "runtime.device_microbatch_size=1")
    rows = losses_of_first_rows(cfg)
    means, losses = [sum(row) / len(row) for row in rows], [loss for row in rows for loss in row]
    expected = sum(means) / len(means)
    assert expected != pytest.approx(sum(losses) / len(losses), rel=1e-4)
    assert metrics(trained(cfg), "loss/train/total")[0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_loss_falls_and_microbatches_do_not_change_it(composed: Any, method: str) -> None:
    whole = trained(
        composed(f"method={method}", "method.dropout=0.0" if method == "lora" else "seed=0")
    )
    losses = metrics(whole, "loss/train/total")
    assert losses[-1] < losses[0] - 0.1
    cfg = composed(
        f"method={method}",
        "method.dropout=0.0" if method == "lora" else "seed=0",
        "runtime.device_microbatch_size=1",
        f"paths.runs={whole.path.parent}/micro",
    )
    assert metrics(trained(cfg), "loss/train/total")[:4] == pytest.approx(losses[:4], rel=1e-4)


def test_the_rate_follows_the_cosine_of_the_paper_at_every_batch(composed: Any) -> None:
    folder = trained(composed("method=full", "training.lr_peak=1e-4", "duration=2"))
    rates = metrics(folder, "lr-Lion/group0")
    end = folder.status()["total_batches"]
    warmup = int(0.1 * end)

    def expected(t: int) -> float:
        if t < warmup:
            return t / warmup
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (t - warmup) / (end - warmup)))

    assert rates == pytest.approx([1e-4 * expected(t) for t in range(len(rates))])
    assert len(rates) == end


def test_two_runs_with_one_seed_give_identical_weights_and_another_seed_others(
    composed: Any, tmp_path: Path
) -> None:
    one = last_weights(trained(composed("method=lora")))
    same = last_weights(trained(composed("method=lora", f"paths.runs={tmp_path}/again")))
    other = last_weights(trained(composed("method=lora", "seed=1")))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("method", ["lora", "vera", "shira"])
def test_a_broken_run_says_so_and_continues_to_the_weights_of_an_unbroken_one(
    composed: Any, tmp_path: Path, method: str
) -> None:
    braces = f"paths.runs='{tmp_path}/a {{rank}}[1]=%'"  # Composer fills in such names
    settings = (f"method={method}", "runtime.checkpoint_every_batches=2", braces)
    whole = trained(composed(*settings, f"paths.runs={tmp_path}/whole"))
    crash = add_logger(composed(*settings), CrashAt, batch=3)
    with pytest.raises(ConnectionError):
        trained(crash)
    assert run_folder(crash).status()["state"] == FAILED
    continued = trained(composed(*settings))
    assert continued.status()["started_from"].startswith("resumed at batch 2 from ")
    assert continued.status()["state"] == TRAINED
    expected, found = last_weights(whole), last_weights(continued)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_recomputed_activations_give_the_run_that_keeps_them_across_a_resume(
    composed: Any, tmp_path: Path
) -> None:
    settings = ("method=lora", "runtime.checkpoint_every_batches=2")
    whole = trained(composed(*settings, f"paths.runs={tmp_path}/whole"))
    recomputed = composed(*settings, "runtime.activation_checkpointing=true")
    with pytest.raises(ConnectionError):
        trained(add_logger(recomputed, CrashAt, batch=3))
    continued = trained(composed(*settings, "runtime.activation_checkpointing=true"))
    expected, found = last_weights(whole), last_weights(continued)
    for name, weight in expected.items():  # masks of dropout are the same, the order of sums is not
        torch.testing.assert_close(found[name], weight, rtol=1e-3, atol=1e-5)


@pytest.mark.long
@pytest.mark.slow
@compiles_rightly
@needs_compiler
def test_a_compiled_run_gives_the_run_that_is_not_across_a_resume(
    composed: Any, tmp_path: Path
) -> None:
    settings = ("method=lora", "runtime.checkpoint_every_batches=2")
    whole = trained(composed(*settings, f"paths.runs={tmp_path}/whole"))
    with pytest.raises(ConnectionError):
        trained(add_logger(composed(*settings, "runtime.compile=true"), CrashAt, batch=3))
    continued = trained(composed(*settings, "runtime.compile=true"))
    assert continued.status()["started_from"].startswith("resumed at batch 2 from ")
    assert metrics(continued, "loss/train/total")[-3:] == pytest.approx(
        metrics(whole, "loss/train/total")[-3:], rel=1e-4
    )
    expected, found = last_weights(whole), last_weights(continued)
    assert found.keys() == expected.keys()
    for name, weight in expected.items():  # masks of dropout are the same, the order of sums is not
        torch.testing.assert_close(found[name], weight, rtol=1e-3, atol=1e-5)


def test_bf16_holds_the_base_of_a_run_in_bf16_and_changes_no_gradient(composed: Any) -> None:
    cfg = composed("method=lora", "training.precision=amp_bf16")
    batch = next(iter(make_loader(prepare(cfg), cfg, "run")))

    def gradients(narrow: bool) -> list[torch.Tensor]:
        cfg.runtime.bf16_base = narrow
        torch.manual_seed(0)
        model = make_model(cfg).train()
        assert any(p.dtype == torch.bfloat16 for p in model.parameters()) == narrow
        model.loss(model(batch), batch).backward()
        return [p.grad for p in model.parameters() if p.requires_grad]

    pairs = list(zip(gradients(False), gradients(True), strict=True))
    assert all(torch.equal(wide, narrow) for wide, narrow in pairs)
    assert any(narrow.any() for _, narrow in pairs)


def test_a_spoilt_checkpoint_is_passed_over_and_replaced(composed: Any, tmp_path: Path) -> None:
    settings = ("method=lora", "runtime.checkpoint_every_batches=2")
    whole = trained(composed(*settings, f"paths.runs={tmp_path}/whole"))
    with pytest.raises(ConnectionError):
        trained(add_logger(composed(*settings), CrashAt, batch=5))
    folder = run_folder(composed(*settings))
    spoilt = folder.checkpoints / "ba0000004"
    state_file(spoilt).write_bytes(b"")
    continued = trained(composed(*settings, "runtime.keep_checkpoints=9"))
    assert continued.status()["started_from"].startswith("resumed at batch 2 from ")
    assert is_complete(spoilt)
    expected, found = last_weights(whole), last_weights(continued)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_lora_run_leaves_the_base_as_it_was_and_saves_adapters_only(composed: Any) -> None:
    cfg = composed("method=lora")
    base = model_folder_or_id(cfg.model)
    before = folder_hash(base)
    folder = trained(cfg)
    assert folder_hash(base) == before
    assert all("lora_" in name for name in last_weights(folder))
    newest = torch.load(newest_state(folder), weights_only=False)
    assert all("lora_" in name for name in newest["state"]["model"])


def test_plain_peft_gives_the_logits_of_the_model_that_was_trained(composed: Any) -> None:
    cfg = composed("method=lora")
    folder = trained(cfg)
    export = folder.finished_exports()[-1]
    ids = torch.randint(3, 1000, (2, 32), generator=torch.Generator().manual_seed(0))
    base = AutoModelForCausalLM.from_pretrained(model_folder_or_id(cfg.model), dtype=torch.float32)
    trained_state = torch.load(newest_state(folder), weights_only=False)["state"]["model"]
    ours: Any = make_model(cfg)
    ours.load_state_dict(trained_state, strict=False)
    ours.model.set_attn_implementation("sdpa")
    with torch.no_grad():
        expected = ours.model.eval()(input_ids=ids).logits
        unmerged = PeftModel.from_pretrained(base, str(export)).eval()
        torch.testing.assert_close(unmerged(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-4)
        merged = unmerged.merge_and_unload()(input_ids=ids).logits
        torch.testing.assert_close(merged, expected, rtol=1e-4, atol=1e-4)
        loaded, tokenizer = load_export(export, cfg.model)
        torch.testing.assert_close(loaded.eval()(input_ids=ids).logits, merged)
    assert len(tokenizer) <= base.config.vocab_size


def test_moments_before_the_end_are_exported_and_marked_as_not_cooled_down(composed: Any) -> None:
    folder = trained(composed("method=full", "duration=2", "measure_at=[1]"))
    facts = [json.loads((e / "export.json").read_text()) for e in folder.finished_exports()]
    assert [(f["duration"], f["cooled_down"]) for f in facts] == [(1.0, False), (2.0, True)]
    assert facts[1]["batch"] == 2 * facts[0]["batch"]
    assert facts[0]["tokens"] < facts[1]["tokens"]


@pytest.mark.parametrize(
    ("rate", "reason"),
    [("1e30", "training loss is nan"), ("1", "above 3 times its .* at the start")],
)
def test_a_run_that_diverges_is_recorded_as_such_and_gives_no_model(
    composed: Any, rate: str, reason: str
) -> None:
    cfg = composed("method=full", f"training.lr_peak={rate}")
    with pytest.raises(UserError, match=f"diverged: .*{reason}"):
        trained(cfg)
    assert run_folder(cfg).status()["state"] == DIVERGED
    assert run_folder(cfg).finished_exports() == []


@pytest.mark.parametrize("settings", [[], ["runtime.checkpoint_every_batches=2"]])
def test_a_full_disk_is_called_so_and_the_run_goes_on_when_there_is_room(
    composed: Any, small_disk: Path, settings: list[str]
) -> None:
    cfg = composed("method=full", f"paths.runs={small_disk}", *settings)
    with pytest.raises(UserError, match=r"is full: .* start the same command again"):
        trained(cfg)
    subprocess.run(["mount", "-o", "remount,size=256m", small_disk], check=True)
    assert trained(cfg).status()["state"] == TRAINED


def test_a_folder_of_another_configuration_is_refused(composed: Any) -> None:
    cfg = composed()
    file = open_run_folder(cfg).path / "identity.json"
    tree = json.loads(file.read_text())
    tree["seed"] = 7
    file.write_text(json.dumps(tree))
    with pytest.raises(UserError, match="another configuration.*seed"):
        open_run_folder(cfg)


def test_a_run_loads_no_model_of_transformers_but_its_own() -> None:
    code = (
        "import sys\n"
        "from lvf.config.compose import compose\n"
        "from lvf.training.build_model import make_model\n"
        "make_model(compose('+experiment=math_ift', 'method=lora'))\n"
        "print(*(name for name in sys.modules if 'models.' in name and '.modeling_' in name))\n"
        "assert 'torch._inductor.compile_fx' not in sys.modules\n"
    )
    command = [sys.executable, "-c", code]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert {name.split(".")[2] for name in loaded} == {"auto", "bloom", "llama"}  # bloom is PEFT's


@pytest.mark.long
def test_the_models_of_earlier_runs_of_a_process_do_not_stay_in_memory(
    composed: Any, tmp_path: Path
) -> None:
    """In a process of its own, as of a multirun: this one holds what failed tests have seen."""
    shards = composed().paths.shards
    code = f"""
import gc
from lvf.config.compose import compose
from lvf.training.packed_model import PackedModel
from tests.training.conftest import trained

for seed in (0, 1):
    trained(compose(
        "+experiment=math_ift", "method=full", "data.max_documents=64", "duration=1",
        "paths.runs={tmp_path}/runs", "paths.shards={shards}", f"seed={{seed}}",
    ))
gc.collect()
alive = sum(isinstance(thing, PackedModel) for thing in gc.get_objects())
assert not alive, alive
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
