"""What goes wrong on one of two ranks ends both within seconds, with the right status."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from composer.core import State
from composer.loggers import Logger, LoggerDestination

from benchmarks.forked_ranks import start_ranks
from lvf.config.schema import RunConfig
from lvf.data.shards import prepare
from lvf.errors import UserError
from lvf.runs.run_folder import DIVERGED, FAILED, RunFolder, open_run_folder
from lvf.training.outcome import joint_outcome, on_rank_zero
from lvf.training.trainer import train
from tests.training.conftest import add_logger, trained_on_ranks

DEADLINE_SECONDS = 20
KILLED = -signal.SIGKILL


class GoWrong(LoggerDestination):
    """Does to one rank, after two batches, what its name says, and notes when."""

    def __init__(self, how: str, rank: int, note: str) -> None:
        self.how, self.rank, self.note = how, str(rank), Path(note)
        self.state: State | None = None

    def fit_start(self, state: State, logger: Logger) -> None:
        self.state = state

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        assert self.state is not None
        batch = self.state.timestamp.batch.value
        if "loss/train/total" not in metrics or batch != 2 or os.environ["RANK"] != self.rank:
            return
        self.note.touch()
        if self.how == "exception":
            raise RuntimeError("broken")
        if self.how == "divergence":
            self.state.total_loss_dict["loss/train/total"] = float("nan")
        if self.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == "full disk":
            with Path("/dev/full").open("w") as file:
                file.write("x")


def fail_on(cfg: RunConfig, rank: int, how: str, note: Path) -> tuple[list[int], RunFolder, str]:
    """Exit statuses, run folder and all that was printed; torchrun's SIGTERM is sent as it does."""
    cfg = add_logger(cfg, GoWrong, how=how, rank=rank, note=str(note))
    folder, prepared = open_run_folder(cfg), prepare(cfg)
    ranks = start_ranks(2, lambda: train(cfg, prepared, folder))
    ended = ranks.wait(signal.SIGTERM)
    assert note.exists(), ranks.said()
    assert time.time() - note.stat().st_mtime < DEADLINE_SECONDS, ranks.said()
    return ended, folder, ranks.said()


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(
    ("how", "state", "why"),
    [
        ("exception", FAILED, "RuntimeError: broken"),
        ("divergence", DIVERGED, "training loss is nan at batch 3"),
        ("kill", FAILED, "rank {rank} has ended without a word"),
        ("full disk", FAILED, "the disk is full: "),
    ],
)
def test_an_end_of_one_rank_is_the_end_of_both_and_the_first_error_the_cause(
    composed: Any, tmp_path: Path, how: str, state: str, why: str, rank: int
) -> None:
    method = "lora" if rank else "full"
    cfg = composed(f"method={method}", "runtime.nproc_per_node=2")
    ended, folder, said = fail_on(cfg, rank, how, tmp_path / "note")
    assert ended[rank] == (KILLED if how == "kill" else 1), said
    assert ended[1 - rank] == 1, said
    status = folder.status()
    assert status["state"] == state, said
    assert status["error"].startswith(why.format(rank=rank)), said


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_no_collective_wakes_ends_with_the_other_all_the_same(
    tmp_path: Path, rank: int
) -> None:
    """As one that waits in CUDA for a collective of NCCL."""
    folder, note = RunFolder(tmp_path), tmp_path / "note"

    def work() -> None:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        with joint_outcome(folder):
            if os.environ["RANK"] == str(rank):
                note.touch()
                raise RuntimeError("broken")
            time.sleep(10 * DEADLINE_SECONDS)

    ranks = start_ranks(2, work)
    assert ranks.wait(signal.SIGUSR1) == [1, 1], ranks.said()
    assert time.time() - note.stat().st_mtime < DEADLINE_SECONDS
    assert folder.status() == {"state": FAILED, "error": "RuntimeError: broken"}


def test_what_rank_0_finds_or_refuses_counts_for_all_ranks(tmp_path: Path) -> None:
    def work() -> None:
        rank = os.environ["RANK"]
        with joint_outcome(RunFolder(tmp_path)):
            assert on_rank_zero(lambda: f"of rank {rank}") == "of rank 0"

            def refuse() -> None:
                raise UserError(f"refused by rank {rank}")

            with pytest.raises(UserError, match="refused by rank 0"):
                on_rank_zero(refuse)

    start_ranks(2, work).end_with([0, 0])
    assert not (tmp_path / "failure.json").exists()


def test_all_ranks_start_from_the_checkpoint_that_rank_0_sees(
    composed: Any, tmp_path: Path
) -> None:
    """A network file system may show a new folder to one node later than to another."""
    cfg = composed("method=lora", "runtime.nproc_per_node=2", "duration=0.5")
    folder = trained_on_ranks(cfg)
    (newest,) = folder.checkpoints.iterdir()
    hidden = tmp_path / "hidden"
    newest.rename(hidden)
    prepared = prepare(cfg)

    def work() -> None:
        if os.environ["RANK"] == "0":
            hidden.rename(newest)
        else:
            cfg.paths.runs = str(tmp_path)  # where this rank sees no checkpoint
            seen = RunFolder(tmp_path / folder.path.name)
            seen.path.mkdir()
        train(cfg, prepared, folder if os.environ["RANK"] == "0" else seen)

    start_ranks(2, work).end_with([0, 0])
    assert folder.status()["started_from"].startswith("resumed at batch")
