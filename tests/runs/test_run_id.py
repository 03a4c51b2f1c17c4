"""A run's ID follows contents and settings, not paths, labels of places or new defaults."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from lvf.config.compose import compose
from lvf.data.fingerprint import COMMIT, file_hash, hub_commit
from lvf.embedded.corpora import base_dir
from lvf.runs.run_id import base_id, identity, run_id


def corpus(path: Path, answer: str = "4") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"query": f"2+2={number}?", "response": answer} for number in range(3)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def model(folder: Path) -> Path:
    shutil.copytree(base_dir(), folder)
    return folder


def test_the_same_data_under_another_path_is_the_same_run(tmp_path: Path) -> None:
    one, other = (corpus(tmp_path / place / "train.jsonl") for place in ("a", "b"))
    assert run_id(compose(f"data.train.path={one}")) == run_id(compose(f"data.train.path={other}"))
    changed = run_id(compose(f"data.train.path={corpus(one, answer='5')}"))
    assert changed != run_id(compose(f"data.train.path={other}"))


def test_the_same_model_under_another_path_is_the_same_run_and_has_the_same_base(
    tmp_path: Path,
) -> None:
    packaged = compose("model.path=embedded")
    copied = compose(f"model.path={model(tmp_path / 'copy')}")
    assert run_id(packaged) == run_id(copied)
    assert base_id(packaged) == base_id(copied)


@pytest.mark.parametrize("changed", ["model.safetensors", "config.json", "tokenizer.json"])
def test_changed_weights_or_tokenizer_under_the_same_path_are_another_run_with_another_base(
    tmp_path: Path, changed: str
) -> None:
    cfg = compose(f"model.path={model(tmp_path / 'model')}")
    before = run_id(cfg), base_id(cfg)
    file = tmp_path / "model" / changed
    file.write_bytes(file.read_bytes() + b" ")
    after = run_id(cfg), base_id(cfg)
    assert before[0] != after[0] and before[1] != after[1]


def test_a_file_is_read_again_only_when_its_size_or_time_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LVF_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "weights"
    file.write_bytes(b"abc")
    os.utime(file, ns=(1, 1))
    # SHA-256 of "abc": FIPS 180-2, appendix B.1.
    published = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert file_hash(file) == published
    file.write_bytes(b"xyz")
    os.utime(file, ns=(1, 1))
    assert file_hash(file) == published  # neither size nor time says that it has changed
    os.utime(file, ns=(2, 2))
    assert file_hash(file) != published


def test_a_cache_that_cannot_be_written_changes_no_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = corpus(tmp_path / "train.jsonl")
    expected = file_hash(file)
    (tmp_path / "no folder").write_text("")
    monkeypatch.setenv("LVF_CACHE", str(tmp_path / "no folder"))
    assert file_hash(file) == expected


def test_a_setting_that_has_its_default_takes_no_part() -> None:
    known = identity(compose("method=full"))
    assert "training.attention_dropout" not in known
    dropped = identity(compose("method=full", "training.attention_dropout=0.1"))
    assert dropped == known | {"training.attention_dropout": 0.1}


def test_a_hub_model_is_the_commit_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    commit = "0123456789" * 4
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("LVF_CACHE", str(tmp_path / "lvf"))
    refs = tmp_path / "models--some--model" / "refs"
    refs.mkdir(parents=True)
    (refs / "main").write_text(commit)
    hub_commit.cache_clear()
    assert hub_commit("some/model", None, "model") == commit
    (refs / "main").unlink()
    hub_commit.cache_clear()  # as in another process, without the hub's cache and without a network
    assert hub_commit("some/model", None, "model") == commit
    assert hub_commit("some/model", commit[::-1], "model") == commit[::-1]
    assert COMMIT.fullmatch(commit)
    pinned: Any = compose("model.path=some/model", f"model.revision={commit}")
    assert run_id(pinned) == run_id(compose("model.path=some/model"))
    hub_commit.cache_clear()
