"""The models that the paper's authors released: which there are, what they are, where they lie.

17 repositories of the Hugging Face organisation LoRA-TMLR-2024, one a run or a trunk; shorter
durations are git branches of each. Nothing states how the branches are named: their names are asked
of the hub, and read as well as they can be.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lvf.config.schema import ModelConfig
from lvf.errors import UserError
from lvf.models.hub import ask_hub
from lvf.models.load import load_export
from lvf.models.untrusted import check_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CORPORA = {
    "starcoder": ("code", "cpt"),
    "openwebmath": ("math", "cpt"),
    "magicoder": ("code", "ift"),
    "metamath": ("math", "ift"),
}
"""First word of a repository's name to domain and regime (section 3.1)."""
TOKENS_PER_BATCH = 192 * 4096
"""Of continued pre-training (App. A)."""
BATCHES_PER_EPOCH = {"magicoder": 193}
"""As the authors' README has it; of MetaMathQA it has none."""
BUDGETS = (0.25e9, 0.5e9, 1e9, 2e9, 4e9, 8e9, 16e9, 20e9)
EPOCHS = (1, 2, 4, 8, 16)
NUMBER = r"(\d+(?:[.p]\d+)?)"
TOKENS = re.compile(NUMBER + r"[-_ ]?([bm])(?:illion|n|tok(?:en)?s?)?(?![a-z])", re.I)
BATCHES = re.compile(r"(\d+)[-_ ]?ba(?:tch(?:es)?)?(?![a-z])|(?<![a-z])ba[a-z]*[-_ ]?(\d+)", re.I)
EPOCH = re.compile(
    NUMBER + r"[-_ ]?ep(?:och)?s?(?![a-z])|(?<![a-z])ep(?:och)?s?[-_ ]?" + NUMBER, re.I
)
COLLECTION = re.compile(r"(?:.*/collections/)?([\w.-]+/[\w.-]+-[0-9a-f]{24})")
MODEL_FILES = ("adapter_config.json", "config.json")


@dataclass(frozen=True, kw_only=True)
class Released:
    """One branch of one repository, as far as the names tell."""

    repo: str
    branch: str
    folder: Path | None
    """Where it lies on this machine; None: on the hub."""
    domain: str | None
    regime: str | None
    method: str
    """`full` or `lora`."""
    rank: int | None
    alpha: int | None
    lr_peak: float | None
    duration: float | None
    """Epochs or tokens; None where no name tells."""

    @property
    def name(self) -> str:
        """The repository's own name, without that of its owner."""
        return self.repo.rsplit("/", 1)[-1]


def list_released(where: str) -> list[Released]:
    """All released checkpoints there, sorted by repository and duration.

    Args:
        where: On the hub a repository, a collection, or an organisation such as LoRA-TMLR-2024; or
            a folder: a cache of the hub, a repository in it, a model, or one subfolder a repository
            or branch.

    Raises:
        UserError: nothing there, or the hub does not answer.
    """
    folder = Path(where).expanduser()
    found = _in_folder(folder) if folder.is_dir() else _on_hub(where)
    if not found:
        raise UserError(
            f"released={where}: no model there. Give a repository or collection of the hub "
            "(LoRA-TMLR-2024/magicoder-lora-rank-16-alpha-32), or a folder that holds models: a "
            "cache of the hub (models--*), or REPOSITORY/BRANCH/config.json or adapter_config.json"
        )
    return sorted(found, key=lambda one: (one.repo, one.duration or 0.0, one.branch))


def fetch(released: Released) -> Path:
    """Folder of a released checkpoint, downloaded if need be.

    Raises:
        UserError: the hub does not give it.
    """
    if released.folder is not None:
        return released.folder
    from huggingface_hub import snapshot_download

    try:
        return Path(ask_hub(lambda: snapshot_download(released.repo, revision=released.branch)))
    except (OSError, ValueError) as error:
        raise UserError(_hub_error(released.repo, error)) from error


def check_released(released: Released, base: ModelConfig) -> None:
    """Refuse a checkpoint that is not to be trusted, before its weights are downloaded.

    Raises:
        UserError: it names code or places outside its folder, or the hub does not give it.
    """
    try:
        check_model(
            "released",
            str(released.folder or released.repo),
            None if released.folder else released.branch,
            trust_remote_code=base.trust_remote_code,
        )
    except (OSError, ValueError) as error:
        raise UserError(_hub_error(released.repo, error)) from error


def load_released(
    released: Released, base: ModelConfig
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model, adapters merged into `base`, and the base's tokenizer."""
    return load_export(fetch(released), base)


def adapter_facts(released: Released) -> dict[str, Any]:
    """Rank, alpha and target_modules as the adapter's own file has them; empty for a full model."""
    file = fetch(released) / "adapter_config.json"
    if not file.is_file():
        return {}
    config = json.loads(file.read_text())
    target_modules = config["target_modules"]
    return {
        "rank": config["r"],
        "alpha": config["lora_alpha"],
        "target_modules": sorted(target_modules)
        if isinstance(target_modules, list)
        else [target_modules],
    }


def _on_hub(where: str) -> list[Released]:
    from huggingface_hub import HfApi

    api = HfApi()
    collection = COLLECTION.fullmatch(where)
    try:
        if collection:
            items = api.get_collection(collection[1]).items
            repos = [item.item_id for item in items if item.item_type == "model"]
        elif "/" in where:
            repos = [where]
        else:
            repos = [model.id for model in api.list_models(author=where)]
        branches = {repo: api.list_repo_refs(repo).branches for repo in repos}
    except (OSError, ValueError) as error:
        raise UserError(_hub_error(where, error)) from error
    return [
        one
        for repo, refs in branches.items()
        for one in _one_a_commit(repo, ((ref.target_commit, ref.name, None) for ref in refs))
    ]


def _hub_error(where: str, error: Exception) -> str:
    first_line = str(error).strip().splitlines()[0]
    return (
        f"released={where} is no folder, and the hub does not give it: {first_line} Check the name "
        "and the network, or give a folder where its files lie"
    )


def _in_folder(folder: Path) -> list[Released]:
    if folder.name.startswith("models--"):
        return [
            one for one in _in_cache(folder.parent) if one.folder and folder in one.folder.parents
        ]
    if any(folder.glob("models--*")):
        return _in_cache(folder)
    children = [path for path in sorted(folder.iterdir()) if path.is_dir()]
    found = [(folder.name, "main", folder)] if _holds_model(folder) else []
    for child in children:
        if _holds_model(child):
            is_branch = corpus_of(folder.name) is not None
            found.append((folder.name, child.name, child) if is_branch else
                         (child.name, "main", child))  # fmt: skip
        found += [
            (child.name, branch.name, branch)
            for branch in sorted(child.iterdir())
            if branch.is_dir() and _holds_model(branch)
        ]
    return [describe(repo, branch, path) for repo, branch, path in found]


def _holds_model(folder: Path) -> bool:
    return any((folder / name).is_file() for name in MODEL_FILES)


def _in_cache(folder: Path) -> list[Released]:
    """The authors' models in a cache of the hub, which may hold others."""
    from huggingface_hub import scan_cache_dir

    return [
        one
        for repo in scan_cache_dir(folder).repos
        if repo.repo_type == "model" and corpus_of(repo.repo_id.rsplit("/", 1)[-1])
        for one in _one_a_commit(
            repo.repo_id,
            (
                (revision.commit_hash, ref, revision.snapshot_path)
                for revision in repo.revisions
                for ref in sorted(revision.refs)
            ),
        )
    ]


def _one_a_commit(repo: str, refs: Iterable[tuple[str, str, Path | None]]) -> list[Released]:
    """Of branches that are one commit, that whose name tells a duration, else not `main`."""
    best: dict[str, Released] = {}
    for commit, branch, folder in refs:
        one = describe(repo, branch, folder)
        other = best.get(commit)
        if other is None or (one.branch != "main", one.duration is not None) > (
            other.branch != "main",
            other.duration is not None,
        ):
            best[commit] = one
    return list(best.values())


def describe(repo: str, branch: str, folder: Path | None = None) -> Released:
    """Read the names of a repository and a branch."""
    name = repo.rsplit("/", 1)[-1].lower()
    corpus = corpus_of(name)
    domain, regime = CORPORA[corpus] if corpus else (None, None)
    rank, alpha = _number(r"rank-(\d+)", name), _number(r"alpha-(\d+)", name)
    lr_peak = _number(r"lr-(\d+(?:\.\d+)?e-?\d+)", name)
    return Released(
        repo=repo,
        branch=branch,
        folder=folder,
        domain=domain,
        regime=regime,
        method="lora" if rank or "lora" in name else "full",
        rank=None if rank is None else int(rank),
        alpha=None if alpha is None else int(alpha),
        lr_peak=lr_peak,
        duration=_duration(corpus, regime, name if branch == "main" else branch),
    )


def corpus_of(name: str) -> str | None:
    """The key of `CORPORA` that a repository's name begins with."""
    return next((corpus for corpus in CORPORA if name.lower().startswith(corpus)), None)


def _number(pattern: str, text: str) -> float | None:
    match = re.search(pattern, text)
    return float(match[1]) if match else None


def _duration(corpus: str | None, regime: str | None, text: str) -> float | None:
    """Tokens or epochs that a text tells, also as batches or as a bare number; else None."""
    bare = re.fullmatch(NUMBER, text)
    batches = BATCHES.search(text)
    if regime == "cpt":
        match = TOKENS.search(text)
        if match:
            return _float(match[1]) * {"b": 1e9, "m": 1e6}[match[2].lower()]
        if batches:  # budgets are whole batches: 0.25 B tokens are 318
            return _near(BUDGETS, int(batches[1] or batches[2]) * TOKENS_PER_BATCH)
        return _near(BUDGETS, _float(bare[1]) * 1e9) if bare else None
    match = EPOCH.search(text)
    if match:
        return _float(match[1] or match[2])
    if batches and corpus in BATCHES_PER_EPOCH:
        return _near(EPOCHS, int(batches[1] or batches[2]) / BATCHES_PER_EPOCH[corpus])
    return _near(EPOCHS, _float(bare[1])) if bare else None


def _float(digits: str) -> float:
    return float(digits.lower().replace("p", "."))


def _near(known: Iterable[float], value: float) -> float | None:
    """The paper's duration within half a per cent; None if there is none."""
    return next((float(one) for one in known if abs(value / one - 1) < 0.005), None)
