"""Texts that wait for a cluster: dealt out whole, in order, to those who can read them."""

from types import SimpleNamespace

import pytest

from amalgam_edge.corpus import read_corpus
from amalgam_edge.errors import AmalgamError
from amalgam_edge.scoring.ray.pending import read_pending, write_pending
from amalgam_edge.scoring.store import ScoreKey, ScoreStore

TEXTS = [f"text {k}" for k in range(47)]


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(TEXTS), "utf-8")
    return read_corpus(str(path))


@pytest.fixture
def store(tmp_path, corpus):
    key = ScoreKey("a", "0" * 64, corpus.fingerprint, len(corpus), {"passes": 2})
    return ScoreStore(tmp_path / "scores", key, shard_size=2)


@pytest.mark.parametrize("place", ["pending", "memory://here/pending"])
def test_missing_shards_are_read_as_they_were_written(tmp_path, memory, corpus, store, place):
    shards = [0, 3, *range(7, 24)]
    folder = place if "://" in place else tmp_path / place
    written = write_pending(folder, corpus, store, shards, workers=1)
    assert len(written) == 10  # two shards a file, so that there are at least eight files
    assert [row for file in written for row in read_pending(file)] == [
        (shard, TEXTS[2 * shard : 2 * shard + 2]) for shard in shards
    ]


@pytest.mark.parametrize(
    ("n_texts", "shard_size", "workers", "n_files"),
    [
        (20_000, 4096, 1, 5),  # 5 shards: fewer than 8 files a worker would take more than the shards that there are
        (47, 2, 1, 8),  # 24 shards, 3 a file: 8 files
        (47, 1, 1, 10),  # 47 shards, 5 a file
        (47, 1, 2, 24),  # 47 shards, 2 a file
        (70_000, 1024, 1, 9),  # 69 shards, 8 a file
        (400_000, 1024, 1, 25),  # 391 shards, 16 a file: no file has more than 16,384 texts
    ],
)
def test_there_are_eight_files_a_worker_and_none_of_more_than_16384_texts(
    tmp_path, n_texts, shard_size, workers, n_files
):
    corpus = SimpleNamespace(texts=[""] * n_texts)
    store = ScoreStore(tmp_path, ScoreKey("a", "0" * 64, "0" * 64, n_texts, {"passes": 2}), shard_size=shard_size)
    written = write_pending(tmp_path / "pending", corpus, store, range(store.n_shards), workers=workers)
    assert len(written) == n_files


def test_what_an_earlier_run_left_goes(tmp_path, corpus, store):
    write_pending(tmp_path / "pending", corpus, store, range(24), workers=4)
    (written,) = write_pending(tmp_path / "pending", corpus, store, [5], workers=4)
    assert [*(tmp_path / "pending").iterdir()] == [written]


def test_a_worker_that_does_not_see_the_folder_says_so(tmp_path):
    with pytest.raises(AmalgamError, match=r"texts-000000\.parquet: a worker cannot read .* all nodes must see"):
        [*read_pending(tmp_path / "texts-000000.parquet")]
