"""Timing several ways of doing the same thing in turns, on a machine that other programs use too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter, sleep

import numpy as np

BUNDLE_PREFIX = "amalgam-edge"

_REST = 0.05  # seconds in which the threads of the previous contender, which spin while they wait, go to sleep
_WARM_UP = 2  # calls


@dataclass(frozen=True)
class WorkloadTiming:
    """How long each contender took for a call on the same texts.

    Attributes:
        name: Number of texts × number of tokens, or the name of a corpus.
        n_texts: Number of texts that one call classifies.
        seconds: Seconds per call of each contender. The bundle's contenders are called ``BUNDLE_PREFIX`` and their
            precision; all others are peers.
    """

    name: str
    n_texts: int
    seconds: Mapping[str, float]

    @property
    def bundle_seconds(self) -> dict[str, float]:
        """Seconds per call of each precision of the bundle."""
        return {name: taken for name, taken in self.seconds.items() if name.startswith(BUNDLE_PREFIX)}

    @property
    def fastest_peer(self) -> str | None:
        """The fastest contender that is not the bundle; None without peers."""
        peers = {name: taken for name, taken in self.seconds.items() if not name.startswith(BUNDLE_PREFIX)}
        return min(peers, key=lambda name: peers[name]) if peers else None

    def speedup(self, name: str) -> float | None:
        """The fastest peer's seconds divided by those of a contender; None without peers."""
        return self.seconds[self.fastest_peer] / self.seconds[name] if self.fastest_peer else None


def median_call_times(
    contenders: Mapping[str, Callable[[], object]], *, rounds: int = 7, seconds: float = 0.4
) -> dict[str, float]:
    """The median seconds per call of each contender.

    Contenders take turns: in each round each one runs alone for a while. Other load on the machine thus affects all of
    them alike, and the idle threads of one do not affect another.

    Args:
        contenders: The function to time, by name.
        rounds: The number of turns of each contender.
        seconds: The length of a turn, which has at least one call.

    Returns:
        For each contender, the median over rounds of the median within a round.
    """
    medians: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, call in contenders.items():
            sleep(_REST)
            for _ in range(_WARM_UP):
                call()
            medians[name].append(float(np.median(_call_times(call, seconds))))
    return {name: float(np.median(taken)) for name, taken in medians.items()}


def _call_times(call: Callable[[], object], seconds: float) -> list[float]:
    """Seconds of each call in a turn."""
    taken: list[float] = []
    end = perf_counter() + seconds
    while not taken or perf_counter() < end:
        start = perf_counter()
        call()
        taken.append(perf_counter() - start)
    return taken
