"""The same student as most would serve it first: an endpoint of FastAPI that calls a transformers pipeline."""

from __future__ import annotations

from typing import Any

import uvicorn
from fastapi import FastAPI
from peer_pipeline import classifier_of, parse, texts_of
from pydantic import BaseModel


class Asked(BaseModel):
    """A request."""

    inputs: str | list[str]


def main() -> None:
    """Serve until ended; FastAPI calls the endpoint from its pool of threads."""
    options = parse(str(__doc__))
    classify = classifier_of(options.bundle, options.threads)
    app = FastAPI()

    @app.post("/predict")
    def predict(asked: Asked) -> Any:
        return classify(texts_of(asked.inputs), truncation=True, batch_size=32)

    uvicorn.run(app, host="127.0.0.1", port=options.port, log_level="error")


if __name__ == "__main__":
    main()
