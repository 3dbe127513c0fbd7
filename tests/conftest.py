"""Fixtures shared by all tests: tiny random models, and a home for caches that is thrown away."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import hypothesis
import pytest

from amalgam_edge.telemetry import turn_off_telemetry

BUNDLE_LABELS = ("games", "science", "net", "Straße & 猫")
BUNDLE_MAX_LENGTH = 40
_HOME = pytest.StashKey[str]()


def pytest_configure(config: pytest.Config) -> None:
    """Cut the Hub off and move its caches before anything imports ``datasets`` or ``transformers``."""
    turn_off_telemetry()  # tests import libraries themselves
    home = tempfile.mkdtemp(prefix="amalgam-tests-")
    config.stash[_HOME] = home
    os.environ["HF_HOME"] = home
    os.environ["HF_DATASETS_CACHE"] = str(Path(home, "datasets"))
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    hypothesis.settings.register_profile("no deadline", hypothesis.settings.default, deadline=None)
    hypothesis.settings.load_profile("no deadline")  # no test depends on time


def pytest_unconfigure(config: pytest.Config) -> None:
    shutil.rmtree(config.stash[_HOME], ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny matrices gain nothing from threads, and shared machines lose by them."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """The tiny byte-level tokenizer."""
    from tests.support import tiny

    return tiny.make_tokenizer()


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """A folder that holds the tiny tokenizer and nothing else."""
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def make_classifier(tokenizer: Any) -> Callable[..., Path]:
    """``make_classifier(folder, labels, *, architecture, seed, dropout, layers, **config)`` → the folder."""
    import functools

    from tests.support import tiny

    return functools.partial(tiny.make_classifier, tokenizer=tokenizer)


@pytest.fixture(scope="session")
def random_classifier(tokenizer: Any) -> Callable[..., Any]:
    """A random classifier in memory: ``random_classifier(labels, *, architecture, seed, dropout, layers)``."""
    from tests.support import tiny

    def make(labels: Any = ("a", "b", "c"), **options: Any) -> Any:
        defaults = {"architecture": "bert", "seed": 0, "dropout": 0.1, "layers": 2, "tokenizer": tokenizer}
        return tiny.random_classifier(labels, **{**defaults, **options})

    return make


@pytest.fixture(scope="session")
def classifier_folder(tmp_path_factory: pytest.TempPathFactory, make_classifier: Callable[..., Path]) -> Path:
    """A saved BERT over games / science / net. Read only."""
    return make_classifier(tmp_path_factory.mktemp("bert"), ["games", "science", "net"])


@pytest.fixture(scope="session")
def other_classifier_folder(tmp_path_factory: pytest.TempPathFactory, make_classifier: Callable[..., Path]) -> Path:
    """A saved RoBERTa over text / net. Read only."""
    return make_classifier(tmp_path_factory.mktemp("roberta"), ["text", "net"], architecture="roberta", seed=1)


@pytest.fixture(scope="session")
def torch_folder(tmp_path_factory: pytest.TempPathFactory, make_classifier: Callable[..., Path]) -> Path:
    """The student in torch. Read only."""
    return make_classifier(tmp_path_factory.mktemp("student"), list(BUNDLE_LABELS), architecture="bert", seed=7)


@pytest.fixture(scope="session")
def torch_model(torch_folder: Path) -> Any:
    """The student in torch, in evaluation mode."""
    from transformers import AutoModelForSequenceClassification

    return AutoModelForSequenceClassification.from_pretrained(torch_folder).eval()


@pytest.fixture(scope="session")
def bundle_folder(tmp_path_factory: pytest.TempPathFactory, torch_folder: Path, torch_model: Any) -> Path:
    """A bundle with both precisions, made once a test session. Read only."""
    from filelock import FileLock

    shared = tmp_path_factory.getbasetemp()
    if shared.name.startswith("popen-"):  # a worker of xdist: its parent folder is common to all
        shared = shared.parent
    folder = shared / "bundle"
    with FileLock(shared / "bundle.lock"):
        if not (folder / "amalgam.json").exists():
            _write_bundle(folder, torch_folder, torch_model)
    return folder


def _write_bundle(folder: Path, torch_folder: Path, model: Any) -> None:
    from transformers import AutoTokenizer

    from amalgam_edge.exporters.quantization.int8 import INT8_LADDER, quantize_to_int8
    from amalgam_edge.exporters.student_export import export_student
    from amalgam_edge.runtime.manifest import write_manifest
    from tests.support.manifests import make_label, make_manifest, make_precision

    tokenizer = AutoTokenizer.from_pretrained(torch_folder)
    tokenizer.model_max_length = BUNDLE_MAX_LENGTH
    tokenizer.save_pretrained(folder)
    model.config.save_pretrained(folder)
    export_student(model, folder / "onnx" / "model.onnx")
    quantize_to_int8(folder / "onnx" / "model.onnx", folder / "onnx" / "model_quantized.onnx", INT8_LADDER[0])
    write_manifest(
        folder,
        make_manifest(
            labels=tuple(map(make_label, BUNDLE_LABELS)),
            precisions={
                "fp32": make_precision("onnx/model.onnx"),
                "int8": make_precision("onnx/model_quantized.onnx"),
            },
            max_length=BUNDLE_MAX_LENGTH,
            pad_token_id=tokenizer.pad_token_id,
            evaluation=None,
        ),
    )


@pytest.fixture(scope="session")
def bucket() -> Iterator[str]:
    """``s3://…``: a bucket of an S3 server that runs in this process."""
    moto = pytest.importorskip("moto.server", reason="there is no moto[server], which stands in for S3")
    pytest.importorskip("s3fs", reason="there is no s3fs")
    import fsspec

    server = moto.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        fsspec.filesystem("s3").mkdir("texts-and-scores")
        yield "s3://texts-and-scores"
    server.stop()


@pytest.fixture
def memory() -> Iterator[str]:
    """``memory://…``, emptied afterwards."""
    import fsspec

    yield "memory://here"
    fsspec.filesystem("memory").store.clear()


@pytest.fixture
def flaky(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A file system ``flaky://``; its next ``failures`` operations fail by ``error``, ``waits`` is what was waited."""
    import fsspec
    from fsspec.implementations.memory import MemoryFileSystem

    from amalgam_edge.storage import files

    class Flaky(MemoryFileSystem):
        protocol = "flaky"
        store: ClassVar[dict[str, Any]] = {}
        pseudo_dirs: ClassVar[list[str]] = [""]
        failures = 0
        error: Exception = ConnectionError("the connection was reset")
        waits: ClassVar[list[float]] = []

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            return str(super()._strip_protocol(path.removeprefix("flaky:")))

        def _fail(self) -> None:
            if Flaky.failures:
                Flaky.failures -= 1
                raise Flaky.error

        def pipe_file(self, *arguments: Any, **options: Any) -> Any:
            self._fail()
            return super().pipe_file(*arguments, **options)

        def info(self, *arguments: Any, **options: Any) -> Any:
            self._fail()
            return super().info(*arguments, **options)

        def ls(self, *arguments: Any, **options: Any) -> Any:
            self._fail()
            return super().ls(*arguments, **options)

    monkeypatch.setattr(files, "PROTOCOLS", files.PROTOCOLS | {"flaky"})
    fsspec.register_implementation("flaky", Flaky, clobber=True)
    monkeypatch.setattr(files.time, "sleep", Flaky.waits.append)
    return Flaky


@pytest.fixture
def copied(tmp_path: Path, bundle_folder: Path) -> Path:
    """A copy of the bundle that a test may damage."""
    return shutil.copytree(bundle_folder, tmp_path / "copy")


@pytest.fixture
def flip() -> Callable[[Path], None]:
    """``flip(path)`` turns one bit in the middle of a file."""

    def flip(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)

    return flip
