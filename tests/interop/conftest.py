"""Environments of other runtimes, kept in .venv-interop for as long as what they are made of stays the same."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from filelock import FileLock

from tests.support.real_models import command, encoder, real, shared_folder  # noqa: F401  (fixtures)

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
ENVIRONMENTS = REPOSITORY / ".venv-interop"
UNREACHABLE = re.compile(
    r"NewConnectionError|ConnectTimeout|ReadTimeout|ProxyError|Max retries|Failed to establish|name resolution"
    r"|ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT"
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "interop" in Path(str(item.fspath)).parts:
            item.add_marker(pytest.mark.interop)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Real models gain from threads: let torch choose."""


@pytest.fixture(scope="session")
def optimum_python() -> Path:
    """The interpreter of an environment with optimum-onnx."""
    pinned = re.search(r"^torch==\S+$", (REPOSITORY / "constraints.txt").read_text("utf-8"), re.MULTILINE)
    requirements = [pinned[0], *re.findall(r"^[^#\s].*$", (HERE / "optimum.txt").read_text("utf-8"), re.MULTILINE)]

    def make(folder: Path) -> list[str | Path]:
        venv.create(folder, with_pip=False)
        return [sys.executable, "-m", "pip", "--python", interpreter(folder), "install", "--no-compile", *requirements]

    return interpreter(environment("optimum", [sys.version, *requirements], make))


@pytest.fixture(scope="session")
def transformers_js() -> Path:
    """A folder in which Node finds transformers.js."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("no Node here: install node and npm")
    package = HERE / "package.json"

    def make(folder: Path) -> list[str | Path]:
        folder.mkdir()
        shutil.copy(package, folder)
        quiet = ["--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock", "--fetch-retries=1"]
        return [npm, "install", "--prefix", folder, *quiet]

    return environment("transformers-js", [package.read_text("utf-8")], make)


def interpreter(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def environment(name: str, made_of: Sequence[str], make: Callable[[Path], list[str | Path]]) -> Path:
    """A folder that ``make`` prepares and the command that it returns fills; skips where no registry answers."""
    ENVIRONMENTS.mkdir(exist_ok=True)
    folder = ENVIRONMENTS / f"{name}-{hashlib.sha256(repr(made_of).encode()).hexdigest()[:12]}"
    with FileLock(ENVIRONMENTS / f"{name}.lock"):
        if not (folder / "complete").exists():
            for stale in ENVIRONMENTS.glob(f"{name}-*"):
                shutil.rmtree(stale)
            filled = subprocess.run(make(folder), capture_output=True, text=True, check=False)
            if filled.returncode != 0:
                said = filled.stdout + filled.stderr
                if UNREACHABLE.search(said):
                    pytest.skip(f"{name} cannot be installed here: no package registry can be reached")
                pytest.fail(said, pytrace=False)
            (folder / "complete").touch()
    return folder
