"""A bundle on disk: what its manifest says, and whether its files are the ones that were built."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from amalgam_edge.errors import AmalgamError
from amalgam_edge.runtime.model_types import STATIC
from amalgam_edge.storage.fingerprints import sha256_of_file

MANIFEST = "amalgam.json"
FORMAT_VERSION = 1
TEACHER_KIND = "teacher"
TOKENIZER, RECIPE, REPORT, CARD = "tokenizer.json", "recipe.yaml", "report.html", "README.md"
STATIC_FILE = "onnx/model_static.onnx"
MODEL_FILES = {
    "fp32": "onnx/model.onnx",
    "int8": "onnx/model_quantized.onnx",
    "fp16": "onnx/model_fp16.onnx",
    "w8": "onnx/model_w8.onnx",
    "q4": "onnx/model_q4.onnx",
    "int8-pq": "onnx/model_int8_pq.onnx",
}


def _stays_inside(name: Any) -> bool:
    """Whether a file's name leads to no place outside of the bundle."""
    return (
        isinstance(name, str)
        and ".." not in PurePosixPath(name).parts
        and not name.startswith("/")
        and (not set(name) & set("\\:"))
    )


# What a bundle cannot do without, and whether it can be used as it stands.
_ENTRIES: dict[str, Callable[[Any], bool]] = {
    "labels": lambda entry: isinstance(entry, list) and all(isinstance(label["name"], str) for label in entry),
    "precisions": lambda entry: all(_stays_inside(row["file"]) for row in entry.values()),
    "default_precision": lambda entry: isinstance(entry, str),
    "files": lambda entry: isinstance(entry, dict) and all(_stays_inside(name) for name in entry),
    "max_length": lambda entry: isinstance(entry, int) and entry > 0,
    "pad_token_id": lambda entry: isinstance(entry, int) and entry >= 0,
}
# What bundles of earlier versions do not have.
_LATER_ENTRIES: dict[str, Callable[[Any], bool]] = {
    "abstain": lambda entry: 0 <= entry <= 1,
    "cascade": lambda entry: isinstance(entry, dict),
}


@dataclass(frozen=True)
class Bundle:
    """The directory that ships.

    Attributes:
        folder: where it is.
        manifest: the content of ``amalgam.json``.
    """

    folder: Path
    manifest: dict[str, Any]

    @classmethod
    def open(cls, folder: str | Path) -> Bundle:
        """Read a bundle's manifest; its files are checked when they are asked for.

        Raises:
            AmalgamError: it is no bundle, a damaged one, or of a format that this version cannot read.
        """
        folder = Path(folder)
        path = folder / MANIFEST
        if not path.is_file():
            raise AmalgamError(f"{folder}: no bundle ({MANIFEST} is not there); build one with amalgam-edge build")
        try:
            manifest = json.loads(path.read_text("utf-8"))
            version = int(manifest["format_version"])
        except (ValueError, KeyError, TypeError) as error:
            raise AmalgamError(f"{path}: a damaged manifest; copy the bundle again") from error
        if version != FORMAT_VERSION:
            raise AmalgamError(f"{path}: of format {version}, {_remedy(version, manifest)}")
        if manifest.get("kind") == TEACHER_KIND:
            raise AmalgamError(f"{folder}: an exported teacher, no bundle; build one with amalgam-edge build")
        fault = _fault(manifest)
        if fault is not None:
            raise AmalgamError(f"{path}: a damaged manifest, {fault}; copy the bundle again")
        return cls(folder, manifest)

    @property
    def labels(self) -> tuple[str, ...]:
        """The label space's names, in the order of the logits."""
        return tuple(label["name"] for label in self.manifest["labels"])

    @property
    def precisions(self) -> tuple[str, ...]:
        """The precisions that it carries."""
        return tuple(self.manifest["precisions"])

    @cached_property
    def default_precision(self) -> str:
        """The precision that is used where none is named."""
        return str(self.manifest["default_precision"])

    @property
    def abstain(self) -> float:
        """Below this score no label is given; 0 where there is no such threshold."""
        return float(self.manifest.get("abstain") or 0.0)

    @property
    def is_static(self) -> bool:
        """Whether its student has no layers."""
        return self.manifest.get("model_type") == STATIC

    @property
    def cascade(self) -> dict[str, Any] | None:
        """The manifest's account of the static student that answers before the encoder; None where there is none."""
        entry = self.manifest.get("cascade")
        return entry if entry and entry.get("file") else None

    def file(self, name: str) -> Path:
        """A file of the bundle, checked against its SHA-256.

        Raises:
            AmalgamError: it is missing, was not built with the bundle, or was changed since.
        """
        expected = self.manifest["files"].get(name)
        path = self.folder / name
        if expected is None or not path.is_file():
            raise AmalgamError(f"{path}: missing from the bundle; copy the bundle again")
        if sha256_of_file(path) != expected:
            raise AmalgamError(f"{path}: damaged or changed since the bundle was built; copy the bundle again")
        return path

    def model_file(self, precision: str | None = None) -> Path:
        """The ONNX model of a precision, checked.

        Raises:
            AmalgamError: the bundle does not carry that precision.
        """
        precision = precision or self.default_precision
        if precision not in self.precisions:
            raise AmalgamError(f"{self.folder}: no precision '{precision}'; it has {', '.join(self.precisions)}")
        return self.file(self.manifest["precisions"][precision]["file"])

    def verify(self, *, without: Collection[str] = ()) -> None:
        """Check every file.

        Args:
            without: names of files that need not be checked.

        Raises:
            AmalgamError: one is missing or was changed.
        """
        for name in self.manifest["files"]:
            if name not in without:
                self.file(name)


def version_of(folder: str | Path) -> str:
    """The first digits of the SHA-256 of a bundle's manifest, which names those of all files; empty where none is."""
    try:
        return sha256_of_file(Path(folder) / MANIFEST)[:12]
    except OSError:
        return ""


def _remedy(version: int, manifest: dict[str, Any]) -> str:
    """Why a format cannot be read, and what to do."""
    if version < FORMAT_VERSION:
        return f"older than this version of amalgam-edge can read ({FORMAT_VERSION}); build it again"
    versions = manifest.get("versions")
    writer = versions.get("amalgam-edge") if isinstance(versions, dict) else None
    wanted = f"amalgam-edge>={writer}" if writer else "--upgrade amalgam-edge"
    return f'newer than this version of amalgam-edge can read ({FORMAT_VERSION}); pip install "{wanted}"'


def _fault(manifest: dict[str, Any]) -> str | None:
    """What is wrong with a manifest's entries; None where nothing is."""
    for name, usable in {**_ENTRIES, **_LATER_ENTRIES}.items():
        entry = manifest.get(name)
        if entry is None:
            if name in _ENTRIES:
                return f"it lacks {name}"
            continue
        try:
            if usable(entry):
                continue
        except (TypeError, KeyError, AttributeError):
            pass
        return f"its {name} cannot be read"
    return None
