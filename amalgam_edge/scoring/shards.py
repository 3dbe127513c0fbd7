"""Shards of rows on disk or in an object store, with a manifest of what the rows depend on and what wrote them."""

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
_MAX_SHARDS = 65_536
_LONGEST_SHOWN = 20  # characters of a value in a message about what differs


class ShardStore:
    """One teacher's rows for the texts of a corpus, as files in a folder of their own.

    Shard ``i`` holds the texts ``i · shard_size`` to ``(i + 1) · shard_size - 1`` in the order of the corpus. A shard
    appears whole or not at all, so a killed run goes on where it stopped. A store keeps nothing in memory but its
    arguments: it can be sent to other processes, and several processes can write to one folder.

    Args:
        folder: Folder of this store alone, a local path or a URL that fsspec knows.
        key: All that the rows depend on.
        shard_size: Number of texts in a shard. By default 1,024, doubled until there are at most 65,536 shards.
        made_by: What computes the rows, such as engine and backend. Rows depend on it by the rounding of floats alone.

    Attributes:
        suffix: File suffix of a shard.
        contents: What the rows are, in words, for messages.
        remedy: What to do about missing rows, for messages.
    """

    suffix: str
    contents: str
    remedy: str

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

    def for_writer(self, **made_by: str) -> Self:
        """The same store for a writer that computes rows with this engine, backend and so on."""
        return type(self)(self.folder, self.key, shard_size=self.shard_size, made_by=self.made_by | made_by)

    @classmethod
    def from_folder(cls, folder: str | Path) -> Self:
        """The store that a folder's manifest describes.

        Raises:
            AmalgamError: The manifest is missing or damaged.
        """
        manifest = read_manifest(files.locate(folder))
        return cls(folder, manifest.key, shard_size=manifest.shard_size)

    @property
    def n_shards(self) -> int:
        """The number of shards of the corpus."""
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
                files.delete_stale_parts(self.folder)
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
        """Write the manifest of a store that has none and holds what others wrote.

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
                f"{self.folder}: holds {self.contents} of another run ({'; '.join(changes)}); "
                "name another folder, or delete this one"
            )
        return found

    def rows(self, shard: int) -> range:
        """The rows of the corpus whose texts a shard holds."""
        return range(shard * self.shard_size, min((shard + 1) * self.shard_size, self.key.n_texts))

    def missing(self) -> list[int]:
        """The numbers of the shards that do not exist yet, ascending."""
        existing = self._numbers()
        return [shard for shard in range(self.n_shards) if shard not in existing]

    def has(self, shard: int) -> bool:
        """Whether a shard exists."""
        return files.exists(self.path(shard))

    def present(self) -> list[int]:
        """The numbers of the shards that exist, ascending."""
        return sorted(self._numbers() & set(range(self.n_shards)))

    def surplus(self) -> list[int]:
        """The numbers of shards that exist though the corpus has no texts for them, ascending."""
        return sorted(self._numbers() - set(range(self.n_shards)))

    def _numbers(self) -> set[int]:
        """The numbers of all shards in the folder, found by listing it once."""
        form = re.compile(rf"shard-(\d{{6,}})\.{self.suffix}")
        return {int(match[1]) for match in map(form.fullmatch, files.names(self.folder)) if match}

    def _put(self, shard: int, content: bytes | pa.Buffer) -> None:
        """Add a shard's file.

        Raises:
            AmalgamError: The disk is full, or writing is not permitted.
        """
        with self._writing():
            files.write(self.path(shard), memoryview(content))

    def _require_all(self) -> None:
        """Refuse to read a store that lacks shards.

        Raises:
            AmalgamError: Shards are missing.
        """
        missing = self.missing()
        if missing:
            raise AmalgamError(f"{self.folder}: {len(missing)} of {self.n_shards} shards are missing; {self.remedy}")

    def _check(self, shard: int) -> None:
        """Check that a shard's file is not truncated, without reading all of it; raise :meth:`_damaged` if it is."""
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
        """The location of a shard's file, whether or not it exists."""
        return files.join(self.folder, f"shard-{shard:06d}.{self.suffix}")


def _usual_shard_size(n_texts: int) -> int:
    size = _SHARD_SIZE
    while size * _MAX_SHARDS < n_texts:
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
