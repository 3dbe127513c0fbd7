"""A model's output: probabilities and rankings, from logits."""

import numpy as np

from amalgam_edge.serving.batching import ModelOutput
from tests.support import heads


def test_labels_with_equal_logits_are_ranked_in_their_order():
    logits = np.tile(np.array([0.0, 1.0], dtype=np.float32), (2, 150))
    output = ModelOutput.from_logits(logits, np.zeros(2, dtype=bool))
    assert output.ranking.tolist() == [[*range(1, 300, 2), *range(0, 300, 2)]] * 2


def test_labels_are_ranked_by_descending_logits():
    output = ModelOutput.from_logits(np.array([[1.0, 3.0, 2.0]], dtype=np.float32), np.zeros(1, dtype=bool))
    assert output.ranking.tolist() == [[1, 2, 0]]
    exponentials = np.exp([1.0, 3.0, 2.0])
    np.testing.assert_allclose(output.probabilities, [exponentials / exponentials.sum()], rtol=1e-12)


def test_each_head_has_its_own_probabilities_and_ranking():
    rng = np.random.default_rng(3)
    logits = rng.normal(0.0, 2.0, (5, 22)).astype(np.float32)
    output = ModelOutput.from_logits(logits, np.zeros(5, dtype=bool), heads.SIX)
    for head, of_head in zip(heads.SIX, heads.by_head(heads.SIX, logits).values(), strict=True):
        found = output.labels(heads.SIX.columns(head.name))
        np.testing.assert_allclose(found.probabilities, heads.scores_of(head, of_head), rtol=1e-12)
        assert found.ranking.tolist() == np.argsort(-of_head, axis=1, kind="stable").tolist()
        np.testing.assert_array_equal(found.logits, of_head.astype(np.float32))


def test_parts_of_the_output_of_several_heads_are_put_together_again():
    logits = np.random.default_rng(4).normal(size=(6, 9)).astype(np.float32)
    truncated = np.array([False, True] * 3)
    whole = ModelOutput.from_logits(logits, truncated, heads.THREE)
    parts = [whole.texts(0, 2), whole.texts(2, 3), whole.texts(3, 6)]
    again = ModelOutput.concatenate(parts)
    for name in ("logits", "probabilities", "ranking", "truncated"):
        np.testing.assert_array_equal(getattr(again, name), getattr(whole, name))


def test_sigmoid_scores_of_large_logits_are_finite_and_ranked_by_the_logits():
    logits = np.array([[-2000.0, 90.0, 100.0, 2000.0]], dtype=np.float32)
    with np.errstate(all="raise", under="ignore"):
        output = ModelOutput.from_logits(logits, np.zeros(1, dtype=bool), heads.ONE_SIGMOID)
    assert output.probabilities.tolist() == [[0.0, 1.0, 1.0, 1.0]]
    assert output.ranking.tolist() == [[3, 2, 1, 0]]
