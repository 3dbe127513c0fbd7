"""The fast path responds as FastAPI itself would, whatever the request and whatever goes wrong."""

from __future__ import annotations

import asyncio
import json

import httpx
import numpy as np
import pytest
from starlette.middleware.cors import CORSMiddleware

from amalgam_edge.heads import Heads
from amalgam_edge.serving.admission import AccessControl
from amalgam_edge.serving.app import create_app
from amalgam_edge.serving.fast_path import FastPathMiddleware
from amalgam_edge.serving.limits import Limits
from amalgam_edge.serving.metrics import ServerMetrics
from amalgam_edge.serving.models import LoadOptions, ModelRegistry, ServedModel

NAME = "müll & co"
LIMITS = Limits(texts=3)


class LengthClassifier:
    """A classifier whose logits are the lengths of the texts; the text "boom" breaks it."""

    heads = Heads.of_labels(("a", "b"))
    labels = heads.labels
    max_length = 16

    def run(self, texts):
        if "boom" in texts:
            raise RuntimeError("out of order")
        return np.array([[len(text), 1.0] for text in texts], np.float32), np.zeros(len(texts), bool)


def ask(requests, *, fast_path=True, raise_errors=False, **access):
    """Status, headers and body of each response of one application, and its metrics."""

    async def run():
        metrics = ServerMetrics()
        models = ModelRegistry({NAME: "nowhere"}, LoadOptions(), LIMITS, metrics)
        model = models._served[NAME] = ServedModel(NAME, LengthClassifier(), "v1", LIMITS, metrics, 1)
        app = create_app(models, LIMITS, metrics, AccessControl(**access))
        middleware = app
        while not isinstance(middleware, FastPathMiddleware):
            middleware = middleware.app if isinstance(middleware, CORSMiddleware) else middleware._app
        if not fast_path:
            middleware._routes.clear()
        transport = httpx.ASGITransport(app, raise_app_exceptions=raise_errors)
        try:
            async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
                responses = [await client.request(**request) for request in requests]
        finally:
            await model.close()
        return [(r.status_code, dict(r.headers), r.content) for r in responses], metrics.exposition().decode()

    return asyncio.run(run())


def post(url, content, **headers):
    return {"method": "POST", "url": url, "content": content, "headers": headers}


def inference(*texts):
    tensor = {"name": "text", "shape": [len(texts)], "datatype": "BYTES", "data": [*texts]}
    return json.dumps({"inputs": [tensor]})


BODIES = [
    '{"inputs": "a text"}',
    '{"inputs": ["one", "three"]}',
    '{"inputs": ["a", "b", "c", "d"]}',
    '{"inputs": []}',
    "{",
]
REQUESTS = [
    *(post(url, body) for url in ("/", "/predict", f"/models/{NAME}", "/models/other") for body in BODIES),
    *(
        post(f"/v2/models/{NAME}{version}/infer", inference(*texts))
        for version in ("", "/versions/v1")
        for texts in (["x"], "abcd")
    ),
    post("/", '{"inputs": "boom"}'),
    post(f"/v2/models/{NAME}/infer", inference("boom")),
    post("/", '{"inputs": "a text"}', **{"content-encoding": "br"}),
    {"method": "GET", "url": "/predict"},
    {"method": "GET", "url": f"/models/{NAME}"},
    {"method": "GET", "url": "/info"},
]


def request_counts(metrics):
    return [line for line in metrics.splitlines() if line.startswith("amalgam_requests_total")]


def test_responses_and_metrics_are_those_of_fastapi():
    responses, metrics = ask(REQUESTS)
    expected, expected_metrics = ask(REQUESTS, fast_path=False)
    for request, found, by_fastapi in zip(REQUESTS, responses, expected, strict=True):
        assert found == by_fastapi, request
    assert {status for status, _, _ in responses} == {200, 404, 405, 415, 422, 500}
    assert request_counts(metrics) == request_counts(expected_metrics)
    assert 'amalgam_requests_total{path="/",status="500"} 1.0' in metrics


async def out_of_order(*arguments):
    raise RuntimeError("out of order")


def test_an_unexpected_error_tells_the_client_nothing_and_reaches_the_log(monkeypatch):
    monkeypatch.setattr(ServedModel, "run", out_of_order)
    request = post("/", '{"inputs": "a text"}')
    ((status, headers, body),), _ = ask([request])
    assert status == 500
    assert json.loads(body) == {"error": "internal error; the server's log says more"}
    assert headers["x-content-type-options"] == "nosniff"
    with pytest.raises(RuntimeError, match="out of order"):
        ask([request], raise_errors=True)


def test_allowed_origins_may_read_responses():
    request = post("/", '{"inputs": "a text"}', origin="https://there")
    ((status, headers, _),), _ = ask([request], allowed_origins=("https://there",))
    assert status == 200
    assert headers["access-control-allow-origin"] == "https://there"
