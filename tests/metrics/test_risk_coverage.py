"""The risk-coverage curve, by hand and over all orders of equal confidences."""

from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amalgam_edge.metrics.risk_coverage import risk_coverage

N_POINTS = 100


def test_the_area_by_hand():
    """Most confident first the predictions are right, wrong, right, wrong: risks 0, 1/2, 1/3, 1/2."""
    found = risk_coverage(np.array([True, False, True, False]), np.array([0.7, 0.8, 0.9, 0.4]))
    np.testing.assert_allclose(found.coverage, [0.25, 0.5, 0.75, 1.0])
    np.testing.assert_allclose(found.risk, [0, 1 / 2, 1 / 3, 1 / 2])
    assert found.area == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 2) / 4)


def test_the_area_of_right_and_of_wrong_predictions_alone():
    assert risk_coverage(np.ones(7, bool), np.arange(7.0)).area == 0.0
    assert risk_coverage(np.zeros(7, bool), np.arange(7.0)).area == 1.0
    one = risk_coverage(np.array([False]), np.array([0.3]))
    assert (one.coverage.tolist(), one.risk.tolist(), one.area) == ([1.0], [1.0], 1.0)


def test_the_area_is_smaller_if_right_predictions_are_more_confident():
    right, confidence = np.arange(50) >= 20, np.arange(50) / 50
    ordered, reversed_order = risk_coverage(right, confidence), risk_coverage(right, -confidence)
    assert ordered.area < reversed_order.area
    assert ordered.risk[-1] == reversed_order.risk[-1] == pytest.approx(0.4)


@given(st.lists(st.tuples(st.booleans(), st.sampled_from([0.5, 0.7, 0.9])), min_size=1, max_size=5))
def test_the_risk_of_equal_confidences_is_the_mean_over_their_orders(texts):
    """Compared with the mean over every order of the texts that is sorted by confidence."""
    areas = []
    for order in permutations(texts):
        if all(one[1] >= two[1] for one, two in pairwise(order)):
            wrong = np.cumsum([not right for right, _ in order])
            areas.append(np.mean(wrong / np.arange(1, len(order) + 1)))
    right, confidence = (np.array(column) for column in zip(*texts, strict=True))
    assert risk_coverage(right, confidence).area == pytest.approx(np.mean(areas))


def test_the_curve_of_many_texts_is_thinned_and_its_area_is_of_all():
    rng = np.random.default_rng(0)
    right, confidence = rng.random(12_345) < 0.8, rng.random(12_345)
    found = risk_coverage(right, confidence)
    assert len(found.coverage) == len(found.risk) == N_POINTS
    assert found.coverage[-1] == 1.0
    assert found.risk[-1] == pytest.approx(1 - right.mean())
    wrong = np.cumsum(~right[np.argsort(-confidence)]) / np.arange(1, 12_346)
    assert found.area == pytest.approx(wrong.mean())
    np.testing.assert_allclose(found.risk, wrong[np.ceil(found.coverage * 12_345 - 1e-6).astype(int) - 1])


@pytest.mark.parametrize("n_texts", [99, 100, 101, 200])
def test_there_are_as_many_points_as_texts_up_to_the_limit(n_texts):
    coverage = risk_coverage(np.ones(n_texts, bool), np.arange(float(n_texts))).coverage
    assert len(coverage) == min(n_texts, N_POINTS)
    assert (np.diff(coverage) > 0).all()
