"""Every token lands in the rows exactly once, in order, and nothing is cut in silence."""

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest

from lvf.data.build import percentile, split_off
from lvf.data.packing import Example, Row, Tally, chunk_stream, pack_examples

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


def test_what_exceeds_a_row_is_cut_and_counted() -> None:
    long = np.arange(1, 41), np.arange(40) >= 10
    tally = Tally()
    (row,) = pack_examples([long], SEQ_LEN, tally)
    assert row.input_ids.tolist() == list(range(1, SEQ_LEN + 1))
    assert (tally.truncated_examples, tally.truncated_tokens) == (1, 40 - SEQ_LEN)
    assert tally.lengths == {40: 1}


def test_an_example_whose_response_does_not_fit_at_all_is_left_out_and_counted() -> None:
    hopeless = np.arange(1, 41), np.arange(40) >= SEQ_LEN
    tally = Tally()
    assert list(pack_examples([hopeless], SEQ_LEN, tally)) == []
    assert (tally.dropped_examples, tally.dropped_tokens) == (1, 40)


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


def test_split_off_takes_the_quota_and_never_lets_a_prompt_stand_on_both_sides() -> None:
    rng = np.random.default_rng(0)
    pairs = [(f"prompt {rng.integers(300)}", f"response {index}") for index in range(2000)]
    taken: dict[str, list[tuple[str, str]]] = {"validation": [], "heldout": []}
    counts = {"copies_of_held_out": 0}
    trained = list(split_off(pairs, taken, 10, counts))
    assert [len(some) for some in taken.values()] == [10, 10]
    prompts = [{prompt for prompt, _ in some} for some in (trained, *taken.values())]
    assert sum(map(len, prompts)) == len(set.union(*prompts))
    assert len(trained) + 20 + counts["copies_of_held_out"] == len(pairs)


def test_split_off_without_lists_trains_on_everything() -> None:
    pairs = [("same", "a")] * 5
    assert list(split_off(pairs, {}, 10, {})) == pairs
