"""Timing in turns, with a clock that the tests set."""

import pytest

from amalgam_edge.metrics import timing
from amalgam_edge.metrics.timing import BUNDLE_PREFIX, WorkloadTiming, median_call_times


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still except when a test adds to ``clock.now``."""

    class Clock:
        now = 0.0
        slept = 0.0

    def sleep(seconds):
        Clock.slept += seconds

    monkeypatch.setattr(timing, "perf_counter", lambda: Clock.now)
    monkeypatch.setattr(timing, "sleep", sleep)
    return Clock


def test_the_result_is_the_median_over_rounds_of_the_medians_of_turns(clock):
    order = []
    costs = {"a": iter([9, 9, 1, 1, 5, 9, 9, 3, 3, 9, 9, 2, 2, 2]), "b": iter([1.0] * 100)}

    def contender(name):
        def call():
            order.append(name)
            clock.now += next(costs[name])

        return call

    found = median_call_times({name: contender(name) for name in "ab"}, rounds=3, seconds=6)
    assert found == {"a": 2.0, "b": 1.0}  # after two calls to warm up, the rounds' medians are 1, 3 and 2
    assert clock.slept == pytest.approx(6 * 0.05)
    turns = [name for k, name in enumerate(order) if k == 0 or order[k - 1] != name]
    assert turns == ["a", "b"] * 3


def test_a_call_longer_than_a_turn_is_timed_once(clock):
    calls = []

    def slow():
        calls.append(1)
        clock.now += 100.0

    assert median_call_times({"slow": slow}, rounds=2, seconds=1) == {"slow": 100.0}
    assert len(calls) == 2 * (2 + 1)


def test_a_turn_of_no_time_has_one_timed_call(clock):
    def call():
        clock.now += 3.0

    assert median_call_times({"only": call}, rounds=1, seconds=0) == {"only": 3.0}


def test_speedups_are_relative_to_the_fastest_peer():
    assert BUNDLE_PREFIX == "amalgam-edge"
    workload = WorkloadTiming(
        "1×16", 1, {"amalgam-edge fp32": 4.0, "amalgam-edge int8": 2.0, "torch": 9.0, "openvino": 3.0}
    )
    assert workload.fastest_peer == "openvino"
    assert workload.speedup("amalgam-edge int8") == 1.5
    assert workload.speedup("amalgam-edge fp32") == 0.75
    assert list(workload.bundle_seconds) == ["amalgam-edge fp32", "amalgam-edge int8"]
    alone = WorkloadTiming("1×16", 1, {"amalgam-edge fp32": 4.0})
    assert alone.fastest_peer is None
    assert alone.speedup("amalgam-edge fp32") is None


def test_by_default_there_are_seven_turns_of_0_4_seconds(clock):
    calls = []

    def call():
        calls.append(1)
        clock.now += 0.125

    assert median_call_times({"only": call}) == {"only": 0.125}
    assert len(calls) == 7 * (2 + 4)  # four calls take more than 0.4 seconds
