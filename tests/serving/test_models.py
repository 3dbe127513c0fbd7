"""The registry of models: loading, reloading, and bundles that are refused."""

import asyncio
import json

import numpy as np
import pytest

from amalgam_edge.errors import AmalgamError
from amalgam_edge.runtime import EdgeClassifier
from amalgam_edge.serving import models as models_module
from amalgam_edge.serving.limits import Limits
from amalgam_edge.serving.metrics import ServerMetrics
from amalgam_edge.serving.models import LoadOptions, ModelRegistry


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
    assert opened == [{"precision": "fp32", "threads": 1, "cascade": None}]
    assert n_threads == [threads]


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
