"""The manifest of a bundle, ``amalgam.json``: its form, its one reader and its one writer.

Files of the first two formats are read too, see :mod:`~amalgam_edge.runtime.manifest_migrations`.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from amalgam_edge.errors import AmalgamError
from amalgam_edge.heads import Heads
from amalgam_edge.runtime.manifest_heads import BundleHead, HeadChange, heads_of
from amalgam_edge.runtime.manifest_migrations import migrated
from amalgam_edge.runtime.manifest_models import (
    BuildEvaluation,
    Cascade,
    Front,
    Gate,
    Precision,
    TrimmedVocabulary,
)
from amalgam_edge.runtime.manifest_origin import (
    CorpusCounts,
    Machine,
    SourceTeacher,
    StudentFacts,
    TrainingPoint,
)
from amalgam_edge.storage.fingerprints import sha256_of_file
from amalgam_edge.storage.json_text import parse_json, read_json
from amalgam_edge.storage.own_files import FileContent, leads_elsewhere, own_file
from amalgam_edge.storage.record import record
from amalgam_edge.storage.record_fields import (
    Count,
    Digest,
    FilePath,
    Items,
    Json,
    MayLack,
    Name,
    Number,
    Share,
    Versions,
)
from amalgam_edge.storage.records import from_json, to_json

MANIFEST = "amalgam.json"
FORMAT_VERSION = 3
BUNDLE_KIND = "bundle"
TEACHER_KIND = "teacher"
STATIC = "static"  # the model type of a student without layers, which transformers does not know
MOST_BYTES = 8 * 2**20

_VERSION = re.compile(r"[\w.+!-]{1,40}", re.ASCII)

Length = Annotated[int, Number(at_least=1, at_most=2**31 - 1)]
TokenId = Annotated[int, Number(at_least=0, at_most=2**31 - 1)]
Files = Annotated[Mapping[FilePath, Digest], Items(most=10_000)]


@record
class Manifest:
    """What a bundle holds and where it comes from: the content of its ``amalgam.json``.

    Attributes:
        format_version: The version of this format.
        kind: What the folder is: a bundle.
        versions: Python's version and those of the packages that the bundle was built with.
        machine: The machine that built the bundle.
        heads: The questions that the student answers, in the order of its logits.
        teachers: The teachers that the student was distilled from.
        corpus: The unlabeled texts that the student was distilled on.
        recipe: The recipe of the build, every default written out.
        recipe_fingerprint: SHA-256 of what the result depends on in the recipe.
        supervision: SHA-256 of the targets and weights that the student was trained on.
        training: The training curve.
        student: What is known of the student.
        vocabulary: The tokens that were left out of the student; null where all stayed.
        model_type: The architecture, as transformers names it, or ``static``; null where an early version did not say.
        max_length: Texts are cut to this many tokens.
        pad_token_id: The token that fills batches; it is masked.
        precisions: Precision → its model.
        default_precision: The precision that is used where none is named.
        gate: What int8 had to pass.
        front: What the budget led to; null without a budget.
        cascade: What became of the cascade; null where none was asked for.
        evaluation: What was measured on texts with gold labels; null without such texts.
        changes: What was done to single heads since the bundle was built, in order; the recipe does not tell of it.
        files: File of the bundle → its SHA-256; all files but the manifest.
    """

    format_version: Literal[3] = field(default=3, kw_only=True)
    kind: Literal["bundle"] = field(default="bundle", kw_only=True)
    versions: Versions
    machine: Machine
    heads: Annotated[tuple[BundleHead, ...], Items(most=1000, fewest=1, unique="name")]
    teachers: tuple[SourceTeacher, ...]
    corpus: CorpusCounts
    recipe: Annotated[Mapping[Name, Json], Items(most=1000)]
    recipe_fingerprint: Digest
    supervision: Digest
    training: Annotated[tuple[TrainingPoint, ...], Items(most=100_000)]
    student: StudentFacts
    vocabulary: TrimmedVocabulary | None
    model_type: Name | None
    max_length: Length
    pad_token_id: TokenId
    precisions: Annotated[Mapping[Name, Precision], Items(most=1000, fewest=1)]
    default_precision: Name
    gate: Gate
    front: Front | None
    cascade: Cascade | None
    evaluation: BuildEvaluation | None
    changes: Annotated[tuple[HeadChange, ...], MayLack(())] = ()
    files: Files = field(default_factory=dict)

    @property
    def answers(self) -> Heads:
        """What reads answers from the student's logits."""
        return heads_of(self.heads)

    def teachers_of(self, head: str) -> tuple[str, ...]:
        """The names of the teachers of a head."""
        return tuple(teacher.name for teacher in self.teachers if teacher.head == head)

    @property
    def method(self) -> str:
        """The method that made supervision of the teachers' scores."""
        return str(self.recipe.get("method", "of an unknown method"))

    @property
    def written_with(self) -> str:
        """The version of amalgam-edge that built the bundle."""
        return self.versions.get("amalgam-edge", "of an unknown version")


@record
class TeacherSite:
    """A call of dropout in a forward run of an exported teacher.

    Attributes:
        number: Its position in the run.
        module: The module that makes it.
        p: The probability that an entry is dropped.
    """

    number: Count
    module: Name
    p: Share


@record
class TeacherManifest:
    """What an exported teacher is: the content of its ``amalgam.json``.

    Attributes:
        format_version: The version of this format.
        kind: What the folder is: a teacher.
        name: The teacher's name.
        fingerprint: SHA-256 of the teacher's weights, config and tokenizer.
        classes: The names of its classes, in the order of its logits.
        activation: What makes probabilities of its logits: ``softmax``, or the ``sigmoid`` of each.
        max_length: Texts are cut to this many tokens.
        round: How many passes masks are balanced over.
        masks: How masks are drawn.
        precision: The floats that the model computes in.
        dropout_sites: The calls of dropout in a forward run, in order.
        difference: How far its logits are from torch's at most, as a share of the largest.
        bytes: The size of the model.
        versions: Python's version and those of the packages that the teacher was exported with.
        files: File of the folder → its SHA-256; all files but the manifest.
    """

    format_version: Literal[3] = field(default=3, kw_only=True)
    kind: Literal["teacher"] = field(default="teacher", kw_only=True)
    name: Name
    fingerprint: Digest
    classes: Annotated[tuple[Name, ...], Items(most=100_000)]
    activation: Literal["softmax", "sigmoid"]
    max_length: Length
    round: Count
    masks: Literal["systematic", "independent"]
    precision: Literal["fp32", "fp16"]
    dropout_sites: tuple[TeacherSite, ...]
    difference: Annotated[float, Number(at_least=0)]
    bytes: Count
    versions: Versions
    files: Files = field(default_factory=dict)


_Manifest = TypeVar("_Manifest", Manifest, TeacherManifest)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a bundle.

    Raises:
        AmalgamError: The folder is no bundle, or its manifest is damaged or of a format that this version cannot read.
    """
    return parse_manifest(read_manifest_file(folder))


def read_manifest_file(folder: Path) -> FileContent:
    """The content of a bundle's manifest, which is not checked yet.

    Raises:
        AmalgamError: The folder is no bundle.
    """
    return _read_file(folder, "no bundle", "build one with amalgam-edge build")


def parse_manifest(file: FileContent) -> Manifest:
    """The manifest of a bundle from its content.

    Raises:
        AmalgamError: It is damaged, or of a format that this version cannot read, or it is not that of a bundle.
    """
    document = _parse_document(file)
    if document.get("kind") == TEACHER_KIND:
        raise AmalgamError(f"{file.path.parent}: an exported teacher, no bundle; build one with amalgam-edge build")
    return _checked(Manifest, document, file.path.parent)


def read_teacher_manifest(folder: Path) -> TeacherManifest:
    """The manifest of an exported teacher.

    Raises:
        AmalgamError: The folder is no exported teacher, or its manifest is damaged or of a format that this version
            cannot read.
    """
    remedy = "make one with amalgam-edge export-teacher"
    document = _parse_document(_read_file(folder, "no exported teacher", remedy))
    if document.get("kind") != TEACHER_KIND:
        raise AmalgamError(f"{folder}: no exported teacher; {remedy}")
    return _checked(TeacherManifest, document, folder)


def manifest_kind(folder: Path) -> str | None:
    """What the folder's manifest says that it is; None without a manifest. A damaged one is taken for a bundle's."""
    if not (folder / MANIFEST).is_file():
        return None
    try:
        document = read_json(folder / MANIFEST, MOST_BYTES)
    except (AmalgamError, OSError):
        return BUNDLE_KIND
    is_teacher = isinstance(document, dict) and document.get("kind") == TEACHER_KIND
    return TEACHER_KIND if is_teacher else BUNDLE_KIND


def write_manifest(folder: Path, manifest: _Manifest) -> _Manifest:
    """Write a folder's manifest over all of its other files.

    Args:
        folder: The folder, with all files that belong to it.
        manifest: What to write; its ``files`` are replaced by those that are there.

    Returns:
        The manifest as it was written.

    Raises:
        AmalgamError: The manifest would be refused by the reader.
    """
    files = {
        path.relative_to(folder).as_posix(): sha256_of_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST and not leads_elsewhere(path, folder)
    }
    written = replace(manifest, files=files)
    document = to_json(written)
    _checked(type(manifest), document, folder)
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / MANIFEST).write_text(f"{text}\n", "utf-8")
    return written


def finite(value: float) -> float | None:
    """A number as a manifest holds it: None where it is not finite."""
    return float(value) if math.isfinite(value) else None


def _read_file(folder: Path, none: str, remedy: str) -> FileContent:
    try:
        return FileContent.read_start(own_file(folder, MANIFEST), MOST_BYTES + 1)  # the parser refuses more
    except (FileNotFoundError, NotADirectoryError):
        raise AmalgamError(f"{folder}: {none} ({MANIFEST} is not there); {remedy}") from None


def _parse_document(file: FileContent) -> dict[str, Any]:
    """The parsed manifest, brought to this version's format; its entries are not checked yet."""
    path = file.path
    try:
        document = parse_json(file.content, MOST_BYTES)
    except AmalgamError as error:
        raise AmalgamError(f"{path}: a damaged manifest, {error}; copy the bundle again") from error
    version = document.get("format_version") if isinstance(document, dict) else None
    if isinstance(version, bool) or not isinstance(version, int):
        raise AmalgamError(f"{path}: a damaged manifest, format_version is lacking; copy the bundle again")
    if not 1 <= version <= FORMAT_VERSION:
        raise AmalgamError(f"{path}: of format {str(version)[:20]}, {_remedy(version, document)}")
    return migrated(document)


def _checked(cls: type[_Manifest], document: dict[str, Any], folder: Path) -> _Manifest:
    try:
        return from_json(cls, document)
    except AmalgamError as error:
        raise AmalgamError(f"{folder / MANIFEST}: a damaged manifest, {error}; copy the bundle again") from error


def _remedy(version: int, document: Mapping[str, Any]) -> str:
    """Why a format cannot be read, and what to do."""
    if version < FORMAT_VERSION:
        return f"older than this version of amalgam-edge can read ({FORMAT_VERSION}); build it again"
    versions = document.get("versions")
    writer = versions.get("amalgam-edge") if isinstance(versions, dict) else None
    named = isinstance(writer, str) and _VERSION.fullmatch(writer)
    needed = f"amalgam-edge>={writer}" if named else "--upgrade amalgam-edge"
    return f'newer than this version of amalgam-edge can read ({FORMAT_VERSION}); pip install "{needed}"'
