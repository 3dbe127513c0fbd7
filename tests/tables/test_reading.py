"""Tables read row by row: every format, what is refused and where, streams, and bounds."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import threading
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from amalgam_edge.corpus import read_corpus
from amalgam_edge.errors import AmalgamError
from amalgam_edge.tables import lines, reading, unpacking
from amalgam_edge.tables.formats import FORMAT_OF_SUFFIX
from amalgam_edge.tables.reading import read_file, read_stream
from amalgam_edge.tables.rows import JsonElements

ROWS = [
    {"id": "1", "text": "plain words"},
    {"id": "2", "text": 'a "quoted", comma\nand a second line'},
    {"id": "3", "text": "emoji 🐧🇩🇪, ümlauts\u2028and a separator"},
    {"id": "4", "text": "NA"},
    {"id": "5", "text": "  spaces kept  "},
]


def as_csv(rows, delimiter=","):
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def as_parquet(rows):
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), out)
    return out.getvalue()


WRITERS = {
    ".csv": as_csv,
    ".tsv": lambda rows: as_csv(rows, "\t"),
    ".jsonl": lambda rows: "".join(json.dumps(row) + "\n" for row in rows).encode(),
    ".json": lambda rows: json.dumps(rows, ensure_ascii=False).encode(),
    ".parquet": as_parquet,
}
PACKERS = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress, ".bz2": bz2.compress}


@pytest.fixture
def write(tmp_path):
    def put(name, content):
        path = tmp_path / name
        path.write_bytes(content)
        return str(path)

    return put


def rows_of(table):
    return [row for chunk in table.chunks for row in chunk]


def refusal(read, *arguments, **options):
    with pytest.raises(AmalgamError) as refused:
        rows_of(read(*arguments, **options))
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize("packing", PACKERS)
@pytest.mark.parametrize("suffix", [suffix for suffix in FORMAT_OF_SUFFIX if suffix != ".txt"])
def test_every_format_keeps_every_column(write, suffix, packing):
    if suffix == ".parquet" and packing:
        pytest.skip("Parquet compresses itself")
    table = read_file(write(f"T{suffix}{packing}".upper(), PACKERS[packing](WRITERS[suffix](ROWS))))
    assert table.columns == ("id", "text")
    rows = rows_of(table)
    assert [dict(row.values) for row in rows] == ROWS
    assert [row.text for row in rows] == [row["text"] for row in ROWS]


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize(
    ("rows", "wanted"),
    [
        ([{"title": "t", "text": "x"}], None),
        ([{"title": "t", "body": "x"}], "body"),
        ([{"id": 1, "sentence": "x"}, {"id": 2, "sentence": "y"}], None),
        ([{"title": "t", "body": "x"}], None),
        ([{"title": "t", "text": "x"}], "nix"),
    ],
)
def test_the_text_s_column_is_the_one_that_a_build_reads(write, suffix, rows, wanted):
    """The same texts, or the same refusal."""
    path = write(f"t{suffix}", WRITERS[suffix](rows))

    def outcome(read):
        try:
            return list(read())
        except AmalgamError as error:
            return str(error)

    built = outcome(lambda: read_corpus(path, text_column=wanted).texts)
    assert outcome(lambda: [row.text for row in rows_of(read_file(path, text_column=wanted))]) == built


def test_values_of_json_stay_what_they_are(write):
    rows = [{"text": "a", "n": 1, "x": 1.5, "list": [1, {"a": None}], "no": None, "yes": True}]
    for suffix in (".jsonl", ".json"):
        assert [dict(row.values) for row in rows_of(read_file(write(f"t{suffix}", WRITERS[suffix](rows))))] == rows


def test_a_row_without_a_text_has_an_empty_one_and_keeps_its_place(write):
    content = b'{"text": "a"}\n\n{"text": null}\n{"id": 3}\n'
    assert [(row.text, row.place) for row in rows_of(read_file(write("t.jsonl", content)))] == [
        ("a", "line 1"),
        ("", "line 3"),
        ("", "line 4"),
    ]


def test_missing_cells_at_the_end_of_a_row_are_empty(write):
    (row,) = rows_of(read_file(write("t.csv", b"text,more\na\n")))
    assert row.values == {"text": "a", "more": ""}


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.json", "t.txt"])
def test_a_byte_order_mark_is_dropped(write, name):
    content = {"t.csv": b"text\na", "t.txt": b"a"}.get(name, b'{"text": "a"}')
    assert [row.text for row in rows_of(read_file(write(name, b"\xef\xbb\xbf" + content)))] == ["a"]


def test_half_an_emoji_is_a_question_mark_as_over_http(write):
    content = b'{"text": "cut \\ud83d", "whole": "\\ud83d\\udc27"}'
    for name in ("t.jsonl", "t.json"):
        (row,) = rows_of(read_file(write(name, content)))
        assert row.values == {"text": "cut ?", "whole": "🐧"}


@pytest.mark.parametrize("size", [1, 3, 7, 10**6])
@pytest.mark.parametrize(
    "write_json",
    [
        json.dumps,
        lambda rows: json.dumps(rows, indent=2, ensure_ascii=False),
        lambda rows: "\n".join(map(json.dumps, rows)),
        lambda rows: "\n".join(json.dumps(row, indent=1) for row in rows),
    ],
)
def test_json_comes_in_parts_of_any_size(write_json, size):
    rows = [{"text": "é猫\n,] " * (k % 4), "n": [k, {"a": None}]} for k in range(20)]
    content = write_json(rows).encode()
    parts = (content[start : start + size] for start in range(0, len(content), size))
    assert [row.values for row in JsonElements("x").rows(parts)] == rows


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.jsonl", b'{"text": "a"}\n{"text": \n', "t.jsonl, line 2: no JSON"),
        ("t.jsonl", b'{"text": "a"}\n\n"b"\n', "t.jsonl, line 3: no JSON object"),
        ("t.jsonl", b'{"text": "a"}\n{"text": 7}\n', "t.jsonl, line 2: column 'text' holds 7, not text"),
        ("t.jsonl", b'{"text": ' + b"[" * 10**5, "t.jsonl, line 1: no JSON"),
        ("t.json", b'[{"text": "a"}, {"text": ', "t.json, row 2: no JSON, or cut off"),
        ("t.json", b'[{"text": "a"}] more', "t.json, row 2: no JSON, or cut off"),
        ("t.json", b'[{"text": "a"}, null]', "t.json, row 2: no JSON object"),
        ("t.json", b'{"text": ' + b"[" * 10**5, "t.json, row 1: nested too deeply"),
        ("t.csv", b'text,b\na,1\n"never closed,1\n2,3\n', "t.csv, line 4: no CSV"),
        ("t.csv", b"text,b\na,1\n1,2,3,4\n", "t.csv, line 3: 4 cells, and the header names 2 columns"),
        ("t.csv", b"text,text\na,b\n", "t.csv, line 1: two columns are called 'text'"),
        ("t.csv", b"", "t.csv: the file is empty"),
        ("t.parquet", b"no table", "t.parquet: no .parquet file"),
        ("t.parquet", b"PAR1 but no table", "t.parquet: cannot be read"),
        ("t.txt.gz", b"no gzip at all", "t.txt.gz: cannot be unpacked"),
        ("t.txt.gz", gzip.compress(os.urandom(999), mtime=0)[:500], "t.txt.gz: "),
        ("t.txt", gzip.compress(b"words", mtime=0), "an archive inside"),
        (
            "t.txt",
            b"one\ntw\0o\n",
            "t.txt: a binary file, not text (UTF-8 is expected); line 2 holds a NUL byte; in a text, remove",
        ),
        ("t.txt", b"x" * 2**16 + b"\none\0\n", "t.txt, line 2: holds a NUL byte"),
        ("t.txt", "a\nb\ngrün\n".encode("latin-1"), "t.txt, line 3: not a text file (UTF-8 is expected); if it is Lat"),
        ("t.csv", "text\na\ngrün\n".encode("latin-1"), "t.csv, line 3: not a text file (UTF-8"),
        ("t.json", '[{"text":\n"grün"}]'.encode("latin-1"), "t.json, line 2: not a text file (UTF-8"),
        ("t.txt", "a text".encode("utf-16"), "line 1: UTF-16, and UTF-8 is expected; convert it: iconv -f utf-16"),
        ("t.csv", "text\na".encode("utf-32"), "line 1: UTF-32, and UTF-8 is expected; convert it: iconv -f utf-32"),
    ],
)
def test_what_is_refused_is_named_with_its_place(write, name, content, message):
    assert message in refusal(read_file, write(name, content))


@pytest.mark.parametrize("name", ["gone.csv", "."])
def test_what_cannot_be_read_is_named(tmp_path, name):
    assert refusal(read_file, str(tmp_path / name)).startswith(f"{tmp_path / name}: cannot be read (")


def test_parquet_without_pyarrow_says_what_to_install(write, monkeypatch):
    path = write("t.parquet", as_parquet(ROWS))
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    assert refusal(read_file, path) == f"{path}: reading Parquet needs pyarrow: pip install pyarrow"


def test_an_ending_that_is_not_known_is_lines_of_text_and_a_format_wins_over_it(write):
    path = write("notes.log", b"text\na\n")
    assert [row.text for row in rows_of(read_file(path))] == ["text", "a"]
    assert [row.text for row in rows_of(read_file(path, file_format="csv"))] == ["a"]


@pytest.mark.parametrize(
    ("file_format", "begins", "part"),
    [
        ("text", b"x", b"x" * 2**20),
        ("csv", b"text,more\n", b"x" * 2**20),
        ("csv", b'text,more\n"', (b"x" * 99 + b"\n") * 10_000),  # one cell of many lines
        ("csv", b'text,more\n"', (b"x" * 99 + b'\n","') * 10_000),  # many cells of two lines each
        ("jsonl", b'{"text": "', b"x" * 2**20),
        ("json", b'[{"text": "', b"x" * 2**20),
    ],
)
def test_an_endless_row_is_refused_before_it_takes_the_memory(file_format, begins, part):
    def endless():
        yield begins
        for n_read in range(1, 10**6):
            assert n_read * len(part) < 2 * lines.MOST_ROW_BYTES, "it goes on reading"
            yield part

    message = refusal(lambda: reading._table("x", endless(), file_format, None))
    assert "MiB, which no row of text is" in message or "field larger than field limit" in message


def test_what_unpacks_to_far_more_than_its_size_is_refused(write, monkeypatch):
    monkeypatch.setattr(unpacking, "MOST_UNPACKED", 2**20)
    monkeypatch.setattr(unpacking, "MOST_EXPANSION", 1)
    path = write("t.txt.gz", gzip.compress(b"a text\n" * 2**20))
    assert "unpacks to more than 0.0 GB" in refusal(read_file, path)


def test_large_rows_come_in_small_chunks(write, monkeypatch):
    monkeypatch.setattr(reading, "_BYTES_AT_ONCE", 1000)
    table = read_file(write("t.txt", (b"x" * 400 + b"\n") * 10))
    assert [len(chunk) for chunk in table.chunks] == [3, 3, 3, 1]


def test_rows_of_a_file_come_a_thousand_at_once(write):
    table = read_file(write("t.txt", b"x\n" * 3000))
    assert [len(chunk) for chunk in table.chunks] == [1024, 1024, 952]


@contextmanager
def closed_in_the_end(descriptor):
    """Closes a pipe's writing end, after a minute at the latest, so that a reader that waits for it fails."""
    timer = threading.Timer(60, os.close, [descriptor])
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        os.close(descriptor)


@pytest.mark.parametrize("suffix", [".txt", ".csv", ".tsv", ".jsonl", ".json"])
def test_a_row_of_a_pipe_is_given_before_the_next_one_is_written(suffix):
    first, second = {
        ".jsonl": (b'{"text": "a"}\n', b'{"text": "b"}\n'),
        ".json": (b'[{"text": "a"},\n', b'{"text": "b"}]\n'),
        ".txt": (b"a\n", b"b\n"),
    }.get(suffix, (b"text\na\n", b"b\n"))
    reader, writer = os.pipe()
    os.write(writer, first)
    with closed_in_the_end(writer), os.fdopen(reader, "rb") as stream:
        table = read_stream(stream, "standard input", file_format=FORMAT_OF_SUFFIX[suffix])
        assert [row.text for row in next(table.chunks)] == ["a"]  # or else it waits for ever, and the timer closes
        os.write(writer, second)
        assert [row.text for row in next(table.chunks)] == ["b"]


def test_rows_of_a_pipe_that_are_there_come_together():
    reader, writer = os.pipe()
    os.write(writer, b"a\nb\nc")
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        assert [[row.text for row in chunk] for chunk in read_stream(stream, "x").chunks] == [["a", "b"], ["c"]]


def test_parquet_is_no_stream():
    assert "Parquet cannot be read as it comes" in refusal(read_stream, io.BytesIO(b""), "x", file_format="parquet")
