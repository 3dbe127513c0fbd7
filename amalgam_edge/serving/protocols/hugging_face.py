"""The text-classification task of the Hugging Face inference API.

A request is ``{"inputs": TEXT or [TEXT, …], "parameters": {"top_k": …, "function_to_apply": …}}``. The response has
one list for each text, of ``{"label": …, "score": …}``, the likeliest label first. The protocol has no place for a text
that was cut to the model's input: the header ``x-truncated`` names those texts.

Nor has it one for several heads. The entry ``head`` of the parameters names the one to answer with, or, for clients
that send no other parameters than the protocol's, the query does. Without it, the response has an object for each text:
name of a head → such a list.

Specification: https://huggingface.co/docs/inference-providers/tasks/text-classification
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, HTTPException, Request, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from amalgam_edge.errors import AmalgamError
from amalgam_edge.heads import SOFTMAX, Head, Heads
from amalgam_edge.metrics.uncertainty import Activation, softmax
from amalgam_edge.serving.batching import ModelOutput
from amalgam_edge.serving.bodies import compressed_if_asked, read_body
from amalgam_edge.serving.fast_path import FastPathRoute
from amalgam_edge.serving.limits import Limits
from amalgam_edge.serving.models import ModelRegistry, ServedModel
from amalgam_edge.serving.request_handling import check_texts, find_model, run_unless_disconnected
from amalgam_edge.storage.json_text import mended_json

TRUNCATED = "x-truncated"  # name of the header
_PATHS = ("/", "/predict", "/models/{name}")

# Functions from logits to scores. None of them changes the ranking of the labels.
_SCORE_FUNCTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "softmax": softmax,
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
    head: str | None = Field(None, description="Which of several heads is to answer; all by default.")


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
        head = _asked_head(model.heads, classification.parameters, request)
        texts = [classification.inputs] if isinstance(classification.inputs, str) else classification.inputs
        check_texts(texts, limits)
        output = await run_unless_disconnected(request, model, texts)
        content = _encode(model, output, head, classification.parameters)
        headers = {TRUNCATED: shown_positions(output.truncated)} if output.truncated.any() else {}
        return await compressed_if_asked(request, content, "application/json", headers)

    async def classify_by_first(request: Request) -> Response:
        """Classify with the first bundle."""
        return await classify(request)

    async def classify_by_name(request: Request, name: str) -> Response:
        """Classify with the bundle of this name."""
        return await classify(request, name)

    endpoints: Sequence[Callable[..., Any]] = (classify_by_first, classify_by_first, classify_by_name)
    for path, endpoint in zip(_PATHS, endpoints, strict=True):
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


def name_heads(paths: Mapping[str, Any], models: Iterable[Heads]) -> None:
    """Write into the API's description which heads may be asked for, if some model has several.

    Args:
        paths: The description's paths.
        models: The heads of each model.
    """
    names = dict.fromkeys(name for heads in models if len(heads) > 1 for name in heads.names)
    if not names:
        return
    field = ClassificationParameters.model_fields["head"]
    for path in _PATHS:
        operation = paths[path]["post"]
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        schema["properties"]["parameters"]["properties"]["head"] = {
            "enum": [*names, None],
            "description": field.description,
        }
        answer = operation["responses"]["200"]["content"]["application/json"]
        of_all_heads = {"type": "array", "items": {"type": "object", "additionalProperties": answer["schema"]["items"]}}
        answer["schema"] = {"anyOf": [answer["schema"], of_all_heads]}


def encode_response(
    output: ModelOutput,
    labels_as_json: Sequence[str],
    parameters: ClassificationParameters | None,
    activation: Activation = SOFTMAX,
) -> bytes:
    """The response's body for one head: the labels of each text, the likeliest first.

    Args:
        output: The model's output for the texts, of this head.
        labels_as_json: Each label of the head as a JSON string, in the order of the logits.
        parameters: Parameters of the request.
        activation: What makes the head's scores of logits, unless the request says otherwise.
    """
    return f"[{','.join(_encode_texts(output, labels_as_json, parameters, activation))}]".encode()


def encode_heads(
    output: ModelOutput, heads: Heads, labels_as_json: Sequence[str], parameters: ClassificationParameters | None
) -> bytes:
    """The response's body for several heads: of each text, the labels of each head, the likeliest first.

    Args:
        output: The model's output for the texts.
        heads: The heads.
        labels_as_json: Each label as a JSON string, without its head, in the order of the logits.
        parameters: Parameters of the request.
    """
    names = [json.dumps(head.name, ensure_ascii=False) for head in heads]
    answers = []
    for head in heads:
        columns = heads.columns(head.name)
        answers.append(_encode_texts(output.labels(columns), labels_as_json[columns], parameters, head.activation))
    texts = (
        ",".join(f"{name}:{labels}" for name, labels in zip(names, of_text, strict=True))
        for of_text in zip(*answers, strict=True)
    )
    return f"[{{{'},{'.join(texts)}}}]".encode()


def _encode_texts(
    output: ModelOutput,
    labels_as_json: Sequence[str],
    parameters: ClassificationParameters | None,
    activation: Activation,
) -> Iterator[str]:
    """The labels of each text as JSON, the likeliest first.

    Put together from strings: a JSON encoder would go over every label of every text again.
    """
    function = (parameters.function_to_apply if parameters else None) or activation
    scores = output.probabilities
    if function != activation:
        scores = _SCORE_FUNCTIONS[function](output.logits.astype(np.float64))
    top_k = parameters.top_k if parameters else None
    for ranking, row in zip(output.ranking.tolist(), scores.tolist(), strict=True):
        labels = ",".join(f'{{"label":{labels_as_json[label]},"score":{row[label]!r}}}' for label in ranking[:top_k])
        yield f"[{labels}]"


def _encode(
    model: ServedModel, output: ModelOutput, head: Head | None, parameters: ClassificationParameters | None
) -> bytes:
    if head is None:
        return encode_heads(output, model.heads, model.labels_as_json, parameters)
    labels_as_json = model.labels_as_json
    if len(model.heads) > 1:
        columns = model.heads.columns(head.name)
        output, labels_as_json = output.labels(columns), labels_as_json[columns]
    return encode_response(output, labels_as_json, parameters, head.activation)


def _asked_head(heads: Heads, parameters: ClassificationParameters | None, request: Request) -> Head | None:
    """The head that is to answer: the one that the request names, or the only one; None for all of several.

    Raises:
        HTTPException: 422, there is no such head.
    """
    name = parameters.head if parameters else None
    if name is None and request.scope["query_string"]:
        name = request.query_params.get("head")
    if name is None:
        return next(iter(heads)) if len(heads) == 1 else None
    try:
        return heads[name]
    except AmalgamError as error:
        raise HTTPException(422, str(error)) from error


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
    del parameters["properties"]["head"]  # name_heads describes it, where there are several
    inlined = {**schema, "properties": {**schema["properties"], "parameters": parameters}}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": inlined}}}}
