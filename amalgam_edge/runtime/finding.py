"""Finding a bundle: in a folder, or on the Hub by its name."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from amalgam_edge.errors import AmalgamError
from amalgam_edge.runtime.bundle import Bundle, version_of

_HUB_NAME = re.compile(r"\w[\w.-]*/[\w.-]+", re.ASCII)
_MOST_REPLACEMENTS = 10
_T = TypeVar("_T")


def find_bundle(source: str | Path) -> Bundle:
    """Open a bundle from a folder, or download it from the Hub where ``owner/name`` is no folder here.

    Raises:
        AmalgamError: There is no bundle, or it is damaged.
    """
    folder = Path(source)
    if not folder.exists() and _HUB_NAME.fullmatch(str(source)):
        folder = _download(str(source))
    return Bundle.open(folder)


def load_unchanged(source: str | Path, load: Callable[[Bundle], _T]) -> _T:
    """What ``load`` makes of a bundle; made again where the bundle was replaced by another one meanwhile.

    Raises:
        AmalgamError: There is no bundle, or it is damaged, or it was replaced again and again.
    """
    for _ in range(_MOST_REPLACEMENTS):
        bundle = find_bundle(source)
        try:
            return load(bundle)
        except AmalgamError:
            if version_of(bundle.folder) == bundle.version:
                raise
    raise AmalgamError(f"{source}: replaced again and again while it was read; try again")


def _download(name: str) -> Path:
    """A folder with the files of a bundle on the Hub."""
    from huggingface_hub import snapshot_download  # a dependency of tokenizers, slow to import

    try:
        return Path(snapshot_download(name))
    except Exception as error:  # network, authentication and naming errors share no base class
        raise AmalgamError(f"{name}: neither a folder here nor a bundle that can be had from the Hub") from error
