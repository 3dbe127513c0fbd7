"""The inputs of a build: texts, teachers, students before training, tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from amalgam_edge.building.data import BuildTexts, Models, Student, TokenizedCorpus
from amalgam_edge.building.heads import require_heads, taught_heads
from amalgam_edge.corpus import TEXT, Corpus, read_corpus
from amalgam_edge.errors import AmalgamError
from amalgam_edge.gold import LABEL_COLUMN, GoldAnswers, columns_of, gold_answers, label_columns
from amalgam_edge.heads import Heads
from amalgam_edge.methods import method_named
from amalgam_edge.models.checkpoints import encoder_of, heads_of, parse_teacher, resolve_student
from amalgam_edge.models.static_student import build_static_student
from amalgam_edge.models.student import build_student, n_layers
from amalgam_edge.models.teacher import Teacher, load_all
from amalgam_edge.progress import Say
from amalgam_edge.recipe.sections import (
    CorpusSettings,
    EvaluationSettings,
    ExportSettings,
    HintSettings,
    MethodSettings,
    StudentSettings,
    TeacherSettings,
    TrainingSettings,
)
from amalgam_edge.runtime.manifest import STATIC
from amalgam_edge.scoring.scores import TeacherScores
from amalgam_edge.scoring.summary import scored_by_all
from amalgam_edge.tables.columns import MissingColumnError


def read_texts(
    corpus_settings: CorpusSettings,
    evaluation_settings: EvaluationSettings,
    teacher_settings: TeacherSettings,
    hint_settings: HintSettings,
) -> BuildTexts:
    """Read the corpus, split it, and read the labelled texts and those of known labels.

    Raises:
        AmalgamError: Either cannot be read, or the corpus is too small to hold any of it out.
    """
    source = corpus_settings.source
    corpus = read_corpus(
        source,
        text_column=corpus_settings.text_column,
        label_columns=[hint_settings.owner_column] if hint_settings.owner_column else [],
        split=corpus_settings.split,
    )
    if len(corpus) < 2:
        raise AmalgamError(f"{source}: one text is too few; at least two are needed, and hundreds are wise")
    train, held_out = corpus.split(corpus_settings.held_out)
    labelled = None
    if evaluation_settings.source:
        labelled = _read_labelled(evaluation_settings.source, evaluation_settings, teacher_settings)
    known = None
    if hint_settings.known_labels:
        known = _read_known(hint_settings.known_labels, corpus_settings, teacher_settings)
    return BuildTexts(corpus, train, held_out, labelled, known)


def _read_known(source: str, settings: CorpusSettings, teachers: TeacherSettings) -> Corpus:
    """The texts of known labels. Of several heads some columns may be lacking, but not all."""
    columns = columns_of(label_columns([*heads_of(teachers)], [LABEL_COLUMN]))
    known = read_corpus(
        source,
        text_column=settings.text_column,
        label_columns=columns,
        may_lack_labels=len(columns) > 1,
        split=settings.split,
    )
    if not any(known.has_labels(column) for column in columns):
        raise AmalgamError(f"{source}: no column of labels; one is called as its head: {', '.join(columns)}")
    return known


def _read_labelled(source: str, settings: EvaluationSettings, teachers: TeacherSettings) -> Corpus:
    """The labelled texts. Gold labels by teacher, where nobody spoke of heads, say what was forgotten."""
    try:
        return read_corpus(
            source,
            text_column=settings.text_column,
            label_columns=columns_of(label_columns_of_teachers(teachers, settings)),
            split=settings.split,
            drop_duplicates=False,
        )
    except MissingColumnError as error:
        names = [parse_teacher(spec)[0] for spec in teachers.sources]
        by_teacher = {*names} & {*error.columns, *(entry.partition("=")[0] for entry in settings.label_column)}
        if teachers.heads is not None or len(names) < 2 or not by_teacher:
            raise
        raise AmalgamError(
            f"{error}; gold labels by teacher ({', '.join(sorted(by_teacher))}) are for heads: add --heads each if "
            "teachers answer different questions"
        ) from error


def load_models(
    teacher_settings: TeacherSettings,
    student_settings: StudentSettings,
    method_settings: MethodSettings,
    training_settings: TrainingSettings,
    export_settings: ExportSettings,
    evaluation_settings: EvaluationSettings,
    texts: BuildTexts,
    say: Say,
) -> Models:
    """Load the teachers, merge the labels of each head, make a student for each number of layers, tokenize the corpus.

    Raises:
        AmalgamError: A model cannot be loaded, heads do not fit their teachers, or a true label is none of a head's.
    """
    teachers = load_all(teacher_settings)
    heads = taught_heads(teachers, teacher_settings, training_settings, export_settings)
    require_heads(method_named(method_settings.name), heads)
    students = [
        new_student(student_settings, teachers, heads.heads, layers) for layers in student_settings.layer_counts
    ]
    gold = _gold(heads.heads, texts.labelled, evaluation_settings) if texts.labelled else {}
    tokenizer = students[0].tokenizer
    tokenized = tokenize(texts.corpus, tokenizer)
    _describe_corpus(texts.corpus, tokenized.n_truncated, tokenizer.model_max_length, say)
    for taught in heads:
        for warning in taught.labels.warnings:
            say(f"warning: {warning}")
    return Models(teachers, heads, students, gold, tokenized)


def label_columns_of_teachers(teachers: TeacherSettings, evaluation: EvaluationSettings) -> dict[str, str]:
    """Head → the column of its gold labels; known before the teachers are loaded.

    Raises:
        AmalgamError: A head is not there or named twice, or a column is of no head.
    """
    return label_columns([*heads_of(teachers)], evaluation.label_column)


def _gold(heads: Heads, labelled: Corpus, settings: EvaluationSettings) -> dict[str, GoldAnswers]:
    """The gold answers of the heads that have a column of them."""
    named = label_columns(heads.names, settings.label_column)
    return {
        name: gold_answers(heads[name], labelled.labels(column), may_lack=len(heads) > 1)
        for name, column in named.items()
    }


def new_student(settings: StudentSettings, teachers: Sequence[Teacher], heads: Heads, layers: int | None) -> Student:
    """A student before any training; equal settings give the same weights.

    Args:
        settings: The student's settings.
        teachers: Teachers, whose encoder the student may start from.
        heads: The heads that it answers with.
        layers: Number of layers to keep; None for all, and for a static student.

    Raises:
        AmalgamError: The encoder cannot be loaded, or has fewer layers.
    """
    checkpoint = student_checkpoint(settings, teachers)
    shared = {"max_length": settings.max_length, "seed": settings.seed}
    if settings.is_static:
        made = build_static_student(
            checkpoint, heads.labels, width=settings.static_width, device=settings.device, **shared
        )
    else:
        made = build_student(checkpoint, heads.labels, layers=layers, **shared)
    made[0].config.problem_type = heads.problem_type
    return Student(*made)


def student_checkpoint(settings: StudentSettings, teachers: Sequence[Teacher]) -> str:
    """Folder or Hub name of the encoder that the student starts from.

    Raises:
        AmalgamError: It is that of a teacher who is not there.
    """
    encoder = encoder_of(settings.encoder, teachers[0].name) if settings.is_static else settings.encoder
    return resolve_student(encoder, {teacher.name: teacher.source for teacher in teachers})


def layers_of(student: Student) -> int | None:
    """Number of layers of a student; None for a static one."""
    config = student.model.config
    return None if config.model_type == STATIC else n_layers(config)


def tokenize(corpus: Corpus, tokenizer: PreTrainedTokenizerBase) -> TokenizedCorpus:
    """The corpus as token ids, cut to the tokenizer's ``model_max_length``."""

    def encode(batch: dict[str, list[str]]) -> dict[str, list[Any]]:
        encoded = tokenizer(batch[TEXT], truncation=True)
        return {
            "input_ids": encoded["input_ids"],
            "truncated": [bool(encoding.overflowing) for encoding in encoded.encodings],
        }

    dataset = corpus.dataset.map(encode, batched=True, remove_columns=corpus.dataset.column_names)
    n_truncated = int(np.sum(dataset.with_format("numpy")["truncated"][:]))
    return TokenizedCorpus(dataset.select_columns(["input_ids"]), n_truncated)


def drop_unscored(
    texts: BuildTexts,
    tokenized: TokenizedCorpus,
    scores: Sequence[TeacherScores],
    held_out: int,
    work_folder: Path,
    say: Say,
) -> tuple[BuildTexts, TokenizedCorpus, list[TeacherScores]]:
    """Leave out the texts that a teacher could not score, and say how many these are.

    Args:
        texts: The texts of the build.
        tokenized: The corpus as token ids.
        scores: Scores of each teacher.
        held_out: Number of texts to hold out of those that are left.
        work_folder: Folder of the scores, named in messages.
        say: Shows a line.

    Raises:
        AmalgamError: Fewer than two texts are left.
    """
    rows = rows_with_scores(scores, work_folder, say)
    if len(rows) == len(texts.corpus):
        return texts, tokenized, list(scores)
    dataset = tokenized.dataset.select(rows)
    remaining = take_texts(texts, rows, held_out)
    return remaining, replace(tokenized, dataset=dataset), [teacher.take(rows) for teacher in scores]


def rows_with_scores(scores: Sequence[TeacherScores], work_folder: Path, say: Say) -> np.ndarray:
    """The rows of the texts that all teachers could score; says how many are left out.

    Raises:
        AmalgamError: There are fewer than two.
    """
    rows = scored_by_all(scores)
    n_texts = len(scores[0])
    n_failed = n_texts - len(rows)
    if n_failed == 0:
        return rows
    by_teacher = ", ".join(f"{teacher.teacher} {np.sum(~teacher.scored)}" for teacher in scores)
    message = f"{n_failed} of {n_texts} texts could not be scored by every teacher ({by_teacher})"
    where = f"the failures folders in {work_folder / 'scores'} tell why"
    if len(rows) < 2:
        raise AmalgamError(f"{message}; at least two are needed: {where}")
    say(f"{message} and are left out; {where}")
    return rows


def take_texts(texts: BuildTexts, rows: np.ndarray, held_out: int) -> BuildTexts:
    """The texts of some rows of the corpus, of which as many are held out anew."""
    corpus = texts.corpus.select(rows)
    train, kept_out = corpus.split(held_out)
    return replace(texts, corpus=corpus, train=train, held_out=kept_out, n_failed=len(texts.corpus) - len(rows))


def _describe_corpus(corpus: Corpus, n_truncated: int, max_length: int, say: Say) -> None:
    left_out = f"{corpus.n_duplicate} duplicates and {corpus.n_blank} blank texts left out"
    cut = f"; {n_truncated} longer than {max_length} tokens are cut" if n_truncated else ""
    say(f"corpus: {len(corpus)} texts ({left_out}){cut}")
