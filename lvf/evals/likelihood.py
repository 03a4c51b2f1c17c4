"""Measure how probable a model finds given responses: token-level negative log-likelihood."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from lvf.results.records import Metric

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

IGNORED = -100  # cross-entropy's label for what is not scored


def nll(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Iterable[tuple[str, str]],
    seq_len: int,
    batch_size: int,
) -> dict[str, Metric]:
    """Negative log-likelihood in nats of responses given their prompts, tokenised as in training.

    Scored are the tokens of the response and the end-of-text token, each once; a document's very
    first token is never predicted. A document of more than `seq_len` tokens is cut into windows of
    `seq_len` inputs, and the context starts anew in each.

    Returns:
        `nll_per_token`: all nats over all tokens, the standard error that of a ratio of sums over
        documents (Cochran, Sampling Techniques, 1977, section 6.4), items the documents' means.
        `tokens`: scored tokens, items those of each document.
    """
    import torch

    from lvf.data.prompts import encode_examples

    assert isinstance(tokenizer.eos_token_id, int)
    encoded = encode_examples(tokenizer, list(pairs), tokenizer.eos_token_id)
    windows = [
        (document, *window)
        for document, (ids, in_loss) in enumerate(encoded)
        for window in _windows(ids, in_loss, seq_len)
    ]
    windows.sort(key=lambda window: -len(window[1]))  # longest first: too much fails at once
    nats, tokens = np.zeros(len(encoded)), np.zeros(len(encoded), dtype=np.int64)
    with torch.inference_mode():
        for start in tqdm(range(0, len(windows), batch_size), desc="Scoring text", unit="batch"):
            batch = windows[start : start + batch_size]
            losses, counts = _score(model, [window[1:] for window in batch])
            documents = [window[0] for window in batch]
            np.add.at(nats, documents, losses)
            np.add.at(tokens, documents, counts)
    return ratio_metrics(nats, tokens)


def ratio_metrics(nats: np.ndarray, tokens: np.ndarray) -> dict[str, Metric]:
    """Metrics of per-document sums of nats and numbers of tokens, both [num_documents]."""
    n, total = len(tokens), int(tokens.sum())
    ratio = nats.sum() / total
    residuals = nats - ratio * tokens
    stderr = math.sqrt(n / (n - 1) * (residuals**2).sum()) / total if n > 1 else None
    means = (nats / tokens).tolist()
    return {
        "nll_per_token": Metric(value=float(ratio), stderr=stderr, n=n, items=means),
        "tokens": Metric(value=total, n=n, items=[float(count) for count in tokens]),
    }


def _windows(
    ids: np.ndarray, in_loss: np.ndarray, seq_len: int
) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    """Cut a document into (inputs, labels) of up to seq_len tokens, each predicted once."""
    labels = np.where(in_loss, ids, IGNORED)[1:]
    for start in range(0, len(labels), seq_len):
        window = slice(start, start + seq_len)
        if (labels[window] != IGNORED).any():
            yield ids[:-1][window], labels[window]


def _score(
    model: PreTrainedModel, rows: list[tuple[np.ndarray, np.ndarray]]
) -> tuple[np.ndarray, np.ndarray]:
    """Nats and scored tokens of each row, both [num_rows]."""
    import torch
    from torch.nn.functional import cross_entropy

    shape = (len(rows), max(len(ids) for ids, _ in rows))
    inputs = torch.zeros(shape, dtype=torch.long)
    labels = torch.full(shape, IGNORED)
    attended = torch.zeros(shape, dtype=torch.long)
    for row, (ids, wanted) in enumerate(rows):
        inputs[row, : len(ids)] = torch.from_numpy(ids)
        labels[row, : len(ids)] = torch.from_numpy(wanted)
        attended[row, : len(ids)] = 1
    inputs, labels, attended = (part.to(model.device) for part in (inputs, labels, attended))
    logits = model(input_ids=inputs, attention_mask=attended, use_cache=False).logits
    scored = labels != IGNORED
    losses = torch.zeros(shape, dtype=torch.float64, device=labels.device)
    losses[scored] = cross_entropy(
        logits[scored].float(), labels[scored], reduction="none"
    ).double()
    return losses.sum(1).cpu().numpy(), scored.sum(1).cpu().numpy()
