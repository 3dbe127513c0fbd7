"""Recipes and label names, read from YAML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amalgam_edge.errors import AmalgamError, MissingExtraError
from amalgam_edge.recipe.recipe import InvalidSettingError, Recipe

_MOST_BYTES = 2**20
_DEEPEST = 20  # lists and mappings within each other

Thresholds = Mapping[str, Mapping[str, float]]

if TYPE_CHECKING:
    from amalgam_edge.labels import Renames


def read_recipe(path: str | Path | None, overrides: Mapping[str, Any]) -> Recipe:
    """Read a recipe; ``overrides`` (setting → value) replace what the file says.

    Args:
        path: YAML file; None for the defaults.
        overrides: Settings of the command line or of keyword arguments.

    Raises:
        AmalgamError: The file is missing, is no YAML mapping, or has a setting that is unknown or out of range.
    """
    content = read_yaml_mapping(path, "recipe") if path else {}
    try:
        return Recipe(**{str(name): value for name, value in {**content, **overrides}.items()})
    except InvalidSettingError as error:
        where = f"{path}: " if path and error.name not in overrides else ""
        raise AmalgamError(f"{where}{error}") from error


def read_renames(path: str | Path | None) -> Renames:
    """Read a labels file: teacher (or ``*`` for all) → {its class: name in the merged labels}.

    Raises:
        AmalgamError: The file is missing or of another form.
    """
    if path is None:
        return {}
    content = read_yaml_mapping(path, "labels file")
    for teacher, names in content.items():
        if not isinstance(names, dict):
            raise AmalgamError(f"{path}: under '{teacher}' a mapping is expected, each class to its name in the union")
        for word in (teacher, *names, *names.values()):
            if isinstance(word, bool) or not isinstance(word, (str, int)):
                raise AmalgamError(f"{path}: under '{teacher}', {word!r} is no name; put it in quotes")
    return {str(t): {str(old): str(new) for old, new in names.items()} for t, names in content.items()}


def read_thresholds(path: str | Path | None, heads: Sequence[str]) -> Thresholds:
    """Read a file of thresholds: head → {label: threshold}; of one head {label: threshold} will do.

    Args:
        path: YAML file; None for no thresholds.
        heads: Names of the heads.

    Raises:
        AmalgamError: The file is missing or of another form, or names a head that is not there.
    """
    if path is None:
        return {}
    content = read_yaml_mapping(path, "thresholds file")
    if len(heads) == 1 and not all(isinstance(value, dict) for value in content.values()):
        content = {heads[0]: content}
    for head, thresholds in content.items():
        if head not in heads:
            raise AmalgamError(f"{path}: no head '{head}'; there are {', '.join(heads)}")
        if not isinstance(thresholds, dict):
            raise AmalgamError(f"{path}: under '{head}' a mapping is expected, each label to its threshold")
        for label, value in thresholds.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
                raise AmalgamError(
                    f"{path}: the threshold of '{label}' is a probability between 0 and 1, not {value!r}"
                )
    return {str(head): {str(label): float(t) for label, t in own.items()} for head, own in content.items()}


def read_yaml_mapping(path: str | Path, what: str) -> dict[Any, Any]:
    """Read a YAML mapping, safely.

    Args:
        path: The file.
        what: What the file is, for error messages.

    Raises:
        AmalgamError: The file is missing or holds something else.
    """
    try:
        import yaml
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"reading a {what}", "train", error) from error
    try:
        with Path(path).open("rb") as file:
            text = file.read(_MOST_BYTES + 1)
        if len(text) > _MOST_BYTES:
            raise AmalgamError(f"{path}: longer than {_MOST_BYTES} bytes, which no {what} is")
        depth = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                raise AmalgamError(
                    f"{path}: a {what} without aliases (*name) is expected; write out what they stand for"
                )
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEEPEST:
                raise AmalgamError(f"{path}: nested more deeply than a {what} is")
        content = yaml.safe_load(text)
    except OSError as error:
        raise AmalgamError(f"{path}: no such {what}") from error
    except AmalgamError:
        raise
    except Exception as error:  # over tags that do not fit, PyYAML raises errors of any kind
        raise AmalgamError(f"{path}: not a YAML {what} ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict):
        raise AmalgamError(f"{path}: a {what} is a YAML mapping, this is a {type(content).__name__}")
    return content
