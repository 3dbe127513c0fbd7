"""Folders of scores, as ``amalgam-edge score`` writes them: finding, verifying and merging them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from amalgam_edge.errors import AmalgamError, first_line
from amalgam_edge.scoring.scores import ARRAYS, TeacherScores
from amalgam_edge.scoring.scores_manifest import MANIFEST, ScoresManifest, ScoreWriter, read_manifest
from amalgam_edge.scoring.shards import changes_between
from amalgam_edge.scoring.store import ScoreStore
from amalgam_edge.storage import files
from amalgam_edge.storage.files import Location
from amalgam_edge.storage.output_lock import locked
from amalgam_edge.storage.syncing import make_folders
from amalgam_edge.storage.write_errors import report_write_errors

_BEGUN = ".merging"  # an empty file in the folder of a merge that is going on, or was cut off


def holds_scores(folder: str | Path) -> bool:
    """Whether a folder is a teacher's store of scores, or contains such stores.

    Raises:
        AmalgamError: A file system other than the local one does not answer.
    """
    return any(True for _ in _store_folders(files.locate(folder)))


def find_stores(folder: str | Path) -> list[ScoreStore]:
    """The stores in a folder, sorted by name, or the one store that the folder itself is.

    Raises:
        AmalgamError: There is no store, or a manifest is damaged.
    """
    return [ScoreStore.from_folder(store_folder) for store_folder in _require_store_folders(folder)]


def _require_store_folders(folder: str | Path) -> list[Location]:
    found = list(_store_folders(files.locate(folder)))
    if not found:
        raise AmalgamError(f"{folder}: no scores in it; name a folder that amalgam-edge score wrote")
    return found


def _store_folders(folder: Location) -> Iterator[Location]:
    inside = files.names(folder)
    if MANIFEST in inside:
        yield folder
        return
    for name in inside:
        candidate = files.join(folder, name)
        if files.exists(files.join(candidate, MANIFEST)):
            yield candidate


def verify(folder: str | Path) -> list[str]:
    """Read every shard of a folder of scores, and check it.

    Checked are: missing, truncated and damaged shards (checksums of pages, digest of rows), rows out of order, numbers
    of classes that differ, blank rows without a record of their failure, manifests that contradict their folder, and
    teachers over different texts.

    Returns:
        The problems, one line each; none where all is well.

    Raises:
        AmalgamError: There are no scores.
    """
    stores, problems = [], []
    for store_folder in _require_store_folders(folder):
        try:
            stores.append(ScoreStore.from_folder(store_folder))
        except AmalgamError as error:
            problems.append(str(error))
    for store in stores:
        problems += verify_store(store)
    return problems + _different_corpora(stores)


def verify_store(store: ScoreStore, *, complete: bool = True) -> list[str]:
    """The problems of one teacher's store, one line each.

    Args:
        store: The store; every shard of it is read.
        complete: Whether missing shards are a problem.
    """
    problems = []
    missing = store.missing()
    if missing and complete:
        problems.append(
            f"{store.folder}: {len(missing)} of {store.n_shards} shards are missing, the first is {missing[0]}; "
            "go on with amalgam-edge score --resume"
        )
    if surplus := store.surplus():
        problems.append(f"{store.folder}: shards beyond the corpus' {store.n_shards}: {surplus}; delete them")
    n_classes: int | None = None
    for shard in store.present():
        try:
            scores = store.read_shard(shard).scores
            failed = [failure["text"] for failure in store.failures_of(shard)]
        except AmalgamError as error:
            problems.append(first_line(error))
            continue
        path = store.path(shard)
        n_classes = n_classes or scores.logits.shape[1]
        problems += [f"{path}: {problem}; delete it and score again" for problem in _row_problems(scores, n_classes)]
        if failed != (np.flatnonzero(~scores.scored) + store.rows(shard).start).tolist():
            problems.append(
                f"{path}: its blank rows are not those that {store.failures_path(shard)} lists; "
                "delete both and score again"
            )
    return problems


def _row_problems(scores: TeacherScores, n_classes: int) -> list[str]:
    """Problems of a shard's rows, whose checksums are right."""
    problems = []
    arrays = {name: getattr(scores, name) for name in ARRAYS if name != "passes"}
    widths = {array.shape[1] for array in arrays.values() if array.ndim == 2}
    if widths != {n_classes}:
        problems.append(f"{'/'.join(map(str, sorted(widths)))} classes, other shards have {n_classes}")
    finite = np.all([np.isfinite(array).reshape(len(scores), -1).all(axis=1) for array in arrays.values()], axis=0)
    blank = np.all([np.isnan(array).reshape(len(scores), -1).all(axis=1) for array in arrays.values()], axis=0)
    if not bool(np.all(np.where(scores.scored, finite, blank))):
        problems.append("rows that are neither scored nor blank")
    return problems


def _different_corpora(stores: Sequence[ScoreStore]) -> list[str]:
    """A problem for each store whose corpus is not that of the first store."""
    return [
        f"{store.folder}: over other texts than {stores[0].folder}; keep scores of one corpus in one folder"
        for store in stores
        if store.key.corpus_fingerprint != stores[0].key.corpus_fingerprint
        or store.key.n_texts != stores[0].key.n_texts
    ]


def merge(folders: Sequence[str | Path], output: str | Path) -> list[ScoreStore]:
    """Merge parts of one run's scores that were computed in different places, and verify the result.

    A shard that is in several parts must have the same rows in all of them, to the bit. Shards that are in no part stay
    missing; ``amalgam-edge score --resume`` computes them.

    A teacher's manifest is written when all shards are there, so what a merge that was cut off left counts as nothing,
    and the merge can be called again: a mark in the folder says that one was begun.

    Args:
        folders: Folders of scores; they are not changed.
        output: Folder that holds no scores yet, or what the same merge left there.

    Returns:
        The stores in ``output``, one for each teacher.

    Raises:
        AmalgamError: There are no scores, they are of different runs, a shard is damaged or has different rows in two
            parts, or ``output`` holds scores or cannot be written to. All is checked before anything is written.
    """
    by_teacher: dict[str, list[ScoreStore]] = defaultdict(list)
    for folder in folders:
        for store in find_stores(folder):
            by_teacher[store.key.teacher].append(store)
    problems = _different_corpora([store for parts in by_teacher.values() for store in parts])
    sources = {teacher: _shard_sources(parts) for teacher, parts in by_teacher.items()}
    _raise_first(problems)
    target = files.locate(output)
    with _claimed(target):
        made = [_Merged(teacher, by_teacher[teacher], shards, target) for teacher, shards in sources.items()]
        mark = files.join(target, _BEGUN)
        _require_no_others(target, made, was_cut_off=files.exists(mark))
        with report_write_errors(str(target), only_writes=True):
            files.write(mark, b"")
        for merged in made:
            merged.write()
        with report_write_errors(str(target), only_writes=True):
            files.delete(mark)
    return [merged.store for merged in made]


@contextmanager
def _claimed(target: Location) -> Iterator[None]:
    """While entered, no other merge on this machine writes to a local folder."""
    if not isinstance(target, Path):
        yield
        return
    with report_write_errors(target, only_writes=True):
        make_folders(target.absolute().parent)
    with locked(target.absolute(), shown=target):
        yield


def _require_no_others(target: Location, made: Sequence[_Merged], *, was_cut_off: bool) -> None:
    """Refuse a folder with scores that the merge would not make."""
    own = {merged.store.folder: merged for merged in made}
    for folder in _store_folders(target):
        if not was_cut_off or folder not in own or not own[folder].is_done():
            raise AmalgamError(f"{target}: holds scores already; name another folder")
    for merged in made:
        if merged.has_strangers():
            raise AmalgamError(f"{merged.store.folder}: holds shards of something else; name another folder")


class _Merged:
    """One teacher's store of a merge.

    Args:
        teacher: The teacher's name.
        parts: The stores that it is made of.
        sources: Number of each shard → the part that it is copied from.
        target: The folder of all teachers' scores.
    """

    def __init__(
        self, teacher: str, parts: Sequence[ScoreStore], sources: dict[int, ScoreStore], target: Location
    ) -> None:
        self.store = ScoreStore(files.join(target, teacher), parts[0].key, shard_size=parts[0].shard_size)
        self._sources = sources
        self._writers: list[ScoreWriter] = []
        for part in parts:
            self._writers += [writer for writer in part.written_by() if writer not in self._writers]

    def is_done(self) -> bool:
        """Whether the store holds what the merge makes of it."""
        found = read_manifest(self.store.folder)
        return (
            found == ScoresManifest(self.store.key, self.store.shard_size, tuple(self._writers))
            and self.store.present() == sorted(self._sources)
            and all(_digest(self.store, shard) == _digest(source, shard) for shard, source in self._sources.items())
        )

    def has_strangers(self) -> bool:
        """Whether shards stand there without a manifest that are not those that the merge writes, byte for byte."""
        if self.store.begun:
            return False
        return any(
            shard not in self._sources
            or files.read(self.store.path(shard)) != files.read(self._sources[shard].path(shard))
            for shard in (*self.store.present(), *self.store.surplus())
        )

    def write(self) -> None:
        """Copy the shards, verify them, and say last of all that they are there."""
        if self.store.begun:
            return
        for shard, part in sorted(self._sources.items()):
            self.store.copy_shard(shard, part)
        _raise_first(verify_store(self.store, complete=False))
        self.store.begin(self._writers)


def _shard_sources(parts: Sequence[ScoreStore]) -> dict[int, ScoreStore]:
    """The part to copy each shard of one teacher from; every shard is read and checked.

    Raises:
        AmalgamError: Parts are of different runs, or a shard is damaged or differs between parts.
    """
    sources: dict[int, ScoreStore] = {}
    for part in parts:
        _require_same_run(parts[0], part)
        _raise_first(verify_store(part, complete=False))
        for shard in part.present():
            source = sources.setdefault(shard, part)
            if source is not part and _digest(source, shard) != _digest(part, shard):
                raise AmalgamError(
                    f"{part.path(shard)}: other rows than {source.path(shard)}; delete the one that you trust less"
                )
    return sources


def _require_same_run(first: ScoreStore, part: ScoreStore) -> None:
    changes = changes_between(first.key, part.key)
    if part.shard_size != first.shard_size:
        changes.append(f"shard size {first.shard_size} there, {part.shard_size} here")
    if changes:
        raise AmalgamError(
            f"{part.folder}: scores of another run than {first.folder} ({'; '.join(changes)}); "
            "only parts of one run can be joined"
        )


def _digest(store: ScoreStore, shard: int) -> str:
    return store.read_shard(shard).scores.digest()


def _raise_first(problems: Sequence[str]) -> None:
    if problems:
        raise AmalgamError(problems[0])
