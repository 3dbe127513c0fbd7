"""Fixtures that start ``amalgam-edge serve`` on a free port."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.support import heads


@dataclass
class RunningServer:
    """A server's process, its URL, and the file with its output."""

    process: subprocess.Popen[str]
    url: str
    log: Path

    def metric(self, name: str, **labels: str) -> float:
        """The value of a metric with these labels; 0 if it has not been counted yet."""
        selected = {f'{key}="{value}"' for key, value in labels.items()}
        for line in httpx.get(f"{self.url}/metrics").text.splitlines():
            series, _, value = line.rpartition(" ")
            series_name, _, series_labels = series.partition("{")
            if series_name == name and selected <= set(series_labels.rstrip("}").split(",")):
                return float(value)
        return 0.0


@contextmanager
def running_server(folder: Path, *arguments: str) -> Iterator[RunningServer]:
    """``amalgam-edge serve`` with these arguments, ended when the block is left."""
    log = folder / f"serve-{time.monotonic_ns()}.log"
    with log.open("w") as handle:
        command = [sys.executable, "-m", "amalgam_edge.cli", "serve", "--port", "0", "--threads", "1", *arguments]
        process = subprocess.Popen(command, stderr=handle, stdout=handle, text=True)
    try:
        url = None
        for _ in range(1200):
            output = log.read_text()
            if " at http://" in output:
                url = output.split(" at ")[1].split()[0]
                break
            if process.poll() is not None:
                raise RuntimeError(output)
            time.sleep(0.05)
        assert url, log.read_text()
        yield RunningServer(process, url, log)
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(30)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., RunningServer]]:
    """``serve(*arguments)`` starts a server that ends with the test."""
    with ExitStack() as stack:
        yield lambda *arguments: stack.enter_context(running_server(tmp_path, *map(str, arguments)))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, bundle_folder: Path) -> Iterator[RunningServer]:
    """A server of the tiny bundle in float32, under the names tiny and other, shared by a module's tests."""
    folder = tmp_path_factory.mktemp("server")
    with running_server(folder, f"tiny={bundle_folder}", f"other={bundle_folder}", "--precision", "fp32") as running:
        yield running


@pytest.fixture(scope="session")
def heads_folder(tmp_path_factory: pytest.TempPathFactory, bundle_folder: Path) -> Callable[[str], Path]:
    """``heads_folder(name)`` → a bundle of the heads of that name in :data:`tests.support.heads.ALL`. Read only."""
    parent = tmp_path_factory.mktemp("heads")

    def folder(name: str) -> Path:
        if not (parent / name).exists():
            heads.write_bundle(parent / name, heads.ALL[name], bundle_folder)
        return parent / name

    return folder


@pytest.fixture
def without_logits() -> Callable[[Path], None]:
    """``without_logits(folder)`` renames the logits of a bundle's float model, and writes its manifest anew."""

    def rename(folder: Path) -> None:
        import onnx

        path = folder / "onnx" / "model.onnx"
        model = onnx.load(path)
        for output in model.graph.output:
            for node in model.graph.node:
                node.output[:] = ["scores" if name == output.name == "logits" else name for name in node.output]
                node.input[:] = ["scores" if name == output.name == "logits" else name for name in node.input]
            output.name = "scores" if output.name == "logits" else output.name
        onnx.save(model, path)
        manifest = json.loads((folder / "amalgam.json").read_text("utf-8"))
        manifest["files"]["onnx/model.onnx"] = hashlib.sha256(path.read_bytes()).hexdigest()
        (folder / "amalgam.json").write_text(json.dumps(manifest), "utf-8")

    return rename
