import errno
import os
import re
from pathlib import Path

import fsspec
import pytest

from amalgam_edge.errors import AmalgamError
from amalgam_edge.storage import files, syncing
from amalgam_edge.storage.owned_names import new_name


@pytest.fixture(params=["local", "memory", "bucket"])
def folder(request, tmp_path):
    """A folder that is not there yet, on each kind of file system."""
    if request.param == "local":
        return tmp_path / "deep" / "folder"
    return f"{request.getfixturevalue(request.param)}/deep/folder"


def test_a_file_is_there_whole_until_it_is_deleted(folder):
    file = files.join(folder, "inside", "a.json")
    assert (files.exists(file), files.names(folder)) == (False, [])
    with pytest.raises(FileNotFoundError):
        files.read(file)
    files.write(file, b"first, and long")
    files.write(file, memoryview(b"second"))
    assert (files.exists(file), files.read(file)) == (True, b"second")
    assert (files.names(folder), files.names(files.join(folder, "inside"))) == (["inside"], ["a.json"])
    files.delete(file)
    files.delete(file)
    assert not files.exists(file)
    assert files.names(files.join(folder, "inside")) == []


def test_what_another_client_wrote_is_seen(bucket):
    folder = f"{bucket}/seen"
    files.write(f"{folder}/a", b"1")
    assert files.names(folder) == ["a"]
    other = fsspec.filesystem("s3", skip_instance_cache=True)
    other.pipe_file(f"{folder}/b", b"2")
    assert files.names(folder) == ["a", "b"]
    assert files.exists(f"{folder}/b")


def test_local_paths_and_urls_are_told_apart(tmp_path):
    assert files.locate(str(tmp_path)) == tmp_path
    assert files.locate(f"file://{tmp_path}/a") == tmp_path / "a"
    assert files.locate(f"local://{tmp_path}/a") == tmp_path / "a"
    assert files.locate("relative/a") == Path("relative/a")
    assert files.locate("s3://bucket/a/") == "s3://bucket/a"
    assert [files.is_url(where) for where in ("s3://a/b", f"file://{tmp_path}", tmp_path)] == [True, False, False]


def test_what_fails_twice_is_tried_again_with_growing_waits(flaky):
    flaky.failures = 2
    files.write("flaky://there/a", b"content")
    assert flaky.waits == [0.5, 2.0]
    flaky.failures = 2
    assert files.exists("flaky://there/a")
    assert files.read("flaky://there/a") == b"content"


def test_what_always_fails_says_why_and_how_often_it_was_tried(flaky):
    flaky.failures = 99
    with pytest.raises(OSError, match=r"^the connection was reset; tried 4 times$"):
        files.write("flaky://there/a", b"content")
    assert flaky.waits == [0.5, 2.0, 8.0]
    for ask in (files.exists, files.names):
        with pytest.raises(AmalgamError, match=r"there: cannot be read \(the connection was reset; tried 4 times"):
            ask("flaky://there")


@pytest.mark.parametrize(
    "error", [PermissionError, FileNotFoundError, NotADirectoryError, IsADirectoryError, FileExistsError]
)
def test_what_no_waiting_mends_is_not_tried_again(flaky, error):
    flaky.failures, flaky.error = 99, error("Access Denied")
    with pytest.raises(error, match="Access Denied"):
        files.write("flaky://there/a", b"content")
    assert flaky.waits == []


def test_names_are_in_order(folder):
    for name in ("b", "c", "a", "B", "10", "9"):
        files.write(files.join(folder, name), b"x")
    assert files.names(folder) == ["10", "9", "B", "a", "b", "c"]


def test_a_file_system_that_nobody_knows_is_refused():
    with pytest.raises(
        AmalgamError,
        match=r"^nonsense://a: no file system that is read here; give a local path, or a URL of one of abfs, ",
    ):
        files.exists("nonsense://a")


@pytest.mark.parametrize(
    "url",
    [
        "reference://::http://127.0.0.1:9/x",
        "simplecache::s3://bucket/x",
        "filecache://::memory://a",
        "zip://a.txt::memory://a.zip",
        "s3://bucket/a::memory://b",
        "memory://::",
        "data://text/plain;base64,YQ==",
        "python:///etc/passwd",
        "sftp://host/a",
        "ssh://host/a",
        "ftp://host/a",
        "jupyter://host/a",
        "git:///repository:a",
        "reference:///tmp/a.json",
        "cached://a",
        "DATA://a",
        "://a",
    ],
)
@pytest.mark.parametrize("use", [files.exists, files.read, files.names, files.delete, files.delete_folder])
def test_chains_and_file_systems_that_do_more_than_hold_files_are_never_opened(monkeypatch, url, use):
    monkeypatch.setattr(fsspec.core, "url_to_fs", lambda url: pytest.fail(f"{url} was opened"))
    with pytest.raises(AmalgamError, match=f"^{re.escape(url)}: "):
        use(url)


def test_a_file_system_whose_package_is_missing_names_it(monkeypatch):
    def fail(url):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", fail)
    with pytest.raises(
        AmalgamError, match=r"^s3://b/a: its file system needs a package \(Install s3fs to access S3\)$"
    ):
        files.read("s3://b/a")


def test_a_full_disk_here_is_not_tried_again_and_not_told_as_a_file_that_cannot_be_read(flaky):
    flaky.failures, flaky.error = 99, OSError(errno.ENOSPC, "No space left on device")
    flaky.waits.clear()
    with pytest.raises(AmalgamError, match=r"^flaky://there/a: cannot be copied to this machine .No space left"):
        files.exists("flaky://there/a")
    assert flaky.waits == []


def test_a_file_is_on_the_disk_when_it_was_written(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(syncing, "_sync", lambda descriptor: synced.append(os.fstat(descriptor).st_ino))
    files.write(tmp_path / "deep" / "a", b"content")
    assert {path.stat().st_ino for path in (tmp_path, tmp_path / "deep", tmp_path / "deep" / "a")} == set(synced)


def test_only_parts_of_this_project_are_stale(tmp_path):
    kept = [tmp_path / "x.part", tmp_path / ".x.part", tmp_path / "shard-000000.parquet.123.part"]
    for path in (*kept, new_name(tmp_path / "shard-000000.parquet")):
        path.touch()
        os.utime(path, (1, 1))
    files.delete_stale_parts(tmp_path)
    assert set(tmp_path.iterdir()) == set(kept)
