"""Options that are one number for all heads, or ``HEAD=NUMBER`` for each."""

from __future__ import annotations

from collections.abc import Sequence

import click


def numbers_by_head(
    ctx: click.Context, param: click.Parameter, values: Sequence[str]
) -> float | dict[str, float] | None:
    """One number for all heads, or head → number."""
    numbers: dict[str, float] = {}
    for value in values:
        name, equals, text = value.rpartition("=")
        try:
            number = float(text)
        except ValueError:
            raise click.BadParameter(f"{text!r} is no number", ctx, param) from None
        if not equals and len(values) == 1:
            return number
        if not equals or name in numbers:
            raise click.BadParameter(f"{value!r}: name each of several heads once, as HEAD=NUMBER", ctx, param)
        numbers[name] = number
    return numbers or None
