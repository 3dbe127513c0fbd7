"""How texts are split into batches, and how a model runs them on several threads."""

import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amalgam_edge import cores
from amalgam_edge.errors import AmalgamError
from amalgam_edge.runtime import model_runner
from amalgam_edge.runtime.model_runner import ModelRunner
from amalgam_edge.runtime.text_model import split_by_length
from amalgam_edge.storage.own_files import FileContent


@given(st.lists(st.integers(1, 128), min_size=1, max_size=200), st.sampled_from([1, 3, 32, 256]))
def test_every_text_is_in_one_batch_and_the_longest_come_first(lengths, batch_size):
    lengths = np.array(lengths)
    batches = split_by_length(lengths, batch_size)
    assert sorted(np.concatenate(batches)) == list(range(len(lengths)))
    widths = [lengths[batch].max() for batch in batches]
    assert widths == sorted(widths, reverse=True)
    for batch, width in zip(batches, widths, strict=True):
        assert 1 <= len(batch) <= batch_size
        assert len(batch) == 1 or len(batch) * width <= 16 * batch_size


@pytest.mark.parametrize(
    ("n_texts", "n_tokens", "expected"),
    [
        (1, 64, [1]),
        (2, 16, [2]),
        (8, 16, [8]),  # at least 4 tokens for each of 32 texts
        (9, 16, [8, 1]),
        (32, 16, [16, 16]),  # half of the tokens
        (32, 64, [8] * 4),  # at most 16 tokens for each of 32 texts
        (65, 1, [32, 32, 1]),  # at most 32 texts
    ],
)
def test_there_is_work_for_two_threads_unless_there_are_few_tokens(n_texts, n_tokens, expected):
    assert [len(batch) for batch in split_by_length(np.full(n_texts, n_tokens), 32)] == expected


@pytest.fixture
def feeds():
    rng = np.random.default_rng(0)
    ids = [rng.integers(5, 200, (n, t)) for n, t in ((2, 9), (3, 5), (1, 4), (4, 2))]
    return [{"input_ids": one, "attention_mask": np.ones_like(one)} for one in ids]


@pytest.mark.parametrize("threads", [1, 2, 3, None])
def test_logits_are_those_of_one_session(bundle_folder, feeds, threads):
    path = bundle_folder / "onnx" / "model.onnx"
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    runner = ModelRunner(FileContent.read(path), threads)
    for some in (feeds[:1], feeds):
        found = runner.run(["logits"], some)
        for feed, (logits,) in zip(some, found, strict=True):
            np.testing.assert_allclose(logits, session.run(["logits"], feed)[0], atol=1e-5)


@pytest.fixture(autouse=True)
def four_cores(monkeypatch):
    """As many threads may run as the tests ask for, wherever they run."""
    monkeypatch.setattr(cores, "usable_cores", lambda: 4)


def test_a_second_session_is_opened_once_and_only_for_several_batches(bundle_folder, feeds, monkeypatch):
    opened = []
    inner = model_runner.open_session
    monkeypatch.setattr(model_runner, "open_session", lambda *a, **k: opened.append(k.get("threads")) or inner(*a, **k))
    runner = ModelRunner(FileContent.read(bundle_folder / "onnx" / "model.onnx"), 2)
    for feed in feeds:
        runner.run(["logits"], [feed])
    assert len(opened) == 1
    callers = [threading.Thread(target=runner.run, args=(["logits"], feeds)) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert opened == [None, 1]  # though four callers needed it at the same time


def test_an_error_reaches_the_caller(bundle_folder, feeds):
    runner = ModelRunner(FileContent.read(bundle_folder / "onnx" / "model.onnx"), 2)
    with pytest.raises(Exception, match="no such output"):
        runner.run(["no such output"], feeds)


def test_a_file_that_is_no_model_is_refused(tmp_path):
    (tmp_path / "m.onnx").write_text("no model")
    with pytest.raises(AmalgamError, match="cannot load it"):
        ModelRunner(FileContent.read(tmp_path / "m.onnx"))


@pytest.fixture
def meeting(monkeypatch):
    """Stands in for sessions: each call waits until another one runs at the same time; yields what was opened."""
    both, opened = threading.Barrier(2, timeout=30), []

    class Session:
        def get_outputs(self):
            return [SimpleNamespace(name="logits", shape=["n", 2])]

        def run(self, names, feed):
            both.wait()
            return [feed["x"]]

    monkeypatch.setattr(model_runner, "open_session", lambda *args, **options: opened.append(options) or Session())
    return opened


def test_several_batches_run_at_the_same_time_each_in_one_thread(meeting):
    feeds = [{"x": np.array([k])} for k in range(4)]
    assert ModelRunner(FileContent(Path("model.onnx"), b""), 2).run(["y"], feeds) == [[feed["x"]] for feed in feeds]
    assert meeting[1:] == [{"threads": 1}]


def test_a_single_thread_needs_no_second_session(bundle_folder, feeds, monkeypatch):
    opened = []
    inner = model_runner.open_session
    monkeypatch.setattr(model_runner, "open_session", lambda *a, **k: opened.append(a[1:]) or inner(*a, **k))
    ModelRunner(FileContent.read(bundle_folder / "onnx" / "model.onnx"), 1).run(["logits"], feeds)
    assert opened == [(1, "cpu")]


@pytest.mark.parametrize(("threads", "workers"), [(64, 4), (4, 4), (2, 2), (None, 4)])
def test_no_more_batches_run_at_a_time_than_there_are_usable_cores(meeting, threads, workers):
    runner = ModelRunner(FileContent(Path("model.onnx"), b""), threads)
    runner.run(["y"], [{"x": np.array([k])} for k in range(4)])
    _, pool = runner._parallel
    assert pool._max_workers == workers


@pytest.mark.parametrize("threads", [0, -3])
def test_no_threads_are_refused(bundle_folder, threads):
    with pytest.raises(AmalgamError, match=f"threads is a whole number from 1 on .got {threads}"):
        ModelRunner(FileContent.read(bundle_folder / "onnx" / "model.onnx"), threads)


@pytest.mark.parametrize("threads", [None, 1, 4])
def test_on_a_gpu_batches_run_one_after_another_in_one_session(monkeypatch, threads):
    opened, running = [], threading.Lock()

    class Session:
        def get_outputs(self):
            return [SimpleNamespace(name="logits", shape=["n", 2])]

        def run(self, names, feed):
            assert running.acquire(blocking=False)
            running.release()
            return [feed["x"]]

    monkeypatch.setattr(model_runner, "open_session", lambda *args, **options: opened.append(args[1:]) or Session())
    feeds = [{"x": np.array([k])} for k in range(5)]
    runner = ModelRunner(FileContent(Path("model.onnx"), b""), threads, "cuda:1")
    assert runner.run(["y"], feeds) == [[feed["x"]] for feed in feeds]
    assert opened == [(threads, "cuda:1")]
