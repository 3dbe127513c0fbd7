"""Tensors of the Open Inference Protocol, version 2, as JSON and as bytes. Pure functions.

Specification: the protocol's "Inference Request/Response JSON Object" and its binary tensor data extension. With that
extension, the JSON comes first and is ``Inference-Header-Content-Length`` bytes long; the tensors' bytes follow in
order. Each element of a BYTES tensor is its length in four bytes, little-endian, and then its content.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from amalgam_edge.storage.json_text import mended_json

HEADER_LENGTH = "inference-header-content-length"  # the name of an HTTP header
_BINARY_SIZE = "binary_data_size"
_MAX_DIGITS = 11  # of the header's value


class BadTensorsError(ValueError):
    """A request's tensors cannot be read; the message says why."""


@dataclass(frozen=True)
class InferenceRequest:
    """A parsed request.

    Attributes:
        request_id: Identifier that the response repeats; None if the request has none.
        texts: The texts of the input tensor ``text``.
        outputs: Name of each requested output → whether as bytes; empty if the request names none.
        binary_output: Whether outputs that the request does not name go as bytes.
    """

    request_id: str | None
    texts: list[str]
    outputs: Mapping[str, bool]
    binary_output: bool


@dataclass(frozen=True)
class OutputTensor:
    """A tensor of a response.

    Attributes:
        name: Name of the output.
        datatype: The protocol's name of the data type, such as FP32.
        values: The tensor; for BYTES, an array of bytes objects.
        as_binary: Whether the tensor goes as bytes after the JSON, rather than inside it.
    """

    name: str
    datatype: str
    values: np.ndarray
    as_binary: bool


def parse_request(body: bytes, header_length: str | None, *, max_texts: int) -> InferenceRequest:
    """Parse a request's body.

    Args:
        body: The JSON, and any bytes that follow it.
        header_length: Value of the header ``Inference-Header-Content-Length``; None if the request has none.
        max_texts: Most texts in a request.

    Raises:
        BadTensorsError: The body cannot be read.
    """
    header, tail = _split(body, header_length)
    try:
        parsed = json.loads(mended_json(header))
    except (ValueError, RecursionError) as error:
        raise BadTensorsError("the request is no JSON") from error
    if not isinstance(parsed, dict):
        raise BadTensorsError("the request is no JSON object")
    texts = _texts(_only_input(parsed.get("inputs")), tail, max_texts)
    request_id = parsed.get("id")
    if request_id is not None and not isinstance(request_id, str):
        raise BadTensorsError("id is no string")
    binary_output = _parameters(parsed).get("binary_data_output", False)
    if not isinstance(binary_output, bool):
        raise BadTensorsError("binary_data_output is neither true nor false")
    return InferenceRequest(request_id, texts, _outputs(parsed.get("outputs"), binary_output), binary_output)


def encode_response(header: Mapping[str, Any], tensors: Sequence[OutputTensor]) -> tuple[bytes, int | None]:
    """A response's body, and the length of its JSON in bytes if other bytes follow it, else None.

    Args:
        header: Entries of the response besides its outputs.
        tensors: The outputs, in order.
    """
    outputs, binary_parts = [], []
    for tensor in tensors:
        output: dict[str, Any] = {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": list(tensor.values.shape),
        }
        if tensor.as_binary:
            raw = _to_bytes(tensor)
            output["parameters"] = {_BINARY_SIZE: len(raw)}
            binary_parts.append(raw)
        else:
            flat = tensor.values.reshape(-1).tolist()
            output["data"] = [value.decode() for value in flat] if tensor.datatype == "BYTES" else flat
        outputs.append(output)
    encoded = json.dumps({**header, "outputs": outputs}, ensure_ascii=False).encode()
    return b"".join([encoded, *binary_parts]), len(encoded) if binary_parts else None


def _split(body: bytes, header_length: str | None) -> tuple[bytes, bytes]:
    """The JSON, and the bytes that follow it."""
    if header_length is None:
        return body, b""
    if not (header_length.isascii() and header_length.isdigit() and len(header_length) <= _MAX_DIGITS):
        raise BadTensorsError(f"{HEADER_LENGTH} is no number")
    length = int(header_length)
    if length > len(body):
        raise BadTensorsError(f"{HEADER_LENGTH} is {length}, the body has {len(body)} bytes")
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


def _texts(tensor: dict[str, Any], tail: bytes, max_texts: int) -> list[str]:
    """The texts of the input tensor, whose data is in the JSON or in the bytes after it."""
    n_texts = _n_texts(tensor.get("shape"), max_texts)
    size = _parameters(tensor).get(_BINARY_SIZE)
    if size is None:
        if tail:
            raise BadTensorsError(f"{len(tail)} bytes follow the JSON, and no input has a {_BINARY_SIZE}")
        return _texts_from_json(tensor.get("data"), n_texts)
    if not isinstance(size, int) or isinstance(size, bool) or size != len(tail):
        raise BadTensorsError(f"input 'text' has a {_BINARY_SIZE} of {size!r}, and {len(tail)} bytes follow the JSON")
    return _texts_from_bytes(tail, n_texts)


def _n_texts(shape: Any, max_texts: int) -> int:
    """The number of texts, from a shape ``[n]`` or ``[n, 1]``."""
    are_integers = isinstance(shape, list) and all(isinstance(n, int) and not isinstance(n, bool) for n in shape)
    if not are_integers or len(shape) not in (1, 2) or shape[1:] not in ([], [1]) or shape[0] < 1:
        raise BadTensorsError("input 'text' has the shape [n] or [n, 1], n at least 1")
    n_texts: int = shape[0]
    if n_texts > max_texts:
        raise BadTensorsError(f"{n_texts} texts in a request, the limit is {max_texts}")
    return n_texts


def _parameters(entry: dict[str, Any]) -> dict[str, Any]:
    """The parameters of a request, a tensor or an output."""
    parameters = entry.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise BadTensorsError("parameters are no JSON object")
    return parameters


def _texts_from_json(data: Any, n_texts: int) -> list[str]:
    if isinstance(data, list) and all(isinstance(row, list) for row in data):
        data = [text for row in data for text in row]
    if not isinstance(data, list) or not all(isinstance(text, str) for text in data):
        raise BadTensorsError("the data of input 'text' is a list of strings")
    if len(data) != n_texts:
        raise BadTensorsError(f"input 'text' has {len(data)} texts, its shape says {n_texts}")
    return data


def _texts_from_bytes(raw: bytes, n_texts: int) -> list[str]:
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


def _outputs(outputs: Any, binary_output: bool) -> dict[str, bool]:
    """Name of each requested output → whether as bytes, which ``binary_output`` decides for those that do not say."""
    if outputs is None:
        return {}
    if not isinstance(outputs, list) or not all(
        isinstance(output, dict) and isinstance(output.get("name"), str) for output in outputs
    ):
        raise BadTensorsError("outputs are a list of objects with a name")
    as_binary = {}
    for output in outputs:
        binary = _parameters(output).get("binary_data", binary_output)
        if not isinstance(binary, bool):
            raise BadTensorsError("binary_data is neither true nor false")
        as_binary[output["name"]] = binary
    return as_binary


def _to_bytes(tensor: OutputTensor) -> bytes:
    """A tensor's elements, one after another, little-endian."""
    if tensor.datatype == "BYTES":
        elements = tensor.values.reshape(-1).tolist()
        return b"".join(len(element).to_bytes(4, "little") + element for element in elements)
    return tensor.values.astype(tensor.values.dtype.newbyteorder("<")).tobytes()
