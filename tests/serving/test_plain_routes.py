"""Plain routes answer as FastAPI would by itself, whatever is asked and whatever goes wrong."""

from __future__ import annotations

import asyncio
import json

import httpx
import numpy as np
import pytest

from amalgam_edge.serving.app import Access, create_app
from amalgam_edge.serving.limits import Limits
from amalgam_edge.serving.metrics import Metrics
from amalgam_edge.serving.models import Models, Options, ServedModel
from amalgam_edge.serving.plain_routes import PlainRoutes

NAME = "müll & co"
LIMITS = Limits(texts=3)


class Classifier:
    """Its logits are the lengths of texts; one text breaks it."""

    labels = ("a", "b")
    max_length = 16
    abstain = 0.0

    def run(self, texts):
        if "boom" in texts:
            raise RuntimeError("out of order")
        return np.array([[len(text), 1.0] for text in texts], np.float32), np.zeros(len(texts), bool)


def ask(requests, *, direct=True, raised=False, **access):
    """Status, headers and body of each answer, in one application, and what its metrics say."""

    async def run():
        metrics = Metrics()
        models = Models({NAME: "nowhere"}, Options(), LIMITS, metrics)
        model = models._served[NAME] = ServedModel(NAME, Classifier(), "v1", LIMITS, metrics, 1)
        app = create_app(models, LIMITS, metrics, Access(**access))
        plain = app._app
        assert isinstance(plain, PlainRoutes) == (not access)
        if not direct:
            plain._routes.clear()
        transport = httpx.ASGITransport(app, raise_app_exceptions=raised)
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            answers = [await client.request(**request) for request in requests]
        await model.close()
        return [(a.status_code, dict(a.headers), a.content) for a in answers], metrics.text().decode()

    return asyncio.run(run())


def post(url, content, **headers):
    return {"method": "POST", "url": url, "content": content, "headers": headers}


def tensors(*texts):
    given = {"name": "text", "shape": [len(texts)], "datatype": "BYTES", "data": [*texts]}
    return json.dumps({"inputs": [given]})


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
        post(f"/v2/models/{NAME}{version}/infer", tensors(*t))
        for version in ("", "/versions/v1")
        for t in (["x"], "abcd")
    ),
    post("/", '{"inputs": "boom"}'),
    post(f"/v2/models/{NAME}/infer", tensors("boom")),
    post("/", '{"inputs": "a text"}', **{"content-encoding": "gzip"}),
    {"method": "GET", "url": "/predict"},
    {"method": "GET", "url": f"/models/{NAME}"},
    {"method": "GET", "url": "/info"},
]


def test_they_answer_as_fastapi_does():
    found, counted = ask(REQUESTS)
    expected, counted_by_fastapi = ask(REQUESTS, direct=False)
    for request, own, theirs in zip(REQUESTS, found, expected, strict=True):
        assert own == theirs, request
    assert {status for status, _, _ in found} == {200, 404, 405, 415, 422, 500}

    def counts(text):
        return [line for line in text.splitlines() if line.startswith("amalgam_requests_total")]

    assert counts(counted) == counts(counted_by_fastapi)
    assert 'amalgam_requests_total{path="/",status="500"} 1.0' in counted


def test_what_nobody_foresaw_is_told_in_general_and_raised_for_the_log():
    request = post("/", '{"inputs": "boom"}')
    (answer,), _ = ask([request])
    assert answer[0] == 500
    assert json.loads(answer[2]) == {"error": "internal error; the server's log says more"}
    assert answer[1]["x-content-type-options"] == "nosniff"
    with pytest.raises(RuntimeError, match="out of order"):
        ask([request], raised=True)


def test_other_origins_may_read_them_where_they_are_named():
    (answer,), _ = ask([post("/", '{"inputs": "a text"}', origin="https://there")], origins=("https://there",))
    assert answer[0] == 200
    assert answer[1]["access-control-allow-origin"] == "https://there"
