"""Whether an output folder may be written to."""

from __future__ import annotations

from pathlib import Path

from amalgam_edge.errors import AmalgamError
from amalgam_edge.runtime.manifest import BUNDLE_KIND, manifest_kind
from amalgam_edge.storage.replaceable import require_replaceable
from amalgam_edge.storage.staging import recover


def check_output(output: Path, *, overwrite: bool, resume: bool | None = None, kind: str = BUNDLE_KIND) -> None:
    """Refuse an output folder that holds something, unless it may be replaced, and one whose place none can take.

    What a killed process finished there and did not get to rename is put in its place first.

    Args:
        output: The folder.
        overwrite: Whether it may be replaced.
        resume: Whether a build in it may be gone on with; None where that cannot be asked for.
        kind: What may be replaced, as its manifest names it.

    Raises:
        AmalgamError: The folder is not empty, or no folder, or holds something of another kind, or cannot be replaced.
    """
    require_replaceable(output)
    recover(output)
    if not output.is_dir() or not any(output.iterdir()):
        return
    if not (overwrite or resume):
        resuming = "" if resume is None else ", --resume goes on with a build that was cut off"
        raise AmalgamError(f"{output}: not empty; --overwrite replaces it{resuming}")
    found = manifest_kind(output)
    if found is None or (overwrite and found != kind):
        expected = kind if kind == BUNDLE_KIND else f"exported {kind}"
        raise AmalgamError(
            f"{output}: holds something that is no {expected} and will not be replaced; name another folder"
        )
