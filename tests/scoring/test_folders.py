import dataclasses
import errno
import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from amalgam_edge.errors import AmalgamError
from amalgam_edge.scoring.folders import find_stores, holds_scores, merge, verify
from amalgam_edge.scoring.scores import ARRAYS, TeacherScores
from amalgam_edge.scoring.store import ScoreKey, ScoreStore
from amalgam_edge.storage.output_lock import locked
from tests.support.faults import fail_at

FAILED = {4: "RuntimeError: too deep"}


def key_of(teacher, **changes):
    return ScoreKey(**{
        "teacher": teacher, "teacher_fingerprint": teacher[0] * 64, "corpus_fingerprint": "c" * 64, "n_texts": 10,
        "settings": {"passes": 4, "seed": 0}, **changes,
    })  # fmt: skip


def scores_of(teacher):
    rng = np.random.default_rng(len(teacher))
    rows = np.setdiff1d(np.arange(10), [*FAILED])
    scores = TeacherScores.from_logits(teacher, rng.normal(size=(10, 3)), rng.normal(size=(4, 10, 3)))
    return scores.take(rows).scatter(10, rows)


def put(folder, teacher, shards, **changes):
    """A teacher's store with some of its three shards, in a folder of scores."""
    store = ScoreStore(f"{folder}/{teacher}", key_of(teacher, **changes), shard_size=4, made_by={"engine": str(folder)})
    store.open()
    for shard in shards:
        rows = store.rows(shard)
        failures = [{"text": row, "error": why} for row, why in FAILED.items() if row in rows]
        store.write(shard, scores_of(teacher).take(np.array(rows)), failures)
    return store


@pytest.fixture
def scores(tmp_path):
    """Two teachers, whole."""
    for teacher in ("a", "bb"):
        put(tmp_path / "scores", teacher, range(3))
    return tmp_path / "scores"


def assert_same(found, expected):
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)


def test_stores_are_found_in_their_folder_and_by_themselves(scores):
    (scores / "notes.txt").write_text("mine")
    assert [(store.key, store.shard_size) for store in find_stores(scores)] == [(key_of("a"), 4), (key_of("bb"), 4)]
    assert [store.key.teacher for store in find_stores(str(scores / "bb"))] == ["bb"]


@pytest.mark.parametrize("name", ["", "gone"])
def test_a_folder_without_scores_is_refused(tmp_path, name):
    for call in (find_stores, verify):
        with pytest.raises(AmalgamError, match="no scores in it; name a folder that amalgam-edge score wrote"):
            call(tmp_path / name)


def test_whole_scores_are_verified(scores):
    assert verify(scores) == []


def rewrite(change):
    """A damage that changes a shard's table and leaves what it says of itself."""

    def damage(scores):
        shard = scores / "bb" / "shard-000002.parquet"
        table = pq.read_table(shard)
        pq.write_table(change(table), shard, write_page_checksum=True)

    return damage


def turn_round(table):
    return table.take([1, 0])


def without_lineage(table):
    return table.replace_schema_metadata(None)


def swap_unnoticed(scores):
    other = put(scores.parent / "more classes", "bb", [])
    wide = np.zeros((2, 5), dtype=np.float32)
    other.write(2, TeacherScores.from_logits("bb", wide, wide[None]))
    shutil.copy(other.folder / "shard-000002.parquet", scores / "bb")


def half_blank(scores):
    store = find_stores(scores / "bb")[0]
    rows = scores_of("bb").take(np.array(store.rows(2)))
    rows.energy[0] = np.nan
    store.write(2, rows)


DAMAGES = {
    "missing": (lambda s: (s / "bb" / "shard-000001.parquet").unlink(), "bb: 1 of 3 shards are missing"),
    "cut off": (lambda s: (s / "bb" / "shard-000002.parquet").write_bytes(b"PAR1"), "000002.parquet: a damaged shard"),
    "rows turned round": (rewrite(turn_round), "shard-000002.parquet: a damaged shard"),
    "rows turned round, unsigned": (
        rewrite(lambda table: turn_round(without_lineage(table))),
        "shard-000002.parquet: a damaged shard",
    ),
    "other classes": (swap_unnoticed, "shard-000002.parquet: 5 classes, other shards have 3; delete it"),
    "half blank": (half_blank, "shard-000002.parquet: rows that are neither scored nor blank"),
    "too many": (
        lambda s: shutil.copy(s / "bb" / "shard-000002.parquet", s / "bb" / "shard-000007.parquet"),
        "bb: shards beyond the corpus' 3: [7]; delete them",
    ),
    "failures lost": (
        lambda s: (s / "bb" / "failures" / "shard-000001.json").unlink(),
        "shard-000001.parquet: its blank rows are not those that",
    ),
    "manifest damaged": (lambda s: (s / "bb" / "manifest.json").write_text("{"), "bb/manifest.json: damaged"),
    "other texts": (
        lambda s: put(s, "d", range(3), corpus_fingerprint="e" * 64),
        "d: over other texts than",
    ),
    "other key": (
        lambda s: (s / "bb" / "manifest.json").write_text(
            (s / "bb" / "manifest.json").read_text().replace('"seed": 0', '"seed": 1')
        ),
        "shard-000000.parquet: a damaged shard",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGES)
def test_what_is_wrong_is_told_by_name(scores, case):
    damage, named = DAMAGES[case]
    damage(scores)
    problems = verify(scores)
    assert any(named in problem for problem in problems), problems
    assert len(problems) == (3 if case == "other key" else 1)
    assert all("\n" not in problem for problem in problems)


@pytest.fixture
def parts(tmp_path):
    """A run whose shards were made on two machines, one of them by both; another teacher on the second alone."""
    put(tmp_path / "one", "a", [0, 1])
    put(tmp_path / "two", "a", [1, 2])
    put(tmp_path / "two", "bb", range(3))
    return [tmp_path / "one", tmp_path / "two"]


def test_parts_are_joined_to_what_one_run_would_have_made(parts, scores, tmp_path):
    stores = merge(parts, tmp_path / "joined")
    assert [store.folder for store in stores] == [tmp_path / "joined" / "a", tmp_path / "joined" / "bb"]
    for store in stores:
        assert_same(store.read(), scores_of(store.key.teacher))
        assert store.failures() == [{"text": 4, "error": FAILED[4]}]
    assert verify(tmp_path / "joined") == []
    assert [writer.engine for writer in stores[0].written_by()] == [str(part) for part in parts]
    original, copy = (folder / "a" / "shard-000002.parquet" for folder in (parts[1], tmp_path / "joined"))
    assert copy.read_bytes() == original.read_bytes()
    ScoreStore(tmp_path / "joined" / "a", key_of("a"), shard_size=4).open()  # a run would go on with them


def test_parts_are_joined_on_any_file_system(memory, tmp_path):
    put(f"{memory}/one", "a", [0])
    put(tmp_path / "two", "a", [1])
    (store,) = merge([f"{memory}/one", tmp_path / "two"], f"{memory}/joined")
    assert store.folder == f"{memory}/joined/a"
    assert store.missing() == [2]
    assert_same(store.read_shard(1).scores, scores_of("a").take(np.arange(4, 8)))
    assert store.failures() == [{"text": 4, "error": FAILED[4]}]


def refusal(folders, output):
    with pytest.raises(AmalgamError) as refused:
        merge(folders, output)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"settings": {"passes": 4, "seed": 1}}, "seed 0 there, 1 here"),
        ({"teacher_fingerprint": "f" * 64}, "another teacher fingerprint"),
    ],
)
def test_parts_of_other_runs_are_refused(parts, tmp_path, changes, named):
    put(tmp_path / "other", "a", [2], **changes)
    message = refusal([*parts, tmp_path / "other"], tmp_path / "joined")
    assert message.startswith(f"{tmp_path / 'other' / 'a'}: scores of another run than {parts[0] / 'a'} (")
    assert named in message
    assert not (tmp_path / "joined").exists()


def test_teachers_over_other_texts_are_refused(parts, tmp_path):
    put(tmp_path / "other", "d", range(3), corpus_fingerprint="e" * 64)
    assert "over other texts than" in refusal([*parts, tmp_path / "other"], tmp_path / "joined")
    assert not (tmp_path / "joined").exists()


def test_shards_of_another_size_are_refused(parts, tmp_path):
    ScoreStore(tmp_path / "other" / "a", key_of("a"), shard_size=5).open()
    assert "shard size 4 there, 5 here" in refusal([*parts, tmp_path / "other"], tmp_path / "joined")


def test_a_shard_that_is_there_twice_with_other_rows_is_refused(parts, tmp_path):
    store = find_stores(parts[1])[0]
    rows = scores_of("a").take(np.array(store.rows(1)))
    store.write(1, dataclasses.replace(rows, energy=rows.energy + 1e-6), [{"text": 4, "error": "too deep"}])
    message = refusal(parts, tmp_path / "joined")
    assert message == (
        f"{store.path(1)}: other rows than {parts[0] / 'a' / 'shard-000001.parquet'}; "
        "delete the one that you trust less"
    )
    assert not (tmp_path / "joined").exists()


def test_a_damaged_part_is_refused(parts, tmp_path):
    (parts[1] / "bb" / "shard-000000.parquet").write_bytes(b"no parquet")
    assert "shard-000000.parquet: a damaged shard" in refusal(parts, tmp_path / "joined")
    assert not (tmp_path / "joined").exists()


def test_scores_are_not_joined_into_others(parts, scores):
    before = json.loads((scores / "a" / "manifest.json").read_text())
    assert refusal(parts, scores).startswith(f"{scores}: holds scores already")
    assert json.loads((scores / "a" / "manifest.json").read_text()) == before


def assert_joined(stores, output):
    for store in stores:
        assert_same(store.read(), scores_of(store.key.teacher))
    assert verify(output) == []
    assert [store.key.teacher for store in find_stores(output)] == ["a", "bb"]


def test_a_merge_that_was_cut_off_counts_as_nothing_and_can_be_called_again(parts, tmp_path):
    """Each call to the system fails in turn."""
    n_cut_off = 0
    for n in range(0, 400, 3):
        output = tmp_path / "joined" / str(n)
        with fail_at(n, errno.ENOSPC) as fault:
            try:
                merge(parts, output)
                was_cut_off = False  # what signs the lock may fail
            except AmalgamError as error:
                assert "No space left on device" in str(error)
                was_cut_off = True
                n_cut_off += 1
        for found in find_stores(output) if holds_scores(output) else []:
            assert found.missing() == []
        if was_cut_off:
            assert_joined(merge(parts, output), output)
        elif not fault.happened:
            break
    assert n_cut_off > 10
    assert not fault.happened


def test_a_merge_elsewhere_that_was_cut_off_can_be_called_again(parts, flaky, memory):
    for n in range(20):
        flaky.failures, flaky.error = 0, PermissionError("Access Denied")
        flaky.store.clear()
        real, puts = flaky.pipe_file, []

        def put_some(system, *arguments, real=real, puts=puts, n=n, **options):
            puts.append(arguments)
            if len(puts) == n + 1:
                raise PermissionError(errno.EACCES, "Permission denied")
            return real(system, *arguments, **options)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(flaky, "pipe_file", put_some)
            try:
                merge(parts, "flaky://there/joined")
            except AmalgamError as error:
                assert "Permission denied" in str(error)
        if len(puts) <= n:
            return
        stores = merge(parts, "flaky://there/joined")
        assert [store.missing() for store in stores] == [[], []]
        assert verify("flaky://there/joined") == []
    raise AssertionError("no merge went through")


def test_a_merge_that_was_cut_off_when_all_was_written_is_done(parts, tmp_path):
    joined = tmp_path / "joined"
    merge(parts, joined)
    before = {path: path.stat().st_mtime_ns for path in joined.rglob("*") if path.is_file()}
    assert {path.name for path in before} == {
        "manifest.json", "shard-000001.json", *(f"shard-00000{k}.parquet" for k in range(3)),
    }  # fmt: skip
    assert refusal(parts, joined).startswith(f"{joined}: holds scores already")
    (joined / ".merging").touch()  # as it stands until the end
    assert_joined(merge(parts, joined), joined)
    assert {path: path.stat().st_mtime_ns for path in joined.rglob("*") if path.is_file()} == before


def test_a_merge_of_more_parts_is_another_one(parts, tmp_path):
    merge(parts[1:], tmp_path / "joined")
    assert refusal(parts, tmp_path / "joined").startswith(f"{tmp_path / 'joined'}: holds scores already")


def test_a_teacher_that_the_merge_does_not_make_is_not_mixed_with_it(parts, tmp_path):
    put(tmp_path / "joined", "c", [0])
    assert refusal(parts, tmp_path / "joined").startswith(f"{tmp_path / 'joined'}: holds scores already")


def test_shards_of_nobody_are_not_taken_for_what_a_merge_left(parts, tmp_path):
    for shards in ([2], [1]):  # one that the merge does not make, and one that it makes in another way
        store = put(tmp_path / str(shards) / "joined", "a", shards, settings={"passes": 4, "seed": 1})
        (store.folder / "manifest.json").unlink()
        before = store.path(shards[0]).read_bytes()
        message = refusal(parts[:1], store.folder.parent)
        assert message == f"{store.folder}: holds shards of something else; name another folder"
        assert store.path(shards[0]).read_bytes() == before


def test_two_merges_into_one_folder_are_one_after_the_other(parts, tmp_path):
    with locked(tmp_path / "joined"):
        assert "joined: another process writes it" in refusal(parts, tmp_path / "joined")
    assert_joined(merge(parts, tmp_path / "joined"), tmp_path / "joined")
