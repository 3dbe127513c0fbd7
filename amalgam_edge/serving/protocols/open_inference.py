"""The Open Inference Protocol, version 2, over HTTP: texts come as the tensor ``text``, answers are tensors too.

Specification: https://github.com/kserve/open-inference-protocol
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import JSONResponse

from amalgam_edge.environment import own_version
from amalgam_edge.heads import Heads
from amalgam_edge.serving.bodies import compressed_if_asked, read_body
from amalgam_edge.serving.fast_path import FastPathRoute
from amalgam_edge.serving.limits import Limits
from amalgam_edge.serving.models import ModelRegistry, ServedModel
from amalgam_edge.serving.protocols.open_inference_outputs import (
    OutputDescription,
    describe_labels,
    describe_outputs,
    output_values,
)
from amalgam_edge.serving.protocols.open_inference_tensors import (
    HEADER_LENGTH,
    BadTensorsError,
    InferenceRequest,
    OutputTensor,
    encode_response,
    parse_request,
)
from amalgam_edge.serving.request_handling import check_texts, find_model, run_unless_disconnected
from amalgam_edge.storage.json_text import mended_json

_CONFIG_TYPES = {"BYTES": "TYPE_STRING", "FP32": "TYPE_FP32", "BOOL": "TYPE_BOOL"}
_REQUEST_BODY = {
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
                                "properties": {"name": {"enum": []}},  # name_outputs fills it
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


def create_router(models: ModelRegistry, limits: Limits) -> APIRouter:
    """The routes below ``/v2``."""
    router = APIRouter(prefix="/v2", tags=["Open Inference Protocol"])
    _add_health_routes(router, models)
    _add_metadata_routes(router, models)

    async def infer(request: Request, name: str, version: str | None = None) -> Response:
        """Classify the texts of the tensor ``text``."""
        _find_version(models, name, version)  # an unknown model is refused before the body is read
        body = await read_body(request)
        model = _find_version(models, name, version)  # once more: it may have been replaced while the body came
        described = describe_outputs(model.heads)
        inference = _parse(body, request.headers.get(HEADER_LENGTH), limits, described)
        output = await run_unless_disconnected(request, model, inference.texts)
        tensors = _tensors(inference, described, output_values(model.heads, output))
        return await _response(request, model, inference.request_id, tensors)

    for path in ("/models/{name}/infer", "/models/{name}/versions/{version}/infer"):
        router.add_api_route(
            path,
            infer,
            methods=["POST"],
            openapi_extra=_REQUEST_BODY,
            response_model=None,
            operation_id=f"infer {path}",
            route_class_override=FastPathRoute,
        )
    return router


def name_outputs(paths: Mapping[str, Any], models: Iterable[Heads]) -> None:
    """Write into the API's description which outputs there are.

    Args:
        paths: The description's paths.
        models: The heads of each model.
    """
    names = dict.fromkeys(name for heads in models for name in describe_outputs(heads))
    for path, operations in paths.items():
        if path.endswith("/infer"):
            schema = operations["post"]["requestBody"]["content"]["application/json"]["schema"]
            schema["properties"]["outputs"]["items"]["properties"]["name"]["enum"] = [*names]


def _add_health_routes(router: APIRouter, models: ModelRegistry) -> None:
    @router.get("")
    async def server_metadata() -> dict[str, Any]:
        """The server's name, version and protocol extensions."""
        return {
            "name": "amalgam-edge",
            "version": own_version(),
            "extensions": ["binary_tensor_data", "model_configuration"],
        }

    @router.get("/health/live")
    async def live() -> dict[str, bool]:
        """Whether the server runs."""
        return {"live": True}

    @router.get("/health/ready")
    async def ready() -> dict[str, bool]:
        """Whether all models are loaded and can answer."""
        if models.fault:
            raise HTTPException(503, models.fault, {"retry-after": "1"})
        return {"ready": True}


def _add_metadata_routes(router: APIRouter, models: ModelRegistry) -> None:
    @router.get("/models/{name}")
    @router.get("/models/{name}/versions/{version}")
    async def model_metadata(name: str, version: str | None = None) -> dict[str, Any]:
        """A model's input and output tensors."""
        return _metadata(_find_version(models, name, version))

    @router.get("/models/{name}/config")
    @router.get("/models/{name}/versions/{version}/config")
    async def model_config(name: str, version: str | None = None) -> dict[str, Any]:
        """A model's configuration, as Triton's extension describes it."""
        return _config(_find_version(models, name, version))

    @router.get("/models/{name}/ready")
    @router.get("/models/{name}/versions/{version}/ready")
    async def model_ready(name: str, version: str | None = None) -> dict[str, Any]:
        """Whether a model can answer."""
        model = _find_version(models, name, version)
        if model.fault:
            raise HTTPException(503, model.fault, {"retry-after": "1"})
        return {"name": model.name, "ready": True}

    async def repository_index(request: Request) -> Response:
        """The models that there are; with ``{"ready": true}``, those that can answer."""
        only_ready = _reads_only_ready(await read_body(request))
        entries = [_index_entry(name, models.get(name)) for name in models.names]
        return JSONResponse([entry for entry in entries if entry["state"] == "READY" or not only_ready])

    router.add_api_route(
        "/repository/index",
        repository_index,
        methods=["POST"],
        openapi_extra={"requestBody": {"content": {"application/json": {"schema": {"type": "object"}}}}},
        response_model=None,
        route_class_override=FastPathRoute,
    )


def _parse(body: bytes, header_length: str | None, limits: Limits, known: Collection[str]) -> InferenceRequest:
    try:
        inference = parse_request(body, header_length, max_texts=limits.texts)
    except BadTensorsError as error:
        raise HTTPException(422, str(error)) from error
    if unknown := [output for output in inference.outputs if output not in known]:
        raise HTTPException(422, f"no output {unknown[0]!r}; there are {', '.join(known)}")
    check_texts(inference.texts, limits)
    return inference


def _tensors(
    inference: InferenceRequest, described: Mapping[str, OutputDescription], values: Mapping[str, np.ndarray]
) -> list[OutputTensor]:
    """The outputs that a request asks for; all if it names none."""
    as_binary = inference.outputs or dict.fromkeys(described, inference.binary_output)
    return [
        OutputTensor(name, described[name].datatype, values[name], as_binary=binary)
        for name, binary in as_binary.items()
    ]


async def _response(
    request: Request, model: ServedModel, request_id: str | None, tensors: Sequence[OutputTensor]
) -> Response:
    header = {"model_name": model.name, "model_version": model.version}
    if request_id is not None:
        header["id"] = request_id
    content, header_length = encode_response(header, tensors)
    if header_length is None:
        return await compressed_if_asked(request, content, "application/json")
    headers = {HEADER_LENGTH: str(header_length)}
    return await compressed_if_asked(request, content, "application/octet-stream", headers)


def _find_version(models: ModelRegistry, name: str, version: str | None) -> ServedModel:
    model = find_model(models, name)
    if version not in (None, model.version):
        raise HTTPException(404, f"no version of that name; there is {model.version}")
    return model


def _metadata(model: ServedModel) -> dict[str, Any]:
    return {
        "name": model.name,
        "versions": [model.version],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "text", "datatype": "BYTES", "shape": [-1]}],
        "outputs": [
            {"name": name, "datatype": output.datatype, "shape": output.shape}
            for name, output in describe_outputs(model.heads).items()
        ],
        "parameters": describe_labels(model.heads),
    }


def _config(model: ServedModel) -> dict[str, Any]:
    return {
        "name": model.name,
        "platform": "onnxruntime_onnx",
        "backend": "onnxruntime",
        "max_batch_size": 0,  # the shapes tell the batch themselves
        "input": [{"name": "text", "data_type": "TYPE_STRING", "dims": [-1]}],
        "output": [
            {"name": name, "data_type": _CONFIG_TYPES[output.datatype], "dims": output.shape}
            for name, output in describe_outputs(model.heads).items()
        ],
    }


def _index_entry(name: str, model: ServedModel | None) -> dict[str, str]:
    if model is None:
        return {"name": name, "version": "", "state": "UNAVAILABLE", "reason": "it is being loaded"}
    return {"name": name, "version": model.version, "state": "READY", "reason": ""}


def _reads_only_ready(body: bytes) -> bool:
    """The entry ``ready`` of a request for the index, whose body may be empty."""
    try:
        request = json.loads(mended_json(body) or b"{}")
    except (ValueError, RecursionError) as error:
        raise HTTPException(422, "the request is no JSON") from error
    ready = request.get("ready", False) if isinstance(request, dict) else None
    if not isinstance(ready, bool):
        raise HTTPException(422, "the request is a JSON object, of which ready is true or false")
    return ready
