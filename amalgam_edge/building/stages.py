"""The stages of a build, each a function that the next one feeds on."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from amalgam_edge.building.budget import Budget
from amalgam_edge.corpus.reading import TEXT, Corpus, read_corpus
from amalgam_edge.errors import AmalgamError, MissingExtraError
from amalgam_edge.exporters.selection.trimming import trim_through_gate
from amalgam_edge.inference.predict import predict_texts
from amalgam_edge.inference.torch_runner import TorchRunner
from amalgam_edge.labels import LabelSpace
from amalgam_edge.methods import METHODS, Evidence, Method, MethodSettings, Objective, Shapes, Told
from amalgam_edge.methods.supervision import Supervision
from amalgam_edge.metrics.accuracy import accuracy
from amalgam_edge.metrics.calibration import Calibration, calibrate
from amalgam_edge.models.hidden_state import last_layer
from amalgam_edge.models.loading import load_config, load_encoder
from amalgam_edge.models.static_student import build_static_student, initial_encoder, is_static
from amalgam_edge.models.student import build_student, n_layers, resolve_student
from amalgam_edge.models.teacher import Teacher, load_teachers
from amalgam_edge.progress import Advance, Progress
from amalgam_edge.recipe.recipe import Recipe, read_renames
from amalgam_edge.runtime.model_types import STATIC
from amalgam_edge.scoring.backends import Backend, resolve_backend
from amalgam_edge.scoring.features import FEATURES, feature_key, store_features
from amalgam_edge.scoring.hidden_states import HiddenStates, HiddenStore, hidden_key, store_hidden
from amalgam_edge.scoring.score import PROBE_TEXTS, Opened, ScoringSettings, open_runners, score_corpus, score_key
from amalgam_edge.scoring.scores import TeacherScores
from amalgam_edge.scoring.store import ScoreStore
from amalgam_edge.scoring.summary import scored_by_all
from amalgam_edge.storage import files
from amalgam_edge.training.fitting import History, LossFunction, SupervisedTexts, TrainingSettings, fit
from amalgam_edge.training.head_start import start_head

# Measured on 1,631 short texts under MUKA-soft, with which weights are small: accuracy 57.9 % at 2e-3, 67.1 % at 5e-3,
# 70.5 % at 1e-2, 69.2 % at 2e-2.
STATIC_LEARNING_RATE = 1e-2


@dataclass(frozen=True)
class Texts:
    """The texts of a build.

    Attributes:
        corpus: the unlabeled texts.
        train: rows to train on.
        held_out: rows for the quality gate.
        labelled: texts with gold labels, for evaluation only; None without.
        n_failed: texts that were left out because a teacher could not score them.
    """

    corpus: Corpus
    train: np.ndarray
    held_out: np.ndarray
    labelled: Corpus | None
    n_failed: int = 0


@dataclass(frozen=True)
class Student:
    """The model being trained, and its tokenizer, whose ``model_max_length`` is the longest input."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


@dataclass(frozen=True)
class Tokenized:
    """A corpus as token ids.

    Attributes:
        dataset: memory-mapped, with the column ``input_ids``.
        n_truncated: texts that were cut.
    """

    dataset: datasets.Dataset
    n_truncated: int


@dataclass(frozen=True)
class Lesson:
    """What every student of a build is made from.

    Attributes:
        recipe: of the build.
        texts: see :class:`Texts`.
        tokenized: the corpus.
        labels: the label space.
        scores: each teacher's.
        supervision: what they come to.
        told: what the method's objective reads of each teacher.
    """

    recipe: Recipe
    texts: Texts
    tokenized: Tokenized
    labels: LabelSpace
    scores: Sequence[TeacherScores]
    supervision: Supervision
    told: Told


@dataclass(frozen=True)
class Variant:
    """A trained student with as many tokens as it may ship with.

    Attributes:
        student: on the CPU.
        vocabulary: how many tokens were left out, and what that changed; None where all stayed.
        calibration: its temperature; None where none was wanted.
    """

    student: Student
    vocabulary: dict[str, Any] | None = None
    calibration: Calibration | None = None

    @property
    def temperature(self) -> float:
        """What the student's logits are divided by."""
        return self.calibration.temperature if self.calibration else 1.0

    @property
    def n_tokens(self) -> int:
        """How many tokens it knows."""
        return int(self.student.model.get_input_embeddings().weight.shape[0])


@dataclass(frozen=True)
class Trained:
    """A trained student.

    Attributes:
        layers: None where it has none.
        history: the training curve.
        agreement: share of held-out texts on which it names the likeliest label of the supervision.
        variants: what may ship of it: under a budget the one with all tokens comes first.
    """

    layers: int | None
    history: History
    agreement: float
    variants: Sequence[Variant]


def require(recipe: Recipe, *fields: str) -> None:
    """Refuse a recipe that leaves one of these fields empty."""
    for field in fields:
        if not getattr(recipe, field):
            name = {"teachers": "teacher"}.get(field, field)
            raise AmalgamError(f"no {name} given: name one with --{name}, or under '{field}' in the recipe")


def check_student(recipe: Recipe) -> None:
    """Refuse students that could not be told apart or chosen from, and options that a static one has no use for.

    Raises:
        AmalgamError: there is one of these.
    """
    counts = recipe.layer_counts
    repeated = next((count for count in counts if counts.count(count) > 1), None)
    if repeated is not None:
        raise AmalgamError(f"--student-layers: {repeated} is named twice")
    if not is_static(recipe.student):
        if len(counts) > 1 and not recipe.budget:
            raise AmalgamError(
                f"--student-layers {','.join(map(str, counts))}: several students need a budget to choose by; "
                "give one with --budget, or name one count"
            )
        return
    if recipe.student_layers is not None:
        raise AmalgamError(
            f"--student-layers: a static student has no layers; leave it out of --student {recipe.student}"
        )
    if recipe.cascade:
        raise AmalgamError(
            f"--cascade: it puts a static student before an encoder, and --student {recipe.student} is static already; "
            "name an encoder for --student, or leave --cascade out"
        )


def read_texts(recipe: Recipe) -> Texts:
    """Read the corpus, split it, and read the labelled texts.

    Raises:
        AmalgamError: either cannot be read, or the corpus is too small to hold any of it out.
    """
    corpus = read_corpus(recipe.corpus, text_column=recipe.text_column, split=recipe.split)
    if len(corpus) < 2:
        raise AmalgamError(f"{recipe.corpus}: one text is too few; at least two are needed, and hundreds are wise")
    train, held_out = corpus.split(recipe.held_out)
    labelled = None
    if recipe.evaluate:
        labelled = read_corpus(
            recipe.evaluate,
            text_column=recipe.text_column,
            label_column=recipe.label_column,
            split=recipe.evaluate_split,
            drop_duplicates=False,
        )
    return Texts(corpus, train, held_out, labelled)


def budget_of(recipe: Recipe) -> Budget | None:
    """The recipe's budget, with a limit on labels changed in any case; None where it has none.

    Raises:
        AmalgamError: it is not understood.
    """
    return Budget.parse(recipe.budget).with_loss(100 * recipe.max_disagreement) if recipe.budget else None


def load_models(recipe: Recipe) -> tuple[list[Teacher], LabelSpace, list[Student]]:
    """Load the teachers, merge their labels, and build a student of each number of layers.

    Raises:
        AmalgamError: one of them cannot be had.
    """
    teachers = load_teachers(recipe.teachers, dropout=recipe.dropout, max_length=recipe.max_length)
    labels = LabelSpace.union({t.name: t.class_names for t in teachers}, read_renames(recipe.labels))
    return teachers, labels, [new_student(recipe, teachers, labels, layers) for layers in recipe.layer_counts]


def new_student(recipe: Recipe, teachers: Sequence[Teacher], labels: LabelSpace, layers: int | None) -> Student:
    """A student before any training; the same one each time.

    Args:
        recipe: of the build.
        teachers: whose encoder it may start from.
        labels: that it answers with.
        layers: that it keeps; None for all, and for a static student.
    """
    checkpoint = _student_checkpoint(recipe, teachers)
    if is_static(recipe.student):
        return Student(
            *build_static_student(
                checkpoint,
                labels.names,
                width=recipe.static_width,
                max_length=recipe.max_length,
                seed=recipe.seed,
                device=recipe.device,
            )
        )
    return Student(
        *build_student(checkpoint, labels.names, layers=layers, max_length=recipe.max_length, seed=recipe.seed)
    )


def layers_of(student: Student) -> int | None:
    """How many layers a student has; None for a static one."""
    config = student.model.config
    return None if config.model_type == STATIC else n_layers(config)


def scoring_settings(recipe: Recipe, backend: Backend | None = None) -> ScoringSettings:
    """The recipe's settings of scoring, with as many tokens at once as the backend runs best where it is known."""
    tokens = recipe.batch_tokens or (backend.batch_tokens if backend else ScoringSettings.batch_tokens)
    return ScoringSettings(
        batch_tokens=tokens,
        passes=recipe.passes,
        max_passes=recipe.max_passes,
        seed=recipe.seed,
        masks=recipe.masks,
        dropout=recipe.dropout,
        precision=recipe.precision,
    )


def backend_of(recipe: Recipe) -> Backend:
    """What runs the recipe's teachers.

    Raises:
        AmalgamError: it is not there, or cannot compute in the recipe's precision.
    """
    backend = resolve_backend(recipe.backend, recipe.device, recipe.threads)
    if recipe.precision == "fp16" and backend.device == "cpu":
        raise AmalgamError("fp16 needs a GPU; use --precision fp32")
    return backend


def n_scoring_steps(recipe: Recipe) -> int:
    """How many steps :func:`score` shows: one a teacher, or one for all where they share a budget."""
    return 1 if recipe.passes == "auto" else len(recipe.teachers)


def score(
    recipe: Recipe, teachers: Sequence[Teacher], stores: Sequence[ScoreStore], corpus: Corpus, progress: Progress
) -> None:
    """Score the corpus with each teacher, as far as the stores lack it."""
    if recipe.engine == "ray":
        _score_on_ray(recipe, teachers, stores, corpus, progress)
        return
    backend = backend_of(recipe)
    settings = scoring_settings(recipe, backend)
    together = len(teachers) // n_scoring_steps(recipe)
    for first in range(0, len(teachers), together):
        group, their_stores = teachers[first : first + together], stores[first : first + together]
        names = " and ".join(teacher.name for teacher in group)
        title = f"scoring with {names}, {settings.passes} passes, {backend}"
        signed = [store.by(engine="local", backend=str(backend)) for store in their_stores]
        with progress.step(title, len(corpus) * together, "texts") as advance:
            score_corpus(group, signed, corpus, settings, lambda teacher: backend.open(teacher, settings), advance)


def only_scored(
    recipe: Recipe, texts: Texts, tokenized: Tokenized, scores: Sequence[TeacherScores], progress: Progress
) -> tuple[Texts, Tokenized, list[TeacherScores]]:
    """Texts, their tokens and scores without the texts that a teacher could not score; says how many these are.

    Raises:
        AmalgamError: fewer than two texts are left.
    """
    rows = scored_by_all(scores)
    n_failed = len(texts.corpus) - len(rows)
    if n_failed == 0:
        return texts, tokenized, list(scores)
    failed = ", ".join(f"{teacher.teacher} {np.sum(~teacher.scored)}" for teacher in scores)
    told = f"{n_failed} of {len(texts.corpus)} texts could not be scored by every teacher ({failed})"
    if len(rows) < 2:
        raise AmalgamError(
            f"{told}; at least two are needed: the failures folders in {recipe.work_folder / 'scores'} tell why"
        )
    progress.say(f"{told} and are left out; the failures folders in {recipe.work_folder / 'scores'} tell why")
    corpus = texts.corpus.select(rows)
    train, held_out = corpus.split(recipe.held_out)
    left = replace(texts, corpus=corpus, train=train, held_out=held_out, n_failed=n_failed)
    return left, replace(tokenized, dataset=tokenized.dataset.select(rows)), [each.take(rows) for each in scores]


def _score_on_ray(
    recipe: Recipe, teachers: Sequence[Teacher], stores: Sequence[ScoreStore], corpus: Corpus, progress: Progress
) -> None:
    try:
        from amalgam_edge.scoring.ray.cluster import Cluster, score_on_ray
    except ImportError as error:
        raise MissingExtraError("--engine ray", "distributed", error) from error
    cluster = Cluster(recipe.address, recipe.workers, recipe.threads or 1, gpus=recipe.device != "cpu")
    names = " and ".join(teacher.name for teacher in teachers)
    title = f"scoring with {names}, {recipe.passes} passes, on Ray"
    with progress.step(title, len(corpus) * len(teachers), "texts") as advance:
        score_on_ray(partial(open_teachers, recipe, corpus.texts[:PROBE_TEXTS]), stores, corpus, cluster, advance)


def open_teachers(recipe: Recipe, texts: Sequence[str]) -> Opened:
    """Load a recipe's teachers and make them ready where this runs, which is proved on some texts.

    Raises:
        AmalgamError: one of them cannot be had, or its dropout is dead.
    """
    teachers = load_teachers(recipe.teachers, dropout=recipe.dropout, max_length=recipe.max_length)
    backend = backend_of(recipe.model_copy(update={"threads": recipe.threads or 1}))
    settings = scoring_settings(recipe, backend)
    runners = open_runners(teachers, lambda teacher: backend.open(teacher, settings), texts)
    return Opened(teachers, runners, settings, str(backend))


def cached_stores(recipe: Recipe, teachers: Sequence[Teacher], corpus: Corpus) -> list[ScoreStore]:
    """Stores in the work folder, named by all that their scores depend on, for later builds to find."""
    keys = [score_key(teacher, teachers, corpus, scoring_settings(recipe)) for teacher in teachers]
    root = recipe.work_folder / "scores"
    return [ScoreStore(root / f"{key.teacher}-{key.fingerprint[:12]}", key) for key in keys]


def named_stores(recipe: Recipe, teachers: Sequence[Teacher], corpus: Corpus) -> list[ScoreStore]:
    """Stores in the output folder, named by their teachers, for people to find."""
    keys = [score_key(teacher, teachers, corpus, scoring_settings(recipe)) for teacher in teachers]
    output = files.locate(recipe.output)
    return [ScoreStore(files.join(output, key.teacher), key) for key in keys]


def method_of(recipe: Recipe) -> tuple[Method, MethodSettings]:
    """The recipe's method and its parameters.

    Raises:
        AmalgamError: no method of that name.
    """
    if recipe.method not in METHODS:
        raise AmalgamError(f"no method '{recipe.method}'; there are {', '.join(METHODS)}")
    return METHODS[recipe.method], MethodSettings(
        **{field.name: getattr(recipe, field.name) for field in fields(MethodSettings)}
    )


def supervise(
    recipe: Recipe,
    teachers: Sequence[Teacher],
    texts: Texts,
    labels: LabelSpace,
    scores: Sequence[TeacherScores],
    progress: Progress,
) -> Supervision:
    """What the recipe's method makes of the scores.

    Features, for a method that reads them, are those of the work folder; what it lacks is computed.
    """
    method, settings = method_of(recipe)
    features = student_features(recipe, teachers, texts.corpus, progress) if method.reads_features else None
    return method.supervise(Evidence(scores, labels, features), settings)


def student_features(recipe: Recipe, teachers: Sequence[Teacher], corpus: Corpus, progress: Progress) -> np.ndarray:
    """What the encoder that the student starts from, with all of its layers, makes of texts, ``(n_texts, width)``.

    Those of the work folder; what it lacks is computed.
    """
    checkpoint = _student_checkpoint(recipe, teachers)
    encoder, tokenizer = load_encoder(checkpoint, load_config(checkpoint), recipe.max_length)
    key = feature_key(encoder, tokenizer, corpus)
    store = HiddenStore(recipe.work_folder / FEATURES / key.fingerprint[:12], key)
    batch_tokens = recipe.batch_tokens or backend_of(recipe).batch_tokens
    with progress.step("reading the texts with the student's encoder", len(corpus), "texts") as advance:
        store_features(encoder, tokenizer, store, corpus, advance, device=recipe.device, batch_tokens=batch_tokens)
    return store.read().array()


def _student_checkpoint(recipe: Recipe, teachers: Sequence[Teacher]) -> str:
    """The folder or Hub name of the encoder that the student starts from."""
    named = initial_encoder(recipe.student, teachers[0].name) if is_static(recipe.student) else recipe.student
    return resolve_student(named, {teacher.name: teacher.source for teacher in teachers})


def tell(
    recipe: Recipe, teachers: Sequence[Teacher], corpus: Corpus, scores: Sequence[TeacherScores], progress: Progress
) -> Told:
    """What the recipe's objective may read of each teacher; nothing, where the method has a plain loss.

    Hidden states, for an objective that reads them, are those of the work folder; what it lacks is computed.
    """
    method, _ = method_of(recipe)
    if method.objective is None:
        return Told()
    logits = tuple(teacher.logits for teacher in scores)
    return Told(logits, _hidden_states(recipe, teachers, corpus, progress) if method.reads_hidden else ())


def _hidden_states(
    recipe: Recipe, teachers: Sequence[Teacher], corpus: Corpus, progress: Progress
) -> tuple[HiddenStates, ...]:
    batch_tokens = recipe.batch_tokens or backend_of(recipe).batch_tokens
    stores = []
    with progress.step("reading hidden states", len(corpus) * len(teachers), "texts") as advance:
        for teacher in teachers:
            key = hidden_key(teacher, corpus)
            stores.append(HiddenStore(recipe.work_folder / "hidden" / f"{key.teacher}-{key.fingerprint[:12]}", key))
            store_hidden(teacher, stores[-1], corpus, advance, device=recipe.device, batch_tokens=batch_tokens)
    return tuple(store.read() for store in stores)


def objective(recipe: Recipe, labels: LabelSpace, student: Student, told: Told) -> LossFunction | Objective:
    """What the student is trained under: the method's loss, or its objective, made for these teachers and this student.

    Initial weights of an objective are the recipe's seed's alone.
    """
    method, settings = method_of(recipe)
    if method.objective is None:
        return loss_of(recipe)
    shapes = Shapes(
        columns=tuple(labels.columns.values()),
        teacher_widths=tuple(len(part[0]) for part in told.hidden),
        student_width=last_layer(student.model).in_features,
    )
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(recipe.seed)
        return method.objective(shapes, settings)


def loss_of(recipe: Recipe) -> LossFunction:
    """The loss of the recipe's method, with its parameters bound."""
    method, settings = method_of(recipe)
    return lambda logits, target, weight: method.loss(logits, target, weight, settings)


def training_settings(recipe: Recipe, *, static: bool = False) -> TrainingSettings:
    """The recipe's settings of the training loop.

    Args:
        recipe: of the build.
        static: for the static student of a cascade; the recipe's learning rate is then the encoder's and not heeded.
    """
    given = None if static else recipe.learning_rate
    usual = STATIC_LEARNING_RATE if static or is_static(recipe.student) else TrainingSettings.learning_rate
    return TrainingSettings(
        epochs=recipe.epochs,
        batch_size=recipe.batch_size,
        learning_rate=usual if given is None else given,
        warmup_ratio=recipe.warmup_ratio,
        weight_decay=recipe.weight_decay,
        seed=recipe.seed,
        device=recipe.device,
        report_to=recipe.report_to,
    )


def prepare(student: Student, lesson: Lesson, settings: TrainingSettings, folder: Path, *, resume: bool) -> None:
    """What comes before a fit: its folder is cleared, unless it is resumed, and the student's head is started.

    See :func:`amalgam_edge.training.head_start.start_head`.
    """
    if not resume:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    start_head(
        student.model,
        lesson.tokenized.dataset.select(lesson.texts.train)["input_ids"],
        lesson.supervision.take(lesson.texts.train),
        loss_of(lesson.recipe),
        pad_token_id=student.tokenizer.pad_token_id,
        device=settings.device,
    )


def distil(
    student: Student,
    lesson: Lesson,
    settings: TrainingSettings,
    folder: Path,
    advance: Advance,
    *,
    resume: bool = False,
) -> History:
    """Fit the student to the supervision of the corpus' training rows, its head first.

    See :func:`prepare` and :func:`amalgam_edge.training.fitting.fit`.
    """
    prepare(student, lesson, settings, folder, resume=resume)
    train, held_out = (
        SupervisedTexts(
            lesson.tokenized.dataset.select(rows)["input_ids"], lesson.supervision.take(rows), lesson.told.take(rows)
        )
        for rows in (lesson.texts.train, lesson.texts.held_out)
    )
    return fit(
        student.model,
        student.tokenizer,
        train,
        held_out,
        objective(lesson.recipe, lesson.labels, student, lesson.told),
        settings,
        folder=folder,
        advance=advance,
        resume=resume,
    )


def agreement_with_supervision(student: Student, texts: Texts, supervision: Supervision) -> float:
    """Share of held-out texts on which a student names the likeliest label of their supervision."""
    held_out = supervision.take(texts.held_out)
    return accuracy(held_out.target.argmax(axis=1), _held_out_logits(student, texts).argmax(axis=1))


def trimmed_variants(student: Student, lesson: Lesson, progress: Progress) -> list[Variant]:
    """A trained student without the tokens that the training texts do not use; not calibrated.

    Where held-out texts do not allow that, it is the student as it was. Under a budget the student as it was comes
    first in any case, and half of the labels that may change are left for quantization to change.
    """
    budget = budget_of(lesson.recipe)
    allowed = lesson.recipe.max_disagreement if budget is None else budget.limits["loss"] / 100 / 2
    trimmed = Variant(*trim_vocabulary(student, lesson.texts, lesson.tokenized, allowed, progress))
    return [trimmed] if budget is None or trimmed.vocabulary is None else [Variant(student), trimmed]


def calibrated(variant: Variant, lesson: Lesson) -> Variant:
    """The same with a temperature of its own."""
    calibration = calibrate_student(variant.student, lesson)
    return replace(variant, calibration=calibration)


def trim_vocabulary(
    student: Student, texts: Texts, tokenized: Tokenized, budget: float, progress: Progress
) -> tuple[Student, dict[str, Any] | None]:
    """The student without the tokens that the training texts do not use, and the manifest's account of it.

    Where held-out texts do not allow it, it is the student as it was, and None.
    """
    used = {token for ids in tokenized.dataset.select(texts.train)["input_ids"] for token in ids}
    held_out = texts.corpus.take(texts.held_out)
    trimmed = trim_through_gate(student.model, student.tokenizer, used, held_out, budget=budget, say=progress.say)
    if trimmed is None:
        progress.say("the whole vocabulary stays")
        return student, None
    account = {"n_tokens": trimmed.n_tokens, "n_before": trimmed.n_before, "fidelity": asdict(trimmed.fidelity)}
    return Student(trimmed.model, trimmed.tokenizer), account


def calibrate_student(student: Student, lesson: Lesson) -> Calibration:
    """Fit a student's temperature to the supervision of the held-out texts.

    Supervision that a method softens by a temperature of its own is taken as it is without it.
    """
    supervision = lesson.supervision
    method, settings = method_of(lesson.recipe)
    if "distillation_temperature" in method.parameters:
        unsoftened = replace(settings, distillation_temperature=1.0)
        supervision = method.supervise(Evidence(lesson.scores, lesson.labels), unsoftened)
    held_out = supervision.take(lesson.texts.held_out)
    return calibrate(_held_out_logits(student, lesson.texts), held_out.target, held_out.weight)


def _held_out_logits(student: Student, texts: Texts) -> np.ndarray:
    return predict_texts(
        TorchRunner(student.model, sites=(), device="cpu"),
        student.tokenizer,
        texts.corpus.take(texts.held_out),
        max_length=student.tokenizer.model_max_length,
    )


def tokenize(corpus: Corpus, tokenizer: PreTrainedTokenizerBase) -> Tokenized:
    """The corpus as token ids, cut to the tokenizer's ``model_max_length``."""

    def encode(batch: dict[str, list[str]]) -> dict[str, list[Any]]:
        encoded = tokenizer(batch[TEXT], truncation=True)
        return {
            "input_ids": encoded["input_ids"],
            "truncated": [bool(encoding.overflowing) for encoding in encoded.encodings],
        }

    dataset = corpus.dataset.map(encode, batched=True, remove_columns=corpus.dataset.column_names)
    return Tokenized(dataset.select_columns(["input_ids"]), int(np.sum(dataset.with_format("numpy")["truncated"][:])))
