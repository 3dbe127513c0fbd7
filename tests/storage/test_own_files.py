"""Files of a stranger's folder: regular ones of its own, and none that a link leads to."""

import os
import tracemalloc
from pathlib import Path

import pytest

from amalgam_edge.errors import AmalgamError
from amalgam_edge.storage import files
from amalgam_edge.storage.own_files import FileContent, own_file


@pytest.fixture
def secret(tmp_path):
    (tmp_path / "home").mkdir()
    file = tmp_path / "home" / "secret"
    file.write_text("secret", "utf-8")
    return file


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "bundle"
    (made / "inside").mkdir(parents=True)
    (made / "inside" / "a.txt").write_text("a", "utf-8")
    return made


def test_a_regular_file_is_read(folder):
    path = own_file(folder, "inside/a.txt")
    assert FileContent.read(path).content == b"a"
    assert "b'a'" not in repr(FileContent.read(path))  # a model's bytes have no place in a message


def test_a_link_is_never_followed(folder, secret):
    (folder / "b.txt").symlink_to(secret)
    (folder / "other").symlink_to(secret.parent)
    (folder / "c.txt").symlink_to(folder / "inside" / "a.txt")
    (folder / "gone.txt").symlink_to(folder / "nowhere")
    for name in ("b.txt", "other/secret", "c.txt", "gone.txt"):
        with pytest.raises(AmalgamError, match="a link, and links in a folder are not followed"):
            own_file(folder, name)


def test_the_folder_itself_may_be_a_link(folder, tmp_path):
    (tmp_path / "latest").symlink_to(folder)
    assert own_file(tmp_path / "latest", "inside/a.txt").read_text("utf-8") == "a"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names on Windows")
def test_what_is_no_regular_file_is_refused_unopened(folder):
    os.mkfifo(folder / "pipe")
    for name in ("pipe", "inside"):
        with pytest.raises(AmalgamError, match="no regular file"):
            own_file(folder, name)


def test_nothing_there_is_told_apart(folder):
    with pytest.raises(FileNotFoundError):
        own_file(folder, "nowhere.txt")


def test_the_cache_of_the_hub_links_to_its_own_contents_alone(tmp_path, secret):
    repository = tmp_path / "models--owner--name"
    version = repository / "snapshots" / "0123"
    (version / "onnx").mkdir(parents=True)
    (repository / "blobs").mkdir()
    (repository / "blobs" / "abc").write_text("content", "utf-8")
    (version / "a.txt").symlink_to("../../blobs/abc")
    (version / "onnx" / "b.txt").symlink_to("../../../blobs/abc")
    assert own_file(version, "a.txt").read_text("utf-8") == "content"
    assert own_file(version, "onnx/b.txt").read_text("utf-8") == "content"
    (version / "c.txt").symlink_to(secret)
    (repository / "blobs" / "def").symlink_to(secret)
    (version / "d.txt").symlink_to("../../blobs/def")
    (version / "e.txt").symlink_to("../../blobs/../../home/secret")
    for name in ("c.txt", "d.txt", "e.txt"):
        with pytest.raises(AmalgamError, match="a link"):
            own_file(version, name)


def test_contents_that_all_repositories_of_the_hub_s_cache_share_are_its_own(tmp_path, secret):
    cache = tmp_path / "cache"
    version, contents = cache / "models--owner--name" / "snapshots" / "0123", cache / "models--owner--name" / "blobs"
    for folder in (version, contents, cache / "blobs" / "ab"):
        folder.mkdir(parents=True)
    shared = f"ab{'0' * 62}"
    (cache / "blobs" / "ab" / shared).write_text("content", "utf-8")
    (cache / "blobs" / "ab" / "notes.txt").write_text("no content of the Hub", "utf-8")
    (cache / "blobs" / shared).write_text("no content of the Hub", "utf-8")
    for name, target in {"a": f"ab/{shared}", "b": "ab/notes.txt", "c": shared, "d": "../home/secret"}.items():
        (contents / name).symlink_to(Path("../../blobs") / target)
        (version / f"{name}.txt").symlink_to(Path("../../blobs") / name)
    assert own_file(version, "a.txt").read_text("utf-8") == "content"
    for name in ("b.txt", "c.txt", "d.txt"):
        with pytest.raises(AmalgamError, match="a link"):
            own_file(version, name)


def test_a_name_that_is_too_long_is_one_line(folder):
    with pytest.raises(AmalgamError, match="cannot be read") as refused:
        own_file(folder, "x" * 300)
    assert "\n" not in str(refused.value)


def test_no_memory_is_taken_for_more_than_there_is(folder):
    path = folder / "inside" / "a.txt"
    tracemalloc.start()
    try:
        assert FileContent.read(path).content == b"a"
        assert files.read(path, most_bytes=2**31) == b"a"
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_the_first_bytes_are_as_many_as_are_asked_for(folder):
    path = folder / "inside" / "long.txt"
    path.write_bytes(b"0123456789")
    found = [FileContent.read_start(path, n).content for n in (0, 4, 10, 11)]
    assert found == [b"", b"0123", b"0123456789", b"0123456789"]
