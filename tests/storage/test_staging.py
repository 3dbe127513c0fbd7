"""Outputs that appear whole or not at all: what is where after success, failure, kills and faults at every step."""

import errno
import os
import re
import signal
import time
from pathlib import Path

import pytest

from amalgam_edge.errors import AmalgamError
from amalgam_edge.storage import exchange as exchanging
from amalgam_edge.storage import output_lock, staging, syncing
from amalgam_edge.storage.owned_names import lock_name, new_name
from amalgam_edge.storage.staging import recover, staged, write_atomically, write_text_atomically
from tests.support.faults import calls_of, fail_at, run_and_die_at

# Links without asking, kills, and the calls that are counted are POSIX'.
POSIX = pytest.mark.skipif(os.name == "nt", reason="Windows does it by other calls")
OLD, NEW = {"amalgam.json": "old", "onnx/model.onnx": "old"}, {"amalgam.json": "new", "onnx/model.onnx": "new"}


def fill(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("_", ".")).write_text(content, "utf-8")
    return folder


def write(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, "utf-8")
    return folder


def content(folder):
    return {path.relative_to(folder).as_posix(): path.read_text("utf-8") for path in folder.rglob("*.*")}


def listing(folder):
    return sorted(path.name for path in folder.iterdir())


def replace(output):
    with staged(output) as folder:
        write(folder, NEW)


@pytest.fixture
def output(tmp_path):
    return tmp_path / "student"


@pytest.fixture(params=["exchange", "two renames"])
def way(request, monkeypatch):
    """How folders are replaced: as this system does it, or as one that cannot exchange them."""
    if request.param == "two renames":
        monkeypatch.setattr(staging, "exchange", lambda one, other: False)
    return request.param


def test_a_staged_folder_appears_whole(output):
    with staged(output) as folder:
        assert folder.is_dir()
        assert folder.parent == output.parent  # so that a rename suffices
        fill(folder / "onnx", model_onnx="weights")
        assert not output.exists()
    assert (output / "onnx" / "model.onnx").read_text("utf-8") == "weights"
    assert listing(output.parent) == ["student"]


def test_missing_parents_are_made(tmp_path):
    output = tmp_path / "a" / "b" / "student"
    with staged(output) as folder:
        fill(folder, x_txt="x")
    assert listing(output) == ["x.txt"]


def test_a_staged_folder_takes_the_place_of_the_old_one(output, way):
    fill(output, amalgam_json="old", gone_txt="old")
    with staged(output) as folder:
        fill(folder, amalgam_json="new")
        assert (output / "amalgam.json").read_text("utf-8") == "old"
    assert listing(output) == ["amalgam.json"]
    assert (output / "amalgam.json").read_text("utf-8") == "new"
    assert listing(output.parent) == ["student"]


def test_an_empty_folder_is_taken_over(output, way):
    output.mkdir()
    replace(output)
    assert content(output) == NEW
    assert listing(output.parent) == ["student"]


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("old", [True, False])
def test_a_failure_leaves_all_as_it_was(output, failure, old):
    if old:
        fill(output, amalgam_json="old")
    with pytest.raises(failure), staged(output) as folder:
        fill(folder, amalgam_json="half")
        raise failure
    assert listing(output.parent) == (["student"] if old else [])
    if old:
        assert (output / "amalgam.json").read_text("utf-8") == "old"


def test_what_a_killed_run_left_behind_is_not_taken_over(output):
    fill(new_name(output), stale_txt="stale")
    with staged(output) as folder:
        assert listing(folder) == []
        fill(folder, new_txt="new")
    assert listing(output) == ["new.txt"]


def test_what_a_killed_build_left_is_swept_away_and_nothing_of_anybody_else(tmp_path):
    output = tmp_path / "student[1]"
    for kind in ("part", "old"):
        fill(new_name(output, kind), half="half")
    kept = [
        new_name(tmp_path / "another"), new_name(tmp_path / "student1"), tmp_path / "student[1].99999.part",
        tmp_path / "student[1].mine.part", tmp_path / "x.part", tmp_path / "student[1].old",
    ]  # fmt: skip
    for folder in kept:
        fill(folder, thesis_doc="years of work")
    with staged(output) as folder:
        (folder / "whole").touch()
    assert listing(tmp_path) == sorted([*(folder.name for folder in kept), "student[1]"])


def test_what_another_machine_may_still_write_is_swept_when_it_is_old(output, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("platform.node", lambda: "another")
        young, old = (fill(new_name(output), half="half") for _ in range(2))
    os.utime(old, (time.time() - 25 * 3600,) * 2)
    replace(output)
    assert listing(output.parent) == sorted(["student", young.name])


def test_a_second_writer_is_refused_at_once_and_the_first_goes_on(output):
    fill(output, amalgam_json="old")
    with staged(output) as folder:
        with pytest.raises(AmalgamError) as refused, staged(output):
            pass
        write(folder, NEW)
    said = str(refused.value)
    holder = "" if os.name == "nt" else f" (process {os.getpid()} on "  # nobody else may read a locked file there
    assert said.startswith(f"{output}: another process writes it{holder}")
    assert "\n" not in said
    assert content(output) == NEW
    assert listing(output.parent) == ["student"]


@POSIX
def test_a_writer_by_a_link_and_one_by_the_folder_are_two(output, tmp_path):
    output.mkdir()
    (tmp_path / "link").symlink_to(output)
    with (
        staged(output),
        pytest.raises(AmalgamError, match="link: another process writes it"),
        staged(tmp_path / "link"),
    ):
        pass


def test_what_must_not_be_replaced_is_asked_when_nobody_else_can_write(output):
    def check():
        with pytest.raises(AmalgamError, match="another process"), staged(output):
            pass
        raise AmalgamError("not that one")

    with pytest.raises(AmalgamError, match="not that one"), staged(output, check=check):
        raise AssertionError
    assert listing(output.parent) == []


def test_where_there_are_no_locks_it_works_without_and_sweeps_nothing(output, monkeypatch):
    def no_locks(descriptor, *, blocking):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("filelock.lock_descriptor", no_locks)
    running = fill(new_name(output), half="half")
    fill(output, amalgam_json="old")
    replace(output)
    assert content(output) == NEW
    assert listing(output.parent) == sorted([running.name, "student"])


@POSIX
def test_a_link_stays_and_leads_to_the_new_folder(tmp_path):
    write(tmp_path / "real" / "student", OLD)
    link = tmp_path / "link"
    link.symlink_to("real/student")
    replace(link)
    assert link.is_symlink()
    assert content(tmp_path / "real" / "student") == content(link) == NEW
    assert (listing(tmp_path), listing(tmp_path / "real")) == (["link", "real"], ["student"])


@POSIX
def test_a_link_to_nothing_gets_its_folder(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "deep" / "student")
    replace(tmp_path / "link")
    assert content(tmp_path / "deep" / "student") == NEW


def refuse_before_the_block(output, match):
    with pytest.raises(AmalgamError, match=match) as refused, staged(output):
        raise AssertionError("the block was entered")
    assert "\n" not in str(refused.value)


@POSIX
def test_a_link_in_a_circle_is_refused_at_the_start(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    refuse_before_the_block(tmp_path / "a", "a link that leads in a circle")


@POSIX
@pytest.mark.parametrize("length", [200, 255])
def test_a_long_name_has_room_for_what_stands_beside_it(tmp_path, length, way):
    output = tmp_path / ("é" * (length // 2) + "x" * (length % 2))
    for _ in range(2):
        replace(output)
    assert listing(tmp_path) == [output.name]
    write_text_atomically(tmp_path / ("y" * length), "content")


@POSIX
def test_a_name_that_is_too_long_is_refused_at_the_start(tmp_path):
    refuse_before_the_block(tmp_path / ("x" * 256), "cannot be written .File name too long.")


def test_the_current_folder_and_those_around_it_are_refused(output, monkeypatch):
    (output / "onnx").mkdir(parents=True)
    for inside in (output, output / "onnx"):
        monkeypatch.chdir(inside)
        refuse_before_the_block(output, "the current folder cannot be replaced")


def test_a_file_is_refused_at_the_start(output):
    output.touch()
    refuse_before_the_block(output, "student: a file stands there")
    refuse_before_the_block(output / "deep", "student: a file stands there")


@POSIX
@pytest.mark.parametrize("code", [errno.EBUSY, errno.EXDEV, errno.EPERM])
def test_a_folder_that_the_system_does_not_move_is_refused_at_the_start(output, monkeypatch, code):
    write(output, OLD)
    real = os.rename

    def rename(source, target):
        if Path(source) == output:
            raise OSError(code, os.strerror(code), str(source), None, str(target))
        real(source, target)

    monkeypatch.setattr(os, "rename", rename)
    words = "a mount point cannot be" if code == errno.EBUSY else re.escape(f"cannot be replaced ({os.strerror(code)})")
    refuse_before_the_block(output, f"student: {words}")
    assert content(output) == OLD
    assert listing(output.parent) == ["student"]


@POSIX
def test_trying_whether_a_folder_can_be_moved_does_not_move_it(output):
    write(output, OLD)
    before = output.stat().st_ino
    with pytest.raises(RuntimeError), staged(output) as folder:
        assert listing(folder) == []
        assert (output.stat().st_ino, content(output)) == (before, OLD)
        raise RuntimeError


@POSIX
def test_all_files_and_folders_are_synced_before_and_the_parent_after(output, monkeypatch, way):
    write(output, OLD)
    done = []
    real_exchange, real_rename = staging.exchange, os.rename
    monkeypatch.setattr(syncing, "_sync", lambda descriptor: done.append(os.fstat(descriptor).st_ino))

    def swap(one, other):
        done.append("in place")
        return real_exchange(one, other)

    def rename(source, target):
        if Path(target) == output and Path(source).suffix == ".new":
            done.append("in place")
        real_rename(source, target)

    monkeypatch.setattr(staging, "exchange" if way == "exchange" else "_", swap, raising=False)
    monkeypatch.setattr(os, "rename", rename)
    with staged(output) as folder:
        write(folder, {**NEW, "empty": ""})
        inodes = {path.stat().st_ino for path in (folder, *folder.rglob("*"))}
        assert len(inodes) == 5
    moment = len(done) - 1 - done[::-1].index("in place")
    assert inodes <= set(done[:moment])
    assert output.parent.stat().st_ino in done[moment:]


@POSIX
def test_a_file_is_synced_before_and_its_folder_after(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "page.html"
    done = []
    real = os.replace
    monkeypatch.setattr(syncing, "_sync", lambda descriptor: done.append(os.fstat(descriptor).st_ino))
    monkeypatch.setattr(os, "replace", lambda source, target: (done.append("in place"), real(source, target)))
    write_text_atomically(path, "content")
    moment = done.index("in place")
    assert path.stat().st_ino in done[:moment]
    assert tmp_path.stat().st_ino in done[:moment]  # which holds the name of the folder that was made
    assert path.parent.stat().st_ino in done[moment:]


def test_a_file_takes_the_place_of_another(tmp_path):
    page = tmp_path / "deep" / "page.html"
    write_text_atomically(page, "eins")
    write_text_atomically(page, "zwei ↔")
    assert page.read_text("utf-8") == "zwei ↔"
    assert listing(page.parent) == ["page.html"]


@POSIX
def test_a_file_behind_a_link_is_replaced_and_the_link_stays(tmp_path):
    (tmp_path / "link.html").symlink_to("page.html")
    write_text_atomically(tmp_path / "link.html", "content")
    assert (tmp_path / "link.html").is_symlink()
    assert (tmp_path / "page.html").read_text("utf-8") == "content"


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    page = fill(tmp_path, page_html="old") / "page.html"

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(staging.os, "replace", full)
    with pytest.raises(AmalgamError, match=r"page.html: cannot be written \(No space left on device\)"):
        write_text_atomically(page, "new")
    assert page.read_text("utf-8") == "old"
    assert listing(tmp_path) == ["page.html"]


@POSIX
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("old", [OLD, {}])
def test_whatever_fails_the_output_is_whole_and_the_next_run_succeeds(tmp_path, way, code, old):
    """Each call to the system fails in turn."""
    n_faults = 0
    for n in range(200):
        output = tmp_path / str(n) / "student"
        output.parent.mkdir()
        if old:
            write(output, old)
        with fail_at(n, code) as fault:
            try:
                replace(output)
            except AmalgamError as error:
                assert "\n" not in str(error)
                assert os.strerror(code) in str(error)
                assert str(output) in str(error)
        if not fault.happened:
            break
        n_faults += 1
        recover(output)
        assert content(output) in (old, NEW) if output.exists() else not old
        replace(output)
        assert content(output) == NEW
        assert listing(output.parent) == ["student"], n
    assert n_faults > 8
    assert content(output) == NEW


@POSIX
@pytest.mark.parametrize("old", [OLD, {}])
def test_killed_at_any_call_the_output_is_whole_and_the_next_run_succeeds(tmp_path, way, old):
    n_kills = 0
    for n in range(200):
        output = tmp_path / str(n) / "student"
        output.parent.mkdir()
        if old:
            write(output, old)
        if run_and_die_at(n, lambda output=output: replace(output)) != -signal.SIGKILL:
            break
        n_kills += 1
        recover(output)
        assert content(output) in (old, NEW) if output.exists() else not old
        replace(output)
        assert content(output) == NEW
        assert listing(output.parent) == ["student"], n
    assert n_kills > 8
    assert content(output) == NEW


@POSIX
def test_killed_at_any_call_a_file_is_whole(tmp_path):
    page, n = tmp_path / "page.html", 0
    page.write_text("old", "utf-8")
    while run_and_die_at(n, lambda: write_text_atomically(page, "new")) == -signal.SIGKILL:
        assert page.read_text("utf-8") in ("old", "new")
        n += 1
    assert n > 3
    assert page.read_text("utf-8") == "new"


@POSIX
def test_what_is_finished_is_kept_where_it_cannot_take_its_place(output, monkeypatch):
    write(output, OLD)

    def refuse(one, other):
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    with monkeypatch.context() as patch, pytest.raises(AmalgamError, match=r"cannot be replaced .*kept in ") as refused:
        patch.setattr(staging, "exchange", refuse)
        replace(output)
    kept = Path(str(refused.value).rpartition(" ")[2])
    assert (content(output), content(kept)) == (OLD, NEW)
    output.rename(output.with_name("moved"))
    assert recover(output)  # as any reader does
    assert content(output) == NEW
    assert listing(output.parent) == ["moved", "student"]


def test_a_folder_that_was_deleted_by_hand_does_not_come_back(output, monkeypatch):
    """What a kill left after the exchange is the old folder: nobody's any more."""
    write(new_name(output), OLD)
    write(new_name(output, "old"), OLD)
    assert not recover(output)
    assert not output.exists()


def test_a_reader_leaves_a_living_writer_alone(output):
    with staged(output) as folder:
        write(folder, NEW)
        write(new_name(output, "new"), OLD)
        assert not recover(output)
        assert not output.exists()


@POSIX
def test_a_lock_that_its_holder_deleted_is_not_taken_for_one(output, monkeypatch):
    """A waiting process has opened the file, the holder deletes it and lets go: the lock of a deleted file is none."""
    real = output_lock._is_still_at
    seen = []

    def vanish(path, descriptor):
        if not seen:
            path.unlink()
        seen.append(real(path, descriptor))
        return seen[-1]

    monkeypatch.setattr(output_lock, "_is_still_at", vanish)
    with output_lock.locked(output) as is_alone:
        assert is_alone
        assert lock_name(output).exists()
    assert seen == [False, True]
    assert listing(output.parent) == []


def test_this_system_exchanges_folders_in_one_step_or_says_that_it_cannot(tmp_path):
    one, other = write(tmp_path / "one", OLD), write(tmp_path / "other", NEW)
    if exchanging.exchange(one, other):
        assert (content(one), content(other)) == (NEW, OLD)
    else:
        assert (content(one), content(other)) == (OLD, NEW)
    with pytest.raises(FileNotFoundError):
        exchanging.exchange(one, tmp_path / "gone") or (_ for _ in ()).throw(FileNotFoundError)


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOSYS])
def test_a_file_system_without_an_exchange_is_no_error(tmp_path, monkeypatch, code):
    def call(one, other):
        import ctypes

        ctypes.set_errno(code)
        return -1

    monkeypatch.setattr(exchanging, "_rename_call", lambda: call)
    assert not exchanging.exchange(tmp_path, tmp_path)


@POSIX
def test_the_calls_that_tests_fail_and_kill_at_are_those_that_are_made(output):
    """The loops above are worth as much as this list."""
    write(output, OLD)
    made = calls_of(lambda: replace(output))
    assert {"open", "fsync", "mkdir", "exchange", "rename", "unlink", "rmdir"} <= set(made)
    assert made.index("fsync") < made.index("exchange") < len(made) - 1 - made[::-1].index("fsync")
    assert "replace" in calls_of(lambda: write_atomically(output / "file", b"content"))


def test_a_lock_that_cannot_be_made_is_named(output):
    lock_name(output).mkdir()
    with (
        pytest.raises(AmalgamError, match=r"student: cannot be written .*amalgam-edge.lock: ") as refused,
        staged(output),
    ):
        raise AssertionError
    assert "\n" not in str(refused.value)


def test_a_file_in_the_way_of_a_folder_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "page.html", tmp_path):
        with pytest.raises(AmalgamError, match="cannot be written") as refused:
            write_text_atomically(path, "content")
        assert str(refused.value).startswith(f"{path}: ")
    assert listing(tmp_path) == ["file"]


def test_parents_that_were_made_go_with_a_failure_unless_they_hold_something(tmp_path):
    for kept in ([], ["notes"]):
        with pytest.raises(RuntimeError), staged(tmp_path / "a" / "b" / "student"):
            for name in kept:
                (tmp_path / "a" / name).touch()
            raise RuntimeError
        assert [path.name for path in tmp_path.rglob("*")] == (["a", "notes"] if kept else [])
