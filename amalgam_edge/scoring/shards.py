"""Shards of rows on disk or in an object store, under a manifest of what they answer to and who wrote them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import pyarrow as pa

from amalgam_edge.environment import installed_versions
from amalgam_edge.errors import AmalgamError
from amalgam_edge.scoring.scores_manifest import (
    MANIFEST,
    ScoreKey,
    ScoresManifest,
    ScoreWriter,
    read_manifest,
    write_manifest,
)
from amalgam_edge.storage import files
from amalgam_edge.storage.files import Location
from amalgam_edge.storage.records import to_json

_SHARD_SIZE = 1024  # texts
_MOST_SHARDS = 65_536
_LONGEST_SHOWN = 20


class ShardStore:
    """Files of rows, one teacher's over one corpus, in a folder that says what they answer to.

    Shard ``i`` holds the texts ``i · shard_size`` to ``(i + 1) · shard_size`` in the corpus' order. A shard is there
    whole or not at all, so a killed run goes on where it stopped. A store holds nothing but its arguments: it may be
    sent to other processes, and several may write to one folder.

    Args:
        folder: of this store alone; a local path, or a URL that fsspec knows.
        key: what the rows depend on.
        shard_size: texts a shard; None for 1,024, doubled until there are no more than 65,536 shards.
        made_by: what computes the rows, without bearing on them beyond the rounding of floats: engine, backend.
    """

    suffix: str  # of a shard's file
    what: str  # its rows are, in words
    remedy: str  # for rows that are not there

    def __init__(
        self,
        folder: str | Path,
        key: ScoreKey,
        *,
        shard_size: int | None = None,
        made_by: Mapping[str, str] | None = None,
    ) -> None:
        self.folder: Location = files.locate(folder)
        self.key = key
        self.shard_size = shard_size or _usual_shard_size(key.n_texts)
        self.made_by = dict(made_by or {})

    def by(self, **made_by: str) -> Self:
        """The same store for a writer that computes rows with these."""
        return type(self)(self.folder, self.key, shard_size=self.shard_size, made_by=self.made_by | made_by)

    @classmethod
    def found(cls, folder: str | Path) -> Self:
        """The store that a folder's manifest tells of.

        Raises:
            AmalgamError: the manifest is missing or damaged.
        """
        manifest = read_manifest(files.locate(folder))
        return cls(folder, manifest.key, shard_size=manifest.shard_size)

    @property
    def n_shards(self) -> int:
        """How many shards the corpus makes."""
        return -(-self.key.n_texts // self.shard_size)

    @property
    def begun(self) -> bool:
        """Whether anything was ever stored here."""
        return files.exists(files.join(self.folder, MANIFEST))

    def open(self) -> None:
        """Make the folder and its manifest, or check the manifest and, on a local disk, the shards that are there.

        In an object store, where a put is whole or not at all, shards are checked when they are read.

        Raises:
            AmalgamError: the folder holds rows of something else, something in it is damaged, or it cannot be
                written to. Nothing that was stored is touched.
        """
        if self.begun:
            manifest = self._checked_manifest()
            missing = self.missing()
            if isinstance(self.folder, Path):
                for shard in sorted(set(range(self.n_shards)) - set(missing)):
                    self._check(shard)
                files.sweep(self.folder)
            if missing:
                self._sign(manifest)
            return
        if self._numbers():
            raise AmalgamError(f"{self.folder}: shards without a {MANIFEST}; restore it, or name another folder")
        self._sign(self._manifest())

    def _manifest(self, written_by: tuple[ScoreWriter, ...] = ()) -> ScoresManifest:
        return ScoresManifest(self.key, self.shard_size, written_by)

    def written_by(self) -> tuple[ScoreWriter, ...]:
        """Whoever opened this store to write to it, in order, each once.

        Raises:
            AmalgamError: the manifest is missing or damaged.
        """
        return read_manifest(self.folder).written_by

    def _sign(self, manifest: ScoresManifest) -> None:
        """Write the manifest, with who writes here from now on, unless it says so already."""
        writer = ScoreWriter(versions=installed_versions(), **self.made_by)
        if writer not in manifest.written_by:
            self._write_manifest(replace(manifest, written_by=(*manifest.written_by, writer)))

    def begin(self, written_by: Iterable[ScoreWriter]) -> None:
        """Write the manifest of a store that holds nothing yet and will hold what others wrote.

        Raises:
            AmalgamError: It cannot be written.
        """
        self._write_manifest(self._manifest(tuple(written_by)))

    def _write_manifest(self, manifest: ScoresManifest) -> None:
        with self._writing():
            write_manifest(self.folder, manifest)

    def _checked_manifest(self) -> ScoresManifest:
        try:
            found = read_manifest(self.folder)
        except AmalgamError as error:
            raise AmalgamError(f"{error}, or move the folder away and {self.remedy}") from error
        # Who wrote the rows is no part of what they answer to.
        changes = _changes(_entries(replace(found, written_by=())), _entries(self._manifest()))
        if changes:
            raise AmalgamError(
                f"{self.folder}: holds {self.what} of another run ({'; '.join(changes)}); "
                "name another folder, or delete this one"
            )
        return found

    def rows(self, shard: int) -> range:
        """The texts of a shard."""
        return range(shard * self.shard_size, min((shard + 1) * self.shard_size, self.key.n_texts))

    def missing(self) -> list[int]:
        """Shards that are not there yet."""
        there = self._numbers()
        return [shard for shard in range(self.n_shards) if shard not in there]

    def has(self, shard: int) -> bool:
        """Whether a shard is there."""
        return files.exists(self.path(shard))

    def there(self) -> list[int]:
        """Shards that are there, in order."""
        return sorted(self._numbers() & set(range(self.n_shards)))

    def beyond(self) -> list[int]:
        """Shards that are there though the corpus has no texts for them, in order."""
        return sorted(self._numbers() - set(range(self.n_shards)))

    def _numbers(self) -> set[int]:
        """Of the shards whose files are in the folder, found by one look at it."""
        form = re.compile(rf"shard-(\d{{6,}})\.{self.suffix}")
        return {int(match[1]) for match in map(form.fullmatch, files.names(self.folder)) if match}

    def _put(self, shard: int, content: bytes | pa.Buffer) -> None:
        """Add a shard's file.

        Raises:
            AmalgamError: there is no room, or no right, to write it.
        """
        with self._writing():
            files.write(self.path(shard), memoryview(content))

    def _require_all(self) -> None:
        """Refuse to read a store that is not whole.

        Raises:
            AmalgamError: shards are missing.
        """
        missing = self.missing()
        if missing:
            raise AmalgamError(f"{self.folder}: {len(missing)} of {self.n_shards} shards are missing; {self.remedy}")

    def _check(self, shard: int) -> None:
        """Look whether a shard's file is whole, without reading all of it; raise :meth:`_damaged` if not."""
        raise NotImplementedError

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise AmalgamError(
                f"{self.folder}: cannot be written to ({files.reason(error)}); "
                "what was scored is kept, and the next run goes on from there"
            ) from error

    def _damaged(self, shard: int) -> AmalgamError:
        return AmalgamError(f"{self.path(shard)}: a damaged shard; delete it and {self.remedy}")

    def path(self, shard: int) -> Location:
        """Where a shard's file is, or will be."""
        return files.join(self.folder, f"shard-{shard:06d}.{self.suffix}")


def _usual_shard_size(n_texts: int) -> int:
    size = _SHARD_SIZE
    while size * _MOST_SHARDS < n_texts:
        size *= 2
    return size


def _entries(manifest: ScoresManifest | ScoreKey) -> dict[str, Any]:
    """A manifest's entries without their nesting."""
    return _flat(to_json(manifest))


def _flat(manifest: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in manifest.items():
        flat |= _flat(value) if isinstance(value, dict) else {name: value}
    return flat


def _changes(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """What differs between two flat manifests, in words; long values are left out."""
    names = [name for name in {**found, **wanted} if found.get(name) != wanted.get(name)]
    return [_change(name.replace("_", " "), found.get(name), wanted.get(name)) for name in names]


def _change(name: str, was: Any, now: Any) -> str:
    short = all(len(str(value)) <= _LONGEST_SHOWN for value in (was, now))
    if short:
        return f"{name} {was} there, {now} here"
    return f"other {name}" if isinstance(now, list) else f"another {name}"


def changes_between(found: ScoreKey, wanted: ScoreKey) -> list[str]:
    """What differs between two keys, in words."""
    return _changes(_entries(found), _entries(wanted))
