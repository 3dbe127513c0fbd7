"""Suffixes, and the seam at which a new file format is added."""

from pathlib import Path

import datasets
import pytest

from amalgam_edge.corpus import read_corpus
from amalgam_edge.corpus.formats import FORMATS, Format
from amalgam_edge.errors import AmalgamError
from amalgam_edge.tables.formats import FORMAT_OF_SUFFIX, format_suffix, is_compressed


@pytest.mark.parametrize(
    ("name", "suffix", "compressed"),
    [
        ("texts.csv", ".csv", False),
        ("TEXTS.CSV.GZ", ".csv", True),
        ("a.b.jsonl.xz", ".jsonl", True),
        ("texts.txt.bz2", ".txt", True),
        ("texts.parquet.zst", ".parquet", True),
        ("texts.gz", "", True),
        ("texts.zip", ".zip", False),
        ("texts", "", False),
    ],
)
def test_the_format_is_the_suffix_below_a_compression(name, suffix, compressed):
    assert format_suffix(name) == suffix
    assert is_compressed(name) == compressed


def test_the_formats_are_those_of_the_documentation():
    assert list(FORMATS) == [".txt", ".csv", ".tsv", ".jsonl", ".json", ".parquet"]
    assert list(FORMAT_OF_SUFFIX) == list(FORMATS)  # predict reads what build reads
    assert [suffix for suffix, known in FORMATS.items() if known.begins] == [".parquet"]


def read_paragraphs(paths):
    """A format in which blank lines separate texts."""
    texts = [text for path in paths for text in Path(path).read_text("utf-8").split("\n\n")]
    return datasets.Dataset.from_dict({"paragraph": texts})


def test_one_entry_adds_a_format(tmp_path, memory, monkeypatch):
    import fsspec

    (tmp_path / "a.md").write_text("one\nline\n\nsecond", "utf-8")
    with pytest.raises(AmalgamError, match="format not known"):
        read_corpus(str(tmp_path / "a.md"))
    monkeypatch.setitem(FORMATS, ".md", Format(read_paragraphs))
    assert list(read_corpus(str(tmp_path / "a.md")).texts) == ["one\nline", "second"]
    assert list(read_corpus(str(tmp_path)).texts) == ["one\nline", "second"]
    fsspec.filesystem("memory").pipe_file("/here/b.md", b"third\n\nfourth")
    assert list(read_corpus(f"{memory}/b.md").texts) == ["third", "fourth"]
    (tmp_path / "b.md").write_bytes(b"\0")
    with pytest.raises(AmalgamError, match="binary"):
        read_corpus(str(tmp_path / "b.md"))
    (tmp_path / "c.pdf").write_text("words")
    with pytest.raises(AmalgamError, match=r"give one of .*\.parquet, \.md$"):
        read_corpus(str(tmp_path / "c.pdf"))
