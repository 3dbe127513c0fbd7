"""Tensors of the Open Inference Protocol, version 2, as JSON and as bytes. Pure functions.

Sources: the protocol's "Inference Request/Response JSON Object", and its binary tensor data extension: the JSON comes
first, ``Inference-Header-Content-Length`` bytes long, the tensors' bytes follow in order. Of BYTES each element is its
length in four bytes, little-endian, and then itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

HEADER = "inference-header-content-length"
_SIZE = "binary_data_size"


class BadTensorsError(ValueError):
    """A request's tensors cannot be read; the message says why."""


@dataclass(frozen=True)
class Asked:
    """What a request asks for.

    Attributes:
        id: what the answer is to repeat, if anything.
        texts: of the tensor ``text``, in order.
        shape: of that tensor.
        outputs: name → whether it is wanted as bytes, in order; empty where none is named.
        binary: whether outputs are wanted as bytes where they do not say.
    """

    id: str | None
    texts: list[str]
    shape: tuple[int, ...]
    outputs: Mapping[str, bool]
    binary: bool


def read_request(body: bytes, header_length: str | None, *, most_texts: int) -> Asked:
    """A request's texts and what it wants.

    Args:
        body: of the request.
        header_length: what its ``Inference-Header-Content-Length`` says; None where it has none.
        most_texts: that a request may have.

    Raises:
        BadTensorsError: it cannot be read.
    """
    head, tail = _parts(body, header_length)
    try:
        parsed = json.loads(head)
    except (ValueError, RecursionError) as error:
        raise BadTensorsError("the request is no JSON") from error
    if not isinstance(parsed, dict):
        raise BadTensorsError("the request is no JSON object")
    tensor = _only_input(parsed.get("inputs"))
    shape = _shape(tensor.get("shape"), most_texts)
    n_texts = int(np.prod(shape))
    size = _parameters(tensor).get(_SIZE)
    if size is None:
        if tail:
            raise BadTensorsError(f"{len(tail)} bytes follow the JSON, and no input has a {_SIZE}")
        texts = _texts_of_json(tensor.get("data"), n_texts)
    else:
        if not isinstance(size, int) or isinstance(size, bool) or size != len(tail):
            raise BadTensorsError(f"input 'text' has a {_SIZE} of {size!r}, and {len(tail)} bytes follow the JSON")
        texts = _texts_of_bytes(tail, n_texts)
    name = parsed.get("id")
    if name is not None and not isinstance(name, str):
        raise BadTensorsError("id is no string")
    binary = _parameters(parsed).get("binary_data_output", False)
    if not isinstance(binary, bool):
        raise BadTensorsError("binary_data_output is neither true nor false")
    return Asked(name, texts, shape, _outputs(parsed.get("outputs"), binary), binary)


def write_response(
    head: dict[str, Any], tensors: Sequence[tuple[str, str, np.ndarray]], binary: Mapping[str, bool]
) -> tuple[bytes, int | None]:
    """An answer's body, and how long the JSON is where bytes follow it.

    Args:
        head: of the answer.
        tensors: (name, datatype, values); of BYTES an array of objects that are bytes.
        binary: name → whether it goes as bytes.
    """
    outputs, tail = [], []
    for name, datatype, values in tensors:
        output: dict[str, Any] = {"name": name, "datatype": datatype, "shape": list(values.shape)}
        if binary[name]:
            raw = _bytes_of(values) if datatype == "BYTES" else values.astype(values.dtype.newbyteorder("<")).tobytes()
            output["parameters"] = {_SIZE: len(raw)}
            tail.append(raw)
        else:
            flat = values.reshape(-1).tolist()
            output["data"] = [value.decode() for value in flat] if datatype == "BYTES" else flat
        outputs.append(output)
    text = json.dumps({**head, "outputs": outputs}, ensure_ascii=False).encode()
    return b"".join([text, *tail]), len(text) if tail else None


def _parts(body: bytes, header_length: str | None) -> tuple[bytes, bytes]:
    if header_length is None:
        return body, b""
    if not (header_length.isascii() and header_length.isdigit() and len(header_length) < 12):
        raise BadTensorsError(f"{HEADER} is no number")
    length = int(header_length)
    if length > len(body):
        raise BadTensorsError(f"{HEADER} is {length}, the body has {len(body)} bytes")
    return body[:length], body[length:]


def _only_input(inputs: Any) -> dict[str, Any]:
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise BadTensorsError("inputs must be a list of one tensor, called 'text'")
    tensor = inputs[0]
    if tensor.get("name") != "text":
        raise BadTensorsError("the one input is called 'text'")
    if tensor.get("datatype") != "BYTES":
        raise BadTensorsError("input 'text' has the datatype BYTES")
    return tensor


def _shape(shape: Any, most_texts: int) -> tuple[int, ...]:
    """[n] or [n, 1]."""
    numbers = isinstance(shape, list) and all(isinstance(n, int) and not isinstance(n, bool) for n in shape)
    if not numbers or len(shape) not in (1, 2) or shape[1:] not in ([], [1]) or shape[0] < 1:
        raise BadTensorsError("input 'text' has the shape [n] or [n, 1], n at least 1")
    if shape[0] > most_texts:
        raise BadTensorsError(f"{shape[0]} texts in a request, the limit is {most_texts}")
    return tuple(shape)


def _parameters(of: dict[str, Any]) -> dict[str, Any]:
    parameters = of.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise BadTensorsError("parameters are no JSON object")
    return parameters


def _texts_of_json(data: Any, n_texts: int) -> list[str]:
    if isinstance(data, list) and all(isinstance(row, list) for row in data):
        data = [text for row in data for text in row]
    if not isinstance(data, list) or not all(isinstance(text, str) for text in data):
        raise BadTensorsError("the data of input 'text' is a list of strings")
    if len(data) != n_texts:
        raise BadTensorsError(f"input 'text' has {len(data)} texts, its shape says {n_texts}")
    return data


def _texts_of_bytes(raw: bytes, n_texts: int) -> list[str]:
    texts: list[bytes] = []
    start = 0
    while start < len(raw) and len(texts) < n_texts:
        length = int.from_bytes(raw[start : start + 4], "little")
        start += 4
        if start + length > len(raw):
            raise BadTensorsError("a text of input 'text' is longer than the bytes that follow")
        texts.append(raw[start : start + length])
        start += length
    if start != len(raw) or len(texts) != n_texts:
        raise BadTensorsError(f"the bytes of input 'text' are not {n_texts} texts")
    try:
        return [text.decode() for text in texts]
    except UnicodeDecodeError as error:
        raise BadTensorsError("a text of input 'text' is not UTF-8") from error


def _outputs(outputs: Any, binary: bool) -> dict[str, bool]:
    if outputs is None:
        return {}
    if not isinstance(outputs, list) or not all(
        isinstance(row, dict) and isinstance(row.get("name"), str) for row in outputs
    ):
        raise BadTensorsError("outputs are a list of objects with a name")
    wanted = {}
    for row in outputs:
        own = _parameters(row).get("binary_data", binary)
        if not isinstance(own, bool):
            raise BadTensorsError("binary_data is neither true nor false")
        wanted[row["name"]] = own
    return wanted


def _bytes_of(values: np.ndarray) -> bytes:
    return b"".join(len(value).to_bytes(4, "little") + value for value in values.reshape(-1).tolist())
