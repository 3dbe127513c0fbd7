"""Copies of a bundle: in another folder, and on the Hub."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from amalgam_edge.errors import AmalgamError, first_line
from amalgam_edge.runtime.bundle import CARD, MANIFEST, Bundle
from amalgam_edge.storage.fingerprints import sha256_of_file
from amalgam_edge.storage.staging import staged

_REPO = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
_LOADED_IN_CARD = re.compile(r'from_pretrained\("[^"\n]*"\)')
_MODEL = re.compile(r"onnx/.*|.*\.safetensors")


def save_bundle(bundle: Bundle, folder: Path) -> None:
    """Copy a bundle, whole or not at all; each copied file is checked against its SHA-256.

    Args:
        bundle: what to copy.
        folder: not there yet, or empty.

    Raises:
        AmalgamError: the folder holds something, or a file of the bundle is missing or was changed.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise AmalgamError(f"{folder}: not empty; name another folder")
    with staged(folder) as copy:
        for name in (MANIFEST, *bundle.manifest["files"]):
            target = copy / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bundle.folder / name if name == MANIFEST else bundle.file(name), target)
        Bundle.open(copy).verify()


def push_bundle(bundle: Bundle, repo_id: str, *, private: bool = False, token: str | None = None) -> str:
    """Publish a bundle on the Hub in one commit; its model card loads it from there.

    Models of an earlier bundle in the same repository that this one does not have are taken away, since other runtimes
    would still find them.

    Args:
        bundle: what to publish.
        repo_id: ``owner/name``; made where it is not there.
        private: for its owner alone.
        token: by default the one of ``hf auth login`` or of HF_TOKEN.

    Returns:
        The repository's address.

    Raises:
        AmalgamError: a file of the bundle is missing or was changed, the Hub refuses, or the repository is public and
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
                names = [MANIFEST, *bundle.manifest["files"]]
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
    card, path = folder / CARD, folder / MANIFEST
    manifest = json.loads(path.read_text("utf-8"))
    if CARD not in manifest["files"]:
        return
    example = f'from_pretrained("{repo_id}")'
    card.write_text(_LOADED_IN_CARD.sub(example, card.read_text("utf-8"), count=1), "utf-8")
    manifest["files"][CARD] = sha256_of_file(card)
    path.write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", "utf-8")
