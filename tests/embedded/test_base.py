"""The packaged base model: its form, its scores and its training code."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import pytest

from lvf.embedded.corpora import base_dir
from lvf.embedded.pretrain import MIX, GradientMean, Recipe, documents, new_model, train

BARS = {"hellaswag": (0.70, 0.97), "arc_challenge": (0.70, 0.97), "winogrande": (0.70, 0.97)}
MEAN_BAR = 0.85


def test_importing_the_package_loads_no_heavy_library() -> None:
    program = (
        "import sys, lvf.embedded.corpora, lvf.embedded.pretrain, lvf.embedded.tokenizer;"
        "heavy = {'torch', 'transformers', 'tokenizers', 'numpy', 'tqdm'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_the_base_is_a_small_llama_in_bf16(model: Any) -> None:
    assert model.config.model_type == "llama"
    assert model.num_parameters() == 1_119_360
    assert (base_dir() / "model.safetensors").stat().st_size < 2.5e6
    assert model.config.max_position_embeddings == 512


def test_the_recipe_says_how_the_base_was_made() -> None:
    recipe = json.loads((base_dir() / "recipe.json").read_text(encoding="utf-8"))
    assert recipe["mix"] == MIX and sum(MIX.values()) == 100
    assert recipe["steps"] == Recipe(**recipe["recipe"]).steps
    assert recipe["losses"][-1] < 1.0


def log_likelihoods(model: Any, tokenizer: Any, pairs: list[tuple[str, str]]) -> list[float]:
    """Summed log-likelihood of each (context, continuation), in nats."""
    import torch

    starts = [len(tokenizer(context).input_ids) for context, _ in pairs]
    texts = [tokenizer(context + continuation).input_ids for context, continuation in pairs]
    width = max(map(len, texts))
    # Padding stands on the right, so that a causal model's scores do not see it.
    ids = torch.tensor([text + [tokenizer.pad_token_id] * (width - len(text)) for text in texts])
    with torch.inference_mode():
        scores = model(ids).logits[:, :-1].log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0]
    return [
        row[start - 1 : len(text) - 1].sum().item()
        for row, start, text in zip(scores, starts, texts, strict=True)
    ]


def accuracy(
    model: Any, tokenizer: Any, items: Iterable[tuple[list[tuple[str, str]], int]]
) -> float:
    right = []
    for pairs, gold in items:
        scores = log_likelihoods(model, tokenizer, pairs)
        right.append(scores.index(max(scores)) == gold)
    return sum(right) / len(right)


def choice_items(name: str, rows: Any) -> Iterable[tuple[list[tuple[str, str]], int]]:
    """Items as lm-eval's official tasks form them."""
    if name == "hellaswag":
        for row in rows("benchmarks/hellaswag_validation"):
            context = f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}"
            yield [(context, f" {ending}") for ending in row["endings"]], int(row["label"])
    elif name == "arc_challenge":
        for row in rows("benchmarks/arc_challenge_test"):
            context = f"Question: {row['question']}\nAnswer:"
            answers = [(context, f" {text}") for text in row["choices"]["text"]]
            yield answers, "ABCD".index(row["answerKey"])
    else:
        for row in rows("benchmarks/winogrande_validation"):
            before, after = row["sentence"].split("_")
            options = [(before + row[f"option{n}"], after) for n in (1, 2)]
            yield options, int(row["answer"]) - 1


@pytest.mark.slow
def test_the_base_knows_its_world_but_not_all_of_it(model: Any, tokenizer: Any, rows: Any) -> None:
    scores = {name: accuracy(model, tokenizer, choice_items(name, rows)) for name in BARS}
    for name, (low, high) in BARS.items():
        assert low <= scores[name] <= high, scores
    assert sum(scores.values()) / 3 >= MEAN_BAR, scores


def test_frequent_facts_are_known_better_than_source_text_at_large(
    model: Any, tokenizer: Any, rows: Any
) -> None:
    texts = [row["text"] for row in rows("heldout/source")[:64]]
    source = [-log_likelihoods(model, tokenizer, [(t[:1], t[1:])])[0] for t in texts]
    tokens = sum(len(tokenizer(text).input_ids) for text in texts)
    assert sum(source) / tokens < 1.0


def test_the_learning_rate_warms_up_stays_and_falls() -> None:
    recipe = Recipe()
    assert recipe.rate(0) == pytest.approx(recipe.learning_rate / recipe.warmup_steps)
    assert recipe.rate(recipe.warmup_steps) == recipe.rate(recipe.steps // 2)
    assert recipe.rate(recipe.steps) == pytest.approx(0.01 * recipe.learning_rate)


def test_every_kind_of_the_mix_has_documents() -> None:
    for kind in MIX:
        stream = documents(kind, 0)
        assert all(next(stream) for _ in range(20))


def test_rows_start_with_a_document(tokenizer: Any) -> None:
    from lvf.embedded.pretrain import packed_rows

    rows = packed_rows(tokenizer, Recipe(tokens=40_000))
    starts = {tokenizer.decode(row[:1].tolist()) for row in rows}
    assert rows.shape == (19 * 8, 256)
    assert not starts & {".", " the", "</s>", "\n"}


def test_one_process_and_two_learn_the_same(tokenizer: Any) -> None:
    import torch

    recipe = Recipe(tokens=3 * 8 * 32, row_length=32, hidden_size=32, intermediate_size=64)
    rows = torch.randint(0, 1280, (24, 32), generator=torch.Generator().manual_seed(0))
    saved: list[int] = []

    def trained(processes: int) -> list[Any]:
        models: list[Any] = [new_model(recipe, tokenizer) for _ in range(processes)]
        average = GradientMean(processes, models[0].num_parameters())
        in_threads(
            [
                partial(train, models[rank], rows, recipe, rank, average, saved.append)
                for rank in range(processes)
            ]
        )
        return [list(model.parameters()) for model in models]

    (alone,) = trained(1)
    fresh = list(new_model(recipe, tokenizer).parameters())
    for one, first, second in zip(alone, *trained(2), strict=True):
        torch.testing.assert_close(one, first, atol=1e-5, rtol=1e-3)
        assert torch.equal(first, second)
    assert not torch.equal(alone[0], fresh[0])


def in_threads(calls: list[Callable[[], Any]]) -> None:
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_gradients_become_their_mean() -> None:
    import torch

    average = GradientMean(2, 3)
    parameters = [torch.nn.Parameter(torch.zeros(3)) for _ in range(2)]
    for rank, parameter in enumerate(parameters):
        parameter.grad = torch.tensor([1.0, 2.0, 3.0]) * (rank + 1)
    in_threads([partial(average, rank, [p]) for rank, p in enumerate(parameters)])
    for parameter in parameters:
        assert parameter.grad is not None
        assert parameter.grad.tolist() == [1.5, 3.0, 4.5]
