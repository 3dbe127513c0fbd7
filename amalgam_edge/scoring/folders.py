"""Folders of scores, as ``amalgam-edge score`` writes them: what is in them, whether it is whole, joining them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from amalgam_edge.errors import AmalgamError, first_line
from amalgam_edge.scoring.scores import ARRAYS, TeacherScores
from amalgam_edge.scoring.scores_manifest import MANIFEST, ScoreWriter
from amalgam_edge.scoring.shards import changes_between
from amalgam_edge.scoring.store import ScoreStore
from amalgam_edge.storage import files
from amalgam_edge.storage.files import Location


def holds_scores(folder: str | Path) -> bool:
    """Whether a folder is a teacher's scores, or holds folders that are.

    Raises:
        AmalgamError: another file system than the local one cannot be asked.
    """
    return any(True for _ in _store_folders(files.locate(folder)))


def find_stores(folder: str | Path) -> list[ScoreStore]:
    """The stores of a folder of scores, by their names; or the one that the folder itself is.

    Raises:
        AmalgamError: there is none, or a manifest is damaged.
    """
    return [ScoreStore.found(found) for found in _require_any(folder)]


def _require_any(folder: str | Path) -> list[Location]:
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
    """Read every shard of a folder of scores, and say what is wrong, a line each; nothing where all is well.

    Looked for: shards that are missing, cut off or damaged (checksums of pages, digest of rows), rows out of order,
    classes that come and go, blank rows without an account of their failure, manifests that contradict their folder,
    teachers over different texts.

    Raises:
        AmalgamError: there are no scores.
    """
    stores, problems = [], []
    for found in _require_any(folder):
        try:
            stores.append(ScoreStore.found(found))
        except AmalgamError as error:
            problems.append(str(error))
    return [*problems, *(problem for store in stores for problem in verify_store(store)), *_other_texts(stores)]


def verify_store(store: ScoreStore, *, whole: bool = True) -> list[str]:
    """What is wrong with one teacher's scores; shards that are not there are, if it is to be ``whole``."""
    problems = []
    missing = store.missing()
    if missing and whole:
        problems.append(
            f"{store.folder}: {len(missing)} of {store.n_shards} shards are missing, the first is {missing[0]}; "
            "go on with amalgam-edge score --resume"
        )
    if beyond := store.beyond():
        problems.append(f"{store.folder}: shards beyond the corpus' {store.n_shards}: {beyond}; delete them")
    n_classes: int | None = None
    for shard in store.there():
        try:
            scores = store.read_shard(shard).scores
            told = [failure["text"] for failure in store.failures_of(shard)]
        except AmalgamError as error:
            problems.append(first_line(error))
            continue
        where = store.path(shard)
        n_classes = n_classes or scores.logits.shape[1]
        problems += [f"{where}: {what}; delete it and score again" for what in _contradictions(scores, n_classes)]
        if told != (np.flatnonzero(~scores.scored) + store.rows(shard).start).tolist():
            problems.append(
                f"{where}: its blank rows are not those that {store.failures_path(shard)} tells of; "
                "delete both and score again"
            )
    return problems


def _contradictions(scores: TeacherScores, n_classes: int) -> list[str]:
    """What in a shard's rows cannot be."""
    found = []
    arrays = {name: getattr(scores, name) for name in ARRAYS if name != "passes"}
    widths = {array.shape[1] for array in arrays.values() if array.ndim == 2}
    if widths != {n_classes}:
        found.append(f"{'/'.join(map(str, sorted(widths)))} classes, other shards have {n_classes}")
    finite = np.all([np.isfinite(array).reshape(len(scores), -1).all(axis=1) for array in arrays.values()], axis=0)
    blank = np.all([np.isnan(array).reshape(len(scores), -1).all(axis=1) for array in arrays.values()], axis=0)
    if not bool(np.all(np.where(scores.scored, finite, blank))):
        found.append("rows that are neither scored nor blank")
    return found


def _other_texts(stores: Sequence[ScoreStore]) -> list[str]:
    """Stores that are not over the texts of the first one."""
    return [
        f"{store.folder}: over other texts than {stores[0].folder}; keep scores of one corpus in one folder"
        for store in stores
        if store.key.corpus_fingerprint != stores[0].key.corpus_fingerprint
        or store.key.n_texts != stores[0].key.n_texts
    ]


def merge(folders: Sequence[str | Path], output: str | Path) -> list[ScoreStore]:
    """Join scores of the same run that were made in different places, a store a teacher, and verify them.

    A shard that is in several places must be the same in all of them, to the bit. Shards that are in none stay missing;
    ``amalgam-edge score --resume`` makes them.

    Args:
        folders: of scores; what lies in them is left as it is.
        output: a folder that holds no scores yet.

    Returns:
        The stores in ``output``.

    Raises:
        AmalgamError: there are no scores, they answer to different things, a shard is damaged or there twice with
            different rows, or ``output`` holds scores or cannot be written to. All is checked before anything is
            written.
    """
    if holds_scores(output):
        raise AmalgamError(f"{output}: holds scores already; name another folder")
    groups: dict[str, list[ScoreStore]] = defaultdict(list)
    for folder in folders:
        for store in find_stores(folder):
            groups[store.key.teacher].append(store)
    problems = _other_texts([store for group in groups.values() for store in group])
    plans = {teacher: _plan(group) for teacher, group in groups.items()}
    if problems:
        raise AmalgamError(problems[0])
    target = files.locate(output)
    return [_join(groups[teacher], plan, files.join(target, teacher)) for teacher, plan in plans.items()]


def _plan(stores: Sequence[ScoreStore]) -> dict[int, ScoreStore]:
    """Where to take each shard of a teacher from; all of them have been read."""
    first = stores[0]
    plan: dict[int, ScoreStore] = {}
    for store in stores:
        changes = changes_between(first.key, store.key)
        if store.shard_size != first.shard_size:
            changes.append(f"shard size {first.shard_size} there, {store.shard_size} here")
        if changes:
            raise AmalgamError(
                f"{store.folder}: scores of another run than {first.folder} ({'; '.join(changes)}); "
                "only parts of one run can be joined"
            )
        problems = verify_store(store, whole=False)
        if problems:
            raise AmalgamError(problems[0])
        for shard in store.there():
            other = plan.setdefault(shard, store)
            if (
                other is not store
                and other.read_shard(shard).scores.digest() != store.read_shard(shard).scores.digest()
            ):
                raise AmalgamError(
                    f"{store.path(shard)}: other rows than {other.path(shard)}; delete the one that you trust less"
                )
    return plan


def _join(stores: Sequence[ScoreStore], plan: dict[int, ScoreStore], folder: Location) -> ScoreStore:
    joined = ScoreStore(folder, stores[0].key, shard_size=stores[0].shard_size)
    writers: list[ScoreWriter] = []
    for store in stores:
        writers += [writer for writer in store.written_by() if writer not in writers]
    joined.begin(writers)
    for shard, store in sorted(plan.items()):
        joined.copy_shard(shard, store)
    problems = verify_store(joined, whole=False)
    if problems:
        raise AmalgamError(problems[0])
    return joined
