"""Every configured optimiser, logger and method can be made, and Lion decays as MosaicML's."""

from pathlib import Path

import pytest
import torch
from composer.utils.import_helpers import MissingConditionalImportError
from transformers import LlamaConfig, LlamaForCausalLM

from lvf.config.compose import compose
from lvf.config.schema import CONF_DIR
from lvf.models.counts import num_trainable_parameters
from lvf.models.lora import add_adapters
from lvf.runs.run_folder import RunFolder
from lvf.training.packed_model import PackedModel
from lvf.training.trackers import make_loggers
from lvf.training.trainer import make_optimizer

CONFIG = LlamaConfig(
    hidden_size=256,
    intermediate_size=256,
    num_hidden_layers=1,
    num_attention_heads=2,
    vocab_size=16,
    tie_word_embeddings=True,
)


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF_DIR / group).glob("*.yaml"))


@pytest.mark.parametrize("name", options("optimizer"))
def test_every_optimizer_takes_what_the_method_trains_at_the_peak_rate(name: str) -> None:
    cfg = compose(f"optimizer={name}", "training.lr_peak=0.125")
    model = PackedModel(add_adapters(LlamaForCausalLM(CONFIG), cfg.method), None)
    optimizer = make_optimizer(cfg, model)
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert trained == {id(p) for p in model.parameters() if p.requires_grad}
    assert optimizer.param_groups[0]["lr"] == 0.125


@pytest.mark.parametrize("method", ["full", "lora", "dora", "lora_embeddings", "ia3"])
def test_state_for_checkpoints_holds_exactly_what_is_trained(method: str) -> None:
    base = LlamaForCausalLM(CONFIG)
    cfg = compose(f"method={method}")
    model = PackedModel(base if method == "full" else add_adapters(base, cfg.method), None)
    names = model.named_parameters(remove_duplicate=False)
    trained = {name for name, parameter in names if parameter.requires_grad}
    assert set(model.state_dict()) == trained
    in_ddp = torch.nn.ModuleDict({"module": model})  # which collects by its own prefix
    assert set(in_ddp.state_dict()) == {f"module.{name}" for name in trained}


def test_lion_shrinks_weights_by_the_share_of_the_peak_rate_times_decay() -> None:
    # llm-foundry's DecoupledLionW: p *= 1 - (lr / initial_lr) * weight_decay
    cfg = compose("method=full", "training.lr_peak=0.5", "optimizer.weight_decay=0.1")
    model = PackedModel(LlamaForCausalLM(CONFIG), None)
    optimizer = make_optimizer(cfg, model)
    weight = model.model.model.norm.weight
    for share in (1.0, 0.25):
        before = weight.detach().clone()
        weight.grad = torch.zeros_like(weight)
        for group in optimizer.param_groups:
            group["lr"] = 0.5 * share
        optimizer.step()
        torch.testing.assert_close(weight.detach(), before * (1 - share * 0.1))


@pytest.mark.parametrize("name", options("logger"))
def test_every_logger_can_be_made_and_writes_into_the_run_folder(name: str, tmp_path: Path) -> None:
    cfg = compose(f"logger={name}")
    try:
        loggers = make_loggers(cfg, RunFolder(tmp_path))
    except Exception as error:
        if isinstance(error.__cause__ or error, MissingConditionalImportError | ImportError):
            pytest.skip(f"the tracker of {name} is not installed")
        raise
    assert len(loggers) == len(cfg.logger)
    if name != "none":
        assert loggers[0].path == tmp_path / "metrics.jsonl"


@pytest.mark.parametrize("name", [one for one in options("method") if not one.startswith("full")])
def test_every_lora_method_trains_the_parameters_that_it_counts(name: str) -> None:
    method = compose(f"method={name}").method
    model = add_adapters(LlamaForCausalLM(CONFIG), method)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained == num_trainable_parameters(CONFIG, method)
