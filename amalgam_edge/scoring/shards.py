"""Shards of rows on disk or in an object store, with a manifest of what the rows depend on and what wrote them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pyarrow as pa

from amalgam_edge.environment import installed_versions
from amalgam_edge.errors import AmalgamError
from amalgam_edge.storage import files
from amalgam_edge.storage.files import Location
from amalgam_edge.storage.fingerprints import sha256_of_mapping

MANIFEST = "manifest.json"
_SHARD_SIZE = 1024  # texts
_MAX_SHARDS = 65_536
_LONGEST_SHOWN = 20  # characters of a value in a message about what differs


@dataclass(frozen=True)
class ScoreKey:
    """All that scores depend on; two runs with equal keys may share them.

    Attributes:
        teacher: its name.
        teacher_fingerprint: of its weights, config and tokenizer.
        corpus_fingerprint: of the texts in order.
        n_texts: how many.
        settings: passes, seed, masks, dropout, max_length and the like.
    """

    teacher: str
    teacher_fingerprint: str
    corpus_fingerprint: str
    n_texts: int
    settings: dict[str, object]

    def as_dict(self) -> dict[str, object]:
        """The key as it stands in the manifest."""
        return dict(vars(self))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the key."""
        return sha256_of_mapping(self.as_dict())


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
        try:
            return cls(folder, ScoreKey(**manifest["key"]), shard_size=int(manifest["shard_size"]))
        except (KeyError, TypeError, ValueError) as error:
            raise damaged_manifest(files.locate(folder)) from error

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
        wanted: dict[str, Any] = json.loads(json.dumps({"key": self.key.as_dict(), "shard_size": self.shard_size}))
        if self.begun:
            manifest = self._checked_manifest(wanted)
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
        self._sign(wanted)

    def written_by(self) -> list[dict[str, Any]]:
        """Whoever opened this store to write to it: versions, engine, backend; in order, each once.

        Raises:
            AmalgamError: the manifest is missing or damaged.
        """
        return list(read_manifest(self.folder).get("written_by", []))

    def _sign(self, manifest: dict[str, Any]) -> None:
        """Write the manifest, with who writes here from now on, unless it says so already."""
        writers = manifest.get("written_by", [])
        own = {"versions": installed_versions(), **self.made_by}
        if own not in writers:
            self.write_manifest(manifest | {"written_by": [*writers, own]})

    def write_manifest(self, manifest: dict[str, Any]) -> None:
        """Put a manifest in the place of the one that is there.

        Raises:
            AmalgamError: it cannot be written.
        """
        with self._writing():
            files.write(files.join(self.folder, MANIFEST), json.dumps(manifest, indent=2, sort_keys=True).encode())

    def _checked_manifest(self, wanted: dict[str, Any]) -> dict[str, Any]:
        try:
            found = read_manifest(self.folder)
        except AmalgamError as error:
            raise AmalgamError(f"{error}, or move the folder away and {self.remedy}") from error
        # Whatever else a manifest says, who wrote the rows above all, is no part of what they answer to.
        changes = _changes(_flat({name: found[name] for name in wanted if name in found}), _flat(wanted))
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


def read_manifest(folder: Location) -> dict[str, Any]:
    """A store's manifest.

    Raises:
        AmalgamError: it is missing or damaged.
    """
    try:
        manifest = json.loads(files.read(files.join(folder, MANIFEST)).decode("utf-8"))
    except FileNotFoundError as error:
        raise AmalgamError(f"{folder}: no {MANIFEST}, so no scores; name a folder that amalgam-edge wrote") from error
    except (OSError, ValueError) as error:
        raise damaged_manifest(folder) from error
    if not isinstance(manifest, dict) or not isinstance(manifest.get("key"), dict):
        raise damaged_manifest(folder)
    return manifest


def damaged_manifest(folder: Location) -> AmalgamError:
    """The error about a manifest that cannot be understood."""
    return AmalgamError(f"{files.join(folder, MANIFEST)}: damaged; restore it")


def _usual_shard_size(n_texts: int) -> int:
    size = _SHARD_SIZE
    while size * _MAX_SHARDS < n_texts:
        size *= 2
    return size


def _flat(manifest: dict[str, Any]) -> dict[str, Any]:
    """A manifest's entries without their nesting."""
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
    return _changes(_flat(found.as_dict()), _flat(wanted.as_dict()))
