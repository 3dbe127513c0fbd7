"""The registry of models: loading, reloading, and bundles that are refused."""

import asyncio
import errno
import json
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest

from amalgam_edge import cores
from amalgam_edge.errors import AmalgamError
from amalgam_edge.heads import Heads
from amalgam_edge.runtime import EdgeClassifier, model_runner
from amalgam_edge.runtime.bundle import version_of
from amalgam_edge.serving import models as models_module
from amalgam_edge.serving.limits import Limits
from amalgam_edge.serving.metrics import ServerMetrics
from amalgam_edge.serving.models import LoadOptions, ModelRegistry
from tests.support import hub


def with_registry(scenario, folders, **options):
    """Run ``scenario(registry)`` with these bundles loaded."""

    async def main():
        registry = ModelRegistry(folders, LoadOptions(**options), Limits(), ServerMetrics())
        try:
            await registry.load()
            return await scenario(registry)
        finally:
            await registry.close()

    return asyncio.run(main())


@pytest.fixture
def recorded(monkeypatch):
    """Options with which classifiers are opened, and the number of threads of each batcher."""
    opened, n_threads = [], []
    monkeypatch.setattr(cores, "usable_cores", lambda: 4)
    open_, batcher = EdgeClassifier.from_pretrained, models_module.MicroBatcher
    monkeypatch.setattr(
        models_module.EdgeClassifier, "from_pretrained", lambda folder, **kw: opened.append(kw) or open_(folder, **kw)
    )
    monkeypatch.setattr(
        models_module, "MicroBatcher", lambda *a, **kw: n_threads.append(kw["n_threads"]) or batcher(*a, **kw)
    )
    return opened, n_threads


@pytest.mark.parametrize("threads", [1, 3])
def test_each_thread_runs_batches_of_its_own(bundle_folder, recorded, threads):
    async def scenario(registry):
        return registry.get().classifier.precision

    assert with_registry(scenario, {"tiny": str(bundle_folder)}, precision="fp32", threads=threads) == "fp32"
    opened, n_threads = recorded
    assert opened == [{"precision": "fp32", "threads": 1, "cascade": None, "device": "cpu"}]
    assert n_threads == [threads]


@pytest.mark.parametrize(("options", "n_threads"), [({}, 4), ({"threads": 64}, 4), ({"device": "cuda"}, 1)])
def test_no_more_batches_run_at_a_time_than_there_are_cores_and_one_on_a_gpu(
    bundle_folder, recorded, monkeypatch, options, n_threads
):
    """There is no GPU here: its session is opened on the CPU."""
    inner = model_runner.open_session
    monkeypatch.setattr(model_runner, "open_session", lambda model, threads=None, device="cpu": inner(model, threads))

    async def scenario(registry):
        return registry.names

    with_registry(scenario, {"tiny": str(bundle_folder)}, **options)
    opened, found = recorded
    assert opened[0]["device"] == options.get("device", "cpu")
    assert found == [n_threads]


def test_the_first_model_answers_requests_without_a_name(bundle_folder):
    async def scenario(registry):
        assert registry.names == ["b", "a"]
        assert registry.get().name == "b"
        assert registry.get("a").name == "a"
        assert registry.get("c") is None

    with_registry(scenario, {"b": str(bundle_folder), "a": str(bundle_folder)}, threads=1)


def test_a_model_whose_scores_are_not_finite_is_refused(bundle_folder, monkeypatch):
    logits = np.array([[1.0, np.nan, 0.0, 0.0]], dtype=np.float32)
    monkeypatch.setattr(EdgeClassifier, "logits", lambda self, texts: logits)

    async def scenario(registry):
        raise AssertionError("it must not be loaded")

    with pytest.raises(AmalgamError, match="scores that are not finite"):
        with_registry(scenario, {"tiny": str(bundle_folder)}, threads=1)


def test_a_refused_version_is_reported_once_and_tried_until_it_is_sound(copied):
    path = copied / "amalgam.json"
    sound = path.read_text("utf-8")

    async def scenario(registry):
        version = registry.get().version
        assert await registry.reload() == {}
        path.write_text("{", "utf-8")
        messages = await registry.reload()
        assert messages["tiny"].startswith(f"not taken, version {version} goes on: ")
        assert "damaged manifest" in registry.reload_error("tiny")
        assert await registry.reload() == {}
        path.write_text(json.dumps({**json.loads(sound), "note": "another"}), "utf-8")
        messages = await registry.reload()
        assert messages == {"tiny": f"version {registry.get().version}"}
        assert registry.get().version != version
        assert registry.reload_error("tiny") is None

    with_registry(scenario, {"tiny": str(copied)}, threads=1)


def test_a_bundle_of_the_hub_stays_at_its_commit(monkeypatch, tmp_path, bundle_folder):
    files = hub.files_of(bundle_folder)

    async def scenario(registry):
        served = registry.get()
        assert served.version == version_of(bundle_folder)
        there.move_main("owner/student", {**files, "amalgam.json": b"{}"})
        asked = there.requests
        assert await registry.reload() == {}
        shutil.rmtree(served.classifier.bundle.folder)
        assert await registry.reload() == {}
        assert there.requests == asked
        assert registry.get() is served
        assert len(await served.run(["a text"])) == 1

    with hub.running() as there:
        hub.let_this_process_ask(there, monkeypatch, tmp_path / "cache")
        there.files["owner/student"] = files
        with_registry(scenario, {"tiny": "owner/student"}, threads=1)


class Panic(BaseException):
    """As pyo3's PanicException, which is no Exception."""


def raising(error):
    def raise_it(*arguments, **options):
        raise error

    return raise_it


def failing(stage, error):
    """What stands in for a stage of loading, and raises."""
    if not stage.endswith("Thread"):
        return raising(error)

    class SecondThreadFails(threading.Thread):
        started: ClassVar[list[threading.Thread]] = []

        def start(self):
            if self.started:
                raise error
            self.started.append(self)
            super().start()

    return SecondThreadFails


ERRORS = [
    OSError(errno.EMFILE, "Too many open files"),
    PermissionError(errno.EACCES, "Permission denied"),
    MemoryError(),
    RuntimeError("can't start new thread"),
    RecursionError("maximum recursion depth exceeded"),
    OverflowError("cannot convert float infinity to integer"),
    StopIteration(),
    Panic("a panic"),
    SystemExit(3),
    KeyboardInterrupt(),
]
STAGES = [
    "models.version_of",
    "models.EdgeClassifier.from_pretrained",
    "models.EdgeClassifier.logits",
    "models.MicroBatcher",
    "batching.Thread",
]


class QuickClassifier:
    """Loads at once whatever the folder holds."""

    heads = Heads.of_labels(("a", "b"))
    labels = heads.labels
    max_length = 16

    @classmethod
    def from_pretrained(cls, folder, **options):
        loaded = cls()
        loaded.bundle = SimpleNamespace(folder=Path(folder), version=version_of(folder), hub=None)
        return loaded

    def logits(self, texts):
        return np.zeros((len(texts), 2), np.float32)

    def run(self, texts):
        return self.logits(texts), np.zeros(len(texts), bool)


@pytest.fixture
def quick(tmp_path, monkeypatch):
    """A folder of a bundle that is loaded at once."""
    monkeypatch.setattr(models_module, "EdgeClassifier", QuickClassifier)
    (tmp_path / "amalgam.json").write_text("1", "utf-8")
    return tmp_path


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_whatever_fails_a_reload_the_old_version_goes_on(quick, monkeypatch, caplog, stage, error):
    before = {*threading.enumerate()}

    async def scenario(registry):
        old = registry.get()
        (quick / "amalgam.json").write_text("2", "utf-8")
        with monkeypatch.context() as patch:
            patch.setattr(f"amalgam_edge.serving.{stage}", failing(stage, error))
            messages = await registry.reload()
            assert messages["tiny"].startswith(f"not taken, version {old.version} goes on: ")
            assert type(error).__name__ in registry.reload_error("tiny")
            assert stage.endswith("Thread") or await registry.reload() == {}
        assert registry.get() is old
        assert len(await old.run(["a text"])) == 1
        assert registry.fault is None
        messages = await registry.reload()
        assert messages == {"tiny": f"version {registry.get().version}"}
        assert registry.get() is not old
        assert registry.reload_error("tiny") is None

    with_registry(scenario, {"tiny": str(quick)}, threads=2)
    assert [record.exc_info[0] for record in caplog.records] == [type(error)]
    assert "model" not in {thread.name for thread in {*threading.enumerate()} - before}


@pytest.mark.parametrize("stage", STAGES[1:])  # the version is that of the manifest that was read
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_whatever_fails_the_start_ends_it_in_one_line(quick, monkeypatch, stage, error):
    monkeypatch.setattr(f"amalgam_edge.serving.{stage}", failing(stage, error))

    async def scenario(registry):
        raise AssertionError("it must not be loaded")

    with pytest.raises(AmalgamError, match=rf"cannot be loaded \({type(error).__name__}: ") as raised:
        with_registry(scenario, {"tiny": str(quick)}, threads=2)
    assert len(str(raised.value).splitlines()) == 1


def test_a_version_that_cannot_be_read_for_a_while_is_no_new_one(copied, monkeypatch):
    async def scenario(registry):
        old = registry.get()
        with monkeypatch.context() as patch:
            patch.setattr(
                "amalgam_edge.runtime.bundle.sha256_of_file", raising(OSError(errno.EMFILE, "Too many files"))
            )
            assert "OSError" in (await registry.reload())["tiny"]
        assert await registry.reload() == {}
        assert registry.get() is old
        assert registry.reload_error("tiny") is None

    with_registry(scenario, {"tiny": str(copied)}, threads=1)


@pytest.mark.parametrize(
    "content", ['{"format": 1e999}', "[" * 100_000, "1" * 10_000, '"\\ud800"', "\ufeff{}", "NaN", "\0", ""]
)
def test_a_manifest_of_junk_does_not_end_reloading(copied, content):
    path = copied / "amalgam.json"
    sound = path.read_text("utf-8")

    async def scenario(registry):
        old = registry.get()
        path.write_text(content, "utf-8")
        assert "not taken" in (await registry.reload())["tiny"]
        assert registry.get() is old
        path.write_text(sound, "utf-8")
        assert await registry.reload() == {}
        assert registry.reload_error("tiny") is None

    with_registry(scenario, {"tiny": str(copied)}, threads=1)


def test_a_model_without_logits_is_refused(copied, without_logits):
    without_logits(copied)

    async def scenario(registry):
        raise AssertionError("it must not be loaded")

    with pytest.raises(AmalgamError, match="no output 'logits'"):
        with_registry(scenario, {"tiny": str(copied)}, precision="fp32", threads=1)


def test_a_model_that_no_longer_answers_and_the_end_of_reloading_fail_readiness(bundle_folder, monkeypatch):
    async def scenario(registry):
        assert registry.fault is None
        registry.reloading_fault = "reloading has ended (Panic)"
        assert registry.fault == "reloading has ended (Panic)"
        monkeypatch.setattr(registry.get("b")._batcher, "_ended", "Panic")
        assert registry.fault == "b: a model thread has ended (Panic)"

    with_registry(scenario, {"a": str(bundle_folder), "b": str(bundle_folder)}, threads=1)
