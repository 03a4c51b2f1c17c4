"""Two tasks one after the other: the second run starts from the weights of the first's export."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from lvf.config.compose import compose, first_of
from lvf.config.schema import RunConfig
from lvf.embedded.corpora import base_dir
from lvf.errors import UserError
from lvf.models.load import load_export
from lvf.runs.checkpoints import newest_complete, state_file
from lvf.runs.run_folder import RunFolder, run_folder
from lvf.runs.run_id import run_id
from lvf.train import run
from lvf.training.build_model import make_model
from tests.training.conftest import trained

FIRST = ("sequence.first.duration=1", "+sequence.first.data.max_documents=64")
SCALE = 2.0  # alpha / rank of method=lora
Tensors = dict[str, torch.Tensor]


@pytest.fixture
def composed(tmp_path: Path, shards: Path) -> Callable[..., RunConfig]:
    def make(*overrides: str) -> RunConfig:
        places = (f"paths.runs={tmp_path}/runs", f"paths.shards={shards}")
        few = ("data.max_documents=48", "duration=1", *FIRST)
        return compose("+experiment=sequence", *few, *places, *overrides)

    return make


def first_trained(cfg: RunConfig) -> RunFolder:
    first = first_of(cfg)
    assert first is not None
    return trained(first)


def adapter(folder: RunFolder) -> Tensors:
    return load_file(folder.finished_exports()[-1] / "adapter_model.safetensors")


def base() -> Tensors:
    return AutoModelForCausalLM.from_pretrained(base_dir(), dtype=torch.float32).state_dict()


def update(weights: Tensors, name: str) -> torch.Tensor:
    """s B A of one matrix, in fp64."""
    key = f"base_model.model.{name.removesuffix('.weight')}"
    a, b = (weights[f"{key}.lora_{side}.weight"].double() for side in "AB")
    return SCALE * b @ a


def of_adapter(model: Any) -> Tensors:
    """A and B of a model in training, under the names of an export."""
    return {
        name.replace(".default", ""): tensor
        for name, tensor in model.model.state_dict().items()
        if "lora_" in name
    }


def below_adapter(model: Any) -> Tensors:
    """The frozen matrices of a model in training, under the base's names."""
    return {
        name.removeprefix("base_model.model.").replace(".base_layer", ""): tensor
        for name, tensor in model.model.state_dict().items()
        if ".base_layer" in name
    }


def test_the_first_run_is_the_run_of_its_own_command(composed: Any, tmp_path: Path) -> None:
    words = ("method=lora", "method.rank=2", "seed=3")
    places = (f"paths.runs={tmp_path}/runs", f"paths.shards={tmp_path}/shards")
    own = compose("+experiment=math_ift", "duration=1", "data.max_documents=64", *places, *words)
    first = first_of(composed(*words))
    assert first is not None and run_id(first) == run_id(own)
    assert first.training.lr_peak == own.training.lr_peak == 8e-3  # the recipe's for r = 2


def test_each_first_run_and_treatment_of_its_adapter_is_another_run(composed: Any) -> None:
    alone = compose("domain=code", "duration=1", "data.max_documents=48")
    others = [
        composed("method=lora"),
        composed("method=lora", "sequence.keep_adapter=true"),
        composed("method=lora", "sequence.first.duration=2"),
    ]
    assert len({run_id(cfg) for cfg in (alone, *others)}) == 4
    moved = composed("method=lora", "runtime.num_workers=1", "logger=none")
    assert run_id(moved) == run_id(others[0])


def test_full_finetuning_starts_from_the_first_runs_weights(composed: Any) -> None:
    cfg = composed("method=full")
    first = first_trained(cfg)
    expected = AutoModelForCausalLM.from_pretrained(first.finished_exports()[-1]).state_dict()
    found = make_model(cfg).model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert any(not torch.equal(found[name], tensor) for name, tensor in base().items())
    second = trained(cfg)
    start = second.status()["started_from"]
    assert start == f"fresh from {first.finished_exports()[-1]}"


@pytest.mark.slow
def test_lora_starts_with_an_empty_adapter_on_the_base_and_the_first_adapter(
    composed: Any,
) -> None:
    cfg = composed("method=lora")
    earlier = adapter(first_trained(cfg))
    model = make_model(cfg)
    assert not any(t.any() for name, t in of_adapter(model).items() if "lora_B" in name)
    before, found = base(), below_adapter(model)
    assert len(found) == 7 * 4  # maps of four layers
    for name, tensor in found.items():
        dense = before[name].double() + update(earlier, name)
        assert (tensor - dense).abs().max() < 1e-6 < (tensor - before[name]).abs().max()


@pytest.mark.slow
def test_the_export_of_lora_after_lora_holds_both_updates_of_the_base(composed: Any) -> None:
    cfg = composed("method=lora")
    earlier = adapter(first_trained(cfg))
    second = trained(cfg)
    checkpoint = newest_complete(second.checkpoints)
    assert checkpoint is not None
    state = torch.load(state_file(checkpoint), weights_only=False)["state"]["model"]
    own = {name.removeprefix("model.").replace(".default", ""): t for name, t in state.items()}
    loaded, _ = load_export(second.finished_exports()[-1], cfg.model)
    before, found = base(), loaded.state_dict()
    assert found.keys() == before.keys()
    assert sum("lora_A" in name for name in own) == 7 * 4
    for name, tensor in before.items():
        dense = tensor.double()
        if "proj" in name:
            dense = dense + update(earlier, name) + update(own, name)
            assert update(own, name).abs().max() > 1e-4
        assert (found[name] - dense).abs().max() < 1e-6


@pytest.mark.slow
def test_a_kept_adapter_is_trained_further(composed: Any) -> None:
    cfg = composed("method=lora", "sequence.keep_adapter=true")
    earlier = adapter(first_trained(cfg))
    model = make_model(cfg)
    found = of_adapter(model)
    assert found.keys() == earlier.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in earlier.items())
    before = base()
    assert all(torch.equal(t, before[name]) for name, t in below_adapter(model).items())
    after = adapter(trained(cfg))
    assert after.keys() == earlier.keys()
    assert all(t.shape == earlier[name].shape for name, t in after.items())
    assert any(not torch.equal(t, earlier[name]) for name, t in after.items())


def test_a_second_run_without_its_first_is_refused_with_the_command(
    composed: Any, tmp_path: Path
) -> None:
    cfg = composed("method=full", f"paths.shards={tmp_path}/none")
    words = "domain=math regime=ift duration=1 data.max_documents=64"
    with pytest.raises(UserError, match=rf"Train it first:\n  python -m lvf.train {words}"):
        run(cfg)
    (file,) = (path for path in tmp_path.rglob("*") if path.is_file())
    assert file == run_folder(cfg).path / "refused.json"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("method=full", "sequence.keep_adapter=true"), "has no adapter to train further"),
        (("method=pissa", "sequence.keep_adapter=true"), "has no adapter to train further"),
        (("method=dora",), r"not with method\.dora"),
        (("method=vera",), r"not with method\.adapter"),
        (("sequence.first.domain=art",), "(?s)sequence.first=.*'art'.*chat\n\tcode\n\tmath"),
        (("+sequence.first.sequence.first.domain=chat",), "Could not override"),
    ],
)
def test_a_sequence_that_cannot_be_is_refused(
    composed: Any, words: tuple[str, ...], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        composed(*words)


def test_an_adapter_cannot_be_kept_without_a_first_run() -> None:
    with pytest.raises(UserError, match="needs a run that trained"):
        compose("method=lora", "sequence.keep_adapter=true")
