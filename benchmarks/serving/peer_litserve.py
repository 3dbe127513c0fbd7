"""The same student behind LitServe, with its batching on: up to 32 requests, 2 ms.

It reads the annotations of its methods, which must not be strings.
"""

from typing import Any

import litserve
from peer_pipeline import classifier_of, parse, texts_of


class Student(litserve.LitAPI):
    """A transformers pipeline, in LitServe's terms."""

    def __init__(self, bundle: str, threads: int, **options: Any) -> None:
        super().__init__(**options)
        self._bundle, self._threads = bundle, threads

    def setup(self, device: str) -> None:
        """Load it, in the process that runs it."""
        self._classify = classifier_of(self._bundle, self._threads)

    def decode_request(self, request: dict[str, Any]) -> list[str]:
        """A request's texts."""
        return texts_of(request["inputs"])

    def batch(self, inputs: list[list[str]]) -> list[list[str]]:
        """Requests that run together."""
        return inputs

    def predict(self, inputs: list[list[str]]) -> list[Any]:
        """Their answers."""
        answers = iter(self._classify([text for texts in inputs for text in texts], truncation=True, batch_size=32))
        return [[next(answers) for _ in texts] for texts in inputs]

    def unbatch(self, output: list[Any]) -> list[Any]:
        """Each request's own."""
        return output

    def encode_response(self, output: Any) -> Any:
        """As it is."""
        return output


def main() -> None:
    """Serve until ended."""
    options = parse(str(__doc__))
    student = Student(options.bundle, options.threads, max_batch_size=32, batch_timeout=0.002)
    server = litserve.LitServer(student, accelerator="cpu", timeout=60)
    server.run(host="127.0.0.1", port=options.port, generate_client_file=False, log_level="error", num_api_servers=1)


if __name__ == "__main__":
    main()
