"""Wrong requests, limits, overload, API keys, and requests during shutdown and reloads."""

import json
import re
import shutil
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

pytestmark = pytest.mark.serving

LONG = "chess and maps of the night sky " * 20


def post(server, texts, **more):
    return httpx.post(server.url, json={"inputs": texts}, timeout=30, **more)


def until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("body", "status", "why"),
    [
        ({"inputs": []}, 422, "inputs"),
        ({"inputs": [3]}, 422, "inputs"),
        ({"input": "x"}, 422, "inputs"),
        ({"inputs": "x", "parameters": {"top_k": 0}}, 422, "parameters.top_k"),
        ({"inputs": "x", "parameters": {"function_to_apply": "relu"}}, 422, "function_to_apply"),
        ({"inputs": ["x"] * 1025}, 422, "1025 texts in a request, the limit is 1024"),
        ({"inputs": "x" * 100_001}, 422, "a text of 100001 characters, the limit is 100000"),
        (["x"], 422, "object"),
    ],
)
def test_wrong_requests_get_an_error_that_says_why(server, body, status, why):
    answer = httpx.post(server.url, json=body)
    assert answer.status_code == status
    assert why in answer.json()["error"]


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"[" * 50_000, b'{"inputs": NaN}'])
def test_a_body_that_is_not_valid_json_is_refused(server, body):
    answer = httpx.post(server.url, content=body)
    assert answer.status_code == 422
    assert answer.json()["error"]


def test_a_body_above_the_limit_is_refused_with_and_without_a_content_length(server):
    too_long = b'{"inputs": "' + b"x" * 4_000_000 + b'"}'
    assert httpx.post(server.url, content=too_long).status_code == 413

    def chunks():
        for _ in range(50):
            yield b"x" * 100_000

    answer = httpx.post(server.url, content=chunks())
    assert answer.status_code == 413
    assert "limit of 4000000 bytes" in answer.json()["error"]
    assert post(server, "x").status_code == 200


def test_bodies_in_an_unknown_encoding_are_refused(server):
    answer = httpx.post(server.url, content=b"x", headers={"content-encoding": "br"})
    assert (answer.status_code, "Content-Encoding" in answer.json()["error"]) == (415, True)
    assert answer.headers["accept-encoding"] == "gzip, deflate"


@pytest.mark.parametrize(
    "path",
    ["/none", "/models/..%2f..%2fetc%2fpasswd", "/v2/models/%00", "/models/", "/v2/models/tiny/versions/x/infer"],
)
def test_unknown_paths_and_path_traversal_are_not_found(server, path):
    answer = httpx.post(f"{server.url}{path}", json={"inputs": "x"})
    assert answer.status_code in (404, 405)
    assert "etc" not in answer.text


def test_logs_and_metrics_hold_nothing_that_a_client_sends(server):
    mark = "mark\x1b[31m\n%s"
    url = f"{server.url}/models/mark%1b%0a"
    httpx.post(url, json={"inputs": mark}, headers={"user-agent": "mark-agent"})
    httpx.post(server.url, content=mark.encode(), headers={"authorization": "Bearer mark"})
    assert "mark" not in server.log.read_text()
    assert "mark" not in httpx.get(f"{server.url}/metrics").text


def test_every_response_has_security_headers(server):
    for answer in (httpx.get(f"{server.url}/info"), httpx.get(f"{server.url}/none"), post(server, 3)):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert "server" not in answer.headers
        assert "access-control-allow-origin" not in answer.headers


def test_requests_need_one_of_the_api_keys(serve, bundle_folder, tmp_path):
    keys = tmp_path / "keys.txt"
    keys.write_text("first-key\n\n  second-key  \n")
    server = serve(bundle_folder, "--api-key-file", keys)
    for key in ("first-key", "second-key"):
        assert post(server, "x", headers={"authorization": f"Bearer {key}"}).status_code == 200
    for header in ("Bearer none", "Bearer first-key x", "first-key", "Basic first-key", "Bearer", "Bearer é"):
        answer = post(server, "x", headers={"authorization": header.encode("latin-1")})
        assert answer.status_code == 401
        assert "Bearer" in answer.headers["www-authenticate"]
    for path, status in (("/v2/health/ready", 200), ("/info", 401), ("/metrics", 401), ("/docs", 401)):
        assert httpx.get(f"{server.url}{path}").status_code == status
    assert "first-key" not in server.log.read_text()


def test_only_named_origins_may_ask(serve, bundle_folder):
    server = serve(bundle_folder, "--cors", "https://example.org")
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "content-type"}
    for origin, allowed in (("https://example.org", "https://example.org"), ("https://evil.example", None)):
        answer = httpx.options(server.url, headers={"origin": origin, **asked})
        assert answer.headers.get("access-control-allow-origin") == allowed
        assert post(server, "x", headers={"origin": origin}).status_code == (200 if allowed else 403)
        assert post(server, "x", headers={"origin": origin}).headers.get("access-control-allow-origin") == allowed


def test_a_server_on_loopback_answers_to_its_own_names_only(serve, bundle_folder):
    server = serve(bundle_folder, "--allow-host", "box.example")
    for host, status in (("localhost:1", 200), ("127.0.0.1", 200), ("box.example", 200), ("evil.example:80", 421)):
        answer = httpx.get(f"{server.url}/health", headers={"host": host})
        assert answer.status_code == status, host
        assert status == 200 or "--allow-host" in answer.json()["error"]


def test_keys_that_are_replaced_in_their_file_are_taken_without_a_restart(serve, bundle_folder, tmp_path):
    keys = tmp_path / "keys.txt"
    keys.write_text("old\n")
    server = serve(bundle_folder, "--api-key-file", keys, "--cors", "https://example.org")

    def status(key):
        return post(
            server, "x", headers={"authorization": f"Bearer {key}", "origin": "https://example.org"}
        ).status_code

    assert (status("old"), status("new")) == (200, 401)
    keys.write_text("new\n")
    until(lambda: status("old") == 401)
    assert status("new") == 200
    keys.write_text("")
    until(lambda: status("new") != 200 or "the 1 keys read before stay" in server.log.read_text())
    assert status("new") == 200


def test_overload_gives_503_and_no_other_error(serve, bundle_folder):
    server = serve(bundle_folder, "--max-queue", "64", "--batch-tokens", "64")
    with ThreadPoolExecutor(48) as pool:
        answers = [*pool.map(lambda k: post(server, [f"{k} {j} {LONG}" for j in range(24)]), range(144))]
    assert {answer.status_code for answer in answers} == {200, 503}
    for answer in answers:
        if answer.status_code == 503:
            assert answer.json()["error"] == "the queue is full (64 texts)"
            assert int(answer.headers["retry-after"]) >= 1
    assert server.metric("amalgam_queue_texts") == 0
    assert post(server, "x").status_code == 200


def test_a_request_that_takes_too_long_gets_503(serve, bundle_folder):
    server = serve(bundle_folder, "--deadline", "0.05")
    answer = post(server, [f"{k} {LONG}" for k in range(1000)])
    assert answer.status_code == 503
    assert "no answer within 0.05 s" in answer.json()["error"]
    assert post(server, "x").status_code == 200


def test_texts_of_disconnected_clients_leave_the_queue(serve, bundle_folder):
    server = serve(bundle_folder, "--batch-tokens", "40")
    body = json.dumps({"inputs": [f"{k} {LONG}" for k in range(1000)]}).encode()
    port = int(server.url.rsplit(":", 1)[1])
    head = f"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(4)]
    for client in clients:
        client.sendall(head + body)
    until(lambda: server.metric("amalgam_queue_texts") > 2000)
    for client in clients:
        client.close()
    until(lambda: server.metric("amalgam_queue_texts") == 0, seconds=2)
    assert server.metric("amalgam_requests_total", path="/", status="499") == 4
    assert server.metric("amalgam_texts_total") < 1000  # of 4000


def test_sigterm_finishes_the_requests_that_are_running(serve, bundle_folder):
    server = serve(bundle_folder, "--batch-tokens", "40")
    texts = [f"{k} {LONG}" for k in range(200)]
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(post, server, texts)
        until(lambda: server.metric("amalgam_queue_texts") > 0)
        server.process.send_signal(signal.SIGTERM)
        answer = asked.result(30)
    assert answer.status_code == 200
    assert len(answer.json()) == 200
    assert server.process.wait(30) == 0
    with pytest.raises(httpx.ConnectError):
        post(server, "x")


def relabelled(source, folder):
    """Replace a bundle by a new version with other label names."""
    staged = shutil.copytree(source, folder.with_name("staged"))
    path = staged / "amalgam.json"
    manifest = json.loads(path.read_text())
    for label in manifest["heads"][0]["labels"]:
        label["name"] = f"new {label['name']}"
    path.write_text(json.dumps(manifest))
    for file in ("onnx/model.onnx", "onnx/model_quantized.onnx", "amalgam.json"):
        (staged / file).replace(folder / file)


@pytest.mark.parametrize("how", ["watch", "hup"])
def test_a_new_version_replaces_the_old_one_without_a_failed_request(serve, copied, bundle_folder, how):
    server = serve(f"tiny={copied}", *(["--watch"] if how == "watch" else []))
    answers, stop = [], threading.Event()

    def ask():
        while not stop.is_set():
            answers.append(post(server, ["a", "b", "c"]))

    def is_new():
        return answers and answers[-1].json()[0][0]["label"].startswith("new ")

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        until(lambda: len(answers) > 20)
        assert not is_new()
        relabelled(bundle_folder, copied)
        if how == "hup":
            server.process.send_signal(signal.SIGHUP)
        until(is_new)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert {answer.status_code for answer in answers} == {200}
    version = httpx.get(f"{server.url}/info").json()["models"][0]["version"]
    assert re.search(rf"tiny: version {version}", server.log.read_text())
    assert server.metric("amalgam_reloads_total", model="tiny", result="taken") == 1


def test_a_damaged_new_version_is_refused_and_the_old_one_goes_on(serve, copied, flip):
    server = serve(f"tiny={copied}", "--watch")
    before = httpx.get(f"{server.url}/info").json()["models"][0]
    flip(copied / "onnx" / "model_quantized.onnx")
    path = copied / "amalgam.json"
    sound = path.read_text()
    path.write_text(json.dumps({**json.loads(sound), "note": "another"}))
    until(lambda: httpx.get(f"{server.url}/info").json()["models"][0]["reload_error"])
    assert "model_quantized.onnx" in httpx.get(f"{server.url}/info").json()["models"][0]["reload_error"]
    assert f"tiny: not taken, version {before['version']} goes on" in server.log.read_text()
    path.write_text("{")
    until(lambda: "damaged manifest" in server.log.read_text())
    path.unlink()
    until(lambda: "no bundle" in server.log.read_text())
    assert post(server, "x").json()[0][0]["label"] in before["labels"]
    assert server.metric("amalgam_reloads_total", model="tiny", result="refused") == 3
    path.write_text(sound)
    until(lambda: httpx.get(f"{server.url}/info").json()["models"][0]["reload_error"] is None)
