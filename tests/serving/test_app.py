"""The application by itself, over a model without a bundle: admission, limits, health, metrics."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
from fastapi import HTTPException

from amalgam_edge.heads import Heads
from amalgam_edge.runtime.predictions import with_abstain
from amalgam_edge.serving.admission import AccessControl
from amalgam_edge.serving.app import create_app
from amalgam_edge.serving.limits import Limits
from amalgam_edge.serving.metrics import ServerMetrics
from amalgam_edge.serving.models import LoadOptions, ModelRegistry, ServedModel
from amalgam_edge.serving.request_handling import check_texts
from amalgam_edge.serving.server import ServerSettings, listen, url_of

KEY = "a-key"


class TwoLabelClassifier:
    """A classifier whose logits are 0 and the number of spaces in a text; texts above 5 characters are cut."""

    heads = Heads.of_labels(("a", "b"))
    labels = heads.labels
    max_length = 16
    precision = "fp32"

    def __init__(self, abstain=0.0):
        self.heads = with_abstain(self.heads, abstain)
        self.bundle = SimpleNamespace()

    def run(self, texts):
        logits = np.array([[0.0, text.count(" ")] for text in texts], np.float32)
        return logits, np.array([len(text) > 5 for text in texts])


def ask(*requests, limits=None, classifier=None, loaded=True, **access):
    """The application's responses to the requests, and its metrics."""
    limits = limits or Limits()

    async def run():
        metrics = ServerMetrics()
        models = ModelRegistry({"tiny": "nowhere"}, LoadOptions(), limits, metrics)
        model = ServedModel("tiny", classifier or TwoLabelClassifier(), "v1", limits, metrics, 1)
        if loaded:
            models._served["tiny"] = model
        app = create_app(models, limits, metrics, AccessControl(**access))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as client:
            responses = [await client.request(**request) for request in requests]
        await model.close()
        return responses, metrics.exposition().decode()

    return asyncio.run(run())


def get(path, **headers):
    return {"method": "GET", "url": path, "headers": headers}


def post(content, path="/", **headers):
    return {"method": "POST", "url": path, "content": content, "headers": headers}


def body(*texts):
    return json.dumps({"inputs": [*texts]}).encode()


async def in_chunks(content, size=7):
    for start in range(0, len(content), size):
        yield content[start : start + size]


def test_the_default_limits_are_the_documented_ones():
    assert Limits() == Limits(
        body_bytes=4_000_000,
        texts=1024,
        characters=100_000,
        queue=4096,
        seconds=10.0,
        wait_ms=2.0,
        batch_tokens=2048,
        connections=2048,
        head_bytes=32_768,
        headers=100,
        inflight_bytes=32_000_000,
        receive_seconds=30.0,
        send_seconds=30.0,
        idle_seconds=75.0,
    )
    settings = ServerSettings()
    assert (settings.host, settings.port, settings.watch) == ("127.0.0.1", 8080, False)
    assert settings.shutdown_seconds == 30
    assert settings.limits == Limits()
    assert settings.access == AccessControl(api_keys=(), key_file=None, allowed_origins=(), allowed_hosts=())
    assert settings.browser_libraries is None


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(("excess", "status"), [(0, 200), (1, 413)])
def test_a_body_may_be_as_large_as_the_limit(chunked, excess, status):
    content = body("a text")
    limits = Limits(body_bytes=len(content) - excess)
    (response,), _ = ask(post(in_chunks(content) if chunked else content), limits=limits)
    assert response.status_code == status


def test_a_request_may_have_as_many_and_as_long_texts_as_the_limits():
    limits = Limits(texts=3, characters=5)
    check_texts(["12345"] * 3, limits)
    with pytest.raises(HTTPException, match="4 texts in a request, the limit is 3"):
        check_texts(["1"] * 4, limits)
    with pytest.raises(HTTPException, match="a text of 6 characters, the limit is 5"):
        check_texts(["1", "123456"], limits)


def test_every_response_has_the_security_headers():
    for response in ask(get("/info"), get("/none"), post(b"{"), post(body("x")))[0]:
        found = {name: response.headers[name] for name in response.headers if name.startswith(("x-", "cross-", "ref"))}
        assert found == {
            "x-content-type-options": "nosniff",
            "x-frame-options": "DENY",
            "referrer-policy": "no-referrer",
            "cross-origin-opener-policy": "same-origin",
            "cross-origin-resource-policy": "same-origin",
        }
        assert response.headers["cache-control"] == "no-store"


def test_the_page_has_its_own_cache_control():
    ((page, script),) = (ask(get("/"), get("/page.js"))[0],)
    for response in (page, script):
        assert response.headers.get_list("cache-control") == ["no-cache"]
        assert response.headers["cross-origin-embedder-policy"] == "require-corp"
        assert "default-src 'none'" in response.headers["content-security-policy"]


def test_pages_of_allowed_origins_may_read_responses():
    origin = "https://example.org"
    (response,), _ = ask(get("/info", origin=origin), allowed_origins=[origin])
    assert response.headers["access-control-allow-origin"] == origin
    assert "cross-origin-resource-policy" not in response.headers


@pytest.mark.parametrize("path", ["/v2/health/live", "/v2/health/ready", "/", "/page.js", "/model.js", "/offline.js"])
def test_health_and_the_page_need_no_key(path):
    (response,), _ = ask(get(path), api_keys=[KEY])
    assert response.status_code == 200


@pytest.mark.parametrize(
    "request_", [get("/info"), get("/metrics"), get("/v2/models/tiny"), post(body("x")), post(b"", "/v2/health/live")]
)
def test_everything_else_needs_a_key(request_):
    key = {"authorization": f"bearer  {KEY} "}
    keyed = {**request_, "headers": key}
    wrong = {**request_, "headers": {"authorization": f"Bearer {KEY}s"}}
    (without, refused, admitted), metrics = ask(request_, wrong, keyed, api_keys=["another", KEY])
    assert (without.status_code, refused.status_code) == (401, 401)
    assert without.headers["www-authenticate"] == "Bearer"
    assert admitted.status_code in (200, 405)
    assert 'amalgam_requests_total{path="other",status="401"} 2.0' in metrics


def test_the_server_is_ready_once_all_models_are_loaded():
    (live, ready, model), _ = ask(get("/v2/health/live"), get("/v2/health/ready"), get("/v2/models/tiny"), loaded=False)
    assert (live.status_code, ready.status_code, model.status_code) == (200, 503, 404)
    assert ready.headers["retry-after"] == "1"
    assert ask(get("/v2/health/ready"))[0][0].json() == {"ready": True}


def test_texts_below_the_threshold_and_cut_texts_are_counted():
    texts = ["x", " ", "a longer text"]  # the best probabilities are 0.5, 0.73 and 0.88
    _, metrics = ask(post(body(*texts)), classifier=TwoLabelClassifier(abstain=0.5))
    assert 'amalgam_abstentions_total{model="tiny"} 0.0' in metrics
    _, metrics = ask(post(body(*texts)), classifier=TwoLabelClassifier(abstain=0.75))
    assert 'amalgam_abstentions_total{model="tiny"} 2.0' in metrics
    assert 'amalgam_truncated_texts_total{model="tiny"} 1.0' in metrics
    assert 'amalgam_texts_total{model="tiny"} 3.0' in metrics
    assert 'amalgam_batch_texts_bucket{le="2.0",model="tiny"} 0.0' in metrics
    assert 'amalgam_batch_texts_bucket{le="4.0",model="tiny"} 1.0' in metrics
    assert 'amalgam_queue_texts{model="tiny"} 0.0' in metrics


def test_histograms_have_the_documented_buckets():
    _, metrics = ask(post(body("x")))

    def buckets(name):
        lines = (line for line in metrics.splitlines() if line.startswith(f"{name}_bucket"))
        return [line.split('le="')[1].split('"')[0] for line in lines]

    assert buckets("amalgam_request_seconds") == [
        *("0.001", "0.002", "0.005", "0.01", "0.02", "0.05", "0.1", "0.2", "0.5", "1.0", "2.0", "5.0", "10.0", "+Inf"),
    ]
    assert buckets("amalgam_batch_texts") == [*(f"{2.0**k}" for k in range(10)), "+Inf"]


def test_a_socket_listens_on_a_free_port_and_a_taken_one_is_refused():
    with listen("127.0.0.1", 0) as listening:
        port = listening.getsockname()[1]
        assert url_of(listening) == f"http://127.0.0.1:{port}"
        with pytest.raises(Exception, match=f"cannot listen on 127.0.0.1, port {port} .*: name another --port"):
            listen("127.0.0.1", port)


def test_an_ipv6_address_stands_in_brackets():
    assert url_of(SimpleNamespace(getsockname=lambda: ("::1", 80, 0, 0))) == "http://[::1]:80"


LONG, SHORT = "a longer text", "x"  # the first one is cut


def test_hugging_face_s_protocol_names_the_texts_that_were_cut():
    (some, none, one), _ = ask(post(body(LONG, SHORT, LONG)), post(body(SHORT)), post(json.dumps({"inputs": LONG})))
    assert some.headers["x-truncated"] == "0,2"
    assert "x-truncated" not in none.headers
    assert one.headers["x-truncated"] == "0"


def test_pages_of_allowed_origins_may_read_which_texts_were_cut():
    origin = "https://example.org"
    (response,), _ = ask({**post(body(LONG)), "headers": {"origin": origin}}, allowed_origins=[origin])
    assert "x-truncated" in response.headers["access-control-expose-headers"].split(", ")


def test_the_open_inference_protocol_names_the_texts_that_were_cut():
    tensor = {"name": "text", "shape": [3], "datatype": "BYTES", "data": [LONG, SHORT, LONG]}
    asked = json.dumps({"inputs": [tensor], "outputs": [{"name": "truncated"}]})
    (response, config), _ = ask(post(asked, "/v2/models/tiny/infer"), get("/v2/models/tiny/config"))
    truncated = {"name": "truncated", "datatype": "BOOL", "shape": [3], "data": [True, False, True]}
    assert response.json()["outputs"] == [truncated]
    assert config.json()["output"][-1] == {"name": "truncated", "data_type": "TYPE_BOOL", "dims": [-1]}


def test_the_open_inference_protocol_answers_with_four_tensors():
    tensor = {"name": "text", "shape": [2], "datatype": "BYTES", "data": ["x", "a longer text"]}
    (response,), _ = ask(post(json.dumps({"id": "7", "inputs": [tensor]}), "/v2/models/tiny/infer"))
    likelier = 1 / (1 + np.exp(-2))  # of logits 0 and 2
    label, score, probabilities, truncated = response.json().pop("outputs")
    assert truncated == {"name": "truncated", "datatype": "BOOL", "shape": [2], "data": [False, True]}
    assert label == {"name": "label", "datatype": "BYTES", "shape": [2], "data": ["a", "b"]}
    assert score.pop("data") == pytest.approx([0.5, likelier], abs=1e-6)
    assert score == {"name": "score", "datatype": "FP32", "shape": [2]}
    assert probabilities.pop("data") == pytest.approx([0.5, 0.5, 1 - likelier, likelier], abs=1e-6)
    assert probabilities == {"name": "probabilities", "datatype": "FP32", "shape": [2, 2]}
    assert {name: response.json()[name] for name in ("id", "model_name", "model_version")} == {
        "id": "7",
        "model_name": "tiny",
        "model_version": "v1",
    }
