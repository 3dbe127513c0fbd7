"""Copies of a bundle: in another folder, and on the Hub."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

from amalgam_edge.errors import AmalgamError, first_line
from amalgam_edge.runtime.bundle import CARD, Bundle
from amalgam_edge.runtime.manifest import MANIFEST, read_manifest, write_manifest
from amalgam_edge.storage.staging import staged

_REPO = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
_LOADED_IN_CARD = re.compile(r'from_pretrained\("[^"\n]*"\)')
_MODEL = re.compile(r"onnx/.*|.*\.safetensors")


def save_bundle(bundle: Bundle, folder: Path) -> None:
    """Copy a bundle, whole or not at all; each copied file is checked against its SHA-256.

    Args:
        bundle: The bundle to copy.
        folder: Where the copy goes: a folder that does not exist yet, or an empty one.

    Raises:
        AmalgamError: The folder holds something, or a file of the bundle is missing, is a link, or was changed.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise AmalgamError(f"{folder}: not empty; name another folder")
    with staged(folder) as copy:
        copy_files(bundle, copy, (MANIFEST, *bundle.manifest.files))


def copy_files(bundle: Bundle, folder: Path, names: Iterable[str]) -> None:
    """Copy files of a bundle into a folder; what is written is what was checked.

    Raises:
        AmalgamError: A file of the bundle is missing, is a link, or was changed.
    """
    for name in names:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(bundle.read(name).content)


def push_bundle(bundle: Bundle, repo_id: str, *, private: bool = False, token: str | None = None) -> str:
    """Publish a bundle on the Hub in one commit; its model card loads it from there.

    Models of an earlier bundle in the same repository that this one does not have are taken away, since other runtimes
    would still find them.

    Args:
        bundle: The bundle to publish.
        repo_id: The repository as ``owner/name``; it is made if it does not exist.
        private: Whether only the owner may see the repository.
        token: A token of the Hub; by default the one of ``hf auth login`` or of HF_TOKEN.

    Returns:
        The repository's address.

    Raises:
        AmalgamError: A file of the bundle is missing or was changed, the Hub refuses, or the repository is public and
            ``private`` was asked for.
    """
    if not _REPO.fullmatch(repo_id):
        raise AmalgamError(f"{repo_id}: a repository of the Hub is called owner/name")
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi  # comes with tokenizers

    api = HfApi(token=token)
    with TemporaryDirectory() as scratch:
        folder = Path(scratch, "bundle")
        save_bundle(bundle, folder)
        _name_in_card(folder, repo_id)
        try:
            address = api.create_repo(repo_id, private=private, exist_ok=True)
            exposed = private and not api.repo_info(repo_id).private
            if not exposed:
                names = [MANIFEST, *bundle.manifest.files]
                stale = sorted(set(filter(_MODEL.fullmatch, api.list_repo_files(repo_id))) - set(names))
                changes: list[CommitOperationAdd | CommitOperationDelete] = [
                    *(CommitOperationAdd(name, folder / name) for name in names),
                    *map(CommitOperationDelete, stale),
                ]
                api.create_commit(repo_id, changes, commit_message="Upload with amalgam-edge")
        except Exception as error:  # network, authentication and naming errors share no base class
            raise AmalgamError(
                f"{repo_id}: cannot be pushed ({first_line(error)}); hf auth login, or set HF_TOKEN"
            ) from error
    if exposed:
        raise AmalgamError(f"{repo_id}: is public already; make it private on the Hub, or push without --private")
    return str(address)


def _name_in_card(folder: Path, repo_id: str) -> None:
    """Let the model card's example load the bundle from the Hub, and the manifest know the card's new SHA-256."""
    manifest, card = read_manifest(folder), folder / CARD
    if CARD not in manifest.files:
        return
    example = f'from_pretrained("{repo_id}")'
    card.write_text(_LOADED_IN_CARD.sub(example, card.read_text("utf-8"), count=1), "utf-8")
    write_manifest(folder, manifest)
