"""Records in one packed file read like those in their folder."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from lvf.analysis.table import matrices
from lvf.errors import UserError
from lvf.records.archive import pack, read_bytes, record_files
from lvf.records.schema import read_record
from lvf.records.store import RecordWarning, items, load

from .conftest import Write, axes


@pytest.fixture
def folder(write: Write) -> Path:
    """Two runs with records, and a table beside one of them."""
    folder = write(axes("full"), run_id="a", gsm8k=[1.0, 0.0, 1.0], nll_target=[1.0, 3.0])
    write(axes("lora", rank=8), run_id="b", gsm8k=[0.0, 0.0, 1.0])
    record = next((folder / "a").glob("*gsm8k*.json"))
    pd.DataFrame({"name": ["q", "é"], "rank90": [3, 4]}).to_parquet(record.with_suffix(".parquet"))
    return folder


def test_every_file_comes_back_byte_for_byte_and_every_record_as_it_was(folder: Path) -> None:
    archive = pack(folder)
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) == 4
    for path in files:
        inside = archive / path.relative_to(folder)
        assert read_bytes(inside) == path.read_bytes()
        if path.suffix == ".json":
            assert read_record(inside) == read_record(path)
    inside = [path.relative_to(archive) for path in record_files(archive)]
    assert inside == [path.relative_to(folder) for path in sorted(folder.rglob("*.json"))]


def test_the_table_of_scores_is_the_same_but_for_the_paths(folder: Path) -> None:
    plain, packed = load(folder), load(pack(folder))
    pd.testing.assert_frame_equal(packed.drop(columns="path"), plain.drop(columns="path"))
    for one, other in zip(plain.itertuples(), packed.itertuples(), strict=True):
        assert other.path == one.path.replace(str(folder), f"{folder}.tar.zst")
        if one.has_items:
            assert (items(other.path, other.metric) == items(one.path, one.metric)).all()


def test_tables_beside_records_are_read_from_the_packed_file(folder: Path) -> None:
    (table,) = folder.rglob("*.parquet")
    record = pack(folder) / table.relative_to(folder).with_suffix(".json")
    pd.testing.assert_frame_equal(matrices(record), pd.read_parquet(table))


def test_a_folder_is_read_with_the_packed_files_in_it(folder: Path, tmp_path: Path) -> None:
    together = tmp_path / "together"
    (together / "mine").mkdir(parents=True)
    pack(folder / "a").rename(together / "others.tar.zst")
    (folder / "b").rename(together / "mine" / "b")
    assert sorted(load(together).run_id.unique()) == ["a", "b"]
    assert len(record_files(together)) == 3


def test_a_broken_record_in_a_packed_file_is_named_and_the_rest_is_read(folder: Path) -> None:
    (folder / "a" / "half.json").write_text('{"source": ')
    archive = pack(folder)
    with pytest.warns(RecordWarning, match=rf"{archive}/a/half\.json"):
        assert set(load(archive).run_id) == {"a", "b"}


def test_packing_twice_gives_the_same_bytes_which_tar_unpacks(folder: Path, tmp_path: Path) -> None:
    archive = pack(folder)
    first = archive.read_bytes()
    assert pack(folder).read_bytes() == first
    out = tmp_path.with_name(f"{tmp_path.name}-unpacked")
    out.mkdir()
    subprocess.run(["tar", "--zstd", "-xf", archive, "-C", out], check=True)
    for path in (path for path in folder.rglob("*") if path.is_file()):
        assert (out / path.relative_to(folder)).read_bytes() == path.read_bytes()


def test_a_new_packed_file_of_the_same_name_is_read_anew(folder: Path, write: Write) -> None:
    assert len(record_files(pack(folder))) == 3
    write(axes("lora", rank=2), run_id="c", gsm8k=0.5)
    assert len(record_files(pack(folder))) == 4


def test_what_cannot_be_packed_or_read_is_a_user_error_or_names_the_file(folder: Path) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(UserError, match="holds no record files"):
        pack(folder / "empty")
    archive = pack(folder)
    with pytest.raises(FileNotFoundError, match=r"no a/other\.json"):
        read_bytes(archive / "a" / "other.json")
    archive.write_bytes(archive.read_bytes()[:200])
    with pytest.raises(UserError, match=f"{archive} cannot be read"):
        load(archive)


def test_the_command_packs_beside_the_folder(folder: Path) -> None:
    words = [sys.executable, "-m", "lvf.report", "pack", f"records={folder}"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert f"{folder}.tar.zst" in done.stdout
    assert len(load(Path(f"{folder}.tar.zst"))) == len(load(folder))
