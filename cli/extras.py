"""Loading the parts of the library that need optional packages, and keeping those packages quiet."""

from __future__ import annotations

import os
from importlib import import_module
from types import ModuleType

from amalgam_edge.errors import MissingExtraError


def load_training_part(module: str, feature: str) -> ModuleType:
    """Import a module of the library that needs the ``train`` extra.

    Raises:
        MissingExtraError: the extra is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("amalgam_edge"):
            raise
        raise MissingExtraError(feature, "train", error) from error


def quiet_libraries() -> None:
    """Switch off the bars and reports of libraries; the command line shows its own progress."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    transformers_logging = load_training_part("transformers.utils.logging", "reading models")
    transformers_logging.disable_progress_bar()
    load_training_part("datasets", "reading texts").disable_progress_bars()
    # The Hub's client tells each retry of a request; when the last one fails, the error is ours to tell.
    load_training_part("huggingface_hub.utils.logging", "reading models").set_verbosity_error()
