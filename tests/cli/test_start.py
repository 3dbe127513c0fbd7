"""What the command line loads: nothing heavy for help, nothing heavy before arguments have been checked.

Each case runs in a process of its own, in which the packages of the extras cannot be imported. The time that a start
takes is what its imports take; no test here depends on a clock.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from amalgam_edge.cli.main import _COMMANDS

# All that an installation of amalgam-edge[cpu] lacks, and what it has but takes long to load.
OF_EXTRAS = (
    "torch", "transformers", "optimum", "onnx", "onnxscript", "accelerate", "datasets", "fsspec", "pyarrow",
    "safetensors", "pydantic", "yaml", "rich", "matplotlib", "fastapi", "uvicorn", "prometheus_client", "platformdirs",
    "ray",
)  # fmt: skip
SLOW = ("onnxruntime", "tokenizers", "huggingface_hub")


def run(*arguments, blocked):
    """Run the command line where some packages cannot be imported."""
    code = (
        "import sys\n"
        "class Blocked:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] in {blocked!r}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Blocked())\n"
        f"sys.argv = ['amalgam-edge', *{[str(argument) for argument in arguments]!r}]\n"
        "from amalgam_edge.cli.main import main\n"
        "main()\n"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8", check=False)


@pytest.mark.parametrize(
    "arguments",
    [("--help",), ("--version",), *((name, "--help") for name in _COMMANDS), ("scores", "merge", "--help")],
    ids=" ".join,
)
def test_help_loads_nothing_that_an_extra_brings_and_nothing_slow(arguments):
    finished = run(*arguments, blocked=(*OF_EXTRAS, *SLOW, "numpy"))
    assert (finished.returncode, finished.stderr) == (0, "")
    assert len(finished.stdout) > 10


def test_methods_work_without_any_extra():
    finished = run("methods", "--json", blocked=(*OF_EXTRAS, *SLOW))
    assert finished.returncode == 0, finished.stderr
    assert {"refined", "muka-soft", "vanilla-kd"} <= {row["name"] for row in json.loads(finished.stdout)}


HEAVY = ("torch", "transformers", "datasets", "onnx", "pyarrow", "rich", "matplotlib", "fastapi", *SLOW)
BUILD = ["build", "--teacher", "{a}", "--teacher", "{b}", "--corpus", "{corpus}", "--student", "{student}"]
MISTAKES = [
    (["build"], "no teacher given"),
    (["build", "--teacher", "{a}"], "no corpus given"),
    (["build", "--teacher", "{a}", "--corpus", "{corpus}"], "no student given"),
    (BUILD, "no output given"),
    ([*BUILD, "--output", "{new}", "--method", "uhd"], "no method 'uhd'"),
    ([*BUILD, "--output", "{new}", "--budget", "size<=10"], "--budget: 'size<=10' is not understood"),
    ([*BUILD, "--output", "{new}", "--passes", "1"], "passes: "),
    ([*BUILD, "--output", "{new}", "--student-layers", "3,3"], "3 is named twice"),
    ([*BUILD, "--output", "{new}", "--student-layers", "1,2"], "need a budget"),
    ([*BUILD, "--output", "{new}", "--labels", "{folder}/none.yaml"], "no such labels file"),
    ([*BUILD, "--output", "{new}", "--evaluate", "{folder}/none.csv"], "no such file or folder"),
    ([*BUILD, "--output", "s3://bucket/student"], "a build needs a local folder"),
    ([*BUILD, "--output", "{full}"], "not empty"),
    ([*BUILD, "--teacher", "{folder}/c", "--output", "{new}"], "no such folder"),
    ([*BUILD[:-1], "./no-student", "--output", "{new}"], "no such folder"),
    ([*BUILD[:-1], "teacher:zoe", "--output", "{new}"], "no teacher 'zoe'"),
    (["build", "--recipe", "{folder}/none.yaml"], "no such recipe"),
    (["score", "--teacher", "{a}"], "no corpus given"),
    (["score", "--teacher", "{folder}/c", "--corpus", "{corpus}", "--output", "{new}"], "no such folder"),
    (["score", "--teacher", "{a}", "--corpus", "{folder}/none.txt", "--output", "{new}"], "no such file or folder"),
    (["export-teacher", "{a}"], "no output given"),
    (["export-teacher", "{folder}/c", "--output", "{new}"], "no such folder"),
    (["evaluate", "{folder}/none", "--data", "{corpus}"], "no bundle"),
    (["optimize", "{folder}/none", "--budget", "size<=1MB"], "no bundle"),
    (["optimize", "{folder}/none", "--budget", "size<=1"], "--budget"),
    (["benchmark", "{folder}/none"], "no bundle"),
    (["predict", "{folder}/none", "a text"], "no bundle"),
    (["inspect", "{folder}/none"], "no bundle"),
    (["push", "{folder}/none", "owner/name"], "no bundle"),
    (["scores", "merge", "{a}", "--output", "{new}"], "nothing to join"),
]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    folder = tmp_path_factory.mktemp("places")
    for name in ("a", "b", "student", "full"):
        (folder / name).mkdir()
    (folder / "full" / "something").touch()
    (folder / "corpus.txt").write_text("a text\nanother\n", "utf-8")
    named = {name: folder / name for name in ("a", "b", "student", "full", "new")}
    return {"folder": folder, "corpus": folder / "corpus.txt", **named}


@pytest.mark.parametrize(("arguments", "expected"), MISTAKES, ids=lambda value: value if isinstance(value, str) else "")
def test_a_mistake_answers_before_anything_heavy_is_loaded(places, arguments, expected):
    finished = run(*(argument.format(**places) for argument in arguments), blocked=HEAVY)
    assert finished.returncode == 2, finished.stdout + finished.stderr
    assert expected in finished.stderr
    assert finished.stderr.count("\n") == 1
    assert finished.stderr.startswith("Error: ")
