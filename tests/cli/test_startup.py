"""What a fresh process imports before a command runs: nothing that takes long."""

import json
import subprocess
import sys

import pytest

HEAVY = {
    *("numpy", "tokenizers", "onnxruntime", "torch", "transformers", "datasets", "onnx", "optimum", "pyarrow"),
    *("pydantic", "rich", "matplotlib", "fastapi", "starlette", "uvicorn", "prometheus_client", "huggingface_hub"),
}
LOADED = "import json, sys; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"


def modules_after(code):
    """Top-level modules that a fresh process has imported after running the code."""
    finished = subprocess.run([sys.executable, "-c", f"{code}\n{LOADED}"], capture_output=True, text=True, check=True)
    return set(json.loads(finished.stdout.splitlines()[-1]))


@pytest.mark.parametrize("command", ["predict", "serve", "push", "export-web", "doctor", "inspect"])
def test_the_help_of_a_command_imports_nothing_heavy(command):
    code = (
        "from amalgam_edge.cli.main import cli\n"
        f"try: cli.main([{command!r}, '--help'])\n"
        "except SystemExit as stop: assert not stop.code"
    )
    assert modules_after(code).isdisjoint(HEAVY)


def test_importing_the_package_imports_nothing_heavy():
    modules = modules_after("import amalgam_edge")
    assert "amalgam_edge" in modules
    assert modules.isdisjoint(HEAVY | {"click"})
