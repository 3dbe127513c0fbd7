"""Files of a repository of the Hugging Face Hub: fetched one by one when they are asked for, all of one commit.

They lie in the Hub's own cache, where every program finds them again. What was fetched once is not asked for again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypedDict, Unpack

from amalgam_edge.errors import AmalgamError, first_line
from amalgam_edge.storage.write_errors import explain_write_error

_MAIN = "main"
_LOG_IN = "hf auth login, or set HF_TOKEN"


class HubOptions(TypedDict, total=False):
    """How a bundle of the Hub is fetched; a bundle in a folder needs none of it.

    Attributes:
        revision: A branch, a tag or a commit; by default the main branch.
        token: A token of the Hub; by default the one of ``hf auth login`` or of HF_TOKEN. False sends none.
        cache_dir: Folder of the Hub's cache; by default the one of HF_HUB_CACHE or HF_HOME.
        local_files_only: Whether to take what is in the cache, and ask the Hub nothing; HF_HUB_OFFLINE=1 says the same.
    """

    revision: str | None
    token: str | bool | None
    cache_dir: str | Path | None
    local_files_only: bool


@dataclass(frozen=True)
class HubFiles:
    """The files of a repository at one revision.

    Attributes:
        repository: The repository, as ``owner/name``.
        revision: The revision; a commit, once a file was fetched.
        token: See :class:`HubOptions`. It stays in this process: a copy that is pickled has none.
        cache_dir: See :class:`HubOptions`.
        local_files_only: See :class:`HubOptions`.
    """

    repository: str
    revision: str = _MAIN
    token: str | bool | None = field(default=None, repr=False, compare=False)
    cache_dir: str | Path | None = None
    local_files_only: bool = False

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "token": None}

    def fetch(self, name: str) -> Path:
        """The path of a file in the cache, fetched if it is not there.

        Raises:
            AmalgamError: The file cannot be had; the message says why and what to do.
            FileNotFoundError: The repository holds no such file.
        """
        return self._fetch(name, f"{name} cannot be had from the Hub")

    def _fetch(self, name: str, failure: str) -> Path:
        from huggingface_hub import errors  # a dependency of tokenizers, slow to import

        try:
            return Path(self._cached(name) if self.local_files_only else self._downloaded(name))
        except Exception as error:  # network, authentication and naming errors share no base class
            is_answer = not isinstance(error, errors.LocalEntryNotFoundError)
            if isinstance(error, errors.EntryNotFoundError) and is_answer:
                raise FileNotFoundError(f"{self.repository}: {name} is not in the repository") from error
            reason = explain_hub_error(error, self.repository, self.revision)
            raise AmalgamError(f"{self.repository}: {failure}: {reason}") from error

    def _downloaded(self, name: str) -> str:
        from huggingface_hub import hf_hub_download

        return hf_hub_download(
            self.repository, name, revision=self.revision, token=self.token, cache_dir=self.cache_dir
        )

    def _cached(self, name: str) -> str:
        """The client's own download in offline mode still asks the Hub which programs it knows."""
        from huggingface_hub import errors, try_to_load_from_cache

        path = try_to_load_from_cache(self.repository, name, cache_dir=self.cache_dir, revision=self.revision)
        if not isinstance(path, str):
            raise errors.LocalEntryNotFoundError(f"{name} is not in the cache")
        return path


def fetch_first(name: str, repository: str, **options: Unpack[HubOptions]) -> tuple[Path, HubFiles]:
    """Fetch a file, and pin the repository to the commit that it is of.

    Args:
        name: A file at the top of the repository.
        repository: The repository, as ``owner/name``.
        options: How to fetch.

    Returns:
        The folder in the cache that holds the files of that commit, and how to fetch more of them.

    Raises:
        AmalgamError: The file cannot be had; the message says why and what to do.
        FileNotFoundError: The repository holds no such file.
    """
    files = HubFiles(
        repository,
        options.get("revision") or _MAIN,
        options.get("token"),
        options.get("cache_dir"),
        options.get("local_files_only", False),
    )
    folder = files._fetch(name, "no folder here, and it cannot be had from the Hub").parent
    return folder, replace(files, revision=folder.name)


def explain_hub_error(error: Exception, repository: str, revision: str = _MAIN) -> str:
    """Why the Hub did not do what it was asked for, and what to do, in one line.

    Args:
        error: What its client raised.
        repository: The repository, as ``owner/name``.
        revision: The revision that was asked for.
    """
    from huggingface_hub import errors

    if refused := explain_write_error(error, "the Hub's cache"):
        return refused
    known: list[tuple[type[Exception], str]] = [
        (errors.GatedRepoError, f"it is gated; ask for access at https://huggingface.co/{repository}, then {_LOG_IN}"),
        (
            errors.RepositoryNotFoundError,
            f"there is no such repository, or none that you may read; if it is private, {_LOG_IN}",
        ),
        (errors.RevisionNotFoundError, f"it has no revision '{revision}'; name a branch, a tag or a commit of it"),
        (errors.HFValidationError, f"that is no name of a repository ({first_line(error)})"),
    ]
    for cause in _causes(error):
        for cls, reason in known:
            if isinstance(cause, cls):
                return reason
        if isinstance(cause, errors.HfHubHTTPError) and not isinstance(cause, errors.LocalEntryNotFoundError):
            return _explain_status(cause.response.status_code, first_line(cause))
    return _explain_silence(error)


def _explain_status(status: int, message: str) -> str:
    """What an answer of the Hub means that its client has no class for."""
    if status == 401:
        return f"the Hub refuses the token (status 401); {_LOG_IN}"
    if status == 403:
        return f"the Hub forbids it (status 403); {_LOG_IN} to a token that may do it"
    if status == 429:
        return f"the Hub was asked too often (status 429); wait some minutes, or {_LOG_IN}"
    if status >= 500:
        return f"the Hub fails (status {status}); try again later"
    return f"the Hub refuses it ({message})"


def _explain_silence(error: Exception) -> str:
    """Why there was no answer of the Hub."""
    from huggingface_hub import errors

    *_, cause = _causes(error)
    if isinstance(cause, errors.OfflineModeIsEnabled):
        return "the Hub is not asked, since HF_HUB_OFFLINE is set, and its cache does not help; unset it once"
    if isinstance(cause, errors.LocalEntryNotFoundError):
        return "the Hub is not asked, and its cache here does not hold it; once leave out --offline (local_files_only)"
    names = [cls.__name__ for cls in type(cause).__mro__]  # the client's HTTP library differs between its versions
    if any("Timeout" in name for name in names):
        return "the Hub does not answer in time; check the network, or set HF_HUB_DOWNLOAD_TIMEOUT to more seconds"
    if any(kind in name for name in names for kind in ("ConnectError", "ConnectionError", "NetworkError")):
        return f"the Hub cannot be reached ({first_line(cause)}); check the network and HF_ENDPOINT"
    return first_line(cause)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An exception, and what the Hub's client found before it looked into its cache in vain."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    yield error
    while isinstance(error, LocalEntryNotFoundError) and error.__cause__ is not None:
        error = error.__cause__
        yield error
