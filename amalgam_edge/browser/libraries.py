"""The JavaScript libraries that a page runs a student with: fetched once, checked, and kept.

They are packages of the npm registry, pinned by version and SHA-512 of their archives, of which a few files are taken.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from platformdirs import user_cache_path

from amalgam_edge.errors import AmalgamError
from amalgam_edge.storage.staging import staged

FOLDER_VARIABLE = "AMALGAM_WEB_LIBRARIES"
_REGISTRY_VARIABLES = ("npm_config_registry", "NPM_CONFIG_REGISTRY")
_SECONDS = 60


@dataclass(frozen=True)
class Package:
    """A package of the registry.

    Attributes:
        name: of the package.
        version: the one that was tested.
        sha512: of its archive, in base64.
        files: that are taken, as they lie in the archive below ``package/``.
    """

    name: str
    version: str
    sha512: str
    files: tuple[str, ...]


PACKAGES = (
    Package(
        "onnxruntime-web",
        "1.30.0",
        "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ==",
        ("dist/ort.wasm.min.mjs", "dist/ort-wasm-simd-threaded.mjs", "dist/ort-wasm-simd-threaded.wasm"),
    ),
    Package(
        "@huggingface/tokenizers",
        "0.2.0",
        "LidMHe1FpcSYH4vcSjXooda34pC0M8m1gmDOv7SQi6Iv+ib1zX7J3sHBCC9/3FPCkn2k1b55FneVqMRxrr99pg==",
        ("dist/tokenizers.min.mjs", "LICENSE"),
    ),
)
FILES = tuple(Path(file).name for package in PACKAGES for file in package.files)


def find_libraries() -> Path | None:
    """The folder that holds the libraries; None where they have not been fetched yet."""
    folder = _folder()
    return folder if all((folder / name).is_file() for name in FILES) else None


def get_libraries(say: Callable[[str], None] = lambda line: None) -> Path:
    """The folder that holds the libraries, fetched where it does not yet.

    Args:
        say: told of what is fetched.

    Raises:
        AmalgamError: they cannot be had, or are not what was tested.
    """
    folder = find_libraries()
    if folder is not None:
        return folder
    folder = _folder()
    if os.environ.get(FOLDER_VARIABLE):
        missing = [name for name in FILES if not (folder / name).is_file()]
        raise AmalgamError(f"{folder}: lacks {', '.join(missing)} (it is what {FOLDER_VARIABLE} names)")
    with staged(folder) as staging:
        for package in PACKAGES:
            say(f"fetching {package.name} {package.version}")
            for name, content in _taken(package, _archive(package)).items():
                (staging / name).write_bytes(content)
    return folder


def _folder() -> Path:
    """Where the libraries are, or will be; versions that differ lie apart."""
    named = os.environ.get(FOLDER_VARIABLE)
    if named:
        return Path(named)
    pins = "".join(package.sha512 for package in PACKAGES).encode()
    return user_cache_path("amalgam-edge") / "browser" / hashlib.sha256(pins).hexdigest()[:12]


def _archive(package: Package) -> bytes:
    registry = _registry().rstrip("/")
    url = f"{registry}/{package.name}/-/{package.name.split('/')[-1]}-{package.version}.tgz"
    if not url.startswith(("https://", "http://")):
        raise AmalgamError(
            f"{registry or 'no npm here'}: no address of an npm registry; name one with {_REGISTRY_VARIABLES[0]}, or a "
            f"folder that holds {', '.join(FILES)} with {FOLDER_VARIABLE}"
        )
    try:
        with urlopen(url, timeout=_SECONDS) as response:  # noqa: S310  (http or https alone, see above)
            archive: bytes = response.read()
    except (URLError, OSError, ValueError) as error:
        raise AmalgamError(
            f"{url}: cannot be fetched ({getattr(error, 'reason', error)}). The page needs it to run a model in the "
            f"browser: name another registry with {_REGISTRY_VARIABLES[0]}, or a folder that holds {', '.join(FILES)} "
            f"with {FOLDER_VARIABLE}"
        ) from error
    if base64.b64encode(hashlib.sha512(archive).digest()).decode() != package.sha512:
        raise AmalgamError(f"{url}: not the archive that was tested (its SHA-512 differs)")
    return archive


def _registry() -> str:
    """The address that the environment names, or else npm's own setting; empty where there is no npm."""
    named = next(filter(None, map(os.environ.get, _REGISTRY_VARIABLES)), None)
    npm = shutil.which("npm")
    if named or not npm:
        return named or ""
    asked = subprocess.run([npm, "config", "get", "registry"], capture_output=True, text=True, check=False)  # noqa: S603
    return asked.stdout.strip()


def _taken(package: Package, archive: bytes) -> dict[str, bytes]:
    """Name → content of the files that are taken; nothing else is unpacked."""
    taken = {}
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
        for file in package.files:
            handle = tar.extractfile(f"package/{file}")
            if handle is None:
                raise AmalgamError(f"{package.name} {package.version}: holds no {file}")
            taken[Path(file).name] = handle.read()
    return taken
