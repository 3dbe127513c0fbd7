"""A fit as files, for processes that know nothing else of the build: texts and what is told of them are mapped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from safetensors.torch import load_model, save_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from amalgam_edge.building import stages
from amalgam_edge.building.stages import Lesson, Student
from amalgam_edge.errors import AmalgamError
from amalgam_edge.labels import LabelSpace
from amalgam_edge.methods import Told
from amalgam_edge.methods.supervision import Supervision
from amalgam_edge.models.static_student import StaticStudent
from amalgam_edge.progress import Advance
from amalgam_edge.recipe.recipe import Recipe, read_recipe
from amalgam_edge.runtime.model_types import STATIC
from amalgam_edge.scoring.hidden_states import HiddenStates
from amalgam_edge.storage.files import reason
from amalgam_edge.storage.staging import write_text_atomically
from amalgam_edge.training.fitting import History, SupervisedTexts, fit
from amalgam_edge.training.sharing import process_rank

TRAIN, HELD_OUT = "train", "held-out"
_RECIPE, _TOLD, _STUDENT, _TOKENS = "recipe.yaml", "told.json", "student", "tokens"
_FITTED, _HISTORY = "fitted.safetensors", "history.json"


def write_job(folder: Path, student: Student, lesson: Lesson) -> None:
    """Write what fitting a student to a lesson takes. Hidden states of teachers are named and not copied.

    Raises:
        AmalgamError: there is no room, or no right, to write it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for result in (_FITTED, _HISTORY):
            (folder / result).unlink(missing_ok=True)
        write_text_atomically(folder / _RECIPE, lesson.recipe.to_yaml())
        student.model.save_pretrained(folder / _STUDENT)
        student.tokenizer.save_pretrained(folder / _STUDENT)
        for name, rows in ((TRAIN, lesson.texts.train), (HELD_OUT, lesson.texts.held_out)):
            _write_texts(folder / name, lesson, rows)
        told = {
            "labels": asdict(lesson.labels),
            "n_logits": len(lesson.told.logits),
            "hidden": [_described(part) for part in lesson.told.hidden],
        }
        write_text_atomically(folder / _TOLD, json.dumps(told))
    except OSError as error:
        raise AmalgamError(f"{folder}: cannot be written ({reason(error)})") from error


def read_texts(folder: Path, name: str) -> SupervisedTexts:
    """The texts of a job, :data:`TRAIN` or :data:`HELD_OUT`; their arrays are mapped into memory and not read."""
    told = json.loads((folder / _TOLD).read_text("utf-8"))
    own = folder / name
    rows = _mapped(own / "rows.npy")
    hidden = tuple(HiddenStates.mapped(map(Path, part["files"]), part["shard_size"]) for part in told["hidden"])
    return SupervisedTexts(
        datasets.load_from_disk(str(own / _TOKENS))["input_ids"],
        Supervision(_mapped(own / "target.npy"), _mapped(own / "weight.npy"), _mapped(own / "picked.npy")),
        Told(
            tuple(_mapped(own / f"logits-{k}.npy") for k in range(told["n_logits"])),
            Told(hidden=hidden).take(rows).hidden,
        ),
    )


def run_job(folder: Path, checkpoints: Path, advance: Advance, *, resume: bool) -> None:
    """Fit a job's student, with the other processes of the group; the first writes what came of it.

    Args:
        folder: of the job.
        checkpoints: folder for checkpoints.
        advance: told of updates by the first process.
        resume: go on from the last checkpoint.
    """
    recipe = recipe_of(folder)
    student = _read_student(folder / _STUDENT)
    train, held_out = (read_texts(folder, name) for name in (TRAIN, HELD_OUT))
    labels = LabelSpace(**json.loads((folder / _TOLD).read_text("utf-8"))["labels"])
    history = fit(
        student.model,
        student.tokenizer,
        train,
        held_out,
        stages.objective(recipe, labels, student, train.told),
        stages.training_settings(recipe),
        folder=checkpoints,
        advance=advance,
        resume=resume,
    )
    if process_rank() == 0:
        save_model(student.model, str(folder / _FITTED))
        write_text_atomically(folder / _HISTORY, json.dumps(history))


def take_result(folder: Path, student: Student) -> History:
    """Give a student the weights that its job came to; the training curve."""
    load_model(student.model, str(folder / _FITTED))
    student.model.eval()
    history: History = json.loads((folder / _HISTORY).read_text("utf-8"))
    return history


def recipe_of(folder: Path) -> Recipe:
    """The recipe that a job is of."""
    return read_recipe(folder / _RECIPE, {})


def _write_texts(folder: Path, lesson: Lesson, rows: np.ndarray) -> None:
    folder.mkdir(exist_ok=True)
    lesson.tokenized.dataset.select(rows).save_to_disk(str(folder / _TOKENS))
    own = lesson.supervision.take(rows)
    arrays = {"rows": rows, "target": own.target, "weight": own.weight, "picked": own.picked}
    arrays |= {f"logits-{k}": np.asarray(part)[rows] for k, part in enumerate(lesson.told.logits)}
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)


def _described(hidden: Any) -> Mapping[str, Any]:
    return {"files": [str(file) for file in hidden.files], "shard_size": hidden.shard_size}


def _mapped(file: Path) -> np.ndarray:
    array: np.ndarray = np.load(file, mmap_mode="r")
    return array


def _read_student(folder: Path) -> Student:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    kind = StaticStudent if config["model_type"] == STATIC else AutoModelForSequenceClassification
    return Student(kind.from_pretrained(folder, dtype=torch.float32, use_safetensors=True), tokenizer)
