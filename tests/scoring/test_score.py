import dataclasses

import numpy as np
import pytest
import scipy.special
import tiny
import torch

from amalgam_edge.corpus import read_corpus
from amalgam_edge.dropout import LiveDropout
from amalgam_edge.errors import AmalgamError
from amalgam_edge.models.teacher import load_teacher
from amalgam_edge.scores import ARRAYS
from amalgam_edge.scoring import score
from amalgam_edge.scoring.score import ScoringSettings, predict_texts, score_corpus, score_store, score_texts
from amalgam_edge.scoring.store import ScoreStore
from amalgam_edge.scoring.torch_runner import TorchRunner

SETTINGS = ScoringSettings(passes=4, batch_size=5, device="cpu")


@pytest.fixture(scope="module")
def teacher(classifier_folder):
    return load_teacher("t", str(classifier_folder), max_length=32)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "texts.txt"
    path.write_text("\n".join(tiny.TEXTS), "utf-8")
    return read_corpus(str(path))


@pytest.fixture
def store(tmp_path, teacher, corpus):
    return ScoreStore(tmp_path, score_store(tmp_path, teacher, corpus, SETTINGS).key, shard_size=6)


def ignore(count):
    pass


def assert_same(found, expected, exact=True):
    for name in ARRAYS:
        if exact:
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)
        else:
            np.testing.assert_allclose(
                getattr(found, name), getattr(expected, name), rtol=1e-4, atol=1e-5, err_msg=name
            )


@pytest.fixture
def runs(monkeypatch):
    """The batches that a model was run on."""
    seen = []
    original = TorchRunner.run

    def counted(self, input_ids, attention_mask, passes):
        seen.append(len(input_ids))
        return original(self, input_ids, attention_mask, passes)

    monkeypatch.setattr(TorchRunner, "run", counted)
    return seen


def test_scores_are_those_of_single_runs_of_the_model(teacher, corpus, store):
    found = score_corpus(teacher, corpus, SETTINGS, store, ignore)
    mode = LiveDropout(SETTINGS.seed, SETTINGS.passes)
    for row, text in enumerate(corpus.texts):
        inputs = teacher.tokenizer(text, return_tensors="pt", return_token_type_ids=False)
        with torch.inference_mode():
            plain = teacher.model(**inputs).logits[0].double().numpy()
            teacher.model.train()
            passes = []
            with mode:
                for number in range(SETTINGS.passes):
                    mode.start(number)
                    passes.append(teacher.model(**inputs).logits[0].double().numpy())
            teacher.model.eval()
        mean = scipy.special.softmax(passes, axis=-1).mean(axis=0)
        np.testing.assert_allclose(found.logits[row], plain, atol=1e-4)
        np.testing.assert_allclose(found.mean_probabilities[row], mean, atol=1e-5)
        assert found.uncertainty[row] == pytest.approx(scipy.stats.entropy(mean) / np.log(3), abs=1e-4)
    assert found.uncertainty.std() > 0.02
    assert found.passes.tolist() == [4] * len(tiny.TEXTS)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
@pytest.mark.parametrize("masks", ["systematic", "independent"])
def test_scores_do_not_depend_on_batch_or_order(teacher, batch_size, masks):
    settings = dataclasses.replace(SETTINGS, masks=masks)
    order = np.random.default_rng(1).permutation(len(tiny.TEXTS))
    shuffled = [tiny.TEXTS[k] for k in order]

    def scored(texts, size):
        runner = TorchRunner(teacher.model, passes=4, masks=masks, device="cpu")
        return score_texts(teacher, runner, texts, dataclasses.replace(settings, batch_size=size), ignore)

    expected = scored(tiny.TEXTS, 5)
    assert_same(scored(tiny.TEXTS, batch_size), expected, exact=False)
    assert_same(scored(shuffled, batch_size), expected.take(order), exact=False)


def test_a_text_is_cut_to_the_teachers_length(teacher):
    runner = TorchRunner(teacher.model, passes=4, device="cpu")
    short = dataclasses.replace(teacher, max_length=8)
    long_text = "penguins on ice and snow " * 9
    ids = teacher.tokenizer(long_text)["input_ids"]
    cut = [*ids[:7], teacher.tokenizer.sep_token_id]
    found = score_texts(short, runner, [long_text], SETTINGS, ignore)
    with torch.inference_mode():
        expected = teacher.model(input_ids=torch.tensor([cut])).logits
    np.testing.assert_allclose(found.logits, expected, atol=1e-5)


def test_progress_counts_every_text_once(teacher, corpus, store):
    counts = []
    score_corpus(teacher, corpus, SETTINGS, store, counts.append)
    assert sum(counts) == len(corpus)


def test_finished_scores_are_read_without_a_model(teacher, corpus, store, runs, monkeypatch):
    first = score_corpus(teacher, corpus, SETTINGS, store, ignore)
    assert sum(runs) >= len(corpus)
    runs.clear()
    monkeypatch.setattr(score, "TorchRunner", None)
    counts = []
    again = score_corpus(teacher, corpus, SETTINGS, store, counts.append)
    assert runs == []
    assert counts == [len(corpus)]
    assert_same(again, first)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("after", [1, 7, 13])
def test_a_killed_run_goes_on_and_ends_in_the_same_tables(teacher, corpus, store, tmp_path, runs, after):
    whole = score_corpus(teacher, corpus, SETTINGS, store, ignore)
    all_runs = sum(runs)
    other = ScoreStore(tmp_path / "other", store.key, shard_size=6)
    done = 0

    def kill(count):
        nonlocal done
        done += count
        if done >= after:
            raise Killed

    with pytest.raises(Killed):
        score_corpus(teacher, corpus, SETTINGS, other, kill)
    missing = other.missing()
    assert missing == {1: [0, 1, 2], 7: [1, 2], 13: [2]}[after]
    runs.clear()
    counts = []
    assert_same(score_corpus(teacher, corpus, SETTINGS, other, counts.append), whole)
    assert sum(counts) == len(corpus)
    assert sum(runs) == all_runs - 6 * (3 - len(missing))


def test_a_deleted_shard_is_scored_again(teacher, corpus, store):
    whole = score_corpus(teacher, corpus, SETTINGS, store, ignore)
    (store.folder / "shard-000001.parquet").unlink()
    assert_same(score_corpus(teacher, corpus, SETTINGS, store, ignore), whole)


def test_the_store_answers_to_all_that_scores_depend_on(tmp_path, teacher, corpus):
    def folder(**changes):
        return score_store(tmp_path, teacher, corpus, dataclasses.replace(SETTINGS, **changes)).folder

    same = [folder(), folder(batch_size=1), folder(device="auto")]
    others = [folder(passes=5), folder(seed=1), folder(masks="independent"), folder(dropout=0.2)]
    shorter = score_store(tmp_path, dataclasses.replace(teacher, max_length=9), corpus, SETTINGS).folder
    changed = score_store(tmp_path, dataclasses.replace(teacher, fingerprint="0"), corpus, SETTINGS).folder
    assert len(set(same)) == 1
    assert len({*same, *others, shorter, changed}) == 7


def test_a_dead_teacher_is_refused_before_anything_is_scored(teacher, corpus, store, random_classifier):
    dead = dataclasses.replace(teacher, model=random_classifier(dropout=0.0))
    with pytest.raises(AmalgamError, match="dropout is off"):
        score_corpus(dead, corpus, SETTINGS, store, ignore)
    assert store.missing() == [0, 1, 2]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_refused(teacher, corpus, store):
    with pytest.raises(AmalgamError, match="cuda"):
        score_corpus(teacher, corpus, dataclasses.replace(SETTINGS, device="cuda"), store, ignore)


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_predictions_come_in_the_order_of_the_texts(teacher, batch_size):
    runner = TorchRunner(teacher.model, device="cpu")
    found = predict_texts(runner, teacher.tokenizer, tiny.TEXTS, max_length=32, batch_size=batch_size)
    with torch.inference_mode():
        expected = teacher.model(**tiny.padded(teacher.tokenizer, tiny.TEXTS)).logits
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert (expected[0] - expected[1]).abs().max() > 0.5
