"""Keeping optional packages quiet while the command line runs."""

from __future__ import annotations

import os

_QUIET = {
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_VERBOSITY": "error",  # the Hub's client reports each retry; the command line reports the last failure
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "true",
}


def quiet_libraries() -> None:
    """Switch off the progress bars and remarks of libraries; the command line shows its own.

    Libraries read these variables when they are imported, so this comes before their imports.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
