"""Runs of the amalgamation benchmark: from the plan of a group to what each of its students is measured to be."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from corpora import Rows, write_jsonl
from filelock import FileLock
from hub_corpora import folder_name
from settings import LeftOut, Plan, TeacherPlan
from teachers import SETTINGS as TEACHER_TRAINING
from teachers import encoder, fine_tune

from amalgam_edge.building import stages
from amalgam_edge.evaluation.bundle_evaluation import measure_answers
from amalgam_edge.inference.predict import predict_texts
from amalgam_edge.inference.torch_runner import TorchRunner
from amalgam_edge.labels import LabelSpace
from amalgam_edge.methods import METHODS, Told, supervision
from amalgam_edge.methods.supervision import Supervision
from amalgam_edge.metrics.accuracy import accuracy
from amalgam_edge.models.teacher import Teacher
from amalgam_edge.progress import Progress
from amalgam_edge.recipe.recipe import Recipe, read_recipe
from amalgam_edge.scoring.scores import TeacherScores
from amalgam_edge.storage.fingerprints import sha256_of_mapping
from amalgam_edge.storage.staging import staged, write_text_atomically

LABELS = "labels"  # the reference: the student learns from true labels
METHOD_ROWS: dict[str, dict[str, Any]] = {
    "vanilla-kd": {},
    "uhc": {},
    "cfl": {},
    "dfa": {},
    "muka-hard-no-reweight": {"method": "muka-hard", "reweight": False},
    "muka-hard": {},
    "muka-soft-no-reweight": {"method": "muka-soft", "reweight": False},
    "muka-soft": {},
    "refined": {},
    LABELS: {"method": "muka-soft"},  # for its loss: the cross-entropy to the target
}
STUDENT_LAYERS = 3


class Group(NamedTuple):
    """Runs that share their teachers, texts and scores."""

    corpus: str
    setting: str
    seed: int

    def folder(self, runs: Path) -> Path:
        """Where they are kept."""
        return runs / folder_name(self.corpus) / self.setting / f"seed-{self.seed}"

    def __str__(self) -> str:
        return f"{self.corpus}, {self.setting}, seed {self.seed}"


@dataclass(frozen=True)
class Study:
    """What all groups have in common.

    Attributes:
        runs: folder for all that is made.
        methods: rows, by the names that :func:`row_overrides` understands.
        epochs: of students.
        teacher_epochs: of teachers.
        most: texts a label of a corpus; None for all of a sample.
        threads: to compute with; None for one a core.
    """

    runs: Path
    methods: Sequence[str]
    epochs: int
    teacher_epochs: int
    most: int | None
    threads: int | None


@dataclass(frozen=True)
class Prepared:
    """What the students of a group are made from.

    Attributes:
        recipe: of all of them, but for the method.
        plan: of the group.
        texts: unlabeled and for testing.
        tokenized: the unlabeled ones.
        teachers: loaded.
        labels: the union of theirs.
        scores: each teacher's.
        gold: of the unlabeled texts, ``(n_texts,)``; −1 where no teacher knows the label.
        teacher_accuracy: of each teacher on the test texts of its own labels; None where there are none.
    """

    recipe: Recipe
    plan: Plan
    texts: stages.Texts
    tokenized: stages.Tokenized
    teachers: Sequence[Teacher]
    labels: LabelSpace
    scores: Sequence[TeacherScores]
    gold: np.ndarray
    teacher_accuracy: dict[str, float | None]


def row_overrides(row: str) -> dict[str, Any]:
    """What a row sets in the recipe: ``NAME`` of ``METHOD_ROWS``, or ``NAME@field=value,…``.

    Raises:
        LeftOut: there is no such method.
    """
    name, _, options = row.partition("@")
    overrides = {"method": name, **METHOD_ROWS.get(name, {})}
    if overrides["method"] not in METHODS:
        raise LeftOut(f"no method '{overrides['method']}'")
    return overrides | dict(option.split("=", 1) for option in options.split(",") if option)


def teacher_key(teacher: TeacherPlan, seed: int, epochs: int) -> str:
    """What a teacher is made from, in short."""
    return sha256_of_mapping({**asdict(teacher), "name": "", "useful": True, "seed": seed, "epochs": epochs})[:16]


def group_key(study: Study, group: Group, plan: Plan) -> str:
    """What all runs of a group depend on, in short."""
    return sha256_of_mapping(
        {
            "seed": group.seed,
            "epochs": study.epochs,
            "layers": STUDENT_LAYERS,
            "teachers": [teacher_key(teacher, group.seed, study.teacher_epochs) for teacher in plan.teachers],
            "corpus": plan.corpus,
            "test": plan.test,
        }
    )


def run_key(group: str, row: str) -> str:
    """What a run depends on, in short, by the key of its group: recipes may gain fields and it stays the same."""
    return sha256_of_mapping({"group": group, "row": row_overrides(row)})[:16]


def result_of(folder: Path, row: str, key: str) -> dict[str, Any] | None:
    """What a run came to, where it was made and was made of the same."""
    path = folder / row / "result.json"
    if not path.exists():
        return None
    result = json.loads(path.read_text("utf-8"))
    return result if result["key"] == key else None


def make_teachers(study: Study, group: Group, plan: Plan, progress: Progress) -> list[str]:
    """The teachers of a plan as a recipe names them; one that is not there yet is fine-tuned, by one process."""
    specs = []
    for teacher in plan.teachers:
        folder = study.runs / "teachers" / teacher_key(teacher, group.seed, study.teacher_epochs)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):
            if not folder.exists():
                with staged(folder) as part:
                    fine_tune(
                        teacher.name,
                        teacher.labels,
                        teacher.rows,
                        part,
                        progress,
                        architecture=teacher.architecture,
                        settings=replace(TEACHER_TRAINING, epochs=study.teacher_epochs, seed=group.seed),
                    )
        specs.append(f"{teacher.name}={folder}")
    return specs


def prepare(study: Study, group: Group, plan: Plan, progress: Progress) -> Prepared:
    """Teachers, texts and scores of a group; what is there already is read."""
    folder = group.folder(study.runs)
    folder.mkdir(parents=True, exist_ok=True)
    write_jsonl(folder / "unlabeled.jsonl", ({"text": text} for text, _ in plan.corpus))
    write_jsonl(folder / "labelled.jsonl", ({"text": text, "label": label} for text, label in plan.test))
    recipe = read_recipe(
        None,
        {
            "teachers": make_teachers(study, group, plan, progress),
            "corpus": str(folder / "unlabeled.jsonl"),
            "evaluate": str(folder / "labelled.jsonl"),
            "student": encoder(),
            "student_layers": STUDENT_LAYERS,
            "epochs": study.epochs,
            "seed": group.seed,
            "threads": study.threads,
            "work": str(folder.parents[1] / "work"),  # settings may have teachers and texts in common, and so scores
        },
    )
    texts = stages.read_texts(recipe)
    teachers, labels, (student,) = stages.load_models(recipe)
    stores = stages.cached_stores(recipe, teachers, texts.corpus)
    stages.score(recipe, teachers, stores, texts.corpus, progress)
    tokenized = stages.tokenize(texts.corpus, student.tokenizer)
    scores = [store.read() for store in stores]
    texts, tokenized, scores = stages.only_scored(recipe, texts, tokenized, scores, progress)
    label_of = dict(plan.corpus)
    position = {name: k for k, name in enumerate(labels.names)}
    return Prepared(
        recipe=recipe,
        plan=plan,
        texts=texts,
        tokenized=tokenized,
        teachers=teachers,
        labels=labels,
        scores=scores,
        gold=np.array([position.get(label_of[text] or "", -1) for text in texts.corpus.texts]),
        teacher_accuracy={teacher.name: own_accuracy(teacher, plan.test) for teacher in teachers},
    )


def own_accuracy(teacher: Teacher, test: Rows) -> float | None:
    """Of a teacher on the texts of its own labels; None where there are none."""
    own = [(text, teacher.class_names.index(label)) for text, label in test if label in teacher.class_names]
    if not own:
        return None
    logits = predict_texts(
        TorchRunner(teacher.model, sites=()),
        teacher.tokenizer,
        [text for text, _ in own],
        max_length=teacher.max_length,
    )
    return accuracy(np.array([gold for _, gold in own]), logits.argmax(axis=1))


def lesson_of(made: Prepared, recipe: Recipe, row: str, progress: Progress) -> stages.Lesson:
    """What a student learns: what the method says, or the true labels, without the texts that bear none of them."""
    texts, told = made.texts, Told()
    if row.partition("@")[0] == LABELS:
        known = made.gold >= 0
        texts = replace(texts, train=texts.train[known[texts.train]], held_out=texts.held_out[known[texts.held_out]])
        supervised = supervision.from_labels(np.maximum(made.gold, 0), len(made.labels))
    else:
        told = stages.tell(recipe, made.teachers, texts.corpus, made.scores, progress)
        supervised = stages.supervise(recipe, made.teachers, texts, made.labels, made.scores, progress)
    return stages.Lesson(recipe, texts, made.tokenized, made.labels, made.scores, supervised, told)


def teach(made: Prepared, row: str, folder: Path, progress: Progress) -> dict[str, Any]:
    """Train the student of a row and measure it."""
    overrides = {**row_overrides(row), "output": str(folder / row / "bundle")}
    recipe = read_recipe(None, {**made.recipe.model_dump(), **overrides})
    if row.partition("@")[0] != LABELS:
        write_text_atomically(folder / row / "recipe.yaml", recipe.to_yaml())
    lesson = lesson_of(made, recipe, row, progress)
    student = stages.new_student(recipe, made.teachers, made.labels, STUDENT_LAYERS)
    settings = stages.training_settings(recipe)
    scratch = folder / row / "training"
    with progress.step(f"student by {row}", settings.n_updates(len(lesson.texts.train)), "updates") as advance:
        stages.distil(student, lesson, settings, scratch, advance)
    shutil.rmtree(scratch)
    variant = stages.calibrated(stages.Variant(student), lesson)
    logits = predict_texts(
        TorchRunner(student.model, sites=()),
        student.tokenizer,
        [text for text, _ in made.plan.test],
        max_length=student.tokenizer.model_max_length,
    )
    gold = made.labels.encode([label for _, label in made.plan.test])
    domains = {teacher: list(columns) for teacher, columns in made.labels.columns.items()}
    measured = measure_answers(gold, logits / variant.temperature, domains, abstain=0.0)
    kept = ("accuracy", "macro_f1", "ece", "nll", "aurc", "domains", "confusion")
    return {
        **{name: measured[name] for name in kept},
        "temperature": variant.temperature,
        **(judged(lesson.supervision, made) if row.partition("@")[0] != LABELS else {}),
        "teacher_accuracy": made.teacher_accuracy,
        "labels": list(made.labels.names),
        "n_corpus": len(made.texts.corpus),
        "n_test": len(made.plan.test),
        "supervision": lesson.supervision.digest(),
    }


def judged(supervised: Supervision, made: Prepared) -> dict[str, float | None]:
    """How right supervision is on the unlabeled texts: the likeliest label, and the teacher that it comes from."""
    known = made.gold >= 0
    return {
        "target_accuracy": accuracy(made.gold[known], supervised.target[known].argmax(axis=1)),
        "teacher_selection": teacher_selection(supervised.target, made.gold, made.labels, made.plan.owners()),
    }


def teacher_selection(
    target: np.ndarray, gold: np.ndarray, labels: LabelSpace, owners: Mapping[str, Sequence[int]]
) -> float | None:
    """Share of texts on which the teacher with the most of the target on its labels is the one that knows the gold one.

    Texts whose label is known to several useful teachers, or to none, do not count.

    Args:
        target: of the supervision, ``(n_texts, n_labels)``.
        gold: ``(n_texts,)``; −1 where no teacher knows the label.
        labels: the label space.
        owners: label → positions of the useful teachers that know it.
    """
    mass = np.stack([target[:, list(columns)].sum(axis=1) for columns in labels.columns.values()], axis=1)
    only = [owners.get(name, ()) for name in labels.names]
    owner_of = np.array([own[0] if len(own) == 1 else -1 for own in only])
    owner = np.where(gold >= 0, owner_of[gold], -1)
    rows = np.flatnonzero(owner >= 0)
    if not len(rows):
        return None
    right = mass[rows, owner[rows]] >= mass[rows].max(axis=1) - 1e-6  # teachers that share labels may be even
    return float(right.mean())
