"""Trains a run in several processes: writes its order, starts torchrun, reports the end."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from lvf.config.schema import RunConfig, shipped
from lvf.data.shards import Prepared
from lvf.errors import UserError
from lvf.launching.rank import be_silent, do_part
from lvf.launching.together import (
    by_torchrun,
    leave_ranks,
    order,
    order_file,
    order_of_leader,
    tell,
)
from lvf.runs.run_folder import (
    DIVERGED,
    RUNNING,
    STOPPED,
    TRAINED,
    RunFolder,
    run_folder,
    write_json,
)
from lvf.training.stopping import TRY_AGAIN, StopRequest

NODE_SCRIPT = shipped("launchers/node.sh")


def train_on_ranks(cfg: RunConfig, prepared: Prepared, folder: RunFolder) -> None:
    """Train on `runtime.nodes` times `runtime.nproc_per_node` processes, as `train` does in one.

    Hydra has composed the run once, here; the ranks read the outcome from a file, or, where
    torchrun has started them and this process as one of them, from its store.

    Raises:
        UserError: the run diverged, or a rank failed; its message stands above.
        SystemExit: a signal stopped it (status `TRY_AGAIN`); the same command continues it.
    """
    plan = order(cfg, prepared)
    folder.forget_failure()
    folder.write_status(RUNNING, error=None)
    if by_torchrun():
        tell(cfg, plan)
        do_part(plan)
        leave_ranks()
        return
    file = folder.path / "launch.json"
    write_json(file, plan)
    tell(cfg, plan)
    code = _torchrun(cfg, file)
    folder.settle_failure()  # where no rank was left to do so
    status = folder.status()
    if status["state"] == TRAINED:
        return
    if status["state"] == DIVERGED:
        raise UserError(f"{folder.path.name} diverged: {status['error']}. Try a smaller rate.")
    raise UserError(
        f"the ranks of {folder.path.name} ended with status {code}; their messages stand above"
        f"{f' (first: {error})' if (error := status.get('error')) else ''}. "
        "The same command continues the run from its last checkpoint."
    )


def help_leader(cfg: RunConfig) -> None:
    """Do this rank's, or this node's, part of what another process leads.

    Raises:
        SystemExit: the ranks of this node failed, or a signal stopped them.
    """
    be_silent()
    plan = order_of_leader(cfg)
    if plan is None:
        return
    if by_torchrun():
        do_part(plan)
    elif code := _torchrun(cfg, order_file(cfg)):
        raise SystemExit(code)


def die_with_parent() -> None:
    """Let the kernel end this process when its parent ends, however that comes about (Linux).

    Else a killed start would leave ranks that work on unseen, and a second start would join them.
    """
    if sys.platform == "linux":
        import ctypes

        set_parent_death_signal = 1  # PR_SET_PDEATHSIG of linux/prctl.h
        ctypes.CDLL(None).prctl(set_parent_death_signal, int(signal.SIGKILL))


def _torchrun(cfg: RunConfig, file: Path) -> int:
    """Run the ranks of this node, and hand a request to stop on to them; returns their status.

    Raises:
        SystemExit: a signal stopped them (status `TRY_AGAIN`).
    """
    words = [NODE_SCRIPT, sys.executable, cfg.runtime.nproc_per_node, file]
    # An installed file need not be executable. In a session of its own a terminal's Ctrl-C does not
    # reach it: torchrun would end the ranks before they have saved.
    command = ["bash", *map(str, words)]
    process = subprocess.Popen(command, preexec_fn=die_with_parent, start_new_session=True)
    with StopRequest() as stop:
        code = _wait(process, stop)
        if run_folder(cfg).status().get("state") == STOPPED:
            raise SystemExit(TRY_AGAIN)
    return code


def _wait(process: subprocess.Popen[bytes], stop: StopRequest) -> int:
    """Wait for the ranks, and hand a request to stop on to them, until they have heard it.

    It goes past torchrun, which would end them after 30 seconds.
    """
    import psutil

    while True:
        try:
            return process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            if stop.received:
                for rank in psutil.Process(process.pid).children():
                    rank.send_signal(signal.SIGUSR2)
