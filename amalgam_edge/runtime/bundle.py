"""A bundle on disk: what its manifest says, and whether its files are the ones that were built."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from amalgam_edge.errors import AmalgamError
from amalgam_edge.fingerprints import of_file

MANIFEST = "amalgam.json"
FORMAT_VERSION = 1
TEACHER_KIND = "teacher"
_ENTRIES = ("labels", "precisions", "default_precision", "files", "max_length", "pad_token_id")
TOKENIZER, RECIPE, REPORT, CARD = "tokenizer.json", "recipe.yaml", "report.html", "README.md"
STATIC = "static"  # the model type of a student without layers
STATIC_FILE = "onnx/model_static.onnx"
MODEL_FILES = {"fp32": "onnx/model.onnx", "int8": "onnx/model_quantized.onnx"}


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
            AmalgamError: it is no bundle, a damaged one, or of a later format.
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
        if version > FORMAT_VERSION:
            raise AmalgamError(f"{path}: of format {version}, newer than this version of amalgam-edge can read")
        if manifest.get("kind") == TEACHER_KIND:
            raise AmalgamError(f"{folder}: an exported teacher, no bundle; build one with amalgam-edge build")
        missing = next((name for name in _ENTRIES if manifest.get(name) is None), None)
        if missing is not None:
            raise AmalgamError(f"{path}: a damaged manifest, it lacks {missing}; copy the bundle again")
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
        if of_file(path) != expected:
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
        return self.file(MODEL_FILES[precision])

    def verify(self) -> None:
        """Check every file.

        Raises:
            AmalgamError: one is missing or was changed.
        """
        for name in self.manifest["files"]:
            self.file(name)
