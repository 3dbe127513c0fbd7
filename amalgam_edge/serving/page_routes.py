"""The web page at ``/``, and the files with which it runs a model in the browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import APIRouter, HTTPException, Response
from fastapi.responses import FileResponse

from amalgam_edge.browser.libraries import LIBRARY_FILES
from amalgam_edge.browser.site import CONFIG_FILE, PAGE_FILES, read_page_file
from amalgam_edge.serving.models import ModelRegistry
from amalgam_edge.serving.request_handling import find_model

_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css",
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".wasm": "application/wasm",
    ".json": "application/json",
    ".onnx": "application/octet-stream",
    "": "text/plain",
}
_CONTENT_SECURITY_POLICY = "; ".join(
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
_HEADERS = {
    "content-security-policy": _CONTENT_SECURITY_POLICY,
    "cache-control": "no-cache",
    # Browsers allow threads (SharedArrayBuffer) only to a page that loads nothing from other origins.
    "cross-origin-embedder-policy": "require-corp",
}
# The page asks for a bundle's files with the bundle's version, so that they never change under their address.
_IMMUTABLE_HEADERS = {**_HEADERS, "cache-control": "private, max-age=31536000, immutable"}
OPEN_PATHS = frozenset(
    {"/", *(f"/{name}" for name in (*PAGE_FILES, CONFIG_FILE)), *(f"/libraries/{name}" for name in LIBRARY_FILES)}
)


def page_router(models: ModelRegistry, libraries: Path | None, *, needs_key: bool) -> APIRouter:
    """The routes of the page.

    Args:
        models: The served models.
        libraries: Folder of the JavaScript libraries; None if models run on the server only.
        needs_key: Whether requests need an API key.
    """
    router = APIRouter(include_in_schema=False)

    @router.get("/")
    async def page() -> Response:
        return _page_file_response("index.html")

    @router.get(f"/{CONFIG_FILE}")
    async def config() -> dict[str, Any]:
        served = [find_model(models, name) for name in models.names]
        return {
            "server": True,
            "browser": libraries is not None,
            "key": needs_key,
            "models": [model.page_description for model in served],
        }

    @router.get("/libraries/{name}")
    async def library(name: str) -> Response:
        if libraries is None or name not in LIBRARY_FILES:
            raise HTTPException(404, "not here")
        return FileResponse(libraries / name, media_type=_media_type(name), headers=_HEADERS)

    @router.get("/bundles/{model}/{name}")
    async def bundle_file(model: str, name: str) -> Response:
        bundle_files = find_model(models, model).page_files if libraries is not None else {}
        if name not in bundle_files:
            raise HTTPException(404, "not here")
        return Response(bundle_files[name].content, media_type=_media_type(name), headers=_IMMUTABLE_HEADERS)

    @router.get("/{name}")
    async def page_file(name: str) -> Response:
        if name not in PAGE_FILES:
            raise HTTPException(404, "not here")
        return _page_file_response(name)

    return router


def _page_file_response(name: str) -> Response:
    return Response(read_page_file(name), media_type=_media_type(name), headers=_HEADERS)


def _media_type(name: str) -> str:
    return _MEDIA_TYPES[Path(name).suffix]
