"""Which names a server answers to, and which web pages may send it requests. Pure functions.

A page of any origin can send requests to whatever server its visitor reaches, on loopback or behind a firewall. Two
headers tell such requests from others: ``Host``, which names the page's own host after DNS rebinding, and ``Origin``,
which browsers add to every request of a page but for plain reading.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from ipaddress import ip_address
from urllib.parse import urlsplit

_DEFAULT_PORTS = {"http": 80, "https": 443}


def known_hosts(host: str, allowed_hosts: Collection[str]) -> frozenset[str] | None:
    """The names that requests may ask for, besides localhost and IP addresses; None if they may ask for any name.

    A server that the network reaches has names that it cannot know; one on loopback knows all of its names.

    Args:
        host: Name or address that the server listens on.
        allowed_hosts: Names that the user allows.
    """
    if not allowed_hosts and not is_loopback(host):
        return None
    return frozenset(name.lower().rstrip(".") for name in (host, *allowed_hosts))


def is_loopback(host: str) -> bool:
    """Whether a name or an address is this machine's own."""
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


@lru_cache(maxsize=256)  # most requests ask for the same
def is_known_host(host_header: str, names: frozenset[str]) -> bool:
    """Whether a header ``Host`` names the server. DNS rebinding needs a name, so that any IP address will do.

    Args:
        host_header: The header's value: a name or an address, and perhaps a port.
        names: Names of the server in small letters.
    """
    name = _without_port(host_header).lower().rstrip(".")
    if name in names or name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def may_send(origin: str | None, site: str | None, host_header: str, allowed_origins: Collection[str]) -> bool:
    """Whether the page that a request comes from, if any, may have the server do something.

    Args:
        origin: The header ``Origin``; None if there is none.
        site: The header ``Sec-Fetch-Site``; None if there is none.
        host_header: The header ``Host``.
        allowed_origins: Origins that the user allows; ``*`` is all.
    """
    if "*" in allowed_origins:
        return True
    if origin is None:
        return site not in ("cross-site", "same-site")
    return origin in allowed_origins or _is_origin_of(origin, host_header)


def _is_origin_of(origin: str, host_header: str) -> bool:
    """Whether an origin is that of the server's own page, by HTTP or, where a proxy stands in front, by HTTPS."""
    try:
        parts = urlsplit(origin)
        port = parts.port or _DEFAULT_PORTS.get(parts.scheme)
        asked = urlsplit(f"{parts.scheme}://{host_header}")
        asked_port = asked.port or _DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        return False
    return bool(parts.hostname) and parts.hostname == asked.hostname and port == asked_port


def _without_port(host_header: str) -> str:
    if host_header.startswith("["):
        return host_header[1:].partition("]")[0]
    name, _, port = host_header.rpartition(":")
    return name if name and port.isdigit() else host_header
