"""Progress that people see: bars in a terminal or a notebook, lines in a log."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from time import monotonic

from amalgam_edge.progress import Advance, Progress, SilentProgress
from amalgam_edge.shown_text import line

# None: as it suits the place where it is shown; True: the same; False: nothing; or an object of one's own.
ProgressChoice = Progress | bool | None

_SECONDS_BETWEEN_LINES = 20.0


def resolve_progress(choice: ProgressChoice) -> Progress:
    """What is told of progress: a :class:`ConsoleProgress`, nobody, or the object given."""
    if choice is False:
        return SilentProgress()
    return ConsoleProgress() if choice is None or choice is True else choice


class ConsoleProgress:
    """Shows which step of how many, how much of it, its rate and the time left."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True, highlight=False)
        self._n_steps = 0
        self._step = 0

    def begin(self, n_steps: int) -> None:
        """Say how many steps there will be."""
        self._n_steps = n_steps
        self._step = 0

    def say(self, message: str) -> None:
        """Show a line that stays."""
        self._console.print(line(message), markup=False, soft_wrap=True)

    @contextmanager
    def step(self, title: str, total: int | None = None, unit: str = "") -> Iterator[Advance]:
        """Show one step while it runs, and leave a line when it is done."""
        self._step += 1
        head = line(f"[{self._step}/{self._n_steps}] {title}" if self._n_steps else title)
        meter = Meter(total, unit)
        if self._shows_bars:
            with self._bar(head, total, meter) as advance:
                yield advance
        else:
            self.say(head)
            yield lambda count: self._line(meter, count)
        self.say(f"{head}: {meter.summary()}" if self._shows_bars else f"    {meter.summary()}")

    @property
    def _shows_bars(self) -> bool:
        """Whether bars can be drawn: in a terminal, and in a notebook that has ipywidgets."""
        if self._console.is_jupyter:
            return find_spec("ipywidgets") is not None
        return self._console.is_terminal

    @contextmanager
    def _bar(self, head: str, total: int | None, meter: Meter) -> Iterator[Advance]:
        from rich.progress import BarColumn, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars

        columns = [SpinnerColumn(), TextColumn("{task.description}", markup=False)]
        if total:
            columns += [BarColumn(bar_width=24), TaskProgressColumn(), TextColumn("{task.fields[rate]}", markup=False)]
        with Bars(*columns, TimeElapsedColumn(), console=self._console, transient=True) as bar:
            task = bar.add_task(head, total=total, rate="")

            def advance(count: int) -> None:
                meter.add(count)
                bar.update(task, completed=meter.done, rate=meter.rate_and_rest())

            yield advance

    def _line(self, meter: Meter, count: int) -> None:
        meter.add(count)
        if meter.due():
            self.say(f"    {meter.done}/{meter.total} {meter.unit}, {meter.rate_and_rest()}")
            sys.stderr.flush()


class Meter:
    """Counts work done, for lines that tell of it.

    Args:
        total: How many units there are; None where nobody knows.
        unit: Name of a unit, such as ``texts``.
    """

    def __init__(self, total: int | None, unit: str) -> None:
        self.total = total
        self.unit = unit
        self.done = 0
        self._start = self._last_line = monotonic()

    def add(self, count: int) -> None:
        """Count some more."""
        self.done += count

    def due(self) -> bool:
        """Whether it is time for a line in a log; if so, the next one is due later."""
        now = monotonic()
        if now - self._last_line < _SECONDS_BETWEEN_LINES:
            return False
        self._last_line = now
        return True

    def rate_and_rest(self) -> str:
        """How fast it goes and, where the total is known, how long it will take."""
        seconds = monotonic() - self._start
        if not self.done or seconds <= 0:
            return ""
        rate = self.done / seconds
        left = f", {_duration((self.total - self.done) / rate)} left" if self.total else ""
        return f"{rate:.0f} {self.unit}/s{left}"

    def summary(self) -> str:
        """What was done, and how long it took."""
        seconds = monotonic() - self._start
        if self.total and seconds > 0:
            return f"{self.done} {self.unit} in {_duration(seconds)} ({self.done / seconds:.0f}/s)"
        return f"done in {_duration(seconds)}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
