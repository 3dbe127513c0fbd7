"""A bundle on disk: what its manifest says, and whether its files are the ones that were built."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from amalgam_edge.errors import AmalgamError
from amalgam_edge.runtime.manifest import MANIFEST, STATIC, Manifest, read_manifest
from amalgam_edge.runtime.manifest_models import StaticModel
from amalgam_edge.storage.fingerprints import sha256_of_file

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


@dataclass(frozen=True)
class Bundle:
    """The directory that ships.

    Attributes:
        folder: The directory.
        manifest: The content of its ``amalgam.json``.
    """

    folder: Path
    manifest: Manifest

    @classmethod
    def open(cls, folder: str | Path) -> Bundle:
        """Read a bundle's manifest; its files are checked when they are asked for.

        Raises:
            AmalgamError: The folder is no bundle, or its manifest is damaged or of a format that this version cannot
                read.
        """
        folder = Path(folder)
        return cls(folder, read_manifest(folder))

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """The names of the labels, in the order of the logits."""
        return tuple(label.name for label in self.manifest.labels)

    @property
    def precisions(self) -> tuple[str, ...]:
        """The precisions of its models."""
        return tuple(self.manifest.precisions)

    @property
    def default_precision(self) -> str:
        """The precision that is used where none is named."""
        return self.manifest.default_precision

    @property
    def abstain(self) -> float:
        """Below this score no label is given; 0 where there is no such threshold."""
        return self.manifest.abstain

    @property
    def is_static(self) -> bool:
        """Whether its student has no layers."""
        return self.manifest.model_type == STATIC

    @property
    def cascade(self) -> StaticModel | None:
        """The static student that answers before the encoder; None where there is none."""
        return self.manifest.cascade.static_model if self.manifest.cascade else None

    def file(self, name: str) -> Path:
        """A file of the bundle, checked against its SHA-256.

        Raises:
            AmalgamError: The file is missing, was not built with the bundle, or was changed since.
        """
        expected = self.manifest.files.get(name)
        path = self.folder / name
        if expected is None or not path.is_file():
            raise AmalgamError(f"{path}: missing from the bundle; copy the bundle again")
        if sha256_of_file(path) != expected:
            raise AmalgamError(f"{path}: damaged or changed since the bundle was built; copy the bundle again")
        return path

    def model_file(self, precision: str | None = None) -> Path:
        """The ONNX model of a precision, by default the bundle's own choice, checked.

        Raises:
            AmalgamError: The bundle has no model of that precision.
        """
        precision = precision or self.default_precision
        if precision not in self.precisions:
            raise AmalgamError(f"{self.folder}: no precision '{precision}'; it has {', '.join(self.precisions)}")
        return self.file(self.manifest.precisions[precision].file)

    def verify(self, *, without: Collection[str] = ()) -> None:
        """Check every file against its SHA-256.

        Args:
            without: Names of files that need not be checked.

        Raises:
            AmalgamError: A file is missing or was changed.
        """
        for name in self.manifest.files:
            if name not in without:
                self.file(name)


def version_of(folder: str | Path) -> str:
    """The first digits of the SHA-256 of a bundle's manifest, which names those of all files; empty where none is.

    Raises:
        OSError: There is a manifest, but it cannot be read, perhaps for now only.
    """
    try:
        return sha256_of_file(Path(folder) / MANIFEST)[:12]
    except (FileNotFoundError, NotADirectoryError):
        return ""
