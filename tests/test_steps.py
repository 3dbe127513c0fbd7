"""Lists of steps: what each gets, what it makes, and what progress is told."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial

import pytest

from amalgam_edge.steps import Step, run_steps


class Recorder:
    """Progress that writes down what it is told."""

    def __init__(self):
        self.events = []

    def begin(self, n_steps):
        self.events.append(("begin", n_steps))

    @contextmanager
    def step(self, title, total=None, unit=""):
        self.events.append(("step", title, total, unit))
        yield lambda count: self.events.append(("advance", count))

    def say(self, message):
        self.events.append(("say", message))


def test_values_flow_by_the_names_of_parameters():
    steps = [
        Step(lambda a: a + 1, makes="b"),
        Step(lambda a, b: a * b, makes="c"),
        Step(lambda c: None),
    ]
    assert run_steps(steps, {"a": 3}, Recorder()) == {"a": 3, "b": 4, "c": 12}


def test_progress_counts_the_steps_that_are_shown():
    progress = Recorder()

    def work(texts, advance, say):
        advance(2)
        say("halfway")
        advance(1)
        return len(texts)

    steps = [
        Step(lambda: ["x", "y", "z"], makes="texts", title="reading"),
        Step(lambda texts: texts[::-1], makes="texts"),
        Step(work, makes="n", title="working", amount=lambda texts: (len(texts), "texts")),
    ]
    assert run_steps(steps, {}, progress)["n"] == 3
    assert progress.events == [
        ("begin", 2),
        ("step", "reading", None, ""),
        ("step", "working", 3, "texts"),
        ("advance", 2),
        ("say", "halfway"),
        ("advance", 1),
    ]


def test_a_parameter_may_get_another_value_or_several():
    steps = [
        Step(lambda part: part * 10, makes="b", renames={"part": "a"}),
        Step(lambda parts: sum(parts) + 0, makes="total", renames={"parts": ["a", "b"]}),
    ]
    assert run_steps(steps, {"a": 1}, Recorder())["total"] == 11
    assert steps[1].needs == ["a", "b"]


def test_arguments_that_are_bound_are_not_needed():
    def add(a, advance, *, b=0):
        return a + b

    step = Step(partial(add, b=5), makes="c")
    assert step.needs == ["a"]
    assert run_steps([step], {"a": 1}, Recorder())["c"] == 6


def test_a_value_that_nobody_made_is_missed():
    with pytest.raises(KeyError, match="b"):
        run_steps([Step(lambda b: b)], {"a": 1}, Recorder())
