"""Timing several ways of doing the same thing, side by side on a machine that others use too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter, sleep

import numpy as np

OURS = "amalgam-edge"

_REST = 0.05  # seconds; threads of the one before, which spin while they wait for work, go to sleep
_WARM_UP = 2


@dataclass(frozen=True)
class Cell:
    """What was timed, and how long each contender took.

    Attributes:
        name: texts × tokens, or the name of a corpus.
        n_texts: that one call answers.
        seconds: a call, by contender; ours are called after their precision.
    """

    name: str
    n_texts: int
    seconds: Mapping[str, float]

    @property
    def ours(self) -> dict[str, float]:
        """Seconds of the bundle's precisions."""
        return {name: taken for name, taken in self.seconds.items() if name.startswith(OURS)}

    @property
    def best_peer(self) -> str | None:
        """The fastest that is not ours; None without peers."""
        peers = {name: taken for name, taken in self.seconds.items() if not name.startswith(OURS)}
        return min(peers, key=lambda name: peers[name]) if peers else None

    def ratio(self, name: str) -> float | None:
        """How many times as fast as the best peer a contender is."""
        return self.seconds[self.best_peer] / self.seconds[name] if self.best_peer else None


def side_by_side(
    contenders: Mapping[str, Callable[[], object]], *, rounds: int = 7, seconds: float = 0.4
) -> dict[str, float]:
    """The median seconds that a call takes, by contender.

    Contenders take turns: in each round, each runs alone for a while, so that whatever else the machine does bears on
    all alike, and no one's idle threads bear on another.

    Args:
        contenders: name → what to time.
        rounds: how many turns each gets.
        seconds: how long a turn lasts, and at least one call.

    Returns:
        The median over rounds of the median within a round.
    """
    medians: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, call in contenders.items():
            sleep(_REST)
            for _ in range(_WARM_UP):
                call()
            medians[name].append(float(np.median(_turn(call, seconds))))
    return {name: float(np.median(taken)) for name, taken in medians.items()}


def _turn(call: Callable[[], object], seconds: float) -> list[float]:
    taken: list[float] = []
    end = perf_counter() + seconds
    while not taken or perf_counter() < end:
        start = perf_counter()
        call()
        taken.append(perf_counter() - start)
    return taken
