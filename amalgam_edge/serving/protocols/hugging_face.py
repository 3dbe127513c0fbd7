"""The text-classification task of the Hugging Face inference API.

A request is ``{"inputs": TEXT or [TEXT, …], "parameters": {"top_k": …, "function_to_apply": …}}``. The response has
one list for each text, of ``{"label": …, "score": …}``, the likeliest label first. The protocol has no place for a text
that was cut to the model's input: the header ``x-truncated`` names those texts.

Specification: https://huggingface.co/docs/inference-providers/tasks/text-classification
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, HTTPException, Request, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from amalgam_edge.serving.batching import ModelOutput
from amalgam_edge.serving.bodies import compressed_if_asked, read_body
from amalgam_edge.serving.fast_path import FastPathRoute
from amalgam_edge.serving.limits import Limits
from amalgam_edge.serving.models import ModelRegistry
from amalgam_edge.serving.request_handling import check_texts, find_model, run_unless_disconnected
from amalgam_edge.storage.json_text import mended_json

TRUNCATED = "x-truncated"  # name of the header

# Functions from logits to scores, besides softmax. None of them changes the ranking of the labels.
_SCORE_FUNCTIONS: dict[str | None, Callable[[np.ndarray], np.ndarray]] = {
    "sigmoid": lambda logits: 1.0 / (1.0 + np.exp(-logits)),
    "none": np.asarray,
}


_HEADERS = {
    TRUNCATED: {
        "description": "Positions, from 0, of texts whose end was not read, such as 0,3-7; absent if there are none.",
        "schema": {"type": "string"},
    }
}


class ClassificationParameters(BaseModel):
    """Which labels to return, and how to score them."""

    model_config = ConfigDict(extra="ignore", title="TextClassificationParameters")

    top_k: Annotated[int, Field(ge=1)] | None = Field(None, description="How many labels of each text; all by default.")
    function_to_apply: Literal["softmax", "sigmoid", "none"] | None = Field(
        None, description="Function from logits to scores; softmax by default."
    )


class ClassificationRequest(BaseModel):
    """Texts to classify."""

    model_config = ConfigDict(
        extra="ignore",
        title="TextClassificationInput",
        json_schema_extra={"example": {"inputs": "a puzzle game about falling blocks", "parameters": {"top_k": 3}}},
    )

    inputs: str | Annotated[list[str], Field(min_length=1)]
    parameters: ClassificationParameters | None = None


class LabelScore(BaseModel):
    """A label and its score."""

    label: str
    score: float


def create_router(models: ModelRegistry, limits: Limits) -> APIRouter:
    """The routes ``/``, ``/predict`` and ``/models/{name}``."""
    router = APIRouter(tags=["Hugging Face text-classification"])

    async def classify(request: Request, name: str | None = None) -> Response:
        find_model(models, name)  # an unknown model is refused before the body is read
        classification = _parse(await read_body(request))
        model = find_model(models, name)  # once more: the bundle may have been replaced while the body came
        texts = [classification.inputs] if isinstance(classification.inputs, str) else classification.inputs
        check_texts(texts, limits)
        output = await run_unless_disconnected(request, model, texts)
        content = encode_response(output, model.labels_as_json, classification.parameters)
        headers = {TRUNCATED: shown_positions(output.truncated)} if output.truncated.any() else {}
        return await compressed_if_asked(request, content, "application/json", headers)

    async def classify_by_first(request: Request) -> Response:
        """Classify with the first bundle."""
        return await classify(request)

    async def classify_by_name(request: Request, name: str) -> Response:
        """Classify with the bundle of this name."""
        return await classify(request, name)

    for path, endpoint in (
        ("/", classify_by_first),
        ("/predict", classify_by_first),
        ("/models/{name}", classify_by_name),
    ):
        router.add_api_route(
            path,
            endpoint,
            route_class_override=FastPathRoute,
            methods=["POST"],
            responses={200: {"model": list[list[LabelScore]], "headers": _HEADERS}},
            openapi_extra=_request_body_description(),
            operation_id=f"classify {path}",
        )
    return router


def encode_response(
    output: ModelOutput, labels_as_json: Sequence[str], parameters: ClassificationParameters | None
) -> bytes:
    """The response's body: the labels of each text, the likeliest first.

    Put together from strings: a JSON encoder would go over every label of every text again.

    Args:
        output: The model's output for the texts.
        labels_as_json: Each label as a JSON string, in the order of the logits.
        parameters: Parameters of the request.
    """
    score_function = _SCORE_FUNCTIONS.get(parameters.function_to_apply) if parameters else None
    scores = score_function(output.logits.astype(np.float64)) if score_function else output.probabilities
    top_k = parameters.top_k if parameters else None
    texts = (
        ",".join(f'{{"label":{labels_as_json[label]},"score":{row[label]!r}}}' for label in ranking[:top_k])
        for ranking, row in zip(output.ranking.tolist(), scores.tolist(), strict=True)
    )
    return f"[[{'],['.join(texts)}]]".encode()


def shown_positions(chosen: np.ndarray) -> str:
    """The positions of what was chosen, from 0 and ascending, such as ``0,3-7``: a header has little room.

    Args:
        chosen: Whether each is chosen, ``(n_texts,)`` of bool.
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[False], chosen, [False]]).astype(int)))
    runs = zip(edges[::2].tolist(), (edges[1::2] - 1).tolist(), strict=True)
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def _parse(body: bytes) -> ClassificationRequest:
    try:
        return ClassificationRequest.model_validate_json(mended_json(body))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        if first["loc"][:1] == ("inputs",):
            raise HTTPException(422, "inputs: a text, or a list of one or more texts") from error
        where = ".".join(map(str, first["loc"]))
        raise HTTPException(422, f"{where}: {first['msg']}" if where else first["msg"]) from error


def _request_body_description() -> dict[str, Any]:
    """The request's body for the API's description, without references to other schemas."""
    schema = ClassificationRequest.model_json_schema()
    parameters = schema.pop("$defs")["ClassificationParameters"]
    inlined = {**schema, "properties": {**schema["properties"], "parameters": parameters}}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": inlined}}}}
