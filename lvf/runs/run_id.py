"""What a run is called: the hash of the part of its configuration that decides what it gives."""

from dataclasses import asdict
from typing import Any

from lvf.config.schema.schema import RunConfig, stable_hash

UNIDENTIFYING = ("evals", "logger", "paths", "runtime", "released", "tuned")
SILENT = {
    "training": ("lr_by_method", "lr_multiplier", "lora_lr_ratio"),  # what led to lr_peak
    "model": ("shape", "trust_remote_code"),  # shape, documents and tokens are for the planner
    "data": ("documents", "tokens", "strict"),  # strict and trust decide whether there is a run
}


def identity(resolved: dict[str, Any]) -> dict[str, Any]:
    """The part of a resolved configuration (`asdict`) that decides what a run gives."""
    tree = {key: value for key, value in resolved.items() if key not in UNIDENTIFYING}
    for group, silent in SILENT.items():
        tree[group] = {key: value for key, value in tree[group].items() if key not in silent}
    if not tree["data"][
        "exclude_overlap"
    ]:  # what was run before there was the switch keeps its name
        del tree["data"]["exclude_overlap"]
    bench = tree.pop("bench", None)  # runs were named before there were benchmarks
    if bench and bench["steps"] is not None:
        tree["bench"] = bench
    if tree["model"].pop("random_weights", False):
        tree["model"] |= {"random_weights": True, "shape": resolved["model"]["shape"]}
    tree["scale"] = tree["scale"]["name"]  # its ranks are for methods to refer to
    # The budgets of a trunk change what it keeps, not what it gives.
    tree["trunk"] = tree["trunk"]["tokens"] if tree["trunk"]["branch"] else None
    return tree


def run_id(cfg: RunConfig) -> str:
    """Readable prefix and identity hash; names the run's folder and its records."""
    prefix = f"{cfg.scale.name}-{cfg.domain.name}_{cfg.regime.name}-{cfg.method.name}"
    return f"{prefix}-{stable_hash(identity(asdict(cfg)))}"
