"""Every token lands in the rows exactly once, in order, and nothing is cut in silence."""

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest

from lvf.data.corpus_stats import ALL_PROMPT, TOO_LONG, CorpusStats, percentile
from lvf.data.held_out import take_held_out
from lvf.data.packing import Example, Row, chunk_stream, fit, pack_by_ratio, pack_examples
from lvf.data.sources import PART_ROWS

SEQ_LEN = 32


def random_examples(num: int, longest: int, seed: int = 0) -> list[Example]:
    """Examples whose every token is unique, so that each can be found again."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, longest + 1, num)
    starts = np.cumsum(lengths) - lengths + 1
    examples = []
    for start, length in zip(starts, lengths, strict=True):
        mask = np.arange(length) >= rng.integers(1, length)
        examples.append((np.arange(start, start + length), mask))
    return examples


def segments(row: Row) -> list[tuple[list[int], list[bool]]]:
    """Tokens and mask of each segment; fails unless segments are contiguous and padding last."""
    changes = np.flatnonzero(np.diff(row.segment_ids)) + 1
    numbers = [int(part[0]) for part in np.split(row.segment_ids, changes)]
    padded = numbers[-1] == 0
    assert numbers == [*range(1, row.num_segments + 1), *([0] if padded else [])]
    parts = zip(np.split(row.input_ids, changes), np.split(row.loss_mask, changes), strict=True)
    found = [(ids.tolist(), mask.tolist()) for ids, mask in parts]
    if padded:
        ids, mask = found.pop()
        assert not any(mask) and not any(ids)
    return found


@pytest.mark.parametrize("seed", range(5))
def test_each_example_stands_in_the_rows_once_whole_and_in_order(seed: int) -> None:
    examples = random_examples(400, SEQ_LEN, seed)
    rows = list(pack_examples(examples, SEQ_LEN))
    found = sorted(segment for row in rows for segment in segments(row))
    assert found == [(ids.tolist(), mask.tolist()) for ids, mask in examples]
    assert sum(row.num_tokens for row in rows) == sum(len(ids) for ids, _ in examples)


def test_packing_comes_close_to_the_fewest_rows_possible() -> None:
    examples = random_examples(2000, SEQ_LEN // 2)
    fewest = -(-sum(len(ids) for ids, _ in examples) // SEQ_LEN)
    assert len(list(pack_examples(examples, SEQ_LEN))) <= 1.02 * fewest


def test_packing_holds_only_a_bounded_number_of_rows_back() -> None:
    def endless() -> Iterator[Example]:
        while True:
            yield np.arange(1, 4), np.array([False, True, True])

    rows = pack_examples(endless(), 4)
    assert [next(rows).num_tokens for _ in range(1000)] == [3] * 1000


def test_what_exceeds_a_row_is_cut_and_counted_with_its_place() -> None:
    stats = CorpusStats()
    fitting = fit((np.arange(1, 41), np.arange(40) >= 10), SEQ_LEN, "file:3", stats)
    assert fitting and fitting[0].tolist() == list(range(1, SEQ_LEN + 1))
    assert (stats.documents, stats.found[TOO_LONG]) == (1, 1)
    assert (stats.truncated_tokens, stats.lengths) == (40 - SEQ_LEN, {40: 1})
    assert stats.places[TOO_LONG] == ["file:3: 40 tokens"]


def test_an_example_whose_response_does_not_fit_at_all_is_left_out_and_counted() -> None:
    stats = CorpusStats()
    assert fit((np.arange(1, 41), np.arange(40) >= SEQ_LEN), SEQ_LEN, "file:3", stats) is None
    assert (stats.documents, stats.found[ALL_PROMPT], stats.dropped_tokens) == (0, 1, 40)


@pytest.mark.parametrize("ratio", [1, 2, 3])
def test_packing_by_ratio_keeps_each_example_whole_and_the_ratio_exact(ratio: int) -> None:
    examples = random_examples(600, SEQ_LEN // 4)
    rows = list(pack_by_ratio(examples, SEQ_LEN, ratio))
    found = sorted(segment for row in rows for segment in segments(row))
    assert found == [(ids.tolist(), mask.tolist()) for ids, mask in examples]
    assert len(rows) == 600 // ratio


def test_packing_by_ratio_loses_nothing_where_as_many_do_not_fit() -> None:
    examples = random_examples(600, SEQ_LEN)
    rows = list(pack_by_ratio(examples, SEQ_LEN, 5))
    assert len(rows) > 600 // 5
    assert sum(row.num_segments for row in rows) == 600


def test_packing_by_ratio_fills_rows_as_llm_foundry_does() -> None:
    # By hand: six examples for two rows of 10, the longest first. 7 opens a row; 5 does not fit
    # and opens the second; 3 goes to the 7; 2 to the 5, 2 to the same; the last 1 as well.
    lengths = [2, 7, 1, 5, 3, 2]
    examples = [(np.full(n, n), np.ones(n, bool)) for n in lengths]
    rows = list(pack_by_ratio(examples, 10, 3, rows_at_once=2))
    assert sorted([ids[0] for ids, _ in segments(row)] for row in rows) == [[5, 2, 2, 1], [7, 3]]
    # Three short ones for two rows: the last must have a row of its own, though it would fit.
    few = [(np.full(n, n), np.ones(n, bool)) for n in (2, 3)]
    assert [row.num_tokens for row in pack_by_ratio(few, 10, 1, rows_at_once=2)] == [3, 2]


def test_magicoders_examples_at_a_ratio_of_three_give_the_193_batches_of_the_paper() -> None:
    # PAPER.md 1.5: 111,183 examples, rows of 4096, batches of 192 rows; parts of 8192 examples.
    rng = np.random.default_rng(0)
    lengths = np.minimum(rng.gamma(2.0, 656 / 2, 111_183).astype(int) + 2, 4096)
    num_rows = 0
    for start in range(0, len(lengths), PART_ROWS):
        part = ((np.zeros(n, np.uint8), np.ones(n, bool)) for n in lengths[start:][:PART_ROWS])
        num_rows += sum(1 for _ in pack_by_ratio(part, 4096, 3))
    assert num_rows // 192 == 193


@pytest.mark.parametrize("seed", range(5))
def test_running_text_comes_back_from_its_rows_token_by_token(seed: int) -> None:
    documents = [ids for ids, _ in random_examples(100, 3 * SEQ_LEN, seed)]
    documents.append(np.arange(9000, 9000 + SEQ_LEN // 2))  # so that the last row is not one token
    rows = list(chunk_stream(documents, SEQ_LEN))
    joined = np.concatenate(documents)
    assert len(joined) % SEQ_LEN != 1
    assert len(rows) == -(-len(joined) // SEQ_LEN)
    assert all(row.num_tokens == SEQ_LEN for row in rows[:-1])
    back = np.concatenate([row.input_ids[row.segment_ids > 0] for row in rows])
    assert back.tolist() == joined.tolist()


def test_running_text_predicts_every_token_that_has_a_predecessor_in_its_document_and_row() -> None:
    documents = [ids for ids, _ in random_examples(50, 3 * SEQ_LEN)]
    firsts = {int(ids[0]) for ids in documents}
    for row in chunk_stream(documents, SEQ_LEN):
        for place in range(SEQ_LEN):
            token = int(row.input_ids[place])
            predicted = token != 0 and place > 0 and token not in firsts
            assert bool(row.loss_mask[place]) == predicted


def test_a_last_row_of_one_token_is_left_out_as_nothing_can_predict_it() -> None:
    documents = [np.arange(1, SEQ_LEN + 2)]
    assert [row.num_tokens for row in chunk_stream(documents, SEQ_LEN)] == [SEQ_LEN]


def test_percentiles_are_those_of_the_sorted_lengths() -> None:
    lengths = np.random.default_rng(0).integers(1, 50, 999)
    for share in (0.5, 0.9, 1.0):
        expected = np.percentile(lengths, 100 * share, method="inverted_cdf")
        assert percentile(Counter(lengths.tolist()), share) == expected


def test_held_out_documents_fill_the_quota_and_none_of_their_prompts_stood_before() -> None:
    rng = np.random.default_rng(0)
    pairs = [(f"prompt {rng.integers(300)}", f"response {index}") for index in range(2000)]
    taken = take_held_out(pairs, ["validation", "heldout"], 10)
    assert [len(some) for some in taken.values()] == [10, 10]
    prompts = [prompt for some in taken.values() for prompt, _ in some]
    assert len(set(prompts)) == 20
    for prompt, response in (pair for some in taken.values() for pair in some):
        first = next(pair for pair in pairs if pair[0] == prompt)
        assert first == (prompt, response)


def test_held_out_documents_come_from_the_beginning_of_the_corpus_alone() -> None:
    def endless() -> Iterator[tuple[str, str]]:
        number = 0
        while True:
            yield "", f"text {number}"
            number += 1

    taken = take_held_out(endless(), ["validation", "heldout"], 3)
    assert [text for _, text in taken["validation"]] == ["text 0", "text 16", "text 32"]
    assert [text for _, text in taken["heldout"]] == ["text 8", "text 24", "text 40"]
