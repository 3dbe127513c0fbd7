"""The manifest of a teacher's scores, ``manifest.json``: its form, its one reader and its one writer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated

from amalgam_edge.errors import AmalgamError
from amalgam_edge.metrics.uncertainty import SIGMOID, SOFTMAX, Activation
from amalgam_edge.storage import files
from amalgam_edge.storage.files import Location
from amalgam_edge.storage.fingerprints import sha256_of_mapping
from amalgam_edge.storage.json_text import parse_json
from amalgam_edge.storage.record import record
from amalgam_edge.storage.record_fields import (
    MAY_LACK,
    Digest,
    Items,
    Json,
    MayLack,
    Name,
    Number,
    PlainName,
    TextCount,
    Versions,
)
from amalgam_edge.storage.records import from_json, to_json

MANIFEST = "manifest.json"
MOST_BYTES = 8 * 2**20
ACTIVATION = "activation"  # the setting that says what makes probabilities of logits; softmax where it is lacking
MOST_SHARDS = 2**20  # numbers of shards are listed, and that many fit into memory anywhere


@record
class ScoreKey:
    """All that scores depend on; two runs with equal keys may share them.

    Attributes:
        teacher: The teacher's name; the folder of its scores has it too.
        teacher_fingerprint: SHA-256 of the teacher's weights, config and tokenizer.
        corpus_fingerprint: SHA-256 of the texts in order.
        n_texts: How many texts there are.
        settings: Passes, seed, masks, dropout, the longest text in tokens, and whatever else scores depend on.
    """

    teacher: PlainName
    teacher_fingerprint: Digest
    corpus_fingerprint: Digest
    n_texts: TextCount
    settings: Annotated[Mapping[Name, Json], Items(most=1000)]

    @property
    def activation(self) -> Activation:
        """What makes probabilities of the teacher's logits."""
        return SIGMOID if self.settings.get(ACTIVATION) == SIGMOID else SOFTMAX

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the key."""
        return sha256_of_mapping(to_json(self))


@record
class ScoreWriter:
    """Who computed rows; no part of what they depend on.

    Attributes:
        versions: Python's version and those of the packages that were installed.
        engine: What shared out the texts: ``local`` or ``ray``.
        backend: What ran the teacher, and on which device.
    """

    versions: Versions
    engine: Annotated[Name | None, MAY_LACK] = None
    backend: Annotated[Name | None, MAY_LACK] = None


@record
class ScoresManifest:
    """What a folder of shards answers to and who wrote them: the content of its ``manifest.json``.

    Attributes:
        key: What the rows depend on.
        shard_size: How many texts a shard holds; the last one may hold fewer.
        written_by: Those who opened the folder to write to it, in order, each once; early versions did not say.
    """

    key: ScoreKey
    shard_size: Annotated[int, Number(at_least=1, at_most=2**20)]
    written_by: Annotated[tuple[ScoreWriter, ...], Items(most=100_000), MayLack(())]

    @property
    def n_shards(self) -> int:
        """How many shards the texts make."""
        return -(-self.key.n_texts // self.shard_size)


def read_manifest(folder: Location) -> ScoresManifest:
    """The manifest of a folder of shards.

    Raises:
        AmalgamError: It is missing or damaged, or its file system does not give it.
    """
    path = files.join(folder, MANIFEST)
    try:
        content = files.read(path, most_bytes=MOST_BYTES + 1)
    except FileNotFoundError as error:
        raise AmalgamError(f"{folder}: no {MANIFEST}, so no scores; name a folder that amalgam-edge wrote") from error
    except OSError as error:
        raise AmalgamError(f"{path}: damaged, {files.reason(error)}; restore it") from error
    try:
        return _parsed(content)
    except AmalgamError as error:
        raise AmalgamError(f"{path}: damaged, {error}; restore it") from error


def write_manifest(folder: Location, manifest: ScoresManifest) -> None:
    """Put a manifest in the place of the one that is there.

    Raises:
        AmalgamError: The manifest would be refused by the reader.
        OSError: It cannot be written.
    """
    content = json.dumps(to_json(manifest), indent=2, sort_keys=True).encode()
    try:
        _parsed(content)
    except AmalgamError as error:
        raise AmalgamError(f"{files.join(folder, MANIFEST)}: cannot be written, {error}") from error
    files.write(files.join(folder, MANIFEST), content)


def _parsed(content: bytes) -> ScoresManifest:
    manifest = from_json(ScoresManifest, parse_json(content, MOST_BYTES))
    if manifest.n_shards > MOST_SHARDS:
        raise AmalgamError(f"more than {MOST_SHARDS} shards")
    return manifest
