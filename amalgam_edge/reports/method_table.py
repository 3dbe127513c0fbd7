"""The table of ``amalgam-edge methods``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from amalgam_edge.reports.tables import Column, Table


def method_table(methods: Sequence[Mapping[str, Any]]) -> Table:
    """Methods as :func:`amalgam_edge.methods.catalogue` lists them; parameters as options of ``build``."""
    return Table(
        (
            Column("method", numeric=False),
            Column("paper", numeric=False),
            Column("what the student learns", numeric=False),
            Column("options and defaults", numeric=False),
        ),
        tuple(
            (
                row["name"],
                row["paper"],
                row["summary"],
                ", ".join(_option(name, default) for name, default in row["parameters"].items()),
            )
            for row in methods
        ),
    )


def _option(name: str, default: Any) -> str:
    flag = f"--{name.replace('_', '-')}"
    return flag if default is True else f"{flag} {default:g}"
