"""lm-eval's language model: likelihoods by its own code, greedy answers by lvf's sampler."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import (
    handle_stop_sequences,
    normalize_gen_kwargs,
    postprocess_generated_text,
)
from tqdm import tqdm

from lvf.evals.completion import Completion, Request, Sampling
from lvf.evals.generate import generate
from lvf.models.special_tokens import end_ids

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

GREEDY_OPTIONS = {"do_sample", "temperature"}
"""Options of a request that is greedy decoding and no more, beside its stop strings and limit."""
OF_NO_EFFECT = {
    *("bos_token_id", "eos_token_id", "pad_token_id", "max_length", "use_cache"),
    *("do_sample", "temperature", "top_k", "top_p", "min_p", "typical_p"),
    *("output_attentions", "output_hidden_states", "output_scores", "return_dict_in_generate"),
    *("transformers_version", "_from_model_config"),
}
"""Settings in a model's `generation_config` that do not change greedy decoding."""


class CountingLM(HFLM):
    """lm-eval's own model, with scores and answers as it has them.

    `num_tokens` says how long each continuation is, `num_cut` counts the prompts that are cut from
    the left, since they do not fit, `num_generated` the answers, `num_ended` those that the model
    ended itself.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch_size: int
    ) -> None:
        super().__init__(
            pretrained=model,  # type: ignore[arg-type]
            tokenizer=tokenizer,  # type: ignore[arg-type]
            batch_size=batch_size,
            trust_remote_code=False,  # both are loaded already
            softmax_dtype="float32",  # in bf16, scores of whole answers are multiples of 0.5
        )
        self.num_tokens: dict[tuple[str, str], int] = {}
        self.num_cut = self.num_generated = self.num_ended = 0
        self.ends = end_ids(model, tokenizer)
        settings: Any = model.generation_config
        # lm-eval cuts at stop strings only; `generate` must end each answer itself.
        settings.eos_token_id = sorted(self.ends)
        self.decodes_plainly = settings.to_diff_dict().keys() <= OF_NO_EFFECT

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Answer each request: a prompt and options, `until` and `max_gen_toks` among them.

        What is not plain greedy decoding is left to transformers' `generate`. Its answers depend on
        the rest of a batch where stop strings overlap or are special tokens; those here are as in a
        batch of a single request.
        """
        decode: Any = self.tok_decode
        eos = decode(self.eot_token_id, skip_special_tokens=False)
        alike: dict[tuple[tuple[str, ...], int], list[int]] = defaultdict(list)
        others = []
        for place, request in enumerate(requests):
            options: Any = normalize_gen_kwargs(request.args[1], self.max_gen_toks)
            stops = handle_stop_sequences(options.pop("until"), eos)
            limit = options.pop("max_gen_toks")
            greedy = not options["do_sample"] and options.keys() <= GREEDY_OPTIONS
            if greedy and self.decodes_plainly and all(stops) and limit < self.max_length:
                alike[tuple(stops), limit].append(place)
            else:
                others.append(place)
        answers: dict[int, str] = {}
        for (stops, limit), places in alike.items():
            prompts = [requests[place].args[0] for place in places]
            texts = self._greedy_answers(prompts, stops, limit, disable_tqdm)
            answers.update(zip(places, texts, strict=True))
        if others:
            texts = super().generate_until([requests[place] for place in others], disable_tqdm)
            answers.update(zip(others, texts, strict=True))
        return [answers[place] for place in range(len(requests))]

    def _greedy_answers(
        self, prompts: Sequence[str], stops: Sequence[str], limit: int, disable_tqdm: bool
    ) -> list[str]:
        """Answers of at most `limit` tokens, in the order of the prompts."""
        tokenizer: Any = self.tokenizer
        longest = self.max_length - limit
        ids = {}
        for place, prompt in enumerate(prompts):
            whole = self.tok_batch_encode([prompt])[0][0].tolist()
            self.num_cut += len(whole) > longest
            ids[str(place)] = whole[-longest:]
        request = Request(
            model=self.model,
            tokenizer=tokenizer,
            prompts=ids,
            wanted=[(name, 0) for name in sorted(ids, key=lambda name: -len(ids[name]))],
            sampling=Sampling(
                temperature=0.0,
                top_p=1.0,
                max_length_tokens=self.max_length,
                max_new_tokens=limit,
                stop_strings=stops,
                decode_behind_prompt=False,
            ),
            batch_rows=self.batch_size,
        )
        answers = {}
        for (name, _), completion in tqdm(
            generate(request), "Answering", len(prompts), disable=disable_tqdm
        ):
            answers[name] = self._answer(completion, stops)
        return [answers[name] for name in ids]

    def _answer(self, completion: Completion, stops: Sequence[str]) -> str:
        self.num_generated += 1
        self.num_ended += completion.ended_by_eos
        decode: Any = self.tok_decode
        return postprocess_generated_text(decode(completion.tokens), list(stops), None)

    def _loglikelihood_tokens(self, requests: Any, *args: Any, **kwargs: Any) -> Any:
        for request, context, continuation in requests:
            self.num_tokens[request] = len(continuation)
            self.num_cut += len(context) + len(continuation) > self.max_length + 1
        return super()._loglikelihood_tokens(requests, *args, **kwargs)

    def tok_batch_encode(self, strings: Any, *args: Any, **kwargs: Any) -> Any:
        """Token ids and mask of some prompts; those that are cut are counted."""
        longest = kwargs.get("left_truncate_len")
        if longest:
            self.num_cut += sum(len(self.tok_encode(one)) > longest for one in strings)
        return super().tok_batch_encode(strings, *args, **kwargs)

    def _model_generate(self, context: Any, *args: Any, **kwargs: Any) -> Any:
        rows = super()._model_generate(context, *args, **kwargs)
        stops = kwargs.get("stop") or ()
        for new in rows[:, context.shape[1] :].tolist():
            end = next((place for place, token in enumerate(new) if token in self.ends), None)
            text = self.tok_decode(new[:end])
            self.num_generated += 1
            self.num_ended += end is not None and not any(stop in text for stop in stops)
        return rows
