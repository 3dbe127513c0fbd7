"""Copies of a bundle, and every command on a bundle that people touched, or that has int8 alone, or is on the Hub."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import hub

FIXTURE = Path(__file__).parents[1] / "fixtures" / "bundle_v1"
NAME = "owner/student"


@pytest.fixture
def bundle(tmp_path):
    return shutil.copytree(FIXTURE, tmp_path / "student")


@pytest.fixture
def labelled(tmp_path):
    path = tmp_path / "labelled.csv"
    path.write_text("text,label\nchess,games\nmail server,net\n", "utf-8")
    return path


@pytest.fixture
def libraries(tmp_path, monkeypatch):
    """Something in the place of each library of the page."""
    from amalgam_edge.browser import site

    for name in site.LIBRARY_FILES:
        path = tmp_path / "libraries" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"library")
    monkeypatch.setattr(site, "get_libraries", lambda notify: tmp_path / "libraries")


def test_a_copy_of_int8_alone_is_a_bundle_for_every_command(invoke, mistake, bundle, labelled, libraries, tmp_path):
    small = tmp_path / "small"
    copied = invoke("copy", bundle, small, "--precision", "int8")
    assert copied.exit_code == 0, copied.output
    assert copied.stdout == f"bundle: {small}\n"
    assert sorted(path.name for path in (small / "onnx").iterdir()) == ["model_quantized.onnx", "model_static.onnx"]
    inspected = invoke("inspect", small)
    assert inspected.exit_code == 0, inspected.output
    assert "8 files, all as they were built\n" in inspected.output
    answers = [invoke("predict", folder, "chess", "--format", "jsonl").stdout for folder in (bundle, small)]
    assert answers[0] == answers[1]
    measured = invoke("evaluate", small, "--data", labelled, "--json")
    assert [*json.loads(measured.stdout)["heads"]["label"]["student"]] == ["int8", "cascade"]
    page = invoke("export-web", small, tmp_path / "page")
    assert page.exit_code == 0, page.output
    written = (tmp_path / "page" / "bundles" / "small" / "model.onnx").read_bytes()
    assert written == (bundle / "onnx" / "model_quantized.onnx").read_bytes()
    options = ("--budget", "size<=1MB", "--calibration", labelled)
    assert mistake("optimize", small, *options) == (
        f"{small}: holds no float model to start from (models: int8); build it again"
    )


def test_a_page_takes_the_next_model_that_is_there(invoke, bundle, libraries, tmp_path):
    assert invoke("copy", bundle, tmp_path / "float", "--precision", "fp32").exit_code == 0
    edited = json.loads((bundle / "amalgam.json").read_text("utf-8"))
    (bundle / "amalgam.json").write_text(json.dumps({**edited, "default_precision": "fp32"}), "utf-8")
    (bundle / "onnx" / "model_quantized.onnx").unlink()
    for folder in (bundle, tmp_path / "float"):
        page = invoke("export-web", folder, tmp_path / f"page of {folder.name}")
        assert page.exit_code == 0, page.output
        written = tmp_path / f"page of {folder.name}" / "bundles" / folder.name / "model.onnx"
        assert written.read_bytes() == (FIXTURE / "onnx" / "model.onnx").read_bytes()


def test_what_people_did_to_a_bundle_is_said_and_stops_nothing(invoke, bundle, labelled, tmp_path):
    (bundle / "README.md").write_text("my own words", "utf-8")
    (bundle / "report.html").unlink()
    (bundle / "onnx" / "model.onnx").unlink()
    inspected = invoke("inspect", bundle)
    assert inspected.exit_code == 0, inspected.output
    assert inspected.output.endswith(
        "9 files, all as they were built but for these:\n"
        "  README.md: edited\n"
        "  onnx/model.onnx: not there, so that there is no fp32\n"
        "  report.html: not there\n"
    )
    assert invoke("predict", bundle, "chess").exit_code == 0
    assert [
        *json.loads(invoke("evaluate", bundle, "--data", labelled, "--json").stdout)["heads"]["label"]["student"]
    ] == [
        "int8",
        "cascade",
    ]
    copied = invoke("copy", bundle, tmp_path / "copy")
    assert copied.exit_code == 0, copied.output
    assert copied.stderr == f"fp32 is left out: {bundle / 'onnx/model.onnx'} is not there\n"
    assert (tmp_path / "copy" / "README.md").read_text("utf-8") == "my own words"
    assert "7 files, all as they were built\n" in invoke("inspect", tmp_path / "copy").output


def test_optimize_takes_a_bundle_that_people_touched(invoke, bundle, quick, tmp_path):
    (bundle / "recipe.yaml").unlink()
    (bundle / "README.md").write_text("my own words", "utf-8")
    (bundle / "onnx" / "model_quantized.onnx").unlink()
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(f"mail server {k} chess" for k in range(20)), "utf-8")
    result = invoke("optimize", bundle, "--budget", "loss<=100%", "--calibration", texts, "--output", tmp_path / "new")
    assert result.exit_code == 0, result.output
    assert "all as they were built\n" in invoke("inspect", tmp_path / "new").output


def test_a_copy_takes_no_place_that_is_taken(mistake, bundle, tmp_path):
    assert "not empty" in mistake("copy", bundle, tmp_path)
    assert "no precision 'q4'" in mistake("copy", bundle, tmp_path / "new", "--precision", "q4")
    assert "no bundle" in mistake("copy", tmp_path, tmp_path / "new")
    assert "which has no revisions" in mistake("copy", bundle, tmp_path / "new", "--revision", "v1")


@pytest.fixture
def there(bundle):
    """A Hub with the bundle; ``ask(command, …)`` runs a command in a process that takes it for the Hub."""
    with hub.running() as running:
        running.files[NAME] = hub.files_of(bundle)
        yield running


@pytest.fixture
def ask(there, tmp_path):
    def run(*arguments):
        environment = {
            **os.environ,
            "HF_ENDPOINT": there.address,
            "HF_HUB_OFFLINE": "0",
            "HF_HOME": str(tmp_path / "home"),
        }
        script = Path(sys.executable).with_name("amalgam-edge")
        command = [script, *map(str, arguments)]
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)

    return run


def test_inspect_asks_the_hub_for_the_manifest_alone(there, ask):
    commit = there.tag(NAME, "v1")
    shown = ask("inspect", NAME, "--revision", "v1")
    assert shown.returncode == 0, shown.stderr
    assert f"9 files on the Hub, at commit {commit}; each is verified when it is used" in shown.stdout
    assert [name for name, _ in there.downloads] == ["amalgam.json"]


def test_predict_and_copy_by_a_name_of_the_hub(there, ask, tmp_path):
    refused = ask("predict", NAME, "chess", "--offline")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith(
        f"Error: {NAME}: no folder here, and it cannot be had from the Hub: the Hub is not"
    )
    assert refused.stderr.count("\n") == 1
    answered = ask("predict", NAME, "chess", "--no-cascade")
    assert answered.returncode == 0, answered.stderr
    assert {name for name, _ in there.downloads} == {"amalgam.json", "tokenizer.json", "onnx/model_quantized.onnx"}
    asked = there.requests
    assert ask("predict", NAME, "chess", "--no-cascade", "--offline").stdout == answered.stdout
    assert there.requests == asked
    assert ask("copy", NAME, "here", "--precision", "int8").returncode == 0
    assert "onnx/model.onnx" not in dict(there.downloads)
    assert ask("inspect", "here").returncode == 0
