"""The typed settings of a data set."""

from dataclasses import dataclass, field

from omegaconf import MISSING

from lvf.config.kinds import (
    Count,
    CountOrZero,
    LocalPath,
    Positive,
    Share,
)


@dataclass(kw_only=True)
class SourceConfig:
    """Where documents come from."""

    path: LocalPath = MISSING
    """Hub id; local .jsonl, .json, .csv, .parquet or .txt file (also .gz, .zst) or a folder of
    them; or `embedded:<file stem>`, a file of the generated offline world such as
    `embedded:train/math_ift`."""
    subset: str | None = None
    data_dir: str | None = None
    split: str = "train"
    """These three mean the same for a local folder as for a data set of the hub. A single file is
    read whole, whatever they are."""
    revision: str | None = None


@dataclass(kw_only=True)
class DataConfig:
    """A data set, and how its rows become training sequences."""

    name: str = MISSING
    train: SourceConfig = field(default_factory=SourceConfig)
    validation: SourceConfig | None = None
    """Documents for choosing rates. Null: `split_documents` are taken out of `train`; also where
    these here are of the embedded world and `train` is not."""
    heldout: SourceConfig | None = None
    """Documents whose loss is reported. If null, as `validation`."""
    split_documents: CountOrZero = 512
    text_column: str | None = None
    """Column of running text (continued pre-training)."""
    prompt_column: str | None = None
    response_column: str | None = None
    """Columns of a pair (instruction finetuning): the loss is on the response only."""
    template: str = "plain"
    """How a pair becomes text: a key of `lvf.data.prompts.TEMPLATES`; a text with {prompt} and
    {response}; or `chat`, the tokenizer's own chat template."""
    max_documents: Count | None = None
    """Use only the first rows of `train`, usable or not."""
    strict: bool = False
    """Whether a bad row (unreadable, empty, longer than the context) ends the preparation. If not,
    it is left out or cut, and counted with its place. Not one usable row is always an error."""
    exclude_overlap: bool = False
    """Whether documents that share 13 words with an evaluation item are left out of the training
    (data/overlap.py). They are listed either way."""
    replay: Share = 0.0
    """Share of the rows of every epoch that is source text instead, so that less is forgotten. The
    number of rows stays; the data set's own rows take turns over the epochs."""
    source: SourceConfig | None = None
    """Text like that of the base's pre-training, to be replayed: a row is a document. Null takes
    the packaged base's own; other bases need it."""
    source_column: str = "text"
    """Column of the text in `source`."""
    documents: Count | None = None
    tokens: Positive | None = None
    """Size of `train` as published, for the planner. Not part of a run's identity."""
