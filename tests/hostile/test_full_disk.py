"""Every command on a disk that is full: at whichever file it ends, it says so in one line and leaves what was there."""

from __future__ import annotations

import shutil
import sys

import pytest

from amalgam_edge.errors import AmalgamError
from amalgam_edge.runtime import Bundle
from tests.support.faults import no_file_longer_than

pytestmark = [
    pytest.mark.hostile,
    pytest.mark.skipif(sys.platform == "win32", reason="there are no resource limits"),
]

BUDGET = ["--budget", "size<=100MB, latency<=10s, loss<=100%"]
LENGTHS = [500, 8_000, 60_000, 150_000]  # bytes: of the settings, texts, models and checkpoints of tiny students


def state(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def ends_in_one_line(invoke, length, *command):
    """Run a command; whether the disk was large enough."""
    with no_file_longer_than(length):
        result = invoke(*command)
    if result.exit_code == 0:
        return True
    assert isinstance(result.exception, AmalgamError), result.exception
    message = str(result.exception)
    assert "\n" not in message
    assert "File too large" in message or "the disk may be full" in message, message
    assert "/." not in message  # the name that the user gave, not that of the folder beside it
    return False


def test_a_build_ends_in_one_line_and_leaves_the_old_bundle(invoke, build_options, built, tmp_path):
    output = shutil.copytree(built.bundle, tmp_path / "student")
    before = state(output)
    largest = max(path.stat().st_size for path in output.rglob("*") if path.is_file())
    for length in [*LENGTHS, largest - 1]:
        options = ["--overwrite", "--max-disagreement", "1", "--output", output, "--work", tmp_path / "work"]
        command = ["build", *build_options, *options]
        assert not ends_in_one_line(invoke, length, *command), length
        assert state(output) == before
        assert sorted(path.name for path in tmp_path.iterdir()) == ["student", "work"]
        if length == LENGTHS[0]:
            shutil.rmtree(tmp_path / "work", ignore_errors=True)
            shutil.copytree(built.work, tmp_path / "work")  # with scores, so that the next ones get further
    assert invoke(*command).exit_code == 0
    assert Bundle.open(output).verify() is None


def test_optimize_ends_in_one_line_and_leaves_the_old_bundle(invoke, built, inputs, tmp_path):
    output = shutil.copytree(built.bundle, tmp_path / "student")
    before = state(output)
    for length in LENGTHS[:3]:
        assert not ends_in_one_line(invoke, length, "optimize", output, "--calibration", inputs.corpus, *BUDGET)
        assert state(output) == before
        assert [path.name for path in tmp_path.iterdir()] == ["student"]


@pytest.mark.parametrize("backend", ["torch", "onnxruntime"])
def test_scoring_ends_in_one_line_and_goes_on(invoke, inputs, tmp_path, backend):
    output = tmp_path / "scores"
    command = [
        *("score", "--teacher", inputs.a, "--corpus", inputs.corpus, "--passes", "2", "--threads", "1"),
        *("--backend", backend, "--device", "cpu", "--output", output, "--resume"),
    ]
    assert not ends_in_one_line(invoke, 300, *command)
    assert not ends_in_one_line(invoke, 2000, *command)
    assert invoke(*command).exit_code == 0
    assert invoke("scores", "verify", output).exit_code == 0


def test_exporting_a_teacher_ends_in_one_line(invoke, inputs, tmp_path):
    output = tmp_path / "teacher"
    for length in (500, 8_000, 100_000):
        assert not ends_in_one_line(invoke, length, "export-teacher", inputs.a, "--output", output)
        assert list(tmp_path.iterdir()) == []


def test_a_merge_ends_in_one_line_and_can_be_called_again(invoke, inputs, tmp_path):
    for part, teacher in (("one", inputs.a), ("two", f"second={inputs.b}")):
        options = ["--corpus", inputs.corpus, "--passes", "2", "--backend", "torch", "--device", "cpu"]
        assert invoke("score", "--teacher", teacher, *options, "--output", tmp_path / part).exit_code == 0
    merge = ["scores", "merge", tmp_path / "one", tmp_path / "two", "--output", tmp_path / "all"]
    assert not ends_in_one_line(invoke, 2000, *merge)
    assert invoke(*merge).exit_code == 0
    assert invoke("scores", "verify", tmp_path / "all").exit_code == 0


def test_a_report_ends_in_one_line(invoke, built, inputs, tmp_path):
    report = tmp_path / "report.html"
    report.write_text("old", "utf-8")
    command = ["evaluate", built.bundle, "--data", inputs.labelled, "--report", report]
    assert invoke("evaluate", built.bundle, "--data", inputs.labelled).exit_code == 0  # the texts are in the cache
    assert not ends_in_one_line(invoke, 2000, *command)
    assert report.read_text("utf-8") == "old"
    assert invoke(*command).exit_code == 0
