import os

import pytest

from amalgam_edge.errors import AmalgamError
from amalgam_edge.storage import staging
from amalgam_edge.storage.staging import staged, write_text_atomically


def fill(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("_", ".")).write_text(content, "utf-8")
    return folder


def listing(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def output(tmp_path):
    return tmp_path / "student"


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


def test_a_staged_folder_takes_the_place_of_the_old_one(output):
    fill(output, amalgam_json="old", gone_txt="old")
    with staged(output) as folder:
        fill(folder, amalgam_json="new")
        assert (output / "amalgam.json").read_text("utf-8") == "old"
    assert listing(output) == ["amalgam.json"]
    assert (output / "amalgam.json").read_text("utf-8") == "new"
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
    fill(output.with_name(f"student.{os.getpid()}.part"), stale_txt="stale")
    with staged(output) as folder:
        assert listing(folder) == []
        fill(folder, new_txt="new")
    assert listing(output) == ["new.txt"]


def test_the_old_content_survives_a_rename_that_fails(output, monkeypatch):
    fill(output, amalgam_json="old")
    real, calls = os.replace, []

    def replace(source, target):
        calls.append(source)
        if len(calls) == 2:
            raise OSError("disk gone")
        real(source, target)

    monkeypatch.setattr(staging.os, "replace", replace)
    with pytest.raises(OSError, match="disk gone"), staged(output) as folder:
        fill(folder, amalgam_json="new")
    assert [path.read_text("utf-8") for path in output.parent.rglob("amalgam.json")] == ["old"]


def test_what_a_killed_build_left_is_swept_away(tmp_path):
    stale = tmp_path / "student[1].99999.part"
    stale.mkdir()
    (stale / "half").touch()
    other = tmp_path / "another.99999.part"
    other.mkdir()
    with staged(tmp_path / "student[1]") as folder:
        (folder / "whole").touch()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["another.99999.part", "student[1]"]


def test_a_file_takes_the_place_of_another(tmp_path):
    page = tmp_path / "deep" / "page.html"
    write_text_atomically(page, "eins")
    write_text_atomically(page, "zwei ↔")
    assert page.read_text("utf-8") == "zwei ↔"
    assert listing(page.parent) == ["page.html"]


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    page = fill(tmp_path, page_html="old") / "page.html"

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(staging.os, "replace", full)
    with pytest.raises(AmalgamError, match=r"page.html: cannot be written \(No space left on device\)"):
        write_text_atomically(page, "new")
    assert page.read_text("utf-8") == "old"
    assert listing(tmp_path) == ["page.html"]
