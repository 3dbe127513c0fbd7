"""Manifests of earlier formats, brought to the newest: what they do not say is made explicit.

What is of no form that an earlier format had stays as it is, for the reader to refuse.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from amalgam_edge.heads import ONLY_HEAD, SOFTMAX

_BUNDLE, _TEACHER = "bundle", "teacher"  # what manifests of the first two formats say that a folder is


def migrated(document: Mapping[str, Any]) -> dict[str, Any]:
    """A document of any format that can be read, in the newest."""
    current = dict(document)
    if current["format_version"] == 1:
        current = migrate_1(current)
    return migrate_2(current) if current["format_version"] == 2 else current


def migrate_2(document: Mapping[str, Any]) -> dict[str, Any]:
    """A document of format 2 in format 3, which knows of several heads: it has one, of which one label holds.

    What is of no form that format 2 had stays as it is, for the reader to refuse.
    """
    if document.get("kind") == _TEACHER:
        return {**document, "format_version": 3, "activation": SOFTMAX}
    rest = {name: value for name, value in document.items() if name not in _OF_ITS_HEAD}
    student = document.get("student")
    head = {
        "name": ONLY_HEAD,
        "activation": SOFTMAX,
        "weight": 1.0,
        "agreement": student.get("agreement") if isinstance(student, dict) else None,
        **{name: document[name] for name in _OF_ITS_HEAD if name in document},
    }
    _change(head, "labels", partial(_each, change=partial(_completed, later={"threshold": None})))
    _change(head, "calibration", _with_temperatures)
    newer = {**rest, "format_version": 3, "heads": [head]}
    of_one_head = partial(_completed, later={"heads": {}, "labels": {}})
    _change(newer, "teachers", partial(_each, change=partial(_completed, later={"head": ONLY_HEAD})))
    _change(newer, "precisions", partial(_each, change=partial(_with_entry, name="fidelity", change=of_one_head)))
    _change(newer, "vocabulary", partial(_with_entry, name="fidelity", change=of_one_head))
    _change(newer, "evaluation", _evaluation_of_one_head)
    return newer


# What format 2 said of the student and format 3 says of a head.
_OF_ITS_HEAD = ("labels", "abstain", "calibration")


def _with_temperatures(calibration: Any) -> Any:
    if not isinstance(calibration, dict) or "temperature" not in calibration:
        return calibration
    rest = {name: value for name, value in calibration.items() if name != "temperature"}
    return {"temperatures": [calibration["temperature"]], **rest}


def _evaluation_of_one_head(evaluation: Any) -> Any:
    if not isinstance(evaluation, dict):
        return evaluation
    rest = {name: value for name, value in evaluation.items() if name not in ("student", "teachers")}
    own = {name: evaluation[name] for name in ("n_texts", "student", "teachers") if name in evaluation}
    return {**rest, "heads": {ONLY_HEAD: own}}


def migrate_1(document: Mapping[str, Any]) -> dict[str, Any]:
    """A document of format 1 in format 2: what early versions did not write is said to be none, or not known.

    What is of no form that format 1 had stays as it is, for the reader to refuse.
    """
    if document.get("kind") == _TEACHER:
        return {**document, "format_version": 2}
    newer = {**_LATER, **document, "format_version": 2, "kind": _BUNDLE}
    if newer["abstain"] is None:
        newer["abstain"] = 0.0
    if newer["evaluation"] == {}:
        newer["evaluation"] = None
    for name, later in _LATER_IN.items():
        _change(newer, name, partial(_completed, later=later))
    for name, later in _LATER_IN_ITEMS.items():
        _change(newer, name, partial(_each, change=partial(_completed, later=later)))
    _change(newer, "precisions", partial(_each, change=_with_finite_fidelity))
    _change(newer, "training", partial(_each, change=_finite_numbers))
    _change(newer, "gate", partial(_with_changed, name="attempts", change=_finite_numbers))
    _change(newer, "front", partial(_with_changed, name="candidates", change=_completed_candidate))
    return newer


# What some bundles of format 1 lack, and what that means: in the manifest, in its objects, in the items of its lists.
_LATER: dict[str, Any] = {
    "model_type": None, "student": {}, "vocabulary": None, "front": None, "calibration": None, "abstain": 0.0,
    "cascade": None, "evaluation": None,
}  # fmt: skip
_LATER_IN: dict[str, dict[str, Any]] = {
    "corpus": {"n_failed": 0, "n_truncated": None},
    "student": {"layers": None, "n_tokens": None, "agreement": None},
    "gate": {"compared_with": "the float model"},
    "calibration": {"gold": None},
}
_LATER_IN_ITEMS: dict[str, dict[str, Any]] = {
    "labels": {"sources": []},
    "teachers": {"from_hub": False},
    "precisions": {"kernels": {}},
}


def _change(document: dict[str, Any], name: str, change: Callable[[Any], Any]) -> None:
    if name in document:
        document[name] = change(document[name])


def _with_changed(value: Any, name: str, change: Callable[[Any], Any]) -> Any:
    return {**value, name: _each(value.get(name), change)} if isinstance(value, dict) else value


def _with_entry(value: Any, name: str, change: Callable[[Any], Any]) -> Any:
    return {**value, name: change(value[name])} if isinstance(value, dict) and name in value else value


def _completed(value: Any, later: Mapping[str, Any]) -> Any:
    return {**later, **value} if isinstance(value, dict) else value


def _each(items: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(items, list):
        return [change(item) for item in items]
    return {key: change(item) for key, item in items.items()} if isinstance(items, dict) else items


def _completed_candidate(candidate: Any) -> Any:
    if not isinstance(candidate, dict):
        return candidate
    later = {"layers": None, "n_tokens": None, "agreement": None, "precision": candidate.get("name")}
    return _finite_numbers({**later, **candidate})


def _with_finite_fidelity(precision: Any) -> Any:
    if not isinstance(precision, dict):
        return precision
    return {**precision, "fidelity": _finite_numbers(precision.get("fidelity"))}


def _finite_numbers(value: Any) -> Any:
    """An object without the NaN and Infinity that format 1 had of models that overflow."""
    if not isinstance(value, dict):
        return value
    return {name: None if isinstance(n, float) and not math.isfinite(n) else n for name, n in value.items()}
