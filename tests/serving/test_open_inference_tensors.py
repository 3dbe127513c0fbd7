"""Tensors of the Open Inference Protocol: compared with the reference client's, and damaged in many ways."""

import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amalgam_edge.serving.protocols.open_inference_tensors import (
    BadTensorsError,
    OutputTensor,
    encode_response,
    parse_request,
)


def request(data=("a", "b"), shape=None, **changes):
    tensor = {"name": "text", "shape": shape or [len(data)], "datatype": "BYTES", "data": [*data]}
    return {"inputs": [{**tensor, **changes.pop("tensor", {})}], **changes}


def read(document, header_length=None, tail=b"", max_texts=100):
    head = json.dumps(document).encode()
    return parse_request(head + tail, str(len(head)) if header_length is True else header_length, max_texts=max_texts)


def binary(texts, **changes):
    """A request whose texts follow the JSON as bytes, and those bytes."""
    raw = b"".join(struct.pack("<I", len(text)) + text for text in texts)
    tensor = {"name": "text", "shape": [len(texts)], "datatype": "BYTES", "parameters": {"binary_data_size": len(raw)}}
    return {"inputs": [{**tensor, **changes}]}, raw


@given(st.lists(st.text(), min_size=1, max_size=20))
def test_texts_as_json_and_as_bytes_are_the_same(texts):
    document, raw = binary([text.encode("utf-8", "replace") for text in texts])
    plain = [text.encode("utf-8", "replace").decode() for text in texts]
    assert read(document, True, raw).texts == plain
    assert read(request(plain)).texts == plain


def test_id_and_requested_outputs_are_read():
    parsed = read(request(id="7", outputs=[{"name": "score"}, {"name": "label", "parameters": {"binary_data": True}}]))
    assert (parsed.request_id, dict(parsed.outputs), parsed.binary_output) == (
        "7",
        {"score": False, "label": True},
        False,
    )
    parsed = read(request(parameters={"binary_data_output": True}, outputs=[{"name": "label"}]))
    assert (parsed.request_id, dict(parsed.outputs), parsed.binary_output) == (None, {"label": True}, True)


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
def test_wrong_requests_are_refused_with_a_reason(document, why):
    with pytest.raises(BadTensorsError, match=why):
        read(document)


@pytest.mark.parametrize("head", [b"", b"{", b"\xff", b"[" * 100_000])
def test_a_body_that_is_not_json_is_refused(head):
    with pytest.raises(BadTensorsError, match="no JSON"):
        parse_request(head, None, max_texts=10)


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
def test_damaged_bytes_are_refused_with_a_reason(raw, why):
    document, _ = binary([b"a"], parameters={"binary_data_size": len(raw)})
    with pytest.raises(BadTensorsError, match=why):
        read(document, True, raw)


def test_the_binary_size_must_be_that_of_the_bytes_after_the_json():
    document, raw = binary([b"ab"])
    with pytest.raises(BadTensorsError, match="binary_data_size of 6, and 7 bytes follow"):
        read(document, True, raw + b"x")


def test_bytes_after_the_json_need_a_binary_size():
    with pytest.raises(BadTensorsError, match="3 bytes follow the JSON, and no input"):
        read(request(), True, b"abc")


@pytest.mark.parametrize("size", [True, "6", 6.0, None])
def test_a_binary_size_that_is_not_an_integer_is_refused(size):
    document, raw = binary([b"ab"], parameters={"binary_data_size": size})
    with pytest.raises(BadTensorsError):
        read(document, True, raw)


@pytest.mark.parametrize("header", ["999999", "9" * 11])
def test_a_header_length_above_that_of_the_body_is_refused(header):
    document, raw = binary([b"ab"])
    with pytest.raises(BadTensorsError, match=f"is {header}, the body has"):
        read(document, header, raw)


@pytest.mark.parametrize("header", ["-1", "1e3", "²", "", "9" * 12, "9" * 30])
def test_a_header_length_that_is_no_number_is_refused(header):
    document, raw = binary([b"ab"])
    with pytest.raises(BadTensorsError, match="no number"):
        read(document, header, raw)


@pytest.mark.parametrize("as_binary", [True, False])
def test_the_reference_client_reads_a_response(as_binary):
    tritonclient = pytest.importorskip("tritonclient.http")
    labels = np.array([b"games", "Straße 猫".encode()], dtype=object)
    scores = np.array([0.25, 0.5], dtype=np.float32)
    probabilities = np.array([[0.25, 0.75], [0.5, 0.5]], dtype=np.float32)
    tensors = [
        OutputTensor("label", "BYTES", labels, as_binary),
        OutputTensor("score", "FP32", scores, as_binary),
        OutputTensor("probabilities", "FP32", probabilities, as_binary),
    ]
    body, header_length = encode_response({"model_name": "m"}, tensors)
    result = tritonclient.InferResult.from_response_body(body, False, header_length)
    found = [value.decode() if isinstance(value, bytes) else value for value in result.as_numpy("label").tolist()]
    assert found == ["games", "Straße 猫"]
    np.testing.assert_array_equal(result.as_numpy("score"), scores)
    np.testing.assert_array_equal(result.as_numpy("probabilities"), probabilities)
    assert (header_length is None) == (not as_binary)


def test_a_request_may_have_as_many_texts_as_the_limit():
    assert read(request(["a", "b"]), max_texts=2).texts == ["a", "b"]
    with pytest.raises(BadTensorsError, match="2 texts in a request, the limit is 1"):
        read(request(["a", "b"]), max_texts=1)
