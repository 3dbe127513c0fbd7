"""Whether an ONNX model names files outside of itself, found without the ``onnx`` package.

A model may keep weights in other files ("external data"), at a path that the model itself states, or even at an address
in memory. A bundle's models never do: all that is loaded is in the file whose SHA-256 was checked.

Source: the protocol buffers of ONNX (onnx.proto) and their encoding,
https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

from collections.abc import Iterator

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED_SIZES = {_FIXED64: 8, _FIXED32: 4}
_MOST_VARINT_BYTES = 10
_DEEPEST = 100  # messages within each other, as many as protocol buffers allow by default

_EXTERNAL_DATA, _DATA_LOCATION = 13, 14  # fields of a tensor

# Message → its fields that can hold tensors → the message in that field.
_FIELDS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse tensor"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse tensor", 23: "sparse tensor"},
    "sparse tensor": {1: "tensor", 2: "tensor"},
}


def has_external_data(model: bytes) -> bool:
    """Whether a tensor of a model has its values outside of the model.

    Args:
        model: The content of an ONNX file.

    Raises:
        ValueError: It is no message of protocol buffers, or is nested too deeply.
    """
    waiting = [("model", memoryview(model), 0)]
    while waiting:
        kind, content, depth = waiting.pop()
        if depth > _DEEPEST:
            raise ValueError("nested too deeply")
        if kind == "tensor":
            if any(field == _EXTERNAL_DATA or (field == _DATA_LOCATION and value) for field, value in _fields(content)):
                return True
            continue
        inner = _FIELDS[kind]
        for field, value in _fields(content):
            if field in inner:
                if not isinstance(value, memoryview):
                    raise ValueError("a number stands where a message is expected")
                waiting.append((inner[field], value, depth + 1))
    return False


def _fields(content: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The number and the value of each field of a message; fixed numbers come as their bytes."""
    position = 0
    while position < len(content):
        tag, position = _varint(content, position)
        kind = tag & 7
        if kind == _VARINT:
            number, position = _varint(content, position)
            yield tag >> 3, number
            continue
        if kind == _BYTES:
            size, position = _varint(content, position)
        elif kind in _FIXED_SIZES:
            size = _FIXED_SIZES[kind]
        else:  # groups, which ONNX has never had
            raise ValueError("a field of an unknown kind")
        end = position + size
        if end > len(content):
            raise ValueError("cut off")
        yield tag >> 3, content[position:end]
        position = end


def _varint(content: memoryview, position: int) -> tuple[int, int]:
    """A number of seven bits a byte, the lowest first, and the position after it."""
    number = 0
    for shift in range(_MOST_VARINT_BYTES):
        if position >= len(content):
            raise ValueError("cut off")
        byte = content[position]
        position += 1
        number |= (byte & 0x7F) << (7 * shift)
        if byte < 0x80:
            return number, position
    raise ValueError("a number that is too long")
