import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from amalgam_edge.errors import AmalgamError
from amalgam_edge.scores import ARRAYS, TeacherScores
from amalgam_edge.scoring.store import ScoreKey, ScoreStore, write_by_rename

KEY = {
    "teacher": "t",
    "teacher_fingerprint": "f" * 64,
    "corpus_fingerprint": "c" * 64,
    "n_texts": 10,
    "settings": {"passes": 4, "seed": 0, "masks": "systematic", "dropout": None, "max_length": 32},
}


def key_of(**changes):
    return ScoreKey(**{**KEY, **changes})


@pytest.fixture
def scores():
    rng = np.random.default_rng(0)
    return TeacherScores.from_logits("t", rng.normal(size=(10, 3)), rng.normal(size=(4, 10, 3)))


@pytest.fixture
def store(tmp_path):
    return ScoreStore(tmp_path, key_of(), shard_size=4)


def fill(store, scores, shards):
    store.open()
    for shard in shards:
        store.write(shard, scores.take(np.array(store.rows(shard))))


def test_what_was_written_is_read_to_the_bit(store, scores):
    fill(store, scores, range(3))
    found = store.read()
    assert found.teacher == "t"
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(found, name), getattr(scores, name))
        assert getattr(found, name).dtype == getattr(scores, name).dtype


def test_shards_cover_the_texts_in_order(store):
    assert store.n_shards == 3
    assert [list(store.rows(shard)) for shard in range(3)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_missing_shards_are_named_until_written_in_any_order(store, scores):
    store.open()
    assert store.missing() == [0, 1, 2]
    fill(store, scores, [1])
    assert store.missing() == [0, 2]
    with pytest.raises(AmalgamError, match="2 of 3 shards are missing"):
        store.read()
    fill(store, scores, [2, 0])
    assert store.missing() == []
    np.testing.assert_array_equal(store.read().logits, scores.logits)


def test_a_second_store_on_the_same_folder_goes_on(store, scores, tmp_path):
    fill(store, scores, [0, 2])
    again = ScoreStore(tmp_path, key_of(), shard_size=4)
    again.open()
    assert again.missing() == [1]


@pytest.mark.parametrize(
    "changes",
    [
        {"teacher": "other"},
        {"teacher_fingerprint": "0" * 64},
        {"corpus_fingerprint": "0" * 64},
        {"n_texts": 11},
        {"settings": {**KEY["settings"], "passes": 5}},
        {"settings": {**KEY["settings"], "seed": 1}},
        {"settings": {**KEY["settings"], "masks": "independent"}},
        {"settings": {**KEY["settings"], "dropout": 0.1}},
        {"settings": {**KEY["settings"], "max_length": 31}},
    ],
)
def test_scores_of_something_else_lie_elsewhere(store, scores, tmp_path, changes):
    fill(store, scores, range(3))
    other = ScoreStore(tmp_path, key_of(**changes), shard_size=4)
    other.open()
    assert other.folder != store.folder
    assert other.missing() == list(range(other.n_shards))


def test_settings_are_compared_whatever_their_order(store, scores, tmp_path):
    fill(store, scores, range(3))
    turned = ScoreStore(tmp_path, key_of(settings=dict(reversed(KEY["settings"].items()))), shard_size=4)
    turned.open()
    assert turned.missing() == []


def test_another_shard_size_in_the_same_folder_is_refused(store, scores, tmp_path):
    fill(store, scores, range(3))
    with pytest.raises(AmalgamError, match="scores of another run"):
        ScoreStore(tmp_path, key_of(), shard_size=5).open()


def test_a_foreign_manifest_is_refused(store):
    store.open()
    manifest = store.folder / "manifest.json"
    content = json.loads(manifest.read_text())
    content["key"]["settings"]["passes"] = 99
    manifest.write_text(json.dumps(content))
    with pytest.raises(AmalgamError, match="scores of another run"):
        store.open()


def test_a_damaged_manifest_is_refused(store):
    store.open()
    (store.folder / "manifest.json").write_text("{half")
    with pytest.raises(AmalgamError, match="manifest"):
        store.open()


@pytest.mark.parametrize("damage", ["empty", "cut", "garbled", "words", "foreign"])
def test_a_damaged_shard_is_refused_by_name(store, scores, damage):
    fill(store, scores, range(3))
    shard = store.folder / "shard-000001.parquet"
    whole = shard.read_bytes()
    if damage == "foreign":
        pq.write_table(pa.table({"something": [1, 2]}), shard)
    else:
        middle = len(whole) // 4
        garbled = whole[:middle] + bytes(255 - byte for byte in whole[middle : middle + 400]) + whole[middle + 400 :]
        shard.write_bytes({"empty": b"", "cut": whole[:-50], "garbled": garbled, "words": b"no parquet"}[damage])
    with pytest.raises(AmalgamError, match=r"shard-000001\.parquet"):
        store.read()


def test_a_shard_with_rows_of_another_is_refused(store, scores):
    fill(store, scores, range(3))
    (store.folder / "shard-000001.parquet").write_bytes((store.folder / "shard-000000.parquet").read_bytes())
    with pytest.raises(AmalgamError, match=r"shard-000001\.parquet"):
        store.read()


def test_half_written_shards_do_not_count(store, scores):
    fill(store, scores, [0])
    (store.folder / "shard-000001.123.part").write_bytes(b"half")
    assert store.missing() == [1, 2]


def test_a_write_that_fails_leaves_no_shard(store, scores, monkeypatch):
    store.open()

    def fail(table, path, **options):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(pq, "write_table", fail)
    with pytest.raises(OSError, match="disk full"):
        store.write(0, scores.take(np.arange(4)))
    assert store.missing() == [0, 1, 2]


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "file.json"
    write_by_rename(path, b"first, and long")
    write_by_rename(path, b"second")
    assert path.read_bytes() == b"second"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.json"]


def test_shards_are_plain_parquet_with_the_texts_numbers(store, scores):
    fill(store, scores, range(3))
    table = pq.read_table(store.folder / "shard-000002.parquet")
    assert table["text"].to_pylist() == [8, 9]
    np.testing.assert_array_equal(table["logits"].to_pylist(), scores.logits[8:].tolist())
