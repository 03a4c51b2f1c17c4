"""Trains a run in several processes: writes its configuration, starts torchrun, reports the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import asdict

from lvf.config.schema import RunConfig, shipped
from lvf.data.shards import Prepared
from lvf.errors import UserError
from lvf.launching.slurm import JOB_SCRIPT
from lvf.runs.run_folder import DIVERGED, RUNNING, STOPPED, TRAINED, RunFolder, write_json
from lvf.training.stopping import TRY_AGAIN, StopRequest

NODE_SCRIPT = shipped("launchers/node.sh")


def check_allocation(cfg: RunConfig) -> None:
    """Refuse a run of several nodes where Slurm has not given them, and a start by torchrun.

    Raises:
        UserError: names the command or the settings that are right here.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        ranks = os.environ.get("LOCAL_WORLD_SIZE", "8")
        raise UserError(
            "lvf starts the processes of a run itself: start it once, without torchrun, with "
            f"runtime.nproc_per_node={ranks}"
        )
    given = int(os.environ.get("SLURM_JOB_NUM_NODES", "1"))
    if cfg.runtime.nodes > given:
        raise UserError(
            f"runtime.nodes={cfg.runtime.nodes}, but this is {given}: start the run in a Slurm "
            f"allocation, with sbatch --nodes={cfg.runtime.nodes} {JOB_SCRIPT} "
            "python -m lvf.train ...; or, on this machine alone, set runtime.nodes=1 and "
            "runtime.nproc_per_node to its GPUs"
        )


def train_on_ranks(cfg: RunConfig, prepared: Prepared, folder: RunFolder) -> None:
    """Train on `runtime.nodes` times `runtime.nproc_per_node` processes, as `train` does in one.

    Hydra has composed the run once, here; the ranks read the outcome from a file.

    Raises:
        UserError: the run diverged, or a rank failed; its message stands above.
        SystemExit: a signal stopped it (status `TRY_AGAIN`); the same command continues it.
    """
    config = folder.path / "launch.json"
    write_json(config, asdict(cfg))
    folder.forget_failure()
    folder.write_status(RUNNING, error=None)
    runtime = cfg.runtime
    shards = [one.folder for one in (prepared, prepared.replay) if one is not None]
    words = [NODE_SCRIPT, sys.executable, runtime.nproc_per_node, config, *shards]
    command = ["bash", *map(str, words)]  # an installed file need not be executable
    if runtime.nodes > 1:
        # Where the ranks of a node have failed, the others' torchrun ends, too.
        options = [f"--nodes={runtime.nodes}", "--ntasks-per-node=1", "--kill-on-bad-exit=1"]
        command = ["srun", *options, *command]
    process = subprocess.Popen(command, preexec_fn=die_with_parent)
    with StopRequest() as stop:
        code = _wait(process, stop, by_srun=runtime.nodes > 1)
        folder.settle_failure()  # where no rank was left to do so
        status = folder.status()
        if status["state"] == STOPPED:
            raise SystemExit(TRY_AGAIN)
    if status["state"] == TRAINED:
        return
    if status["state"] == DIVERGED:
        raise UserError(f"{folder.path.name} diverged: {status['error']}. Try a smaller rate.")
    raise UserError(
        f"the ranks of {folder.path.name} ended with status {code}; their messages stand above"
        f"{f' (first: {error})' if (error := status.get('error')) else ''}. "
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


def _wait(process: subprocess.Popen[bytes], stop: StopRequest, by_srun: bool) -> int:
    """Wait for the ranks, and hand a request to stop on to them, until they have heard it.

    It goes past torchrun, which would end them after 30 seconds; srun hands it on to every process
    that it has started.
    """
    import psutil

    while True:
        try:
            return process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            if stop.received:
                started = psutil.Process(process.pid)
                for one in [started] if by_srun else started.children():
                    one.send_signal(signal.SIGUSR2)
