"""The heads of a build: the labels of each, from its teachers, and what the recipe says of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from amalgam_edge.errors import AmalgamError
from amalgam_edge.heads import SIGMOID, SOFTMAX, THRESHOLD, Head
from amalgam_edge.labels import EVERY_TEACHER, LabelSpace, Renames, check_renames
from amalgam_edge.methods import METHODS, Method
from amalgam_edge.methods.taught_heads import TaughtHead, TaughtHeads
from amalgam_edge.models.checkpoints import heads_of
from amalgam_edge.models.teacher import Teacher
from amalgam_edge.recipe.reading import Thresholds, read_renames, read_thresholds
from amalgam_edge.recipe.sections import ExportSettings, TeacherSettings, TrainingSettings


def taught_heads(
    teachers: Sequence[Teacher], settings: TeacherSettings, training: TrainingSettings, export: ExportSettings
) -> TaughtHeads:
    """The heads that the recipe asks for, with the labels of their teachers.

    Args:
        teachers: The teachers, loaded.
        settings: Which of them teach which head, and how their labels are merged.
        training: The heads' weights.
        export: Thresholds.

    Raises:
        AmalgamError: The labels cannot be merged as asked, teachers of one head answer in different ways, or a
            threshold is of no label.
    """
    by_name = {teacher.name: teacher for teacher in teachers}
    renames = read_renames(settings.labels)
    check_renames({teacher.name: teacher.class_names for teacher in teachers}, renames)
    named = heads_of(settings)
    thresholds = read_thresholds(export.thresholds, [*named])
    taught = []
    for name, members in named.items():
        own = [by_name[member] for member in members]
        _require_one_activation(name, own, is_asked_for=settings.heads is not None)
        labels = _label_space(own, renames)
        head = Head(
            name=name,
            activation=own[0].activation,
            labels=labels.names,
            thresholds=_thresholds(name, labels.names, own[0], thresholds, str(export.thresholds)),
            abstain=_abstain(name, own[0], export),
        )
        taught.append(TaughtHead(head, labels, (training.head_weights or {}).get(name, 1.0)))
    return TaughtHeads(tuple(taught))


def require_heads(method: Method, heads: TaughtHeads) -> None:
    """Refuse a method that cannot train these heads.

    Raises:
        AmalgamError: It can train one softmax head only, and there are others.
    """
    if heads.heads.is_one_softmax or method.supervise_labels is not None:
        return
    others = ", ".join(name for name, other in METHODS.items() if other.supervise_labels is not None)
    raise AmalgamError(
        f"--method {method.name}: trains one head, of which one label holds; for several heads, or labels that do not "
        f"exclude each other, take {others}"
    )


def _require_one_activation(head: str, teachers: Sequence[Teacher], *, is_asked_for: bool) -> None:
    """Refuse a head of teachers of which some give one label and others any number."""
    single = [teacher.name for teacher in teachers if teacher.activation == SOFTMAX]
    multiple = [teacher.name for teacher in teachers if teacher.activation == SIGMOID]
    if single and multiple:
        where = f"--head {head}: " if is_asked_for and len(teachers) > 1 else ""
        raise AmalgamError(
            f"{where}teacher '{single[0]}' gives one label to a text (softmax) and '{multiple[0]}' any number "
            "(sigmoid), so they cannot share a head; give each its own with --heads each, or group them with --head "
            "NAME=TEACHER,…"
        )


def _label_space(teachers: Sequence[Teacher], renames: Renames) -> LabelSpace:
    """The union of the labels of a head's teachers; renames of other teachers are left out."""
    classes = {teacher.name: teacher.class_names for teacher in teachers}
    known = {name for names in classes.values() for name in names}
    everywhere = {old: new for old, new in renames.get(EVERY_TEACHER, {}).items() if old in known}
    own = {name: renames[name] for name in classes if name in renames}
    return LabelSpace.union(classes, {EVERY_TEACHER: everywhere, **own})


def _thresholds(
    head: str, labels: Sequence[str], teacher: Teacher, thresholds: Thresholds, source: str
) -> tuple[float, ...]:
    """The thresholds of a sigmoid head's labels; none of a softmax head.

    Raises:
        AmalgamError: A threshold is of a label that the head does not have, or the head has no use for any.
    """
    own: Mapping[str, float] = thresholds.get(head, {})
    if teacher.activation == SOFTMAX:
        if own:
            raise AmalgamError(
                f"{source}: head '{head}' gives its likeliest label and has no thresholds; see --abstain"
            )
        return ()
    unknown = next((label for label in own if label not in labels), None)
    if unknown is not None:
        raise AmalgamError(f"{source}: head '{head}' has no label '{unknown}'; it has {', '.join(labels)}")
    return tuple(own.get(label, THRESHOLD) for label in labels)


def _abstain(head: str, teacher: Teacher, export: ExportSettings) -> float:
    """The score below which a softmax head gives no label.

    Raises:
        AmalgamError: A sigmoid head has one by name: there thresholds say which labels hold.
    """
    if isinstance(export.abstain, dict):
        if teacher.activation == SIGMOID and head in export.abstain:
            raise AmalgamError(
                f"--abstain {head}=…: its labels hold from their thresholds on; set those (--thresholds)"
            )
        return export.abstain.get(head, 0.0)
    return export.abstain if teacher.activation == SOFTMAX else 0.0
