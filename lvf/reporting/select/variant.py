"""What tells the compared methods apart, and what figures and tables call them."""

import re
from dataclasses import astuple, dataclass, fields
from typing import Any

import pandas as pd

from lvf.records.checkpoints import GROUP

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
MODULE_SETS = {
    frozenset(ATTENTION + MLP): "all", frozenset(ATTENTION): "attention", frozenset(MLP): "mlp",
}  # fmt: skip
FAMILY_NAMES = {
    "lora": "LoRA", "dora": "DoRA", "rslora": "rsLoRA", "pissa": "PiSSA", "lora_plus": "LoRA+",
    "lora_embeddings": "LoRA with embeddings", "oft_b8": "OFT", "vera": "VeRA", "miss": "MiSS",
    "shira": "SHiRA", "ia3": "(IA)³",
}  # fmt: skip
NAMED_FIELDS = {
    "full_decay_": ("weight_decay", 1.0),
    "full_attention_dropout_": ("attention_dropout", 0.01),
}
"""Records have no fields for these settings of full finetuning: the method's name holds the value,
here with its unit."""
TYPED_WORDS = re.compile(r"_(?:r\d+|alpha[\d.]+|attention|mlp|v1)(?=_|$)")
"""Words of a stored method name that repeat other fields of the record."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A method with all settings that make it another method. Seed, rate and length do not."""

    method: str
    """`base`, `full` or `lora`."""
    family: str
    """As `method`; for relatives of LoRA and methods of the user's own, their name (`dora`)."""
    rank: int | None = None
    alpha: float | None = None
    modules: str = ""
    """Which linear maps have adapters: `all`, `attention`, `mlp`, or their names."""
    optimizer_name: str = ""
    """Class of the optimiser; empty where the record does not say."""
    weight_decay: float | None = None
    attention_dropout: float | None = None
    """Share of attention probabilities that are dropped."""
    replay: float | None = None
    """Share of the training rows that is source text."""

    @classmethod
    def of(cls, row: Any) -> "Variant":
        """The variant of a record's axes, as attributes: a row of `DataFrame.itertuples`."""
        method, name = str(row.method), str(row.method_name)
        found: dict[str, Any] = {"family": TYPED_WORDS.sub("", name)}
        for prefix, (field, unit) in NAMED_FIELDS.items():
            if name.startswith(prefix):
                found = {"family": method, field: unit * float(name.removeprefix(prefix))}
        if method == "lora":
            found |= {"rank": _known(row.rank), "alpha": _known(row.alpha)}
            found["modules"] = _modules(row.target_modules)
        found["replay"] = _known(row.replay)
        if not pd.isna(row.optimizer):
            found["optimizer_name"] = str(row.optimizer).split(".")[-1]
        return cls(method=method, **found)

    @classmethod
    def of_columns(cls, row: Any) -> "Variant":
        """The variant of a row that has the columns `VARIANT`."""
        return cls(**{name: _known(getattr(row, name)) for name in VARIANT})

    @property
    def is_plain(self) -> bool:
        """Whether it is a method of the paper's main grid but for its optimiser.

        These are full finetuning without regularisation, and LoRA of any rank r with alpha = 2r on
        all linear maps; both without replay.
        """
        settings = {self.weight_decay, self.attention_dropout, self.replay}
        if self.family != self.method or settings != {None}:
            return False
        twice = self.rank is not None and self.alpha == 2 * self.rank
        return self.method != "lora" or (twice and self.modules == "all")

    @property
    def name(self) -> str:
        """Family and rank: `full`, `LoRA r=8`."""
        family = FAMILY_NAMES.get(self.family, self.family)
        return family if self.rank is None else f"{family} r={self.rank}"

    def label(self, usual_optimizer: str) -> str:
        """Name, and every setting that is not a main method's: `LoRA r=8 attention AdamW`."""
        marks = [self.name]
        if self.alpha is not None and self.alpha != 2 * (self.rank or 0):
            marks.append(f"α={self.alpha:g}")
        if self.modules not in ("", "all"):
            marks.append(self.modules)
        if self.optimizer_name not in ("", usual_optimizer):
            marks.append(self.optimizer_name)
        if self.weight_decay is not None:
            marks.append(f"decay {self.weight_decay:g}")
        if self.attention_dropout is not None:
            marks.append(f"attention dropout {self.attention_dropout:g}")
        if self.replay is not None:
            marks.append(f"replay {self.replay:g}")
        return " ".join(marks)

    def role(self, usual_optimizer: str) -> str:
        """What it takes part as: `base`, `main`, `ablation` or `relative`.

        A main method with a setting changed is an ablation, another method a relative.
        """
        if self.method == "base":
            return "base"
        if self.family != self.method:
            return "relative"
        is_usual = self.optimizer_name in ("", usual_optimizer)
        return "main" if self.is_plain and is_usual else "ablation"


VARIANT = [field.name for field in fields(Variant)]
"""Columns of a frame that hold the fields of its rows' variants."""
UNIT = [*GROUP, "source"]
"""Models that agree in these are from one experiment: its variants can be compared."""


def with_variants(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with the columns `VARIANT`, `role`, `is_usual` and `label`, the name in figures.

    `is_usual` says whether a model has the optimiser that most models of its source, scale and base
    model have (or does not say its own). Where published models stand beside others of a group,
    their labels say so.

    Args:
        rows: with the axes of records as columns.
    """
    axes = ["method", "method_name", "rank", "alpha", "target_modules", "optimizer", "replay"]
    kinds = rows.groupby(axes, dropna=False, sort=False).ngroup()
    first = rows.assign(kind=kinds).drop_duplicates("kind").set_index("kind")
    of_kind = dict(zip(first.index, map(Variant.of, first.itertuples()), strict=True))
    variants = [of_kind[kind] for kind in kinds]
    columns = pd.DataFrame(map(astuple, variants), rows.index, VARIANT, dtype="object")
    numbers = dict.fromkeys(("alpha", "weight_decay", "attention_dropout", "replay"), "float64")
    rows = rows.assign(**columns.astype({**numbers, "rank": "float64"}).astype({"rank": "Int64"}))
    usual = pd.Series("", rows.index, dtype="object")
    for _, experiment in rows.groupby(["source", "scale", "model"]):
        names = experiment.optimizer_name[experiment.optimizer_name != ""]
        usual[experiment.index] = "" if names.empty else str(names.mode()[0])
    both = list(zip(variants, usual, strict=True))
    labels = [variant.label(optimizer) for variant, optimizer in both]
    roles = [variant.role(optimizer) for variant, optimizer in both]
    rows = rows.assign(
        label=pd.Series(labels, rows.index, dtype="object"),
        role=pd.Series(roles, rows.index, dtype="object"),
        is_usual=(rows.optimizer_name == "") | (rows.optimizer_name == usual),
    )
    sources = rows.groupby([*GROUP, "label"], dropna=False).source.transform("nunique")
    published = (rows.source == "paper") & (sources > 1)
    return rows.assign(label=rows.label.where(~published, rows.label + " (published)"))


def _known(number: Any) -> Any:
    return None if pd.isna(number) else number


def _modules(target_modules: Any) -> str:
    """Name of a set of linear maps. The paper's published models do not list them: all."""
    if pd.isna(target_modules):
        return "all"
    found = frozenset(str(target_modules).split(","))
    return MODULE_SETS.get(found, " ".join(sorted(found)))
