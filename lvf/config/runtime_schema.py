"""The typed settings of where and how a run is done: `paths`, `runtime` and `bench`."""

from dataclasses import dataclass

from omegaconf import MISSING

from lvf.config.kinds import Count, CountOrZero, LocalPath, Positive, Share


@dataclass(kw_only=True)
class PathsConfig:
    """Where things are written; relative paths are relative to the working directory."""

    runs: LocalPath = MISSING
    shards: LocalPath = MISSING
    """Folder, or a remote of mosaicml-streaming such as s3://bucket/shards or file:///mnt/shards."""
    shards_cache: LocalPath = "shards-cache"
    """Local folder for what is read from or on its way to a remote; better one on a local disk."""
    shards_cache_limit: str | None = None
    """Most that each run keeps of a remote's shards, such as `100gb`; null keeps all it reads."""
    records: LocalPath = MISSING


@dataclass(kw_only=True)
class RuntimeConfig:
    """How a run is done: where, how fast, and when it is given up; never what it gives."""

    nproc_per_node: Count = 1
    """Processes on a node, one a device. Full finetuning shards over all, LoRA replicates."""
    nodes: Count = 1
    """Nodes of the Slurm allocation in which the run is started, each with `ranks` processes."""
    fsdp_base: bool = False
    """Whether LoRA shards its frozen base over the ranks, where it does not fit on a device."""
    device_microbatch_size: Count | None = None
    """Most rows that a device takes at once; null takes the whole share of the batch."""
    loss_chunk_tokens: Count = 1024
    """Predicted tokens whose logits, 4 bytes for each of the vocabulary, are held at once."""
    activation_checkpointing: bool | None = None
    """Activation checkpointing; null lets memory decide on it and on rows (`microbatch.py`)."""
    compile: bool = False
    """Whether torch.compile joins the operations of a layer in kernels (`lvf.models.compiled`)."""
    bf16_base: bool = True
    """Whether LoRA holds its frozen matrices in bf16 where they are multiplied in it in any case
    (training.precision=amp_bf16; DoRA needs them in fp32): 2 bytes a parameter instead of 6."""
    num_workers: CountOrZero = 0
    prepare_processes: Count | None = None
    """Processes that prepare data; null takes one for each core."""
    prepare_part: str = "0/1"
    """`i/n` with i from 0: this is machine i of the n that prepare a corpus together."""
    checkpoint_every_batches: Count = 100
    keep_checkpoints: Count = 2
    divergence_factor: Positive = 3.0
    """A batch loss above so many times the mean of the first ten batches ends a run as diverged."""
    measure: bool = True
    """Whether `lvf.train` measures, too; if not, `lvf.evaluate` does, on a device of its own."""
    export: Positive | None = None
    """Duration of the one export that `lvf.evaluate` is to measure; null takes all."""
    stop_at: Positive | None = None
    """Duration at which a run exports, is measured and ends before its time; without it, the same
    command continues the run. `python -m lvf.grid stop_early=true` sets it."""

    @property
    def world_size(self) -> int:
        """Ranks of all nodes."""
        return self.nodes * self.nproc_per_node


@dataclass(kw_only=True)
class BenchConfig:
    """A benchmark instead of a run: steps are timed, and nothing is kept but their record."""

    steps: Count | None = None
    """Optimiser steps that are timed; null where the run is one. `lvf.bench` takes 10."""
    warmup_steps: Count = 3
    """Steps before them, in which memory is claimed and kernels are compiled."""
    data: str = "real"
    """`real`: the run's own shards; `synthetic`: rows of random tokens."""
    documents_per_row: Count = 1
    """Of synthetic rows: the segments of a row, cut at random places."""
    padding: Share = 0.0
    """Of synthetic rows: the share of each that is padding."""

    def row_tokens(self, seq_len: int) -> int:
        """Real tokens of a synthetic row."""
        return round(seq_len * (1 - self.padding))
