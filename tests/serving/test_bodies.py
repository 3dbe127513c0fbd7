"""Bodies of requests and responses: compression within limits, memory that all share, JSON that is not quite."""

from __future__ import annotations

import asyncio
import gzip
import json
import tracemalloc
import zlib

import numpy as np
import pytest
from fastapi import HTTPException, Request

from amalgam_edge.serving.bodies import BodyReader, accepts_gzip, compressed_if_asked, read_body
from amalgam_edge.serving.byte_budget import FREE_BYTES, ByteBudget
from amalgam_edge.serving.protocols.hugging_face import ClassificationRequest
from amalgam_edge.serving.protocols.open_inference_tensors import parse_request
from amalgam_edge.storage.json_text import mended_json

CONTENT = b'{"inputs": ["a text", "and another"]}'


def read(chunks, encoding=b"", limit=10**6, budget=None, share=None):
    """The body that an application gets of these chunks."""
    chunks = [*chunks]

    async def receive():
        body = chunks.pop(0)
        return {"type": "http.request", "body": body, "more_body": bool(chunks)}

    share = share or (budget or ByteBudget(10**9)).share()
    reader = BodyReader(receive, encoding, limit, share)
    return asyncio.run(read_body(Request({"type": "http"}, reader)))


def pieces(content, size):
    return [content[start : start + size] for start in range(0, len(content), size)]


PACKED = gzip.compress(CONTENT, mtime=0)  # the same in each process that collects the tests
PACKED_TWICE = gzip.compress(PACKED, mtime=0)


@pytest.mark.parametrize("size", [1, 7, 10**6])
@pytest.mark.parametrize(
    ("encoding", "compress"),
    [
        (b"", bytes),
        (b"Identity", bytes),
        (b" IDENTITY ", bytes),
        (b"gzip", gzip.compress),
        (b"GZip", gzip.compress),
        (b"x-gzip", gzip.compress),
        (b"deflate", zlib.compress),
        (b"gzip", lambda content: gzip.compress(content[:5]) + gzip.compress(b"") + gzip.compress(content[5:])),
    ],
)
def test_a_body_arrives_as_it_was_before_compression(encoding, compress, size):
    assert read(pieces(compress(CONTENT), size), encoding) == CONTENT


@pytest.mark.parametrize(
    ("encoding", "body", "status"),
    [
        (b"br", CONTENT, 415),
        (b"gzip, gzip", PACKED_TWICE, 415),
        (b"\xff", CONTENT, 415),
        (b"gzip", CONTENT, 422),
        (b"gzip", zlib.compress(CONTENT), 422),
        (b"deflate", PACKED, 422),
        (b"gzip", PACKED[:-1], 422),
        (b"gzip", PACKED[:12], 422),
        (b"gzip", PACKED + b"more", 422),
        (b"gzip", b"", 422),
        (b"gzip", PACKED[:-8] + bytes(8), 422),  # a wrong checksum
    ],
)
def test_what_cannot_be_decompressed_is_refused(encoding, body, status):
    with pytest.raises(HTTPException) as refused:
        read([body], encoding)
    assert refused.value.status_code == status


@pytest.mark.parametrize(
    ("encoding", "compress"), [(b"", bytes), (b"gzip", gzip.compress), (b"deflate", zlib.compress)]
)
@pytest.mark.parametrize("size", [1, 10**6])
def test_the_limit_holds_for_the_decompressed_body(encoding, compress, size):
    body = pieces(compress(CONTENT), size)
    assert read(body, encoding, limit=len(CONTENT)) == CONTENT
    with pytest.raises(HTTPException, match=f"413: .*the limit of {len(CONTENT) - 1} bytes"):
        read(body, encoding, limit=len(CONTENT) - 1)


@pytest.mark.parametrize("size", [100, 10**6])
def test_a_bomb_is_refused_without_being_unpacked(size):
    bomb = gzip.compress(bytes(2**26))
    tracemalloc.start()
    with pytest.raises(HTTPException, match="413"):
        read(pieces(bomb, size), b"gzip", limit=10**6)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**23


def test_bodies_share_a_budget_and_give_it_back():
    budget = ByteBudget(100_000)
    first, second = budget.share(), budget.share()
    body = pieces(bytes(100_000), 1000)
    assert len(read(body, share=first)) == 100_000
    assert budget.taken == 100_000 - FREE_BYTES
    with pytest.raises(HTTPException) as refused:
        read(body, share=second)
    assert refused.value.status_code == 503
    assert refused.value.headers == {"retry-after": "1"}
    second.give_back()
    assert len(read([bytes(FREE_BYTES)], share=second)) == FREE_BYTES  # a small request needs nothing of it
    first.give_back()
    assert len(read(body, share=second)) == 100_000
    second.give_back()
    assert budget.taken == 0


def test_a_compressed_body_takes_its_decompressed_size_of_the_budget():
    budget = ByteBudget(100_000)
    with pytest.raises(HTTPException, match="503"):
        read([gzip.compress(bytes(200_000))], b"gzip", budget=budget)


MENDED = [
    (b'{"inputs": "cut \\ud83d"}', "cut ?"),
    (b'{"inputs": "\\udE80 cut"}', "? cut"),
    (b'{"inputs": "cut \\ud83d\\ud83d\\ude80"}', "cut ?🚀"),
    (b'{"inputs": "whole \\ud83d\\ude80"}', "whole 🚀"),
    (b'{"inputs": "no escape \\\\ud83d"}', "no escape \\ud83d"),
    (b'\xef\xbb\xbf{"inputs": "marked"}', "marked"),
    (b'\xef\xbb\xbf{"inputs": "marked \\ud83d"}', "marked ?"),
]


@pytest.mark.parametrize(("body", "text"), MENDED)
def test_both_protocols_read_half_an_emoji_and_a_byte_order_mark_alike(body, text):
    assert ClassificationRequest.model_validate_json(mended_json(body)).inputs == text
    tensor = b'{"name": "text", "shape": [1], "datatype": "BYTES", "data": [%s]}'
    value = body.split(b": ", 1)[1][:-1]
    mark = body[:3] if body.startswith(b"\xef") else b""
    inference = mark + b'{"id": "\\ud83d", "inputs": [%s]}' % (tensor % value)
    parsed = parse_request(inference, None, max_texts=1)
    assert parsed.texts == [text]
    assert parsed.request_id == "?"  # or the response could not be encoded


@pytest.mark.parametrize(
    "body", [b"{", b"\xff\xfe", b'"\\ud800', b"[" * 100_000 + b"\\ud800", b'{"a": 1e999, "\\ud800']
)
def test_what_is_no_json_is_left_to_the_parser(body):
    assert mended_json(body) == body


@pytest.mark.parametrize(
    ("header", "accepts"),
    [
        *(
            (header, True)
            for header in ("gzip", "GZIP", "deflate, gzip", "br;q=1.0, gzip;q=0.5", "x-gzip", "gzip; q=1")
        ),
        *((header, False) for header in ("", "deflate", "identity", "gzip;q=0", "gzip; q=0.000", "gzipped", "*")),
    ],
)
def test_clients_that_want_gzip(header, accepts):
    assert accepts_gzip(header) is accepts


@pytest.mark.parametrize("n_values", [1, 100, 100_000])
def test_a_response_is_compressed_for_those_who_ask(n_values):
    content = json.dumps(np.arange(n_values).tolist()).encode()

    def respond(**headers):
        raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        request = Request({"type": "http", "headers": raw})
        return asyncio.run(compressed_if_asked(request, content, "application/json", {"x": "y"}))

    plain, compressed = respond(), respond(accept_encoding="gzip")
    assert plain.body == content
    assert "content-encoding" not in plain.headers
    assert plain.headers["x"] == compressed.headers["x"] == "y"
    if n_values == 1:
        assert compressed.body == content
    else:
        assert compressed.headers["content-encoding"] == "gzip"
        assert compressed.headers["vary"] == "Accept-Encoding"
        assert len(compressed.body) == int(compressed.headers["content-length"]) < len(content)
        assert gzip.decompress(compressed.body) == content
