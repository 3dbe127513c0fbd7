"""The same student served by LitServe, with batches of up to 32 requests that wait for at most 2 ms.

LitServe reads the annotations of methods, which must not be strings: no ``from __future__ import annotations`` here.
"""

from typing import Any

import litserve

from benchmarks.serving.peer_pipeline import load_classifier, parse, texts_of


class Student(litserve.LitAPI):
    """A transformers pipeline as a LitServe API."""

    def __init__(self, bundle: str, threads: int, **options: Any) -> None:
        super().__init__(**options)
        self._bundle, self._threads = bundle, threads

    def setup(self, device: str) -> None:
        """Load the pipeline in the worker process."""
        self._classify = load_classifier(self._bundle, self._threads)

    def decode_request(self, request: dict[str, Any]) -> list[str]:
        """The texts of a request."""
        return texts_of(request["inputs"])

    def batch(self, inputs: list[list[str]]) -> list[list[str]]:
        """The texts of several requests, unchanged."""
        return inputs

    def predict(self, inputs: list[list[str]]) -> list[Any]:
        """Classify the texts of several requests in one call of the pipeline."""
        answers = iter(self._classify([text for texts in inputs for text in texts], truncation=True, batch_size=32))
        return [[next(answers) for _ in texts] for texts in inputs]

    def unbatch(self, output: list[Any]) -> list[Any]:
        """The answers of each request, unchanged."""
        return output

    def encode_response(self, output: Any) -> Any:
        """The answer, unchanged."""
        return output


def main() -> None:
    """Serve until the process ends."""
    options = parse(str(__doc__))
    student = Student(options.bundle, options.threads, max_batch_size=32, batch_timeout=0.002)
    server = litserve.LitServer(student, accelerator="cpu", timeout=60)
    server.run(host="127.0.0.1", port=options.port, generate_client_file=False, log_level="error", num_api_servers=1)


if __name__ == "__main__":
    main()
