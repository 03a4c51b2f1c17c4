"""Several ranks: the run of one rank, on more devices."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from composer.core import State
from composer.loggers import Logger, LoggerDestination
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from benchmarks.forked_ranks import start_ranks
from benchmarks.kill_storm import last_weights, same_weights
from lvf.config.schema import RunConfig
from lvf.data.shards import prepare
from lvf.errors import UserError
from lvf.runs.checkpoints import newest_complete, state_file
from lvf.runs.run_folder import (
    FAILED,
    STOPPED,
    TRAINED,
    RunFolder,
    open_run_folder,
    run_folder,
)
from lvf.training.sharded_checkpoint import sharded_folder
from lvf.training.trainer import train
from tests.training.conftest import add_logger, metrics, trained, trained_on_ranks

ROOT = Path(__file__).resolve().parents[2]
# AdamW, not Lion, whose steps are signs: rounding of one near zero turns it, and from then on the
# runs drift apart (seen first after 11 to 23 batches, 1e-5 of the loss after 23 to 40).
FULL = ["method=full", "optimizer=adamw"]
# Each rank draws dropout for its own rows: other masks than one rank draws, of the same law.
LORA = ["method=lora", "method.dropout=0"]
SHARDED_LORA = [*LORA, "runtime.fsdp_base=true"]
WAYS = {"full": FULL, "lora": LORA, "lora on a sharded base": SHARDED_LORA}


class IdleTensors(LoggerDestination):
    """Writes which trained tensors have had no gradient in the last batch."""

    def __init__(self, file: str) -> None:
        self.file = Path(file)

    def batch_end(self, state: State, logger: Logger) -> None:
        idle = []
        for name, parameter in state.model.named_parameters():
            if parameter.requires_grad:
                gradient: Any = parameter.grad
                if not whole(gradient).any():
                    idle.append(name)
        rank = os.environ.get("RANK", "0")
        self.file.with_suffix(f".{rank}").write_text(json.dumps(idle))


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_two_ranks_give_the_loss_curve_of_one_and_train_every_tensor(
    composed: Any, tmp_path: Path, way: str
) -> None:
    settings = [*WAYS[way], "runtime.device_microbatch_size=1"]
    one = trained(composed(*settings, f"paths.runs={tmp_path}/one"))
    twice = way != "lora"  # a sharded model also recomputes its activations
    on_two = composed(
        *settings, "runtime.nproc_per_node=2", f"runtime.activation_checkpointing={twice}"
    )
    cfg = add_logger(on_two, IdleTensors, file=f"{tmp_path}/idle")
    two = trained_on_ranks(cfg)
    expected = metrics(one, "loss/train/total")
    assert metrics(two, "loss/train/total") == pytest.approx(expected, rel=1e-5)
    facts = [json.loads((f.finished_exports()[-1] / "export.json").read_text()) for f in (one, two)]
    for name in ("batch", "tokens", "loss_tokens", "train_flops"):
        assert facts[0][name] == facts[1][name]
    of_one, of_two = last_weights(one), last_weights(two)
    assert of_one.keys() == of_two.keys()
    for name, weight in of_one.items():
        torch.testing.assert_close(of_two[name], weight, rtol=1e-4, atol=1e-5)
    assert [(tmp_path / f"idle.{rank}").read_text() for rank in (0, 1)] == ["[]", "[]"]
    of_one, of_two = saved_weights(one), saved_weights(two)
    assert of_one.keys() == of_two.keys()
    assert way == "full" or all("lora_" in name for name in of_two)
    for name, weight in of_one.items():
        torch.testing.assert_close(of_two[name], weight, rtol=1e-4, atol=1e-5)


def newest(run: RunFolder) -> Path:
    checkpoint = newest_complete(run.checkpoints)
    assert checkpoint is not None
    return checkpoint


def saved_weights(run: RunFolder) -> dict[str, torch.Tensor]:
    """Of the newest checkpoint, read by plain torch."""
    state = torch.load(state_file(newest(run)), weights_only=False)["state"]
    if not sharded_folder(newest(run)).exists():
        return state["model"]
    assert not {"model", "optimizers"} & state.keys()
    whole = run.path / "whole.pt"
    dcp_to_torch_save(sharded_folder(newest(run)), whole)
    return torch.load(whole)["model"]


@pytest.mark.slow
def test_each_of_two_ranks_writes_half_of_a_sharded_model_and_of_its_optimizer(
    composed: Any,
) -> None:
    run = trained_on_ranks(composed("method=full", "runtime.nproc_per_node=2", "duration=0.2"))
    num_parameters = sum(weight.numel() for weight in last_weights(run).values())
    sizes = {path.name: path.stat().st_size for path in sharded_folder(newest(run)).iterdir()}
    assert sizes.keys() == {".metadata", "__0_0.distcp", "__1_0.distcp"}
    for rank in (0, 1):  # 4 bytes of a weight and 4 of Lion's one moment
        assert sizes[f"__{rank}_0.distcp"] == pytest.approx(8 * num_parameters / 2, rel=0.05)
    assert state_file(newest(run)).stat().st_size < num_parameters


class LionSteps(LoggerDestination):
    """Saves, for each batch, the gradients and that whose sign is Lion's step."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self.momenta: dict[str, Any] = {}

    def batch_start(self, state: State, logger: Logger) -> None:
        moments = state.optimizers[0].state
        named = [(name, moments[p].get("exp_avg")) for name, p in state.model.named_parameters()]
        self.momenta = {name: whole(moment) for name, moment in named if moment is not None}

    def batch_end(self, state: State, logger: Logger) -> None:
        named = [(name, whole(p.grad)) for name, p in state.model.named_parameters()]
        steps = {name: 0.9 * self.momenta.get(name, 0) + 0.1 * grad for name, grad in named}
        if os.environ.get("RANK", "0") == "0":
            file = self.folder / f"{state.timestamp.batch.value}.pt"
            torch.save([torch.cat([t.flatten() for t in tree.values()])
                        for tree in (dict(named), steps)], file)  # fmt: skip


def whole(tensor: Any) -> torch.Tensor:
    """A copy of a tensor of which this rank may have a part."""
    return getattr(tensor, "full_tensor", lambda: tensor)().detach().clone()


@pytest.mark.slow
def test_lion_on_two_ranks_steps_as_on_one_but_where_the_sign_is_rounding(
    composed: Any, tmp_path: Path
) -> None:
    curves = []
    for ranks in (1, 2):
        folder = tmp_path / str(ranks)
        folder.mkdir()
        cfg = composed("method=full", "runtime.device_microbatch_size=1",
                       f"runtime.nproc_per_node={ranks}", f"paths.runs={folder}")  # fmt: skip
        run = trained_on_ranks(add_logger(cfg, LionSteps, folder=str(folder)))
        curves.append(metrics(run, "loss/train/total"))
    assert curves[0] == pytest.approx(curves[1], rel=1e-5)
    for batch in range(1, len(curves[0]) + 1):
        (grad, step), (other_grad, other_step) = (
            torch.load(tmp_path / str(ranks) / f"{batch}.pt") for ranks in (1, 2)
        )
        turned = step.sign() != other_step.sign()
        assert (step[turned].abs() < 1e-6 * step.abs().max()).all()
        assert (other_grad - grad).norm() < 2e-6 * grad.norm()
        if turned.any():  # from here on the weights differ
            break


class AskToStop(LoggerDestination):
    """Sends this process, and those it has forked, the signal of a time limit at a batch."""

    def __init__(self, batch: int, rank: str) -> None:
        self.batch, self.rank = batch, rank

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        if step == self.batch and os.environ.get("RANK", "0") == self.rank:
            children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
            for pid in (*map(int, children), os.getpid()):
                os.kill(pid, signal.SIGUSR2)
            self.batch = -1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "first", "then"),
    [
        ("full", 2, 1),
        ("full", 1, 2),
        ("lora", 1, 2),
        ("lora on a sharded base", 2, 1),
        ("lora on a sharded base", 1, 2),
    ],
)
def test_a_run_saved_on_one_number_of_ranks_continues_on_another(
    composed: Any, tmp_path: Path, way: str, first: int, then: int
) -> None:
    def on(ranks: int, *more: str) -> RunConfig:
        return composed(*WAYS[way], f"runtime.nproc_per_node={ranks}", *more)

    whole = trained_on_ranks(on(1, f"paths.runs={tmp_path}/whole"))
    stopped = add_logger(on(first), AskToStop, batch=2, rank=str(first - 1))
    assert trained_on_ranks(stopped, [75] * first).status()["state"] == STOPPED
    continued = trained_on_ranks(on(then))
    assert continued.status()["state"] == TRAINED
    assert continued.status()["started_from"].startswith("resumed at batch 2 from ")
    expected = metrics(whole, "loss/train/total")
    assert metrics(continued, "loss/train/total") == pytest.approx(expected, rel=1e-5)
    of_whole, found = last_weights(whole), last_weights(continued)
    for name, weight in of_whole.items():
        torch.testing.assert_close(found[name], weight, rtol=1e-4, atol=1e-4)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("way", [["method=full"], ["method=lora", "runtime.fsdp_base=true"]])
def test_on_two_ranks_a_stopped_run_ends_with_the_weights_and_counts_of_an_undisturbed_one(
    composed: Any, tmp_path: Path, way: list[str]
) -> None:
    whole = trained_on_ranks(
        composed(*way, "runtime.nproc_per_node=2", f"paths.runs={tmp_path}/whole")
    )
    trained_on_ranks(
        add_logger(composed(*way, "runtime.nproc_per_node=2"), AskToStop, batch=2, rank="1"),
        [75, 75],
    )
    continued = trained_on_ranks(composed(*way, "runtime.nproc_per_node=2"))
    assert continued.status()["started_from"].startswith("resumed at batch 2 from ")
    assert same_weights(whole, continued)
    for name in ("tokens", "loss_tokens"):
        assert export_facts(whole)[name] == export_facts(continued)[name]
    rates = metrics(whole, "lr-Lion/group0")
    assert metrics(continued, "lr-Lion/group0")[-2:] == rates[-2:]


SAVED_OFTEN = ["method=full", "runtime.nproc_per_node=2", "runtime.checkpoint_every_batches=2"]


def export_facts(run: RunFolder) -> dict[str, Any]:
    return json.loads((run.finished_exports()[-1] / "export.json").read_text())


@pytest.mark.slow
def test_a_spoilt_part_of_one_rank_has_the_checkpoint_passed_over(
    composed: Any, tmp_path: Path
) -> None:
    whole = trained_on_ranks(composed(*SAVED_OFTEN, f"paths.runs={tmp_path}/whole"))
    stopped = add_logger(composed(*SAVED_OFTEN), AskToStop, batch=4, rank="0")
    run = trained_on_ranks(stopped, [75, 75])
    part = sharded_folder(run.checkpoints / "ba0000004") / "__1_0.distcp"
    part.write_bytes(part.read_bytes()[:-1])
    continued = trained_on_ranks(composed(*SAVED_OFTEN))
    assert continued.status()["started_from"].startswith("resumed at batch 2 from ")
    assert same_weights(whole, continued)


def errors_of_ranks(cfg: RunConfig, tmp_path: Path, before: Callable[[], None]) -> list[str]:
    """What each of two ranks fails with, which none of them may wait for the other to do."""
    folder, prepared = open_run_folder(cfg), prepare(cfg)

    def fail_to_train() -> None:
        before()
        with pytest.raises((OSError, UserError)) as failed:
            train(cfg, prepared, folder)
        (tmp_path / f"failed.{os.environ['RANK']}").write_text(str(failed.value))

    start_ranks(2, fail_to_train).end_with([0, 0])
    assert list(folder.checkpoints.iterdir()) == []
    return [(tmp_path / f"failed.{rank}").read_text() for rank in (0, 1)]


def test_what_one_rank_cannot_write_ends_all_of_them_and_leaves_nothing_half_written(
    composed: Any, tmp_path: Path
) -> None:
    def small_files_on_rank_1() -> None:
        if os.environ["RANK"] == "1":
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    cfg = composed(*SAVED_OFTEN)
    errors = errors_of_ranks(cfg, tmp_path, small_files_on_rank_1)
    assert errors[0] == errors[1] and "rank 1: " in errors[0]
    assert run_folder(cfg).status()["state"] == FAILED


def test_a_full_disk_is_called_so_by_every_rank(
    composed: Any, tmp_path: Path, small_disk: Path
) -> None:
    cfg = composed(*SAVED_OFTEN, f"paths.runs={small_disk}")
    errors = errors_of_ranks(cfg, tmp_path, lambda: None)
    assert all("is full: " in error and "start the same command again" in error for error in errors)


def test_a_signal_saves_the_batch_and_the_next_start_ends_as_if_undisturbed(
    composed: Any, tmp_path: Path
) -> None:
    settings = ("method=lora", "runtime.num_workers=2")
    whole = trained(composed(*settings, f"paths.runs={tmp_path}/whole"))
    with pytest.raises(SystemExit) as ended:
        trained(add_logger(composed(*settings), AskToStop, batch=2, rank="0"))
    assert ended.value.code == 75
    continued = trained(composed(*settings))
    assert continued.status()["started_from"].startswith("resumed at batch 2 from ")
    expected, found = last_weights(whole), last_weights(continued)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_whoever_listened_before_hears_of_the_signal_when_the_run_is_saved(composed: Any) -> None:
    cfg = add_logger(composed("method=lora"), AskToStop, batch=1, rank="0")
    heard: list[list[str]] = []

    def requeue(_number: int, _frame: Any) -> None:  # as submitit's handler does
        heard.append([path.name for path in Path(cfg.paths.runs).glob("*/checkpoints/ba*")])

    before = signal.signal(signal.SIGUSR2, requeue)
    try:
        with pytest.raises(SystemExit):
            trained(cfg)
        assert heard == [["ba0000001"]]
        assert signal.getsignal(signal.SIGUSR2) is requeue
    finally:
        signal.signal(signal.SIGUSR2, before)


@pytest.mark.slow
def test_the_command_with_two_ranks_talks_once_and_hands_on_a_request_to_stop(
    composed: Any, tmp_path: Path, shards: Path
) -> None:
    line = [sys.executable, "-m", "lvf.train", "+experiment=math_ift", *LORA, "duration=4"]
    more = ["data.max_documents=64", f"paths.shards={shards}", "runtime.nproc_per_node=2"]
    with subprocess.Popen([*line, *more], cwd=tmp_path, stdout=-1, stderr=-2, text=True) as run:
        assert run.stdout is not None
        said = ""
        for text in run.stdout:  # the bar goes on within a line, until the run ends
            said += text
            if "training " in text:
                break
        metrics_file = next(tmp_path.glob("runs/*/")) / "metrics.jsonl"
        while not metrics_file.exists():
            assert run.poll() is None, said
            time.sleep(0.1)  # the ranks need the cores
        run.send_signal(signal.SIGTERM)
        said += run.stdout.read()
    assert run.returncode == 75, said
    assert len(re.findall("training embedded-", said)) == 1
    assert len(re.findall(r"stopped at batch \d+, which is saved", said)) == 1
    status = json.loads(next(tmp_path.glob("runs/*/status.json")).read_text())
    assert status["state"] == STOPPED


def test_a_batch_that_ranks_cannot_share_is_refused(composed: Any) -> None:
    with pytest.raises(UserError, match="among 3 ranks"):
        composed("runtime.nproc_per_node=3")


def test_lora_checkpoints_grow_with_the_rank_and_with_nothing_else(composed: Any) -> None:
    sizes, weights = [], []
    for rank in (2, 4, 8):
        folder = trained(composed("method=lora", f"method.rank={rank}", "duration=0.2"))
        sizes.append(next(folder.checkpoints.glob("ba*/rank0.pt")).stat().st_size)
        weights.append(sum(weight.numel() for weight in last_weights(folder).values()))
    assert weights[1:] == [2 * weights[0], 4 * weights[0]]
    for more in (1, 2):  # 4 bytes of a weight and 4 of Lion's one moment
        grown = 8 * (weights[more] - weights[more - 1])
        assert sizes[more] - sizes[more - 1] == pytest.approx(grown, rel=0.02)
