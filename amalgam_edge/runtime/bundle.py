"""A bundle on disk: what its manifest says, and whether its files are the ones that were built.

Whoever made the folder, its files are read as regular files of the folder itself, once and whole, and what is used is
what was checked. Files for people and models that are not needed may be changed or deleted, see :data:`FOR_PEOPLE` and
:meth:`Bundle.may_lack`.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from amalgam_edge.errors import AmalgamError, first_line
from amalgam_edge.heads import Heads
from amalgam_edge.runtime.hub import HubFiles
from amalgam_edge.runtime.manifest import MANIFEST, STATIC, Manifest, parse_manifest, read_manifest_file
from amalgam_edge.runtime.manifest_models import StaticModel
from amalgam_edge.storage.fingerprints import sha256_of_bytes, sha256_of_file
from amalgam_edge.storage.own_files import FileContent, own_file
from amalgam_edge.storage.staging import recover

TOKENIZER, RECIPE, REPORT, CARD = "tokenizer.json", "recipe.yaml", "report.html", "README.md"
FOR_PEOPLE = frozenset({RECIPE, REPORT, CARD})  # nothing computes with them, so people may edit or delete them
TORCH_STUDENT = "model.safetensors"
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
        hub: Where files come from that are not in the folder yet; None for a bundle that is not of the Hub.
    """

    folder: Path
    manifest: Manifest
    digest: str = ""
    hub: HubFiles | None = None

    @classmethod
    def open(cls, folder: str | Path, hub: HubFiles | None = None) -> Bundle:
        """Read a bundle's manifest; its files are checked when they are asked for.

        Args:
            folder: The directory.
            hub: Where files come from that are not in the folder yet.

        Raises:
            AmalgamError: The folder is no bundle, or its manifest is damaged or of a format that this version cannot
                read.
        """
        folder = Path(folder)
        if not folder.exists():
            recover(folder)  # whoever replaced it may have been killed between two renames
        content = read_manifest_file(folder)
        return cls(folder, parse_manifest(content), sha256_of_bytes(content.content), hub)

    @property
    def source(self) -> str:
        """What it was opened from: a folder, or ``owner/name`` on the Hub."""
        return self.hub.repository if self.hub else str(self.folder)

    @property
    def name(self) -> str:
        """The last part of where it is, which people call it by."""
        return Path(self.source).resolve().name

    @property
    def version(self) -> str:
        """The first digits of its digest."""
        return self.digest[:_VERSION_DIGITS]

    @cached_property
    def heads(self) -> Heads:
        """The questions that its student answers, in the order of the logits."""
        return self.manifest.answers

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the labels, in the order of the logits; of several heads ``head/label``."""
        return self.heads.labels

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
    def is_static(self) -> bool:
        """Whether its student has no layers."""
        return self.manifest.model_type == STATIC

    @property
    def cascade(self) -> StaticModel | None:
        """The static student that answers before the encoder; None where there is none."""
        return self.manifest.cascade.static_model if self.manifest.cascade else None

    def read(self, name: str) -> FileContent:
        """The content of a file of the bundle, checked against its SHA-256 unless it is for people.

        Raises:
            AmalgamError: The file is missing, is a link, was not built with the bundle, was changed since, or cannot
                be had from the Hub.
        """
        content = FileContent.read(self._path(name))
        if name not in FOR_PEOPLE:
            self._require_digest(name, sha256_of_bytes(content.content))
        return content

    def check(self, name: str) -> None:
        """Check a file of the bundle against its SHA-256, unless it is for people, without holding it in memory.

        Raises:
            AmalgamError: As for :meth:`read`.
        """
        digest = self._current_digest(name)
        if name not in FOR_PEOPLE:
            self._require_digest(name, digest)

    def size(self, name: str) -> int:
        """The size in bytes of a file of the bundle, whose content is not checked.

        Raises:
            AmalgamError: The file is missing, is a link, was not built with the bundle, or cannot be had from the Hub.
        """
        return self._path(name).stat().st_size

    def has(self, name: str) -> bool:
        """Whether a file that was built with the bundle is there; one of the Hub is fetched.

        Raises:
            AmalgamError: The file is a link, or cannot be had from the Hub though it may be there.
        """
        return self._find(name) is not None

    def may_lack(self, name: str) -> bool:
        """Whether a file that was built with the bundle may be missing.

        That is so for those that are for people, for models of all precisions but the default one, and for the static
        student of a cascade.
        """
        default = self.manifest.precisions.get(self.default_precision)
        return name in FOR_PEOPLE or (name in model_files(self.manifest) and (default is None or name != default.file))

    def missing(self) -> tuple[str, ...]:
        """The files that the bundle may lack and does lack."""
        return tuple(name for name in self.manifest.files if self.may_lack(name) and not self.has(name))

    def edited(self) -> tuple[str, ...]:
        """The files for people that are there and were changed since the bundle was built."""
        files = [name for name in self.manifest.files if name in FOR_PEOPLE and self.has(name)]
        return tuple(name for name in files if self._current_digest(name) != self._digest_of(name))

    def available_precisions(self) -> tuple[str, ...]:
        """The precisions whose model is there, and the default one in any case."""
        named = self.manifest.precisions.items()
        return tuple(name for name, model in named if not self.may_lack(model.file) or self.has(model.file))

    def _path(self, name: str) -> Path:
        """The path of a file that the manifest lists; a regular file stands there."""
        path = self._find(name)
        if path is None:
            raise AmalgamError(f"{self.folder / name}: missing from the bundle; {self._remedy}")
        return path

    def _find(self, name: str) -> Path | None:
        """The path of a file that the manifest lists; None where there is none, and the Hub has none either."""
        if self._digest_of(name) is None:
            return None
        with suppress(FileNotFoundError, NotADirectoryError):
            return own_file(self.folder, name)
        with suppress(FileNotFoundError):
            if self.hub is not None:
                self.hub.fetch(name)
                return own_file(self.folder, name)
        return None

    @property
    def _remedy(self) -> str:
        """What to do about a damaged file."""
        if self.hub is None:
            return "copy the bundle again"
        return f"delete {self.folder.parents[1]}, from where it is fetched again, or publish the bundle again"

    def _current_digest(self, name: str) -> str:
        path = self._path(name)
        try:
            return sha256_of_file(path)
        except OSError as error:
            raise AmalgamError(f"{path}: cannot be read ({error.strerror or first_line(error)})") from error

    def _digest_of(self, name: str) -> str | None:
        """The SHA-256 that a file must have, the manifest included; None for a file that was not built with them."""
        return self.digest if name == MANIFEST else self.manifest.files.get(name)

    def _require_digest(self, name: str, digest: str) -> None:
        if digest != self._digest_of(name):
            path = self.folder / name
            raise AmalgamError(f"{path}: damaged or changed since the bundle was built; {self._remedy}")

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
            raise AmalgamError(f"{self.source}: no precision '{precision}'; it has {', '.join(self.precisions)}")
        return self.manifest.precisions[precision].file

    def verify(self) -> None:
        """Check every file against its SHA-256, but for those that the bundle may lack or that are for people.

        Raises:
            AmalgamError: A file is missing, is a link, or was changed.
        """
        for name in self.manifest.files:
            if not self.may_lack(name) or self.has(name):
                self.check(name)

    def __repr__(self) -> str:
        precisions = ", ".join(self.precisions)
        heads = f"{len(self.heads)} heads, " if len(self.heads) > 1 else ""
        return f"<Bundle {self.source!r}: version {self.version}, {precisions}, {heads}{len(self.labels)} labels>"


def model_files(manifest: Manifest) -> set[str]:
    """The files of a bundle's models: of each precision, and of the cascade's static student."""
    files = {model.file for model in manifest.precisions.values()}
    if manifest.cascade and manifest.cascade.static_model:
        files.add(manifest.cascade.static_model.file)
    return files


def version_of(folder: str | Path) -> str:
    """The first digits of the SHA-256 of a bundle's manifest, which names those of all files; empty where none is.

    Raises:
        OSError: There is a manifest, but it cannot be read, perhaps for now only.
    """
    try:
        return sha256_of_file(Path(folder) / MANIFEST)[:_VERSION_DIGITS]
    except (FileNotFoundError, NotADirectoryError):
        return ""
