"""Workers of a cluster, without a cluster: how they look for texts that kill the process that scores them."""

from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("ray", reason="needs amalgam-edge[distributed]")

from amalgam_edge.errors import AmalgamError
from amalgam_edge.scoring.isolation import IsolatedScores
from amalgam_edge.scoring.ray import worker
from amalgam_edge.scoring.ray.attempts import Attempts
from amalgam_edge.scoring.ray.worker import ShardWorker, WorkerTask
from amalgam_edge.scoring.scores import TeacherScores
from amalgam_edge.scoring.store import ScoreKey, ScoreStore

TEXTS = [f"text {k}" for k in range(100)]


def scores_of(texts):
    """Scores that depend on each text alone."""
    logits = np.array([[float(text.split()[1]), 1.0] for text in texts], dtype=np.float32)
    return IsolatedScores(TeacherScores.from_logits("t", logits, logits[None]))


@pytest.fixture
def processes(monkeypatch):
    """``processes(fatal)``: pretend processes, which die over these texts; the sizes of what each was given."""

    def pretend(fatal):
        calls = []

        def score_chunks(open_teachers, texts, size):
            calls.append((len(texts), size))
            chunks = [texts[first : first + size] for first in range(0, len(texts), size)]
            survived = []
            for chunk in chunks:
                if any(TEXTS.index(text) in fatal for text in chunk):
                    return survived, "killed"
                survived.append([scores_of(chunk)])
            return survived, None

        monkeypatch.setattr(worker, "_score_chunks", score_chunks)
        return calls

    return pretend


@pytest.mark.parametrize("fatal", [[], [0], [99], [31, 32], [3, 4, 50, 99], range(100)])
def test_the_fatal_texts_are_found(processes, fatal):
    processes(fatal)
    assert worker.find_fatal_texts(None, TEXTS) == dict.fromkeys(fatal, "killed")


def test_thirty_two_texts_are_scored_together_and_then_one_by_one(processes):
    calls = processes([40])
    worker.find_fatal_texts(None, TEXTS)
    # All by 32; of the second 32 each alone, twice, since the process died over the ninth; and those after the 32.
    assert sorted(calls) == sorted([(100, 32), (36, 32), (32, 1), (23, 1)])


@pytest.mark.parametrize("fatal", [[0], [7, 8, 99]])
def test_all_but_the_fatal_texts_are_scored_together(processes, fatal):
    calls = processes(fatal)
    (isolated,) = worker.score_without_fatal_texts(None, TEXTS)
    assert isolated.failures == dict.fromkeys(fatal, "killed")
    assert np.flatnonzero(~isolated.scores.scored).tolist() == fatal
    good = [row for row in range(100) if row not in fatal]
    np.testing.assert_array_equal(isolated.scores.logits[good, 0], good)
    assert calls[0] == (100, 100)
    assert calls[-1] == (len(good), len(good))


def test_where_every_text_is_fatal_none_can_be_scored(processes):
    processes(range(100))
    with pytest.raises(AmalgamError, match=r"no text of a shard can be scored \(killed\)"):
        worker.score_without_fatal_texts(None, TEXTS)


def test_a_process_that_dies_over_no_text_alone_is_told(monkeypatch):
    monkeypatch.setattr(
        worker, "_score_chunks", lambda opens, texts, size: ([], "killed") if size == 100 else ([], None)
    )
    with pytest.raises(AmalgamError, match=r"dies \(killed\), but not over any of its texts alone"):
        worker.score_without_fatal_texts(None, TEXTS)


@pytest.mark.parametrize(("failed_attempts", "apart"), [(0, False), (1, False), (2, True), (3, True)])
def test_after_two_attempts_texts_are_scored_in_processes_that_may_die(tmp_path, monkeypatch, failed_attempts, apart):
    store = ScoreStore(tmp_path / "scores", ScoreKey("t", "0" * 64, "0" * 64, 3, {"passes": 1}), shard_size=3)
    store.open()
    attempts = Attempts(tmp_path / "attempts")
    for _ in range(failed_attempts):
        attempts.begin(0)
    used = []

    def score(name):
        return lambda texts: used.append(name) or [scores_of(texts)]

    ready = SimpleNamespace(backend="fake", score=lambda texts, advance: score("here")(texts))
    monkeypatch.setattr(worker, "score_without_fatal_texts", lambda opens, texts: score("apart")(texts))
    monkeypatch.setattr(worker, "read_pending", lambda location: [(0, TEXTS[:3])])
    actor = ShardWorker(WorkerTask(lambda: ready, [store], attempts))
    assert actor({"file": np.array(["texts.parquet"])}) == {"n_texts": [3]}
    assert used == ["apart" if apart else "here"]
    assert attempts.begin(0) == 0  # none is left open
    assert store.read_shard(0).lineage["engine"] == "ray"
    assert actor({"file": np.array(["texts.parquet"])}) == {"n_texts": [3]}
    assert len(used) == 1  # a shard that exists is not scored again
