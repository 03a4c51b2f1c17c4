"""Does the work of preparing: holds documents out, makes the missing parts, joins them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lvf.config.schema import RunConfig
from lvf.data.corpus_stats import ALL_PROMPT, CorpusStats, refuse_unusable
from lvf.data.evaluation_items import compared_tasks, items_of
from lvf.data.held_out import write_held_out
from lvf.data.overlap import Items, OverlapIndex
from lvf.data.part import OVERLAPS, ROW_TOKENS, UNFINISHED, Work, part_folder, read_stats
from lvf.data.pool import make_parts, num_cores
from lvf.data.prompts import check_embedded, text_columns
from lvf.data.recipe import largest_token_id
from lvf.data.sources import Part, cut_corpus, unread_files
from lvf.errors import UserError
from lvf.models.load import load_model_config

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def build(
    folder: Path,
    cfg: RunConfig,
    tokenizer: PreTrainedTokenizerBase,
    max_rows: int | None,
    remote: str | None = None,
) -> Corpus | None:
    """Write validation.jsonl, heldout.jsonl and the missing parts of train/ below `folder`.

    Returns the corpus once all its parts are there, None while other machines have not finished
    theirs (`runtime.prepare_part`). The files do not depend on the number of processes or machines.

    Raises:
        UserError: bad documents, or too few of them.
        OSError: the disk refuses.
    """
    train = folder / "train"
    train.mkdir(parents=True, exist_ok=True)
    held, counts = write_held_out(folder, cfg, str(tokenizer.eos_token))
    items, compared = _items_to_compare(cfg)
    overlap = OverlapIndex(items) if items else None
    num_embeddings = load_model_config(cfg.model).vocab_size
    _check_held_out(folder, tokenizer, num_embeddings)
    remote_train = remote and f"{remote}/train"
    work = Work(train, cfg, tokenizer, held, overlap, num_embeddings, remote_train)
    unread = unread_files(cfg.data.train)
    corpus = Corpus(work, max_rows, {**counts, "overlap_with": compared, "unread_files": unread})
    return corpus if corpus.make() else None


def _check_held_out(folder: Path, tokenizer: PreTrainedTokenizerBase, num_embeddings: int) -> None:
    """Refuse held-out text for which the model lacks an embedding, before anything is trained."""
    if largest_token_id(tokenizer) < num_embeddings:
        return
    for name in ("validation", "heldout"):
        path = folder / f"{name}.jsonl"
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            row = json.loads(line)
            ids = np.array(tokenizer(row["prompt"] + row["response"])["input_ids"])
            check_embedded(ids, num_embeddings, tokenizer, f"{name} document {number}")


class Corpus:
    """The parts of a corpus on disk, as far as they are finished from the first on."""

    def __init__(self, work: Work, max_rows: int | None, counts: dict[str, Any]) -> None:
        """See what is there."""
        self.work, self.max_rows, self.counts = work, max_rows, counts
        self.stats = CorpusStats()
        self.num_finished = 0
        self.end: int | None = None
        """Number of parts, once it is known."""

    def make(self) -> bool:
        """Make the missing parts that are this machine's; tell whether all are there."""
        cfg = self.work.cfg
        self._count_finished()
        if self.num_finished == self.end:  # killed when it had rows enough
            return True
        parts = cut_corpus(cfg.data.train, text_columns(cfg.data), cfg.data.max_documents)
        own = CorpusStats()
        processes = cfg.runtime.prepare_processes or num_cores()
        with (
            _bar(cfg) as bar,
            closing(make_parts(self._missing(parts, bar), self.work, processes)) as made,
        ):
            for part, stats in made:
                bar.update(len(part.rows))
                own.add(stats)
                refuse_unusable(own, cfg.data.train.path, cfg.data.strict)
                self._count_finished()
                if self.num_finished == self.end:  # as many rows as are wanted
                    break
        self._count_finished()
        return self.num_finished == self.end

    def _missing(self, parts: Iterable[Part], bar: Any) -> Iterator[Part]:
        mine, machines = machine_of(self.work.cfg)
        number = -1
        for number, part in enumerate(parts):
            if number % machines == mine:
                if read_stats(self.work, number) is None:
                    yield part
                else:
                    bar.update(len(part.rows))
        self.end = number + 1

    def _count_finished(self) -> None:
        while self.num_finished != self.end and (stats := read_stats(self.work, self.num_finished)):
            self.stats.add(stats)
            self.num_finished += 1
            if self.max_rows is not None and self.stats.num_rows >= self.max_rows:
                self.end = self.num_finished

    def join(self) -> dict[str, Any]:
        """Make one data set of the parts, and return the statistics."""
        train, data = self.work.folder, self.work.cfg.data
        refuse_unusable(self.stats, data.train.path, data.strict)
        _refuse_all_prompts(self.stats, self.work.cfg)
        _merge(train, self.num_finished)
        if self.max_rows is not None and self.stats.num_rows > self.max_rows:
            self._drop_rows(self.stats.num_rows - self.max_rows)
        with (train.parent / OVERLAPS).open("w", encoding="utf-8") as file:
            for number in range(self.num_finished):
                file.write((part_folder(train, number) / OVERLAPS).read_text(encoding="utf-8"))
        return self.stats.statistics(self.work.cfg.training.seq_len) | self.counts

    def _drop_rows(self, beyond: int) -> None:
        """Take the last rows out of the index; in the file they stay, and are not read."""
        last = part_folder(self.work.folder, self.num_finished - 1)
        tokens, loss_tokens = np.load(last / ROW_TOKENS)[-beyond:].sum(0, np.int64)
        self.stats.num_rows -= beyond
        self.stats.num_tokens -= int(tokens)
        self.stats.num_loss_tokens -= int(loss_tokens)
        index = self.work.folder / "index.json"
        tree = json.loads(index.read_text())
        while beyond:
            shard = tree["shards"][-1]
            dropped = min(beyond, shard["samples"])
            shard["samples"] -= dropped
            beyond -= dropped
            if not shard["samples"]:
                tree["shards"].pop()
        index.write_text(json.dumps(tree))


def machine_of(cfg: RunConfig) -> tuple[int, int]:
    """Number of this machine, from 0, and of how many.

    Raises:
        UserError: `runtime.prepare_part` is not i/n with 0 <= i < n.
    """
    text = cfg.runtime.prepare_part
    number, slash, machines = text.partition("/")
    if not (slash and number.isdecimal() and machines.isdecimal() and int(number) < int(machines)):
        raise UserError(
            f"runtime.prepare_part={text} is not i/n with i from 0 to n - 1, as "
            "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT in a job array that starts at 0"
        )
    return int(number), int(machines)


def _items_to_compare(cfg: RunConfig) -> tuple[Items, str]:
    """The evaluation items, and in words what they are and which are missing, and why."""
    items, unread = {}, []
    for task in compared_tasks(cfg.evals):
        try:
            items[task] = items_of(task, cfg.evals)
        except UserError as error:
            if cfg.data.exclude_overlap:
                raise
            unread.append(f"not with {task}: {error}")
    known = [f"{task} ({len(some):,})" for task, some in items.items()]
    return items, "; ".join([", ".join(known) or "nothing", *unread])


def _bar(cfg: RunConfig) -> Any:
    from tqdm import tqdm

    name = f"preparing {cfg.data.name}"
    return tqdm(desc=name, unit=" rows", mininterval=1.0, disable=False)


def _merge(train: Path, num_parts: int) -> None:
    """Write train/index.json over the first parts, and remove what is not part of the data."""
    from streaming.base.util import merge_index

    for leftover in train.glob(f"{UNFINISHED}*"):  # of processes that were killed
        shutil.rmtree(leftover)
    numbered = sorted(path for path in train.iterdir() if path.is_dir())
    for beyond in numbered[num_parts:]:
        shutil.rmtree(beyond)
    merge_index([str(path / "index.json") for path in numbered[:num_parts]], str(train))


def _refuse_all_prompts(stats: CorpusStats, cfg: RunConfig) -> None:
    dropped = stats.found[ALL_PROMPT]
    if dropped and not stats.documents:
        raise UserError(
            f"data {cfg.data.name}: the prompts of all {dropped} documents fill a row alone. Raise "
            f"training.seq_len={cfg.training.seq_len}."
        )
