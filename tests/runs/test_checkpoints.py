"""Only whole checkpoints are used, and a run is never silently started afresh."""

import datetime
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from lvf.errors import UserError
from lvf.runs.checkpoints import (
    COMPLETE,
    batch_of,
    commit,
    is_complete,
    name_of,
    newest_complete,
    prune,
    refuse_code,
    state_file,
)


def made(folder: Path, batch: int) -> Path:
    partial = folder / f".{name_of(batch)}.partial"
    partial.mkdir(parents=True)
    (partial / "rank0.pt").write_bytes(bytes(batch))
    commit(partial, folder / name_of(batch))
    return folder / name_of(batch)


def truncate(checkpoint: Path) -> None:
    file = checkpoint / "rank0.pt"
    file.write_bytes(file.read_bytes()[:-1])


def empty(checkpoint: Path) -> None:
    (checkpoint / "rank0.pt").write_bytes(b"")


def lose_a_file(checkpoint: Path) -> None:
    (checkpoint / "rank0.pt").unlink()


def lose_the_marker(checkpoint: Path) -> None:
    (checkpoint / COMPLETE).unlink()


def spoil_the_marker(checkpoint: Path) -> None:
    (checkpoint / COMPLETE).write_text("{")


def leave_it_half_renamed(checkpoint: Path) -> None:
    checkpoint.rename(checkpoint.with_name(f".{checkpoint.name}.partial"))


DAMAGES = [
    truncate, empty, lose_a_file, lose_the_marker, spoil_the_marker, leave_it_half_renamed,
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda one: one.__name__)
def test_a_spoilt_newest_checkpoint_is_passed_over_for_the_one_before(
    tmp_path: Path, damage: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    older, newer = made(tmp_path, 99), made(tmp_path, 1000)
    assert newest_complete(tmp_path) == newer
    damage(newer)
    assert newest_complete(tmp_path) == older
    assert ("passed over" in capsys.readouterr().out) == newer.exists()


def test_checkpoints_of_which_none_is_whole_are_an_error_with_the_remedy(tmp_path: Path) -> None:
    truncate(made(tmp_path, 5))
    with pytest.raises(UserError, match=f"none of the 1 checkpoints.*rm -r {tmp_path}"):
        newest_complete(tmp_path)


def test_of_a_trained_run_only_the_checkpoints_of_its_branches_stay(tmp_path: Path) -> None:
    for batch in (5, 10, 20, 24):
        made(tmp_path, batch)
    prune(tmp_path, kept=[5, 10])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ba0000005", "ba0000010"]
    prune(tmp_path, kept=[])
    assert not list(tmp_path.iterdir())
    prune(tmp_path / "never", kept=[])


def test_no_checkpoint_at_all_is_a_fresh_start(tmp_path: Path) -> None:
    assert newest_complete(tmp_path / "never") is None


def test_a_sealed_checkpoint_lists_every_file_with_its_size(tmp_path: Path) -> None:
    checkpoint = made(tmp_path, 7)
    assert json.loads((checkpoint / COMPLETE).read_text()) == {"rank0.pt": 7}
    assert is_complete(checkpoint) and batch_of(checkpoint) == 7
    assert [path.name for path in tmp_path.iterdir()] == [checkpoint.name]


class Harmful:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self.command,)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_checkpoint_that_would_run_a_command_is_refused_and_nothing_runs(
    tmp_path: Path, protocol: int, legacy: bool
) -> None:
    checkpoint = made(tmp_path, 7)
    harm = {"state": {"model": Harmful(f"touch {tmp_path}/ran")}}
    torch.save(
        harm,
        state_file(checkpoint),
        pickle_protocol=protocol,
        _use_new_zipfile_serialization=not legacy,
    )
    with pytest.raises(UserError, match=r"system when it is loaded|no checkpoint of torch.save"):
        refuse_code(checkpoint)
    assert not (tmp_path / "ran").exists()
    torch.load(state_file(checkpoint), weights_only=False)
    assert (tmp_path / "ran").exists()


def test_a_checkpoint_of_plain_data_tensors_and_arrays_is_not_refused(tmp_path: Path) -> None:
    checkpoint = made(tmp_path, 7)
    plain = {
        "tensor": torch.ones(2), "array": np.arange(3.0), "time": datetime.timedelta(1),
        "version": torch.__version__, "text": "os.system", "numbers": [1, 2.5, None, (True,)],
    }  # fmt: skip
    torch.save(plain, state_file(checkpoint))
    refuse_code(checkpoint)
