"""What is asked of one head of a finished bundle, and checks of it that need nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from amalgam_edge.building.checks import check_source, check_teachers, require, teacher_names
from amalgam_edge.errors import AmalgamError
from amalgam_edge.methods import METHODS, method_named
from amalgam_edge.models.checkpoints import heads_of
from amalgam_edge.recipe.new_head import HEAD_SETTINGS
from amalgam_edge.recipe.reading import read_renames, read_thresholds
from amalgam_edge.recipe.recipe import Recipe, recipe_options
from amalgam_edge.recipe.sections import CorpusSettings
from amalgam_edge.runtime.bundle import Bundle

Action = Literal["add", "replace", "drop"]

_MOST_HELD_OUT = 2**36  # as many texts as a corpus may have


@dataclass(frozen=True)
class HeadRequest:
    """What is done to which head.

    Attributes:
        action: Whether a head is added behind all others, replaced in its place, or dropped.
        head: Its name.
        recipe: How a new head is made; of a drop, the texts that models are measured on, if there are any.
    """

    action: Action
    head: str
    recipe: Recipe

    @property
    def has_texts(self) -> bool:
        """Whether there is a corpus to measure on."""
        return bool(self.recipe.corpus.source)

    def settings(self) -> dict[str, Any]:
        """The settings that a new head depends on, for the manifest; nothing of a drop."""
        if self.action == "drop":
            return {}
        values = self.recipe.as_dict()
        return {name: values[name] for name in HEAD_SETTINGS if recipe_options()[name].affects_result}


def request_head(bundle: Bundle, action: Action, head: str | None, settings: Mapping[str, Any]) -> HeadRequest:
    """Check what is asked of a head, as far as that shows without loading anything.

    Args:
        bundle: The bundle.
        action: What is to be done.
        head: The head; None for a new one that is called like its teacher.
        settings: Settings of a recipe.

    Raises:
        AmalgamError: A setting is missing, of no use here, or names something that is not there; the head cannot be
            changed as asked.
    """
    foreign = next((name for name in settings if name in recipe_options() and name not in HEAD_SETTINGS), None)
    if foreign is not None:
        raise AmalgamError(f"{foreign}: of no use here: the bundle's encoder stays as it is; leave it out")
    _require_place(bundle, settings)
    if action == "drop":
        return _request_drop(bundle, str(head), settings)
    recipe = _recipe(bundle, settings)
    require({"teacher": recipe.teachers.sources, "corpus": recipe.corpus.source})
    check_teachers(recipe.teachers)
    teachers = teacher_names(recipe.teachers)
    name = head or (teachers[0] if len(teachers) == 1 else "")
    if not name:
        raise AmalgamError(f"{', '.join(teachers)} teach one head together; name it with --name")
    recipe = recipe.replace(heads={name: teachers})
    heads_of(recipe.teachers)
    _require_name(bundle, action, name)
    _require_new_teachers(bundle, action, name, teachers)
    _require_method(recipe.method.name)
    check_source(recipe.corpus.source)
    read_renames(recipe.teachers.labels)
    read_thresholds(recipe.export.thresholds, [name])
    _require_float_model(bundle)
    return HeadRequest(action, name, recipe)


def held_out_texts(bundle: Bundle) -> int:
    """How many texts the build held out; of the same corpus the same ones are held out again."""
    stated = bundle.manifest.recipe.get("held_out")
    if isinstance(stated, int) and not isinstance(stated, bool) and 0 < stated <= _MOST_HELD_OUT:
        return stated
    return CorpusSettings().held_out


def _recipe(bundle: Bundle, settings: Mapping[str, Any]) -> Recipe:
    """The settings, with those of the bundle where they were not given."""
    own = {"held_out": held_out_texts(bundle), "max_disagreement": bundle.manifest.gate.max_disagreement}
    return Recipe(**{"output": str(bundle.folder), **own, **settings})


def _request_drop(bundle: Bundle, head: str, settings: Mapping[str, Any]) -> HeadRequest:
    bundle.heads[head]  # refuses a name that is not there
    if len(bundle.heads) == 1:
        raise AmalgamError(f"{bundle.source}: '{head}' is its only head; replace it instead (heads replace)")
    recipe = _recipe(bundle, settings)
    if recipe.corpus.source:
        check_source(recipe.corpus.source)
    return HeadRequest("drop", head, recipe)


def _require_place(bundle: Bundle, settings: Mapping[str, Any]) -> None:
    if bundle.hub and not settings.get("output"):
        raise AmalgamError(
            f"{bundle.source}: a bundle of the Hub is not replaced; name a folder for the new one (--output)"
        )


def _require_name(bundle: Bundle, action: Action, name: str) -> None:
    """Refuse to add a head that is there, and to replace one that is not."""
    if action == "replace":
        bundle.heads[name]
    elif name in bundle.heads.names:
        raise AmalgamError(
            f"{bundle.source}: head '{name}' is there already; replace it (amalgam-edge heads replace), or give the "
            "new one another name (--name)"
        )


def _require_new_teachers(bundle: Bundle, action: Action, name: str, teachers: Sequence[str]) -> None:
    """Refuse teachers that are called like those of other heads."""
    others = {teacher.name: teacher.head for teacher in bundle.manifest.teachers}
    if action == "replace":
        others = {teacher: head for teacher, head in others.items() if head != name}
    taken = next((teacher for teacher in teachers if teacher in others), None)
    if taken is not None:
        raise AmalgamError(
            f"a teacher '{taken}' taught head '{others[taken]}'; call the new one otherwise with --teacher NAME=PATH"
        )


def _require_method(name: str) -> None:
    """Refuse a method that trains more than the loss of a last layer."""
    if method_named(name).objective is not None:
        others = ", ".join(other for other, method in METHODS.items() if method.objective is None)
        raise AmalgamError(f"--method {name}: trains the encoder too, which stays as it is here; take {others}")


def _require_float_model(bundle: Bundle) -> None:
    if "fp32" not in bundle.precisions or not bundle.has(bundle.model_name("fp32")):
        there = ", ".join(name for name in bundle.available_precisions() if name != "fp32") or "none"
        raise AmalgamError(
            f"{bundle.source}: holds no float model to fit a head on (models: {there}); build it again, or copy it "
            "again with fp32"
        )
