"""Bodies of requests and responses: counted, decompressed within limits, and compressed for those who ask."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import Mapping
from typing import Protocol

from fastapi import HTTPException, Request, Response
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive

from amalgam_edge.serving.byte_budget import BudgetShare

CLIENT_CLOSED_REQUEST = 499  # as nginx logs it; the client has gone and never sees it

_GZIP, _ZLIB = 31, 15  # zlib's names for the two formats
_FORMATS = {"gzip": _GZIP, "x-gzip": _GZIP, "deflate": _ZLIB}
_SMALLEST_COMPRESSED = 256  # bytes; below that there is nothing to gain
_LARGEST_ON_LOOP = 65_536  # bytes that are compressed on the event loop, in a millisecond


class Decoder(Protocol):
    """Turns the bytes of a body into its content."""

    def decode(self, data: bytes, room: int) -> bytes:
        """The content of the next bytes; more than ``room`` bytes of it if there is no room for all."""

    def is_complete(self) -> bool:
        """Whether the content is complete."""


class _Identity:
    def decode(self, data: bytes, room: int) -> bytes:
        return data

    def is_complete(self) -> bool:
        return True


class _Decompressor:
    """Decompresses gzip, of which there may be several parts, or zlib's format.

    Args:
        window: zlib's name for the format.
    """

    def __init__(self, window: int) -> None:
        self._window = window
        self._stream = zlib.decompressobj(window)

    def decode(self, data: bytes, room: int) -> bytes:
        content = b""
        while data and len(content) <= room:
            if self._stream.eof:
                self._stream = zlib.decompressobj(self._window)
            # With a length of 0, zlib would decompress everything.
            content += self._stream.decompress(data, room + 1 - len(content))
            data = self._stream.unused_data or self._stream.unconsumed_tail
        return content

    def is_complete(self) -> bool:
        return self._stream.eof


class BodyReader:
    """ASGI's ``receive`` of one request, of which a body arrives decompressed and within limits.

    Args:
        receive: The server's own.
        encoding: The header ``Content-Encoding``.
        limit: Most bytes of the body, decompressed.
        share: What the request takes of the server's memory for bodies; the caller gives it back.
    """

    def __init__(self, receive: Receive, encoding: bytes, limit: int, share: BudgetShare) -> None:
        self._receive = receive
        self._encoding = encoding
        self._limit = limit
        self._share = share
        self._n_bytes = 0
        self._decoder: Decoder | None = None

    async def __call__(self) -> Message:
        """The next message.

        Raises:
            HTTPException: 413, the body is too long; 415, its encoding is unknown; 422, it is damaged; 503, the bodies
                of all requests together are too long.
        """
        if self._decoder is None:
            self._decoder = _decoder_of(self._encoding)
        message = await self._receive()
        if message["type"] != "http.request":
            return message
        body = message.get("body", b"")
        try:
            content = self._decoder.decode(body, self._limit - self._n_bytes)
        except zlib.error as error:
            raise HTTPException(422, "the body is not compressed as Content-Encoding says") from error
        self._n_bytes += len(content)
        if self._n_bytes > self._limit:
            raise HTTPException(413, f"the body is longer than the limit of {self._limit} bytes")
        if not self._share.take(len(content)):
            raise HTTPException(503, "too many large requests at a time", {"retry-after": "1"})
        if not message.get("more_body", False) and not self._decoder.is_complete():
            raise HTTPException(422, "the compressed body is cut off")
        return {**message, "body": content} if content is not body else message


def _decoder_of(encoding: bytes) -> Decoder:
    name = encoding.strip().lower().decode("latin-1")
    if name in ("", "identity"):
        return _Identity()
    if name not in _FORMATS:
        raise HTTPException(
            415, "Content-Encoding is none of identity, gzip and deflate", {"accept-encoding": "gzip, deflate"}
        )
    return _Decompressor(_FORMATS[name])


async def read_body(request: Request) -> bytes:
    """A request's body. It is not kept, unlike by the request's own method.

    Raises:
        HTTPException: Of :class:`BodyReader`; 499, the client has disconnected.
    """
    try:
        return b"".join([chunk async for chunk in request.stream()])
    except ClientDisconnect:
        raise client_disconnected() from None


def client_disconnected() -> HTTPException:
    """The error of a request whose client is gone."""
    return HTTPException(CLIENT_CLOSED_REQUEST, "the client is gone")


async def compressed_if_asked(
    request: Request, content: bytes, media_type: str, headers: Mapping[str, str] | None = None
) -> Response:
    """A response, compressed by gzip if the client asks for that."""
    sent_headers = dict(headers or {})
    if len(content) >= _SMALLEST_COMPRESSED and accepts_gzip(request.headers.get("accept-encoding", "")):
        sent_headers |= {"content-encoding": "gzip", "vary": "Accept-Encoding"}
        if len(content) > _LARGEST_ON_LOOP:
            content = await asyncio.to_thread(gzip.compress, content, 1)
        else:
            content = gzip.compress(content, 1)
    return Response(content, media_type=media_type, headers=sent_headers)


def accepts_gzip(accept_encoding: str) -> bool:
    """Whether a header ``Accept-Encoding`` names gzip, and not with the weight 0."""
    for part in accept_encoding.lower().split(","):
        name, _, weight = part.partition(";")
        if name.strip() in ("gzip", "x-gzip"):
            return weight.replace(" ", "").strip("0.") != "q="
    return False
