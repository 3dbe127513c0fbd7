import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from amalgam_edge.errors import AmalgamError
from amalgam_edge.scoring.inspection import QUANTILES, describe, quantiles, rate
from amalgam_edge.scoring.scores import TeacherScores
from amalgam_edge.scoring.store import ScoreKey, ScoreStore


@pytest.fixture
def store(tmp_path):
    """Three shards of four, the second of which is missing; text 9 failed; texts took 2 or 5 passes."""
    rng = np.random.default_rng(0)
    rows = np.array([0, 1, 2, 3, 8, 10, 11])
    passes = np.array([2, 5, 2, 2, 5, 2, 2])
    scores = TeacherScores.from_logits("t", rng.normal(size=(7, 3)), rng.normal(size=(5, 7, 3)), passes)
    scores = scores.scatter(12, rows)
    key = ScoreKey("t", "f" * 64, "c" * 64, 12, {"passes": "auto", "seed": 0, "teachers": ["f" * 64]})
    store = ScoreStore(tmp_path, key, shard_size=4, made_by={"engine": "local", "backend": "torch on cpu"})
    store.open()
    store.write(0, scores.take(np.arange(4)))
    failed = [{"text": 9, "error": "RuntimeError: too deep"}]
    store.for_writer(engine="ray").write(2, scores.take(np.arange(8, 12)), failed)
    return store


def column(store, name, *, scored=True):
    table = pa.concat_tables(pq.read_table(path) for path in sorted(store.folder.glob("*.parquet")))
    values = np.array(table[name].to_pylist())
    return values[np.array(table["passes"].to_pylist()) > 0] if scored else values


def test_what_is_told_is_what_pyarrow_reads(store):
    told = json.loads(json.dumps(describe(store)))
    assert (told["teacher"], told["n_texts"], told["n_scored"], told["n_failed"]) == ("t", 12, 7, 1)
    assert told["shards"] == {"there": 2, "missing": 1, "size": 4}
    assert told["failures"] == [{"text": 9, "error": "RuntimeError: too deep"}]
    assert told["passes"] == {"mean": pytest.approx(20 / 7), "texts": {"2": 5, "5": 2}}
    mean = column(store, "mean_probabilities").astype(float)
    u = -(mean * np.log(mean)).sum(axis=1) / np.log(3)
    for name, values in (("confidence", mean.max(axis=1)), ("uncertainty", u)):
        expected = np.quantile(values, [*QUANTILES.values()], method="inverted_cdf")
        np.testing.assert_allclose([*told[name].values()], expected, atol=1e-4)
    assert told["settings"]["seed"] == 0
    assert told["teacher_fingerprint"] == "f" * 64
    assert [(by["engine"], by["backend"], by["shards"]) for by in told["shards_by"]] == [
        ("local", "torch on cpu", 1),
        ("ray", "torch on cpu", 1),
    ]
    assert told["written_by"][0]["engine"] == "local"
    assert told["texts_per_second"] > 0


def test_a_store_that_was_just_begun_tells_what_there_is(tmp_path):
    store = ScoreStore(tmp_path, ScoreKey("t", "f" * 64, "c" * 64, 5, {}))
    store.open()
    told = describe(store)
    assert (told["n_scored"], told["shards"]["missing"], told["passes"]["mean"]) == (0, 1, None)
    assert (told["confidence"], told["texts_per_second"], told["shards_by"]) == (None, None, [])


def test_a_damaged_shard_is_told(store):
    (store.folder / "shard-000002.parquet").write_bytes(b"no parquet")
    with pytest.raises(AmalgamError, match="a damaged shard"):
        describe(store)


def test_quantiles_are_named_by_their_share():
    assert QUANTILES == {"min": 0, "5%": 0.05, "25%": 0.25, "50%": 0.5, "75%": 0.75, "95%": 0.95, "max": 1}


@pytest.mark.parametrize("n", [1, 2, 19, 20, 5000])
def test_quantiles_are_those_of_numpy(n):
    values = np.random.default_rng(n).beta(5, 1, size=n)
    histogram = np.histogram(values, bins=10_000, range=(0, 1))[0]
    expected = np.quantile(values, [*QUANTILES.values()], method="inverted_cdf")
    np.testing.assert_allclose([*quantiles(histogram).values()], expected, atol=1e-4)


def at(second, n=10):
    return f"2026-01-01T00:{second // 60:02d}:{second % 60:02d}+00:00", n


def test_the_rate_leaves_pauses_out():
    assert rate([at(0), at(2), at(4)]) == pytest.approx(5.0)
    assert rate([at(4, 4), at(0), at(2)]) == pytest.approx(14 / 4)  # in any order
    assert rate([at(0), at(2), at(4), at(2000), at(2002)]) == pytest.approx(5.0)
    assert rate([at(0), at(2), at(4), at(24)]) == pytest.approx(30 / 24)  # ten times the usual gap is no pause yet
    assert rate([at(0), at(2), at(4), at(25)]) == pytest.approx(5.0)
    assert rate([at(0)]) is None
    assert rate([at(0), at(0)]) is None
