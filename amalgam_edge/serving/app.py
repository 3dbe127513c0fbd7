"""The web application: all routes, the form of errors, and the middlewares."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from amalgam_edge.environment import own_version
from amalgam_edge.serving.admission import HEALTH_PATHS, AccessControl, AdmissionMiddleware
from amalgam_edge.serving.description_page import ApiDescription
from amalgam_edge.serving.envelope import EnvelopeMiddleware
from amalgam_edge.serving.fast_path import FastPathMiddleware
from amalgam_edge.serving.limits import Limits
from amalgam_edge.serving.metrics import ServerMetrics
from amalgam_edge.serving.models import ModelRegistry
from amalgam_edge.serving.monitoring_routes import monitoring_router
from amalgam_edge.serving.page_routes import OPEN_PATHS, PATHS_WITH_MORE, page_router
from amalgam_edge.serving.protocols import PROTOCOLS
from amalgam_edge.serving.protocols.hugging_face import TRUNCATED, name_heads
from amalgam_edge.serving.protocols.open_inference import name_outputs
from amalgam_edge.serving.protocols.open_inference_tensors import HEADER_LENGTH
from amalgam_edge.serving.request_handling import find_model

_ERROR = {"description": "What is wrong.", "content": {"application/json": {"example": {"error": "…"}}}}
_ERROR_RESPONSES: dict[int | str, dict[str, Any]] = dict.fromkeys((401, 403, 404, 413, 415, 421, 422, 429, 503), _ERROR)


def create_app(
    models: ModelRegistry,
    limits: Limits,
    metrics: ServerMetrics,
    access: AccessControl,
    *,
    browser_libraries: Path | None = None,
    host_names: frozenset[str] | None = None,
    is_full: Callable[[], bool] = lambda: False,
) -> ASGIApp:
    """The application over models, which must be loaded before the first request.

    Args:
        models: The models that answer.
        limits: Limits of requests.
        metrics: Counts requests.
        access: API keys and origins.
        browser_libraries: Folder of the JavaScript libraries with which the page runs models in the browser; None if
            models run on the server only.
        host_names: Names of the server, see :func:`amalgam_edge.serving.origins.known_hosts`.
        is_full: Whether all places for connections are taken.
    """
    app = FastAPI(
        title="amalgam-edge",
        redirect_slashes=False,
        openapi_url=None,  # FastAPI encodes the description for each request, and its pages load scripts from elsewhere
        version=own_version(),
        description="Text classifiers, by the protocol of Hugging Face and by the Open Inference Protocol.",
    )
    describe = lru_cache(maxsize=1)(lambda versions: ApiDescription(_openapi_document(app, models)))
    for kind in (StarletteHTTPException, RequestValidationError, Exception):
        app.add_exception_handler(kind, _error_response)
    protocol_routers = [create_router(models, limits) for create_router in PROTOCOLS]
    for router in protocol_routers:
        app.include_router(router, responses=_ERROR_RESPONSES)
    app.include_router(monitoring_router(models, limits, metrics))
    app.include_router(
        page_router(
            models,
            browser_libraries,
            needs_key=bool(access.api_keys),
            describe_api=lambda: describe(_versions(models)),
        )
    )
    fast_routes = [route for router in protocol_routers for route in router.routes]
    answering: ASGIApp = FastPathMiddleware(app, fast_routes, _error_response)
    answering = AdmissionMiddleware(
        answering,
        access=access,
        limits=limits,
        open_paths=OPEN_PATHS | HEALTH_PATHS,
        paths_with_more=PATHS_WITH_MORE,
        host_names=host_names,
        is_full=is_full,
    )
    if access.allowed_origins:  # before admission: a browser sends no key with its preflight, and reads every error
        answering = CORSMiddleware(
            answering,
            allow_origins=[*access.allowed_origins],
            allow_methods=["GET", "HEAD", "POST"],
            allow_headers=["authorization", "content-type", "content-encoding", HEADER_LENGTH],
            expose_headers=["content-encoding", "retry-after", "www-authenticate", HEADER_LENGTH, TRUNCATED],
        )
    return EnvelopeMiddleware(answering, metrics=metrics, is_open_to_others=bool(access.allowed_origins))


def _versions(models: ModelRegistry) -> tuple[tuple[str, str], ...]:
    """Name and version of each model."""
    return tuple((name, find_model(models, name).version) for name in models.names)


def _openapi_document(app: FastAPI, models: ModelRegistry) -> dict[str, Any]:
    """The API's description, which lists the names, versions, heads and outputs that there are."""
    document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    served = [find_model(models, name) for name in models.names]
    name_heads(document["paths"], [model.heads for model in served])
    name_outputs(document["paths"], [model.heads for model in served])
    known = {"name": [model.name for model in served], "version": [model.version for model in served]}
    for operations in document["paths"].values():
        for operation in operations.values():
            for parameter in operation.get("parameters", []):
                if parameter["in"] == "path":
                    parameter["schema"] = {"type": "string", "enum": known[parameter["name"]]}
    return document


async def _error_response(request: Request, error: Exception) -> Response:
    """``{"error": reason}`` for every error."""
    if isinstance(error, StarletteHTTPException):
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)
    if isinstance(error, RequestValidationError):
        return JSONResponse({"error": "the path or the query cannot be read"}, 422)
    return JSONResponse({"error": "internal error; the server's log says more"}, 500)
