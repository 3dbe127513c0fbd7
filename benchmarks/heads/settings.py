"""Sets of teachers of which it is known whether they compete, for the test that tells. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from benchmarks.amalgamation.settings import LabelledCorpus, Plan, PlanInputs, TeacherPlan, make_plan
from benchmarks.heads.questions import Question, Row, find_questions, split
from examples.corpora import by_hash

MOST_TEXTS = 400  # that a teacher learns from
N_CORPUS = 400  # texts that the teachers of a setting are compared on


@dataclass(frozen=True)
class HeadTeacher:
    """What a teacher is fine-tuned on.

    Attributes:
        name: Its name in scores and tables.
        question: What it answers.
        rows: Texts with their answers, as cells of the question's column.
        architecture: One of ``architectures.ARCHITECTURES``.
    """

    name: str
    question: Question
    rows: tuple[tuple[str, str], ...]
    architecture: str = "bert"


@dataclass(frozen=True)
class TeacherSet:
    """Teachers, the texts that they are compared on, and whether they compete.

    Attributes:
        name: Its name in tables.
        competes: What is known of them; None where some compete and others do not.
        teachers: The teachers.
        texts: The unlabeled corpus.
    """

    name: str
    competes: bool | None
    teachers: tuple[HeadTeacher, ...]
    texts: tuple[str, ...]


def sample(texts: Sequence[str], n: int) -> tuple[str, ...]:
    """At most ``n`` texts, chosen by a hash of their own: labelled corpora are split by the hash of the texts."""
    return tuple(sorted(texts, key=lambda text: by_hash(f"sample {text}"))[:n])


def head_teacher(name: str, question: Question, rows: Sequence[tuple[str, str]], most: int = MOST_TEXTS) -> HeadTeacher:
    """A teacher that learns from at most ``most`` of the rows, chosen by hash."""
    answer_of = dict(rows)
    return HeadTeacher(name, question, tuple((text, answer_of[text]) for text in sample([*answer_of], most)))


def from_teacher_plan(teacher: TeacherPlan) -> HeadTeacher:
    """The teacher of a plan of ``benchmarks.amalgamation``."""
    made = head_teacher(teacher.name, Question("label", teacher.labels), teacher.rows)
    return replace(made, architecture=teacher.architecture)


def from_plan(name: str, plan: Plan) -> TeacherSet:
    """The teachers of a plan of ``benchmarks.amalgamation``: parts of one question, so they compete."""
    texts = sample([text for text, _ in plan.corpus], N_CORPUS)
    return TeacherSet(name, True, tuple(map(from_teacher_plan, plan.teachers)), texts)


def amalgamation_sets(
    load: Callable[[str], LabelledCorpus], settings: Sequence[tuple[str, str, str]]
) -> list[TeacherSet]:
    """Sets of the amalgamation benchmark: (corpus, setting, second corpus) each."""
    return [
        from_plan(f"{corpus}, {setting}", make_plan(setting, PlanInputs(load(corpus), load(other), 0)))
        for corpus, setting, other in settings
    ]


def clinc_domains(rows: Sequence[Row], n_teachers: int) -> TeacherSet:
    """Teachers of the intents of some domains of CLINC150 each."""
    parts = split(rows)
    domains = sorted({row["domain"] for row in rows})
    teachers = []
    for position in range(n_teachers):
        own = domains[position::n_teachers]
        learned = [(row["text"], row["intent"]) for row in parts.for_teachers if row["domain"] in own]
        question = Question("intent", tuple(sorted({intent for _, intent in learned})))
        teachers.append(head_teacher(f"teacher-{'abcde'[position]}", question, learned, 2 * MOST_TEXTS))
    texts = sample([row["text"] for row in parts.corpus], N_CORPUS)
    return TeacherSet(f"clinc150, {n_teachers} teachers of domains", True, tuple(teachers), texts)


def questions_of(
    rows: Sequence[Row], most: dict[str, int] | None = None
) -> tuple[dict[str, HeadTeacher], tuple[str, ...]]:
    """A teacher for each gold column, and the texts of the unlabeled corpus."""
    parts = split(rows)
    teachers = {
        question.name: head_teacher(
            question.name,
            question,
            [(row["text"], row[question.name]) for row in parts.for_teachers],
            (most or {}).get(question.name, MOST_TEXTS),
        )
        for question in find_questions(rows)
    }
    return teachers, sample([row["text"] for row in parts.corpus], N_CORPUS)


def independent_sets(corpus: str, rows: Sequence[Row], sizes: Sequence[int], **most: int) -> list[TeacherSet]:
    """All sets of so many teachers of different gold columns."""
    teachers, texts = questions_of(rows, most)
    return [
        TeacherSet(f"{corpus}, {' + '.join(chosen)}", False, tuple(teachers[name] for name in chosen), texts)
        for size in sizes
        for chosen in combinations(teachers, size)
    ]


def clinc_questions(rows: Sequence[Row]) -> list[Row]:
    """CLINC150 with what can be read off a text as further columns: whether it asks, and whether it is about me."""
    asks = re.compile(
        r"(what|how|who|where|when|why|which|is|are|do|does|did|can|could|will|would|should|am)\b.*", re.S
    )
    me = re.compile(r"\b(i|my|me|i'm|mine)\b")
    return [
        {
            **row,
            "form": "question" if asks.fullmatch(row["text"]) else "request",
            "person": "me" if me.search(row["text"]) else "nobody",
        }
        for row in rows
    ]


def verse_questions(texts: Sequence[str], labels: Sequence[str]) -> list[Row]:
    """Verses with their book, whether somebody speaks, whether somebody is addressed, and whether God is named."""
    speech, address, god = (
        re.compile(rf"\b({words})\b", re.I)
        for words in ("said|saith|saying|spake|answered", "thou|thee|thy|ye|you|your|thine", "god|lord|lord's")
    )
    return [
        {
            "text": text,
            "book": label,
            "speech": "speech" if speech.search(text) else "no speech",
            "address": "you" if address.search(text) else "others",
            "names": "God" if god.search(text) else "no god",
        }
        for text, label in zip(texts, labels, strict=True)
    ]
