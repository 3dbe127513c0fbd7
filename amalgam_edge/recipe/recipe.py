"""Everything that one build needs, in sections, validated and frozen."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from amalgam_edge.errors import AmalgamError, MissingExtraError
from amalgam_edge.recipe.options import Option, options_of
from amalgam_edge.recipe.sections import (
    CascadeSettings,
    ComputeSettings,
    CorpusSettings,
    EvaluationSettings,
    ExportSettings,
    HintSettings,
    MethodSettings,
    OutputSettings,
    ScoringSettings,
    StudentSettings,
    TeacherSettings,
    TrainingSettings,
)
from amalgam_edge.storage.fingerprints import sha256_of_mapping

if TYPE_CHECKING:
    from pydantic import TypeAdapter

    from amalgam_edge.recipe.fields import RecipeFields

SECTIONS: dict[str, type] = {
    "teachers": TeacherSettings,
    "corpus": CorpusSettings,
    "scoring": ScoringSettings,
    "compute": ComputeSettings,
    "method": MethodSettings,
    "hints": HintSettings,
    "student": StudentSettings,
    "cascade": CascadeSettings,
    "training": TrainingSettings,
    "export": ExportSettings,
    "evaluation": EvaluationSettings,
    "output": OutputSettings,
}


@dataclass(frozen=True, init=False)
class Recipe:
    """One build. Keyword arguments are named as in a recipe's YAML and on the command line.

    >>> recipe = Recipe(teachers=["runs/teacher-a", "runs/teacher-b"], corpus="texts.jsonl", passes=20)
    >>> recipe.scoring.passes, recipe.training.epochs
    (20, 5)

    Raises:
        AmalgamError: A setting that does not exist, or a value out of its range.

    Attributes:
        teachers: The teachers, and how their labels are merged.
        corpus: The unlabeled texts.
        scoring: What scores depend on.
        compute: Where teachers run.
        method: How scores become supervision.
        hints: What is known of some of the texts.
        student: The model that is trained.
        cascade: The static student in front of the encoder.
        training: How the student is trained.
        export: What ships, and how good it must be.
        evaluation: Labelled texts to measure on.
        output: Where results go.
    """

    teachers: TeacherSettings
    corpus: CorpusSettings
    scoring: ScoringSettings
    compute: ComputeSettings
    method: MethodSettings
    hints: HintSettings
    student: StudentSettings
    cascade: CascadeSettings
    training: TrainingSettings
    export: ExportSettings
    evaluation: EvaluationSettings
    output: OutputSettings

    def __init__(self, **fields: Unpack[RecipeFields]) -> None:
        values = {name: _normalised(name, value) for name, value in fields.items()}
        for name in values:
            _require_known(name)
        for section in SECTIONS:
            object.__setattr__(self, section, _validated(section, values))

    def replace(self, **fields: Unpack[RecipeFields]) -> Recipe:
        """The same recipe with some settings changed."""
        return Recipe(**{**self.as_dict(), **fields})  # type: ignore[typeddict-item]

    def as_dict(self) -> dict[str, Any]:
        """Every setting by its name, as plain JSON values: lists in the place of tuples."""
        return {
            option.name: _plain(getattr(getattr(self, option.section), option.attribute))
            for option in recipe_options().values()
        }

    @property
    def work_folder(self) -> Path:
        """Folder of scores and checkpoints."""
        return Path(self.output.work) if self.output.work else Path(f"{self.output.folder.rstrip('/')}.work")

    def fingerprint(self) -> str:
        """SHA-256 of all settings that the result may depend on.

        The cap on passes counts only where the number of passes is adaptive. Recipes that earlier versions knew have
        the fingerprints that they had.
        """
        values = self.as_dict()
        for option in recipe_options().values():
            is_unset = option.is_new and values[option.name] == option.default
            if not option.affects_result or is_unset or (option.name == "max_passes" and self.scoring.passes != "auto"):
                del values[option.name]
        if len(values["label_column"]) == 1:
            values["label_column"] = values["label_column"][0]
        return sha256_of_mapping(values)

    def to_yaml(self) -> str:
        """The recipe with every default written out, a comment above each section."""
        import yaml

        values, parts = self.as_dict(), []
        for section, settings in SECTIONS.items():
            names = [option.name for option in recipe_options().values() if option.section == section]
            content = yaml.safe_dump({name: values[name] for name in names}, sort_keys=False, allow_unicode=True)
            parts.append(f"# {settings.__doc__}\n{content}")
        return "\n".join(parts)


@cache
def recipe_options() -> dict[str, Option]:
    """Every setting of a recipe by its name; one that several sections share belongs to the first of them."""
    options: dict[str, Option] = {}
    for section, settings in SECTIONS.items():
        for option in options_of(section, settings):
            options.setdefault(option.name, option)
    return options


def _require_known(name: str) -> None:
    if name in recipe_options():
        return
    similar = difflib.get_close_matches(name, recipe_options(), n=1)
    hint = f"; did you mean {similar[0]}?" if similar else ""
    raise InvalidSettingError(name, f"there is no such setting{hint}")


def _normalised(name: str, value: Any) -> Any:
    """Spellings that people use: a path object for its text, one teacher or layers with commas for a list."""
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if name in ("teachers", "label_column") and isinstance(value, str):
        return [value]
    if name == "heads" and isinstance(value, Mapping):
        return {head: [teachers] if isinstance(teachers, str) else teachers for head, teachers in value.items()}
    if name == "teachers" and isinstance(value, (list, tuple)):
        return [os.fspath(teacher) if isinstance(teacher, os.PathLike) else teacher for teacher in value]
    if name == "student_layers":
        value = value.split(",") if isinstance(value, str) else value
        single = isinstance(value, (list, tuple)) and len(value) == 1 and not isinstance(value[0], (list, tuple))
        return value[0] if single else value
    return value


def _validated(section: str, values: Mapping[str, Any]) -> Any:
    """A section with the given values, converted and checked."""
    settings = SECTIONS[section]
    names = {option.name: option.attribute for option in options_of(section, settings) if option.name in values}
    if not names:
        return settings()
    try:
        from pydantic import ValidationError
    except ModuleNotFoundError as error:
        raise MissingExtraError("a recipe", "train", error) from error
    try:
        return _adapter(settings).validate_python({attribute: values[name] for name, attribute in names.items()})
    except ValidationError as error:
        attributes = {attribute: name for name, attribute in names.items()}
        field = error.errors()[0]["loc"][0]
        # Where a setting may be of several types, the error with the longest path says the most.
        errors = [one for one in error.errors() if one["loc"][0] == field]
        clearest = max(errors, key=lambda one: len(one["loc"]))
        raise InvalidSettingError(attributes[str(field)], f"{clearest['msg']} (got {clearest['input']!r})") from error


class InvalidSettingError(AmalgamError):
    """A setting that does not exist, or whose value is of the wrong type or out of range.

    Args:
        name: Name of the setting.
        reason: What is wrong with it.
    """

    def __init__(self, name: str, reason: str) -> None:
        self.name = name
        super().__init__(f"{name}: {reason}")


@cache
def _adapter(settings: type) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(settings)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    return list(value) if isinstance(value, tuple) else value
