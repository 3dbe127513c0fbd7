import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amalgam_edge.errors import AmalgamError
from amalgam_edge.metrics.significance import bootstrap_interval, compare, mcnemar


def exact(b, c):
    """The binomial tail in whole numbers, divided once at the end."""
    tail = sum(math.comb(b + c, k) for k in range(min(b, c) + 1))
    return float(min(1.0, 2 * tail / 2 ** (b + c)))


@given(st.integers(0, 200), st.integers(0, 200))
def test_mcnemar_is_the_binomial_tail_doubled(b, c):
    assert mcnemar(b, c) == pytest.approx(exact(b, c), rel=1e-9)
    assert mcnemar(b, c) == mcnemar(c, b)


@pytest.mark.parametrize(
    ("b", "c", "p"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),
        (5, 0, 2 / 2**5),
        (8, 2, 2 * (1 + 10 + 45) / 2**10),
        (2, 10, 2 * (1 + 12 + 66) / 2**12),  # 0.0386
        (6, 6, 1.0),
        (15, 5, 0.0414),  # this and the next from tables of the sign test
        (7, 18, 0.0433),
    ],
)
def test_mcnemar_by_hand(b, c, p):
    assert mcnemar(b, c) == pytest.approx(p, abs=5e-5)


def test_mcnemar_of_very_many_texts_is_nearly_normal():
    """Beyond what a float can hold as 2^n: Yates' chi-square with one degree of freedom is as good there."""
    b, c = 50_500, 49_500
    z = (abs(b - c) - 1) / math.sqrt(b + c)
    assert mcnemar(b, c) == pytest.approx(math.erfc(z / math.sqrt(2)), rel=1e-3)
    assert mcnemar(100_000, 0) == 0.0


def test_the_interval_is_nearly_normal_for_many_texts():
    n, b, c = 20_000, 1_500, 1_200
    low, high = bootstrap_interval(n, b, c)
    middle = (b - c) / n
    error = math.sqrt((b + c) / n - middle**2) / math.sqrt(n)
    assert low == pytest.approx(middle - 1.96 * error, abs=0.06 * error)
    assert high == pytest.approx(middle + 1.96 * error, abs=0.06 * error)


def test_the_interval_is_that_of_texts_drawn_one_by_one():
    """Rows of both classifiers' answers drawn again with replacement, as the bootstrap is usually written."""
    rng = np.random.default_rng(1)
    first, second = rng.random(80) < 0.8, rng.random(80) < 0.6
    rows = rng.integers(0, 80, size=(20_000, 80))
    drawn = first[rows].mean(axis=1) - second[rows].mean(axis=1)
    assert compare(first, second).interval == pytest.approx(np.quantile(drawn, (0.025, 0.975)), abs=1 / 80 + 1e-9)


def test_the_interval_depends_on_the_seed_alone():
    assert bootstrap_interval(900, 60, 40, seed=3) == bootstrap_interval(900, 60, 40, seed=3)
    assert bootstrap_interval(9_999, 3_001, 2_003, seed=3) != bootstrap_interval(9_999, 3_001, 2_003, seed=4)


def test_two_classifiers_by_hand():
    first = np.array([1, 1, 1, 1, 0, 0, 1, 1], bool)
    second = np.array([1, 0, 0, 1, 1, 0, 0, 0], bool)
    found = compare(first, second)
    assert (found.n_texts, found.b, found.c) == (8, 4, 1)
    assert (found.accuracy, found.other_accuracy, found.difference) == (0.75, 0.375, 0.375)
    assert found.p_value == pytest.approx(2 * (1 + 5) / 32)
    low, high = found.interval
    assert -0.25 <= low < 0.375 < high <= 1.0
    assert found.interval == (low, high)


def test_the_other_way_round_is_the_mirror():
    rng = np.random.default_rng(2)
    first, second = rng.random(4_000) < 0.7, rng.random(4_000) < 0.65
    one, two = compare(first, second), compare(second, first)
    assert (one.b, one.c, one.p_value) == (two.c, two.b, two.p_value)
    assert one.difference == -two.difference
    assert one.interval == pytest.approx([-end for end in reversed(two.interval)], abs=1e-3)


def test_a_classifier_does_not_differ_from_itself():
    right = np.array([True, False, True])
    found = compare(right, right)
    assert (found.difference, found.interval, found.b, found.c, found.p_value) == (0.0, (0.0, 0.0), 0, 0, 1.0)


def test_one_text_is_enough():
    found = compare(np.array([True]), np.array([False]))
    assert (found.difference, found.interval, found.p_value) == (1.0, (1.0, 1.0), 1.0)


def test_no_texts_are_said():
    with pytest.raises(AmalgamError, match="no texts to compare"):
        compare(np.zeros(0, bool), np.zeros(0, bool))
