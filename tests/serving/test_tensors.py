"""Tensors of the Open Inference Protocol: beside the reference client's own, and damaged in every way."""

import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amalgam_edge.serving.tensors import BadTensorsError, read_request, write_response


def request(data=("a", "b"), shape=None, **changes):
    tensor = {"name": "text", "shape": shape or [len(data)], "datatype": "BYTES", "data": [*data]}
    return {"inputs": [{**tensor, **changes.pop("tensor", {})}], **changes}


def read(document, header_length=None, tail=b"", most_texts=100):
    head = json.dumps(document).encode()
    return read_request(head + tail, str(len(head)) if header_length is True else header_length, most_texts=most_texts)


def binary(texts, **changes):
    """A request whose texts follow the JSON, and these bytes."""
    raw = b"".join(struct.pack("<I", len(text)) + text for text in texts)
    tensor = {"name": "text", "shape": [len(texts)], "datatype": "BYTES", "parameters": {"binary_data_size": len(raw)}}
    return {"inputs": [{**tensor, **changes}]}, raw


@given(st.lists(st.text(), min_size=1, max_size=20))
def test_texts_as_json_and_as_bytes_are_the_same(texts):
    document, raw = binary([text.encode("utf-8", "replace") for text in texts])
    plain = [text.encode("utf-8", "replace").decode() for text in texts]
    assert read(document, True, raw).texts == plain
    assert read(request(plain)).texts == plain


def test_what_is_wanted():
    asked = read(request(id="7", outputs=[{"name": "score"}, {"name": "label", "parameters": {"binary_data": True}}]))
    assert (asked.id, dict(asked.outputs), asked.binary) == ("7", {"score": False, "label": True}, False)
    asked = read(request(parameters={"binary_data_output": True}, outputs=[{"name": "label"}]))
    assert (asked.id, dict(asked.outputs), asked.binary) == (None, {"label": True}, True)


def test_a_column_of_texts_may_be_nested():
    assert read(request(["a", "b"], shape=[2, 1])).texts == ["a", "b"]
    assert read(request([["a"], ["b"]], shape=[2, 1])).texts == ["a", "b"]


@pytest.mark.parametrize(
    ("document", "why"),
    [
        ([], "no JSON object"),
        ({}, "one tensor"),
        ({"inputs": []}, "one tensor"),
        ({"inputs": [request()["inputs"][0]] * 2}, "one tensor"),
        (request(tensor={"name": "texts"}), "called 'text'"),
        (request(tensor={"datatype": "FP32"}), "BYTES"),
        (request(shape=[3]), "2 texts, its shape says 3"),
        (request(shape=[2, 2]), "shape"),
        (request(shape=[2, 1, 1]), "shape"),
        (request(shape=[True]), "shape"),
        (request(shape=["2"]), "shape"),
        (request(shape=[-1]), "shape"),
        (request([], shape=[0]), "shape"),
        (request(shape=[10**20]), "the limit is 100"),
        (request(shape=[101]), "the limit is 100"),
        (request([1, 2]), "list of strings"),
        (request([["a"], "b"]), "list of strings"),
        (request(tensor={"data": "ab"}), "list of strings"),
        (request(tensor={"parameters": []}), "parameters"),
        (request(parameters="x"), "parameters"),
        (request(parameters={"binary_data_output": "yes"}), "binary_data_output"),
        (request(id=7), "id"),
        (request(outputs={}), "outputs"),
        (request(outputs=["label"]), "outputs"),
        (request(outputs=[{"name": 3}]), "outputs"),
        (request(outputs=[{"name": "label", "parameters": {"binary_data": 1}}]), "binary_data"),
    ],
)
def test_what_cannot_be_read_is_told(document, why):
    with pytest.raises(BadTensorsError, match=why):
        read(document)


@pytest.mark.parametrize("head", [b"", b"{", b"\xff", b"[" * 100_000])
def test_no_json_is_told(head):
    with pytest.raises(BadTensorsError, match="no JSON"):
        read_request(head, None, most_texts=10)


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (struct.pack("<I", 2**32 - 1) + b"ab", "longer than the bytes"),
        (struct.pack("<I", 2) + b"ab" + b"x", "not 1 texts"),
        (b"\x01\x00", "longer than the bytes"),
        (struct.pack("<I", 1) + b"\xff", "not UTF-8"),
        (b"", "not 1 texts"),
        (struct.pack("<I", 1) + b"a" + struct.pack("<I", 1) + b"b", "not 1 texts"),
    ],
)
def test_damaged_bytes_are_told(raw, why):
    document, _ = binary([b"a"], parameters={"binary_data_size": len(raw)})
    with pytest.raises(BadTensorsError, match=why):
        read(document, True, raw)


def test_lengths_must_be_those_of_the_bytes():
    document, raw = binary([b"ab"])
    with pytest.raises(BadTensorsError, match="binary_data_size of 6, and 7 bytes follow"):
        read(document, True, raw + b"x")
    with pytest.raises(BadTensorsError, match="3 bytes follow the JSON, and no input"):
        read(request(), True, b"abc")
    with pytest.raises(BadTensorsError, match="the body has"):
        read(document, "999999", raw)
    for header in ("-1", "1e3", "²", "", "9" * 30):
        with pytest.raises(BadTensorsError, match="no number"):
            read(document, header, raw)
    for size in (True, "6", 6.0, None):
        document, raw = binary([b"ab"], parameters={"binary_data_size": size})
        with pytest.raises(BadTensorsError):
            read(document, True, raw)


def test_an_answer_is_what_the_reference_client_reads():
    tritonclient = pytest.importorskip("tritonclient.http")
    label = np.array([b"games", "Straße 猫".encode()], dtype=object)
    score = np.array([0.25, 0.5], dtype=np.float32)
    table = np.array([[0.25, 0.75], [0.5, 0.5]], dtype=np.float32)
    tensors = [("label", "BYTES", label), ("score", "FP32", score), ("probabilities", "FP32", table)]
    for as_bytes in (True, False):
        body, length = write_response(
            {"model_name": "m"}, tensors, dict.fromkeys(["label", "score", "probabilities"], as_bytes)
        )
        result = tritonclient.InferResult.from_response_body(body, False, length)
        found = [value.decode() if isinstance(value, bytes) else value for value in result.as_numpy("label").tolist()]
        assert found == ["games", "Straße 猫"]
        np.testing.assert_array_equal(result.as_numpy("score"), score)
        np.testing.assert_array_equal(result.as_numpy("probabilities"), table)
        assert (length is None) == (not as_bytes)
