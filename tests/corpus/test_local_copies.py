"""Files that ``datasets`` would take for something else, and archives that unpack to more than they should."""

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from pathlib import Path

import datasets
import pytest

from amalgam_edge.corpus import local_copies, read_corpus
from amalgam_edge.errors import AmalgamError
from amalgam_edge.tables import unpacking

SECRET = "what stands in another file"


def texts_of(source):
    return list(read_corpus(str(source)).texts)


@pytest.mark.parametrize("name", ["a[1].txt", "a*.txt", "a?.txt", "**.txt", "zip::a.txt", "a]b.txt", "a::b::c.txt"])
def test_a_name_is_never_a_pattern_nor_a_chain(tmp_path, name):
    (tmp_path / "a1.txt").write_text(SECRET, "utf-8")
    folder = tmp_path / "deep"
    folder.mkdir()
    (folder / "ab.txt").write_text(SECRET, "utf-8")
    (folder / name).write_text("the text itself\n", "utf-8")
    assert texts_of(folder / name) == ["the text itself"]
    (folder / "ab.txt").unlink()
    assert texts_of(folder) == ["the text itself"]


def test_a_folder_whose_name_is_a_chain_is_a_folder(tmp_path):
    folder = tmp_path / "reference::memory:" / "x"
    folder.mkdir(parents=True)
    (folder / "a.txt").write_text("the text itself\n", "utf-8")
    assert texts_of(folder) == texts_of(tmp_path) == ["the text itself"]


def test_a_changed_file_with_such_a_name_is_read_anew(tmp_path):
    file = tmp_path / "a[1].txt"
    for text in ("first", "second, and longer"):
        file.write_text(text, "utf-8")
        assert texts_of(file) == [text]


PACKERS = {".gz": gzip.compress, ".xz": lzma.compress, ".bz2": bz2.compress}


@pytest.mark.parametrize("packing", PACKERS)
def test_what_unpacks_to_far_more_than_its_size_is_refused_before_it_fills_the_disk(tmp_path, monkeypatch, packing):
    monkeypatch.setattr(unpacking, "MOST_UNPACKED", 2**20)
    bomb = tmp_path / f"a.txt{packing}"
    bomb.write_bytes(PACKERS[packing](b"a text\n" * 2**20))
    assert 2**20 < 100 * bomb.stat().st_size < 7 * 2**20 or packing != ".gz"
    written = []
    staged_file = local_copies.staged_file

    def note_size(path):
        written.append(path)
        return staged_file(path)

    monkeypatch.setattr(local_copies, "staged_file", note_size)
    with pytest.raises(AmalgamError, match=r"a\.txt.*unpacks to more than 0\.0 GB.*unpack it yourself"):
        read_corpus(str(bomb))
    (copy,) = written
    assert not list(copy.parent.glob(f"{copy.name}*"))


def test_what_unpacks_to_as_much_as_the_limit_is_read(tmp_path, monkeypatch):
    content = b"a text\n" * 1000
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(content))
    monkeypatch.setattr(unpacking, "MOST_EXPANSION", 1)
    monkeypatch.setattr(unpacking, "MOST_UNPACKED", len(content))
    assert texts_of(tmp_path / "a.txt.gz") == ["a text"]
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(content + b"\n"))
    with pytest.raises(AmalgamError, match="unpacks to more"):
        read_corpus(str(tmp_path / "b.txt.gz"))


def zipped(content):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inner.txt", content)
    return stream.getvalue()


def tarred(content):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        entry = tarfile.TarInfo("inner.txt")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


@pytest.mark.parametrize("archive", [zipped, tarred, gzip.compress, bz2.compress, lzma.compress])
@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.jsonl", "a.parquet", "a.txt.gz", "a.jsonl.xz", "a[1].txt"])
def test_an_archive_by_another_name_is_never_unpacked(tmp_path, monkeypatch, archive, name):
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **options: pytest.fail("it was opened"))
    packed = archive(b"a text\n" * 100)
    (tmp_path / name).write_bytes(PACKERS.get(Path(name).suffix, bytes)(packed))
    with pytest.raises(AmalgamError, match=r"an archive inside|whatever its name says|a binary file"):
        read_corpus(str(tmp_path / name))


def test_a_folder_is_not_read_through_links(tmp_path):
    (tmp_path / "secret.txt").write_text(SECRET, "utf-8")
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_text("a text", "utf-8")
    (folder / "b.txt").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(AmalgamError, match=r"b\.txt: a link"):
        read_corpus(str(folder))
    assert texts_of(folder / "b.txt") == [SECRET]  # the user named it


def test_a_damaged_archive_is_refused_in_one_line(tmp_path):
    for packing, pack in PACKERS.items():
        packed = pack(b"some text that is long enough to be cut off somewhere inside\n" * 50)
        for content in (packed[: len(packed) // 2], b"no archive at all"):
            file = tmp_path / f"{len(content)}.txt{packing}"
            file.write_bytes(content)
            with pytest.raises(AmalgamError) as refused:
                read_corpus(str(file))
            assert "\n" not in str(refused.value)
