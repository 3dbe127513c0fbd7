"""A bundle on disk: what its manifest says, and whether its files are the ones that were built.

Whoever made the folder, its files are read as regular files of the folder itself, once and whole, and what is used is
what was checked.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from amalgam_edge.errors import AmalgamError, first_line
from amalgam_edge.runtime.manifest import MANIFEST, STATIC, Manifest, parse_manifest, read_manifest_file
from amalgam_edge.runtime.manifest_models import StaticModel
from amalgam_edge.storage.fingerprints import sha256_of_bytes, sha256_of_file
from amalgam_edge.storage.own_files import FileContent, own_file
from amalgam_edge.storage.staging import recover

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
_GPU_PRECISIONS = ("fp16", "fp32")  # those that a GPU computes with best, the fastest first
_VERSION_DIGITS = 12


@dataclass(frozen=True, repr=False)
class Bundle:
    """The directory that ships.

    Attributes:
        folder: The directory.
        manifest: The content of its ``amalgam.json``.
        digest: SHA-256 of that file, which names those of all other files; empty for a bundle that was not read.
    """

    folder: Path
    manifest: Manifest
    digest: str = ""

    @classmethod
    def open(cls, folder: str | Path) -> Bundle:
        """Read a bundle's manifest; its files are checked when they are asked for.

        Raises:
            AmalgamError: The folder is no bundle, or its manifest is damaged or of a format that this version cannot
                read.
        """
        folder = Path(folder)
        if not folder.exists():
            recover(folder)  # whoever replaced it may have been killed between two renames
        content = read_manifest_file(folder)
        return cls(folder, parse_manifest(content), sha256_of_bytes(content.content))

    @property
    def version(self) -> str:
        """The first digits of its digest."""
        return self.digest[:_VERSION_DIGITS]

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

    def default_precision_on(self, device: str) -> str:
        """The precision that is used on a device where none is named.

        A GPU takes the first of the float models, half floats first: ONNX Runtime has no CUDA kernels for most of what
        int8 models compute with, and would copy between GPU and CPU at each of these operations.
        """
        floats = [] if device == "cpu" else [name for name in _GPU_PRECISIONS if name in self.precisions]
        return next(iter(floats), self.default_precision)

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

    def read(self, name: str) -> FileContent:
        """The content of a file of the bundle, checked against its SHA-256.

        Raises:
            AmalgamError: The file is missing, is a link, was not built with the bundle, or was changed since.
        """
        content = FileContent.read(self._path(name))
        self._require_digest(name, sha256_of_bytes(content.content))
        return content

    def check(self, name: str) -> None:
        """Check a file of the bundle against its SHA-256 without holding it in memory.

        Raises:
            AmalgamError: As for :meth:`read`.
        """
        path = self._path(name)
        try:
            digest = sha256_of_file(path)
        except OSError as error:
            raise AmalgamError(f"{path}: cannot be read ({error.strerror or first_line(error)})") from error
        self._require_digest(name, digest)

    def size(self, name: str) -> int:
        """The size in bytes of a file of the bundle, whose content is not checked.

        Raises:
            AmalgamError: The file is missing, is a link, or was not built with the bundle.
        """
        return self._path(name).stat().st_size

    def _path(self, name: str) -> Path:
        """The path of a file that the manifest lists; a regular file stands there."""
        if self._digest_of(name) is not None:
            with suppress(FileNotFoundError, NotADirectoryError):
                return own_file(self.folder, name)
        raise AmalgamError(f"{self.folder / name}: missing from the bundle; copy the bundle again")

    def _digest_of(self, name: str) -> str | None:
        """The SHA-256 that a file must have, the manifest included; None for a file that was not built with them."""
        return self.digest if name == MANIFEST else self.manifest.files.get(name)

    def _require_digest(self, name: str, digest: str) -> None:
        if digest != self._digest_of(name):
            path = self.folder / name
            raise AmalgamError(f"{path}: damaged or changed since the bundle was built; copy the bundle again")

    def read_model(self, precision: str | None = None) -> FileContent:
        """The ONNX model of a precision, by default the bundle's own choice, checked.

        Raises:
            AmalgamError: The bundle has no model of that precision, or as for :meth:`read`.
        """
        return self.read(self.model_name(precision))

    def model_name(self, precision: str | None = None) -> str:
        """The path in the bundle of a precision's ONNX model, by default the bundle's own choice.

        Raises:
            AmalgamError: The bundle has no model of that precision.
        """
        precision = precision or self.default_precision
        if precision not in self.precisions:
            raise AmalgamError(f"{self.folder}: no precision '{precision}'; it has {', '.join(self.precisions)}")
        return self.manifest.precisions[precision].file

    def verify(self, *, without: Collection[str] = ()) -> None:
        """Check every file against its SHA-256.

        Args:
            without: Names of files that need not be checked.

        Raises:
            AmalgamError: A file is missing, is a link, or was changed.
        """
        for name in self.manifest.files:
            if name not in without:
                self.check(name)

    def __repr__(self) -> str:
        precisions = ", ".join(self.precisions)
        return f"<Bundle {str(self.folder)!r}: version {self.version}, {precisions}, {len(self.labels)} labels>"


def version_of(folder: str | Path) -> str:
    """The first digits of the SHA-256 of a bundle's manifest, which names those of all files; empty where none is.

    Raises:
        OSError: There is a manifest, but it cannot be read, perhaps for now only.
    """
    try:
        return sha256_of_file(Path(folder) / MANIFEST)[:_VERSION_DIGITS]
    except (FileNotFoundError, NotADirectoryError):
        return ""
