"""McNemar's test and the paired bootstrap, compared with exact sums, tables and plain resampling."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amalgam_edge.errors import AmalgamError
from amalgam_edge.metrics.significance import bootstrap_interval, compare, mcnemar


def exact_p_value(b, c):
    """Twice the binomial tail, summed in whole numbers."""
    tail = sum(math.comb(b + c, k) for k in range(min(b, c) + 1))
    return float(min(1.0, 2 * tail / 2 ** (b + c)))


@given(st.integers(0, 200), st.integers(0, 200))
def test_mcnemar_is_twice_the_binomial_tail(b, c):
    assert mcnemar(b, c) == pytest.approx(exact_p_value(b, c), rel=1e-9)
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


def test_mcnemar_of_very_many_texts_is_close_to_the_chi_square_test():
    """For n where 2^n is beyond a float: Yates' chi-square with one degree of freedom is accurate there."""
    b, c = 50_500, 49_500
    z = (abs(b - c) - 1) / math.sqrt(b + c)
    assert mcnemar(b, c) == pytest.approx(math.erfc(z / math.sqrt(2)), rel=1e-3)
    assert mcnemar(100_000, 0) == 0.0


def test_the_interval_of_many_texts_is_close_to_the_normal_one():
    n, b, c = 20_000, 1_500, 1_200
    low, high = bootstrap_interval(n, b, c)
    middle = (b - c) / n
    error = math.sqrt((b + c) / n - middle**2) / math.sqrt(n)
    assert low == pytest.approx(middle - 1.96 * error, abs=0.06 * error)
    assert high == pytest.approx(middle + 1.96 * error, abs=0.06 * error)


def test_the_interval_equals_that_of_resampled_texts():
    """Texts are drawn with replacement, as the bootstrap is usually written."""
    rng = np.random.default_rng(1)
    first, second = rng.random(80) < 0.8, rng.random(80) < 0.6
    rows = rng.integers(0, 80, size=(20_000, 80))
    drawn = first[rows].mean(axis=1) - second[rows].mean(axis=1)
    assert compare(first, second).interval == pytest.approx(np.quantile(drawn, (0.025, 0.975)), abs=1 / 80 + 1e-9)


def test_the_interval_depends_on_the_seed_alone():
    assert bootstrap_interval(900, 60, 40, seed=3) == bootstrap_interval(900, 60, 40, seed=3)
    assert bootstrap_interval(9_999, 3_001, 2_003, seed=3) != bootstrap_interval(9_999, 3_001, 2_003, seed=4)


@pytest.mark.parametrize("options", [{}, {"seed": 0}, {"seed": 4}])
def test_the_interval_is_of_ten_thousand_resamples_and_seed_0_by_default(options):
    """Quantiles of the documented multinomial draw, to the bit."""
    n, b, c = 9_999, 3_001, 2_003
    right = np.arange(n) < b
    other_right = (np.arange(n) >= b) & (np.arange(n) < b + c)
    counts = np.random.default_rng(options.get("seed", 0)).multinomial(n, [b / n, c / n, (n - b - c) / n], 10_000)
    expected = tuple(np.quantile((counts[:, 0] - counts[:, 1]) / n, (0.025, 0.975)))
    assert bootstrap_interval(n, b, c, **options) == pytest.approx(expected, abs=1e-15)
    assert compare(right, other_right, **options).interval == pytest.approx(expected, abs=1e-15)


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


def test_swapping_the_classifiers_mirrors_the_comparison():
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


def test_a_comparison_without_texts_is_refused():
    with pytest.raises(AmalgamError, match="no texts to compare"):
        compare(np.zeros(0, bool), np.zeros(0, bool))
