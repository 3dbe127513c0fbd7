"""Runs of the amalgamation benchmark: makes teachers and scores of a group, trains its students, measures them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock

from amalgam_edge.building.data import Models, StudentVariant, TrainingData
from amalgam_edge.building.evaluating import ask_teacher
from amalgam_edge.building.inputs import new_student
from amalgam_edge.building.pipeline import prepare_training_data, resolved_training
from amalgam_edge.building.students import calibrated, train
from amalgam_edge.evaluation.head_metrics import evaluate_head
from amalgam_edge.evaluation.teacher_agreement import teacher_accuracy
from amalgam_edge.heads import ONLY_HEAD
from amalgam_edge.inference.predict import predict_texts
from amalgam_edge.inference.torch_runner import TorchRunner
from amalgam_edge.labels import LabelSpace
from amalgam_edge.methods import METHODS, TeacherSignals, supervision
from amalgam_edge.methods.supervision import Supervision
from amalgam_edge.metrics.accuracy import accuracy
from amalgam_edge.progress import Progress
from amalgam_edge.recipe.recipe import Recipe
from amalgam_edge.scoring.scores import TeacherScores
from amalgam_edge.storage.fingerprints import sha256_of_mapping
from amalgam_edge.storage.records import to_json
from amalgam_edge.storage.staging import staged, write_text_atomically
from benchmarks.amalgamation.architectures import untrained
from benchmarks.amalgamation.results import ATTAINABLE, LABELS
from benchmarks.amalgamation.settings import Plan, TeacherPlan
from benchmarks.common.errors import UnavailableError
from benchmarks.corpora.hub import folder_name
from examples.corpora import write_jsonl
from examples.teachers import TEACHER_TRAINING, encoder_folder, fine_tune

# Reference methods: the student learns from what the teacher says that knows the true label, or from the true labels.
REFERENCES = (ATTAINABLE, LABELS)
# Methods by their names in results, with the recipe fields that they set beyond that name.
METHOD_VARIANTS: dict[str, dict[str, Any]] = {
    "vanilla-kd": {},
    "uhc": {},
    "cfl": {},
    "dfa": {},
    "muka-hard-no-reweight": {"method": "muka-hard", "reweight": False},
    "muka-hard": {},
    "muka-soft-no-reweight": {"method": "muka-soft", "reweight": False},
    "muka-soft": {},
    "refined": {},
    **{reference: {"method": "muka-soft"} for reference in REFERENCES},  # only for its loss, the cross-entropy
}
PREPARING_METHOD = "vanilla-kd"  # prepares a group, whose runs have methods of their own: none is cheaper
STUDENT_LAYERS = 3


class Group(NamedTuple):
    """A corpus, a setting and a seed: the runs of all methods on them share their teachers, texts and scores."""

    corpus: str
    setting: str
    seed: int

    def folder(self, runs: Path) -> Path:
        """The folder of the group, below the folder ``runs`` of the study."""
        return runs / folder_name(self.corpus) / self.setting / f"seed-{self.seed}"

    def __str__(self) -> str:
        return f"{self.corpus}, {self.setting}, seed {self.seed}"


@dataclass(frozen=True)
class Study:
    """Options that all groups have in common.

    Attributes:
        runs: Folder for everything that is made.
        methods: Names of methods as :func:`recipe_overrides` understands them.
        epochs: Epochs that a student is trained for.
        teacher_epochs: Epochs that a teacher is fine-tuned for.
        most: How many texts per label to take of a corpus; None for all.
        threads: How many threads compute; None for one per core.
        data: Folder of further corpora; None if there is none.
    """

    runs: Path
    methods: Sequence[str]
    epochs: int
    teacher_epochs: int
    most: int | None
    threads: int | None
    data: Path | None = None


@dataclass(frozen=True)
class PreparedGroup:
    """What the students of a group are made from.

    Attributes:
        recipe: The recipe of all students; each run sets its own method.
        plan: The plan of the group.
        models: The teachers, the union of their labels, and the true labels of the test texts.
        data: Texts and scores of the group; runs replace the supervision by that of their own method.
        gold: True label of each unlabeled text, ``(n_texts,)``; −1 where no teacher knows the label.
        teacher_accuracy: Accuracy of each teacher on the test texts of its own labels; None where there are none.
    """

    recipe: Recipe
    plan: Plan
    models: Models
    data: TrainingData
    gold: np.ndarray
    teacher_accuracy: dict[str, float | None]


def name_of(method: str) -> str:
    """The name of a method that may be given with options of the recipe."""
    return method.partition("@")[0]


def is_reference(method: str) -> bool:
    """Whether a method reads true labels."""
    return name_of(method) in REFERENCES


def recipe_overrides(method: str) -> dict[str, Any]:
    """Recipe fields of a method given as ``NAME`` or ``NAME@field=value,…``, where NAME may be in ``METHOD_VARIANTS``.

    Raises:
        UnavailableError: There is no such method.
    """
    name, _, options = method.partition("@")
    overrides = {"method": name, **METHOD_VARIANTS.get(name, {})}
    if overrides["method"] not in METHODS:
        raise UnavailableError(f"no method '{overrides['method']}'")
    return overrides | dict(option.split("=", 1) for option in options.split(",") if option)


def teacher_key(teacher: TeacherPlan, seed: int, epochs: int) -> str:
    """A hash of everything that a teacher is made from."""
    return sha256_of_mapping(
        {**asdict(teacher), "name": "", "useful": True, "seed": seed, "epochs": teacher.epochs or epochs}
    )[:16]


def group_key(study: Study, group: Group, plan: Plan) -> str:
    """A hash of everything that all runs of a group depend on."""
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


def run_key(group: str, method: str) -> str:
    """A hash of everything that a run depends on, from the key of its group; new recipe fields do not change it."""
    return sha256_of_mapping({"group": group, "row": recipe_overrides(method)})[:16]


def read_result(folder: Path, method: str, key: str) -> dict[str, Any] | None:
    """The result of a run, or None if there is none or it was made from something else."""
    path = folder / method / "result.json"
    if not path.exists():
        return None
    result = json.loads(path.read_text("utf-8"))
    return result if result["key"] == key else None


def make_teachers(study: Study, group: Group, plan: Plan, progress: Progress) -> list[str]:
    """The teachers of a plan, as the recipe's ``teachers``; a missing one is fine-tuned while other processes wait."""
    specs = []
    progress.begin(len(plan.teachers))
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
                        new_classifier=partial(untrained, architecture=teacher.architecture),
                        settings=replace(
                            TEACHER_TRAINING, epochs=teacher.epochs or study.teacher_epochs, seed=group.seed
                        ),
                    )
        specs.append(f"{teacher.name}={folder}")
    return specs


def prepare(study: Study, group: Group, plan: Plan, progress: Progress) -> PreparedGroup:
    """Make or read the teachers, texts and scores of a group."""
    folder = group.folder(study.runs)
    folder.mkdir(parents=True, exist_ok=True)
    write_jsonl(folder / "unlabeled.jsonl", ({"text": text} for text, _ in plan.corpus))
    write_jsonl(folder / "labelled.jsonl", ({"text": text, "label": label} for text, label in plan.test))
    recipe = Recipe(
        teachers=make_teachers(study, group, plan, progress),
        corpus=folder / "unlabeled.jsonl",
        evaluate=folder / "labelled.jsonl",
        student=encoder_folder(),
        student_layers=STUDENT_LAYERS,
        epochs=study.epochs,
        seed=group.seed,
        threads=study.threads,
        work=folder.parents[1] / "work",  # shared, since settings may have teachers, texts and scores in common
    )
    models, data = prepare_training_data(recipe.replace(method=PREPARING_METHOD), progress)
    label_of = dict(plan.corpus)
    position = {name: k for k, name in enumerate(models.heads.only.labels.names)}
    test, device = list(data.texts.labelled.texts), recipe.compute.device
    return PreparedGroup(
        recipe=recipe,
        plan=plan,
        models=models,
        data=data,
        gold=np.array([position.get(label_of[text] or "", -1) for text in data.texts.corpus.texts]),
        teacher_accuracy={
            teacher.name: teacher_accuracy(
                ask_teacher(teacher, models.heads.only, test, models.gold[ONLY_HEAD], device)
            ).accuracy
            for teacher in models.teachers
        },
    )


def training_data(group: PreparedGroup, recipe: Recipe, method: str, progress: Progress) -> TrainingData:
    """What a student is trained on: the method's supervision, or a reference's, of texts with a label that is known."""
    if not is_reference(method):
        _, data = prepare_training_data(recipe, progress)
        return data
    known, texts = group.gold >= 0, group.data.texts
    gold, labels = np.maximum(group.gold, 0), group.data.heads.only.labels
    return replace(
        group.data,
        texts=replace(texts, train=texts.train[known[texts.train]], held_out=texts.held_out[known[texts.held_out]]),
        supervision=(
            supervision.from_labels(gold, len(labels))
            if name_of(method) == LABELS
            else supervision.from_targets(right_teacher_target(group.data.scores, gold, labels, group.plan.owners()))
        ),
        signals=TeacherSignals(),
    )


def right_teacher_target(
    scores: Sequence[TeacherScores], gold: np.ndarray, labels: LabelSpace, owners: Mapping[str, Sequence[int]]
) -> np.ndarray:
    """What the teacher says that knows the gold label; of several the mean. ``(n_texts, n_labels)``.

    Args:
        scores: The scores of each teacher.
        gold: True labels, ``(n_texts,)``.
        labels: The label space.
        owners: For each label, the positions of the useful teachers that know it.
    """
    knows = np.zeros((len(labels), len(scores)))
    for position, name in enumerate(labels.names):
        knows[position, list(owners.get(name, ()))] = 1.0
    weights = knows[gold]
    return supervision.mix_targets(scores, weights / np.maximum(weights.sum(axis=1, keepdims=True), 1.0), labels)


def train_and_measure(group: PreparedGroup, method: str, folder: Path, progress: Progress) -> dict[str, Any]:
    """Train the student of a method and measure it on the test texts."""
    overrides = {**recipe_overrides(method), "output": str(folder / method / "bundle")}
    recipe = group.recipe.replace(**overrides)
    if not is_reference(method):
        write_text_atomically(folder / method / "recipe.yaml", recipe.to_yaml())
    data, settings = training_data(group, recipe, method, progress), resolved_training(recipe)
    student = new_student(recipe.student, group.models.teachers, data.heads.heads, recipe.student.layer_counts[0])
    scratch = folder / method / "training"
    progress.begin(1)
    with progress.step(f"student by {method}", settings.n_updates(len(data.texts.train)), "updates") as advance:
        train(student, data, recipe.method, settings, scratch, advance)
    shutil.rmtree(scratch)
    variant = calibrated(StudentVariant(student), data, recipe.method)
    logits = predict_texts(
        TorchRunner(student.model, sites=()),
        student.tokenizer,
        list(group.data.texts.labelled.texts),
        max_length=student.tokenizer.model_max_length,
    )
    domains = {teacher: list(columns) for teacher, columns in data.heads.only.labels.columns.items()}
    head, gold = replace(data.heads.only.head, abstain=0.0), group.models.gold[ONLY_HEAD]
    measured = to_json(evaluate_head(head, gold, logits / variant.temperatures, domains))
    kept = ("accuracy", "macro_f1", "ece", "nll", "aurc", "domains", "confusion")
    return {
        **{name: measured[name] for name in kept},
        "temperature": float(variant.temperatures.flat[0]),
        **(supervision_quality(data.supervision, group) if not is_reference(method) else {}),
        "teacher_accuracy": group.teacher_accuracy,
        "labels": list(data.heads.only.labels.names),
        "n_corpus": len(data.texts.corpus),
        "n_test": len(group.models.gold[ONLY_HEAD].answers),
        "supervision": data.supervision.digest(),
    }


def supervision_quality(supervised: Supervision, group: PreparedGroup) -> dict[str, float | None]:
    """How often the likeliest label of the supervision is right on the unlabeled texts, and how often its teacher."""
    known = group.gold >= 0
    return {
        "target_accuracy": accuracy(group.gold[known], supervised.target[known].argmax(axis=1)),
        "teacher_selection": teacher_selection(
            supervised.target, group.gold, group.data.heads.only.labels, group.plan.owners()
        ),
    }


def teacher_selection(
    target: np.ndarray, gold: np.ndarray, labels: LabelSpace, owners: Mapping[str, Sequence[int]]
) -> float | None:
    """Share of texts on which the target gives most of its mass to the labels of the teacher that knows the gold label.

    Texts whose label is known to several useful teachers, or to none, do not count.

    Args:
        target: Target of the supervision, ``(n_texts, n_labels)``.
        gold: True labels, ``(n_texts,)``; −1 where no teacher knows the label.
        labels: The label space.
        owners: For each label, the positions of the useful teachers that know it.
    """
    mass = np.stack([target[:, list(columns)].sum(axis=1) for columns in labels.columns.values()], axis=1)
    known_to = [owners.get(name, ()) for name in labels.names]
    owner_of = np.array([teachers[0] if len(teachers) == 1 else -1 for teachers in known_to])
    owner = np.where(gold >= 0, owner_of[gold], -1)
    rows = np.flatnonzero(owner >= 0)
    if not len(rows):
        return None
    right = mass[rows, owner[rows]] >= mass[rows].max(axis=1) - 1e-6  # teachers that share labels may tie
    return float(right.mean())
