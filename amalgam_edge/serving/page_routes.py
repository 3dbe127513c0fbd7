"""The page at ``/``, and what it needs to run a model in the browser."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from fastapi import APIRouter, HTTPException, Response
from fastapi.responses import FileResponse

from amalgam_edge.browser.libraries import FILES
from amalgam_edge.browser.site import CONFIG, PAGE_FILES, page_file
from amalgam_edge.serving.answering import model_of
from amalgam_edge.serving.models import Models

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css",
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".wasm": "application/wasm",
    ".json": "application/json",
    ".onnx": "application/octet-stream",
    "": "text/plain",
}
_POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self' 'wasm-unsafe-eval'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' data:",
        "worker-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)
# The last one lets the page have threads, which browsers give to pages alone that take nothing from elsewhere.
_HEADERS = {
    "content-security-policy": _POLICY,
    "cache-control": "no-cache",
    "cross-origin-embedder-policy": "require-corp",
}
_FOR_GOOD = {**_HEADERS, "cache-control": "private, max-age=31536000, immutable"}
OPEN_PATHS = frozenset(
    {"/", *(f"/{name}" for name in (*PAGE_FILES, CONFIG)), *(f"/libraries/{name}" for name in FILES)}
)


def page_router(models: Models, libraries: Path | None, keys: Collection[str]) -> APIRouter:
    """The routes of the page.

    Args:
        models: that are served.
        libraries: folder of the JavaScript libraries; None where models run on the server alone.
        keys: that are asked for.
    """
    router = APIRouter(include_in_schema=False)

    @router.get("/")
    async def page() -> Response:
        return _file("index.html")

    @router.get(f"/{CONFIG}")
    async def config() -> dict[str, Any]:
        served = [model_of(models, name) for name in models.names]
        return {
            "server": True,
            "browser": libraries is not None,
            "key": bool(keys),
            "models": [model.page_description for model in served],
        }

    @router.get("/libraries/{name}")
    async def library(name: str) -> Response:
        if libraries is None or name not in FILES:
            raise HTTPException(404, "not here")
        return FileResponse(libraries / name, media_type=_type(name), headers=_HEADERS)

    @router.get("/bundles/{model}/{name}")
    async def bundle_file(model: str, name: str) -> Response:
        own = model_of(models, model).page_files if libraries is not None else {}
        if name not in own:
            raise HTTPException(404, "not here")
        return FileResponse(own[name], media_type=_type(name), headers=_FOR_GOOD)

    @router.get("/{name}")
    async def own_file(name: str) -> Response:
        if name not in PAGE_FILES:
            raise HTTPException(404, "not here")
        return _file(name)

    return router


def _file(name: str) -> Response:
    return Response(page_file(name), media_type=_type(name), headers=_HEADERS)


def _type(name: str) -> str:
    return _TYPES[Path(name).suffix]
