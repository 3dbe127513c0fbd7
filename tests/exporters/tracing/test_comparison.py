"""How an export is compared with torch, on functions instead of models."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from amalgam_edge.exporters.tracing.comparison import TOLERANCE, in_float64, largest_difference
from amalgam_edge.exporters.tracing.to_onnx import probe_inputs

MODEL = SimpleNamespace(config=SimpleNamespace(pad_token_id=1, vocab_size=50))


def constant(*values):
    return lambda ids, mask: np.tile(np.array(values), (len(ids), 1))


@pytest.mark.parametrize(
    ("original", "exported", "difference"),
    [
        ([0.1, 0.2], [0.1, 0.2], 0.0),
        ([0.1, 0.2], [0.1, 0.201], 0.001),  # of 1, where all logits are smaller
        ([-10.0, 2.0], [-10.0, 2.001], 0.0001),  # of the largest logit
        ([-10.0, 2.0], [-9.0, 2.0], 0.1),
    ],
)
def test_differences_are_shares_of_the_largest_logit_or_of_one(original, exported, difference):
    found = largest_difference(MODEL, constant(*original), constant(*exported))
    assert found == pytest.approx(difference, abs=1e-12)


@pytest.mark.parametrize(("original", "exported"), [(np.nan, 0.0), (0.0, np.nan)])
def test_nan_is_a_difference_of_nan(original, exported):
    assert np.isnan(largest_difference(MODEL, constant(original, 1.0), constant(exported, 1.0)))


def test_the_largest_difference_of_any_probe_counts():
    """One that only texts of 33 tokens show."""
    found = largest_difference(
        MODEL, constant(0.5), lambda ids, mask: np.full((len(ids), 1), 0.5 + (ids.shape[1] == 33))
    )
    assert found == pytest.approx(1.0)


def test_probes_have_single_texts_and_tokens_and_padding():
    shapes = []

    def record(ids, mask):
        shapes.append((*ids.shape, int((mask == 0).sum())))
        assert not (mask[1:] == 0).any()
        return np.zeros((len(ids), 1))

    largest_difference(MODEL, record, constant(0.0))
    assert shapes == [(1, 1, 0), (1, 16, 0), (2, 5, 3), (3, 9, 4), (4, 33, 20)]


@pytest.mark.parametrize(("pad", "vocabulary"), [(1, 50), (0, 7), (None, 400), (6, 7)])
def test_probe_inputs_have_padding_tokens_only_where_the_mask_is_zero(pad, vocabulary):
    model = SimpleNamespace(config=SimpleNamespace(pad_token_id=pad, vocab_size=vocabulary))
    ids, mask = probe_inputs(model, 3, 9, 4)
    assert ids.shape == mask.shape == (3, 9)
    assert ids.min() >= 0
    assert ids.max() < vocabulary
    assert torch.equal(ids == (pad or 0), mask == 0)
    assert mask.sum(dim=1).tolist() == [5, 9, 9]
    assert len(set(ids[1].tolist())) >= min(vocabulary - 1, 9) - 1


def test_float64_is_that_of_a_copy():
    model = torch.nn.Linear(2, 2)
    assert in_float64(model).weight.dtype == torch.float64
    assert model.weight.dtype == torch.float32


def test_the_tolerance_is_a_ten_thousandth():
    assert TOLERANCE == 1e-4
