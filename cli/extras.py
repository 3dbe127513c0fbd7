"""Imports of modules that need optional packages, and settings that keep those packages quiet."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType

from amalgam_edge.errors import MissingExtraError

_QUIET = {
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_VERBOSITY": "error",  # it tells each retry; when the last one fails, the error is ours to tell
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "true",
}


@contextmanager
def needs_extra(extra: str, feature: str) -> Iterator[None]:
    """Name the extra to install if an import in the block finds a package missing.

    >>> with needs_extra("serve", "serving"):
    ...     from amalgam_edge.serving.server import run_server

    Args:
        extra: Name of the extra, as in ``pip install "amalgam-edge[EXTRA]"``.
        feature: What the command needs the packages for, as the error's first words.

    Raises:
        MissingExtraError: A package is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "amalgam_edge":
            raise
        raise MissingExtraError(feature, extra, error) from error


def load_training_part(module: str, feature: str) -> ModuleType:
    """Import a module of the library that needs the ``train`` extra; see :func:`load_part`."""
    return load_part(module, feature, "train")


def load_part(module: str, feature: str, extra: str) -> ModuleType:
    """Import a module of the library that needs an extra.

    Raises:
        MissingExtraError: the extra is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("amalgam_edge"):
            raise
        raise MissingExtraError(feature, extra, error) from error


def quiet_libraries() -> None:
    """Switch off the bars and remarks of libraries; the command line shows its own progress.

    They read these variables when they are imported, so nothing need be imported here.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
