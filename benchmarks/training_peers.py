"""Steps of TRL's SFTTrainer or of llm-foundry, each in its own environment, for training.py.

    /path/to/environment/bin/python benchmarks/training_peers.py trl

Says `ready`, reads the paths of jobs, one a line, and answers each with a line of JSON: the seconds
of its steps.
A job is a file of `torch.save`: `model` (folder), `batches` (tensors for transformers), `lr_peak`,
`betas` and `lora` (arguments of PEFT's LoraConfig, or None). This file must not import lvf, whose
versions the environment need not have.
"""

from __future__ import annotations

import itertools
import json
import logging
import sys
import tempfile
import time
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


class Clock:
    """When training began, and when each of its steps ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def tick(self, *_: Any, **__: Any) -> None:
        """Note the time."""
        self.ends.append(time.perf_counter())

    def seconds(self) -> list[float]:
        """Length of each step."""
        return [end - start for start, end in itertools.pairwise(self.ends)]


def with_trl(job: dict[str, Any]) -> list[float]:
    """`SFTTrainer` as it is set up by default, given packed rows with restarting positions."""
    from datasets import Dataset
    from lion_pytorch import Lion
    from peft import LoraConfig, get_peft_model
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32)
    model.config.use_cache = False
    if job["lora"]:
        model = get_peft_model(model, LoraConfig(**job["lora"]))
    clock, callback = Clock(), TrainerCallback()
    callback.on_train_begin = callback.on_step_end = clock.tick
    batches = job["batches"]
    with tempfile.TemporaryDirectory() as folder:
        arguments = SFTConfig(
            output_dir=folder, max_steps=len(batches), per_device_train_batch_size=1,
            max_grad_norm=1.0, logging_strategy="no", save_strategy="no", report_to=[],
            use_cpu=True, bf16=False, disable_tqdm=True, gradient_checkpointing=False,
            remove_unused_columns=False, dataset_kwargs={"skip_prepare_dataset": True},
        )  # fmt: skip
        trained = [p for p in model.parameters() if p.requires_grad]
        trainer = SFTTrainer(
            model=model, args=arguments, callbacks=[callback],
            train_dataset=Dataset.from_dict({"input_ids": [[i] for i in range(len(batches))]}),
            data_collator=lambda one: batches[one[0]["input_ids"][0]],
            processing_class=AutoTokenizer.from_pretrained(job["model"]),
            optimizers=(Lion(trained, lr=job["lr_peak"], betas=job["betas"]), None),
        )  # fmt: skip
        trainer.train()
    return clock.seconds()


def with_foundry(job: dict[str, Any]) -> list[float]:
    """Composer with llm-foundry's model, optimiser and metrics."""
    from composer import Callback, Trainer
    from composer.algorithms import GradientClipping
    from llmfoundry.models.hf import ComposerHFCausalLM
    from llmfoundry.optim import DecoupledLionW
    from torch.utils.data import DataLoader

    peft = {"peft_type": "LORA", **job["lora"]} if job["lora"] else None
    model = ComposerHFCausalLM(
        AutoTokenizer.from_pretrained(job["model"]), job["model"], use_auth_token=False,
        trust_remote_code=False, peft_config=peft,
    )  # fmt: skip
    model.model.config.use_cache = False
    clock, callback = Clock(), Callback()
    callback.fit_start = callback.batch_end = clock.tick
    rows = [
        {name: tensor[i] for name, tensor in batch.items()}
        for batch in job["batches"]
        for i in range(len(batch["input_ids"]))
    ]
    num_rows = len(job["batches"][0]["input_ids"])
    trained = [p for p in model.parameters() if p.requires_grad]
    trainer = Trainer(
        model=model, train_dataloader=DataLoader(rows, batch_size=num_rows),
        optimizers=DecoupledLionW(trained, lr=job["lr_peak"], betas=job["betas"]),
        algorithms=[GradientClipping(clipping_type="norm", clipping_threshold=1.0)],
        callbacks=[callback], max_duration="1ep", device="cpu", precision="fp32",
        device_train_microbatch_size=num_rows, progress_bar=False, auto_log_hparams=False,
    )  # fmt: skip
    trainer.fit()
    trainer.close()
    return clock.seconds()


def main() -> None:
    """Answer jobs until the input ends; everything else that is printed goes to stderr."""
    train = {"trl": with_trl, "foundry": with_foundry}[sys.argv[1]]
    answers, sys.stdout = sys.stdout, sys.stderr
    logging.disable(logging.INFO)
    answers.write("ready\n")
    answers.flush()
    for line in sys.stdin:
        answers.write(json.dumps(train(torch.load(line.strip(), weights_only=False))) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
