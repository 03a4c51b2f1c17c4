"""A local folder gives the splits and subsets that the hub would give, and no other files."""

from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pytest
from pyarrow import parquet

from lvf.config.data_schema import SourceConfig
from lvf.data.sources import local_files, read_documents, unread_files
from lvf.errors import UserError

from .conftest import write_jsonl


def rows(start: int, num: int) -> list[dict[str, str]]:
    return [{"text": f"text {number}"} for number in range(start, start + num)]


def texts(folder: Path, **source: Any) -> list[str]:
    found = read_documents(SourceConfig(path=str(folder), **source), ["text"])
    return [row["text"] for row in found]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A data set as the hub has it."""
    (tmp_path / "data").mkdir()
    (tmp_path / "README.md").write_text("# a data set\n")
    for split, start, num in (("train", 0, 8), ("test", 100, 4), ("validation", 200, 2)):
        table = pyarrow.Table.from_pylist(rows(start, num))
        parquet.write_table(table, tmp_path / "data" / f"{split}-00000-of-00001.parquet")
    return tmp_path


def by_datasets(folder: Path, subset: str | None = None, **more: Any) -> list[str]:
    """The truth: what `datasets` reads from the same folder."""
    found = datasets.load_dataset(str(folder), subset, streaming=True, **more)
    return [row["text"] for row in found]


@pytest.mark.parametrize("split", ["train", "test", "validation"])
def test_a_split_is_that_of_the_hub(copy: Path, split: str) -> None:
    assert texts(copy, split=split) == by_datasets(copy, split=split)
    assert texts(copy, split=split, data_dir="data") == by_datasets(
        copy, split=split, data_dir="data"
    )


def test_a_split_that_is_not_there_is_refused_with_those_that_are(copy: Path) -> None:
    with pytest.raises(UserError, match=r"no split dev; there are: train, validation, test"):
        texts(copy, split="dev")


def test_subsets_are_those_of_the_card(tmp_path: Path) -> None:
    for number, name in enumerate(("main", "extra")):
        (tmp_path / name).mkdir()
        write_jsonl(tmp_path / name / "learn.jsonl", rows(100 * number, 3))
        write_jsonl(tmp_path / name / "exam.jsonl", rows(100 * number + 50, 2))
    files = "".join(
        f"- config_name: {name}\n  data_files:\n  - split: train\n    path: {name}/learn*\n"
        f"  - split: test\n    path: {name}/exam.jsonl\n"
        for name in ("main", "extra")
    )
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{files}---\n# two subsets\n")
    for subset in ("main", "extra"):
        for split in ("train", "test"):
            expected = by_datasets(tmp_path, subset, split=split)
            assert texts(tmp_path, subset=subset, split=split) == expected
    for wrong in (None, "other"):
        with pytest.raises(UserError, match=f"no subset {wrong}; there are: main, extra"):
            texts(tmp_path, subset=wrong)
    for data_dir in ("main", "extra"):  # without the card, all files of a folder are `train`
        (tmp_path / "README.md").unlink(missing_ok=True)
        assert texts(tmp_path, data_dir=data_dir) == by_datasets(
            tmp_path, data_dir=data_dir, split="train"
        )


def test_hidden_files_licences_and_stale_copies_are_no_data_and_are_listed(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", rows(0, 5))
    for name in (
        ".ipynb_checkpoints/a-checkpoint.jsonl", ".hidden.jsonl", "checkpoint-10/a.jsonl",
        "sub/__pycache__/a.json", "LICENSE.txt", "licence-data.txt", "NOTICE.txt", "README.txt",
        "dataset_info.json", "train.log",
    ):  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text('{"text": "no data"}\n')
    source = SourceConfig(path=str(tmp_path))
    assert texts(tmp_path) == [f"text {n}" for n in range(5)]
    assert local_files(source) == [tmp_path / "a.jsonl"]
    unread = unread_files(source)
    assert len(unread) == 10 and unread[0] == "LICENSE.txt" and ".hidden.jsonl" in unread


def test_a_folder_of_files_in_several_formats_and_folders_is_read_whole(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "b.jsonl", rows(0, 2))
    (tmp_path / "a [1]").mkdir()
    (tmp_path / "a [1]" / "c.txt").write_text("a text\n")
    assert texts(tmp_path) == ["a text\n", "text 0", "text 1"]
    assert texts(tmp_path / "a [1]") == ["a text\n"]


def test_a_card_that_cannot_be_read_is_refused_by_name(copy: Path) -> None:
    (copy / "README.md").write_text("---\nconfigs: [{data_files: x}]\n---\n")
    with pytest.raises(UserError, match=r"README\.md: its head"):
        texts(copy)
    (copy / "README.md").write_text("---\nconfigs: [{config_name: a, data_files: x.csv}]\n---\n")
    with pytest.raises(UserError, match="cannot be assigned to splits"):
        texts(copy)


LAYOUTS = {
    "folders": ["train/a.jsonl", "train/b.jsonl", "test/c.jsonl"],
    "names": ["my-train-1.jsonl", "my-train-2.jsonl", "my_test.jsonl"],
    "shards": ["data/train-00000-of-00002.jsonl", "data/train-00001-of-00002.jsonl",
               "data/test-00000-of-00001.jsonl"],
    "deeper": ["x/train.jsonl", "y/z/train.jsonl", "y/test.jsonl"],
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("split", ["train", "test"])
def test_splits_are_told_by_names_as_datasets_tells_them(
    tmp_path: Path, layout: str, split: str
) -> None:
    for number, name in enumerate(LAYOUTS[layout]):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        write_jsonl(tmp_path / name, rows(10 * number, 3))
    assert texts(tmp_path, split=split) == by_datasets(tmp_path, split=split)


def test_a_subset_may_be_a_folder_of_its_own(tmp_path: Path) -> None:
    for number, name in enumerate(("main", "extra")):
        (tmp_path / name).mkdir()
        write_jsonl(tmp_path / name / "train.jsonl", rows(10 * number, 3))
        write_jsonl(tmp_path / name / "test.jsonl", rows(10 * number + 5, 2))
    configs = "".join(f"- config_name: {name}\n  data_dir: {name}\n" for name in ("main", "extra"))
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    for subset in ("main", "extra"):
        for split in ("train", "test"):
            expected = by_datasets(tmp_path, subset, split=split)
            assert texts(tmp_path, subset=subset, split=split) == expected
