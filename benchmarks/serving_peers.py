"""The same student served in two other ways: a plain FastAPI application, and LitServe, around a transformers pipeline.

    python benchmarks/serving_peers.py fastapi|litserve BUNDLE --port 8081 --threads 2

BUNDLE was built with --include-torch. Both answer ``POST /predict`` with ``{"inputs": TEXT or [TEXT, …]}``, like ours.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline


def classifier_of(folder: str, threads: int) -> Any:
    """The pipeline that both have."""
    torch.set_num_threads(threads)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    return pipeline(
        "text-classification", model=model, tokenizer=AutoTokenizer.from_pretrained(folder), top_k=None, device="cpu"
    )


def by_fastapi(folder: str, port: int, threads: int) -> None:
    """What most write first: an endpoint that calls the pipeline, in FastAPI's pool of threads."""
    import uvicorn
    from fastapi import FastAPI
    from pydantic import BaseModel

    class Asked(BaseModel):
        inputs: str | list[str]

    app = FastAPI()
    classify = classifier_of(folder, threads)

    @app.post("/predict")
    def predict(asked: Asked) -> Any:
        texts = [asked.inputs] if isinstance(asked.inputs, str) else asked.inputs
        return classify(texts, truncation=True, batch_size=32)

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error")


def by_litserve(folder: str, port: int, threads: int) -> None:
    """LitServe with its batching on: up to 32 requests, 2 ms."""
    import litserve

    class Api(litserve.LitAPI):
        def setup(self, device: str) -> None:
            self.classify = classifier_of(folder, threads)

        def decode_request(self, request: dict[str, Any]) -> list[str]:
            inputs = request["inputs"]
            return [inputs] if isinstance(inputs, str) else inputs

        def batch(self, inputs: list[list[str]]) -> list[list[str]]:
            return inputs

        def predict(self, requests: list[list[str]]) -> list[Any]:
            answers = iter(
                self.classify([text for texts in requests for text in texts], truncation=True, batch_size=32)
            )
            return [[next(answers) for _ in texts] for texts in requests]

        def unbatch(self, output: list[Any]) -> list[Any]:
            return output

        def encode_response(self, output: Any) -> Any:
            return output

    server = litserve.LitServer(Api(max_batch_size=32, batch_timeout=0.002), accelerator="cpu", timeout=60)
    server.run(host="127.0.0.1", port=port, generate_client_file=False, log_level="error", num_api_servers=1)


def main() -> None:
    """Serve until ended."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=["fastapi", "litserve"])
    parser.add_argument("bundle")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    {"fastapi": by_fastapi, "litserve": by_litserve}[options.peer](options.bundle, options.port, options.threads)


if __name__ == "__main__":
    main()
