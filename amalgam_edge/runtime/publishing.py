"""Copies of a bundle: in another folder, and on the Hub; whole, or of some of its precisions."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from amalgam_edge.errors import AmalgamError
from amalgam_edge.progress import Say
from amalgam_edge.runtime.bundle import CARD, FOR_PEOPLE, TORCH_STUDENT, Bundle, model_files
from amalgam_edge.runtime.hub import explain_hub_error
from amalgam_edge.runtime.manifest import MANIFEST, Manifest, read_manifest, write_manifest
from amalgam_edge.runtime.manifest_models import with_models
from amalgam_edge.storage.fingerprints import sha256_of_bytes
from amalgam_edge.storage.staging import staged

_REPO = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
_LOADED_IN_CARD = re.compile(r'from_pretrained\("[^"\n]*"\)')
_ROW_OF_MODEL = re.compile(r"\| (?P<student>student )?(?P<name>[\w-]+)(?: \*)? \|")  # of the card's tables
_MODEL = re.compile(r"onnx/.*|.*\.safetensors")


def save_bundle(
    bundle: Bundle, folder: Path, *, precisions: str | Sequence[str] = (), notify: Say = lambda line: None
) -> None:
    """Copy a bundle, whole or not at all; each copied file is checked against its SHA-256 unless it is for people.

    Args:
        bundle: The bundle to copy.
        folder: Where the copy goes: a folder that does not exist yet, or an empty one.
        precisions: The precisions to copy; by default those whose model is there. The torch student goes with fp32.
            The default stays the default, or else the first one named becomes it.
        notify: Called with a line for each model that is left out since somebody deleted it.

    Raises:
        AmalgamError: The folder holds something; a file of the bundle is missing, is a link, or was changed; the bundle
            has no such precision.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise AmalgamError(f"{folder}: not empty; name another folder")
    kept = _precisions_of_copy(bundle, precisions, notify)
    described = _describe_copy(bundle, kept, notify)
    names = _files_of_copy(bundle, described, torch_student=not precisions or "fp32" in kept)
    with staged(folder) as copy:
        digests = copy_files(bundle, copy, names)
        if described == bundle.manifest and digests == bundle.manifest.files:
            copy_files(bundle, copy, [MANIFEST])
            return
        if CARD in digests and described.precisions != bundle.manifest.precisions:
            _rewrite_card(copy, lambda card: card_of_precisions(card, bundle.manifest, described))
        write_manifest(copy, described)


def _precisions_of_copy(bundle: Bundle, precisions: str | Sequence[str], notify: Say) -> tuple[str, ...]:
    """The precisions that a copy has: those named, or else those whose model is there."""
    named = tuple(dict.fromkeys([precisions] if isinstance(precisions, str) else precisions))
    kept = named or bundle.available_precisions()
    for name in kept:
        if not bundle.has(bundle.model_name(name)):
            there = [other for other in bundle.precisions if bundle.has(bundle.model_name(other))]
            remedy = f", or name precisions to keep: {', '.join(there)}" if there else ""
            raise AmalgamError(
                f"{bundle.folder / bundle.model_name(name)}: missing from the bundle, and {name} needs it; "
                f"copy the bundle again{remedy}"
            )
    for name in () if named else bundle.precisions:
        if name not in kept:
            notify(f"{name} is left out: {bundle.folder / bundle.model_name(name)} is not there")
    return kept


def _describe_copy(bundle: Bundle, kept: Sequence[str], notify: Say) -> Manifest:
    """The manifest of a copy that has some precisions, but for its files."""
    manifest = bundle.manifest
    cascade, evaluation = manifest.cascade, manifest.evaluation
    if bundle.cascade and not bundle.has(bundle.cascade.file):
        notify(f"the cascade is left out: {bundle.folder / bundle.cascade.file} is not there")
        cascade = None
    left_out = set(bundle.precisions).difference(kept)
    if evaluation:
        evaluation = with_models(evaluation, lambda name: name not in left_out)
    return replace(
        manifest,
        precisions={name: model for name, model in manifest.precisions.items() if name in kept},
        default_precision=manifest.default_precision if manifest.default_precision in kept else kept[0],
        cascade=cascade,
        evaluation=evaluation,
    )


def _files_of_copy(bundle: Bundle, described: Manifest, *, torch_student: bool) -> list[str]:
    """The files that a copy has, less the manifest; those for people where nobody deleted them."""
    left_out = model_files(bundle.manifest) - model_files(described)
    if not torch_student:
        left_out.add(TORCH_STUDENT)
    files = [name for name in bundle.manifest.files if name not in left_out]
    return [name for name in files if name not in FOR_PEOPLE or bundle.has(name)]


def copy_files(bundle: Bundle, folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Copy files of a bundle into a folder; what is written is what was checked. Files for people are as they are.

    Returns:
        File → its SHA-256.

    Raises:
        AmalgamError: A file of the bundle is missing, is a link, or was changed.
    """
    digests = {}
    for name in names:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        content = bundle.read(name).content
        target.write_bytes(content)
        digests[name] = sha256_of_bytes(content)
    return digests


def card_of_precisions(card: str, before: Manifest, after: Manifest) -> str:
    """A model card whose tables name the precisions of a copy, with a star at its default.

    Args:
        card: The card, which people may have edited.
        before: The manifest that it was written for.
        after: The manifest of the copy.
    """
    left_out = set(before.precisions).difference(after.precisions)
    new_default = after.default_precision if after.default_precision != before.default_precision else ""
    rows = []
    for row in card.splitlines(keepends=True):
        model = _ROW_OF_MODEL.match(row)
        if model and model["name"] in left_out:
            continue
        is_new_default = model and model["name"] == new_default and not model["student"]
        rows.append(row.replace(" |", " * |", 1) if is_new_default else row)
    return "".join(rows)


def _rewrite_card(folder: Path, rewrite: Callable[[str], str]) -> None:
    """Change a folder's model card; bytes of it that are no UTF-8 stay as they are."""
    card = (folder / CARD).read_bytes().decode("utf-8", "surrogateescape")
    (folder / CARD).write_bytes(rewrite(card).encode("utf-8", "surrogateescape"))


def push_bundle(
    bundle: Bundle,
    repo_id: str,
    *,
    precisions: str | Sequence[str] = (),
    private: bool = False,
    token: str | None = None,
    notify: Say = lambda line: None,
) -> str:
    """Publish a bundle on the Hub in one commit; its model card loads it from there.

    Models of an earlier bundle in the same repository that this one does not have are taken away, since other runtimes
    would still find them.

    Args:
        bundle: The bundle to publish.
        repo_id: The repository as ``owner/name``; it is made if it does not exist.
        precisions: The precisions to publish, see :func:`save_bundle`.
        private: Whether only the owner may see the repository.
        token: A token of the Hub; by default the one of ``hf auth login`` or of HF_TOKEN.
        notify: Called with a line for each model that is left out since somebody deleted it.

    Returns:
        The repository's address.

    Raises:
        AmalgamError: A file of the bundle is missing or was changed, the bundle has no such precision, the Hub refuses,
            or the repository is public and ``private`` was asked for.
    """
    if not _REPO.fullmatch(repo_id):
        raise AmalgamError(f"{repo_id}: a repository of the Hub is called owner/name")
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi  # comes with tokenizers

    api = HfApi(token=token)
    with TemporaryDirectory() as scratch:
        folder = Path(scratch, "bundle")
        save_bundle(bundle, folder, precisions=precisions, notify=notify)
        manifest = _name_in_card(folder, repo_id)
        try:
            address = api.create_repo(repo_id, private=private, exist_ok=True)
            exposed = private and not api.repo_info(repo_id).private
            if not exposed:
                names = [MANIFEST, *manifest.files]
                stale = sorted(set(filter(_MODEL.fullmatch, api.list_repo_files(repo_id))) - set(names))
                changes: list[CommitOperationAdd | CommitOperationDelete] = [
                    *(CommitOperationAdd(name, folder / name) for name in names),
                    *map(CommitOperationDelete, stale),
                ]
                api.create_commit(repo_id, changes, commit_message="Upload with amalgam-edge")
        except Exception as error:  # network, authentication and naming errors share no base class
            raise AmalgamError(f"{repo_id}: cannot be pushed: {explain_hub_error(error, repo_id)}") from error
    if exposed:
        raise AmalgamError(f"{repo_id}: is public already; make it private on the Hub, or push without --private")
    return str(address)


def _name_in_card(folder: Path, repo_id: str) -> Manifest:
    """Let the model card's example load the bundle from the Hub; the manifest, which knows the card's new SHA-256."""
    manifest = read_manifest(folder)
    if CARD not in manifest.files:
        return manifest
    example = f'from_pretrained("{repo_id}")'
    _rewrite_card(folder, lambda card: _LOADED_IN_CARD.sub(example, card, count=1))
    return write_manifest(folder, manifest)
