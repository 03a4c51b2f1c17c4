"""The typed, closed settings of `python -m lvf.grid`: a sweep, and how its runs are started."""

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from lvf.config.kinds import Count, CountOrZero
from lvf.config.schema import ScaleConfig


@dataclass(kw_only=True)
class SweepConfig:
    """Cells as products of overrides of `python -m lvf.train`."""

    name: str = MISSING
    blocks: dict[str, dict[str, list[Any]]] = MISSING
    """Each block is a product: override key (such as `+experiment` or `duration`) to its values."""
    overrides: list[str] = field(default_factory=list)
    """Settings of every cell."""


@dataclass(kw_only=True)
class SlurmConfig:
    """What the jobs of a grid ask for (`conf/slurm/`); null takes the cluster's default."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    """Features of the nodes, such as `a100&ib`."""
    timeout_min: Count = 1440
    """Minutes of a job. A run that takes longer saves, is requeued and continues."""
    evaluation_timeout_min: Count = 240
    """Minutes of the job that measures one export."""
    signal_delay_s: CountOrZero = 300
    """Seconds before the end at which a run saves: longer than a batch and a checkpoint take."""
    preparation_cpus: Count = 8
    """Cores of a job that prepares data, which has no GPU."""
    preparation_partition: str | None = None
    """Its partition; null takes `partition`."""
    gpus_per_node: CountOrZero | None = 1
    """Devices of a job on each node; a run of more ranks asks for one a rank. Null: no GPUs."""
    cpus_per_task: Count = 8
    """Cores for each rank."""
    mem_gb: CountOrZero | None = 64
    """Memory for each rank."""
    array_parallelism: Count = 256
    """Jobs of one array at a time."""
    setup: list[str] = field(default_factory=list)
    """Shell lines before each run, such as `module load cuda/12.4`."""
    container: str | None = None
    """Command that runs another one in a container, such as `apptainer exec --nv lvf.sif`. Needs no
    command of Slurm inside."""
    additional_parameters: dict[str, Any] = field(default_factory=dict)
    """Other options of sbatch, such as {exclude: node7}."""


@dataclass(kw_only=True)
class GridConfig:
    """What to list, and how to run it."""

    scale: ScaleConfig = field(default_factory=ScaleConfig)
    """The scale of every cell, to whose ranks, durations and rates a sweep refers."""
    sweep: SweepConfig = field(default_factory=SweepConfig)
    launcher: str = "none"
    """`none` only lists; `local` runs the missing cells on this machine, `slurm` queues them."""
    analyze: bool = False
    """Only analyse what is trained; `python -m lvf.grid analyze` sets it."""
    workers: Count | None = None
    """Cells at a time on this machine; null takes one where there is a GPU, else one a core."""
    slurm: SlurmConfig = field(default_factory=SlurmConfig)
    stop_early: bool = False
    """With launcher=local, of a sweep that only chooses learning rates: at a quarter and at half of
    their length, the worse half of the runs that differ in their rate alone ends."""
    execute_code: bool = False
    """Agree that HumanEval runs programs which the models wrote (`evals.execute_code`)."""
    overrides: list[str] = field(default_factory=list)
    """Further settings of every cell, such as ["paths.runs=/scratch/runs"]."""


ConfigStore.instance().store(name="grid_schema", node=GridConfig)
