"""LoRA or full finetuning: learning, forgetting and cost, measured."""

__version__ = "0.1.0"
