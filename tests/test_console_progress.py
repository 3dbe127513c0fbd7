from __future__ import annotations

import io

import pytest
from rich.console import Console

from amalgam_edge import console_progress as module
from amalgam_edge.console_progress import ConsoleProgress


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(module, "monotonic", lambda: now[0])
    return now


def shown_by(progress, *, terminal):
    stream = io.StringIO()
    progress._console = Console(file=stream, force_terminal=terminal, width=100, highlight=False)
    return stream


@pytest.mark.parametrize("terminal", [False, True])
def test_steps_are_numbered_and_summed_up(clock, terminal):
    progress = ConsoleProgress()
    stream = shown_by(progress, terminal=terminal)
    progress.begin(2)
    with progress.step("reading"):
        clock[0] += 1.5
    with progress.step("scoring", 100, "texts") as advance:
        for _ in range(10):
            clock[0] += 1.0
            advance(10)
    assert "[1/2] reading" in stream.getvalue()
    assert "done in 1.5 s" in stream.getvalue()
    assert "[2/2] scoring" in stream.getvalue()
    assert "100 texts in 10 s (10/s)" in stream.getvalue()


def test_long_steps_tell_rate_and_time_left_without_a_terminal(clock):
    progress = ConsoleProgress()
    stream = shown_by(progress, terminal=False)
    with progress.step("scoring", 1000, "texts") as advance:
        clock[0] += 30
        advance(100)
        clock[0] += 1
        advance(1)
    lines = stream.getvalue().splitlines()
    assert lines[1].strip() == "100/1000 texts, 3 texts/s, 4 min 30 s left"
    assert len(lines) == 3


def test_hours_are_written_as_hours():
    assert module._duration(3 * 3600 + 4 * 60 + 5) == "3 h 04 min"


def test_text_in_brackets_is_shown_as_it_is(clock):
    progress = ConsoleProgress()
    stream = shown_by(progress, terminal=False)
    progress.say("teacher [bold] and [1/2]")
    assert stream.getvalue() == "teacher [bold] and [1/2]\n"
