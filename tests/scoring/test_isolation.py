import numpy as np
import pytest

from amalgam_edge.errors import AmalgamError
from amalgam_edge.scoring.isolation import isolate_failures
from amalgam_edge.scoring.scores import ARRAYS, TeacherScores

NAMES = ("first", "second")
BLANKS = [TeacherScores.blank(name, 3) for name in NAMES]
TEXTS = [f"text {k}" for k in range(13)]


def scores_of(name, texts):
    """Whatever a teacher says of a text depends on the text alone."""
    logits = np.array([[float(text.split()[1]), len(name), 0.5] for text in texts], dtype=np.float32)
    return TeacherScores.from_logits(name, logits, np.stack([logits, logits / 2]))


class Panic(BaseException):
    """As pyo3's PanicException, which is no Exception."""


def scoring(poison, error=RuntimeError):
    """Teachers, of which each raises over its own poisoned texts; and the calls that there were."""
    calls = []

    def score(positions, texts):
        calls.append((tuple(positions), tuple(texts)))
        for position in positions:
            for text in texts:
                if text in poison.get(NAMES[position], ()):
                    raise error(f"no room for\n{text}")
        return [scores_of(NAMES[position], texts) for position in positions]

    return score, calls


@pytest.mark.parametrize(
    "poison",
    [
        {},
        {"first": ["text 0"]},
        {"second": ["text 12", "text 5", "text 6"]},
        {"first": ["text 3", "text 4"], "second": ["text 4", "text 11"]},
        {"first": TEXTS[1:]},
    ],
)
def test_the_texts_at_fault_are_found_and_the_others_scored(poison):
    score, _ = scoring(poison)
    told = isolate_failures(score, TEXTS, BLANKS)
    for name, each in zip(NAMES, told, strict=True):
        bad = [TEXTS.index(text) for text in poison.get(name, [])]
        assert each.failures == dict.fromkeys(bad, "RuntimeError: no room for")
        assert np.flatnonzero(~each.scores.scored).tolist() == sorted(bad)
        good = np.setdiff1d(np.arange(len(TEXTS)), bad)
        expected = scores_of(name, [TEXTS[row] for row in good])
        for array in ARRAYS:
            np.testing.assert_array_equal(getattr(each.scores, array)[good], getattr(expected, array))
            assert getattr(each.scores, array).dtype == getattr(expected, array).dtype
            if array != "passes":
                assert np.isnan(getattr(each.scores, array)[bad]).all()


def test_a_panic_over_a_text_is_a_failure_of_it():
    score, _ = scoring({"first": ["text 3"], "second": ["text 3", "text 7"]}, Panic)
    told = isolate_failures(score, TEXTS, BLANKS)
    assert [each.failures for each in told] == [
        {3: "Panic: no room for"},
        {3: "Panic: no room for", 7: "Panic: no room for"},
    ]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_the_end_of_the_process_is_no_failure_of_a_text(error):
    score, calls = scoring({"first": ["text 3"]}, error)
    with pytest.raises(error):
        isolate_failures(score, TEXTS, BLANKS)
    assert len(calls) == 1


def test_where_nothing_is_wrong_texts_are_scored_once():
    score, calls = scoring({})
    isolate_failures(score, TEXTS, BLANKS)
    assert calls == [((0, 1), tuple(TEXTS))]


def test_one_text_costs_few_runs():
    score, calls = scoring({"first": ["text 7"]})
    isolate_failures(score, TEXTS, BLANKS)
    # All, each teacher alone, two halves each of four times, the others together, the other teacher on the one.
    assert len(calls) <= 1 + 2 + 2 * 4 + 1 + 1
    assert calls[-2] == ((0, 1), (*TEXTS[:7], *TEXTS[8:]))


def test_a_teacher_that_scores_nothing_is_at_fault_itself():
    score, _ = scoring({"second": TEXTS})
    with pytest.raises(
        AmalgamError, match=r"^teacher 'second': scores none of 13 texts \(RuntimeError: no room for\);"
    ):
        isolate_failures(score, TEXTS, BLANKS)


def test_the_only_text_may_fail():
    score, _ = scoring({"second": TEXTS})
    assert isolate_failures(score, TEXTS[:1], BLANKS)[1].failures == {0: "RuntimeError: no room for"}


def test_mistakes_of_the_user_are_no_failures_of_a_text():
    def score(positions, texts):
        raise AmalgamError("the device is gone")

    with pytest.raises(AmalgamError, match="the device is gone"):
        isolate_failures(score, TEXTS, BLANKS)


def test_texts_that_fail_together_alone_are_not_at_fault():
    def score(positions, texts):
        if len(texts) > 6:
            raise RuntimeError("out of memory")
        return [scores_of(NAMES[position], texts) for position in positions]

    with pytest.raises(AmalgamError, match=r"13 texts cannot be scored together \(out of memory\).*--batch-tokens"):
        isolate_failures(score, TEXTS, BLANKS)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scores_that_are_not_finite_are_failures(bad):
    def score(positions, texts):
        scores = [scores_of(NAMES[position], texts) for position in positions]
        scores[0].logits[4, 1] = bad
        scores[1].mean_probabilities[9, 0] = bad
        return scores

    first, second = isolate_failures(score, TEXTS, BLANKS)
    assert (first.failures, second.failures) == ({4: "scores are not finite"}, {9: "scores are not finite"})
    assert first.scores.passes.tolist() == [2] * 4 + [0] + [2] * 8
    assert np.isnan(second.scores.logits[9]).all()
