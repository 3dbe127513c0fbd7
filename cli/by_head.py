"""Options that may have a value for each head: ``VALUE`` for all of them, or ``HEAD=VALUE``, once for each."""

from __future__ import annotations

from collections.abc import Sequence

import click


def numbers_by_head(
    ctx: click.Context, param: click.Parameter, values: Sequence[str]
) -> float | dict[str, float] | None:
    """One number for all heads, or head → number; None where nothing was given."""
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


def teachers_by_head(ctx: click.Context, param: click.Parameter, values: Sequence[str]) -> dict[str, list[str]]:
    """Head → names of its teachers, from ``HEAD=TEACHER,TEACHER``, once for each head."""
    teachers: dict[str, list[str]] = {}
    for value in values:
        name, equals, listed = value.partition("=")
        if not equals:
            raise click.BadParameter(f"{value!r} names no teachers; write NAME=TEACHER,TEACHER", ctx, param)
        if name in teachers:
            raise click.BadParameter(f"head {name!r} is named twice; name all of its teachers at once", ctx, param)
        teachers[name] = [teacher.strip() for teacher in listed.split(",") if teacher.strip()]
    return teachers
