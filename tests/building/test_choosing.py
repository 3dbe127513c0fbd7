"""Models of a whole and of a trimmed vocabulary side by side, against torch; and what is trimmed for."""

from types import SimpleNamespace

import numpy as np
import pytest
from transformers import AutoModelForSequenceClassification

from amalgam_edge.building import candidates as optimizing
from amalgam_edge.building import students as module
from amalgam_edge.building.budget import Budget
from amalgam_edge.building.build_steps import _trim_student
from amalgam_edge.building.candidates import CandidateFolder, choose_models, measure_models
from amalgam_edge.building.checks import parse_budget
from amalgam_edge.building.data import Student, StudentVariant, TrainedStudent
from amalgam_edge.building.inputs import read_texts, tokenize
from amalgam_edge.exporters.student_export import export_student
from amalgam_edge.methods.supervision import Supervision
from amalgam_edge.models.vocabulary import kept_tokens, trim_vocabulary
from amalgam_edge.progress import SilentProgress
from amalgam_edge.recipe.recipe import Recipe
from amalgam_edge.runtime.bundle import MODEL_FILES
from amalgam_edge.runtime.manifest_models import Fidelity, TrimmedVocabulary
from tests.support import tiny
from tests.support.taught import one_head

TAUGHT = one_head({"teacher": ["games", "science", "net"]})  # the labels of the student
TRAINING, HELD_OUT = tiny.TEXTS[:8], tiny.TEXTS[8:]


def labels_of(model, tokenizer, texts):
    return [int(model(**tiny.padded(tokenizer, [text])).logits.argmax()) for text in texts]


@pytest.fixture(scope="module")
def students(classifier_folder, tokenizer):
    """A student, and the same without the tokens that some texts do not use: it answers others differently."""
    import json

    model = AutoModelForSequenceClassification.from_pretrained(classifier_folder).eval()
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    used = {number for text in TRAINING for number in tokenizer(text)["input_ids"]}
    return {"": (model, tokenizer), "trimmed": trim_vocabulary(model, tokenizer, kept_tokens(content, used, 0))}


@pytest.fixture(scope="module")
def tried(students, tmp_path_factory):
    folder = tmp_path_factory.mktemp("candidates")
    folders = []
    for title, (model, tokenizer) in students.items():
        room = folder / (title or "whole")
        tokenizer.save_pretrained(room)
        export_student(model, room / MODEL_FILES["fp32"])
        folders.append(
            CandidateFolder(
                room,
                heads=TAUGHT.heads,
                max_length=tokenizer.model_max_length,
                pad_token_id=tokenizer.pad_token_id,
                texts=HELD_OUT,
                calibration=TRAINING,
                max_disagreement=1.0,
                title=title,
                layers=2,
                n_tokens=len(tokenizer),
                agreement=0.5,
            )
        )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optimizing, "peak_megabytes", lambda *paths, **options: 1.0)
        patch.setattr(optimizing, "median_call_times", lambda runs, **options: dict.fromkeys(runs, 1e-3))
        return measure_models(folders, every_precision=True)


def test_a_trimmed_student_is_compared_with_the_one_of_all_tokens(tried, students):
    whole, trimmed = (labels_of(*student, HELD_OUT) for student in students.values())
    changed = 100 * np.mean([one != other for one, other in zip(whole, trimmed, strict=True)])
    assert changed > 0
    assert tried[0].candidates["fp32"].loss_percent == 0
    assert tried[1].candidates["fp32"].loss_percent == pytest.approx(changed)
    for one in tried:
        for precision, candidate in one.candidates.items():
            answered = one.folder.open(one.folder.file(precision)).run(HELD_OUT)[0].argmax(axis=1)
            assert candidate.loss_percent == pytest.approx(100 * np.mean(answered != whole)), candidate.name


def test_every_candidate_says_what_it_was_made_of(tried, students):
    assert list(tried[0].candidates) == list(tried[1].candidates)
    for one, (model, _) in zip(tried, students.values(), strict=True):
        for precision, candidate in one.candidates.items():
            assert candidate.name == f"{one.folder.title} {precision}".strip()
            assert (candidate.layers, candidate.agreement) == (2, 0.5)
            assert candidate.n_tokens == model.config.vocab_size
    assert tried[1].candidates["fp32"].megabytes < tried[0].candidates["fp32"].megabytes


def test_the_float_model_stays_even_where_trimming_alone_changes_too_much(tried):
    strict = optimizing.replace(tried[1], folder=optimizing.replace(tried[1].folder, max_disagreement=0.0))
    assert strict.good_enough[0] == "fp32"
    assert all(strict.models[name].fidelity.disagreement == 0 for name in strict.good_enough[1:])


def test_the_pick_is_one_of_all_and_its_account_that_of_its_vocabulary(tried):
    smallest = min(c.megabytes for one in tried for c in one.candidates.values())
    budget = Budget({"size": smallest, "loss": 100.0})
    position, models = choose_models(tried, budget)
    picked = models.front.picked
    assert (position, picked) == (1, f"trimmed {models.default_precision}")
    assert [row.name for row in models.front.candidates] == [
        candidate.name for one in tried for candidate in one.candidates.values()
    ]
    row = next(row for row in models.front.candidates if row.name == picked)
    assert models.precisions[row.precision].bytes / 1e6 == pytest.approx(smallest)
    assert models.precisions["fp32"].fidelity.agreement < 1


@pytest.fixture
def data(tmp_path):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join(tiny.TEXTS), "utf-8")

    def make(student):
        recipe = Recipe(corpus=str(corpus))
        texts = read_texts(recipe.corpus, recipe.evaluation, recipe.teachers, recipe.hints)
        return SimpleNamespace(texts=texts, tokenized=tokenize(texts.corpus, student.tokenizer), heads=TAUGHT)

    return make


def trimmed_under(student, data, **settings):
    """The variants that trimming makes of a student under some settings of export."""
    export = Recipe(trim_vocabulary=True, **settings).export
    trained = TrainedStudent(None, [], (1.0,), [StudentVariant(student)])
    return _trim_student(trained, data(student), parse_budget(export), export, SilentProgress().say).variants


@pytest.mark.parametrize(
    ("settings", "allowed"),
    [
        ({"max_disagreement": 0.3}, 0.3),
        ({"max_disagreement": 0.3, "budget": "size<=1MB"}, 0.15),
        ({"max_disagreement": 0.3, "budget": "loss<=50%"}, 0.25),
    ],
)
def test_under_a_budget_trimming_leaves_half_of_the_loss_to_quantization(
    students, data, monkeypatch, settings, allowed
):
    asked = []

    def note(student, data, allowed, say):
        asked.append(allowed)
        return student, TrimmedVocabulary(1, 2, Fidelity(1.0, 0.0, 1, {}, {}))

    monkeypatch.setattr(module, "trim_vocabulary", note)
    student = Student(*students[""])
    variants = trimmed_under(student, data, **settings)
    assert asked == [pytest.approx(allowed)]
    assert [variant.vocabulary is None for variant in variants] == ([True, False] if "budget" in settings else [False])


@pytest.mark.parametrize("settings", [{}, {"budget": "size<=1MB"}])
def test_where_nothing_can_be_left_out_there_is_one_student(students, data, monkeypatch, settings):
    monkeypatch.setattr(module, "trim_through_gate", lambda *arguments, **options: None)
    student = Student(*students[""])
    variants = trimmed_under(student, data, **settings)
    assert variants == [StudentVariant(student)]
    assert variants[0].n_tokens == len(student.tokenizer)


def test_the_agreement_with_supervision_is_a_share_of_held_out_texts(students, data):
    student = Student(*students[""])
    held = data(student)
    texts = held.texts
    answers = np.array(labels_of(*students[""], list(texts.corpus.texts)))
    target = np.eye(3)[answers]
    wrong = texts.held_out[:1]
    target[wrong] = target[wrong][:, [1, 2, 0]]
    target[texts.train] = target[texts.train][:, [1, 2, 0]]  # no training text counts
    held.supervision = Supervision(target, np.ones(len(target)), np.zeros(len(target)))
    expected = 1 - 1 / len(texts.held_out)
    assert module.agreements_with_supervision(student, held) == (pytest.approx(expected),)
