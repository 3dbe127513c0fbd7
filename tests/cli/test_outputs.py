"""Outputs of commands: one writer at a time, links, mount points, and disks that take nothing."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from amalgam_edge.browser.libraries import FOLDER_VARIABLE, LIBRARY_FILES
from amalgam_edge.building import pipeline
from amalgam_edge.errors import AmalgamError
from amalgam_edge.runtime import Bundle
from amalgam_edge.storage.output_lock import locked
from amalgam_edge.storage.staging import staged

BUDGET = ["--budget", "size<=100MB, latency<=10s, loss<=100%"]
NEEDS_DEV_FULL = pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")


@pytest.fixture
def commands(inputs, build_options, built, tmp_path, monkeypatch):
    """Output folder → the command that writes it, for each command that writes a folder."""
    libraries = tmp_path / "libraries"
    libraries.mkdir()
    for name in LIBRARY_FILES:
        (libraries / name).write_text("library", "utf-8")
    monkeypatch.setenv(FOLDER_VARIABLE, str(libraries))
    texts = ["--calibration", inputs.corpus]
    return {
        "build": lambda output: ["build", *build_options, "--output", output],
        "optimize": lambda output: ["optimize", built.bundle, *texts, *BUDGET, "--output", output],
        "export-teacher": lambda output: ["export-teacher", inputs.a, "--output", output],
        "export-web": lambda output: ["export-web", built.bundle, output],
    }


WRITERS = ["build", "optimize", "export-teacher", "export-web"]


@pytest.mark.parametrize("name", WRITERS)
def test_an_output_that_another_process_writes_is_refused_before_any_work(commands, mistake, tmp_path, name):
    output = tmp_path / "output"
    with staged(output):
        before = sorted(tmp_path.iterdir())
        message = mistake(*commands[name](output))
        assert sorted(tmp_path.iterdir()) == before  # no folder of scores, no second folder to write to
    assert message.startswith(f"{output}: another process writes it")


@pytest.mark.parametrize("name", WRITERS)
def test_a_place_that_no_folder_can_take_is_refused_before_any_work(commands, mistake, tmp_path, name, monkeypatch):
    output = tmp_path / "output"
    output.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "is_mount", lambda path: path == output)
        assert mistake(*commands[name](output)).startswith(f"{output}: a mount point cannot be replaced")
    with monkeypatch.context() as patch:
        patch.chdir(output)
        assert "the current folder cannot be replaced" in mistake(*commands[name]("."))
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
        assert f"output: cannot be written ({tmp_path} is not writable)" in mistake(*commands[name](output))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["libraries", "output"]
    assert not any(output.iterdir())


@pytest.mark.skipif(os.name == "nt", reason="links need a right of their own")
def test_an_output_that_is_a_link_stays_one(commands, invoke, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    for options in ([], ["--overwrite"]):
        result = invoke(*commands["export-web"](tmp_path / "link"), *options)
        assert result.exit_code == 0, result.output
    assert (tmp_path / "link").is_symlink()
    assert any((tmp_path / "real").iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["libraries", "link", "real"]


def test_a_build_of_the_same_recipe_in_the_same_work_folder_is_refused(build_options, mistake, tmp_path, monkeypatch):
    """It would empty the folder in which the other one trains."""
    folders = []

    def stop(steps, values, progress):
        folders.append(values["training_folder"])
        raise AmalgamError("stopped")

    monkeypatch.setattr(pipeline, "run_steps", stop)
    command = ["build", *build_options, "--output", tmp_path / "output", "--work", tmp_path / "work"]
    assert mistake(*command) == "stopped"
    folders[0].parent.mkdir()  # a build that failed at once leaves nothing
    with locked(folders[0]):
        assert mistake(*command).startswith(f"{folders[0]}: another process writes it")
    assert mistake(*command) == "stopped"


@NEEDS_DEV_FULL
@pytest.mark.parametrize("output_format", ["table", "jsonl", "csv"])
def test_standard_output_that_is_full_is_one_line(bundle_folder, output_format):
    with Path("/dev/full").open("wb") as full:
        finished = subprocess.run(
            [sys.executable, "-m", "amalgam_edge.cli", "predict", bundle_folder, "a text", "--format", output_format],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert finished.stderr == "Error: standard output: cannot be written (No space left on device)\n"
    assert finished.returncode == 2


@NEEDS_DEV_FULL
@pytest.mark.parametrize("arguments", [("doctor",), ("inspect", "{bundle}"), ("methods",)])
def test_so_it_is_of_every_command(bundle_folder, arguments):
    command = [sys.executable, "-m", "amalgam_edge.cli", *(word.format(bundle=bundle_folder) for word in arguments)]
    with Path("/dev/full").open("wb") as full:
        finished = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert finished.stderr == "Error: standard output: cannot be written (No space left on device)\n"
    assert finished.returncode == 2


def test_a_report_that_cannot_be_written_is_one_line(built, inputs, mistake, tmp_path):
    report = tmp_path / "file" / "report.html"
    (tmp_path / "file").touch()
    message = mistake("evaluate", built.bundle, "--data", inputs.labelled, "--report", report)
    assert message.startswith(f"{report}: cannot be written (") or message.startswith(f"{tmp_path / 'file'}: cannot be")


def test_what_cannot_be_read_for_lack_of_permission_is_one_line(built, mistake, monkeypatch):
    def refuse(path, *arguments):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Bundle, "open", refuse)
    assert mistake("inspect", built.bundle) == f"{built.bundle}: cannot be read or written (Permission denied)"


def test_functions_of_the_library_say_it_as_commands_do(monkeypatch):
    """The rule stands at the border, so that no function has to have it."""
    import amalgam_edge

    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data/cache")

    monkeypatch.setattr("amalgam_edge.api.read_recipe", full)
    monkeypatch.setattr("amalgam_edge.api._open", full)
    calls = [
        amalgam_edge.build, amalgam_edge.score, lambda: amalgam_edge.export_teacher("a"),
        lambda: amalgam_edge.evaluate("a", "b"), lambda: amalgam_edge.optimize("a", "size<=1MB"),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(amalgam_edge.AmalgamError, match=r"^/data/cache: cannot be written \(No space left"):
            call()
