"""The teachers that a bundle was built from, loaded again to answer the same texts. Needs the training extra."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from amalgam_edge.errors import AmalgamError
from amalgam_edge.evaluation.teacher_agreement import TaughtLabels, TeacherAnswers
from amalgam_edge.gold import GoldAnswers
from amalgam_edge.inference.predict import predict_texts
from amalgam_edge.inference.torch_runner import TorchRunner
from amalgam_edge.models.checkpoints import parse_teacher
from amalgam_edge.models.teacher import Teacher, load_teachers
from amalgam_edge.runtime import Bundle
from amalgam_edge.runtime.manifest_heads import BundleHead

_LONGEST_INPUT = 128  # tokens, of teachers of a bundle whose recipe does not say


@dataclass(frozen=True)
class BundleTeacher:
    """A teacher of a bundle, loaded again.

    Attributes:
        teacher: The teacher.
        labels: The labels that it has in its head.
        as_built: Whether it is the one that the bundle was built from, by its fingerprint.
    """

    teacher: Teacher
    labels: TaughtLabels
    as_built: bool


def load_bundle_teachers(bundle: Bundle, specs: Sequence[str]) -> list[BundleTeacher]:
    """Load teachers of a bundle.

    Args:
        bundle: The bundle.
        specs: ``NAME=PATH`` for each, by the names that the bundle has for them.

    Raises:
        AmalgamError: The bundle names no such teacher, it cannot be loaded, or it does not have the classes that the
            bundle was built from.
    """
    described = {teacher.name: teacher for teacher in bundle.manifest.teachers}
    for name, _ in map(parse_teacher, specs):
        if name not in described:
            raise AmalgamError(
                f"--teacher {name}: {bundle.source} names no such teacher; write NAME=PATH with the name of one that "
                f"it was built from: {', '.join(described)}"
            )
    dropout, max_length = (bundle.manifest.recipe.get(entry) for entry in ("dropout", "max_length"))
    teachers = load_teachers(
        specs,
        dropout=dropout if type(dropout) is float else None,  # it is among what the fingerprint is made from
        max_length=max_length if type(max_length) is int and max_length > 0 else _LONGEST_INPUT,
        needs_dropout=False,
    )
    return [
        BundleTeacher(teacher, _labels(bundle, teacher), teacher.fingerprint == described[teacher.name].fingerprint)
        for teacher in teachers
    ]


def ask(
    teacher: Teacher, labels: TaughtLabels, texts: Sequence[str], gold: GoldAnswers | None, device: str
) -> TeacherAnswers:
    """What a teacher answers to the texts that it is asked about.

    Args:
        teacher: The teacher.
        labels: The labels that it has in its head.
        texts: All texts.
        gold: The head's gold answers to them; None without any.
        device: Device to run the teacher on.
    """
    rows = labels.rows(gold, len(texts))
    logits = predict_texts(
        TorchRunner(teacher.model, teacher.sites, device=device),
        teacher.tokenizer,
        [texts[int(row)] for row in rows],
        max_length=teacher.max_length,
    )
    return TeacherAnswers.of_logits(labels, rows, logits, gold)


def _labels(bundle: Bundle, teacher: Teacher) -> TaughtLabels:
    """The labels of the bundle that the teacher's classes became.

    Raises:
        AmalgamError: A class became none, or the teacher answers in another way than its head.
    """
    described = next(own for own in bundle.manifest.teachers if own.name == teacher.name)
    of_head = next((head for head in bundle.manifest.heads if head.name == described.head), None)
    positions = _positions(of_head, teacher.name) if of_head else {}
    unknown = next((name for name in teacher.class_names if name not in positions), None)
    if of_head is None or unknown is not None:
        known = ", ".join(positions) or "none that the bundle names"
        raise AmalgamError(
            f"teacher '{teacher.name}': no label of {bundle.source} comes from its class '{unknown}'; known are {known}"
        )
    head = bundle.heads[described.head]
    if teacher.activation != head.activation:
        raise AmalgamError(
            f"teacher '{teacher.name}' answers by {teacher.activation} and head '{head.name}' by {head.activation}; "
            "name the teacher that the bundle was built from"
        )
    columns = tuple(positions[name] for name in teacher.class_names)
    return TaughtLabels(teacher.name, head, columns, is_only=len(bundle.manifest.teachers_of(head.name)) == 1)


def _positions(head: BundleHead, teacher: str) -> Mapping[str, int]:
    """Class of a teacher → position of the label that it became."""
    return {
        source.class_name: position
        for position, label in enumerate(head.labels)
        for source in label.sources
        if source.teacher == teacher
    }
