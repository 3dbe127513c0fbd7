"""The installed command, serving on a free port."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest


@dataclass
class Served:
    """A server's process, where it is, and what it has said."""

    process: subprocess.Popen[str]
    url: str
    log: Path

    def metric(self, name: str, **labels: str) -> float:
        """A metric's value; 0 where it has none yet."""
        wanted = {f'{key}="{value}"' for key, value in labels.items()}
        for line in httpx.get(f"{self.url}/metrics").text.splitlines():
            head, _, value = line.rpartition(" ")
            own, _, rest = head.partition("{")
            if own == name and wanted <= set(rest.rstrip("}").split(",")):
                return float(value)
        return 0.0


@contextmanager
def serving(folder: Path, *arguments: str) -> Iterator[Served]:
    """``amalgam-edge serve``; ended when the block is left."""
    log = folder / f"serve-{time.monotonic_ns()}.log"
    with log.open("w") as handle:
        command = [sys.executable, "-m", "amalgam_edge.cli", "serve", "--port", "0", "--threads", "1", *arguments]
        process = subprocess.Popen(command, stderr=handle, stdout=handle, text=True)
    try:
        url = None
        for _ in range(1200):
            said = log.read_text()
            if " at http://" in said:
                url = said.split(" at ")[1].split()[0]
                break
            if process.poll() is not None:
                raise RuntimeError(said)
            time.sleep(0.05)
        assert url, log.read_text()
        yield Served(process, url, log)
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(30)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """``serve(*arguments)`` starts a server that ends with the test."""
    with ExitStack() as stack:
        yield lambda *arguments: stack.enter_context(serving(tmp_path, *map(str, arguments)))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, bundle_folder: Path) -> Iterator[Served]:
    """A server of the tiny bundle, named tiny, and once more as exact, in float. Of one module's tests."""
    with serving(
        tmp_path_factory.mktemp("server"), f"tiny={bundle_folder}", f"other={bundle_folder}", "--precision", "fp32"
    ) as one:
        yield one
