"""What holds for every route of the application, of those that will be added, too."""

from __future__ import annotations

import asyncio
import re

import httpx
import numpy as np
import pytest
from fastapi import FastAPI

from amalgam_edge.heads import Heads
from amalgam_edge.serving.admission import HEALTH_PATHS, AccessControl
from amalgam_edge.serving.app import create_app
from amalgam_edge.serving.limits import Limits
from amalgam_edge.serving.metrics import ServerMetrics
from amalgam_edge.serving.models import LoadOptions, ModelRegistry, ServedModel
from amalgam_edge.serving.page_routes import OPEN_PATHS, PATHS_WITH_MORE

KEY = {"authorization": "Bearer a-key"}
# Values of the path parameters with which each route has something to say.
PARAMETERS = {"{version}": "v1", "/bundles/{model}/{name}": "/bundles/tiny/model.onnx", "/{name}": "/page.js"}
NOT_THERE = {"/libraries/{name}", "/bundles/{model}/{name}"}  # without --in-browser


class Classifier:
    heads = Heads.of_labels(("a", "b"))
    labels = heads.labels
    max_length = 16
    precision = "fp32"

    def run(self, texts):
        return np.zeros((len(texts), 2), np.float32), np.zeros(len(texts), bool)


def with_client(scenario, **access):
    """Run ``scenario(client, routes)``: routes are the paths of the application with their methods."""

    async def main():
        metrics = ServerMetrics()
        models = ModelRegistry({"tiny": "nowhere"}, LoadOptions(), Limits(), metrics)
        model = models._served["tiny"] = ServedModel("tiny", Classifier(), "v1", Limits(), metrics, 1)
        app = create_app(models, Limits(), metrics, AccessControl(**access))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            await scenario(client, routes_of(app))
        await model.close()

    asyncio.run(main())


def routes_of(app):
    """Path pattern → methods, of every route of the application inside the middlewares."""
    while not isinstance(app, FastAPI):
        app = getattr(app, "_app", None) or app.app
    document = {path: {method.upper() for method in item} for path, item in app.openapi()["paths"].items()}
    routes: dict[str, set[str]] = {}

    def add(router):
        for route in router.routes:
            if hasattr(route, "methods"):
                routes.setdefault(route.path, set()).update(route.methods)
            elif hasattr(route, "original_router"):
                add_included(route)
            else:
                raise AssertionError(f"a route of an unknown kind: {route}")

    def add_included(route):
        for inner in (
            route.effective_candidates() if hasattr(route, "effective_candidates") else route.original_router.routes
        ):
            routes.setdefault(inner.path, set()).update(inner.methods)

    add(app.router)
    for path, methods in document.items():
        assert methods <= routes[path]
    assert "/{name}" in routes
    return routes


def filled(path):
    """A path of a pattern."""
    path = PARAMETERS.get(path, path)
    return path.replace("{name}", "tiny").replace("{version}", "v1")


def test_every_route_that_can_be_read_answers_to_head_without_a_body():
    async def scenario(client, routes):
        n_read = 0
        for path in [path for path, methods in routes.items() if "GET" in methods]:
            get, head = await client.get(filled(path)), await client.head(filled(path))
            assert head.status_code == get.status_code == (404 if path in NOT_THERE else 200), path
            assert head.content == b"", path
            assert [*head.headers] == [*get.headers], path
            n_read += 1
        assert n_read > 15

    with_client(scenario)


def test_every_route_answers_with_a_slash_at_the_end_as_without():
    async def scenario(client, routes):
        for path, methods in routes.items():
            for method in methods:
                plain = await client.request(method, filled(path))
                slash = await client.request(method, filled(path).rstrip("/") + "/")
                assert slash.status_code == plain.status_code not in (405, 307, 308), (method, path)

    with_client(scenario)


def test_an_encoded_slash_ends_no_path():
    async def scenario(client, routes):
        for path in ("/models/tiny%2f", "/v2/models/tiny%2f..%2ftiny", "/v2/models/%2e%2e/tiny", "/models/..%2ftiny"):
            assert (await client.post(path, json={"inputs": "x"})).status_code == 404, path
            assert (await client.get(path)).status_code in (404, 405), path

    with_client(scenario)


def test_every_response_has_the_security_headers_and_every_page_a_policy():
    async def scenario(client, routes):
        n_pages = 0
        for path, methods in {**routes, "/nowhere/at/all": {"GET"}}.items():
            for method in (*methods, "DELETE"):
                response = await client.request(method, filled(path))
                assert response.headers["x-content-type-options"] == "nosniff", path
                assert response.headers["x-frame-options"] == "DENY", path
                assert response.headers["referrer-policy"] == "no-referrer", path
                assert response.headers["cross-origin-resource-policy"] == "same-origin", path
                if response.headers["content-type"].startswith("text/html"):
                    check_page(response)
                    n_pages += 1
        assert n_pages == 2

    with_client(scenario)


def check_page(response):
    """A page of HTML runs nothing that stands in it, and loads nothing from elsewhere."""
    policy = dict(part.split(" ", 1) for part in response.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert not re.search(r"https?:|//|\*|unsafe-inline|unsafe-eval(?<!wasm-unsafe-eval)", " ".join(policy.values()))
    assert not re.search(r"<script(?![^>]*src=)|\son\w+=|style=|<style|<base|<iframe", response.text)
    assert not re.search(r"""(src|href|action)\s*=\s*["']?\s*(\w+:)?//""", response.text)


def test_every_route_needs_a_key_but_for_those_of_the_list():
    open_paths = HEALTH_PATHS | OPEN_PATHS | PATHS_WITH_MORE

    async def scenario(client, routes):
        for path, methods in routes.items():
            for method in methods | ({"HEAD"} if "GET" in methods else set()):
                is_open = method != "POST" and filled(path) in open_paths
                for suffix in ("", "?api_key=a-key&authorization=Bearer%20a-key"):
                    without = await client.request(method, filled(path) + suffix)
                    assert (without.status_code != 401) == is_open, (method, path)
                assert (await client.request(method, filled(path), headers=KEY)).status_code != 401, (method, path)

    with_client(scenario, api_keys=["a-key"])
    assert {"/health", "/v2/health/live", "/v2/health/ready"} == HEALTH_PATHS
    assert not {"/info", "/metrics", "/docs", "/openapi.json"} & open_paths


def test_the_page_s_settings_name_the_models_to_those_who_have_a_key():
    async def scenario(client, routes):
        without, with_key = await client.get("/config.json"), await client.get("/config.json", headers=KEY)
        assert without.json() == {"server": True, "browser": False, "key": True, "models": []}
        assert [model["name"] for model in with_key.json()["models"]] == ["tiny"]
        wrong = await client.get("/config.json", headers={"authorization": "Bearer wrong"})
        assert wrong.status_code == 401

    with_client(scenario, api_keys=["a-key"])


def test_every_route_that_does_something_refuses_pages_of_other_origins():
    async def scenario(client, routes):
        for path in [path for path, methods in routes.items() if "POST" in methods]:
            for headers in (
                {"origin": "http://evil.example", "content-type": "text/plain"},
                {"origin": "null"},
                {"sec-fetch-site": "cross-site"},
            ):
                response = await client.post(filled(path), content=b'{"inputs": "x"}', headers=headers)
                assert response.status_code == 403, path
            for headers in ({}, {"origin": "http://localhost"}, {"content-type": "application/x-www-form-urlencoded"}):
                response = await client.post(filled(path), content=b'{"inputs": "x"}', headers=headers)
                assert response.status_code in (200, 422), path

    with_client(scenario)


@pytest.mark.parametrize("keys", [(), ("a-key",)])
def test_a_page_of_an_allowed_origin_can_ask_with_a_key(keys):
    origin = "https://example.org"
    wanted = "authorization, content-type, inference-header-content-length, content-encoding"

    async def scenario(client, routes):
        for path in [path for path, methods in routes.items() if "POST" in methods]:
            asked = {"access-control-request-method": "POST", "access-control-request-headers": wanted}
            preflight = await client.options(filled(path), headers={"origin": origin, **asked})
            assert preflight.status_code == 200, path
            assert preflight.headers["access-control-allow-origin"] == origin
            response = await client.post(filled(path), content=b"{", headers={"origin": origin, **KEY})
            assert response.status_code == 422
            assert response.headers["access-control-allow-origin"] == origin
            assert "inference-header-content-length" in response.headers["access-control-expose-headers"]
        refused = await client.options("/", headers={"origin": "https://evil.example", **asked})
        assert refused.status_code == 400
        assert "access-control-allow-origin" not in refused.headers
        if keys:  # the page can read why it was refused
            response = await client.post("/", content=b"{", headers={"origin": origin})
            assert response.status_code == 401
            assert response.headers["access-control-allow-origin"] == origin

    with_client(scenario, api_keys=keys, allowed_origins=[origin])


def test_other_methods_are_refused_and_say_which_there_are():
    async def scenario(client, routes):
        response = await client.get("/models/tiny")
        assert (response.status_code, response.headers["allow"]) == (405, "POST")
        assert (await client.request("TRACE", "/health")).status_code == 405

    with_client(scenario)


def test_whatever_clients_ask_for_makes_no_new_time_series():
    async def scenario(client, routes):
        for k in range(50):
            await client.get(f"/nowhere-{k}/x")
            await client.request(f"METHOD{k}", "/")
            await client.post(f"/models/none-{k}", content=b"{}")
            await client.get("/health", params={"k": k})
        text = (await client.get("/metrics")).text
        series = [line for line in text.splitlines() if line.startswith("amalgam_requests_total")]
        assert len(series) <= 5
        assert "none-" not in text
        assert "METHOD" not in text

    with_client(scenario)
