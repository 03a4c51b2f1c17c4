"""How probable a model finds given text, and how far its predictions are from its base's."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from lvf.records.schema import Metric

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    Score = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], list[torch.Tensor]]

Pair = tuple[str, str]
"""Prompt and response."""


def nll(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Iterable[Pair],
    seq_len: int,
    batch_size: int,
    with_end: bool = True,
) -> dict[str, Metric]:
    """Negative log-likelihood of responses given their prompts, tokenised as in training.

    Scored are the tokens of the response and, `with_end`, the end-of-text token, each once; a
    document's very first token is never predicted. A document of more than `seq_len` tokens is cut
    into windows of `seq_len` inputs, and the context starts anew in each.

    Returns:
        `nll_per_token`: all nats over all tokens, the standard error that of a ratio of sums over
        documents (Cochran, Sampling Techniques, 1977, section 6.4), items the documents' means.
        `tokens`: scored tokens, items those of each document. `bits_per_byte`: all nats over
        ln 2 and all UTF-8 bytes of the responses, which compares models of different tokenizers.
    """
    from torch.nn.functional import cross_entropy

    def score(
        inputs: torch.Tensor, attended: torch.Tensor, targets: torch.Tensor
    ) -> list[torch.Tensor]:
        logits = model(input_ids=inputs, attention_mask=attended, use_cache=False).logits
        return [
            cross_entropy(row.float(), wanted, reduction="none")
            for row, wanted in zip(logits, targets, strict=True)
        ]

    pairs = list(pairs)
    documents = _by_document(model, tokenizer, pairs, seq_len, batch_size, score, with_end)
    nats = np.array([values[kept].sum() for values, kept in documents])
    num_bytes = np.array([len(response.encode()) for _, response in pairs])
    return {
        **ratio_metrics(
            "nll_per_token", "tokens", nats, np.array([kept.sum() for _, kept in documents])
        ),
        **ratio_metrics("bits_per_byte", "bytes", nats / math.log(2), num_bytes),
    }


def kl_from_base(
    model: PreTrainedModel,
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Iterable[Pair],
    seq_len: int,
    batch_size: int,
) -> dict[str, Metric]:
    """KL divergence in nats of a model's predictions from its base's, KL(base || model).

    Over the whole vocabulary, at every token of prompts and responses but the first, and at the end
    of text; windows as in `nll`. "RL's Razor" (2509.04259) finds that this, on the new task's own
    inputs, predicts forgetting.

    Args:
        model: The finetuned model.
        base: The model that it came from, on the same device.
        tokenizer: Of both.
        pairs: Documents.
        seq_len: Tokens of a window.
        batch_size: Windows at once.

    Returns:
        `kl_per_token` and `tokens`: over prompts and responses; `kl_response_per_token` and
        `response_tokens`: over the tokens that `nll` scores. Items and errors as of `nll`.
    """
    from torch.nn.functional import kl_div

    def score(
        inputs: torch.Tensor, attended: torch.Tensor, targets: torch.Tensor
    ) -> list[torch.Tensor]:
        both = [
            one(input_ids=inputs, attention_mask=attended, use_cache=False).logits
            for one in (model, base)
        ]
        rows = ((m.float().log_softmax(-1), b.float().log_softmax(-1)) for m, b in zip(*both))  # noqa: B905
        return [kl_div(m, b, reduction="none", log_target=True).sum(-1) for m, b in rows]

    documents = _by_document(model, tokenizer, pairs, seq_len, batch_size, score)
    everywhere = [(nats, np.ones_like(kept)) for nats, kept in documents]
    responses = [(nats[kept], kept) for nats, kept in documents]
    return {
        **_ratio("kl_per_token", "tokens", everywhere),
        **_ratio("kl_response_per_token", "response_tokens", responses),
    }


def cka_with_base(
    model: PreTrainedModel,
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Iterable[Pair],
    seq_len: int,
    batch_size: int,
) -> dict[str, Metric]:
    """Linear CKA of a model's last hidden states with its base's, over all input tokens.

    Of centred states X and Y, both [num_tokens, hidden], it is ||Y^T X||^2 / (||X^T X|| ||Y^T Y||)
    in Frobenius norms (Kornblith et al., ICML 2019, 1905.00414): 1 where both agree up to rotation
    and scale. Windows as in `nll`. Sums of products take 32 hidden^2 bytes.

    Args:
        model: The finetuned model.
        base: The model that it came from, on the same device.
        tokenizer: Of both.
        pairs: Documents.
        seq_len: Tokens of a window.
        batch_size: Windows at once.

    Returns:
        `cka`, n the number of tokens; it has no error and no items.
    """
    import torch

    hidden = model.config.hidden_size
    # Sums of both models' states beside each other and a one: of products, and so of themselves.
    products = torch.zeros(2 * hidden + 1, 2 * hidden + 1, dtype=torch.float64, device=model.device)

    def score(
        inputs: torch.Tensor, attended: torch.Tensor, targets: torch.Tensor
    ) -> list[torch.Tensor]:
        both = [
            one.base_model(input_ids=inputs, attention_mask=attended, use_cache=False)
            for one in (model, base)
        ]
        states = [one.last_hidden_state[attended.bool()].double() for one in both]
        rows = torch.cat([*states, torch.ones_like(states[0][:, :1])], dim=1)
        products.addmm_(rows.T, rows)
        return list(torch.zeros_like(inputs))

    _by_document(model, tokenizer, pairs, seq_len, batch_size, score)
    num_tokens, sums = products[-1, -1], products[-1, :-1]
    centred = products[:-1, :-1] - sums[:, None] * sums / num_tokens
    x, y = slice(0, hidden), slice(hidden, None)
    norms = [torch.linalg.norm(centred[part]) for part in ((y, x), (x, x), (y, y))]
    value = float(norms[0] ** 2 / (norms[1] * norms[2]))
    return {"cka": Metric(value=value, n=int(num_tokens))}


def _by_document(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Iterable[Pair],
    seq_len: int,
    batch_size: int,
    score: Score,
    with_end: bool = True,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of each document, the score and whether it is of the response, both [num_tokens - 1].

    `score` maps (inputs, attended, targets), each [num_rows, width], to one [width] a row.
    """
    import torch

    from lvf.data.prompts import encode_examples

    assert isinstance(tokenizer.eos_token_id, int)
    encoded = encode_examples(tokenizer, list(pairs), tokenizer.eos_token_id)
    if not with_end:
        encoded = [(ids[:-1], kept[:-1]) for ids, kept in encoded]
    scores = [np.zeros(len(ids) - 1) for ids, _ in encoded]
    windows = [
        (document, slice(start, min(start + seq_len, len(ids) - 1)))
        for document, (ids, _) in enumerate(encoded)
        for start in range(0, len(ids) - 1, seq_len)
    ]
    windows.sort(key=lambda window: window[1].start - window[1].stop)  # longest first: too much
    with torch.inference_mode():  # fails at once
        starts = range(0, len(windows), batch_size)
        for start in tqdm(starts, desc="Scoring text", unit="batch", disable=False):
            batch = windows[start : start + batch_size]
            rows = [(encoded[doc][0][:-1][span], encoded[doc][0][1:][span]) for doc, span in batch]
            values = score(*(part.to(model.device) for part in _padded(rows)))
            for (document, span), row in zip(batch, values, strict=True):
                scores[document][span] = row[: span.stop - span.start].double().cpu().numpy()
    return [(nats, kept[1:]) for nats, (_, kept) in zip(scores, encoded, strict=True)]


def _padded(
    rows: list[tuple[np.ndarray, np.ndarray]],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Inputs, attention mask and targets of windows, each [num_rows, width]."""
    import torch

    inputs = torch.zeros(len(rows), max(len(ids) for ids, _ in rows), dtype=torch.long)
    attended, targets = torch.zeros_like(inputs), torch.zeros_like(inputs)
    for row, (ids, wanted) in enumerate(rows):
        inputs[row, : len(ids)] = torch.from_numpy(ids)
        targets[row, : len(ids)] = torch.from_numpy(wanted)
        attended[row, : len(ids)] = 1
    return inputs, attended, targets


def _ratio(
    name: str, count: str, documents: list[tuple[np.ndarray, np.ndarray]]
) -> dict[str, Metric]:
    nats = np.array([values.sum() for values, _ in documents])
    return ratio_metrics(name, count, nats, np.array([kept.sum() for _, kept in documents]))


def ratio_metrics(name: str, count: str, nats: np.ndarray, tokens: np.ndarray) -> dict[str, Metric]:
    """Metrics of per-document sums of nats and numbers of tokens, both [num_documents]."""
    n, total = len(tokens), int(tokens.sum())
    ratio = nats.sum() / total
    residuals = nats - ratio * tokens
    stderr = math.sqrt(n / (n - 1) * (residuals**2).sum()) / total if n > 1 else None
    means = (nats / tokens).tolist()
    return {
        name: Metric(value=float(ratio), stderr=stderr, n=n, items=means),
        count: Metric(value=total, n=n, items=[float(one) for one in tokens]),
    }
