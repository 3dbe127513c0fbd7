"""Results of the amalgamation benchmark: reading them, and picking from them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

Result = Mapping[str, Any]

BASELINE, PAPER, OURS, REFERENCE = SHOWN = ("vanilla-kd", "muka-soft", "refined", "labels")


def read_results(runs: Path) -> list[dict[str, Any]]:
    """All results below a folder, in the order of corpus, setting, seed and method."""
    found = [json.loads(path.read_text("utf-8")) for path in runs.glob("*/*/seed-*/*/result.json")]
    return sorted(found, key=lambda row: (row["corpus"], row["setting"], row["seed"], row["method"]))


def by_seed(results: Iterable[Result], measure: str, **of: Any) -> dict[int, float]:
    """Seed → a measure, of the results whose fields are as given; where it was not measured there is no entry."""
    return {
        row["seed"]: row[measure]
        for row in results
        if row.get(measure) is not None and all(row[name] == value for name, value in of.items())
    }


def names(results: Iterable[Result], field: str, order: Sequence[str] = ()) -> list[str]:
    """The values of a field, each once: those of ``order`` in its order, others after them."""
    there = dict.fromkeys(row[field] for row in results)
    return [name for name in order if name in there] + [name for name in there if name not in order]


def of_setting(results: Iterable[Result], setting: str) -> list[Result]:
    """The results of one setting."""
    return [row for row in results if row["setting"] == setting]
