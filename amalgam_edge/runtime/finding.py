"""Finding a bundle: in a folder, or on the Hub by its name."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, Unpack

from amalgam_edge.errors import AmalgamError
from amalgam_edge.runtime.bundle import Bundle, version_of
from amalgam_edge.runtime.hub import HubOptions, fetch_first
from amalgam_edge.runtime.manifest import MANIFEST
from amalgam_edge.storage.staging import recover

_HUB_NAME = re.compile(r"\w[\w.-]*/[\w.-]+", re.ASCII)
_MOST_REPLACEMENTS = 10
_T = TypeVar("_T")


def find_bundle(source: str | Path, **hub: Unpack[HubOptions]) -> Bundle:
    """Open a bundle from a folder, or from the Hub where ``owner/name`` is no folder here.

    Of a bundle of the Hub the manifest is fetched; every other file is once it is used.

    Args:
        source: The bundle's folder, or its name on the Hub.
        hub: How a bundle of the Hub is fetched.

    Raises:
        AmalgamError: There is no bundle, or it is damaged or cannot be had, or a folder was given with a revision.
    """
    folder = Path(source)
    if folder.exists() or recover(folder) or not _HUB_NAME.fullmatch(str(source)):
        if folder.exists() and hub.get("revision"):
            raise AmalgamError(f"{source}: a folder here, which has no revisions; leave the revision out")
        return Bundle.open(folder)
    try:
        return Bundle.open(*fetch_first(MANIFEST, str(source), **hub))
    except FileNotFoundError as error:
        raise AmalgamError(
            f"{source}: no bundle ({MANIFEST} is not in the repository); publish one with amalgam-edge push"
        ) from error


def load_unchanged(source: str | Path, load: Callable[[Bundle], _T], **hub: Unpack[HubOptions]) -> _T:
    """What ``load`` makes of a bundle; made again where the bundle was replaced by another one meanwhile.

    Raises:
        AmalgamError: There is no bundle, or it is damaged or cannot be had, or it was replaced again and again.
    """
    for _ in range(_MOST_REPLACEMENTS):
        bundle = find_bundle(source, **hub)
        try:
            return load(bundle)
        except AmalgamError:
            if version_of(bundle.folder) == bundle.version:
                raise
    raise AmalgamError(f"{source}: replaced again and again while it was read; try again")
