"""Results of the amalgamation benchmark: reading and selecting them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

Result = Mapping[str, Any]

BASELINE, PAPER, OURS, ATTAINABLE, LABELS = SHOWN = ("vanilla-kd", "muka-soft", "refined", "oracle-teacher", "labels")


def read_results(runs: Path) -> list[dict[str, Any]]:
    """All results below a folder, in the order of corpus, setting, seed and method."""
    found = [json.loads(path.read_text("utf-8")) for path in runs.glob("*/*/seed-*/*/result.json")]
    return sorted(found, key=lambda row: (row["corpus"], row["setting"], row["seed"], row["method"]))


def by_seed(results: Iterable[Result], measure: str, **of: Any) -> dict[int, float]:
    """A measure by seed, of the results whose fields equal ``of``; results that lack the measure are left out."""
    return {
        row["seed"]: row[measure]
        for row in results
        if row.get(measure) is not None and all(row[name] == value for name, value in of.items())
    }


def names(results: Iterable[Result], field: str, order: Sequence[str] = ()) -> list[str]:
    """The different values of a field: first those of ``order`` in its order, then the others."""
    found = dict.fromkeys(row[field] for row in results)
    return [name for name in order if name in found] + [name for name in found if name not in order]


def of_setting(results: Iterable[Result], setting: str) -> list[Result]:
    """The results of one setting."""
    return [row for row in results if row["setting"] == setting]
