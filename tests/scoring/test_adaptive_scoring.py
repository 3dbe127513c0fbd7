"""``passes="auto"`` from end to end: who gets passes, and what is stored of it."""

import dataclasses

import numpy as np
import pytest

from amalgam_edge.corpus import read_corpus
from amalgam_edge.models.teacher import load_teacher
from amalgam_edge.scoring.backends import Backend
from amalgam_edge.scoring.score import ScoringSettings, score_corpus, score_key, score_texts
from amalgam_edge.scoring.scores import ARRAYS, certainty
from amalgam_edge.scoring.store import ScoreStore
from tests.support import tiny

SETTINGS = ScoringSettings(passes="auto", max_passes=20, batch_tokens=300)
TORCH = Backend("torch", "cpu")
TEXTS = [f"{first} {second}" for first in tiny.TEXTS for second in tiny.TEXTS[:6]]


@pytest.fixture(scope="module")
def teachers(make_classifier, tmp_path_factory):
    folders = [
        make_classifier(tmp_path_factory.mktemp("t"), list(labels), seed=seed, dropout=0.03)
        for seed, labels in ((1, "abc"), (2, "defg"))
    ]
    return [load_teacher(f"t{k}", str(folder), max_length=32) for k, folder in enumerate(folders)]


def ignore(count):
    pass


def score(teachers, settings, texts=TEXTS):
    runners = [TORCH.open(teacher, settings) for teacher in teachers]
    return score_texts(teachers, runners, texts, settings, ignore)


def test_each_text_has_the_scores_of_as_many_passes_as_it_took(teachers):
    adaptive = score(teachers, SETTINGS)
    taken = {int(n) for scores in adaptive for n in scores.passes}
    assert len(taken) > 1
    assert taken <= {2, 5, 10, 20}
    for n in taken:
        # The runners' rounds have ten passes, so that fewer passes are the first of the same ones.
        runners = [TORCH.open(teacher, SETTINGS) for teacher in teachers]
        settings = dataclasses.replace(SETTINGS, passes=n)
        fixed = score_texts(teachers, runners, TEXTS, settings, ignore)
        for found, expected in zip(adaptive, fixed, strict=True):
            rows = np.flatnonzero(found.passes == n)
            for name in ARRAYS:
                np.testing.assert_allclose(
                    getattr(found, name)[rows], getattr(expected, name)[rows], rtol=1e-4, atol=1e-5, err_msg=name
                )


def test_passes_go_to_close_choices(teachers):
    adaptive = score(teachers, SETTINGS)
    certainties = certainty(score(teachers, dataclasses.replace(SETTINGS, passes=40)))
    gap = np.abs(certainties[:, 0] - certainties[:, 1])
    most = np.maximum(adaptive[0].passes, adaptive[1].passes)
    assert gap[most == most.min()].mean() > 1.5 * gap[most == most.max()].mean()


def test_a_teacher_alone_takes_the_most(teachers):
    (found,) = score(teachers[:1], SETTINGS)
    assert set(found.passes) == {20}


def test_the_cap_holds(teachers):
    for found in score(teachers, dataclasses.replace(SETTINGS, max_passes=4)):
        assert set(found.passes) <= {2, 4}


def test_the_key_names_the_other_teachers_and_the_cap(teachers, tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(TEXTS), "utf-8")
    corpus = read_corpus(str(path))
    a, b = teachers

    def key(group, **changes):
        return score_key(a, group, corpus, dataclasses.replace(SETTINGS, **changes)).fingerprint

    assert key([a, b]) != key([a])
    assert key([a, b]) != key([a, b], max_passes=10)
    assert key([a, b], passes=10) == key([a], passes=10, max_passes=5)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("after", [0, 1, 2, 3])
def test_a_run_killed_between_two_teachers_shards_ends_in_the_same_tables(teachers, tmp_path, monkeypatch, after):
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(TEXTS), "utf-8")
    corpus = read_corpus(str(path))

    def stores(name):
        keys = [score_key(teacher, teachers, corpus, SETTINGS) for teacher in teachers]
        return [ScoreStore(tmp_path / name / key.teacher, key, shard_size=40) for key in keys]

    def run(name):
        score_corpus(teachers, stores(name), corpus, SETTINGS, lambda t: TORCH.open(t, SETTINGS), ignore)
        return [store.read() for store in stores(name)]

    whole = run("whole")
    written = 0
    write = ScoreStore.write

    def killed(self, shard, scores, failures):
        nonlocal written
        if written == after:
            raise Killed
        written += 1
        write(self, shard, scores, failures)

    monkeypatch.setattr(ScoreStore, "write", killed)
    with pytest.raises(Killed):
        run("cut")
    monkeypatch.undo()
    for found, expected in zip(run("cut"), whole, strict=True):
        for name in ARRAYS:
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)
