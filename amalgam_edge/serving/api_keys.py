"""API keys: held as digests, read again when their file changes, and guessed only slowly."""

from __future__ import annotations

import hmac
import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from time import monotonic

from amalgam_edge.errors import AmalgamError

FREE_GUESSES = 10  # wrong keys of an address before it has to wait
LONGEST_WAIT = 60.0  # seconds that an address waits after each further wrong key
_FORGOTTEN_AFTER = 900.0  # seconds without a wrong key
_ADDRESSES = 4096  # that are remembered, and as many keys that were right
_LOG_SECONDS = 10.0  # between two lines about wrong keys
_STAT_SECONDS = 1.0  # between two looks at the file

_log = logging.getLogger(__name__)


def read_key_file(file: str | Path) -> tuple[str, ...]:
    """The API keys in a file, one on each line.

    Raises:
        AmalgamError: The file cannot be read, or holds no key.
    """
    try:
        lines = Path(file).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise AmalgamError(f"{file}: cannot be read as a file of API keys") from error
    keys = tuple(line.strip() for line in lines if line.strip())
    if not keys:
        raise AmalgamError(f"{file}: holds no API key; write one on each line")
    return keys


class ApiKeys:
    """The keys of which a request must carry one.

    Args:
        keys: The keys.
        file: File that the keys were read from; it is read again when it changes. Where it cannot be read or holds no
            key any more, the keys before stay, and the log says so.
        clock: The time in seconds.
    """

    def __init__(
        self, keys: Sequence[str], file: str | Path | None = None, clock: Callable[[], float] = monotonic
    ) -> None:
        self._file = file
        self._clock = clock
        self._digests = _digests_of(keys)
        self._state = self._state_of_file()
        self._next_look = clock() + _STAT_SECONDS

    def __bool__(self) -> bool:
        """Whether requests need a key at all."""
        return bool(self._digests)

    def find(self, authorization: bytes) -> bytes | None:
        """The digest of the key in the header ``Authorization: Bearer KEY``; None if that is none of the keys."""
        self._read_again()
        scheme, _, credentials = authorization.partition(b" ")
        digest = sha256(credentials.strip()).digest()
        # All keys are compared, so that the time taken does not tell which one came close.
        matches = [hmac.compare_digest(digest, key) for key in self._digests]
        return digest if scheme.lower() == b"bearer" and any(matches) else None

    def _read_again(self) -> None:
        """Read the file again if it has changed; it is looked at once a second at most."""
        if self._file is None or (now := self._clock()) < self._next_look:
            return
        self._next_look = now + _STAT_SECONDS
        state = self._state_of_file()
        if state == self._state:
            return
        self._state = state
        try:
            self._digests = _digests_of(read_key_file(self._file))
        except AmalgamError as error:
            _log.warning("%s; the %d keys read before stay", error, len(self._digests))
        else:
            _log.warning("%s: read again, %d keys", self._file, len(self._digests))

    def _state_of_file(self) -> tuple[int, ...] | None:
        """What changes when the file does; None if there is no file."""
        if self._file is None:
            return None
        try:
            stat = os.stat(self._file)  # noqa: PTH116  (pathlib's takes twice as long)
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_size


@dataclass
class _Guesses:
    """Wrong keys of one address: how many, when the last one came, and until when the address has to wait."""

    number: int = 0
    last: float = 0.0
    wait_until: float = 0.0


class GuessLimiter:
    """Makes addresses wait that send wrong keys, longer with each: 1 s after the eleventh, then 2 s, up to a minute.

    A key that was right before from the same address is not kept waiting: behind a proxy all clients have one address.

    Args:
        clock: The time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._guesses: OrderedDict[str, _Guesses] = OrderedDict()  # the address that guessed last comes last
        self._proven: OrderedDict[tuple[str, bytes], None] = OrderedDict()
        self._n_unlogged = 0
        self._next_line = 0.0

    def seconds_to_wait(self, address: str, digest: bytes | None) -> float:
        """Seconds before this address may try another key; 0 if it may now.

        Args:
            address: Address of the client.
            digest: Digest of the key that it sent if that is a right one.
        """
        if not self._guesses:
            return 0.0
        guesses = self._guesses.get(_network_of(address))
        if guesses is None or (digest is not None and (_network_of(address), digest) in self._proven):
            return 0.0
        return max(0.0, guesses.wait_until - self._clock())

    def add_right(self, address: str, digest: bytes) -> None:
        """Remember that an address has sent a right key."""
        key = _network_of(address), digest
        self._proven[key] = None
        self._proven.move_to_end(key)
        if len(self._proven) > _ADDRESSES:
            self._proven.popitem(last=False)

    def add_wrong(self, address: str) -> None:
        """Count a wrong key."""
        now = self._clock()
        network = _network_of(address)
        guesses = self._guesses.setdefault(network, _Guesses())
        self._guesses.move_to_end(network)
        if now - guesses.last > _FORGOTTEN_AFTER:
            guesses.number = 0
        guesses.number += 1
        guesses.last = now
        if guesses.number > FREE_GUESSES:
            # An exponent that grows without end would overflow.
            wait = 2.0 ** min(guesses.number - FREE_GUESSES - 1, 10)
            guesses.wait_until = now + min(LONGEST_WAIT, wait)
        if len(self._guesses) > _ADDRESSES:
            self._guesses.popitem(last=False)
        self._log_wrong(address, now)

    def _log_wrong(self, address: str, now: float) -> None:
        self._n_unlogged += 1
        if now >= self._next_line:
            _log.warning("%d requests with a wrong API key, the last one from %s", self._n_unlogged, address)
            self._n_unlogged = 0
            self._next_line = now + _LOG_SECONDS


def _network_of(address: str) -> str:
    """The address, or its /64 network in IPv6, of which one client has all addresses."""
    if ":" not in address:
        return address
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is None:
        return str(IPv6Address(int(parsed) >> 64 << 64))
    return address


def _digests_of(keys: Sequence[str]) -> list[bytes]:
    return [sha256(key.encode()).digest() for key in keys]
