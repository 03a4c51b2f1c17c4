"""Relatives of LoRA: what each trains, at which rate, and that plain PEFT loads what it exports."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from peft.optimizers import create_loraplus_optimizer
from transformers import LlamaConfig, LlamaForCausalLM

from lvf.config.compose import compose
from lvf.config.schema import MethodConfig
from lvf.errors import UserError
from lvf.models.counts import num_trainable_parameters
from lvf.models.load import load_base
from lvf.models.lora import add_adapters, check_rank
from lvf.models.pissa import to_plain_lora
from lvf.training.build_model import check_model, make_model
from lvf.training.parameter_groups import parameter_groups
from tests.models.architectures import document_loss, documents, loss_of, losses_around_export

CONFIG = LlamaConfig(
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    vocab_size=64,
    tie_word_embeddings=False,
)
SEVEN = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
MAPS = {"q_proj": (32, 32), "k_proj": (32, 32), "v_proj": (32, 32), "o_proj": (32, 32),
        "gate_proj": (32, 48), "up_proj": (32, 48), "down_proj": (48, 32)}  # fmt: skip
LORA = 2 * sum(4 * (d_in + d_out) for d_in, d_out in MAPS.values())  # 2 layers, rank 4
TRAINED = {
    "lora": LORA,
    "rslora": LORA,
    "pissa": LORA,
    "lora_plus": LORA,
    "dora": LORA + 2 * sum(d_out for _, d_out in MAPS.values()),  # a magnitude for each output
    "lora_embeddings": LORA + 2 * 64 * 32,  # embed_tokens and lm_head
    "lora_attention": 2 * 4 * 4 * 64,
    "lora_mlp": 2 * 3 * 4 * 80,
    "lora_v1": LORA - 2 * 4 * 80,  # without gate_proj
    "oft": 2 * sum(d_in * 7 // 2 for d_in, _ in MAPS.values()),  # 8 x 8 rotations: 28 angles each
    "vera": 2 * sum(4 + d_out for _, d_out in MAPS.values()),
    "miss": 2 * sum(4 * d_out for _, d_out in MAPS.values()),
    "shira": LORA,
    "ia3": 2 * (4 * 32 + 3 * 48),  # outputs, and the inputs of down_proj
}
SETTINGS = {
    "oft": ("method.peft.oft_block_size=8", "method.dropout=0.0"),
    "shira": ("method.rank=4",),
    "ia3": (),
}
IDS = torch.arange(24).reshape(2, 12) % 64


def method_of(name: str) -> MethodConfig:
    settings = SETTINGS.get(name, ("method.rank=4", "method.dropout=0.0"))
    return compose(f"method={name}", *settings).method


def base() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(CONFIG)


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(IDS).logits


@pytest.mark.parametrize("name", TRAINED)
def test_a_method_trains_what_it_names_and_plain_peft_loads_its_export(
    name: str, tmp_path: Path
) -> None:
    method = method_of(name)
    model = add_adapters(base(), method)
    torch.testing.assert_close(logits(model), logits(base()), rtol=1e-4, atol=1e-5)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained == TRAINED[name] == num_trainable_parameters(CONFIG, method)
    rate = 5.0 if name in SETTINGS else 0.5  # these change less by a step
    optimizer = torch.optim.SGD(parameter_groups(model, method, rate))
    for _ in range(2):  # A has no gradient before B has left zero
        before = [p.detach().clone() for p in model.parameters() if p.requires_grad]
        optimizer.zero_grad()
        model.train()(IDS, labels=IDS).loss.backward()
        optimizer.step()
    after = [p for p in model.parameters() if p.requires_grad]
    assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)
    for _ in range(2):  # a run may export more than once
        model.save_pretrained(str(tmp_path))
        to_plain_lora(model, tmp_path)
        loaded = PeftModel.from_pretrained(base(), str(tmp_path))
        torch.testing.assert_close(logits(loaded), logits(model), rtol=1e-4, atol=1e-5)
    merged = loaded.merge_and_unload()
    torch.testing.assert_close(logits(merged), logits(model), rtol=1e-4, atol=1e-5)
    assert (logits(model) - logits(base())).abs().max() > 1e-3  # it has learnt something


@pytest.mark.parametrize("name", ["oft", "vera", "miss", "shira", "ia3"])
def test_the_measured_model_is_the_trained_one_and_a_new_adapter_is_the_base(
    name: str, tmp_path: Path
) -> None:
    cfg = compose("+experiment=math_ift", f"method={name}", "training.precision=fp32")
    check_model(cfg)
    model = make_model(cfg)
    plain = document_loss(load_base(cfg.model), documents(seed=2))
    assert float(loss_of(model, documents(seed=2), train=False)) == pytest.approx(plain, rel=1e-5)
    trained, measured = losses_around_export(model, cfg, tmp_path / "export")
    assert measured == pytest.approx(trained, rel=2e-6)
    assert measured != pytest.approx(plain, rel=5e-5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["method=oft", "method.peft.oft_block_size=10"], "does not divide"),
        (["method=shira", "method.rank=60"], "more numbers of"),
        (["method=vera", "method.peft={init_weights:false}"], "is not supported"),
        (["method=miss", "method.peft={miss_dropout:0.1}"], "set method.dropout instead"),
        (["method=ia3", "+method.peft.feedforward=2"], "PEFT does not take it"),
    ],
)
def test_what_other_adapters_cannot_have_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_rank(CONFIG, compose(*words).method)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["method=vera", "method.dora=true"], "takes no method.dora"),
        (["method=ia3", "method.rank=4"], "takes no method.rank"),
        (["method=miss", "method.rank=null"], "needs method.rank"),
        (["method=oft", "method.peft.oft_block_size=null"], "needs method.peft.oft_block_size"),
        (["method=oft", "runtime.fsdp_base=true"], "runtime.fsdp_base=true goes with LoRA"),
        (["method=lora", "method.adapter=lora_fa"], "is not one of lora, oft"),
    ],
)
def test_settings_of_lora_alone_are_refused_when_composed(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        compose(*words)


def test_pissa_starts_with_the_largest_singular_values_of_each_map() -> None:
    model = add_adapters(base(), method_of("pissa"))
    weight = base().model.layers[1].mlp.up_proj.weight.detach()
    left, values, right = torch.linalg.svd(weight)
    expected = left[:, :4] @ torch.diag(values[:4]) @ right[:4]
    layer = model.base_model.model.model.layers[1].mlp.up_proj
    product = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    torch.testing.assert_close(product.detach(), expected, rtol=1e-4, atol=1e-5)


def test_the_scale_of_rslora_is_alpha_over_the_root_of_the_rank() -> None:
    layer = add_adapters(base(), method_of("rslora")).base_model.model.model.layers[0].mlp.up_proj
    assert layer.scaling["default"] == 8 / 4**0.5
    assert compose("method=rslora", "method.rank=16").method.alpha / 16**0.5 == 2.0


def test_the_rates_of_lora_plus_are_those_of_peft() -> None:
    method = method_of("lora_plus")
    model = add_adapters(base(), method)
    theirs = create_loraplus_optimizer(model, torch.optim.SGD, lr=0.01, loraplus_lr_ratio=16)
    rates = {id(p): group["lr"] for group in theirs.param_groups for p in group["params"]}
    for group in parameter_groups(model, method, 0.01):
        assert all(rates.pop(id(p)) == pytest.approx(group["lr"]) for p in group["params"])
    assert not rates


def test_embeddings_learn_at_a_tenth_of_the_rate_and_the_rest_at_the_rate() -> None:
    method = method_of("lora_embeddings")
    model = add_adapters(base(), method)
    names = {id(p): name for name, p in model.named_parameters()}
    for group in parameter_groups(model, method, 0.01):
        slow = group["lr"] == pytest.approx(0.001)
        assert slow or group["lr"] == 0.01
        assert all(("modules_to_save" in names[id(p)]) == slow for p in group["params"])


def test_full_finetuning_has_one_group_of_everything() -> None:
    (group,) = parameter_groups(base(), compose("method=full").method, 0.01)
    assert group["lr"] == 0.01 and len(group["params"]) == len(list(base().parameters()))


def test_tied_embeddings_and_unknown_modules_are_refused_before_training() -> None:
    tied = LlamaConfig(**{**CONFIG.to_dict(), "tie_word_embeddings": True})
    with pytest.raises(UserError, match="one matrix"):
        check_rank(tied, method_of("lora_embeddings"))
    unknown = compose("method=lora_embeddings", "method.modules_to_save=[wte]").method
    with pytest.raises(UserError, match="no module wte"):
        check_rank(CONFIG, unknown)


TIED = LlamaConfig(**CONFIG.to_dict() | {"tie_word_embeddings": True})


def test_a_target_that_is_one_matrix_with_the_embedding_is_refused() -> None:
    for name in ("lora", "dora", "rslora", "pissa", "lora_plus"):
        method = method_of(name)
        method.target_modules = ["q_proj", "lm_head"]
        check_rank(CONFIG, method)
        with pytest.raises(UserError, match="lm_head, which in this model is one matrix with"):
            check_rank(TIED, method)


@pytest.mark.parametrize("config", [CONFIG, TIED])
def test_all_linear_is_every_map_but_the_output_layer(config: LlamaConfig) -> None:
    method = compose("method=lora", "method.rank=4", "method.target_modules=all-linear").method
    check_rank(config, method)
    model = add_adapters(LlamaForCausalLM(config), method)
    adapted = {name.split(".")[-4] for name, _ in model.named_parameters() if "lora_A" in name}
    assert adapted == set(SEVEN)
    assert num_trainable_parameters(config, method) == LORA


PEFT_OPTIONS = {
    "{layers_to_transform: [1]}": LORA // 2,
    "{rank_pattern: {q_proj: 2}}": LORA - 2 * 2 * 64,
    "{alpha_pattern: {q_proj: 32}}": LORA,
    "{exclude_modules: [q_proj]}": LORA - 2 * 4 * 64,
    "{init_lora_weights: gaussian}": LORA,
    "{lora_bias: true}": None,
}


@pytest.mark.parametrize("options", PEFT_OPTIONS)
def test_any_further_option_of_peft_gives_the_model_that_is_measured(
    options: str, tmp_path: Path
) -> None:
    method = compose(
        "method=lora", "method.rank=4", "method.dropout=0.0", f"method.peft={options}"
    ).method
    config = LlamaConfig(**CONFIG.to_dict() | {"attention_bias": True, "mlp_bias": True})
    torch.manual_seed(0)
    plain = LlamaForCausalLM(config)
    before = logits(plain)
    check_rank(config, method)
    model = add_adapters(plain, method)
    assert torch.equal(logits(model), before)
    trained = [p for p in model.parameters() if p.requires_grad]
    expected = PEFT_OPTIONS[options]
    assert sum(p.numel() for p in trained) == num_trainable_parameters(config, method)
    assert expected in (None, num_trainable_parameters(config, method))
    with torch.no_grad():
        for parameter in trained:
            parameter.add_(0.1 * torch.randn_like(parameter))
    changed = logits(model)
    model.save_pretrained(tmp_path / "adapter")
    torch.manual_seed(0)
    again = PeftModel.from_pretrained(LlamaForCausalLM(config), str(tmp_path / "adapter"))
    torch.testing.assert_close(logits(again.merge_and_unload()), changed, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(changed, before, atol=1e-2)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("{r: 4}", "set method.rank instead"),
        ("{bias: all}", "would not be the trained one"),
        ("{init_lora_weights: olora}", "not one of True, gaussian"),
        ("{init_lora_weights: false}", "not one of True, gaussian"),
        ("{ranks: 4}", "PEFT does not take it.*ranks"),
    ],
)
def test_an_option_that_peft_lacks_or_that_changes_the_base_is_refused(
    options: str, words: str
) -> None:
    method = compose("method=lora", "method.rank=4", f"method.peft={options}").method
    with pytest.raises(UserError, match=words):
        check_rank(CONFIG, method)
