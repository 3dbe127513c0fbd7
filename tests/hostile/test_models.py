"""A server in a process of its own, whose tokenizer and models are attacked while honest clients ask."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from tokenizers import AddedToken, Tokenizer, normalizers

from tests.runtime.test_long_texts import word_piece
from tests.serving.conftest import running_server

pytestmark = [
    pytest.mark.hostile,
    pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc, and faults are those of Linux"),
]

HONEST = ["a game of chess", "maps of the night sky"]


def post(server, texts, model="bytes"):
    return httpx.post(f"{server.url}/models/{model}", json={"inputs": texts}, timeout=60)


def until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def rewritten(folder, **files):
    """Replace files of a bundle, and write its manifest anew."""
    manifest = json.loads((folder / "amalgam.json").read_text("utf-8"))
    for name, content in files.items():
        (folder / name).write_bytes(content)
        manifest["files"][name] = hashlib.sha256(content).hexdigest()
    (folder / "amalgam.json").write_text(json.dumps(manifest), "utf-8")
    return folder


def peak_megabytes(process):
    status = Path(f"/proc/{process.pid}/status").read_text("utf-8")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


@contextmanager
def honest_clients(server, model="bytes"):
    """While entered, two clients ask again and again; afterwards, all their answers must be right."""
    statuses, stop = [], threading.Event()

    def ask():
        while not stop.is_set():
            statuses.append(post(server, HONEST, model).status_code)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield statuses
        n_before = len(statuses)
        until(lambda: len(statuses) > n_before + 2)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert {*statuses} == {200}


@pytest.fixture(scope="module")
def attacked(tmp_path_factory, bundle_folder):
    """A server of two bundles: byte-level BPE, and WordPiece, whose tokenizer panics over texts with an é."""
    folder = tmp_path_factory.mktemp("attacked")
    words = shutil.copytree(bundle_folder, folder / "words")
    rewritten(words, **{"tokenizer.json": word_piece(dropped=["new york"]).to_str().encode()})
    panics = shutil.copytree(bundle_folder, folder / "panics")
    panicking = Tokenizer.from_file(str(bundle_folder / "tokenizer.json"))
    panicking.normalizer = normalizers.Replace("~", "")
    panicking.add_tokens([AddedToken("~", normalized=True)])
    rewritten(panics, **{"tokenizer.json": panicking.to_str().encode()})
    with running_server(folder, f"bytes={bundle_folder}", f"words={words}", f"panics={panics}") as server:
        for model in ("bytes", "words", "panics"):
            assert post(server, HONEST, model).status_code == 200
        yield server


def hyphenated(first, n_words, joint):
    return joint.join(f"{number:x}q" for number in range(first, first + n_words))[:99_000]


@pytest.mark.parametrize("model", ["bytes", "words"])
def test_long_texts_take_little_memory_and_honest_clients_are_answered(attacked, model):
    before = peak_megabytes(attacked.process)
    attacks = [
        [hyphenated(k * 10**6, 12_000, "-") for k in range(30)],
        [hyphenated(k * 10**6, 10_000, " -") for k in range(30)],
        ["".join(chr(0x4E00 + (n + k * k) % 20_000) for k in range(3000)) for n in range(400)],
        [" ".join(chr(0x4E00 + n % 20_000) * 9 + str(k) for k in range(200)) for n in range(400)],
        ["a" * 99_000] * 30,
        ["\n" * 99_000 + "a"] * 15,
    ]
    with honest_clients(attacked, model) as statuses, ThreadPoolExecutor(2) as pool:
        answers = [*pool.map(lambda texts: post(attacked, texts, model), attacks)]
        assert {answer.status_code for answer in answers} <= {200, 503}
        assert 200 in {answer.status_code for answer in answers}
    assert statuses
    assert peak_megabytes(attacked.process) - before < 150
    assert httpx.get(f"{attacked.url}/v2/health/ready").status_code == 200


def test_a_text_over_which_the_tokenizer_panics_fails_its_own_request_only(attacked):
    with honest_clients(attacked, "panics"), ThreadPoolExecutor(4) as pool:
        answers = [*pool.map(lambda k: post(attacked, ["maps", f"secret é {k}"], "panics"), range(20))]
    assert {answer.status_code for answer in answers} == {500}
    assert answers[0].json() == {"error": "the model fails over these texts; the server's log says more"}
    assert httpx.get(f"{attacked.url}/v2/health/ready").status_code == 200
    assert attacked.metric("amalgam_failed_texts_total", model="panics") == 40
    log = attacked.log.read_text("utf-8")
    assert log.count("a request fails: its texts make the model raise") == 1
    assert "secret" not in log


def without_logits(content):
    import onnx

    model = onnx.load_from_string(content)
    for node in model.graph.node:
        node.output[:] = ["scores" if name == "logits" else name for name in node.output]
        node.input[:] = ["scores" if name == "logits" else name for name in node.input]
    for output in model.graph.output:
        output.name = "scores" if output.name == "logits" else output.name
    return model.SerializeToString()


def test_whatever_becomes_of_a_bundle_its_old_version_answers(tmp_path, copied):
    manifest = copied / "amalgam.json"
    files = {name: (copied / name).read_bytes() for name in ("amalgam.json", "onnx/model.onnx", "tokenizer.json")}
    sound, model = files["amalgam.json"].decode(), files["onnx/model.onnx"]

    def unreadable_manifest():
        manifest.unlink()
        manifest.mkdir()

    faults = [
        lambda: manifest.write_text('{"format": 1e999}', "utf-8"),
        lambda: manifest.write_text(sound.replace(": 1", ": 1e999"), "utf-8"),
        lambda: manifest.write_bytes(os.urandom(1000)),
        lambda: rewritten(copied, **{"onnx/model.onnx": without_logits(model)}),
        lambda: rewritten(copied, **{"onnx/model.onnx": model[: len(model) // 2]}),
        lambda: rewritten(copied, **{"tokenizer.json": b"[1e999]"}),
        unreadable_manifest,
    ]
    with running_server(tmp_path, f"bytes={copied}", "--precision", "fp32") as server:

        def reload_error():
            return httpx.get(f"{server.url}/info").json()["models"][0]["reload_error"]

        with honest_clients(server):
            for fault in faults:
                fault()
                server.process.send_signal(signal.SIGHUP)
                until(lambda: reload_error() is not None)
                if manifest.is_dir():
                    manifest.rmdir()
                for name, content in files.items():
                    (copied / name).write_bytes(content)
                server.process.send_signal(signal.SIGHUP)
                until(lambda: reload_error() is None)
            rewritten(copied, **{"notes.txt": b"a new version"})
            server.process.send_signal(signal.SIGHUP)
            until(lambda: server.metric("amalgam_reloads_total", model="bytes", result="taken") == 1)
        assert server.metric("amalgam_reloads_total", model="bytes", result="refused") == len(faults)
        assert httpx.get(f"{server.url}/v2/health/ready").status_code == 200


SLOW_START = """
import sys
from amalgam_edge.cli.main import main
from amalgam_edge.serving import models
open_classifier, pipe = models._open_classifier, sys.argv.pop()
def wait_and_open(*arguments):
    with open(pipe) as file:
        file.read()
    return open_classifier(*arguments)
models._open_classifier = wait_and_open
main()
"""


@contextmanager
def starting_server(tmp_path):
    """A server that is loading a bundle, once it has read a pipe to its end; there is no bundle."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    command = [sys.executable, "-c", SLOW_START, "serve", str(tmp_path / "bundle"), "--port", "0", str(pipe)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        with pipe.open("w", encoding="utf-8") as end:  # waits until the server reads
            yield process, end
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(30)


def test_sigterm_ends_a_server_that_starts(tmp_path):
    with starting_server(tmp_path) as (process, _):
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert process.stderr.read() == ""


def test_sighup_does_not_end_a_server_that_starts(tmp_path):
    with starting_server(tmp_path) as (process, pipe):
        process.send_signal(signal.SIGHUP)
        pipe.close()  # it goes on, and finds that there is no bundle
        assert process.wait(60) == 2
        (line,) = process.stderr.read().splitlines()
        assert line.startswith("Error: ")
