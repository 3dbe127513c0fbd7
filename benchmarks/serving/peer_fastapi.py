"""The simplest server of the same student: a FastAPI endpoint that calls a transformers pipeline."""

from __future__ import annotations

from typing import Any

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from benchmarks.serving.peer_pipeline import load_classifier, parse, texts_of


class ClassificationRequest(BaseModel):
    """A text or a list of texts."""

    inputs: str | list[str]


def main() -> None:
    """Serve until the process ends; FastAPI calls the endpoint from its thread pool."""
    options = parse(str(__doc__))
    classify = load_classifier(options.bundle, options.threads)
    app = FastAPI()

    @app.post("/predict")
    def predict(request: ClassificationRequest) -> Any:
        return classify(texts_of(request.inputs), truncation=True, batch_size=32)

    uvicorn.run(app, host="127.0.0.1", port=options.port, log_level="error")


if __name__ == "__main__":
    main()
