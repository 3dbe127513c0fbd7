"""The amalgamation benchmark: what its settings are made of, what its tables say, what its teachers start from."""

import csv
import io
import json
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import torch

from amalgam_edge.labels import LabelSpace
from amalgam_edge.methods import METHODS, MethodInputs
from amalgam_edge.progress import SilentProgress
from amalgam_edge.recipe.reading import read_recipe
from amalgam_edge.recipe.recipe import Recipe
from amalgam_edge.scoring.scores import TeacherScores
from benchmarks.amalgamation import architectures, results, run, settings, sources, students, tables
from benchmarks.common.errors import UnavailableError
from benchmarks.corpora import hub
from examples import corpora
from tests.support import tiny


def source(name: str, labels: str, per_label: int = 40, larger: int = 0) -> settings.LabelledCorpus:
    """A corpus whose texts name their corpus and label."""
    rows = [(f"{name} {label} {k}", f"{name}.{label}") for label in labels for k in range(per_label)]
    split = corpora.split([text for text, _ in rows], [label for _, label in rows])
    more = [(f"{name} {label} more {k}", f"{name}.{label}") for label in labels for k in range(larger)]
    return settings.LabelledCorpus(name, split, tuple((f"{name}.{label}",) for label in labels), more)


def plan_inputs(labels: str = "abcdefgh", seed: int = 0, **options) -> settings.PlanInputs:
    return settings.PlanInputs(source("x", labels, **options), source("y", "pqrs"), seed)


def known_labels(plan: settings.Plan) -> set[str]:
    return {label for teacher in plan.teachers for label in teacher.labels}


def test_seed_0_gives_teachers_the_labels_in_samples_and_other_seeds_deal_the_same_labels_differently():
    hands = corpora.TEACHERS["wordnet_nouns"].values()
    order = settings.interleaved(hands)
    assert settings.deal_labels(order, 2, 0) == [*hands]
    other = settings.deal_labels(order, 2, 1)
    assert other != [*hands]
    assert sorted(sum(other, ())) == sorted(sum(order, ()))
    assert other == settings.deal_labels(order[::-1], 2, 1)


@pytest.mark.parametrize(("n", "sizes"), [(2, [4, 4]), (3, [3, 3, 2]), (4, [2, 2, 2, 2])])
def test_labels_are_dealt_out_in_turn(n, sizes):
    assert [len(hand) for hand in settings.deal_labels([(label,) for label in "abcdefgh"], n, 3)] == sizes


def test_no_teacher_has_a_single_label():
    with pytest.raises(UnavailableError, match="5 teachers need 10 labels, there are 8"):
        settings.make_plan("five", plan_inputs())


@pytest.mark.parametrize("name", [name for name in settings.SETTINGS if name not in ("languages", "five", "ten")])
@pytest.mark.parametrize("seed", [0, 1])
def test_every_setting_has_distinct_texts_and_teachers_that_never_see_them(name, seed):
    inputs = plan_inputs(seed=seed, larger=1200)
    plan = settings.make_plan(name, inputs)
    assert plan == settings.make_plan(name, inputs)
    texts = [text for text, _ in plan.corpus]
    useful = {label for teacher in plan.teachers if teacher.useful for label in teacher.labels}
    assert len(set(texts)) == len(texts)
    assert {label for _, label in plan.corpus} - {None} == {label for _, label in plan.test} == useful
    assert not {text for text, _ in plan.test} & set(texts)
    assert set(plan.owners()) == useful
    for teacher in plan.teachers:
        assert {label for _, label in teacher.rows} == set(teacher.labels)
        assert not {text for text, _ in teacher.rows} & {*texts, *(text for text, _ in plan.test)}


def test_nine_in_ten_texts_are_the_first_teachers():
    plan = settings.make_plan("unbalanced", plan_inputs(per_label=100))  # 160 unlabeled texts a teacher
    count, test = (Counter(label for _, label in rows) for rows in (plan.corpus, plan.test))
    of_each, tested = ([sum(one[label] for label in t.labels) for t in plan.teachers] for one in (count, test))
    assert of_each == [160, 18]
    assert {count[label] for label in plan.teachers[1].labels} == {4, 5}
    assert tested[1] == round(tested[0] / 9)


@pytest.mark.parametrize(("name", "n_labels"), [("out-of-domain", 6), ("out-of-domain-far", 8)])
def test_a_fifth_of_the_texts_are_of_no_teacher(name, n_labels):
    inputs = plan_inputs()  # 16 unlabeled texts a label
    plan = settings.make_plan(name, inputs)
    strangers = [text for text, label in plan.corpus if label is None]
    assert len(known_labels(plan)) == n_labels
    assert len(plan.corpus) == 16 * n_labels + len(strangers)
    assert len(strangers) == 4 * n_labels
    if name == "out-of-domain":
        held_back = {label for item in inputs.source.order for label in item} - known_labels(plan)
        assert {f"x.{text.split()[1]}" for text in strangers} == held_back
    else:
        assert {text.split()[0] for text in strangers} == {"y"}


def test_shared_labels_are_learned_from_different_texts():
    plan = settings.make_plan("overlap", plan_inputs())
    first, second = plan.teachers
    shared = set(first.labels) & set(second.labels)
    assert len(shared) == 2
    assert not set(first.rows) & set(second.rows)
    for teacher in plan.teachers:
        count = Counter(label for _, label in teacher.rows)
        assert {count[label] for label in shared} == {7}  # of 14
        assert {count[label] for label in set(teacher.labels) - shared} == {14}


def test_teachers_of_the_same_labels_learn_from_different_texts():
    plan = settings.make_plan("same-labels", plan_inputs())
    assert [teacher.labels for teacher in plan.teachers] == [plan.teachers[0].labels] * 3
    assert plan.owners() == {label: [0, 1, 2] for label in plan.teachers[0].labels}
    rows = [row for teacher in plan.teachers for row in teacher.rows]
    assert len(set(rows)) == len(rows) == 8 * 14
    assert {len([row for row in t.rows if row[1] == label]) for t in plan.teachers for label in t.labels} == {4, 5}


def test_a_corpus_of_a_folder_deals_out_domains(tmp_path):
    rows = [
        (f"text {d} {k} {n}", f"{d}.{k}", d) for d in ("home", "bank", "work", "food") for k in "ab" for n in range(9)
    ]
    with (tmp_path / "clinc150.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label", "domain"), *rows, ("outside", "", ""), rows[0]])
    study = students.Study(tmp_path, [], 1, 1, None, None, data=tmp_path)
    corpus = sources.corpus_loader(study)("clinc150")
    assert corpus.order[0] == ("bank.a", "bank.b")
    assert sum(map(len, corpus.split)) == len(rows)
    plan = settings.make_plan("two", settings.PlanInputs(corpus, corpus, 1))
    for teacher in plan.teachers:
        assert sorted(Counter(label.split(".")[0] for label in teacher.labels).values()) == [2, 2]
    with pytest.raises(UnavailableError, match="5 teachers need 10 labels, there are 8"):
        settings.make_plan("five", settings.PlanInputs(corpus, corpus, 1))


def test_the_oracle_is_told_the_teacher_that_knows_the_label():
    labels = LabelSpace.union({"a": ("x", "y"), "b": ("y", "z")})
    probabilities = {"a": [[0.9, 0.1], [0.4, 0.6], [0.5, 0.5]], "b": [[0.7, 0.3], [0.8, 0.2], [0.1, 0.9]]}
    said = [TeacherScores.from_logits(name, np.log(p), np.log([p])) for name, p in probabilities.items()]
    target = students.right_teacher_target(said, np.array([0, 1, 2]), labels, {"x": [0], "y": [0, 1], "z": [1]})
    np.testing.assert_allclose(target, [[0.9, 0.1, 0], [0.2, 0.7, 0.1], [0, 0.1, 0.9]], atol=1e-6)


def test_few_texts_are_taken_from_the_corpus_first_and_then_from_the_larger_one():
    inputs = plan_inputs(larger=1000)
    own_texts = {text for text, _ in inputs.source.split.corpus}
    plan = settings.make_plan("few-100", inputs)
    assert set(Counter(label for _, label in plan.corpus).values()) == {100}
    assert own_texts <= {text for text, _ in plan.corpus}
    with pytest.raises(UnavailableError, match=r"x\.a has 16; .* save it as examples/data/x_large\.csv$"):
        settings.make_plan("few-100", plan_inputs())


def test_teachers_of_two_datasets():
    plan = settings.make_plan("datasets", plan_inputs())
    assert plan.teachers[0].labels == ("x.a", "x.c", "x.e", "x.g")
    assert plan.teachers[1].labels == ("y.q", "y.s")


def test_useless_teachers_know_nothing_of_the_corpus():
    foreign = settings.make_plan("useless-foreign", plan_inputs())
    assert foreign.teachers[2].labels == ("y.q", "y.s")
    assert foreign.corpus == settings.make_plan("two", plan_inputs()).corpus
    shuffled = settings.make_plan("useless-shuffled", plan_inputs()).teachers
    given_labels, true_labels = dict(shuffled[2].rows), dict(shuffled[1].rows)
    assert shuffled[2].labels == shuffled[1].labels[:2]
    assert Counter(given_labels.values()) == dict.fromkeys(shuffled[2].labels, 14)
    assert 0.2 < np.mean([label == true_labels[text] for text, label in given_labels.items()]) < 0.8


def test_the_labels_of_languages_do_not_depend_on_the_seed():
    inputs = plan_inputs(seed=5)
    inputs = replace(inputs, source=replace(inputs.source, name=settings.TWO_LANGUAGES))
    assert settings.make_plan("languages", inputs) == settings.make_plan("languages", replace(inputs, seed=0))
    with pytest.raises(UnavailableError, match="needs the corpus debian_two_languages, which has no other setting"):
        settings.make_plan("two", inputs)


def test_a_teacher_is_selected_by_its_share_of_the_target():
    labels = LabelSpace.union({"a": ["ant", "bee"], "b": ["bee", "cow"], "c": ["dog"]})
    owners = {"ant": [0], "bee": [0, 1], "cow": [1]}  # c is useless
    target = np.array(
        [
            [0.5, 0.1, 0.1, 0.3],  # a has .6: right
            [0.1, 0.2, 0.3, 0.4],  # b has .5: wrong for ant
            [0.2, 0.0, 0.3, 0.5],  # c has most: wrong
            [0.0, 1.0, 0.0, 0.0],  # a and b even: right for cow
            [0.0, 0.0, 0.0, 1.0],  # bee is known to both: does not count
            [0.0, 0.0, 0.0, 1.0],  # nobody's
        ]
    )
    gold = np.array([0, 0, 2, 2, 1, -1])
    assert students.teacher_selection(target, gold, labels, owners) == pytest.approx(2 / 4)
    assert students.teacher_selection(target[4:], gold[4:], labels, owners) is None


def test_teachers_are_measured_on_test_texts_of_their_own_labels(prepared_group, tiny_plan):
    for teacher, planned in zip(prepared_group.models.teachers, tiny_plan.teachers, strict=True):
        rows = settings.with_labels(tiny_plan.test, planned.labels)
        inputs = tiny.padded(teacher.tokenizer, [text for text, _ in rows])
        with torch.no_grad():
            predicted = teacher.model(**inputs).logits.argmax(dim=1)
        right = [planned.labels[k] == label for k, (_, label) in zip(predicted.tolist(), rows, strict=True)]
        assert prepared_group.teacher_accuracy[teacher.name] == pytest.approx(np.mean(right))


@pytest.mark.parametrize("method", ["vanilla-kd", "cfl", "refined", "muka-soft@score_temperature=0.5"])
def test_a_student_learns_what_its_recipe_says(prepared_group, tiny_plan, tmp_path, method):
    measured = students.train_and_measure(prepared_group, method, tmp_path, SilentProgress())
    recipe = read_recipe(tmp_path / method / "recipe.yaml", {})
    assert recipe == prepared_group.recipe.replace(**students.recipe_overrides(method), output=recipe.output.folder)
    data = students.training_data(prepared_group, recipe, method, SilentProgress())
    if method != "refined":  # which reads features too
        inputs = MethodInputs(prepared_group.data.scores, prepared_group.data.heads.only.labels)
        expected = METHODS[recipe.method.name].supervise(inputs, recipe.method)
        assert measured["supervision"] == data.supervision.digest() == expected.digest()
    assert bool(data.signals.hidden) is (method == "cfl")
    assert measured["n_test"] == len(tiny_plan.test) == np.sum(measured["confusion"])
    assert measured["n_corpus"] == len(tiny_plan.corpus)
    assert {"teacher_selection", "target_accuracy"} <= measured.keys()
    assert not (tmp_path / method / "training").exists()


def test_the_reference_learns_the_true_labels_of_texts_that_have_one(prepared_group, tiny_plan, tmp_path):
    measured = students.train_and_measure(prepared_group, students.LABELS, tmp_path, SilentProgress())
    data = students.training_data(prepared_group, prepared_group.recipe, students.LABELS, SilentProgress())
    rows = np.concatenate([data.texts.train, data.texts.held_out])
    label_of = dict(tiny_plan.corpus)
    learned = {
        text: data.heads.only.labels.names[label]
        for text, label in zip(data.texts.corpus.take(rows), data.supervision.target[rows].argmax(axis=1), strict=True)
    }
    assert learned == {text: label for text, label in label_of.items() if label is not None}
    assert measured["supervision"] == data.supervision.digest()
    assert "teacher_selection" not in measured
    assert not (tmp_path / students.LABELS / "recipe.yaml").exists()


def result(method: str, accuracy: float, seed: int = 0, corpus: str = "x", setting: str = "two", **more) -> dict:
    row = {"corpus": corpus, "setting": setting, "seed": seed, "method": method, "accuracy": accuracy, "key": "k"}
    measured = {"macro_f1": accuracy - 0.1, "ece": 0.05, "nll": 1.25, "temperature": 1.0, "seconds": 3.0}
    return {**row, **measured, "n_corpus": 9, "n_test": 8, "teacher_accuracy": {"a": 0.9, "b": 0.7}, **more}


RESULTS = [
    result("vanilla-kd", 0.60),
    result("vanilla-kd", 0.70, seed=1),
    result("oracle-teacher", 0.80),
    result("oracle-teacher", 0.80, seed=1),
    result("labels", 0.90),
    result("muka-soft", 0.66, teacher_selection=0.75),
    result("muka-soft", 0.72, seed=1, teacher_selection=0.85),
    result("refined", 0.75),
    result("refined", 0.69, seed=2),  # of a seed that others lack
    result("muka-soft", 0.50, setting="unbalanced"),
    result("refined", 0.49, setting="unbalanced"),
]
BASE = RESULTS[:9]


def test_the_share_of_the_attainable_is_of_means_over_seeds_that_all_have():
    # (.66 + .72 − .60 − .70) / (.80 + .80 − .60 − .70) = .08 / .30
    assert tables.share_attained(BASE, "muka-soft") == pytest.approx(8 / 30)
    assert tables.share_attained(BASE, "refined") == pytest.approx(0.15 / 0.20)
    assert tables.share_attained(BASE, "muka-soft", seed=1) == pytest.approx(0.2)
    assert tables.share_attained(BASE, "uhc") is None
    assert tables.share_attained([result("vanilla-kd", 0.8), result("oracle-teacher", 0.7)], "refined") is None


def test_cells_are_mean_and_standard_deviation_of_a_sample():
    assert tables.mean_sd([0.60, 0.70]) == "65.0 ± 7.1"  # √(2 · 5²)
    assert tables.mean_sd([0.5]) == "50.0"
    assert tables.mean_sd([]) == "–"


def test_tables_show_the_results(tmp_path):
    for row in RESULTS:
        folder = tmp_path / row["corpus"] / row["setting"] / f"seed-{row['seed']}" / row["method"]
        folder.mkdir(parents=True)
        (folder / "result.json").write_text(json.dumps(row))
    text = tables.write_tables(tmp_path, tmp_path / "tables", [*students.METHOD_VARIANTS])
    assert "| vanilla-kd | 65.0 ± 7.1 | 65.0 |" in text
    assert "| muka-soft | 69.0 ± 4.2 | 69.0 |" in text
    assert "| muka-soft | 27 | 27 | 80.0 | – | 5.0 | 1.250 |" in text
    assert "| refined − muka-soft | +9.0 | +9.0 |" in text
    assert "| share of the attainable, refined, % | 75 | 75 |" in text
    assert "| unbalanced | -1.0 | -1.0 |" in text
    assert "refined is below muka-soft in 1 of 2 pairs of corpus and setting, the most in x, unbalanced: -1.0 " in text
    assert "| unbalanced | 80.0 | – | 50.0 | 49.0 | – |" in text
    rows = [*csv.DictReader(io.StringIO((tmp_path / "tables" / "results.csv").read_text()))]
    assert len(rows) == len(RESULTS)
    by_run = {(row["setting"], row["seed"], row["method"]): row for row in rows}
    assert float(by_run["two", "1", "muka-soft"]["share_attained"]) == pytest.approx(0.2)
    assert float(by_run["two", "0", "refined"]["mean_teacher_accuracy"]) == pytest.approx(0.8)
    assert by_run["two", "2", "refined"]["share_attained"] == ""
    for name in ("two-teachers", "settings"):
        ET.fromstring((tmp_path / "tables" / f"{name}.svg").read_text())


def test_without_results_there_are_no_tables(tmp_path):
    assert tables.write_tables(tmp_path, tmp_path / "tables", ()) == f"{tmp_path}: no results yet"
    assert results.read_results(tmp_path) == []


@pytest.mark.parametrize(("name", "fields"), students.METHOD_VARIANTS.items())
def test_every_method_variant_is_a_valid_recipe_with_its_fields(name, fields):
    recipe = Recipe(**students.recipe_overrides(name))
    assert recipe.method.name == fields.get("method", name)
    assert recipe.method.reweight is fields.get("reweight", True)


def test_a_method_may_be_given_with_options_of_the_recipe():
    recipe = Recipe(**students.recipe_overrides("muka-soft@score_temperature=0.5,epochs=3"))
    assert (recipe.method.name, recipe.method.score_temperature) == ("muka-soft", 0.5)
    assert recipe.training.epochs == 3
    with pytest.raises(UnavailableError, match="no method 'mukka'"):
        students.recipe_overrides("mukka@epochs=3")


def test_a_result_counts_while_the_inputs_of_its_run_are_the_same(tmp_path):
    study = students.Study(tmp_path, ["muka-soft", "labels"], 5, 5, None, None)
    group = students.Group("x", "two", 0)
    plan = settings.make_plan("two", plan_inputs())
    work = run.Work({group: plan}, study)
    folder = group.folder(tmp_path) / "labels"
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps({"key": work.key(group, "labels")}))
    assert work.missing(group) == ["muka-soft"]
    assert work.outlook().startswith("1 runs left")
    for other in (replace(study, epochs=4), replace(study, teacher_epochs=4)):
        assert run.Work({group: plan}, other).n_left == 2
    fewer = replace(plan, corpus=plan.corpus[1:])
    assert run.Work({group: fewer}, study).n_left == 2


def test_languages_bring_their_corpus_and_keep_to_it():
    options = SimpleNamespace(corpora=["x"], settings=["two", "languages"], seeds=[0, 1])
    assert run.all_groups(options) == [
        ("x", "two", 0),
        ("x", "two", 1),
        (settings.TWO_LANGUAGES, "languages", 0),
        (settings.TWO_LANGUAGES, "languages", 1),
    ]


def test_corpora_of_the_hub_are_named_with_their_columns():
    assert hub.parse("ag_news") == ("fancyzhx/ag_news", "text", "label", "train")
    assert hub.parse("hf://o/n") == ("o/n", "text", "label", "train")
    assert hub.parse("hf://o/n:title:topic:test") == ("o/n", "title", "topic", "test")
    assert hub.folder_name("hf://o/n:title") == "o-n-title"
    with pytest.raises(UnavailableError, match="no copy on the Hub is known"):
        hub.parse("5abstracts")
    assert not hub.is_on_hub("kjv_books")


def test_a_hub_that_cannot_be_reached_is_one_line(tmp_path):
    with pytest.raises(UnavailableError, match=r"^o/n cannot be read from the Hub") as caught:
        hub.read("hf://o/n", tmp_path, 9)
    assert "\n" not in str(caught.value)
    assert [*tmp_path.iterdir()] == []


def test_a_distilbert_reads_as_the_bert_that_it_is_made_of(random_classifier, tokenizer):
    bert = random_classifier().eval()
    distilbert, _ = architectures.as_distilbert(bert, tokenizer)
    inputs = tiny.padded(tokenizer, tiny.TEXTS)
    seen = inputs["attention_mask"].bool()
    with torch.no_grad():
        expected = bert.base_model(**inputs).last_hidden_state
        found = distilbert.eval().base_model(**inputs).last_hidden_state
        torch.testing.assert_close(found[seen], expected[seen], rtol=1e-4, atol=1e-4)
        small, small_tokenizer = architectures.without_unused_tokens(distilbert, tokenizer, tiny.TEXTS[:3])
        assert len(small_tokenizer) < len(tokenizer)
        spelled = tiny.padded(small_tokenizer, tiny.TEXTS[:3])
        found = small.eval().base_model(**spelled).last_hidden_state
        for row, mask in enumerate(spelled["attention_mask"].bool()):
            torch.testing.assert_close(found[row][mask], expected[row][seen[row]], rtol=1e-4, atol=1e-4)


def test_a_roberta_starts_from_the_pieces_of_its_tokens(random_classifier, tokenizer):
    bert = random_classifier().eval()
    roberta, bpe = architectures.as_roberta(bert, tokenizer, tiny.TEXTS)
    assert bpe.tokenize("chess")[0].startswith("Ġ")
    rows, table = roberta.get_input_embeddings().weight, bert.get_input_embeddings().weight
    word = max(bpe.get_vocab(), key=len)
    pieces = tokenizer(bpe.decode([bpe.get_vocab()[word]]), add_special_tokens=False)["input_ids"]
    torch.testing.assert_close(rows[bpe.get_vocab()[word]], table[pieces].mean(dim=0))
    torch.testing.assert_close(rows[bpe.cls_token_id], table[tokenizer.cls_token_id])
    positions, old = (model.base_model.embeddings.position_embeddings.weight for model in (roberta, bert))
    segment = bert.base_model.embeddings.token_type_embeddings.weight[0]
    torch.testing.assert_close(positions[2:], old + segment)
    assert roberta.config.id2label == bert.config.id2label
