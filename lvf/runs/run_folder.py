"""A run on disk: its folder, its configuration, its state, and who may write to it."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lvf.config.schema import RunConfig, stable_hash
from lvf.errors import UserError
from lvf.runs.run_id import identity, run_id

RUNNING, STOPPED, TRAINED, FAILED, DIVERGED = "running", "stopped", "trained", "failed", "diverged"
"""What a status file says; the following are concluded from it."""
MISSING, DONE, UNREADABLE = "missing", "done", "unreadable"
LOCK_SECONDS = 2.0
"""How long a start tries: whoever asks for the state holds the lock for less than a millisecond."""


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run; the folder is named by the hash of the resolved configuration."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        """Composer's resumable checkpoints."""
        return self.path / "checkpoints"

    @property
    def exports(self) -> Path:
        """Measured models, one folder each."""
        return self.path / "exports"

    @property
    def submissions(self) -> Path:
        """What was submitted to Slurm, of this run and those beside it."""
        return self.path.parent / "slurm"

    def log(self, rank: int = 0) -> Path:
        """What libraries say (`lvf.log`), a file a rank."""
        return self.path / (f"log-rank{rank}.txt" if rank else "log.txt")

    def export(self, batch: int) -> Path:
        """Folder of the model after `batch` optimiser steps."""
        return self.exports / f"ba{batch:06d}"

    def finished_exports(self) -> list[Path]:
        """Exports in the order of training."""
        return sorted(self.exports.glob("ba*"))

    def status(self) -> dict[str, Any]:
        """Last written state, or an empty one for a run that never started."""
        file = self.path / "status.json"
        return json.loads(file.read_text()) if file.is_file() else {}

    def write_status(self, state: str, **facts: Any) -> None:
        """Replace the state, keeping earlier facts that are not given again."""
        merged = {**self.status(), "state": state, **facts}
        write_json(self.path / "status.json", merged)

    def claim_failure(self, state: str, error: str) -> None:
        """Say how a start has failed, if no other rank has said it before: the first error counts.

        A full disk may leave it unsaid.
        """
        temporary = self._failure.with_name(f".failure.{socket.gethostname()}.{os.getpid()}")
        with suppress(OSError):
            temporary.write_text(json.dumps({"state": state, "error": error}))
            os.link(temporary, self._failure)
        temporary.unlink(missing_ok=True)

    def settle_failure(self) -> None:
        """Make the first error that was said the status; only one process may do so at a time."""
        with suppress(OSError):
            self.write_status(**json.loads(self._failure.read_text()))

    def forget_failure(self) -> None:
        """Begin anew."""
        self._failure.unlink(missing_ok=True)

    @property
    def _failure(self) -> Path:
        return self.path / "failure.json"

    @contextmanager
    def recording_refusal(self) -> Iterator[None]:
        """Record why a start is refused, until the next one is not.

        The status of earlier starts stays: another process may be at work on the run.
        """
        try:
            yield
        except UserError as error:
            with suppress(OSError):  # it may be the reason that nothing can be written here
                self.path.mkdir(parents=True, exist_ok=True)
                now = datetime.now(timezone.utc).isoformat(timespec="seconds")
                write_json(self._refusal, {"refused": str(error), "at": now})
            raise UserError(f"{self.path.name} refused: {error}") from error
        self._refusal.unlink(missing_ok=True)

    def refusal(self) -> dict[str, str] | None:
        """Why (`refused`) and when (`at`) the last start was refused, if it was."""
        return json.loads(self._refusal.read_text()) if self._refusal.is_file() else None

    @property
    def _refusal(self) -> Path:
        return self.path / "refused.json"

    def state(self, cfg: RunConfig) -> str:
        """`missing`, `running`, `stopped`, `failed`, `diverged`, `trained`, `done` or `unreadable`.

        Stopped by a signal or a kill, that is. Done means measured as this configuration asks, too.
        Another user's folder may be unreadable.
        """
        try:
            return self._state(cfg)
        except PermissionError:
            return UNREADABLE

    def _state(self, cfg: RunConfig) -> str:
        status = self.status()
        state = str(status.get("state", MISSING))
        if state == RUNNING and self._is_free():
            return STOPPED
        if state == TRAINED and all(
            self._mark(cfg, one).exists() for one in self.finished_exports()
        ):
            return DONE
        return state

    def exports_of(self, cfg: RunConfig) -> list[Path]:
        """Exports that this configuration asks to measure."""
        only = cfg.runtime.export
        found = self.finished_exports()
        return found if only is None else [one for one in found if _moment(one) == only]

    def mark_measured(self, cfg: RunConfig) -> None:
        """Note that all records which the configuration asks for are written.

        In a file for each export: several jobs measure those of one run at once.
        """
        for export in self.exports_of(cfg):
            mark = self._mark(cfg, export)
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()

    def exported_moments(self) -> set[float]:
        """Durations whose exports are written."""
        return {_moment(export) for export in self.finished_exports()}

    def measured_moments(self, cfg: RunConfig) -> set[float]:
        """Durations whose exports are measured as this configuration asks."""
        found = self.finished_exports()
        return {_moment(export) for export in found if self._mark(cfg, export).exists()}

    def _mark(self, cfg: RunConfig, export: Path) -> Path:
        return self.path / "evals" / export.name / f"measured-{stable_hash(asdict(cfg.evals))}"

    def _is_free(self) -> bool:
        """Whether no process is at work; asks as a reader, which another user may be."""
        try:
            with (self.path / ".lock").open() as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return True
        except BlockingIOError:
            return False
        return True

    def lock(self) -> FileLock:
        """The right to work on this run, within `LOCK_SECONDS` or not at all.

        Raises:
            UserError: another process holds it.
        """
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=LOCK_SECONDS, poll_interval=0.01)
        except Timeout as error:
            raise UserError(
                f"another process is working on {self.path}; wait for it, or stop it first"
            ) from error
        return lock


def is_rank_zero() -> bool:
    """Whether this process is the one that talks and writes: rank 0, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def _moment(export: Path) -> float:
    return float(json.loads((export / "export.json").read_text())["duration"])


def write_json(path: Path, tree: Any) -> None:
    """Write aside, then rename, so that a reader or a crash never meets half a file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(tree, indent=1))
    temporary.replace(path)


def run_folder(cfg: RunConfig) -> RunFolder:
    """Where this configuration's run is or will be; touches nothing."""
    return RunFolder(Path(cfg.paths.runs) / run_id(cfg))


def open_run_folder(cfg: RunConfig) -> RunFolder:
    """Make or reopen the folder of a run.

    Raises:
        UserError: the folder cannot be written, or holds the run of another configuration.
    """
    folder = run_folder(cfg)
    file = folder.path / "identity.json"
    wanted = json.loads(json.dumps(identity(cfg)))
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        if not file.is_file():
            write_json(folder.path / "config.json", asdict(cfg))
            write_json(file, wanted)
    except OSError as error:
        raise UserError(
            f"cannot write the run folder {folder.path}: {error.strerror}. Choose another place "
            "with paths.runs=/some/folder"
        ) from error
    found = json.loads(file.read_text())
    different = sorted(key for key in wanted | found if found.get(key) != wanted.get(key))
    if different:
        raise UserError(
            f"{folder.path} was made with another configuration (it differs in "
            f"{', '.join(different)}); move that folder away or choose another paths.runs"
        )
    return folder
