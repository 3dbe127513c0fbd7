"""A model's output: probabilities and rankings, from logits."""

import numpy as np

from amalgam_edge.serving.batching import ModelOutput


def test_labels_with_equal_logits_are_ranked_in_their_order():
    logits = np.tile(np.array([0.0, 1.0], dtype=np.float32), (2, 150))
    output = ModelOutput.from_logits(logits, np.zeros(2, dtype=bool))
    assert output.ranking.tolist() == [[*range(1, 300, 2), *range(0, 300, 2)]] * 2


def test_labels_are_ranked_by_descending_logits():
    output = ModelOutput.from_logits(np.array([[1.0, 3.0, 2.0]], dtype=np.float32), np.zeros(1, dtype=bool))
    assert output.ranking.tolist() == [[1, 2, 0]]
    exponentials = np.exp([1.0, 3.0, 2.0])
    np.testing.assert_allclose(output.probabilities, [exponentials / exponentials.sum()], rtol=1e-12)
