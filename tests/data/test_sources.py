"""Documents come out as they went in, and bad ones are named."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from lvf.config.data_schema import SourceConfig
from lvf.data import sources
from lvf.data.corpus_stats import CorpusStats
from lvf.data.sources import Part, cut_corpus, read_documents, source_fingerprint, usable_rows
from lvf.errors import UserError

from .conftest import write_jsonl

ROWS = [{"text": f"text {number} ü", "id": number} for number in range(5)]


def texts(path: Path | str, columns: tuple[str, ...] = ("text",), **kwargs: Any) -> list[str]:
    documents = read_documents(SourceConfig(path=str(path)), columns, **kwargs)
    return [" ".join(document.values()) for document in documents]


def rows_of(part: Part) -> list[tuple[str, dict[str, str]]]:
    return list(usable_rows(part, ["text"], CorpusStats()))


def write_parquet(path: Path, rows: list[dict[str, Any]] = ROWS, **kwargs: Any) -> Path:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(rows), path, **kwargs)
    return path


def test_jsonl_and_parquet_give_the_same_documents_and_only_the_named_columns(
    tmp_path: Path,
) -> None:
    from_jsonl = SourceConfig(path=str(write_jsonl(tmp_path / "a.jsonl", ROWS)))
    from_parquet = SourceConfig(path=str(write_parquet(tmp_path / "a.parquet")))
    expected = [{"text": row["text"]} for row in ROWS]
    assert list(read_documents(from_jsonl, ["text"])) == expected
    assert list(read_documents(from_parquet, ["text"])) == expected


def test_a_folder_is_read_file_by_file_in_the_order_of_names(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "b.jsonl", ROWS[2:])
    write_jsonl(tmp_path / "a.jsonl", ROWS[:2])
    (tmp_path / "README.md").write_text("not data")
    assert texts(tmp_path) == [row["text"] for row in ROWS]


def test_blank_lines_separate_the_documents_of_one_text_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one\nstill\x0c one\n \n\ntwo\r\ntoo\n")
    assert texts(path) == ["one\nstill\x0c one", "two\ntoo"]


def test_each_text_file_of_a_folder_is_one_document(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\nstill one\n")
    (tmp_path / "b.txt").write_text("two\n")
    assert texts(tmp_path) == ["one\n\nstill one\n", "two\n"]


def test_max_documents_takes_the_first(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", ROWS)
    assert texts(path, max_documents=2) == [row["text"] for row in ROWS[:2]]


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(ROWS[0]).encode())
    assert texts(path) == [ROWS[0]["text"]]


def test_the_embedded_world_is_a_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LVF_CACHE", str(tmp_path))
    source = SourceConfig(path="embedded:validation/math_ift")
    documents = list(read_documents(source, ["query", "response"]))
    (written,) = tmp_path.rglob("validation/math_ift.jsonl")
    assert len(documents) == len(written.read_text().splitlines())
    with pytest.raises(UserError, match="not one of.*train/math_ift"):
        list(read_documents(SourceConfig(path="embedded:train/poetry"), ["text"]))


GOOD = json.dumps({"text": "good"}) + "\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n \n", "is empty"),
        (GOOD.encode() + b"{broken\n", r"bad.jsonl:2: broken JSON"),
        (GOOD.encode() + b"[1]\n", r"bad.jsonl:2: list, not a JSON object"),
        (b'{"body": "x", "id": 1}\n', r"bad.jsonl:1: no column text; there are body, id"),
        (b'{"text": 3}\n{"text": "x"}\n{"text": null}\n', r":1: .*int.*; so far 2 of 3 rows"),
        (GOOD.encode() + b'{"text": "  "}\n', r"bad.jsonl:2: column text is empty; so far 1 of 2"),
        (GOOD.encode() + '{"text": "ü"}\n'.encode("latin-1"), r"bad.jsonl:2: not UTF-8"),
        (GOOD.encode("utf-16"), "not UTF-8"),
        (b'{"text": "\\ud800"}\n', "half a surrogate pair"),
    ],
)  # fmt: skip
def test_strictly_read_a_bad_file_is_refused_by_name_and_line(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        texts(path, strict=True)


BAD = [
    b"{broken",
    b'{"text": ""}',
    b"[1]",
    '{"text": "ü"}'.encode("latin-1"),
    b'{"body": 1}',
    b'{"text": 3}',
    b'{"text": "\\ud800"}',
]


def test_bad_rows_are_left_out_counted_by_kind_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b"\n".join([GOOD.encode().strip(), *BAD, *BAD[:1] * 9, b'{"text": "last"}']))
    assert texts(path) == ["good", "last"]
    told = capsys.readouterr().err.replace(f"{path}:", "line ")
    for kind in ("10 broken JSON", "1 empty text", "1 no JSON object", "2 not text"):
        assert f"{kind}:" in told
    assert re.findall(r"line (\d+): broken", told) == ["2", "9", "10", "11", "12"]  # and no more
    assert "line 3: column text is empty" in told and "line 5: not UTF-8" in told


def test_a_file_without_one_usable_row_is_refused_however_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b"\n".join(BAD))
    with pytest.raises(UserError, match=rf"bad.jsonl:1: broken JSON .*so far {len(BAD)} of 7 rows"):
        texts(path)


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "txt", "folder"])
def test_a_corpus_cut_into_parts_gives_the_rows_of_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    rows = [{"text": f"text {number} ü", "id": number} for number in range(50)]
    path = tmp_path / f"a.{kind}"
    if kind == "jsonl":
        path.write_text("\n\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    elif kind == "parquet":
        write_parquet(path, rows, row_group_size=9)
    elif kind == "txt":
        path.write_text("\n\n \n".join(f"{row['text']}\nmore" for row in rows), encoding="utf-8")
    else:
        path.mkdir()
        for row in rows:
            (path / f"{row['id']:02}.txt").write_text(str(row["text"]), encoding="utf-8")
    source = SourceConfig(path=str(path))
    (whole,) = cut_corpus(source, ["text"])
    for size in (1, 7, 50, 51):
        monkeypatch.setattr(sources, "PART_ROWS", size)
        parts = list(cut_corpus(source, ["text"]))
        assert [part.number for part in parts] == list(range(-(-50 // size)))
        assert {len(part.rows) for part in parts[:-1]} <= {size}
        # In any order, and places included.
        found = {part.number: rows_of(part) for part in reversed(parts)}
        joined = [row for number in sorted(found) for row in found[number]]
        assert joined == rows_of(whole) and len(joined) == 50
        assert sum(len(part.rows) for part in cut_corpus(source, ["text"], 20)) == 20
        assert len(texts(path, max_documents=20)) == 20


@pytest.mark.parametrize("name", ["missing.jsonl", "no/such/folder", "./missing", "a b"])
def test_a_missing_path_is_refused_with_what_is_allowed(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="does not exist.*embedded:"):
        texts(f"{tmp_path}/{name}")


def test_a_file_of_another_kind_and_an_empty_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.xlsx").write_text("text\nx\n")
    with pytest.raises(UserError, match=r"a.xlsx is not one of .jsonl"):
        texts(tmp_path / "a.xlsx")
    with pytest.raises(UserError, match=r"holds no .jsonl"):
        texts(tmp_path)


def test_a_truncated_parquet_file_is_refused(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match="not a whole Parquet file"):
        texts(path)


def test_the_fingerprint_follows_content_not_place(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    here = write_jsonl(tmp_path / "a.jsonl", ROWS)
    there = write_jsonl(tmp_path / "elsewhere" / "a.jsonl", ROWS)
    before = source_fingerprint(SourceConfig(path=str(here)))
    assert source_fingerprint(SourceConfig(path=str(there))) == before
    write_jsonl(here, ROWS[:-1])
    assert source_fingerprint(SourceConfig(path=str(here))) != before


def test_a_hub_corpus_goes_by_its_id_and_revision() -> None:
    def fingerprint(**kwargs: str) -> str:
        return source_fingerprint(SourceConfig(path="some/corpus", **kwargs))

    assert fingerprint() == fingerprint()
    others = [fingerprint(revision="v1"), fingerprint(subset="a"), fingerprint(split="test")]
    assert len({fingerprint(), *others}) == 4


def test_a_hub_corpus_is_cut_into_the_same_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # datasets reads a local folder through the same call as a corpus of the hub.
    write_jsonl(tmp_path / "train.jsonl", [*ROWS, {"text": "", "id": 5}])
    monkeypatch.setattr(sources, "local_files", lambda _source: None)
    monkeypatch.setattr(sources, "PART_ROWS", 4)
    first, second = cut_corpus(SourceConfig(path=str(tmp_path)), ["text"])
    assert [row for _, row in rows_of(first)] == [{"text": x["text"]} for x in ROWS[:4]]
    stats = CorpusStats()
    ((_, last),) = usable_rows(second, ["text"], stats)
    assert last == {"text": ROWS[4]["text"]}
    assert stats.places == {"empty text": [f"{tmp_path} row 6: column text is empty"]}


def test_an_unreachable_hub_corpus_is_refused_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import datasets
    import huggingface_hub.constants

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="no-such/corpus.*hub.*data.train.path"):
        texts("no-such/corpus")
