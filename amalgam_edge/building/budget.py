"""What a user allows a model to cost, and which of several to take."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from amalgam_edge.errors import AmalgamError

EXAMPLE = "size<=10MB, latency<=2ms, loss<=1%"

# wish → (field of Candidate, units and how many of the field's own they are, unit that messages speak in)
_WISHES: dict[str, tuple[str, dict[str, float], str]] = {
    "size": ("megabytes", {"kb": 1e-3, "mb": 1.0, "gb": 1e3}, "MB"),
    "latency": ("latency_ms", {"us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3}, "ms"),
    "memory": ("memory_megabytes", {"kb": 1e-3, "mb": 1.0, "gb": 1e3}, "MB"),
    "loss": ("loss_percent", {"%": 1.0}, "%"),
}
_WISH = re.compile(r"\s*(\w+)\s*<=\s*([0-9]*\.?[0-9]+)\s*([a-zµ%]+)\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Candidate:
    """A model that could ship, as it was measured.

    Attributes:
        name: The precision, after what tells its student and vocabulary from those of other candidates.
        made_by: How it was quantized.
        megabytes: Size of its file, in 10⁶ bytes.
        latency_ms: Median time of one text alone, tokenizing included.
        p95_ms: 95th percentile of that time.
        batch_ms: Median time of 32 texts of mixed lengths.
        memory_megabytes: Peak memory of a process that runs it; None where the system does not tell.
        loss_percent: Share of texts whose label differs from that of the float model with all tokens.
        mean_kl: Mean KL(float ‖ model) in nats.
        layers: Number of layers of its student; None for a static student.
        n_tokens: Number of tokens in its vocabulary; None where that is not known.
        agreement: Share of held-out texts on which its student, float and with all tokens, answers with the likeliest
            label of the supervision; None where that was not measured.
    """

    name: str
    made_by: str
    megabytes: float
    latency_ms: float
    p95_ms: float
    batch_ms: float
    memory_megabytes: float | None
    loss_percent: float
    mean_kl: float
    layers: int | None = None
    n_tokens: int | None = None
    agreement: float | None = None

    def costs(self) -> tuple[float, float, float, float, float]:
        """What the front weighs: the smaller, the better."""
        return self.megabytes, self.latency_ms, self.batch_ms, self.loss_percent, -(self.agreement or 0.0)


@dataclass(frozen=True)
class Budget:
    """Limits, each in its field's unit.

    Attributes:
        limits: Wish → the most that it may be.
    """

    limits: dict[str, float]

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read wishes such as ``size<=10MB, latency<=2ms, loss<=1%, memory<=150MB``.

        Raises:
            AmalgamError: one is not understood, or named twice.
        """
        limits: dict[str, float] = {}
        for part in text.split(","):
            found = _WISH.fullmatch(part)
            wish = found[1].lower() if found else ""
            if found is None or wish not in _WISHES or found[3].lower() not in _WISHES[wish][1]:
                known = "; ".join(f"{name} in {', '.join(units)}" for name, (_, units, _) in _WISHES.items())
                raise AmalgamError(f"--budget: '{part.strip()}' is not understood; write e.g. \"{EXAMPLE}\" ({known})")
            if wish in limits:
                raise AmalgamError(f"--budget: {wish} is limited twice")
            limits[wish] = float(found[2]) * _WISHES[wish][1][found[3].lower()]
        return cls(limits)

    def with_loss(self, percent: float) -> Budget:
        """The same with a limit on ``loss``, if it has none."""
        return Budget({"loss": percent, **self.limits})

    @property
    def max_disagreement(self) -> float:
        """Largest share of texts whose label may change; for a budget with a limit on ``loss``."""
        return self.limits["loss"] / 100

    def excess(self, candidate: Candidate) -> dict[str, float | None]:
        """The wishes that a candidate does not meet, and what it costs; None is not known, which meets nothing."""
        costs = {wish: getattr(candidate, _WISHES[wish][0]) for wish in self.limits}
        return {wish: cost for wish, cost in costs.items() if cost is None or not cost <= self.limits[wish]}


@dataclass(frozen=True)
class Pick:
    """What was taken, and why.

    Attributes:
        name: Name of the candidate.
        within_budget: Whether it meets every wish.
        reason: Why it was taken, in words.
    """

    name: str
    within_budget: bool
    reason: str


def front(candidates: Sequence[Candidate]) -> list[str]:
    """Names of those that no other beats in one cost without being beaten in another (Pareto)."""
    return [
        candidate.name
        for candidate in candidates
        if not any(_dominates(other, candidate) for other in candidates if other is not candidate)
    ]


def pick(candidates: Sequence[Candidate], budget: Budget) -> Pick:
    """Of the student that agrees most with its supervision, among those that can meet every wish, the fastest model.

    Where nothing meets every wish, it is the model that misses the fewest, by the least.

    Args:
        candidates: at least one.
        budget: the wishes.
    """
    meeting = [candidate for candidate in candidates if not budget.excess(candidate)]
    if not meeting:
        nearest = min(_on_front(candidates), key=lambda candidate: _miss(candidate, budget))
        return Pick(nearest.name, False, f"nothing meets the budget; the nearest is {describe_excess(nearest, budget)}")
    truest = max(meeting, key=lambda candidate: (candidate.agreement or 0.0, -candidate.latency_ms))
    its_own = _on_front([candidate for candidate in meeting if candidate.layers == truest.layers])
    fastest = min(its_own, key=lambda candidate: candidate.latency_ms)
    others = ", ".join(candidate.name for candidate in its_own if candidate is not fastest)
    reason = f"the fastest that meets the budget; {others} would too" if others else "it alone meets the budget"
    return Pick(fastest.name, True, _why_its_student(candidates, meeting, truest) + reason)


def describe_excess(candidate: Candidate, budget: Budget) -> str:
    """Which wishes a candidate misses, and by how much."""
    parts = []
    for wish, cost in budget.excess(candidate).items():
        unit, limit = _WISHES[wish][2], budget.limits[wish]
        over = "is not known here" if cost is None else f"is {cost:.3g} {unit}, {cost - limit:.2g} {unit} too much"
        parts.append(f"{wish} {over}")
    return f"{candidate.name}, whose {' and '.join(parts)}"


def _on_front(candidates: Sequence[Candidate]) -> list[Candidate]:
    names = front(candidates)
    return [candidate for candidate in candidates if candidate.name in names]


def _why_its_student(candidates: Sequence[Candidate], meeting: Sequence[Candidate], truest: Candidate) -> str:
    """The beginning of a reason where there were several students; empty where there was one."""
    if len({candidate.layers for candidate in candidates}) == 1:
        return ""
    others = {candidate.layers: candidate for candidate in meeting if candidate.layers != truest.layers}
    if not others:
        return f"the student of {truest.layers} layers alone can meet the budget; of its models "
    shares = "; ".join(f"{layers} layers: {other.agreement:.1%}" for layers, other in others.items())
    return (
        f"of the students that can meet the budget, that of {truest.layers} layers agrees most with held-out "
        f"supervision ({truest.agreement:.1%}; {shares}); of its models "
    )


def _dominates(one: Candidate, other: Candidate) -> bool:
    pairs = list(zip(one.costs(), other.costs(), strict=True))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def _miss(candidate: Candidate, budget: Budget) -> tuple[int, float]:
    """How many wishes are missed, and the largest share by which one is."""
    over = budget.excess(candidate)
    shares = [float("inf") if cost is None else cost / max(budget.limits[wish], 1e-9) for wish, cost in over.items()]
    return len(over), max(shares)
