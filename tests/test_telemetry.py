"""Nothing is reported to those who make libraries, unless the user turns it on."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from amalgam_edge.telemetry import OFF, turn_off_telemetry

REPOSITORY = Path(__file__).parents[1]
PACKAGE = ("amalgam_edge", "cli", "exporters", "models")  # installed as one package, amalgam_edge
NOT_OURS = {".venv", ".venv-interop", "build", "dist", "node_modules", "runs", "tests"}
# Libraries that report something, and those that import one of them.
REPORTING = {"datasets", "huggingface_hub", "onnxruntime", "openvino", "optimum", "ray", "transformers"}
DEVICE_ID = re.compile(r"deviceid|/\.cache/Microsoft/")
INTERNET = re.compile(r"\b(?:connect|sendto|sendmsg|sendmmsg)\(.*sa_family=AF_INET6?\b")


def imported(tree):
    """The top-level modules that a syntax tree imports, by a statement or by name, in the order of its lines."""
    for node in sorted((node for node in ast.walk(tree) if hasattr(node, "lineno")), key=lambda node: node.lineno):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.module.partition(".")[0]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            yield from (
                argument.value.partition(".")[0]
                for argument in node.args[:1]
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
            )


def unguarded(root):
    """Files below a folder that import a library that reports, in no package that imports amalgam_edge first.

    Python runs the ``__init__`` of a package before any module in it.
    """
    found = []
    for file in sorted(root.rglob("*.py")):
        parts = file.relative_to(root).parts
        if parts[0] in {*NOT_OURS, *PACKAGE} or not REPORTING & {*imported(ast.parse(file.read_text("utf-8")))}:
            continue
        start = root / parts[0] / "__init__.py"
        names = imported(ast.parse(start.read_text("utf-8"))) if len(parts) > 1 and start.is_file() else ()
        if next((name for name in names if name != "__future__"), None) != "amalgam_edge":
            found.append("/".join(parts))
    return found


def test_every_module_that_imports_a_library_that_reports_turns_that_off_first():
    assert unguarded(REPOSITORY) == []


@pytest.mark.parametrize(
    ("start", "module", "is_guarded"),
    [
        ("import amalgam_edge\n", "import onnxruntime", True),
        ("from __future__ import annotations\nimport amalgam_edge\nimport numpy", "import onnxruntime", True),
        ("from amalgam_edge import build", "import ray.data", True),
        ("", "import math", True),
        ("", "import onnxruntime", False),
        ("", "def f():\n    from onnxruntime.quantization import x", False),
        ("", "import importlib\nx = importlib.import_module('onnxruntime')", False),
        ("import onnxruntime\nimport amalgam_edge", "", False),
        ("import numpy, amalgam_edge", "import optimum", False),
        (None, "import onnxruntime", False),
    ],
)
def test_a_new_module_that_does_not_is_found(tmp_path, start, module, is_guarded):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "module.py").write_text(module)
    if start is not None:
        (tmp_path / "new" / "__init__.py").write_text(start)
    assert (unguarded(tmp_path) == []) == is_guarded
    (tmp_path / "script.py").write_text("import onnxruntime")
    assert "script.py" in unguarded(tmp_path)


def test_the_package_turns_it_off_before_it_imports_anything_else():
    tree = ast.parse((REPOSITORY / "amalgam_edge" / "__init__.py").read_text("utf-8"))
    texts = [ast.unparse(node) for node in tree.body]
    before = [node for node in tree.body[: texts.index("turn_off_telemetry()")] if not isinstance(node, ast.If)]
    modules = [node.module for node in before if isinstance(node, ast.ImportFrom)]
    assert {*imported(ast.Module(before, []))} <= {*sys.stdlib_module_names, "amalgam_edge"}
    assert [name for name in modules if name.startswith("amalgam_edge")] == ["amalgam_edge.telemetry"]


def environment(**variables):
    """This process' environment without what turns telemetry off: our own variables, and those of build servers."""
    without = {*OFF, "CI", "GITHUB_ACTIONS", "TF_BUILD", "XDG_CACHE_HOME", "DO_NOT_TRACK", "DISABLE_TELEMETRY"}
    return {name: value for name, value in os.environ.items() if name not in without} | variables


@pytest.mark.parametrize(
    "module",
    [
        "amalgam_edge.runtime.session",
        "amalgam_edge.exporters.teacher_export",
        "benchmarks.scoring.run",
        "examples.demo",
    ],
)
def test_it_is_off_when_the_first_library_is_imported(module):
    code = (
        "import importlib, os, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name in {REPORTING!r}:\n"
        f"            sys.exit([os.environ.get(name) for name in {[*OFF]!r}] != {[*OFF.values()]!r})\n"
        "sys.meta_path.insert(0, Finder())\n"
        f"importlib.import_module({module!r})\n"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, env=environment(), capture_output=True, text=True, check=False
    )
    assert (finished.returncode, finished.stderr) == (0, "")


def test_what_the_user_has_set_stays(monkeypatch):
    for name in OFF:
        monkeypatch.setenv(name, "as the user likes")
    turn_off_telemetry()
    assert {os.environ[name] for name in OFF} == {"as the user likes"}
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY")
    turn_off_telemetry()
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"


def test_openvino_is_imported_without_the_package_that_reports():
    """It has no setting for that. Where the package cannot be imported, OpenVINO itself takes a stand-in."""
    for folder in (*PACKAGE, "benchmarks", "examples"):
        for file in (REPOSITORY / folder).rglob("*.py"):
            for body in (node.body for node in ast.walk(ast.parse(file.read_text("utf-8"))) if hasattr(node, "body")):
                for number, node in enumerate(body if isinstance(body, list) else ()):
                    if isinstance(node, ast.Import | ast.ImportFrom) and "openvino" in imported(ast.Module([node], [])):
                        assert "sys.modules.setdefault('openvino_telemetry', None)" in ast.unparse(body[number - 1])


def test_openvino_goes_on_without_it():
    pytest.importorskip("openvino", reason="there is no openvino")
    code = (
        "import sys\n"
        "sys.modules.setdefault('openvino_telemetry', None)\n"
        "import openvino\n"
        "print([name for name in sys.modules if name.startswith('openvino_telemetry')], openvino.Core is not None)"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == "['openvino_telemetry'] True"


@pytest.fixture
def traced(tmp_path):
    """``traced(*arguments, **variables)``: run Python under strace; its output, its trace and a new home folder."""
    if shutil.which("strace") is None:
        pytest.skip("there is no strace, which tells what a process sends")
    if subprocess.run(["strace", "-f", "true"], capture_output=True, check=False).returncode:
        pytest.skip("strace may not trace processes here")

    def run(*arguments, **variables):
        home = tmp_path / "home"
        home.mkdir()
        trace = tmp_path / "trace"
        command = ["strace", "-f", "-qq", "-e", "trace=network,openat,mkdir", "-o", str(trace), sys.executable]
        finished = subprocess.run(
            [*command, *map(str, arguments)],
            env=environment(HOME=str(home), **variables),
            capture_output=True,
            text=True,
            check=True,
        )
        return finished.stdout, trace.read_text(errors="replace"), home

    return run


def test_predict_sends_nothing_and_writes_no_device_id(bundle_folder, traced):
    output, trace, home = traced("-m", "amalgam_edge.cli", "predict", bundle_folder, "a puzzle game", "mail servers")
    assert len(output.splitlines()) == 2
    assert "libonnxruntime" in trace or "onnxruntime_pybind11_state" in trace
    assert not INTERNET.search(trace)
    assert "/etc/resolv.conf" not in trace
    assert not DEVICE_ID.search(trace)
    assert not [file for file in home.rglob("*") if file.is_file()]


def test_a_trace_shows_what_is_sent_and_written(traced):
    """192.0.2.1 is nobody's (RFC 5737), and connecting a UDP socket sends nothing."""
    code = (
        "import pathlib, socket\n"
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(('192.0.2.1', 9))\n"
        "pathlib.Path.home().joinpath('deviceid').write_text('')"
    )
    _, trace, home = traced("-c", code)
    assert INTERNET.search(trace)
    assert DEVICE_ID.search(trace)
    assert [file.name for file in home.iterdir()] == ["deviceid"]
