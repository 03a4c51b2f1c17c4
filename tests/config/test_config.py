"""Every file composes, every value has its type, impossible combinations are refused."""

import re
import subprocess
import sys
from dataclasses import is_dataclass
from itertools import product
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import yaml
from hydra.errors import HydraException
from omegaconf import OmegaConf

from lvf.config.compose import compose, compose_tree, lr_of_method
from lvf.config.data_schema import DataConfig, SourceConfig
from lvf.config.schema import CONF_DIR, ModelConfig, RunConfig
from lvf.errors import UserError
from lvf.planning.docs import grid
from lvf.runs.run_id import run_id
from lvf.runs.sweep import runs_of

EXPERIMENTS = sorted(path.stem for path in (CONF_DIR / "experiment").glob("*.yaml"))
GROUPS = ("optimizer", "logger", "schedule", "packing")
SCALES = sorted(path.stem for path in (CONF_DIR / "scale").glob("*.yaml"))
METHODS = sorted(path.stem for path in (CONF_DIR / "method").glob("*.yaml"))

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
MLP = ["gate_proj", "up_proj", "down_proj"]
CONDITIONS = {
    # experiment: (domain, regime), as PAPER facts, sections 1.1 and 5, describe it
    "code_ift": ("code", "ift"),
    "math_ift": ("math", "ift"),
    "code_cpt": ("code", "cpt"),
    "math_cpt": ("math", "cpt"),
    "tulu": ("chat", "ift"),
    "regularisation": ("code", "ift"),
    "targets": ("code", "ift"),
    "lr_sensitivity": ("code", "ift"),
    "optimizers": ("code", "ift"),
    "alpha_lr": ("code", "ift"),
    "pass_at_k": ("code", "ift"),
    "throughput": ("code", "cpt"),
    "without_regret": ("math", "ift"),
    "sequence": ("code", "ift"),
}
MODELS = {"embedded": "embedded", "small": "smollm2_135m", "paper": "llama2_7b"}


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_composes_with_every_scale(experiment: str, scale: str) -> None:
    full = compose(f"+experiment={experiment}", f"scale={scale}", "method=full")
    lora = compose(f"+experiment={experiment}", f"scale={scale}", "method=lora")
    assert (full.domain.name, full.regime.name) == CONDITIONS[experiment]
    assert full.scale.name == scale and full.model.name == MODELS[scale]
    assert full.method.kind == "full" and lora.method.kind == "lora"
    assert (
        lora.method.rank == lora.scale.lora_rank and lora.method.target_modules == ATTENTION + MLP
    )
    assert lora.training.lr_peak >= full.training.lr_peak  # so in every column of the paper
    on_one_gpu = full.training.global_batch_size % (full.runtime.device_microbatch_size or 1) == 0
    assert on_one_gpu and full.training.precision == ("fp32" if scale == "embedded" else "amp_bf16")


README = (CONF_DIR.parent / "README.md").read_text()
DATA = "{name: mine, train: {path: /data/mine.txt}, text_column: text}"
METHOD_TABLE = {
    # name: (rank, alpha, targets) on the paper's scale; PAPER facts, sections 1.1, 1.7 and 5
    "full": (None, None, None),
    "lora": (256, 512, ATTENTION + MLP),
    "lora_r16": (16, 32, ATTENTION + MLP),
    "lora_r64": (64, 128, ATTENTION + MLP),
    "lora_r256": (256, 512, ATTENTION + MLP),
    "lora_alpha": (256, 32, ATTENTION + MLP),
    "lora_attention": (256, 512, ATTENTION),
    "lora_mlp": (256, 512, MLP),
    "lora_v1": (256, 32, [*ATTENTION, "up_proj", "down_proj"]),
    "lora_v1_attention": (256, 32, ATTENTION),
    "lora_v1_mlp": (256, 32, ["up_proj", "down_proj"]),
    "rslora": (256, 8, ATTENTION + MLP),
    "dora": (256, 512, ATTENTION + MLP),
    "pissa": (256, 256, ATTENTION + MLP),
    "lora_plus": (256, 512, ATTENTION + MLP),
    "lora_embeddings": (256, 512, ATTENTION + MLP),
    # not the paper's; without LoRA's alpha
    "oft": (None, None, ATTENTION + MLP),
    "vera": (256, None, ATTENTION + MLP),
    "miss": (256, None, ATTENTION + MLP),
    "shira": (256, None, ATTENTION + MLP),
    "ia3": (None, None, ATTENTION + MLP),
}


def settings_of(schema: type, prefix: str = "") -> list[str]:
    """Every setting of a dataclass, and of the dataclasses in it, by its dotted name."""
    names = []
    for name, kind in get_type_hints(schema).items():
        kinds = get_args(kind) if type(None) in get_args(kind) else [kind]
        section = [one for one in kinds if is_dataclass(one)]
        names += settings_of(section[0], f"{prefix}{name}.") if section else [f"{prefix}{name}"]
    return names


@pytest.mark.parametrize("scale", SCALES)
def test_every_setting_can_be_set_on_the_command_line_on_every_scale(scale: str) -> None:
    names = [name for name in settings_of(RunConfig) if name not in GROUPS]
    assert {"seed", "data.heldout.path", "data.source.path", "model.shape.hidden_size"} < {*names}
    tree = compose_tree("+experiment=math_ift", f"scale={scale}", *(f"{n}=???" for n in names))
    assert all(OmegaConf.select(tree, name, throw_on_missing=False) is None for name in names)


def test_an_optional_section_is_what_was_set_of_it_or_nothing() -> None:
    words = "+experiment=math_ift", "scale=small"
    assert compose(*words).data.heldout is None
    own = compose(*words, "data.heldout.path=questions.csv", "data.source.path=texts")
    assert own.data.heldout == SourceConfig(path="questions.csv")
    assert own.data.source == SourceConfig(path="texts") and own.data.validation is None
    assert (
        compose(*words, "data.heldout={path: questions.csv}").data
        == compose(*words, "data.heldout.path=questions.csv").data
    )
    assert compose("+experiment=math_ift", "data.heldout=null").data.heldout is None
    with pytest.raises(UserError, match=r"data\.heldout\.path"):
        compose(*words, "data.heldout.split=test")


@pytest.mark.parametrize("scale", SCALES)
def test_every_method_composes_with_every_scale_under_a_name_of_its_own(scale: str) -> None:
    names = {}
    for method in METHODS:
        cfg = compose("+experiment=code_ift", f"scale={scale}", f"method={method}")
        rank, alpha, targets = METHOD_TABLE[method]
        if scale == "paper":
            assert (cfg.method.rank, cfg.method.alpha, cfg.method.target_modules) == (
                rank,
                alpha,
                targets,
            )
            without_dropout = method in ("full", "shira", "ia3")
            assert cfg.method.dropout == (None if without_dropout else 0.05)
        names[method] = (cfg.method.name, run_id(cfg))
    # the paper's ranks are named, so `lora` is the same run as a named rank but for r = 8
    assert len(set(names.values())) == len(METHODS) - (scale != "embedded")
    assert sorted(METHOD_TABLE) == METHODS


@pytest.mark.parametrize("axis", ["+experiment", "method", "packing", "scale", "logger"])
def test_every_choice_in_the_table_of_the_readme_composes(axis: str) -> None:
    (row,) = re.findall(rf"^\| `{re.escape(axis)}=` \|(.*)\|$", README, re.MULTILINE)
    choices = re.findall(r"`(\w+)`", row)
    assert len(choices) > 1
    for choice in choices:
        compose(f"{axis}={choice}")


def test_plain_lora_of_a_rank_is_the_named_method_of_that_rank() -> None:
    for rank in (16, 64, 256):
        plain = compose("scale=paper", "method=lora", f"method.rank={rank}")
        assert plain == compose("scale=paper", f"method=lora_r{rank}")


def test_a_recipe_names_every_choice_of_its_run_in_one_file() -> None:
    files = sorted((CONF_DIR / "recipe").glob("*/*.yaml"))
    conditions = ("chat_ift", "code_cpt", "code_ift", "math_cpt", "math_ift")
    assert {(path.parent.name, path.stem) for path in files} == set(product(SCALES, conditions))
    for path in files:
        recipe = yaml.safe_load(path.read_text())
        chosen = [group for entry in recipe["defaults"] if entry != "_self_" for group in entry]
        assert chosen == ["/model", "/data", "/packing", "/optimizer", "/schedule", "/evals"]
        assert {"duration", "training"} <= recipe.keys()


def test_no_file_only_forwards_to_another() -> None:
    for path in CONF_DIR.rglob("*.yaml"):
        content = yaml.safe_load(path.read_text())
        only_defaults = isinstance(content, dict) and set(content) == {"defaults"}
        assert not only_defaults or path.parent.name == "experiment", path


@pytest.mark.parametrize(
    ("group", "file"), [("data", "datasets"), ("model", "models")], ids=["data", "model"]
)
def test_every_named_data_set_and_model_composes_with_every_scale(group: str, file: str) -> None:
    for name in yaml.safe_load((CONF_DIR / f"{file}.yaml").read_text()):
        for scale in SCALES:
            cfg = compose(f"{group}={name}", f"scale={scale}", "schedule=cosine")
            assert getattr(cfg, group).name == name.removesuffix("_40k")


def test_a_file_of_the_users_takes_the_place_of_the_recipes_data_and_model(tmp_path: Path) -> None:
    for group, text in (("data", DATA), ("model", "name: tiny\npath: /models/tiny\n")):
        (tmp_path / group).mkdir()
        (tmp_path / group / "mine.yaml").write_text(text)
    for scale in SCALES:
        search = f"hydra.searchpath=[file://{tmp_path}]"
        cfg = compose(search, f"scale={scale}", "data=mine", "model=mine")
        assert cfg.model == ModelConfig(name="tiny", path="/models/tiny")
        assert cfg.data == DataConfig(
            name="mine", train=SourceConfig(path="/data/mine.txt"), text_column="text"
        )


@pytest.mark.parametrize("group", GROUPS)
def test_every_option_of_every_free_group_composes(group: str) -> None:
    options = sorted(path.stem for path in (CONF_DIR / group).glob("*.yaml"))
    assert options
    for option in options:
        compose(f"{group}={option}")


# Independent of conf/: typed from the paper's App. A and README (PAPER facts, section 1.3).
PAPER_TABLE = {
    # experiment: (data, seq_len, batch, a device, rate of full, r=16, r=64, r=256, weight decay)
    "code_cpt": ("bigcode/starcoderdata", 4096, 192, 6, 1e-5, 1e-5, 1e-5, 1e-5, 1e-6),
    "math_cpt": ("open-web-math/open-web-math", 4096, 192, 6, 1e-5, 4e-5, 4e-5, 4e-5, 0.0),
    "code_ift": ("ise-uiuc/Magicoder-Evol-Instruct-110K", 4096, 192, 6, 5e-5, 2e-4, 2e-4, 1e-4, 0),
    "math_ift": ("meta-math/MetaMathQA", 1024, 768, 24, 1e-5, 1e-4, 1e-4, 5e-5, 0.0),
    "tulu": ("allenai/tulu-v2-sft-mixture", 4096, 192, 6, 5e-6, 1e-4, 1e-4, 1e-4, 0.0),
}


@pytest.mark.parametrize("experiment", PAPER_TABLE)
def test_the_paper_scale_holds_the_values_of_the_paper(experiment: str) -> None:
    data, seq_len, batch, per_device, *rates, decay = PAPER_TABLE[experiment]
    for method, rate in zip(("full", "lora_r16", "lora_r64", "lora_r256"), rates, strict=True):
        cfg = compose(f"+experiment={experiment}", "scale=paper", f"method={method}")
        assert cfg.data.train.path == data
        assert cfg.model.path == "meta-llama/Llama-2-7b-hf"
        assert (cfg.training.seq_len, cfg.training.global_batch_size) == (seq_len, batch)
        assert cfg.runtime.device_microbatch_size == per_device == batch // 32  # on its 32 GPUs
        assert cfg.training.lr_peak == pytest.approx(rate)
        assert cfg.optimizer == {
            "_target_": "lion_pytorch.Lion", "betas": [0.9, 0.95], "weight_decay": decay,
            "decoupled_weight_decay": True,
        }  # fmt: skip
        assert cfg.training.grad_clip_norm == 1.0
        assert cfg.training.precision == "amp_bf16"
        assert cfg.training.attention_dropout == 0.0 and not cfg.training.loss_on_prompt
        schedule = (cfg.schedule.kind, cfg.schedule.warmup, cfg.schedule.final_lr_ratio)
        if experiment.endswith("cpt"):
            assert schedule == ("trapezoid", 1000, 0.0) and cfg.schedule.cooldown == 0.2
            assert cfg.duration == 20e9
            assert cfg.trunk.budgets == [0.25e9, 0.5e9, 1e9, 2e9, 4e9, 8e9, 16e9]
        else:
            assert schedule == ("cosine", 0.1, 0.01)
            assert cfg.scale.epochs == [1, 2, 4, 8, 16]


def test_the_paper_measures_as_it_says() -> None:
    # PAPER facts, section 2
    code = compose("+experiment=code_ift", "scale=paper").evals
    assert (code.humaneval.samples, code.humaneval.temperature) == (50, 0.2)
    assert (code.humaneval.top_p, code.humaneval.max_length_tokens) == (0.95, 512)
    assert code.tasks[0] == "humaneval"
    math = compose("+experiment=math_cpt", "scale=paper").evals
    assert math.tasks[0] == "gsm8k" and math.lm_eval["gsm8k"].num_fewshot == 5
    assert math.forgetting == ["hellaswag", "arc_challenge", "winogrande"]
    curve = compose("+experiment=pass_at_k", "scale=paper")
    assert (curve.evals.humaneval.samples, curve.evals.humaneval.temperature) == (256, 0.8)
    assert curve.evals.tasks == ["humaneval"] and curve.duration == 4
    code_run = compose("+experiment=code_ift", "scale=paper", "duration=4")
    assert run_id(curve) == run_id(code_run)  # trained once


def test_tulu_is_one_run_of_six_epochs_measured_hot_at_two_and_four() -> None:
    cfg = compose("+experiment=tulu", "scale=paper")
    assert (cfg.duration, cfg.measure_at) == (6, [2, 4])
    assert {"mmlu", "gsm8k", "hellaswag", "arc_challenge", "winogrande"} < set(cfg.evals.tasks)
    assert "mmlu" not in compose("+experiment=tulu").evals.tasks


def test_the_sweep_over_regularisers_has_the_settings_of_figure_4() -> None:
    cells = [cell.cfg for cell in runs_of(grid("regularisation", "paper").sweep, ["scale=paper"])]
    full = [cfg for cfg in cells if cfg.method.kind == "full"]
    assert {
        (c.method.name, c.optimizer["weight_decay"], c.training.attention_dropout) for c in full
    } == {
        ("full", 0.0, 0.0),
        ("full_decay_5e-5", 5e-5, 0.0),
        ("full_decay_1e-4", 1e-4, 0.0),
        ("full_attention_dropout_5", 0.0, 0.05),
        ("full_attention_dropout_10", 0.0, 0.1),
    }
    assert {c.training.lr_peak for c in full} == {5e-5}
    assert {c.method.rank for c in cells if c.method.kind == "lora"} == {16, 256}


def test_lora_without_regret_is_its_own_recipe() -> None:
    # PAPER facts, section 7
    words = ("+experiment=without_regret", "scale=paper")
    for rank in (16, 256):
        lora = compose(*words, f"method.rank={rank}")
        assert (lora.method.alpha, lora.training.global_batch_size) == (32, 32)
        assert lora.method.target_modules == ATTENTION + MLP
        full = compose(*words, "method=full")
        assert lora.training.lr_peak == pytest.approx(10 * full.training.lr_peak)
        assert (lora.schedule.warmup, lora.schedule.cooldown) == (0, 0)
        assert lora.schedule.final_lr_ratio == 1.0


def test_packing_is_one_switch() -> None:
    for scale, ratio, across in (("paper", 3, True), ("small", None, False)):
        training = compose("+experiment=code_ift", f"scale={scale}").training
        assert (training.packing_ratio, training.attend_across_examples) == (ratio, across)
    clean = compose("+experiment=code_ift", "scale=paper", "packing=clean").training
    assert (clean.packing_ratio, clean.attend_across_examples) == (None, False)
    paper = compose("+experiment=code_ift", "packing=paper").training
    assert (paper.packing_ratio, paper.attend_across_examples) == (3, True)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["method=full", "+method.rank=8"], "takes no method.rank"),
        (["method=full", "method.rank=8"], "takes no method.rank"),
        (["method=full", "method.dora=true"], "takes no method.dora"),
        (["method.rank=0"], "at least 1"),
        (["method.init=gaussian"], "zero, pissa"),
        (["method=pissa", "method.dora=true"], "plain LoRA only"),
        (["method=lora_plus", "method.lr_ratio_b=0"], "above 0"),
        (["training.packing_ratio=0"], "packing_ratio=0"),
        (["training.attention_dropout=1"], "attention_dropout"),
        (["method.dropout=1.5"], "dropout"),
        (["duration=-1"], "duration=-1"),
        (["duration=2", "measure_at=[4]"], "measure_at"),
        (["evals.tasks=[mmmlu]"], "mmmlu"),
        (["schedule.kind=linear"], "cosine, trapezoid"),
        (["training.precision=fp8"], "fp32, amp_bf16"),
        (["data.text_column=text"], "text_column"),
        (["~training.lr_by_method.full", "method=full"], "no learning rate"),
    ],
)
def test_an_impossible_value_is_refused_with_what_is_allowed(
    overrides: list[str], words: str
) -> None:
    with pytest.raises((UserError, HydraException), match=words.replace("[", r"\[")):
        compose(*overrides)


@pytest.mark.parametrize(
    "override",
    ["trainin.seq_len=3", "training.sequence=3", "training.seq_len=long", "method=qlora"],
)
def test_an_unknown_key_a_wrong_type_and_an_unknown_option_are_refused(override: str) -> None:
    with pytest.raises((UserError, HydraException)):
        compose(override)


def test_what_does_not_change_the_result_does_not_change_the_name() -> None:
    name = run_id(compose())
    same = [
        "paths.runs=/elsewhere",
        "logger=none",
        "runtime.device_microbatch_size=1",
        "evals.limit=3",
    ]
    same.append("model.trust_remote_code=true")
    assert {run_id(compose(override)) for override in same} == {name}
    other = ["seed=1", "duration=2", "measure_at=[1]", "training.lr_peak=1e-9", "method.rank=4"]
    assert len({name, *(run_id(compose(override)) for override in other)}) == len(other) + 1


def test_a_rate_reached_by_multiplier_and_by_value_names_the_same_run() -> None:
    by_multiplier = compose("training.lr_multiplier=0.5")
    by_value = compose(f"training.lr_peak={by_multiplier.training.lr_peak!r}")
    assert run_id(by_multiplier) == run_id(by_value)


def test_a_rank_without_a_rate_of_its_own_takes_that_of_lora() -> None:
    table = {"full": 1.0, "lora": 2.0, "lora_r256": 3.0}
    assert lr_of_method(table, "full", None, 1.0, None) == 1.0
    assert lr_of_method(table, "lora", 16, 1.0, None) == 2.0
    assert lr_of_method(table, "lora", 256, 0.5, None) == 1.5


def test_the_rule_of_ten_takes_the_place_of_every_rate_of_lora() -> None:
    table = {"full": 1.0, "lora": 2.0, "lora_r256": 3.0}
    assert lr_of_method(table, "full", None, 1.0, 10) == 1.0
    assert lr_of_method(table, "lora", 16, 1.0, 10) == 10.0
    assert lr_of_method(table, "lora", 256, 0.5, 10) == 5.0
    today = compose("+experiment=code_ift", "scale=paper", "model=llama3_8b", "method=lora_r256")
    assert today.training.lr_peak == pytest.approx(10 * 5e-5)


def test_help_names_our_groups_and_loads_no_heavy_library() -> None:
    code = (
        "import sys; sys.argv = ['lvf.train', '--help']\n"
        "from lvf.train import main\n"
        "try:\n    main()\n"
        "finally:\n"
        "    heavy = {'torch', 'composer', 'transformers', 'pandas'} & set(sys.modules)\n"
        "    assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for group in (
        "experiment: alpha_lr, code_cpt, code_ift",
        "method: dora, full",
        "data: embedded_chat_ift",
        "model: embedded, llama2_13b",
    ):
        assert group in done.stdout


def test_a_user_error_is_one_message_without_a_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lvf.train", "method=full", "method.rank=8"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "method.rank" in done.stderr
    assert list(tmp_path.iterdir()) == []
