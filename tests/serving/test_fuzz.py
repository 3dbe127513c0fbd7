"""Malformed requests: derived from the API's description, and mutated bodies and connections."""

import json
import random
import re
import socket
import struct
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

pytestmark = pytest.mark.serving

schemathesis = pytest.importorskip("schemathesis")


def resident_bytes(server):
    """Resident memory of the server's process in bytes; None if the operating system does not report it."""
    status = Path(f"/proc/{server.process.pid}/status")
    if not status.exists():
        return None
    return int(next(line for line in status.read_text().splitlines() if line.startswith("VmRSS")).split()[1]) * 1024


def test_requests_derived_from_the_description_cause_no_server_error(server):
    command = [
        str(Path(sys.executable).with_name("schemathesis")), "run", f"{server.url}/openapi.json", "--url", server.url,
        "--checks", "not_a_server_error,content_type_conformance,response_schema_conformance",
        "--phases", "examples,coverage,fuzzing", "--max-examples", "60", "--seed", "7", "--no-color",
        "--suppress-health-check", "all",
    ]  # fmt: skip
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stdout[-4000:]
    for path in ("/", "/models/{name}", "/v2/models/{name}/versions/{version}/infer"):
        for status in ("200", "422"):
            assert server.metric("amalgam_requests_total", path=path, status=status) > 0
    assert server.process.poll() is None


def mutated(rng, content):
    """The content with up to eight random defects."""
    content = bytearray(content)
    for _ in range(rng.randint(1, 8)):
        place = rng.randrange(len(content) + 1)
        kind = rng.randrange(4)
        if kind == 0 and place < len(content):
            content[place] ^= 1 << rng.randrange(8)
        elif kind == 1:
            content[place:place] = rng.randbytes(rng.randint(1, 9))
        elif kind == 2:
            del content[place : place + rng.randint(1, 9)]
        else:
            content[place : place + 4] = struct.pack("<I", rng.choice([0, 1, 2**31, 2**32 - 1]))
    return bytes(content)


def test_damaged_tensors_are_refused_or_answered(server):
    rng = random.Random(11)
    texts = [b"a game", "Straße 猫".encode(), b""]
    raw = b"".join(struct.pack("<I", len(text)) + text for text in texts)
    tensor = {"name": "text", "shape": [3], "datatype": "BYTES", "parameters": {"binary_data_size": len(raw)}}
    head = json.dumps(
        {"inputs": [tensor], "outputs": [{"name": "label", "parameters": {"binary_data": True}}]}
    ).encode()
    statuses, before = [], None
    with httpx.Client(base_url=server.url) as client:
        for k in range(600):
            body = mutated(rng, head + raw)
            length = rng.choice([len(head), len(head), len(head), rng.randrange(len(body) + 3), -1, "x"])
            answer = client.post(
                "/v2/models/tiny/infer", content=body, headers={"inference-header-content-length": str(length)}
            )
            statuses.append(answer.status_code)
            assert answer.status_code in (200, 422), answer.text
            if k == 200:
                before = resident_bytes(server)
    assert {200, 422} == {*statuses}
    if before is not None:
        assert resident_bytes(server) < before * 1.05 + 4e6


def test_damaged_json_is_refused_or_answered(server):
    rng = random.Random(12)
    sound = json.dumps({"inputs": ["a game", "Straße 猫"], "parameters": {"top_k": 2}}).encode()
    with httpx.Client(base_url=server.url) as client:
        for _ in range(400):
            assert client.post("/", content=mutated(rng, sound)).status_code in (200, 422)
        for deep in (
            b"[" * 100_000,
            b'{"inputs":' * 20_000,
            b'{"inputs":"' + b"\\u0000" * 5000 + b'"}',
            b'{"inputs":1e999}',
        ):
            assert client.post("/", content=deep).status_code in (200, 422)
            assert client.post("/v2/models/tiny/infer", content=deep).status_code == 422


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x00" * 300,
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\nshort",
        b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 20_000 + b"\r\n",
        b"GET / HTTP/1.1\r\nHost: \xff\xfe\r\nauthorization: Bearer \xff\r\n\r\n",
    ],
)
def test_bytes_that_are_not_http_do_no_harm(server, raw):
    port = int(server.url.rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        try:
            client.sendall(raw)
            client.shutdown(socket.SHUT_WR)
            answer = client.recv(4096)
        except OSError:
            answer = b""
    assert re.match(rb"HTTP/1\.1 [24]|$", answer), answer  # an answer below 500, or none
    assert httpx.post(server.url, json={"inputs": "x"}).status_code == 200
