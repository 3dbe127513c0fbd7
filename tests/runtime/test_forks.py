"""A classifier in forked processes and in processes that get it pickled: it answers there as it does here."""

from __future__ import annotations

import copy
import json
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from amalgam_edge.errors import AmalgamError
from amalgam_edge.runtime import EdgeClassifier
from tests.support import tiny

TEXTS = [*tiny.TEXTS, *tiny.TEXTS]
NEEDS_FORK = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked on this system")

# Each begins with a classifier that has answered in the parent, in one batch and in several at a time.
BEGIN = """
import json, multiprocessing, os, sys, threading
from amalgam_edge.runtime import EdgeClassifier
bundle, texts = sys.argv[1], json.loads(sys.argv[2])
classifier = EdgeClassifier.from_pretrained(bundle, threads=2)
expected = [round(answer.score, 6) for answer in classifier(texts, batch_size=2)]
classifier(texts[:1])
def answers(some):
    return [round(answer.score, 6) for answer in classifier(some, batch_size=2)]
"""
SCRIPTS = {
    "os.fork": """
for _ in range(2):  # a child, and a child of that child
    child = os.fork()
    if child:
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    assert answers(texts) == expected
sys.exit(0)
""",
    "os.fork while threads answer": """
stop = threading.Event()
def work():
    while not stop.is_set():
        answers(texts)
threads = [threading.Thread(target=work) for _ in range(2)]
for thread in threads: thread.start()
for _ in range(5):
    child = os.fork()
    if not child:
        os._exit(answers(texts) != expected)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
stop.set()
for thread in threads: thread.join()
assert answers(texts) == expected
""",
    "multiprocessing.Pool": """
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map(answers, [texts] * 4) == [expected] * 4
    pool.close()
    pool.join()
assert answers(texts) == expected
""",
    "threads of a child": """
def in_child():
    found = []
    threads = [threading.Thread(target=lambda: found.append(answers(texts))) for _ in range(4)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    assert found == [expected] * 4
child = multiprocessing.get_context("fork").Process(target=in_child)
child.start()
child.join()
assert child.exitcode == 0
""",
}


def run_script(script, bundle):
    command = [sys.executable, "-c", BEGIN + script, str(bundle), json.dumps(TEXTS)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


@NEEDS_FORK
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_forked_process_answers_as_its_parent_does(bundle_folder, name):
    finished = run_script(SCRIPTS[name], bundle_folder)
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr == ""  # nor do libraries warn of the fork


@NEEDS_FORK
def test_a_child_whose_bundle_was_replaced_says_so(bundle_folder, tmp_path):
    bundle = shutil.copytree(bundle_folder, tmp_path / "student")
    replace = """
import pathlib, shutil
from amalgam_edge.errors import AmalgamError
manifest = pathlib.Path(bundle, "amalgam.json")
manifest.write_text(manifest.read_text("utf-8").replace("games", "chess"), "utf-8")
pathlib.Path(bundle, "tokenizer.json").write_text("{}", "utf-8")
child = os.fork()
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
try:
    answers(texts)
except AmalgamError as error:
    print(error)
"""
    finished = run_script(replace, bundle)
    assert (finished.returncode, finished.stderr) == (0, "")
    assert finished.stdout == f"{bundle}: holds another bundle than when this classifier was loaded; load it anew\n"


@NEEDS_FORK
def test_processes_that_map_a_dataset_answer(bundle_folder):
    """``datasets`` forks, and hashes what it maps by pickling it."""
    mapped = """
import datasets
datasets.disable_progress_bars()
rows = datasets.Dataset.from_dict({"text": texts})
found = rows.map(lambda batch: {"score": answers(batch["text"])}, batched=True, batch_size=len(texts), num_proc=2)
assert found["score"][:] == answers(texts[: len(texts) // 2]) + answers(texts[len(texts) // 2 :])
"""
    finished = run_script(mapped, bundle_folder)
    assert finished.returncode == 0, finished.stderr


@NEEDS_FORK
def test_workers_of_gunicorn_answer_with_a_classifier_that_was_loaded_before_them(bundle_folder, tmp_path):
    pytest.importorskip("gunicorn")
    (tmp_path / "app.py").write_text(
        "import json, os\n"
        "from amalgam_edge.runtime import EdgeClassifier\n"
        f"classifier = EdgeClassifier.from_pretrained({str(bundle_folder)!r}, threads=1)\n"
        "loaded_in = os.getpid()\n"
        "classifier(['warm up'])\n"
        "def app(environ, start_response):\n"
        "    text = environ['QUERY_STRING']\n"
        "    start_response('200 OK', [('Content-Type', 'application/json')])\n"
        "    own = os.getpid() != loaded_in\n"
        "    return [json.dumps([classifier(text)[0].score, own]).encode()]\n",
        "utf-8",
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--preload", "--workers", "2", "--bind", f"127.0.0.1:{port}", "--timeout", "20"]
    command = [sys.executable, "-m", "gunicorn", *options, "app:app"]
    expected = EdgeClassifier.from_pretrained(bundle_folder, threads=1)(["chess"])[0].score
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as server:
        try:
            answers = [json.loads(_get(f"http://127.0.0.1:{port}/?chess")) for _ in range(8)]
        finally:
            server.send_signal(signal.SIGTERM)
            stopped = server.communicate(timeout=60)[1]
    assert answers == [[pytest.approx(expected), True]] * 8
    assert "Booting worker" in stopped
    assert "Traceback" not in stopped
    assert server.returncode == 0


def _get(address):
    for _ in range(200):  # until the server listens
        try:
            with urllib.request.urlopen(address, timeout=60) as response:
                return response.read()
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"{address} does not answer")


# --- pickled


@pytest.mark.parametrize("again", [lambda it: pickle.loads(pickle.dumps(it)), copy.copy, copy.deepcopy])
def test_a_pickled_classifier_has_the_same_options_and_answers(bundle_folder, again):
    options = {"precision": "int8", "threads": 1, "abstain": 0.3, "cascade": False}
    classifier = EdgeClassifier.from_pretrained(bundle_folder, **options)
    copied = again(classifier)
    assert copied is not classifier
    assert (copied.precision, copied.heads["label"].abstain, copied.bundle) == ("int8", 0.3, classifier.bundle)
    assert copied.heads == classifier.heads
    assert copied(TEXTS) == classifier(TEXTS)
    assert repr(copied) == repr(classifier)


def test_what_is_pickled_is_small_and_does_not_depend_on_the_folder_that_one_is_in(bundle_folder, monkeypatch):
    monkeypatch.chdir(bundle_folder.parent)
    classifier = EdgeClassifier.from_pretrained(Path(bundle_folder.name), threads=1)
    pickled = pickle.dumps(classifier)
    assert len(pickled) < 1000
    monkeypatch.chdir("/")
    assert pickle.loads(pickled)(TEXTS) == classifier(TEXTS)


def test_a_subclass_stays_one(bundle_folder):
    assert type(pickle.loads(pickle.dumps(Shouting.from_pretrained(bundle_folder)))) is Shouting


class Shouting(EdgeClassifier):
    pass


def test_another_bundle_in_its_place_is_refused(bundle_folder, tmp_path):
    bundle = shutil.copytree(bundle_folder, tmp_path / "student")
    pickled = pickle.dumps(EdgeClassifier.from_pretrained(bundle))
    manifest = bundle / "amalgam.json"
    manifest.write_text(manifest.read_text("utf-8").replace("games", "chess"), "utf-8")
    with pytest.raises(AmalgamError, match="holds another bundle than when this classifier was pickled"):
        pickle.loads(pickled)
    shutil.rmtree(bundle)
    with pytest.raises(AmalgamError, match="student"):
        pickle.loads(pickled)


def test_a_spawned_process_gets_it(bundle_folder, tmp_path):
    script = tmp_path / "spawn.py"
    script.write_text(
        "import multiprocessing, sys\n"
        "from amalgam_edge.runtime import EdgeClassifier\n"
        "if __name__ == '__main__':\n"
        "    classifier = EdgeClassifier.from_pretrained(sys.argv[1], threads=1)\n"
        "    with multiprocessing.get_context('spawn').Pool(1) as pool:\n"
        "        assert pool.map(classifier, [['chess'], ['mail']]) == [classifier(['chess']), classifier(['mail'])]\n",
        "utf-8",
    )
    command = [sys.executable, script, bundle_folder]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert finished.returncode == 0, finished.stderr
