"""Every file composes, every value has its type, impossible combinations are refused."""

import subprocess
import sys
from pathlib import Path

import pytest
from hydra.errors import HydraException

from lvf.compose import compose, lr_of_method
from lvf.config import CONF_DIR, run_id
from lvf.errors import UserError

EXPERIMENTS = [path.stem for path in (CONF_DIR / "experiment").glob("*.yaml")]
GROUPS = ("method", "optimizer", "logger", "schedule")
SCALES = [path.stem for path in (CONF_DIR / "scale").glob("*.yaml")]
METHODS = [path.stem for path in (CONF_DIR / "method").glob("*.yaml")]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_composes_with_every_scale_and_every_method(
    experiment: str, scale: str
) -> None:
    ids = set()
    for method in METHODS:
        cfg = compose(f"+experiment={experiment}", f"scale={scale}", f"method={method}")
        assert f"{cfg.domain.name}_{cfg.regime.name}" == experiment
        assert cfg.scale.name == scale
        assert (cfg.method.kind == "full") == (method == "full")
        if cfg.method.kind == "lora":
            assert cfg.method.rank is not None and cfg.method.alpha == 2 * cfg.method.rank
        ids.add(run_id(cfg))
    # `lora` is one of the named ranks, by another name
    assert len(ids) == len(METHODS) - 1


@pytest.mark.parametrize("group", GROUPS)
def test_every_option_of_every_free_group_composes(group: str) -> None:
    options = sorted(path.stem for path in (CONF_DIR / group).glob("*.yaml"))
    assert options
    for option in options:
        compose(f"{group}={option}")


# Independent of conf/: typed from the paper's App. A and README (PAPER facts, section 1.3).
PAPER_TABLE = {
    # experiment: (seq_len, batch, rate of full, r=16, r=64, r=256, weight decay)
    "code_cpt": (4096, 192, 1e-5, 1e-5, 1e-5, 1e-5, 1e-6),
    "math_cpt": (4096, 192, 1e-5, 4e-5, 4e-5, 4e-5, 0.0),
    "code_ift": (4096, 192, 5e-5, 2e-4, 2e-4, 1e-4, 0.0),
    "math_ift": (1024, 768, 1e-5, 1e-4, 1e-4, 5e-5, 0.0),
}


@pytest.mark.parametrize("experiment", PAPER_TABLE)
def test_the_paper_scale_holds_the_values_of_the_paper(experiment: str) -> None:
    seq_len, batch, *rates, decay = PAPER_TABLE[experiment]
    for method, rate in zip(("full", "lora_r16", "lora_r64", "lora_r256"), rates, strict=True):
        cfg = compose(f"+experiment={experiment}", "scale=paper", f"method={method}")
        assert (cfg.training.seq_len, cfg.training.global_batch_rows) == (seq_len, batch)
        assert cfg.training.lr_peak == pytest.approx(rate)
        assert cfg.optimizer["weight_decay"] == decay
        assert cfg.optimizer["betas"] == [0.9, 0.95]
        assert cfg.training.grad_clip_norm == 1.0
        assert cfg.training.precision == "amp_bf16"
        assert cfg.schedule.kind == ("cosine" if experiment.endswith("ift") else "trapezoid")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["method=full", "+method.rank=8"], "takes no method.rank"),
        (["method=full", "method.rank=8"], "takes no method.rank"),
        (["method.rank=0"], "at least 1"),
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
    same = ["paths.runs=/elsewhere", "logger=none", "runtime.microbatch_rows=1", "evals.limit=3"]
    assert {run_id(compose(override)) for override in same} == {name}
    other = ["seed=1", "duration=2", "measure_at=[1]", "training.lr_peak=1e-9", "method.rank=4"]
    assert len({name, *(run_id(compose(override)) for override in other)}) == len(other) + 1


def test_a_rate_reached_by_multiplier_and_by_value_names_the_same_run() -> None:
    by_multiplier = compose("training.lr_multiplier=0.5")
    by_value = compose(f"training.lr_peak={by_multiplier.training.lr_peak!r}")
    assert run_id(by_multiplier) == run_id(by_value)


def test_a_rank_without_a_rate_of_its_own_takes_that_of_lora() -> None:
    table = {"full": 1.0, "lora": 2.0, "lora_r256": 3.0}
    assert lr_of_method(table, "full", None, 1.0) == 1.0
    assert lr_of_method(table, "lora", 16, 1.0) == 2.0
    assert lr_of_method(table, "lora", 256, 0.5) == 1.5


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
    for group in ("experiment: code_cpt, code_ift, math_cpt, math_ift", "method: full, lora"):
        assert group in done.stdout


def test_a_user_error_is_one_message_without_a_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lvf.train", "method=full", "method.rank=8"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "method.rank" in done.stderr
    assert list(tmp_path.iterdir()) == []
