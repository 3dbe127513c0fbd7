"""The demo's comparison: students that differ only in their supervision."""

import numpy as np

from amalgam_edge.progress import SilentProgress
from examples import demo


def test_students_are_compared_by_their_supervision(prepared_group, tiny_plan, monkeypatch):
    label_of = {text: label or "maps" for text, label in tiny_plan.corpus}
    trained = {}

    def train(student, data, method, settings, folder, advance):
        trained[folder.name] = data.supervision, method.name
        folder.mkdir(parents=True)

    monkeypatch.setattr(demo, "train", train)
    accuracies = demo.compare_supervision(prepared_group.recipe, SilentProgress(), label_of)
    assert [*accuracies] == ["vanilla-kd", "muka-soft", "true labels"]
    assert len({*accuracies.values()}) == 1  # each student started from the same weights
    assert [name for _, name in trained.values()] == ["vanilla-kd", "muka-soft", "refined"]
    assert len({supervision.digest() for supervision, _ in trained.values()}) == 3
    supervision, _ = trained["comparison-true-labels"]
    names = prepared_group.data.heads.only.labels.names
    expected = np.array([names.index(label_of[text]) for text in prepared_group.data.texts.corpus.texts])
    np.testing.assert_array_equal(supervision.target, np.eye(len(names))[expected])
