"""The web page: its own files, what it needs of a bundle, and their export as files for any web host."""

from __future__ import annotations

import json
import shutil
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from amalgam_edge.browser.libraries import LIBRARY_FILES, get_libraries
from amalgam_edge.errors import AmalgamError
from amalgam_edge.heads import SOFTMAX, Head, Heads
from amalgam_edge.progress import Say
from amalgam_edge.runtime.bundle import TOKENIZER, Bundle
from amalgam_edge.runtime.tokens import read_tokenizer, special_tokens
from amalgam_edge.storage.own_files import FileContent
from amalgam_edge.storage.replaceable import require_replaceable
from amalgam_edge.storage.staging import recover, staged

PAGE_FILES = ("index.html", "page.css", "page.js", "results.js", "answers.js", "model.js", "offline.js")
CONFIG_FILE = "config.json"
MARKER_FILE = ".amalgam-edge-page"  # shows that a folder is an exported page, so that it may be replaced
_MODEL_FILE = "model.onnx"
_TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
_BROWSER_PRECISIONS = ("int8", "int8-pq", "q4", "w8", "fp32")  # those that a browser can run, the preferred first


def read_page_file(name: str) -> bytes:
    """The content of one of the page's own files."""
    return (files("amalgam_edge.browser") / "page" / name).read_bytes()


def model_files(bundle: Bundle) -> dict[str, FileContent]:
    """Name on the page → content of a file of the bundle, for each file that the browser needs; all are checked.

    Raises:
        AmalgamError: A file is damaged, or the bundle has no model that a browser can run.
    """
    return {name: bundle.read(file) for name, file in _files_of_bundle(bundle).items()}


def _files_of_bundle(bundle: Bundle) -> dict[str, str]:
    """Name on the page → file of the bundle, for each file that the browser needs."""
    needed = {TOKENIZER: TOKENIZER, _MODEL_FILE: bundle.model_name(browser_precision(bundle))}
    if _TOKENIZER_CONFIG_FILE in bundle.manifest.files:
        needed[_TOKENIZER_CONFIG_FILE] = _TOKENIZER_CONFIG_FILE
    return needed


def browser_precision(bundle: Bundle) -> str:
    """The precision that the browser runs: int8 if the bundle has it.

    Raises:
        AmalgamError: The bundle has no precision that a browser can run.
    """
    for precision in _BROWSER_PRECISIONS:
        if precision in bundle.precisions and bundle.has(bundle.model_name(precision)):
            return precision
    raise AmalgamError(
        f"{bundle.source}: no model that a browser runs; it has {', '.join(bundle.available_precisions())}, "
        f"a browser runs {', '.join(_BROWSER_PRECISIONS)}; build it again, without --budget"
    )


def describe_model(name: str, bundle: Bundle) -> dict[str, Any]:
    """The page's description of a model, as ``config.json`` holds it.

    Args:
        name: Name of the model on the page.
        bundle: The bundle with the model. The page adds its version to the addresses of its files.

    Raises:
        AmalgamError: A file is damaged, or the bundle has no model that a browser can run.
    """
    special = special_tokens(read_tokenizer(bundle.read(TOKENIZER)))
    return {
        "name": name,
        "version": bundle.version,
        "labels": [*bundle.labels],
        "max_length": bundle.manifest.max_length,
        "pad_token_id": bundle.manifest.pad_token_id,
        "n_last_tokens": len(special[1]) if special else 0,
        **describe_heads(bundle.heads),
        "bytes": sum(bundle.size(file) for file in _files_of_bundle(bundle).values()),
    }


def describe_heads(heads: Heads) -> dict[str, Any]:
    """What is known of heads beside the names of all labels: of one softmax head its threshold, of others all.

    Args:
        heads: The heads of a bundle.
    """
    if heads.is_one_softmax:
        return {"abstain": next(iter(heads)).abstain}
    return {"heads": [_describe_head(head) for head in heads]}


def _describe_head(head: Head) -> dict[str, Any]:
    described = {"name": head.name, "activation": head.activation, "labels": [*head.labels]}
    if head.activation == SOFTMAX:
        return {**described, "abstain": head.abstain}
    return {**described, "thresholds": [*head.thresholds]}


def export_site(bundle: Bundle, output: Path, *, overwrite: bool = False, notify: Say = lambda line: None) -> int:
    """Write the page with a bundle, as files that any web host can serve.

    Args:
        bundle: The bundle whose model the page runs.
        output: Folder to write; it appears once everything is written.
        overwrite: Whether to replace an exported page.
        notify: Called with the name of each library before its download.

    Returns:
        Bytes written.

    Raises:
        AmalgamError: The folder holds something other than an exported page, or holds a page and ``overwrite`` is
            false; a file is damaged; the libraries cannot be downloaded.
    """
    _check_output(output, overwrite)
    libraries = get_libraries(notify)
    with staged(output, check=partial(_check_output, output, overwrite)) as staging:
        (staging / MARKER_FILE).touch()
        for file in PAGE_FILES:
            (staging / file).write_bytes(read_page_file(file))
        (staging / "libraries").mkdir()
        for file in LIBRARY_FILES:
            shutil.copyfile(libraries / file, staging / "libraries" / file)
        _write_model(bundle, staging)
        return sum(path.stat().st_size for path in staging.rglob("*") if path.is_file())


def _check_output(output: Path, overwrite: bool) -> None:
    require_replaceable(output)
    recover(output)
    is_page = (output / MARKER_FILE).exists()
    if output.exists() and not is_page and any(output.iterdir()):
        raise AmalgamError(f"{output}: there, and no exported page; name another folder")
    if is_page and not overwrite:
        raise AmalgamError(f"{output}: there is a page already; --overwrite replaces it")


def _write_model(bundle: Bundle, folder: Path) -> None:
    """Write the bundle's files for the browser, and the page's configuration that names them."""
    name = bundle.name
    model = describe_model(name, bundle)
    config = {"server": False, "browser": True, "key": False, "models": [model]}
    (folder / CONFIG_FILE).write_text(json.dumps(config, ensure_ascii=False), "utf-8")
    model_folder = folder / "bundles" / name
    model_folder.mkdir(parents=True)
    for name_on_page, file in model_files(bundle).items():
        (model_folder / name_on_page).write_bytes(file.content)
