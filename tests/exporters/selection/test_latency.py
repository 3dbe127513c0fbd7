"""Latencies of models that only count their texts, on a clock that the test sets."""

import numpy as np
import pytest

from amalgam_edge.exporters.selection import latency
from amalgam_edge.exporters.selection.latency import measure_latency

TEXTS = [f"text {k}" for k in range(230)]


class CountingModel:
    def __init__(self):
        self.texts = []

    def run(self, texts, *, batch_size=32):
        self.texts += texts
        return np.zeros((len(texts), 2)), np.zeros(len(texts), dtype=bool)


@pytest.mark.parametrize(("given", "timed"), [(30, 30), (230, 200)])
def test_each_model_is_warmed_up_and_then_timed_on_each_text(given, timed):
    models = {"fp32": CountingModel(), "int8": CountingModel()}
    measured = measure_latency(models, TEXTS[:given])
    assert list(measured) == ["fp32", "int8"]
    for name, model in models.items():
        assert model.texts == TEXTS[:10] + TEXTS[:timed]
        assert 0 < measured[name].p50 <= measured[name].p95


def test_models_take_turns_at_each_text():
    order = []

    class Named(CountingModel):
        def __init__(self, name):
            self.name = name

        def run(self, texts, *, batch_size=32):
            order.append((texts[0], self.name))

    measure_latency({"a": Named("a"), "b": Named("b")}, ["x", "y"])
    assert order[-4:] == [("x", "a"), ("x", "b"), ("y", "a"), ("y", "b")]


def test_percentiles_are_in_milliseconds(monkeypatch):
    now = iter(x for k in range(21) for x in (100.0, 100.0 + k / 1000))
    monkeypatch.setattr(latency, "perf_counter", lambda: next(now))
    measured = measure_latency({"m": CountingModel()}, TEXTS[:21])
    assert measured["m"].p50 == pytest.approx(10.0)
    assert measured["m"].p95 == pytest.approx(19.0)
