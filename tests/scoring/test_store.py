import errno
import hashlib
import importlib.metadata
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from amalgam_edge.errors import AmalgamError
from amalgam_edge.scoring import shards
from amalgam_edge.scoring.scores import ARRAYS, TeacherScores
from amalgam_edge.scoring.store import ScoreKey, ScoreStore
from amalgam_edge.storage.owned_names import new_name
from amalgam_edge.storage.staging import write_atomically

SETTINGS = {
    "passes": 4,
    "seed": 0,
    "masks": "systematic",
    "dropout": None,
    "precision": "fp32",
    "max_length": 32,
}
KEY = {
    "teacher": "t",
    "teacher_fingerprint": "f" * 64,
    "corpus_fingerprint": "c" * 64,
    "n_texts": 10,
    "settings": SETTINGS,
}


def key_of(**changes):
    """The key with some of its entries, or of its settings, changed."""
    settings = {name: value for name, value in changes.items() if name not in KEY}
    return ScoreKey(**{**KEY, "settings": SETTINGS | settings, **{n: v for n, v in changes.items() if n in KEY}})


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


def state(folder):
    """Everything below a folder, to the byte, with the times at which it was written."""
    return {
        path.relative_to(folder).as_posix(): (path.read_bytes() if path.is_file() else None, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
    }


def refusal(call, *arguments):
    with pytest.raises(AmalgamError) as refused:
        call(*arguments)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def refusal_that_touches_nothing(store, call):
    before = state(store.folder)
    message = refusal(call)
    assert state(store.folder) == before
    return message


def assert_same(found, expected):
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)
        assert getattr(found, name).dtype == getattr(expected, name).dtype


def test_what_was_written_is_read_to_the_bit(store, scores):
    fill(store, scores, range(3))
    assert store.read().teacher == "t"
    assert_same(store.read(), scores)


def test_shards_are_read_one_by_one(store, scores):
    fill(store, scores, range(3))
    assert [len(shard) for shard in store.shards()] == [4, 4, 2]
    assert_same(TeacherScores.concatenate(list(store.shards())), scores)


def test_shards_cover_the_texts_in_order(store):
    assert store.n_shards == 3
    assert [list(store.rows(shard)) for shard in range(3)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_missing_shards_are_named_until_written_in_any_order(store, scores):
    store.open()
    assert store.missing() == [0, 1, 2]
    fill(store, scores, [1])
    assert store.missing() == [0, 2]
    for read in (store.read, store.shards):
        assert "2 of 3 shards are missing" in refusal(read)
    fill(store, scores, [2, 0])
    assert store.missing() == []
    np.testing.assert_array_equal(store.read().logits, scores.logits)


def test_a_store_is_begun_once_it_was_opened(store):
    assert not store.begun
    store.open()
    assert store.begun


def test_a_second_store_on_the_same_folder_goes_on(store, scores, tmp_path):
    fill(store, scores, [0, 2])
    again = ScoreStore(tmp_path, key_of(), shard_size=4)
    again.open()
    assert again.missing() == [1]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"teacher": "other"}, "teacher t there, other here"),
        ({"teacher_fingerprint": "0" * 64}, "another teacher fingerprint"),
        ({"corpus_fingerprint": "0" * 64}, "another corpus fingerprint"),
        ({"n_texts": 11}, "n texts 10 there, 11 here"),
        ({"passes": 5}, "passes 4 there, 5 here"),
        ({"passes": "auto"}, "passes 4 there, auto here"),
        ({"seed": 1}, "seed 0 there, 1 here"),
        ({"masks": "independent"}, "masks systematic there, independent here"),
        ({"dropout": 0.1}, "dropout None there, 0.1 here"),
        ({"precision": "fp16"}, "precision fp32 there, fp16 here"),
        ({"max_length": 31}, "max length 32 there, 31 here"),
        ({"teacher": "a name that is rather long"}, "another teacher"),
        ({"teacher": "x" * 20}, f"teacher t there, {'x' * 20} here"),
        ({"teacher": "x" * 21}, "another teacher"),
    ],
)
def test_scores_of_something_else_are_refused_by_what_differs(store, scores, tmp_path, changes, named):
    fill(store, scores, range(3))
    other = ScoreStore(tmp_path, key_of(**changes), shard_size=4)
    message = refusal_that_touches_nothing(store, other.open)
    assert message.startswith(f"{tmp_path}: holds scores of another run ({named});")
    assert "name another folder, or delete this one" in message


def test_other_companions_are_named_in_the_plural(tmp_path):
    ScoreStore(tmp_path, key_of(teachers=["a" * 64, "b" * 64])).open()
    assert "(other teachers)" in refusal(ScoreStore(tmp_path, key_of(teachers=["a" * 64, "c" * 64])).open)


def test_what_a_killed_run_was_writing_is_swept_away(store, scores, tmp_path):
    fill(store, scores, [0])
    part, mine = new_name(tmp_path / "shard-000001.parquet"), tmp_path / "notes.part"
    for path in (part, mine):
        path.write_bytes(b"half a sha")
        os.utime(path, (time.time() - 3700,) * 2)
    store.open()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["manifest.json", "notes.part", "shard-000000.parquet"]


def test_what_another_process_may_still_be_writing_is_left_alone(store, scores, tmp_path):
    fill(store, scores, [0])
    part = new_name(tmp_path / "shard-000001.parquet")
    part.write_bytes(b"half a sha")
    os.utime(part, (time.time() - 3500,) * 2)
    store.open()
    assert part.read_bytes() == b"half a sha"
    assert store.missing() == [1, 2]


def test_several_differences_are_all_named(store, scores, tmp_path):
    fill(store, scores, range(3))
    message = refusal(ScoreStore(tmp_path, key_of(passes=5, seed=2, corpus_fingerprint="0" * 64), shard_size=4).open)
    for named in ("another corpus fingerprint", "passes 4 there, 5 here", "seed 0 there, 2 here"):
        assert named in message


def test_settings_are_compared_whatever_their_order(store, scores, tmp_path):
    fill(store, scores, range(3))
    turned = ScoreStore(tmp_path, ScoreKey(**{**KEY, "settings": dict(reversed(SETTINGS.items()))}), shard_size=4)
    turned.open()
    assert turned.missing() == []
    assert turned.key.fingerprint == store.key.fingerprint


@pytest.mark.parametrize(
    ("n_texts", "shard_size", "n_shards"),
    [(0, 1024, 0), (1025, 1024, 2), (2**26, 1024, 65_536), (2**26 + 1, 2048, 32_769), (10**9, 16_384, 61_036)],
)
def test_shards_grow_with_the_corpus_so_that_no_folder_holds_a_million_files(tmp_path, n_texts, shard_size, n_shards):
    large = ScoreStore(tmp_path, key_of(n_texts=n_texts))
    assert (large.shard_size, large.n_shards) == (shard_size, n_shards)


def test_another_shard_size_in_the_same_folder_is_refused(store, scores, tmp_path):
    fill(store, scores, range(3))
    other = ScoreStore(tmp_path, key_of(), shard_size=5)
    assert "shard size 4 there, 5 here" in refusal_that_touches_nothing(store, other.open)


def changed(manifest, **values):
    content = json.loads(manifest)
    content["key"]["settings"] |= values
    return json.dumps(content)


def without(manifest, *path):
    content = inner = json.loads(manifest)
    for name in path[:-1]:
        inner = inner[name]
    del inner[path[-1]]
    return json.dumps(content)


MANIFESTS = {
    "value changed": (lambda whole: changed(whole, passes=99), "passes 99 there, 4 here"),
    "value of another type": (lambda whole: changed(whole, passes={"a": 1}), "passes None there, 4 here"),
    "value added": (lambda whole: changed(whole, colour="red"), "colour red there, None here"),
    "setting removed": (lambda whole: without(whole, "key", "settings", "seed"), "seed None there, 0 here"),
    "settings removed": (lambda whole: without(whole, "key", "settings"), "damaged, key.settings: is lacking"),
    "entry removed": (lambda whole: without(whole, "key", "n_texts"), "damaged, key.n_texts: is lacking"),
    "shard size removed": (lambda whole: without(whole, "shard_size"), "damaged, shard_size: is lacking"),
    "key removed": (lambda whole: without(whole, "key"), "manifest.json: damaged, key: is lacking; restore it"),
    "not JSON": (lambda whole: "{half", "manifest.json: damaged"),
    "cut off": (lambda whole: whole[: len(whole) // 2], "manifest.json: damaged"),
    "empty": (lambda whole: "", "manifest.json: damaged"),
    "a list": (lambda whole: "[1, 2]", "manifest.json: damaged"),
    "a word": (lambda whole: '"passes"', "manifest.json: damaged"),
    "null": (lambda whole: "null", "manifest.json: damaged"),
    "a list for a key": (lambda whole: '{"key": [1]}', "manifest.json: damaged, key: an object is expected"),
    "an empty key": (lambda whole: '{"key": {}}', "manifest.json: damaged, key.teacher: is lacking"),
    "not UTF-8": (lambda whole: b"\xff\xfe{}", "manifest.json: damaged"),
}


@pytest.mark.parametrize("case", MANIFESTS)
def test_a_manifest_edited_by_hand_is_refused_when_the_store_is_opened(store, scores, case):
    fill(store, scores, [0, 2])
    edit, named = MANIFESTS[case]
    manifest = store.folder / "manifest.json"
    content = edit(manifest.read_text("utf-8"))
    manifest.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert named in refusal_that_touches_nothing(store, store.open)


def shorter(shard):
    pq.write_table(pq.read_table(shard).slice(0, 3), shard)


def foreign(shard):
    pq.write_table(pa.table({"something": [1, 2]}), shard)


def swallow(shard):
    shard.write_bytes(b"")


def truncate(shard):
    shard.write_bytes(shard.read_bytes()[:-50])


def halve(shard):
    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 2])


def overwrite_with_garbage(shard):
    shard.write_bytes(np.random.default_rng(0).bytes(len(shard.read_bytes())))


def overwrite_with_words(shard):
    shard.write_bytes(b"no parquet")


def garble(shard):
    whole = shard.read_bytes()
    middle = len(whole) // 4
    flipped = bytes(255 - byte for byte in whole[middle : middle + 400])
    shard.write_bytes(whole[:middle] + flipped + whole[middle + 400 :])


def rename_a_column(shard):
    table = pq.read_table(shard)
    pq.write_table(table.rename_columns([*table.column_names[:-1], "other"]), shard)


def put_rows_of_another(shard):
    shard.write_bytes(shard.with_name("shard-000000.parquet").read_bytes())


@pytest.mark.parametrize(
    "damage", [shorter, foreign, swallow, truncate, halve, overwrite_with_garbage, overwrite_with_words]
)
def test_a_damaged_shard_is_refused_by_name_when_the_store_is_opened(store, scores, damage):
    fill(store, scores, range(3))
    damage(store.folder / "shard-000001.parquet")
    for call in (store.open, store.read):
        assert "shard-000001.parquet: a damaged shard; delete it" in refusal_that_touches_nothing(store, call)


@pytest.mark.parametrize("damage", [garble, rename_a_column, put_rows_of_another])
def test_a_shard_that_holds_something_else_is_refused_by_name_when_it_is_read(store, scores, damage):
    fill(store, scores, range(3))
    damage(store.folder / "shard-000001.parquet")
    assert "shard-000001.parquet: a damaged shard; delete it" in refusal_that_touches_nothing(store, store.read)


def test_a_flipped_bit_is_never_read_as_another_number(store, scores):
    fill(store, scores, range(3))
    shard = store.folder / "shard-000001.parquet"
    whole = shard.read_bytes()
    n_refused = 0
    for bit in np.random.default_rng(0).choice(8 * len(whole), 500, replace=False):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        shard.write_bytes(flipped)
        try:
            found = store.read()
        except AmalgamError as error:
            assert "a damaged shard" in str(error)
            n_refused += 1
            continue
        assert_same(found, scores)
    assert n_refused > 100  # most flips are found; the others change nothing that is read


def test_shards_without_a_manifest_are_not_taken_for_ones_own(store, scores, tmp_path):
    fill(store, scores, range(3))
    (tmp_path / "manifest.json").unlink()
    refusal_that_touches_nothing(store, ScoreStore(tmp_path, key_of(seed=1), shard_size=4).open)


def test_a_damaged_shard_that_is_deleted_can_be_written_again(store, scores):
    fill(store, scores, range(3))
    (store.folder / "shard-000001.parquet").write_bytes(b"no parquet")
    refusal(store.open)
    (store.folder / "shard-000001.parquet").unlink()
    fill(store, scores, [1])
    assert_same(store.read(), scores)


def test_half_written_shards_do_not_count(store, scores):
    fill(store, scores, [0])
    (store.folder / "shard-000001.parquet.123.part").write_bytes(b"half")
    assert store.missing() == [1, 2]
    store.open()


@pytest.fixture
def full_disk(monkeypatch):
    """``full_disk(named)``: files with that in their name take half of what is written, and no more."""

    def fill_up(named):
        original = Path.write_bytes

        def write(path, content):
            if named in path.name:
                original(path, bytes(content)[: len(content) // 2])
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            return original(path, content)

        monkeypatch.setattr(Path, "write_bytes", write)

    return fill_up


def test_a_full_disk_leaves_what_was_there_and_no_half_shard(store, scores, full_disk, monkeypatch):
    fill(store, scores, [0])
    before = state(store.folder)
    full_disk("shard-000001")
    message = refusal(store.write, 1, scores.take(np.arange(4, 8)))
    assert message.startswith(f"{store.folder}: cannot be written to (No space left on device);")
    after = state(store.folder)
    assert {name: content for name, (content, _) in after.items()} == {
        name: content for name, (content, _) in before.items()
    }
    monkeypatch.undo()
    fill(store, scores, [1, 2])
    assert_same(store.read(), scores)


def test_a_disk_that_is_full_from_the_start_leaves_no_manifest(store, full_disk):
    full_disk("manifest.json")
    assert "No space left on device" in refusal(store.open)
    assert not store.begun
    assert list(store.folder.iterdir()) == []


def test_a_rename_that_fails_leaves_no_shard(store, scores, monkeypatch):
    store.open()

    def fail(source, target):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "replace", fail)
    assert "cannot be written to (Permission denied)" in refusal(store.write, 0, scores.take(np.arange(4)))
    assert [path.name for path in store.folder.iterdir()] == ["manifest.json"]


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path / "file", tmp_path / "file" / "scores"):
        store = ScoreStore(folder, key_of())
        assert refusal(store.open).startswith(f"{folder}: cannot be written to (")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_the_right_to_write_is_refused(tmp_path, scores):
    store = ScoreStore(tmp_path / "scores", key_of(), shard_size=4)
    fill(store, scores, [0])
    store.folder.chmod(0o500)
    try:
        assert "cannot be written to (Permission denied)" in refusal(store.write, 1, scores.take(np.arange(4, 8)))
    finally:
        store.folder.chmod(0o700)


KILLED_WHILE_WRITING = """
import os, signal, sys
from pathlib import Path
from amalgam_edge.storage.owned_names import new_name
from amalgam_edge.storage.staging import write_atomically

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

original = Path.write_bytes
def write_half_and_die(path, content):
    original(path, content[: len(content) // 2])
    die()

if sys.argv[2] == "in the middle":
    Path.write_bytes = write_half_and_die
else:
    os.replace = die
write_atomically(Path(sys.argv[1]), b"second" * 1000)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL")
@pytest.mark.parametrize("moment", ["in the middle", "before the rename"])
def test_kill_9_while_a_file_is_written_leaves_the_old_one(store, moment):
    store.open()
    before = (store.folder / "manifest.json").read_bytes()
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_WHILE_WRITING, store.folder / "manifest.json", moment], check=False
    )
    assert killed.returncode == -signal.SIGKILL
    assert len(list(store.folder.glob("*.part"))) == 1
    assert (store.folder / "manifest.json").read_bytes() == before
    store.open()
    assert store.missing() == [0, 1, 2]


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "file.json"
    write_atomically(path, b"first, and long")
    write_atomically(path, b"second")
    assert path.read_bytes() == b"second"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.json"]


def test_shards_are_plain_parquet_with_the_texts_numbers(store, scores):
    fill(store, scores, range(3))
    table = pq.read_table(store.folder / "shard-000002.parquet")
    assert table["text"].to_pylist() == [8, 9]
    np.testing.assert_array_equal(table["logits"].to_pylist(), scores.logits[8:].tolist())


def test_the_manifest_says_what_scores_depend_on(store):
    store.open()
    manifest = json.loads((store.folder / "manifest.json").read_text("utf-8"))
    assert manifest.pop("written_by")
    assert manifest == {"key": KEY, "shard_size": 4}


@pytest.fixture(params=["memory", "bucket"])
def elsewhere(request):
    """A store that is not on the local disk, in a folder that no other test uses: the bucket is shared."""
    return ScoreStore(f"{request.getfixturevalue(request.param)}/store-tests/t", key_of(), shard_size=4)


def test_a_store_elsewhere_goes_on_where_it_stopped(elsewhere, scores):
    assert not elsewhere.begun
    fill(elsewhere, scores, [0, 2])
    ours, theirs = multiprocessing.Pipe()
    ours.send(elsewhere)  # as it is sent to another process
    again = theirs.recv()
    assert again.begun
    again.open()
    assert again.missing() == [1]
    fill(again, scores, [1])
    assert_same(elsewhere.read(), scores)
    filesystem, path = fsspec.core.url_to_fs(f"{elsewhere.folder}/shard-000002.parquet")
    with filesystem.open(path) as file:
        assert pq.read_table(file)["text"].to_pylist() == [8, 9]
    assert "passes 4 there, 5 here" in refusal(ScoreStore(elsewhere.folder, key_of(passes=5), shard_size=4).open)


def test_a_store_elsewhere_that_is_damaged_is_refused_when_it_is_read(memory, scores):
    store = ScoreStore(f"{memory}/t", key_of(), shard_size=4)
    fill(store, scores, range(3))
    fsspec.filesystem("memory").pipe_file("/here/t/shard-000001.parquet", b"no parquet")
    assert "memory://here/t/shard-000001.parquet: a damaged shard; delete it" in refusal(store.read)


def test_a_store_may_be_named_by_a_file_url(tmp_path, scores):
    fill(ScoreStore(f"file://{tmp_path}/t", key_of(), shard_size=4), scores, range(3))
    assert_same(ScoreStore(tmp_path / "t", key_of(), shard_size=4).read(), scores)


def test_a_write_that_fails_twice_is_no_failure(flaky, scores):
    store = ScoreStore("flaky://there/t", key_of(), shard_size=4)
    store.open()
    for shard in range(3):
        flaky.failures = 2
        store.write(shard, scores.take(np.array(store.rows(shard))))
    assert_same(store.read(), scores)
    assert flaky.waits == [0.5, 2.0] * 3


def test_a_write_that_always_fails_says_what_to_do(flaky, scores):
    store = ScoreStore("flaky://there/t", key_of(), shard_size=4)
    fill(store, scores, [0])
    flaky.failures = 99
    assert refusal(store.write, 1, scores.take(np.arange(4, 8))) == (
        "flaky://there/t: cannot be written to (the connection was reset; tried 4 times); "
        "what was scored is kept, and the next run goes on from there"
    )
    flaky.failures = 0
    assert store.missing() == [1, 2]


FAILED = [{"text": 5, "error": "RuntimeError: too deep"}, {"text": 6, "error": "killed its process"}]


def with_failures(scores):
    rows = np.array([4, 7])
    return scores.take(rows).scatter(4, rows - 4)


def test_texts_that_could_not_be_scored_are_blank_and_told_of(store, scores):
    fill(store, scores, [0, 2])
    store.write(1, with_failures(scores), FAILED[::-1])
    assert json.loads((store.folder / "failures" / "shard-000001.json").read_text("utf-8")) == FAILED
    assert store.failures() == FAILED
    tables = [pq.read_table(store.folder / f"shard-00000{shard}.parquet") for shard in range(3)]
    assert tables[1].schema.equals(tables[0].schema)
    assert tables[1]["passes"].to_pylist() == [4, 0, 0, 4]
    for name in set(tables[1].column_names) - {"text", "passes"}:
        values = np.array(tables[1][name].to_pylist())
        assert np.isnan(values[[1, 2]]).all()
        np.testing.assert_array_equal(values[[0, 3]], getattr(scores, name)[[4, 7]])
    assert np.flatnonzero(~store.read().scored).tolist() == [5, 6]


def test_a_shard_that_is_written_again_without_failures_tells_of_none(store, scores):
    fill(store, scores, [0])
    store.write(1, with_failures(scores), FAILED)
    (store.folder / "shard-000001.parquet").unlink()
    assert store.failures() == []  # a killed run tells of failures before it writes the shard
    fill(store, scores, [1])
    assert store.failures() == []
    assert list((store.folder / "failures").iterdir()) == []


@pytest.mark.parametrize("failures", [[], FAILED[:1], [*FAILED, {"text": 7, "error": "not blank"}]])
def test_failures_that_are_not_the_blank_rows_are_a_bug(store, scores, failures):
    store.open()
    with pytest.raises(ValueError, match="do not fit"):
        store.write(1, with_failures(scores), failures)
    assert store.missing() == [0, 1, 2]


@pytest.mark.parametrize("content", ["{half", "[1]", '[{"text": 5}]', "7"])
def test_a_damaged_account_of_failures_is_refused(store, scores, content):
    fill(store, scores, [0])
    store.write(1, with_failures(scores), FAILED)
    (store.folder / "failures" / "shard-000001.json").write_text(content)
    assert "shard-000001.parquet: a damaged shard" in refusal(store.failures)


def test_every_shard_says_who_wrote_it(store, scores):
    before = datetime.now(UTC)
    fill(store.for_writer(engine="local", backend="torch on cpu"), scores, [1])
    said = json.loads(pq.read_metadata(store.folder / "shard-000001.parquet").metadata[b"amalgam-edge"])
    assert before <= datetime.fromisoformat(said.pop("written")) <= datetime.now(UTC)
    assert len(said.pop("digest")) == 64
    assert said == {
        "version": importlib.metadata.version("amalgam-edge"),
        "key": KEY,
        "key_fingerprint": hashlib.sha256(json.dumps(KEY, sort_keys=True).encode()).hexdigest(),
        "engine": "local",
        "backend": "torch on cpu",
    }


def test_another_version_goes_on_and_signs_too(store, scores, monkeypatch):
    fill(store.for_writer(engine="local"), scores, [0])
    fill(store.for_writer(engine="local"), scores, [1])
    assert [writer.engine for writer in store.written_by()] == ["local"]
    versions = store.written_by()[0].versions
    assert versions["amalgam-edge"] == importlib.metadata.version("amalgam-edge")
    monkeypatch.setattr(shards, "installed_versions", lambda: versions | {"amalgam-edge": "99"})
    fill(store.for_writer(engine="ray"), scores, [2])
    before = state(store.folder)
    store.for_writer(engine="another, with nothing left to write").open()
    assert state(store.folder) == before
    assert [(w.versions["amalgam-edge"], w.engine) for w in store.written_by()] == [
        (versions["amalgam-edge"], "local"),
        ("99", "ray"),
    ]
    assert_same(store.read(), scores)


def test_scores_that_an_older_version_wrote_are_gone_on_with(store, scores):
    fill(store, scores, [0, 1])
    manifest = store.folder / "manifest.json"
    manifest.write_text(without(manifest.read_text("utf-8"), "written_by"))
    shard = store.folder / "shard-000001.parquet"
    pq.write_table(pq.read_table(shard).replace_schema_metadata(None), shard)
    fill(store, scores, [2])
    assert_same(store.read(), scores)
    assert store.written_by()


def test_a_shard_of_another_key_is_not_read_as_ones_own(store, scores, tmp_path):
    other = ScoreStore(tmp_path / "other", key_of(seed=1), shard_size=4)
    fill(other, scores, [1])
    fill(store, scores, [0, 2])
    shutil.copy(other.folder / "shard-000001.parquet", store.folder)
    assert "shard-000001.parquet: a damaged shard" in refusal(store.read)


def test_a_number_that_was_changed_afterwards_is_noticed(store, scores):
    fill(store, scores, range(3))
    shard = store.folder / "shard-000001.parquet"
    table = pq.read_table(shard)
    energy = table["energy"].to_numpy().copy()
    energy[2] += 1e-3
    column = table.column_names.index("energy")
    pq.write_table(table.set_column(column, "energy", pa.array(energy)), shard, write_page_checksum=True)
    assert "shard-000001.parquet: a damaged shard" in refusal(store.read)


def list_bomb(store, width, n_rows):
    """A shard of few bytes whose lists are equal and long."""
    columns = {"text": pa.array(range(n_rows), pa.int64())}
    zeros = pa.array(np.zeros(n_rows * width, dtype=np.float32))
    columns["logits"] = pa.FixedSizeListArray.from_arrays(zeros, width)
    pq.write_table(pa.table(columns), store.path(0), compression="zstd")


@pytest.mark.parametrize("n_rows", [1, 3, 5, 100_000])
def test_a_shard_of_another_number_of_rows_is_refused_unread(store, scores, monkeypatch, n_rows):
    fill(store, scores, range(3))
    list_bomb(store, 2, n_rows)
    monkeypatch.setattr(pq.ParquetFile, "read", lambda *a, **k: pytest.fail("it was read"))
    assert "a damaged shard" in refusal(store.read_shard, 0)


def test_a_shard_of_few_bytes_and_very_many_values_is_refused_unread(store, scores, monkeypatch):
    fill(store, scores, range(3))
    monkeypatch.setattr("amalgam_edge.scoring.store._MOST_SHARD_VALUES", 10**6)
    list_bomb(store, 10**6, 4)
    assert store.path(0).stat().st_size < 200_000
    monkeypatch.setattr(pq.ParquetFile, "read", lambda *a, **k: pytest.fail("it was read"))
    assert "a damaged shard" in refusal(store.read_shard, 0)


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 10**6,
        b'[{"text": 0, "error": "' + b"x" * 10**6 + b'"}]',
        b'[{"text": 0}]',
        b'[{"text": 4, "error": "of another shard"}]',
        b'[{"text": true, "error": ""}]',
        b'[{"text": 0, "error": null}]',
        b'[{"text": [], "error": ""}]',
        b'{"text": 0}',
        b"[[]]",
        b"null",
        b'[{"text": 1e999, "error": ""}]',
        b'[{"text": NaN, "error": ""}]',
        b"\xff",
    ],
)
def test_a_hostile_record_of_failures_is_refused_in_one_line(store, scores, content):
    fill(store, scores, range(3))
    path = store.failures_path(0)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    assert "a damaged shard" in refusal(store.failures_of, 0)


@pytest.mark.parametrize("lineage", [b"[" * 10**6, b"3", b"[]", b'"x"', b"\xff", b'{"digest": 3}', b'{"a": 1, "a": 2}'])
def test_a_hostile_lineage_is_refused_in_one_line(store, scores, lineage):
    fill(store, scores, range(3))
    table = pq.read_table(store.path(0))
    pq.write_table(table.replace_schema_metadata({b"amalgam-edge": lineage}), store.path(0))
    assert "a damaged shard" in refusal(store.read_shard, 0)
