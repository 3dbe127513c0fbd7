"""Where a bundle goes, and the manifest over what is in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from amalgam_edge.errors import AmalgamError
from amalgam_edge.runtime.bundle import FORMAT_VERSION, MANIFEST
from amalgam_edge.storage.fingerprints import sha256_of_file


def check_output(output: Path, *, overwrite: bool, resume: bool | None = None, kind: str | None = None) -> None:
    """Refuse an output folder that holds something, unless told that it may be replaced.

    Args:
        output: the folder.
        overwrite: it may be replaced.
        resume: it may be gone on with; None where that cannot be asked for.
        kind: what may be replaced, as its manifest calls itself; None for a bundle.

    Raises:
        AmalgamError: the folder is not empty, or no folder, or holds something of another kind.
    """
    if output.resolve() == Path.cwd():
        raise AmalgamError(f"{output}: the current folder cannot be replaced; name another for --output")
    file = next((path for path in (output, *output.parents) if path.exists() and not path.is_dir()), None)
    if file is not None:
        raise AmalgamError(f"{file}: a file stands there; name a folder for --output")
    if not output.is_dir() or not any(output.iterdir()):
        return
    if not (overwrite or resume):
        going_on = "" if resume is None else ", --resume goes on with a build that was cut off"
        raise AmalgamError(f"{output}: not empty; --overwrite replaces it{going_on}")
    if not (output / MANIFEST).is_file() or (overwrite and _kind(output / MANIFEST) != kind):
        expected = "bundle" if kind is None else f"exported {kind}"
        raise AmalgamError(
            f"{output}: holds something that is no {expected} and will not be replaced; name another folder"
        )


def _kind(manifest: Path) -> str | None:
    """What a manifest calls itself; a damaged one is taken for a bundle's, which has no name."""
    try:
        return json.loads(manifest.read_text("utf-8")).get("kind")
    except (ValueError, AttributeError):
        return None


def write_manifest(folder: Path, content: dict[str, Any]) -> None:
    """Write ``amalgam.json`` over all other files of the folder, each with its SHA-256."""
    files = {
        path.relative_to(folder).as_posix(): sha256_of_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    manifest = {"format_version": FORMAT_VERSION, **content, "files": files}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", "utf-8")
