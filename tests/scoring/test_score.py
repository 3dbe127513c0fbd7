import dataclasses
import hashlib
import inspect

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch

from amalgam_edge.building.data import BuildTexts
from amalgam_edge.building.inputs import drop_unscored, tokenize
from amalgam_edge.dropout.masks import DROPOUT_OFF
from amalgam_edge.dropout.sites import LiveDropout
from amalgam_edge.errors import AmalgamError
from amalgam_edge.inference.predict import predict_texts
from amalgam_edge.inference.torch_runner import TorchRunner
from amalgam_edge.recipe.recipe import Recipe
from amalgam_edge.scoring.adaptive_passes import balanced_over
from amalgam_edge.scoring.backends import Backend
from amalgam_edge.scoring.features import text_features
from amalgam_edge.scoring.hidden_states import hidden_states
from amalgam_edge.scoring.run import cached_stores, named_stores
from amalgam_edge.scoring.score import ScoringSettings, score_corpus, score_key, score_texts
from amalgam_edge.scoring.scores import ARRAYS
from amalgam_edge.scoring.store import ScoreStore
from amalgam_edge.scoring.summary import scored_by_all, summarise
from tests.support import tiny

SETTINGS = ScoringSettings(passes=4, batch_tokens=60)


@pytest.fixture
def new_store(tmp_path, corpus):
    """``new_store(folder, teacher, settings)``, of three shards."""

    def make(folder, teacher, settings=SETTINGS):
        return ScoreStore(tmp_path / folder, score_key(teacher, [teacher], corpus, settings), shard_size=6)

    return make


@pytest.fixture
def store(new_store, teacher):
    return new_store("scores", teacher)


def on_torch(teacher, settings=SETTINGS):
    return TorchRunner(
        teacher.model,
        teacher.sites,
        seed=settings.seed,
        passes=balanced_over(settings),
        masks=settings.masks,
        device="cpu",
    )


def score_into(stores, teachers, corpus, advance=lambda count: None, settings=SETTINGS):
    score_corpus(teachers, stores, corpus, settings, lambda teacher: on_torch(teacher, settings), advance)
    return [store.read() for store in stores]


def scored(teachers, texts, settings=SETTINGS, advance=lambda count: None):
    return score_texts(teachers, [on_torch(teacher, settings) for teacher in teachers], texts, settings, advance)


def assert_same(found, expected, atol=0.0):
    assert found.teacher == expected.teacher
    for name in ARRAYS:
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=0, atol=atol, err_msg=name)


def test_settings_are_those_of_the_documentation_unless_told_otherwise():
    assert dataclasses.asdict(ScoringSettings()) == {
        "passes": 10,
        "max_passes": 10,
        "seed": 0,
        "masks": "systematic",
        "dropout": None,
        "precision": "fp32",
        "batch_tokens": None,
    }


@pytest.mark.parametrize(
    ("passes", "max_passes", "most", "balanced"), [(4, 9, 4, 4), (10, 3, 10, 10), (25, 3, 25, 10), ("auto", 7, 7, 7)]
)
def test_masks_are_balanced_over_all_passes_up_to_ten(passes, max_passes, most, balanced):
    settings = ScoringSettings(passes=passes, max_passes=max_passes)
    assert (settings.most_passes, balanced_over(settings)) == (most, balanced)


@pytest.mark.parametrize("function", [predict_texts, hidden_states, text_features])
def test_batches_hold_1024_tokens_unless_told_otherwise(function):
    assert (
        inspect.signature(function).parameters["batch_tokens"].default == Backend("torch", "cpu").batch_tokens == 1024
    )


def test_dropout_is_proven_alive_on_the_first_four_texts_together(teacher, corpus, store, runs):
    score_into([store], [teacher], corpus)
    assert runs[0] == 4


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


# From the eleventh pass on masks are of a second round of ten.
@pytest.mark.parametrize(("passes", "round_length"), [(4, 4), (12, 10)])
def test_scores_are_those_of_single_runs_of_the_model(teacher, corpus, passes, round_length):
    settings = dataclasses.replace(SETTINGS, passes=passes, seed=3)
    (found,) = scored([teacher], corpus.texts, settings)
    mode = LiveDropout(3, round_length, unbatched=[site.number for site in teacher.sites if not site.batched])
    for row, text in enumerate(corpus.texts):
        inputs = teacher.tokenizer(text, return_tensors="pt", return_token_type_ids=False)
        with torch.inference_mode():
            plain = teacher.model(**inputs).logits[0].double().numpy()
            teacher.model.train()
            logits = []
            with mode:
                for number in range(passes):
                    mode.start(number)
                    logits.append(teacher.model(**inputs).logits[0].double().numpy())
            teacher.model.eval()
        each = scipy.special.softmax(logits, axis=-1)
        mean = each.mean(axis=0)
        information = scipy.stats.entropy(mean) - scipy.stats.entropy(each, axis=-1).mean()
        np.testing.assert_allclose(found.logits[row], plain, atol=1e-4)
        np.testing.assert_allclose(found.mean_probabilities[row], mean, atol=1e-5)
        assert found.uncertainty[row] == pytest.approx(scipy.stats.entropy(mean) / np.log(3), abs=1e-4)
        assert found.mutual_information[row] == pytest.approx(information, abs=1e-4)
    assert found.uncertainty.std() > 0.02
    assert found.passes.tolist() == [passes] * len(tiny.TEXTS)


def test_teachers_that_are_scored_together_say_what_they_say_alone(teacher, other, corpus):
    together = scored([teacher, other], corpus.texts)
    assert [scores.teacher for scores in together] == ["t", "other"]
    assert [scores.logits.shape for scores in together] == [(len(corpus), 3), (len(corpus), 2)]
    for scores, one in zip(together, (teacher, other), strict=True):
        assert_same(scores, *scored([one], corpus.texts))


@pytest.mark.parametrize("batch_tokens", [1, 40, 4096])
@pytest.mark.parametrize("masks", ["systematic", "independent"])
def test_scores_do_not_depend_on_batch_or_order(teacher, batch_tokens, masks):
    settings = dataclasses.replace(SETTINGS, masks=masks)
    order = np.random.default_rng(1).permutation(len(tiny.TEXTS))
    (expected,) = scored([teacher], tiny.TEXTS, settings)
    settings = dataclasses.replace(settings, batch_tokens=batch_tokens)
    assert_same(*scored([teacher], tiny.TEXTS, settings), expected, atol=1e-5)
    shuffled = [tiny.TEXTS[k] for k in order]
    assert_same(*scored([teacher], shuffled, settings), expected.take(order), atol=1e-5)


@pytest.mark.parametrize("changes", [{"seed": 1}, {"masks": "independent"}, {"passes": 5}])
def test_other_masks_are_other_scores(teacher, changes):
    (first,) = scored([teacher], tiny.TEXTS)
    (second,) = scored([teacher], tiny.TEXTS, dataclasses.replace(SETTINGS, **changes))
    np.testing.assert_array_equal(first.logits, second.logits)
    assert np.abs(first.mean_probabilities - second.mean_probabilities).max() > 0.01


def test_a_text_is_cut_to_the_teachers_length(teacher):
    short = dataclasses.replace(teacher, max_length=8)
    long_text = "penguins on ice and snow " * 9
    ids = teacher.tokenizer(long_text)["input_ids"]
    cut = [*ids[:7], teacher.tokenizer.sep_token_id]
    (found,) = scored([short], [long_text])
    with torch.inference_mode():
        expected = teacher.model(input_ids=torch.tensor([cut])).logits
    np.testing.assert_allclose(found.logits, expected, atol=1e-5)


def test_progress_counts_every_text_once_for_each_teacher(teacher, other, corpus, new_store):
    counts = []
    score_into([new_store("a", teacher), new_store("b", other)], [teacher, other], corpus, counts.append)
    assert sum(counts) == 2 * len(corpus)


def test_finished_scores_are_left_alone_without_a_model(teacher, corpus, store, runs):
    (first,) = score_into([store], [teacher], corpus)
    assert sum(runs) >= len(corpus)
    counts = []

    def refuse(teacher):
        raise AssertionError("a teacher was made ready")

    score_corpus([teacher], [store], corpus, SETTINGS, refuse, counts.append)
    assert counts == [len(corpus)]
    assert_same(store.read(), first)


class Killed(KeyboardInterrupt):
    pass


def killed_after(after):
    done = 0

    def kill(count):
        nonlocal done
        done += count
        if done >= after:
            raise Killed

    return kill


@pytest.mark.parametrize(("after", "missing"), [(1, [0, 1, 2]), (7, [1, 2]), (13, [2])])
def test_a_killed_run_goes_on_and_ends_in_the_same_tables(teacher, corpus, store, new_store, runs, after, missing):
    (whole,) = score_into([store], [teacher], corpus)
    all_runs = sum(runs)
    broken = new_store("broken", teacher)
    with pytest.raises(Killed):
        score_into([broken], [teacher], corpus, killed_after(after))
    assert broken.missing() == missing
    runs.clear()
    counts = []
    (found,) = score_into([broken], [teacher], corpus, counts.append)
    assert_same(found, whole)
    assert sum(counts) == len(corpus)
    assert sum(runs) == all_runs - 6 * (3 - len(missing))


@pytest.mark.parametrize("after", [3, 16, 31])
def test_teachers_together_go_on_together(teacher, other, corpus, new_store, after):
    teachers = [teacher, other]
    whole = score_into([new_store("a", teacher), new_store("b", other)], teachers, corpus)
    stores = [new_store("a2", teacher), new_store("b2", other)]
    with pytest.raises(Killed):
        score_into(stores, teachers, corpus, killed_after(after))
    counts = []
    for found, expected in zip(score_into(stores, teachers, corpus, counts.append), whole, strict=True):
        assert_same(found, expected)
    assert sum(counts) == 2 * len(corpus)


def test_a_shard_that_one_of_two_teachers_lacks_is_scored_again(teacher, other, corpus, new_store):
    stores, teachers = [new_store("a", teacher), new_store("b", other)], [teacher, other]
    whole = score_into(stores, teachers, corpus)
    (stores[1].folder / "shard-000001.parquet").unlink()
    for found, expected in zip(score_into(stores, teachers, corpus), whole, strict=True):
        assert_same(found, expected)


@pytest.mark.parametrize(
    "content", [b"", b"no parquet", None], ids=["an empty shard", "garbage for a shard", "half a shard"]
)
def test_damage_is_noticed_before_anything_is_scored(teacher, other, corpus, new_store, runs, content):
    stores, teachers = [new_store("a", teacher), new_store("b", other)], [teacher, other]
    score_into(stores, teachers, corpus)
    (stores[0].folder / "shard-000000.parquet").unlink()
    shard = stores[1].folder / "shard-000002.parquet"
    shard.write_bytes(shard.read_bytes()[:-100] if content is None else content)
    damaged = shard.read_bytes()
    runs.clear()
    with pytest.raises(AmalgamError, match=r"b/shard-000002\.parquet: a damaged shard"):
        score_into(stores, teachers, corpus)
    assert runs == []
    assert shard.read_bytes() == damaged
    assert stores[0].missing() == [0]


def test_a_dead_teacher_is_refused_before_anything_is_scored(teacher, corpus, store, random_classifier):
    dead = dataclasses.replace(teacher, model=random_classifier(dropout=0.0))
    with pytest.raises(AmalgamError, match="dropout is off"):
        score_into([store], [dead], corpus)
    assert store.missing() == [0, 1, 2]


def test_a_dead_second_teacher_is_refused_before_the_first_is_scored(
    teacher, other, corpus, new_store, random_classifier
):
    dead = dataclasses.replace(other, model=random_classifier("xy", architecture="roberta", dropout=0.0))
    stores = [new_store("a", teacher), new_store("b", dead)]
    with pytest.raises(AmalgamError, match=r"teacher 'other': .*dropout is off"):
        score_into(stores, [teacher, dead], corpus)
    assert [store.missing() for store in stores] == [[0, 1, 2]] * 2


def key_with(teacher, corpus, teachers=None, **changes):
    return score_key(teacher, teachers or [teacher], corpus, dataclasses.replace(SETTINGS, **changes))


def test_a_key_is_of_all_that_scores_depend_on(teacher, corpus):
    same = [
        key_with(teacher, corpus),
        key_with(teacher, corpus, batch_tokens=1),
        key_with(teacher, corpus, max_passes=7),
    ]
    others = [
        *(key_with(teacher, corpus, passes=passes) for passes in (5, "auto")),
        key_with(teacher, corpus, seed=1),
        key_with(teacher, corpus, masks="independent"),
        key_with(teacher, corpus, dropout=0.2),
        key_with(teacher, corpus, precision="fp16"),
        key_with(dataclasses.replace(teacher, max_length=9), corpus),
        key_with(dataclasses.replace(teacher, fingerprint="0"), corpus),
        key_with(dataclasses.replace(teacher, name="u"), corpus),
        key_with(teacher, dataclasses.replace(corpus, fingerprint="0")),
    ]
    assert len({key.fingerprint for key in same}) == 1
    assert len({key.fingerprint for key in [*same, *others]}) == 1 + len(others)


def test_other_teachers_and_the_cap_count_where_passes_are_shared_out(teacher, other, corpus):
    both = [teacher, other]
    assert key_with(teacher, corpus) == key_with(teacher, corpus, both)
    shared_out = key_with(teacher, corpus, both, passes="auto", max_passes=20)
    assert shared_out != key_with(teacher, corpus, passes="auto", max_passes=20)
    assert shared_out != key_with(teacher, corpus, both, passes="auto", max_passes=21)


def test_stores_of_a_build_lie_apart_where_scores_differ(teacher, other, corpus, tmp_path):
    def folders(**changes):
        recipe = Recipe(**{"output": str(tmp_path / "out"), "passes": 4, **changes})
        return tuple(
            store.folder for store in cached_stores(recipe.work_folder, [teacher, other], corpus, recipe.scoring)
        )

    same = [folders(), folders(batch_tokens=7, device="cuda", backend="torch", threads=3, epochs=9)]
    apart = [folders(passes=5), folders(seed=1), folders(dropout=0.3), folders(masks="independent")]
    assert len(set(same)) == 1
    assert len({folder for pair in [*same, *apart] for folder in pair}) == 2 * 5
    assert {folder.parent for folder in folders(work=str(tmp_path / "w"))} == {tmp_path / "w" / "scores"}


def test_stores_for_people_are_named_by_their_teachers(teacher, other, corpus, tmp_path):
    stores = named_stores(str(tmp_path), [teacher, other], corpus, ScoringSettings())
    assert [store.folder for store in stores] == [tmp_path / "t", tmp_path / "other"]


def test_scores_are_summed_up_over_the_shards(teacher, other, corpus, new_store):
    stores = [new_store("a", teacher), new_store("b", other)]
    scores = score_into(stores, [teacher, other], corpus)
    summaries = summarise(stores, [teacher, other])
    entropies = [
        scipy.stats.entropy(each.mean_probabilities.astype(np.float64), axis=1) / np.log(each.logits.shape[1])
        for each in scores
    ]
    first = entropies[0] <= entropies[1]
    assert [summary.teacher for summary in summaries] == ["t", "other"]
    assert [summary.n_texts for summary in summaries] == [len(corpus)] * 2
    assert [summary.mean_passes for summary in summaries] == [4.0, 4.0]
    assert [summary.mean_uncertainty for summary in summaries] == pytest.approx([u.mean() for u in entropies])
    assert [summary.picked_share for summary in summaries] == pytest.approx([first.mean(), 1 - first.mean()])
    assert 0 < first.mean() < 1


@pytest.mark.parametrize("batch_tokens", [1, 40, 4096])
def test_predictions_come_in_the_order_of_the_texts(teacher, batch_tokens):
    runner = on_torch(teacher)
    found = predict_texts(runner, teacher.tokenizer, tiny.TEXTS, max_length=32, batch_tokens=batch_tokens)
    with torch.inference_mode():
        expected = teacher.model(**tiny.padded(teacher.tokenizer, tiny.TEXTS)).logits
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert (expected[0] - expected[1]).abs().max() > 0.5


def test_scores_hold_the_prediction_of_the_pass_without_dropout(teacher):
    (found,) = scored([teacher], tiny.TEXTS)
    inputs = tiny.padded(teacher.tokenizer, tiny.TEXTS)
    alone = on_torch(teacher).run(inputs["input_ids"].numpy(), inputs["attention_mask"].numpy(), [DROPOUT_OFF])
    np.testing.assert_allclose(found.logits, alone[0], atol=1e-4)


@pytest.fixture
def poison(monkeypatch):
    """``poison(teacher, text)``: the teacher raises over batches with that text in them."""

    def put(teacher, text):
        ids = teacher.tokenizer(text)["input_ids"]
        original = TorchRunner.run

        def run(self, input_ids, attention_mask, passes):
            texts = [row[mask == 1].tolist() for row, mask in zip(input_ids, attention_mask, strict=True)]
            if self._model.config.model_type == teacher.model.config.model_type and ids in texts:
                raise RuntimeError("poisoned")
            return original(self, input_ids, attention_mask, passes)

        monkeypatch.setattr(TorchRunner, "run", run)

    return put


@pytest.mark.parametrize("row", [0, 8])  # the first one is among those that dropout is proven alive on
@pytest.mark.parametrize("passes", [4, "auto"])
def test_a_text_that_a_teacher_cannot_score_is_told_of_and_the_rest_goes_on(
    teacher, other, corpus, new_store, poison, row, passes
):
    settings = dataclasses.replace(SETTINGS, passes=passes)
    stores = [new_store(f"{name}-whole", each, settings) for name, each in (("a", teacher), ("b", other))]
    whole = score_into(stores, [teacher, other], corpus, settings=settings)
    poison(other, corpus.texts[row])
    told = []
    stores = [new_store(name, each, settings) for name, each in (("a", teacher), ("b", other))]
    first, second = score_into(stores, [teacher, other], corpus, told.append, settings)
    assert sum(told) == 2 * len(corpus)
    assert stores[0].failures() == []
    assert stores[1].failures() == [{"text": row, "error": "RuntimeError: poisoned"}]
    good = np.setdiff1d(np.arange(len(corpus)), [row])
    # With auto, how many passes a text takes depends on the other texts of its shard: here, on those that are left.
    shards = [[k for k in stores[0].rows(shard) if k != row] for shard in range(3)]
    for shard in shards:
        alone = scored([teacher, other], corpus.take(np.array(shard)), settings)
        assert_same(first.take(np.array(shard)), alone[0], atol=1e-5)
        assert_same(second.take(np.array(shard)), alone[1], atol=1e-5)
    if passes != "auto":
        assert_same(first, whole[0], atol=1e-5)
        assert_same(second.take(good), whole[1].take(good), atol=1e-5)
    assert second.passes[row] == 0
    assert first.passes[row] > 0

    summaries = summarise(stores, [teacher, other])
    assert [(summary.n_texts, summary.n_failed) for summary in summaries] == [
        (len(corpus), 0),
        (len(corpus) - 1, 1),
    ]
    entropies = [
        scipy.stats.entropy(each.mean_probabilities.astype(np.float64), axis=1) / np.log(each.logits.shape[1])
        for each in (first, second)
    ]
    picked = (entropies[0] <= entropies[1])[good].mean()
    assert summaries[1].mean_passes == pytest.approx(second.passes[good].mean())
    assert summaries[1].mean_uncertainty == pytest.approx(entropies[1][good].mean())
    assert [summary.picked_share for summary in summaries] == pytest.approx([picked, 1 - picked])
    assert scored_by_all([first, second]).tolist() == good.tolist()


def test_a_teacher_that_cannot_be_run_at_all_is_refused(teacher, corpus, store, monkeypatch):
    def fail(*_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(TorchRunner, "run", fail)
    with pytest.raises(AmalgamError, match=r"teacher 't': cannot be run \(RuntimeError: out of memory\)"):
        score_into([store], [teacher], corpus)
    assert store.missing() == [0, 1, 2]


def test_a_build_is_of_the_texts_that_every_teacher_scored(teacher, corpus):
    whole = scored([teacher], corpus.texts)[0]
    rows = np.setdiff1d(np.arange(len(corpus)), [2, 5])
    holed = [whole.take(rows).scatter(len(corpus), rows), dataclasses.replace(whole, teacher="u")]
    train, held_out = corpus.split(3)
    texts = BuildTexts(corpus, train, held_out, None)
    tokenized = tokenize(corpus, teacher.tokenizer)
    said = []
    work_folder = Recipe(output="out").work_folder
    left, tokens, (first, second) = drop_unscored(texts, tokenized, holed, 3, work_folder, said.append)
    assert list(left.corpus.texts) == [corpus.texts[row] for row in rows]
    assert left.corpus.fingerprint == hashlib.sha256(corpus.digests[rows].tobytes()).hexdigest()
    assert sorted([*left.train, *left.held_out]) == list(range(len(rows)))
    assert left.n_failed == 2
    assert tokens.dataset["input_ids"][2] == tokenized.dataset["input_ids"][3]
    assert_same(first, whole.take(rows))
    assert_same(dataclasses.replace(second, teacher="t"), whole.take(rows))
    assert said == [
        f"2 of {len(corpus)} texts could not be scored by every teacher (t 2, u 0) and are left out; "
        "the failures folders in out.work/scores tell why"
    ]
    assert drop_unscored(texts, tokenized, [whole], 3, work_folder, said.append)[0] is texts
    few = [whole.take(rows[:1]).scatter(len(corpus), rows[:1])]
    with pytest.raises(AmalgamError, match="at least two are needed"):
        drop_unscored(texts, tokenized, few, 3, work_folder, said.append)
