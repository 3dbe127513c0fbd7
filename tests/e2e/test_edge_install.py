"""The edge by itself: an empty environment, ``amalgam-edge[cpu]``, and nothing of the training stack."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest
from filelock import FileLock

REPOSITORY = Path(__file__).parents[2]
MOST_MEMORY_MB = 250

# The high-water mark that the kernel keeps for this program; ru_maxrss would count the parent's, from before exec.
PEAK_MEMORY = """
import re, sys
from amalgam_edge import EdgeClassifier
label = EdgeClassifier.from_pretrained(sys.argv[1])(["a puzzle game about falling blocks"])[0].label
print(label, int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) / 1e3)
"""


@pytest.fixture(scope="session")
def edge_python(shared_folder: Path) -> Path:
    """Its interpreter; pip works on it from outside, and leaves compiling to the few modules that are imported."""
    folder = shared_folder / "edge"
    python = folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-compile"]
    with FileLock(f"{folder}.lock"):
        if not (folder / "installed").exists():
            venv.create(folder, with_pip=False, clear=True)
            install = [*pip, "--constraint", REPOSITORY / "constraints.txt", f"{REPOSITORY}[cpu]"]
            installed = subprocess.run(install, capture_output=True, text=True, check=False)
            assert installed.returncode == 0, installed.stderr
            (folder / "installed").touch()
    return python


def test_predict_works_without_torch(edge_python, real):
    script = edge_python.with_name("amalgam-edge")
    answer = subprocess.run(
        [script, "predict", real.bundle, "a puzzle game about falling blocks"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout.split()[0] == "games"
    for package in ("torch", "transformers", "datasets", "onnx", "pydantic"):
        imported = subprocess.run([edge_python, "-c", f"import {package}"], capture_output=True, check=False)
        assert imported.returncode != 0, package


def test_commands_that_train_say_what_is_missing(edge_python, real):
    script = edge_python.with_name("amalgam-edge")
    for command in (
        ["build", "--teacher", real.folder / "a"],
        ["score", "--teacher", real.folder / "a"],
        ["export-teacher", real.folder / "a", "--output", real.folder / "exported"],
        ["evaluate", real.bundle, "--data", real.folder],
    ):
        refused = subprocess.run([script, *command], capture_output=True, text=True, check=False)
        assert refused.returncode == 2
        assert 'pip install "amalgam-edge[train]"' in refused.stderr
        assert refused.stderr.count("\n") == 1


def test_a_bundle_is_measured_there_on_a_file_of_json_lines(edge_python, real):
    command = [edge_python.with_name("amalgam-edge"), "evaluate", real.bundle, "--data", real.labelled, "--json"]
    measured = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    recorded = json.loads((real.bundle / "amalgam.json").read_text("utf-8"))["evaluation"]["heads"]["label"]["student"][
        "int8"
    ]
    assert measured["heads"]["label"]["student"]["int8"]["accuracy"] == pytest.approx(recorded["accuracy"], abs=0.01)


def test_inspect_and_doctor_work_there(edge_python, real):
    script = edge_python.with_name("amalgam-edge")
    for command, shown in ((["inspect", real.bundle], "games"), (["doctor"], "onnxruntime"), (["--help"], "predict")):
        ran = subprocess.run([script, *command], capture_output=True, text=True, check=True)
        assert shown in ran.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_peak_memory_of_a_three_layer_student(edge_python, real):
    shown = subprocess.run(
        [edge_python, "-c", PEAK_MEMORY, str(real.bundle)], capture_output=True, text=True, check=True
    ).stdout.split()
    assert shown[0] == "games"
    assert float(shown[1]) < MOST_MEMORY_MB


LOGITS = """
import json, sys
from amalgam_edge import EdgeClassifier
print(json.dumps(EdgeClassifier.from_pretrained(sys.argv[1]).logits(sys.argv[2:]).tolist()))
"""


def lowest(requirements):
    """Each requirement with its lowest version."""
    return [requirement.split(";")[0].replace(">=", "==") for requirement in requirements]


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="wheels of the lowest versions are of Python 3.11")
def test_the_lowest_versions_that_are_allowed_answer_alike(edge_python, real, tmp_path):
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
    requirements = lowest([*project["dependencies"], *project["optional-dependencies"]["cpu"]])
    folder = tmp_path / "lowest"
    python = folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    venv.create(folder, with_pip=False)
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-compile"]
    for arguments in (requirements, ["--no-deps", REPOSITORY]):
        installed = subprocess.run([*install, *arguments], capture_output=True, text=True, check=False)
        assert installed.returncode == 0, installed.stderr
    texts = ["a puzzle game about falling blocks", "a mail server", "", "x" * 500]
    lowest_logits, logits = (
        json.loads(subprocess.run([one, "-c", LOGITS, real.bundle, *texts], capture_output=True, check=True).stdout)
        for one in (python, edge_python)
    )
    assert lowest_logits == [pytest.approx(row, abs=1e-3) for row in logits]
