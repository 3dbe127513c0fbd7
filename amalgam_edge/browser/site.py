"""What the page is made of: its own files, a bundle's, and the libraries; as files for any web host."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from amalgam_edge.browser.libraries import FILES, get_libraries
from amalgam_edge.errors import AmalgamError
from amalgam_edge.runtime.bundle import TOKENIZER, Bundle, version_of
from amalgam_edge.runtime.tokens import special_tokens
from amalgam_edge.storage.staging import staged

PAGE_FILES = ("index.html", "page.css", "page.js", "model.js", "offline.js")
CONFIG = "config.json"
_TOKENIZER_CONFIG = "tokenizer_config.json"
_MODEL = "model.onnx"
_SMALLEST_FIRST = ("int8", "int8-pq", "q4", "w8", "fp32")  # that a browser runs
MARK = ".amalgam-edge-page"


def page_file(name: str) -> bytes:
    """One of the page's own files."""
    return (files("amalgam_edge.browser") / "page" / name).read_bytes()


def model_files(bundle: Bundle) -> dict[str, Path]:
    """Name on the page → file, of what a browser needs of a bundle, each checked against its SHA-256.

    Raises:
        AmalgamError: one is damaged, or the bundle has no model that a browser runs.
    """
    precision = browser_precision(bundle)
    config = bundle.folder / _TOKENIZER_CONFIG
    own = {TOKENIZER: bundle.file(TOKENIZER), _MODEL: bundle.model_file(precision)}
    if _TOKENIZER_CONFIG in bundle.manifest.files:
        own[_TOKENIZER_CONFIG] = bundle.file(config.name)
    return own


def browser_precision(bundle: Bundle) -> str:
    """The precision that a browser runs: int8 where there is one.

    Raises:
        AmalgamError: there is none.
    """
    for precision in _SMALLEST_FIRST:
        if precision in bundle.precisions:
            return precision
    raise AmalgamError(f"{bundle.folder}: no model that a browser runs; build it with --precisions fp32,int8")


def describe(name: str, bundle: Bundle, version: str) -> dict[str, Any]:
    """What the page must know of a bundle."""
    around = special_tokens(Tokenizer.from_file(str(bundle.file(TOKENIZER))))
    return {
        "name": name,
        "version": version,
        "labels": [*bundle.labels],
        "max_length": bundle.manifest.max_length,
        "pad_token_id": bundle.manifest.pad_token_id,
        "n_last_tokens": len(around[1]) if around else 0,
        "abstain": bundle.abstain,
        "bytes": sum(path.stat().st_size for path in model_files(bundle).values()),
    }


def export_site(
    bundle: Bundle, output: Path, *, overwrite: bool = False, say: Callable[[str], None] = lambda line: None
) -> int:
    """Write the page with a bundle, as files for any web host; nothing of it needs a server of ours.

    Args:
        bundle: whose model the page runs.
        output: folder that appears when all is written.
        overwrite: whether a page that is there may be replaced.
        say: told of what is fetched.

    Returns:
        Bytes written.

    Raises:
        AmalgamError: the folder is there and is no page, or is one and may not be replaced; a file is damaged; the
            libraries cannot be had.
    """
    if output.exists() and not (output / MARK).exists() and any(output.iterdir()):
        raise AmalgamError(f"{output}: there, and no exported page; name another folder")
    if (output / MARK).exists() and not overwrite:
        raise AmalgamError(f"{output}: there is a page already; --overwrite replaces it")
    libraries = get_libraries(say)
    name = bundle.folder.resolve().name
    version = version_of(bundle.folder)
    with staged(output) as staging:
        (staging / MARK).touch()
        for file in PAGE_FILES:
            (staging / file).write_bytes(page_file(file))
        config = {"server": False, "browser": True, "key": False, "models": [describe(name, bundle, version)]}
        (staging / CONFIG).write_text(json.dumps(config, ensure_ascii=False), "utf-8")
        (staging / "libraries").mkdir()
        for file in FILES:
            shutil.copyfile(libraries / file, staging / "libraries" / file)
        own = staging / "bundles" / name
        own.mkdir(parents=True)
        for file, path in model_files(bundle).items():
            shutil.copyfile(path, own / file)
        return sum(path.stat().st_size for path in staging.rglob("*") if path.is_file())
