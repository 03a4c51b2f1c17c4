"""Trains a run in several processes: writes its configuration, starts torchrun, reports the end."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lvf.config import RunConfig
from lvf.data.shards import Prepared
from lvf.errors import UserError
from lvf.training.run_folder import DIVERGED, STOPPED, TRAINED, RunFolder, write_json
from lvf.training.stopping import SIGNALS, TRY_AGAIN

NODE_SCRIPT = Path(__file__).resolve().parents[2] / "launchers" / "node.sh"


def train_on_ranks(cfg: RunConfig, prepared: Prepared, folder: RunFolder) -> None:
    """Train on `runtime.nodes` times `runtime.ranks` processes, as `train` does in one.

    Hydra has composed the run once, here; the ranks read the outcome from a file.

    Raises:
        UserError: the run diverged, or a rank failed; its message stands above.
        SystemExit: a signal stopped it (status `TRY_AGAIN`); the same command continues it.
    """
    config = folder.path / "launch.json"
    write_json(config, asdict(cfg))
    runtime = cfg.runtime
    command = [str(NODE_SCRIPT), sys.executable, str(runtime.ranks), config, prepared.folder]
    if runtime.nodes > 1:
        command = ["srun", f"--nodes={runtime.nodes}", "--ntasks-per-node=1", *command]
    process = subprocess.Popen(list(map(str, command)), preexec_fn=die_with_parent)
    with _handing_on_signals(process):
        code = process.wait()
    status = folder.status()
    if code == 0 and status["state"] == TRAINED:
        return
    if status.get("state") == STOPPED:
        raise SystemExit(TRY_AGAIN)
    if status.get("state") == DIVERGED:
        raise UserError(f"{folder.path.name} diverged: {status['error']}. Try a smaller rate.")
    raise UserError(
        f"the ranks of {folder.path.name} ended with status {code}; their messages stand above. "
        "The same command continues the run from its last checkpoint."
    )


def die_with_parent() -> None:
    """Let the kernel end this process when its parent ends, however that comes about (Linux).

    Else a killed start would leave ranks that work on unseen, and a second start would join them.
    """
    if sys.platform == "linux":
        import ctypes

        set_parent_death_signal = 1  # PR_SET_PDEATHSIG of linux/prctl.h
        ctypes.CDLL(None).prctl(set_parent_death_signal, int(signal.SIGKILL))


@contextmanager
def _handing_on_signals(process: subprocess.Popen[Any]) -> Iterator[None]:
    """Pass a request to stop to the ranks, past torchrun, which would allow them 30 seconds."""
    import psutil

    def hand_on(number: int, _frame: Any) -> None:
        started = psutil.Process(process.pid)
        for listener in started.children() or [started]:  # srun, which has none, hands on itself
            listener.send_signal(signal.SIGUSR2)

    before = {number: signal.signal(number, hand_on) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
