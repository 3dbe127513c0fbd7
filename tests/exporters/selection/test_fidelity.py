"""Agreement and KL divergence of two models' logits, by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amalgam_edge.exporters.selection.fidelity import measure_fidelity
from amalgam_edge.heads import Heads

TWO, THREE = Heads.of_labels(["a", "b"]), Heads.of_labels(["a", "b", "c"])


def test_fidelity_by_hand():
    # softmax of log-probabilities is those probabilities
    reference = np.log([[0.5, 0.25, 0.25], [0.2, 0.7, 0.1]])
    other = np.log([[0.25, 0.5, 0.25], [0.2, 0.7, 0.1]])
    found = measure_fidelity(reference, other, THREE)
    assert found.agreement == 0.5
    assert found.disagreement == 0.5
    assert found.n_texts == 2
    assert found.heads == {"label": 0.5}
    assert found.labels == {}  # of sigmoid heads
    by_hand = (0.5 * math.log(2) + 0.25 * math.log(0.5)) / 2
    assert found.mean_kl == pytest.approx(by_hand, rel=1e-12)


@given(st.integers(0, 2**32 - 1))
def test_a_model_agrees_with_itself(seed):
    logits = np.random.default_rng(seed).normal(size=(4, 3)) * 5
    found = measure_fidelity(logits, logits + 3.0, THREE)
    assert found.agreement == 1.0
    assert 0.0 <= found.mean_kl < 1e-12


def test_nan_logits_do_not_agree():
    reference = np.array([[2.0, 1.0], [3.0, 0.0]])  # all of label 0, which is what argmax makes of nan
    found = measure_fidelity(reference, np.full((2, 2), np.nan), TWO)
    assert found.agreement == 0.0
    assert found.mean_kl != 0.0


@pytest.mark.parametrize(("changed", "n_texts"), [(1, 3), (7, 1000), (0, 7), (2000, 2000)])
def test_disagreement_is_a_whole_number_of_texts(changed, n_texts):
    """Compared with a budget such as 0.7 %, one minus the agreement would miss it by its rounding."""
    reference = np.tile([1.0, 0.0], (n_texts, 1))
    other = reference.copy()
    other[:changed] = [0.0, 1.0]
    assert measure_fidelity(reference, other, TWO).disagreement == changed / n_texts
