"""Batches are deterministic, resumable and what the model needs to keep examples apart."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lvf.config.compose import compose
from lvf.config.schema import RunConfig
from lvf.data.loader import batches_per_epoch, collate, make_loader, total_batches
from lvf.data.packing import pack_examples
from lvf.data.prompts import encode_examples, example_text
from lvf.data.shards import Prepared, prepare
from lvf.errors import UserError

from .conftest import MakeRun, pair, read_rows

FORK = multiprocessing.get_context("fork")


def make_rows(tokenizer: Any, num: int, seq_len: int) -> tuple[list[Any], list[dict[str, Any]]]:
    """Examples, and rows packed from them in the form in which shards give them."""
    data = compose("domain=math", "regime=ift").data
    examples = encode_examples(
        tokenizer, [example_text(pair(seed), data) for seed in range(num)], 1
    )
    rows = [
        {name: getattr(row, name) for name in ("input_ids", "loss_mask", "segment_ids")}
        for row in pack_examples(examples, seq_len)
    ]
    return examples, rows


def logits_of_segments(tokenizer: Any, folder: Path, attend_across: bool) -> list[tuple[Any, Any]]:
    """Logits of every example within its packed row, and of the same tokens alone."""
    import torch
    from transformers import AutoConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(AutoConfig.from_pretrained(folder)).eval()
    model.config.use_cache = False  # as lvf.models.load.load_base does
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(std=0.3)  # at the usual 0.02 examples hardly notice each other
        _, rows = make_rows(tokenizer, 12, 96)
        batch = collate(rows, attend_across)
        packed = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"]).logits
        found = []
        for index, row in enumerate(rows):
            for number in range(1, row["segment_ids"].max() + 1):
                here = torch.from_numpy(row["segment_ids"] == number)
                alone = model(input_ids=batch["input_ids"][index, here][None]).logits[0]
                found.append((packed[index, here], alone))
    return found


def test_packed_examples_do_not_see_each_other(tokenizer: Any, model_folder: Path) -> None:
    pairs = logits_of_segments(tokenizer, model_folder, attend_across=False)
    assert len(pairs) == 12
    for packed, alone in pairs:
        assert (packed - alone).abs().max() < 1e-5


def test_packed_examples_see_each_other_when_asked(tokenizer: Any, model_folder: Path) -> None:
    pairs = logits_of_segments(tokenizer, model_folder, attend_across=True)
    errors = [float((packed - alone).abs().max()) for packed, alone in pairs]
    assert sum(error > 0.1 for error in errors) >= len(errors) // 2  # all but the first of each row


def test_a_batch_holds_labels_positions_and_counts_as_a_loop_over_tokens_gives_them(
    tokenizer: Any,
) -> None:
    _, rows = make_rows(tokenizer, 30, 64)
    batch = collate(rows)
    for index, row in enumerate(rows):
        position, previous = 0, None
        for place in range(64):
            segment = row["segment_ids"][place]
            position = position + 1 if segment == previous else 0
            previous = segment
            assert batch["position_ids"][index, place] == position
            label = row["input_ids"][place] if row["loss_mask"][place] else -100
            assert batch["labels"][index, place] == label
        assert batch["num_tokens"][index] == np.count_nonzero(row["segment_ids"])
    assert {str(value.dtype) for value in batch.values()} == {"torch.int64"}
    assert "attention_mask" not in batch
    assert collate(rows, attend_across=True)["position_ids"].tolist() == [[*range(64)]] * len(rows)


@pytest.fixture
def run(make_run: MakeRun) -> RunConfig:
    """A run whose rows do not fill whole batches."""
    cfg = make_run()
    if prepare(cfg).num_rows % cfg.training.global_batch_size == 0:
        cfg.training.global_batch_size = 3
    return cfg


def epoch(loader: Any) -> list[list[tuple[int, ...]]]:
    """Rows of each batch of an epoch."""
    return [[tuple(row) for row in batch["input_ids"].tolist()] for batch in loader]


def test_an_epoch_is_whole_batches_of_distinct_rows(run: RunConfig) -> None:
    prepared = prepare(run)
    loader = make_loader(prepared, run, "run")
    known = {tuple(row["input_ids"].tolist()) for row in read_rows(prepared.train)}
    for _ in range(2):
        batches = epoch(loader)
        assert len(batches) == len(loader) == batches_per_epoch(prepared, run)
        assert {len(batch) for batch in batches} == {run.training.global_batch_size}
        rows = [row for batch in batches for row in batch]
        assert len(set(rows)) == len(rows) and set(rows) <= known


def test_the_seed_and_the_epoch_decide_the_order(run: RunConfig) -> None:
    prepared = prepare(run)
    first, again = make_loader(prepared, run, "run"), make_loader(prepared, run, "run")
    run.seed = 1
    other = make_loader(prepared, run, "run")
    first_epoch, second_epoch = epoch(first), epoch(first)
    assert epoch(again) == first_epoch and epoch(again) == second_epoch
    assert first_epoch != second_epoch and epoch(other) != first_epoch


def test_a_loader_resumes_within_an_epoch(run: RunConfig) -> None:
    prepared = prepare(run)
    whole = epoch(make_loader(prepared, run, "run"))
    stopped = make_loader(prepared, run, "run")
    batches = iter(stopped)
    for _ in range(3):
        next(batches)
    resumed = make_loader(prepared, run, "run")
    resumed.load_state_dict(stopped.state_dict())
    assert epoch(resumed) == whole[3:]


def open_and_read(prepared: Prepared, cfg: RunConfig, both_open: Any, queue: Any) -> None:
    loader = make_loader(prepared, cfg, "run")
    both_open.wait()
    queue.put(epoch(loader) + epoch(loader))


def test_two_processes_read_the_same_shards_at_once(run: RunConfig) -> None:
    prepared = prepare(run)
    loader = make_loader(prepared, run, "run")
    expected = epoch(loader) + epoch(loader)
    both_open, queue = FORK.Barrier(2), FORK.Queue()
    arguments = (prepared, run, both_open, queue)
    processes = [FORK.Process(target=open_and_read, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    assert [queue.get(timeout=120) for _ in processes] == [expected, expected]
    for process in processes:
        process.join()


def test_a_batch_that_the_devices_cannot_share_is_refused(
    run: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = prepare(run)
    run.training.global_batch_size = 4
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(UserError, match="global_batch_size=4 .* 3 devices"):
        make_loader(prepared, run, "run")


PAPER_TABLE = {0.25: 318, 0.5: 636, 1: 1272, 2: 2543, 4: 5086, 8: 10173, 16: 20345, 20: 25431}
"""Budget in billions of tokens to batches of 192 rows of 4096 (PAPER.md section 1.4)."""


def prepared_of(num_rows: int) -> Prepared:
    where = Path("nowhere")
    return Prepared(where, where, None, where, where, num_rows, 0, 0, {})


@pytest.mark.parametrize(("billions", "batches"), PAPER_TABLE.items())
def test_token_budgets_give_the_batches_of_the_paper(billions: float, batches: int) -> None:
    cfg = compose("scale=paper", "domain=code", "regime=cpt")
    assert (cfg.training.seq_len, cfg.training.global_batch_size) == (4096, 192)
    assert total_batches(prepared_of(10**7), cfg, billions * 1e9) == batches


def test_epochs_give_the_batches_of_the_papers_magicoder_runs() -> None:
    # README of the paper: 193, 386, 772, 1544, 3088 batches; 193 x 192 rows and a rest.
    cfg = compose("scale=paper", "domain=code", "regime=ift")
    prepared = prepared_of(193 * 192 + 100)
    batches = [total_batches(prepared, cfg, epochs) for epochs in (1, 2, 4, 8, 16)]
    assert batches == [193, 386, 772, 1544, 3088]
    assert total_batches(prepared, cfg, 0.5) == 96 and total_batches(prepared, cfg, 1e-9) == 1


SCRIPT = """
import json, os, pickle, sys
from pathlib import Path
cfg, prepared = pickle.loads(Path(sys.argv[1]).read_bytes())
from lvf.data.loader import make_loader
loader = make_loader(prepared, cfg, "run")
print(json.dumps({"prefix": loader.dataset._shm_prefix_int}), flush=True)
for line in sys.stdin if len(sys.argv) < 3 else [""]:
    batches = [batch["input_ids"].tolist() for batch in loader]
    out = sys.stdout if len(sys.argv) < 3 else open(f"{sys.argv[2]}/{os.environ['RANK']}", "w")
    print(json.dumps(batches), file=out, flush=True)
"""


def write_script(run: RunConfig, tmp_path: Path) -> list[str]:
    import pickle

    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "run.pickle").write_bytes(pickle.dumps((run, prepare(run))))
    return [str(tmp_path / "script.py"), str(tmp_path / "run.pickle")]


class Reader:
    """A separate process that opens the shards and reads an epoch when told to."""

    def __init__(self, arguments: list[str]) -> None:
        """Start it."""
        self.process = subprocess.Popen(
            [sys.executable, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip

    def answer(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def epoch(self) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return self.answer()

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def segments(number: int) -> list[Path]:
    """Shared memory of the data set of this number."""
    return list(Path("/dev/shm").glob(f"{number:06}_*"))


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/shm").exists(), reason="looks at the files of shared memory")
def test_a_killed_run_harms_neither_one_that_lives_nor_one_that_starts(
    run: RunConfig, tmp_path: Path
) -> None:
    run.runtime.num_workers = 1  # workers attach to the shared memory anew in every epoch
    arguments = write_script(run, tmp_path)
    doomed = Reader(arguments)
    doomed_number = doomed.answer()["prefix"]
    alive = Reader(arguments)  # maps the memory of those before it, as streaming does, for ever
    number = alive.answer()["prefix"]
    assert number != doomed_number
    first = alive.epoch()
    doomed.kill()
    assert segments(doomed_number)
    started = Reader(arguments)
    # Python's resource tracker may still be about to unlink these, by name.
    assert started.answer()["prefix"] not in (doomed_number, number)
    assert segments(number)
    assert started.epoch() == first
    second = alive.epoch()
    assert started.epoch() == second != first
    alive.kill()
    started.kill()


@pytest.mark.slow
def test_the_global_batches_do_not_depend_on_the_number_of_ranks(
    run: RunConfig, tmp_path: Path
) -> None:
    run.training.global_batch_size = 4
    whole = epoch(make_loader(prepare(run), run, "run"))
    arguments = [*write_script(run, tmp_path), str(tmp_path)]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    subprocess.run([*torchrun, *arguments], check=True)
    ranks = [json.loads((tmp_path / str(rank)).read_text()) for rank in range(2)]
    for batch, *shares in zip(whole, *ranks, strict=True):
        assert sorted(batch) == sorted(tuple(row) for share in shares for row in share)


def test_with_loss_on_the_prompt_all_but_the_first_token_of_an_example_is_learnt() -> None:
    segments = np.array([1, 1, 1, 2, 2, 0])
    row = {
        "input_ids": np.array([7, 8, 9, 4, 5, 0]),
        "loss_mask": np.array([0, 0, 1, 0, 1, 0]),
        "segment_ids": segments,
    }
    assert collate([row])["labels"].tolist() == [[-100, -100, 9, -100, 5, -100]]
    for across in (False, True):
        batch = collate([row], attend_across=across, loss_on_prompt=True)
        assert batch["labels"].tolist() == [[-100, 8, 9, -100, 5, -100]]
