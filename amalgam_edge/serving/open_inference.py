"""The Open Inference Protocol, version 2, over HTTP: texts as the tensor ``text``, answers as tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
from fastapi import APIRouter, HTTPException, Request, Response

from amalgam_edge.environment import own_version
from amalgam_edge.serving.answering import answer_of, body_of, check_texts, model_of
from amalgam_edge.serving.batching import Answer
from amalgam_edge.serving.limits import Limits
from amalgam_edge.serving.models import Models, ServedModel
from amalgam_edge.serving.plain_routes import PlainRoute
from amalgam_edge.serving.tensors import HEADER, Asked, BadTensorsError, read_request, write_response

_OUTPUTS = {"label": "BYTES", "score": "FP32", "probabilities": "FP32"}
_TAG = ["Open Inference Protocol"]
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["inputs"],
                    "properties": {
                        "id": {"type": "string"},
                        "inputs": {
                            "type": "array",
                            "minItems": 1,
                            "maxItems": 1,
                            "items": {
                                "type": "object",
                                "required": ["name", "shape", "datatype", "data"],
                                "properties": {
                                    "name": {"const": "text"},
                                    "shape": {
                                        "type": "array",
                                        "items": {"type": "integer", "minimum": 1},
                                        "minItems": 1,
                                        "maxItems": 2,
                                    },
                                    "datatype": {"const": "BYTES"},
                                    "data": {"type": "array", "items": {"type": "string"}, "minItems": 1},
                                },
                            },
                        },
                        "outputs": {
                            "type": "array",
                            "items": {
                                "type": "object",
                                "required": ["name"],
                                "properties": {"name": {"enum": [*_OUTPUTS]}},
                            },
                        },
                    },
                },
                "example": {
                    "inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a game of chess"]}]
                },
            }
        },
    }
}


def open_inference_router(models: Models, limits: Limits, errors: dict[int | str, dict[str, Any]]) -> APIRouter:
    """The routes below ``/v2``."""
    router = APIRouter(prefix="/v2", tags=[*_TAG], responses=errors)

    @router.get("")
    async def server_metadata() -> dict[str, Any]:
        """What the server is."""
        return {"name": "amalgam-edge", "version": own_version(), "extensions": ["binary_tensor_data"]}

    @router.get("/health/live")
    async def live() -> dict[str, bool]:
        """Whether the server runs."""
        return {"live": True}

    @router.get("/health/ready")
    async def ready() -> dict[str, bool]:
        """Whether all models are loaded."""
        if not models.ready:
            raise HTTPException(503, "models are being loaded", {"retry-after": "1"})
        return {"ready": True}

    @router.get("/models/{name}")
    @router.get("/models/{name}/versions/{version}")
    async def model_metadata(name: str, version: str | None = None) -> dict[str, Any]:
        """A model's tensors."""
        return _metadata(_model(models, name, version))

    @router.get("/models/{name}/ready")
    @router.get("/models/{name}/versions/{version}/ready")
    async def model_ready(name: str, version: str | None = None) -> dict[str, Any]:
        """Whether a model answers."""
        return {"name": _model(models, name, version).name, "ready": True}

    async def infer(request: Request, name: str, version: str | None = None) -> Response:
        """Classify the texts of the tensor ``text``."""
        _model(models, name, version)  # no body is read for one that is not there
        asked = _asked(await body_of(request), request.headers.get(HEADER), limits)
        model = _model(models, name, version)  # after the last wait: a bundle that is swapped takes on no more
        answer = await answer_of(request, model, asked.texts)
        return _response(model, asked, answer)

    for path in ("/models/{name}/infer", "/models/{name}/versions/{version}/infer"):
        router.add_api_route(
            path,
            infer,
            methods=["POST"],
            openapi_extra=_BODY,
            response_model=None,
            operation_id=f"infer {path}",
            route_class_override=PlainRoute,
        )
    return router


def _asked(body: bytes, header_length: str | None, limits: Limits) -> Asked:
    try:
        asked = read_request(body, header_length, most_texts=limits.texts)
    except BadTensorsError as error:
        raise HTTPException(422, str(error)) from error
    if unknown := [output for output in asked.outputs if output not in _OUTPUTS]:
        raise HTTPException(422, f"no output {unknown[0]!r}; there are {', '.join(_OUTPUTS)}")
    check_texts(asked.texts, limits)
    return asked


def _response(model: ServedModel, asked: Asked, answer: Answer) -> Response:
    best = answer.order[:, 0]
    values = {
        "label": np.array([model.labels[k].encode() for k in best], dtype=object),
        "score": answer.probabilities[np.arange(len(best)), best].astype(np.float32),
        "probabilities": answer.probabilities.astype(np.float32),
    }
    wanted = asked.outputs or dict.fromkeys(_OUTPUTS, asked.binary)
    head = {"model_name": model.name, "model_version": model.version}
    if asked.id is not None:
        head["id"] = asked.id
    content, length = write_response(head, [(name, _OUTPUTS[name], values[name]) for name in wanted], wanted)
    if length is None:
        return Response(content, media_type="application/json")
    return Response(content, media_type="application/octet-stream", headers={HEADER: str(length)})


def _model(models: Models, name: str, version: str | None) -> ServedModel:
    model = model_of(models, name)
    if version not in (None, model.version):
        raise HTTPException(404, f"no version of that name; there is {model.version}")
    return model


def _metadata(model: ServedModel) -> dict[str, Any]:
    shapes = {"label": [-1], "score": [-1], "probabilities": [-1, len(model.labels)]}
    return {
        "name": model.name,
        "versions": [model.version],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "text", "datatype": "BYTES", "shape": [-1]}],
        "outputs": [{"name": name, "datatype": kind, "shape": shapes[name]} for name, kind in _OUTPUTS.items()],
        "parameters": {"labels": [*model.labels]},
    }
