"""The label space: the union of several teachers' label sets."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from amalgam_edge.errors import AmalgamError

EVERY_TEACHER = "*"
_GENERIC_NAME = re.compile(r"(LABEL_)?\d+")

Renames = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class LabelSpace:
    """The ordered union of the teachers' labels.

    Labels are in the order in which the teachers first name them. Classes of two teachers with the same name are the
    same label. Generic names (``LABEL_3``, ``3``) mean nothing outside their teacher, so the teacher's name is put in
    front of them, and they stay different labels.

    Attributes:
        names: The names of all labels, ``(n_labels,)``.
        columns: For each teacher, the position of each of its classes in ``names``, ``(n_classes,)``.
        original_names: For each teacher, the original names of its classes, ``(n_classes,)``.
        warnings: Warnings for the user about how names were merged, one line each.
    """

    names: tuple[str, ...]
    columns: Mapping[str, tuple[int, ...]]
    original_names: Mapping[str, tuple[str, ...]]
    warnings: tuple[str, ...] = field(default=(), compare=False)

    @classmethod
    def union(cls, teachers: Mapping[str, Sequence[str]], renames: Renames | None = None) -> LabelSpace:
        """Merge the classes of all teachers.

        Args:
            teachers: For each teacher, its class names in the order of its logits; at least one teacher.
            renames: For each teacher, {class name: name in the label space}. The teacher ``*`` stands for all; a
                rename for one teacher takes precedence.

        Raises:
            AmalgamError: There is no teacher, a rename names an unknown teacher or class, or two classes of one teacher
                would become the same label.
        """
        if not teachers:
            raise AmalgamError("no teacher given: name at least one with --teacher PATH")
        renames = renames or {}
        check_renames(teachers, renames)
        index: dict[str, int] = {}
        columns: dict[str, tuple[int, ...]] = {}
        generic: list[str] = []
        for teacher, classes in teachers.items():
            renamed = {**renames.get(EVERY_TEACHER, {}), **renames.get(teacher, {})}
            names = [renamed.get(c, f"{teacher}/{c}" if _GENERIC_NAME.fullmatch(c) else c) for c in classes]
            if any(c not in renamed and _GENERIC_NAME.fullmatch(c) for c in classes):
                generic.append(teacher)
            repeated = next((name for name in names if names.count(name) > 1), None)
            if repeated is not None:
                raise AmalgamError(f"two classes of teacher '{teacher}' are both called '{repeated}': rename one")
            columns[teacher] = tuple(index.setdefault(name, len(index)) for name in names)
        return cls(
            names=tuple(index),
            columns=columns,
            original_names={teacher: tuple(classes) for teacher, classes in teachers.items()},
            warnings=_warnings(tuple(index), generic),
        )

    def __len__(self) -> int:
        return len(self.names)

    @property
    def teachers(self) -> tuple[str, ...]:
        """The names of the teachers, in the order given."""
        return tuple(self.columns)

    @property
    def knowledge(self) -> np.ndarray:
        """1 if a teacher has the label as a class, else 0, ``(n_labels, n_teachers)`` of float64."""
        positions = np.arange(len(self))
        return np.stack([np.isin(positions, columns) for columns in self.columns.values()], axis=1).astype(float)

    @property
    def groups(self) -> np.ndarray:
        """The group of each label, ``(n_labels,)`` of int. Labels of a group are known by the same teachers."""
        groups: np.ndarray = np.unique(self.knowledge, axis=0, return_inverse=True)[1]
        return groups.reshape(-1)

    def pad(self, teacher: str, values: np.ndarray) -> np.ndarray:
        """A teacher's values in the columns of its labels, and 0 elsewhere, ``(n_texts, n_labels)``.

        Args:
            teacher: The name of the teacher.
            values: One value per text and class, ``(n_texts, n_classes)``.
        """
        padded = np.zeros((values.shape[0], len(self)), dtype=values.dtype)
        padded[:, list(self.columns[teacher])] = values
        return padded

    def encode(self, labels: Sequence[str]) -> np.ndarray:
        """The position of each label in ``names``, ``(n_texts,)`` of int64.

        Raises:
            AmalgamError: A label is none of ``names``.
        """
        return encode_names(self.names, labels)

    def sources(self) -> dict[str, list[dict[str, str]]]:
        """For each label, the classes that it came from, as [{"teacher": …, "class": …}]."""
        sources: dict[str, list[dict[str, str]]] = {name: [] for name in self.names}
        for teacher, columns in self.columns.items():
            for column, original_name in zip(columns, self.original_names[teacher], strict=True):
                sources[self.names[column]].append({"teacher": teacher, "class": original_name})
        return sources


def encode_names(names: Sequence[str], labels: Sequence[str], where: str = "") -> np.ndarray:
    """The position of each label among ``names``, ``(n_texts,)`` of int64.

    Args:
        names: The names that there are.
        labels: The labels of texts.
        where: What messages begin with.

    Raises:
        AmalgamError: A label is none of ``names``.
    """
    index = {name: position for position, name in enumerate(names)}
    unknown = sorted({str(label) for label in labels if label not in index})
    if unknown:
        listed = ", ".join(map(repr, unknown[:5])) + (" …" if len(unknown) > 5 else "")
        raise AmalgamError(
            f"{where}{len(unknown)} label name(s) that no teacher knows: {listed}; known are {', '.join(names)} "
            "(name the teachers' classes alike with --labels, or take those rows out)"
        )
    return np.array([index[label] for label in labels], dtype=np.int64)


def check_renames(teachers: Mapping[str, Sequence[str]], renames: Renames) -> None:
    """Refuse renames of teachers and classes that are not there, and empty names.

    Raises:
        AmalgamError: There is such a rename.
    """
    for teacher, names in renames.items():
        if teacher != EVERY_TEACHER and teacher not in teachers:
            raise AmalgamError(f"labels file names teacher '{teacher}', but the teachers are {', '.join(teachers)}")
        known = {c for t, classes in teachers.items() if teacher in (t, EVERY_TEACHER) for c in classes}
        for name, new in names.items():
            if not new.strip():
                raise AmalgamError(f"labels file renames '{name}' of teacher '{teacher}' to nothing")
            if name not in known:
                raise AmalgamError(f"labels file renames '{name}' of teacher '{teacher}', which has no such class")


def _warnings(names: tuple[str, ...], generic: list[str]) -> tuple[str, ...]:
    warnings = [
        f"teacher '{teacher}' has generic label names; they are kept apart as '{teacher}/…' (name them with --labels)"
        for teacher in generic
    ]
    spellings: dict[str, str] = {}
    for name in names:
        twin = spellings.setdefault(name.casefold().strip(), name)
        if twin != name:
            warnings.append(
                f"labels '{twin}' and '{name}' differ only in spelling and stay apart (merge with --labels)"
            )
    return tuple(warnings)
