"""The web application: routes, errors, and what stands around them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.middleware.cors import CORSMiddleware

from amalgam_edge.environment import own_version
from amalgam_edge.serving import hugging_face
from amalgam_edge.serving.answering import answer_of, body_of, check_texts, model_of
from amalgam_edge.serving.guard import HEALTH_PATHS, App, Guard
from amalgam_edge.serving.limits import Limits
from amalgam_edge.serving.metrics import CONTENT_TYPE, Metrics
from amalgam_edge.serving.models import Models
from amalgam_edge.serving.open_inference import open_inference_router
from amalgam_edge.serving.page_routes import OPEN_PATHS, page_router
from amalgam_edge.serving.plain_routes import PlainRoute, PlainRoutes

_ERROR = {"description": "What is wrong.", "content": {"application/json": {"example": {"error": "…"}}}}
ERRORS: dict[int | str, dict[str, Any]] = dict.fromkeys((401, 404, 413, 415, 422, 503), _ERROR)


@dataclass(frozen=True)
class Access:
    """Who may ask, and for what.

    Attributes:
        keys: API keys, one of which must be given; none is needed where there is none.
        origins: of pages that may ask, beside the server's own.
        libraries: folder of the libraries that run models in the browser; None where they run on the server alone.
    """

    keys: Sequence[str] = ()
    origins: Sequence[str] = ()
    libraries: Path | None = None


def create_app(models: Models, limits: Limits, metrics: Metrics, access: Access) -> App:
    """The application over models that are loaded, or will be before the first request."""
    app = FastAPI(
        title="amalgam-edge",
        redirect_slashes=False,
        version=own_version(),
        description="Text classifiers, by the protocol of Hugging Face and by the Open Inference Protocol.",
    )
    app.openapi = partial(_description, app, models)  # type: ignore[method-assign]
    for kind in (StarletteHTTPException, RequestValidationError, Exception):
        app.add_exception_handler(kind, _told)
    _add_hugging_face(app, models, limits)
    open_inference = open_inference_router(models, limits, ERRORS)
    app.include_router(open_inference)
    _add_accounts(app, models, limits, metrics)
    app.include_router(page_router(models, access.libraries, access.keys))
    for name in models.names:
        metrics.watch_queue(name, partial(_queued, models, name))
    answering: App = PlainRoutes(app, [*app.routes, *open_inference.routes], _told)
    if access.origins:
        answering = CORSMiddleware(
            answering,
            allow_origins=[*access.origins],
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type"],
        )
    keys = [key.encode() for key in access.keys]
    return Guard(
        answering,
        metrics=metrics,
        body_bytes=limits.body_bytes,
        keys=keys,
        open_paths=OPEN_PATHS | HEALTH_PATHS,
        shared=bool(access.origins),
    )


def _description(app: FastAPI, models: Models) -> dict[str, Any]:
    """The API's description, with the names and versions that there are."""
    document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    known = {"name": models.names, "version": [model_of(models, name).version for name in models.names]}
    for operations in document["paths"].values():
        for operation in operations.values():
            for parameter in operation.get("parameters", []):
                if parameter["in"] == "path":
                    parameter["schema"] = {"type": "string", "enum": known[parameter["name"]]}
    return document


def _queued(models: Models, name: str) -> int:
    model = models.get(name)
    return model.queued if model else 0


async def _told(request: Request, error: Exception) -> Response:
    """Every error is ``{"error": why}``."""
    if isinstance(error, StarletteHTTPException):
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)
    if isinstance(error, RequestValidationError):
        return JSONResponse({"error": "the path or the query cannot be read"}, 422)
    return JSONResponse({"error": "internal error; the server's log says more"}, 500)


def _add_hugging_face(app: FastAPI, models: Models, limits: Limits) -> None:
    async def classify(request: Request, name: str | None = None) -> Response:
        model_of(models, name)  # no body is read for one that is not there
        asked = _parsed(await body_of(request))
        model = model_of(models, name)  # after the last wait: a bundle that is swapped takes on no more
        texts = [asked.inputs] if isinstance(asked.inputs, str) else asked.inputs
        check_texts(texts, limits)
        answer = await answer_of(request, model, texts)
        return Response(hugging_face.ranked(answer, model.label_json, asked.parameters), media_type="application/json")

    async def classify_by_first(request: Request) -> Response:
        """Classify with the first bundle."""
        return await classify(request)

    async def classify_by_name(request: Request, name: str) -> Response:
        """Classify with the bundle of a name."""
        return await classify(request, name)

    schema = hugging_face.Request.model_json_schema(ref_template="#/components/schemas/{model}")
    definitions = schema.pop("$defs")
    inlined = {**schema, "properties": {**schema["properties"], "parameters": definitions["Parameters"]}}
    body = {"requestBody": {"required": True, "content": {"application/json": {"schema": inlined}}}}
    for path, endpoint in (
        ("/", classify_by_first),
        ("/predict", classify_by_first),
        ("/models/{name}", classify_by_name),
    ):
        app.router.add_api_route(
            path,
            endpoint,
            route_class_override=PlainRoute,
            methods=["POST"],
            tags=["Hugging Face text-classification"],
            responses={**ERRORS, 200: {"model": list[list[hugging_face.Element]]}},
            openapi_extra=body,
            operation_id=f"classify {path}",
        )


def _parsed(body: bytes) -> hugging_face.Request:
    try:
        return hugging_face.Request.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        if first["loc"][:1] == ("inputs",):
            raise HTTPException(422, "inputs: a text, or a list of one or more texts") from error
        where = ".".join(map(str, first["loc"]))
        raise HTTPException(422, f"{where}: {first['msg']}" if where else first["msg"]) from error


def _add_accounts(app: FastAPI, models: Models, limits: Limits, metrics: Metrics) -> None:
    @app.get("/metrics", tags=["accounts"], response_class=Response)
    async def read_metrics() -> Response:
        """Counters and histograms, for Prometheus."""
        return Response(metrics.text(), headers={"content-type": CONTENT_TYPE})

    @app.get("/info", tags=["accounts"])
    async def read_info() -> dict[str, Any]:
        """What is served, and the limits."""
        return {
            "version": own_version(),
            "models": [_account(models, name) for name in models.names],
            "limits": {name: getattr(limits, name) for name in limits.__dataclass_fields__},
        }


def _account(models: Models, name: str) -> dict[str, Any]:
    model = model_of(models, name)
    return {
        "name": name,
        "version": model.version,
        "labels": [*model.labels],
        "precision": model.classifier.precision,
        "max_length": model.classifier.max_length,
        "abstain": model.classifier.abstain,
        "reload_error": models.fault(name),
    }
