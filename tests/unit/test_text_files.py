"""Texts in files: documents, lines, tables of JSON, compressed or not, and what is none of these."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmssl.data import Source
from mmssl.modality import find

TEXT = find("text")
TEXTS = ["Ein Satz.", "zwei\tWörter 猫", '"quoted", with commas', "last\u2028one"]
ROWS = [{"text": text, "label": f"l{i % 2}", "n": i} for i, text in enumerate(TEXTS)]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(name: str, content: str | bytes) -> None:
    """A file, compressed as its name says."""
    data = content.encode() if isinstance(content, str) else content
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    if name.endswith(".zst"):
        with pa.CompressedOutputStream(str(path), "zstd") as file:
            file.write(data)
    else:
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)


def ids(path: str) -> list[list[int]]:
    """What the processor makes of every sample."""
    source, processor = Source(path=path, split=None), TEXT.processor(tokenizer="bytes")
    narrow = source.only([TEXT])
    return [processor(narrow.raw(TEXT, row))["input_ids"].tolist() for row in narrow.rows(range(len(narrow)))]


EXPECTED = [list(text.encode()) for text in TEXTS]
PACKED = ["", ".gz", ".zst"]


@pytest.mark.parametrize("packed", PACKED)
def test_round_trip_of_documents_and_lines(packed: str) -> None:
    for number, text in enumerate(TEXTS):
        write(f"docs/{'ab'[number % 2]}/{number}.{('TXT', 'md')[number > 1]}{packed}", text)
    assert ids("docs") == [EXPECTED[i] for i in (0, 2, 1, 3)]
    assert Source(path="docs").labels().names == ["a", "b"]
    write(f"all.txt{packed}", "\r\n".join(["\ufeff" + TEXTS[0], "", *TEXTS[1:]]) + "\n")
    assert ids(f"all.txt{packed}") == EXPECTED
    for split, text in zip(("train", "test"), TEXTS, strict=False):
        write(f"wiki/{split}.txt{packed}", f"{text}\n{text}\n")
    assert len(Source(path="wiki", split="test")) == 2


@pytest.mark.parametrize("packed", PACKED)
@pytest.mark.parametrize("kind", ["json", "jsonl", "csv", "tsv"])
def test_round_trip_of_tables(kind: str, packed: str) -> None:
    import csv
    import io

    content = io.StringIO()
    if kind == "json":
        json.dump(ROWS, content, indent=1)
    elif kind == "jsonl":
        content.write("\n".join(json.dumps(row) for row in ROWS))
    else:
        writer = csv.DictWriter(content, ["text", "label", "n"], delimiter={"csv": ",", "tsv": "\t"}[kind])
        writer.writeheader()
        writer.writerows(ROWS)
    write(f"t.{kind}{packed}", content.getvalue())
    source = Source(path=f"t.{kind}{packed}")
    assert source.rows(range(4)) == ROWS
    assert ids(f"t.{kind}{packed}") == EXPECTED


def test_json_of_other_forms() -> None:
    write("one.json", json.dumps({"version": 1, "data": ROWS}))
    write("lines.json", "\n".join(json.dumps(row) for row in ROWS))
    assert ids("one.json") == ids("lines.json") == EXPECTED


LATIN = "Es kostet fünf Euro.\n".encode("latin-1")
SEVERAL: dict[str, tuple[str, bytes, str]] = {
    "windows": ("a.txt", b"fine\n" + LATIN, r"line 2 is no UTF-8 \(byte 0xfc\), but seems to be WINDOWS-1252\. Save .*iconv -f"),
    "utf-16": ("a.txt", "a text".encode("utf-16"), "it is UTF-16, not UTF-8"),
    "utf-16 without mark": ("a.txt", "ein sätzchen ü\n".encode("utf-16-le"), "UTF-16LE"),
    "noise": ("a.txt", b"\x00\x81\x8d\xff\xfe", "of no encoding that is easy to tell"),
    "pdf": ("a.txt", b"%PDF-1.7\n\xff", "it is a PDF document, not text"),
    "empty": ("a.txt", b"\n \n", "has no rows: it has no line that is not blank"),
    "csv": ("a.csv", b"text,label\n" + LATIN.strip() + b",a\n", r"line 2 is no UTF-8 \(byte 0xfc\), but seems"),
    "json": ("a.json", b'[{"text": "' + LATIN.strip() + b'"}]', "it is no UTF-8 .* seems to be WINDOWS-1252"),
    "json of nothing": ("a.json", b'{"a": [1], "b": 2}', "a .json file holds a list of objects"),
    "json of two": ("a.json", b'{"a": [{"x": 1}], "b": [{"x": 2}]}', "of which 'a' and 'b' are lists of objects"),
    "json cut": ("a.json", b'[{"text": "a"},', r"line 1, character"),
    "json of numbers": ("a.json", b"[1, 2]", "item 0 of its list is a int"),
}


@pytest.mark.parametrize("case", SEVERAL)
def test_bad_files_are_named_with_the_way_out(case: str) -> None:
    name, content, message = SEVERAL[case]
    write(name, content)
    with pytest.raises(ValueError, match=message) as caught:
        Source(path=name)
    assert name in str(caught.value)


def test_bad_documents_are_named_by_the_processor() -> None:
    write("docs/a.txt", LATIN)
    write("docs/b.md", "fine")
    with pytest.raises(ValueError, match=r"cannot read docs/a\.txt: it is no UTF-8 \(byte 0xfc\), but seems to be WINDOWS-1252"):
        ids("docs")
    with pytest.raises(FileNotFoundError, match=r"no text file docs/gone\.txt"):
        TEXT.processor()({"path": "docs/gone.txt", "bytes": None})


@pytest.mark.parametrize("name", ["a.txt.gz", "a.csv.gz", "a.jsonl.gz", "a.json.gz", "a.txt.zst", "a.csv.zst"])
def test_damaged_archives_are_named(name: str) -> None:
    write(name, "text\n" + "a line\n" * 5000 if "json" not in name else json.dumps({"text": "a"}) + "\n" * 90000)
    good = Path(name).read_bytes()
    for bad in (good[: len(good) // 2], b"no archive at all"):
        Path(name).write_bytes(bad)
        with pytest.raises(ValueError, match=f"cannot read {name}"):
            Source(path=name)


def test_notes_beside_other_data_are_no_texts() -> None:
    write("t/data.csv", "text\na\n")
    write("t/README.md", "what this is")
    write("t/info.json", "{}")
    assert ids("t") == [[97]]
    assert Source(path="t").notes == ("t: 2 files passed over: 1 .json, 1 .md.",)


@settings(max_examples=50, deadline=None)
@given(content=st.binary(max_size=60), suffix=st.sampled_from([".txt", ".json", ".csv", ".txt.gz"]))
def test_any_bytes_are_read_or_refused(content: bytes, suffix: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("any") / f"a{suffix}"
    path.write_bytes(content)
    read: Callable[[], object] = lambda: Source(path=str(path)).rows([0])  # noqa: E731
    try:
        read()
    except ValueError as error:
        assert str(path) in str(error)
