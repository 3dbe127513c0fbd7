"""A long piece of work as a list of steps: what each needs, what it makes, and how its progress is shown."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from amalgam_edge.progress import Progress

# What a step's function may ask for besides the values of earlier steps.
ADVANCE, SAY = "advance", "say"


@dataclass(frozen=True)
class Step:
    """One step: a function, whose parameters are the names of the values that it needs.

    A parameter called ``advance`` gets the callback that counts finished units, one called ``say`` the callback that
    shows a line. Parameters with a default are left alone.

    Attributes:
        run: Computes the value that the step makes.
        makes: Name of that value; empty where the step only has an effect.
        title: Shown while the step runs; empty for a step too short to be shown.
        amount: From the same kind of parameters to the number of units to do and their name.
        renames: Parameter → name of the value that it gets, or names of the values that it gets as a list, where that
            is not the parameter's own name.
    """

    run: Callable[..., Any]
    makes: str = ""
    title: str = ""
    amount: Callable[..., tuple[int, str]] | None = None
    renames: Mapping[str, str | Sequence[str]] = field(default_factory=dict)

    @property
    def needs(self) -> list[str]:
        """Names of the values that the step needs."""
        names = [self.renames.get(name, name) for name in _parameters(self.run) if name not in (ADVANCE, SAY)]
        return [name for entry in names for name in ([entry] if isinstance(entry, str) else entry)]

    def arguments(self, function: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of one of the step's functions, taken from values by name."""
        return {
            parameter: _lookup(values, self.renames.get(parameter, parameter))
            for parameter in _parameters(function)
            if parameter not in (ADVANCE, SAY)
        }


def run_steps(steps: Sequence[Step], values: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Run steps in order; each sees the values given here and those that earlier steps made.

    Args:
        steps: The work.
        values: What the first steps need.
        progress: Told how many steps there are, and of each one that has a title.

    Returns:
        All values, by name.
    """
    known = dict(values)
    progress.begin(sum(1 for step in steps if step.title))
    for step in steps:
        if step.title:
            total, unit = step.amount(**step.arguments(step.amount, known)) if step.amount else (None, "")
            with progress.step(step.title, total, unit) as advance:
                made = _run(step, known, advance, progress)
        else:
            made = _run(step, known, lambda count: None, progress)
        if step.makes:
            known[step.makes] = made
    return known


def _run(step: Step, values: Mapping[str, Any], advance: Callable[[int], None], progress: Progress) -> Any:
    callbacks = {ADVANCE: advance, SAY: progress.say}
    wanted = {name: callback for name, callback in callbacks.items() if name in _parameters(step.run)}
    return step.run(**step.arguments(step.run, values), **wanted)


def _parameters(function: Callable[..., Any]) -> list[str]:
    parameters = inspect.signature(function).parameters.values()
    return [parameter.name for parameter in parameters if parameter.default is parameter.empty]


def _lookup(values: Mapping[str, Any], name: str | Sequence[str]) -> Any:
    return values[name] if isinstance(name, str) else [values[one] for one in name]
