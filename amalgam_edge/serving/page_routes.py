"""The web page at ``/``, the files with which it runs a model in the browser, and the page about the API."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import FileResponse

from amalgam_edge.browser.libraries import LIBRARY_FILES
from amalgam_edge.browser.site import CONFIG_FILE, PAGE_FILES, describe_heads, read_page_file
from amalgam_edge.errors import AmalgamError
from amalgam_edge.serving.description_page import ApiDescription
from amalgam_edge.serving.models import ModelRegistry, ServedModel
from amalgam_edge.serving.request_handling import find_model
from amalgam_edge.storage.own_files import FileContent

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
OPEN_PATHS = frozenset({"/", *(f"/{name}" for name in PAGE_FILES), *(f"/libraries/{name}" for name in LIBRARY_FILES)})
PATHS_WITH_MORE = frozenset({f"/{CONFIG_FILE}"})  # to whoever has a key

_log = logging.getLogger(__name__)


class _BrowserModels:
    """What a browser needs to run each model. All files are read for that, once, in a thread beside the event loop."""

    def __init__(self) -> None:
        self._tasks: WeakKeyDictionary[ServedModel, asyncio.Task[dict[str, Any] | None]] = WeakKeyDictionary()

    async def describe(self, model: ServedModel) -> dict[str, Any] | None:
        """The page's description of a model; None if no browser can run it."""
        task = self._tasks.get(model)
        if task is None:
            task = self._tasks[model] = asyncio.create_task(asyncio.to_thread(_describe, model))
        return await asyncio.shield(task)

    async def files(self, model: ServedModel) -> Mapping[str, FileContent]:
        """Name → content of a file that the page loads to run a model; none if no browser can run it."""
        return {} if await self.describe(model) is None else model.page_files


def _describe(model: ServedModel) -> dict[str, Any] | None:
    try:
        model.page_files  # noqa: B018  (reads and checks the files, and keeps them)
        return model.page_description
    except AmalgamError as error:
        _log.warning("%s runs on the server only: %s", model.name, error)
        return None


def page_router(
    models: ModelRegistry,
    libraries: Path | None,
    *,
    needs_key: bool,
    describe_api: Callable[[], ApiDescription],
) -> APIRouter:
    """The routes of the page.

    Args:
        models: The served models.
        libraries: Folder of the JavaScript libraries; None if models run on the server only.
        needs_key: Whether requests need an API key.
        describe_api: Returns the API's description.
    """
    router = APIRouter(include_in_schema=False)
    _add_description_routes(router, describe_api)
    browser_models = _BrowserModels()

    @router.get("/")
    async def page() -> Response:
        return _page_file_response("index.html")

    @router.get(f"/{CONFIG_FILE}")
    async def config(request: Request) -> dict[str, Any]:
        may_know = not needs_key or "authorization" in request.headers  # a wrong key has been refused before
        served = [find_model(models, name) for name in models.names] if may_know else []
        described = [await browser_models.describe(model) for model in served] if libraries is not None else []
        runs_in_browser = libraries is not None and None not in described
        return {
            "server": True,
            "browser": runs_in_browser,
            "key": needs_key,
            "models": described if runs_in_browser else [*map(_brief_description, served)],
        }

    @router.get("/libraries/{name}")
    async def library(name: str) -> Response:
        if libraries is None or name not in LIBRARY_FILES:
            raise HTTPException(404, "not here")
        return FileResponse(libraries / name, media_type=_media_type(name), headers=_HEADERS)

    @router.get("/bundles/{model}/{name}")
    async def bundle_file(model: str, name: str) -> Response:
        bundle_files = await browser_models.files(find_model(models, model)) if libraries is not None else {}
        if name not in bundle_files:
            raise HTTPException(404, "not here")
        return Response(bundle_files[name].content, media_type=_media_type(name), headers=_IMMUTABLE_HEADERS)

    @router.get("/{name}")
    async def page_file(name: str) -> Response:
        if name not in PAGE_FILES:
            raise HTTPException(404, "not here")
        return _page_file_response(name)

    return router


def _add_description_routes(router: APIRouter, describe_api: Callable[[], ApiDescription]) -> None:
    @router.get("/docs")
    async def api_description() -> Response:
        return Response(describe_api().page, media_type=_media_type("docs.html"), headers=_HEADERS)

    @router.get("/openapi.json")
    async def api_description_for_programs() -> Response:
        return Response(describe_api().json, media_type=_media_type("openapi.json"))


def _brief_description(model: ServedModel) -> dict[str, Any]:
    """What the page needs to know of a model that runs on the server only."""
    return {
        "name": model.name,
        "version": model.version,
        "labels": [*model.labels],
        "max_length": model.classifier.max_length,
        **describe_heads(model.heads),
    }


def _page_file_response(name: str) -> Response:
    return Response(read_page_file(name), media_type=_media_type(name), headers=_HEADERS)


def _media_type(name: str) -> str:
    return _MEDIA_TYPES[Path(name).suffix]
