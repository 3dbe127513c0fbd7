"""The text-classification task of the Hugging Face inference API.

A request is ``{"inputs": TEXT or [TEXT, …], "parameters": {"top_k": …, "function_to_apply": …}}``. The answer has a
list for each text, of ``{"label": …, "score": …}``, likeliest first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from amalgam_edge.serving.batching import Answer

SCORES: dict[str | None, Callable[[np.ndarray], np.ndarray]] = {  # beside softmax, all of which rank alike
    "sigmoid": lambda logits: 1.0 / (1.0 + np.exp(-logits)),
    "none": np.asarray,
}


class Parameters(BaseModel):
    """How to answer."""

    model_config = ConfigDict(extra="ignore", title="TextClassificationParameters")

    top_k: Annotated[int, Field(ge=1)] | None = Field(None, description="How many labels of each text; all by default.")
    function_to_apply: Literal["softmax", "sigmoid", "none"] | None = Field(
        None, description="What makes scores of logits; softmax by default."
    )


class Request(BaseModel):
    """Texts to classify."""

    model_config = ConfigDict(
        extra="ignore",
        title="TextClassificationInput",
        json_schema_extra={"example": {"inputs": "a puzzle game about falling blocks", "parameters": {"top_k": 3}}},
    )

    inputs: str | Annotated[list[str], Field(min_length=1)]
    parameters: Parameters | None = None


class Element(BaseModel):
    """A label and its score."""

    label: str
    score: float


def ranked(answer: Answer, label_json: list[str], parameters: Parameters | None) -> bytes:
    """The answer's body: of each text its labels, likeliest first.

    Args:
        answer: of the model.
        label_json: each label as JSON.
        parameters: of the request.
    """
    function = parameters.function_to_apply if parameters else None
    scores = SCORES[function](answer.logits.astype(np.float64)) if function in SCORES else answer.probabilities
    top = parameters.top_k if parameters else None
    texts = (
        ",".join(f'{{"label":{label_json[label]},"score":{found[label]!r}}}' for label in order[:top])
        for order, found in zip(answer.order.tolist(), scores.tolist(), strict=True)
    )
    return f"[[{'],['.join(texts)}]]".encode()
