import numpy as np
import pytest
import scipy.special
import scipy.stats

from amalgam_edge.scoring.adaptive_passes import FIRST_PASSES, STANDARD_ERRORS, estimate, next_passes


def draw(means, spread, passes, seed=0):
    """Logits ``(passes, n_texts, n_classes)`` around the logits ``means`` ``(n_texts, n_classes)``."""
    noise = np.random.default_rng(seed).normal(size=(passes, *np.shape(means)))
    return np.asarray(means) + spread * noise


SURE, TORN = [6.0, 0.0, 0.0], [1.0, 0.9, 0.0]


def counts(teachers, texts, passes=FIRST_PASSES):
    return np.full((teachers, texts), passes)


def test_the_mean_and_its_variance_by_hand():
    logits = draw([SURE, TORN], 1.0, 8)
    passes = np.array([5, 8])
    u, variance = estimate(logits, passes)
    own, pooled = [], []
    for text, n in enumerate(passes):
        p = scipy.special.softmax(logits[:n, text], axis=-1)
        assert u[text] == pytest.approx(scipy.stats.entropy(p.mean(axis=0)) / np.log(3), abs=1e-12)
        influence = [-(row * np.log(p.mean(axis=0))).sum() / np.log(3) for row in p]
        own.append(np.square(np.array(influence) - np.mean(influence)).sum())
        pooled.append(own[-1] / (n - 1))  # the two texts are too unlike to be pooled with each other
    expected = [(s + 4 * q) / (n - 1 + 4) / n for s, q, n in zip(own, pooled, passes, strict=True)]
    np.testing.assert_allclose(variance, expected, rtol=1e-9)


def test_the_variance_leans_on_texts_whose_uncertainty_lies_in_the_same_eighth():
    rng = np.random.default_rng(3)
    logits = draw(rng.uniform(0, 4, (300, 3)), 0.5, 4)
    u, variance = estimate(logits, np.full(300, 4))
    p = scipy.special.softmax(logits, axis=-1)
    influence = -(p * np.log(p.mean(axis=0))).sum(axis=-1) / np.log(3)
    spread = influence.var(axis=0, ddof=1)
    eighth = np.minimum(np.floor(u * 8), 7)
    assert len(set(eighth)) > 5
    prior = np.array([spread[eighth == own].mean() for own in eighth])
    np.testing.assert_allclose(variance, (3 * spread + 4 * prior) / (3 + 4) / 4, rtol=1e-9)


def test_a_choice_is_open_within_three_quarters_of_a_standard_error():
    n = 3000
    means = [np.random.default_rng(seed).uniform(0, 2, (n, 3)) for seed in (1, 2)]
    logits = [draw(mean, 0.5, 2, seed) for seed, mean in enumerate(means)]
    (first, first_variance), (second, second_variance) = (estimate(each, np.full(n, 2)) for each in logits)
    distance = np.abs(first - second) / np.sqrt(first_variance + second_variance)
    assert ((distance > 0.7) & (distance < 0.8)).sum() > 20
    goes_on = next_passes(logits, counts(2, n, 2), 10) > 2
    np.testing.assert_array_equal(goes_on, np.broadcast_to(distance <= 0.75, (2, n)))


def test_a_text_begins_with_two_passes():
    assert FIRST_PASSES == 2


def test_passes_that_were_not_run_do_not_count():
    logits = draw([TORN] * 4, 1.0, 10)
    garbage = logits.copy()
    garbage[3:] = 1e6
    np.testing.assert_array_equal(estimate(logits, np.full(4, 3)), estimate(garbage, np.full(4, 3)))


def test_the_variance_is_that_of_many_repetitions():
    n, repetitions = 10, 4000
    logits = draw([[1.5, 0.0, 0.0, 0.0]] * repetitions, 0.7, n)
    u, variance = estimate(logits, np.full(repetitions, n))
    assert np.mean(variance) == pytest.approx(u.var(), rel=0.15)


def test_a_clear_choice_takes_no_more_passes():
    logits = [draw([SURE] * 5, 0.1, 10, seed=1), draw([TORN] * 5, 0.1, 10, seed=2)]
    np.testing.assert_array_equal(next_passes(logits, counts(2, 5), 10), counts(2, 5))


def test_an_open_choice_goes_on_in_steps_to_the_most():
    logits = [draw([TORN] * 3, 1.0, 40, seed) for seed in (1, 1)]  # the same answers: never to be told apart
    passes, seen = counts(2, 3), []
    while True:
        wanted = next_passes(logits, passes, 35)
        if (wanted == passes).all():
            break
        assert len(np.unique(wanted)) == 1
        seen.append(int(wanted[0, 0]))
        passes = wanted
    assert seen == [5, 10, 20, 30, 35]


def test_the_most_may_be_less_than_the_first_step():
    logits = [draw([TORN], 1.0, 4, 1)] * 2
    np.testing.assert_array_equal(next_passes(logits, counts(2, 1), 4), counts(2, 1, 4))
    np.testing.assert_array_equal(next_passes(logits, counts(2, 1, 4), 4), counts(2, 1, 4))


def test_only_teachers_in_question_go_on():
    text = [2.0, 0.0, 0.0]
    logits = [draw([text], 0.8, 10, 1), draw([[0.0, 0.0, 0.0]], 0.01, 10, 2), draw([text], 0.8, 10, 1)]
    np.testing.assert_array_equal(next_passes(logits, counts(3, 1), 10), [[5], [FIRST_PASSES], [5]])


def test_texts_are_decided_one_by_one():
    logits = [draw([SURE, TORN], 0.3, 10, 3), draw([TORN, TORN], 0.3, 10, 3)]
    wanted = next_passes(logits, counts(2, 2), 10)
    assert wanted[:, 0].tolist() == [FIRST_PASSES] * 2
    assert wanted[:, 1].tolist() == [5, 5]


def test_a_teacher_behind_catches_up():
    logits = [draw([TORN], 1.0, 10, 5)] * 2
    np.testing.assert_array_equal(next_passes(logits, np.array([[5], [3]]), 10), [[10], [5]])


def test_a_teacher_alone_runs_the_most():
    np.testing.assert_array_equal(next_passes([draw([TORN], 1.0, 10)], counts(1, 1), 10), counts(1, 1, 10))


def test_teachers_without_any_spread_are_settled_or_tied():
    logits = [np.tile([SURE], (10, 1, 1)), np.tile([TORN], (10, 1, 1))]
    np.testing.assert_array_equal(next_passes(logits, counts(2, 1), 10), counts(2, 1))


def test_certainty_beyond_floats_is_no_error():
    logits = [draw([[900.0, 0.0, 0.0]], 0.0, 10), draw([[0.0, 900.0, 0.0]], 0.0, 10)]
    with np.errstate(all="raise", under="ignore"):
        assert np.isfinite(estimate(logits[0], np.array([3]))).all()
    assert next_passes(logits, counts(2, 1), 10).max() <= 10


def test_the_bound_holds_where_it_stops():
    """Of choices that are settled at once, no more are wrong than the bound allows."""
    n = 20_000
    rng = np.random.default_rng(0)
    means = [np.stack([rng.uniform(0, 3, n), np.zeros(n), np.zeros(n)], axis=1) for _ in range(2)]
    logits = [draw(mean, 0.6, FIRST_PASSES, seed) for seed, mean in enumerate(means, 1)]
    many = [draw(mean, 0.6, 200, seed) for seed, mean in zip((3, 4), (m[:2000] for m in means), strict=True)]
    settled = (next_passes(logits, counts(2, n), 10) == FIRST_PASSES).all(axis=0)[:2000]
    chosen = np.argmin([estimate(x, np.full(n, FIRST_PASSES))[0] for x in logits], axis=0)[:2000]
    right = np.argmin([estimate(x, np.full(2000, 200))[0] for x in many], axis=0)
    wrong = (chosen != right)[settled].mean()
    assert settled.mean() > 0.3
    assert wrong < scipy.stats.norm.sf(STANDARD_ERRORS)


def test_the_mean_and_variance_of_independent_labels_by_hand():
    logits = draw([[3.0, -1.0], [0.2, 0.1]], 1.0, 6)
    passes = np.array([6, 6])
    u, variance = estimate(logits, passes, "sigmoid")
    own = []
    for text in range(2):
        p = scipy.special.expit(logits[:, text])
        mean = p.mean(axis=0)
        entropies = scipy.special.entr(mean) + scipy.special.entr(1 - mean)
        assert u[text] == pytest.approx(entropies.mean() / np.log(2), abs=1e-12)
        influence = -(p * np.log(mean) + (1 - p) * np.log(1 - mean)).mean(axis=-1) / np.log(2)
        assert influence.mean() == pytest.approx(u[text], abs=1e-12)
        own.append(np.square(influence - influence.mean()).sum())
    expected = [(s + 4 * s / 5) / (5 + 4) / 6 for s in own]  # alone in their eighths
    np.testing.assert_allclose(variance, expected, rtol=1e-9)
