"""One training run as files, for processes that know nothing else of the build. Arrays are memory-mapped."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from safetensors.torch import load_model, save_model
from transformers import AutoModelForSequenceClassification

from amalgam_edge.building.data import Student, TrainingData
from amalgam_edge.building.students import objective_of
from amalgam_edge.heads import Head
from amalgam_edge.labels import LabelSpace
from amalgam_edge.methods import TeacherSignals
from amalgam_edge.methods.supervision import Supervision
from amalgam_edge.methods.taught_heads import TaughtHead, TaughtHeads
from amalgam_edge.models.loading import load_saved
from amalgam_edge.models.static_student import StaticStudent
from amalgam_edge.progress import Advance
from amalgam_edge.recipe.sections import MethodSettings, TrainingSettings
from amalgam_edge.runtime.manifest import STATIC
from amalgam_edge.scoring.hidden_states import HiddenStates
from amalgam_edge.storage.staging import write_text_atomically
from amalgam_edge.storage.write_errors import report_write_errors
from amalgam_edge.training.fitting import History, fit
from amalgam_edge.training.sharing import process_rank
from amalgam_edge.training.supervised_texts import SupervisedTexts

TRAIN, HELD_OUT = "train", "held-out"
_SETTINGS, _SIGNALS, _STUDENT, _TOKENS = "settings.json", "signals.json", "student", "tokens"
_TRAINED_WEIGHTS, _HISTORY = "fitted.safetensors", "history.json"


def write_job(
    folder: Path, student: Student, data: TrainingData, method: MethodSettings, training: TrainingSettings
) -> None:
    """Write all that training a student takes. Files of hidden states are named and not copied.

    Raises:
        AmalgamError: The folder cannot be written to.
    """
    with report_write_errors(folder, only_writes=True):
        folder.mkdir(parents=True, exist_ok=True)
        for result in (_TRAINED_WEIGHTS, _HISTORY):
            (folder / result).unlink(missing_ok=True)
        settings = {"method": asdict(method), "training": asdict(training)}
        write_text_atomically(folder / _SETTINGS, json.dumps(settings))
        student.model.save_pretrained(folder / _STUDENT)
        student.tokenizer.save_pretrained(folder / _STUDENT)
        for name, rows in ((TRAIN, data.texts.train), (HELD_OUT, data.texts.held_out)):
            _write_texts(folder / name, data, rows)
        signals = {
            "heads": [asdict(taught) for taught in data.heads],
            "n_logits": len(data.signals.logits),
            "hidden": [_describe_hidden_states(part) for part in data.signals.hidden],
        }
        write_text_atomically(folder / _SIGNALS, json.dumps(signals))


def read_texts(folder: Path, name: str) -> SupervisedTexts:
    """The texts of a job, :data:`TRAIN` or :data:`HELD_OUT`; their arrays are mapped into memory and not read."""
    described = json.loads((folder / _SIGNALS).read_text("utf-8"))
    part = folder / name
    rows = _map_array(part / "rows.npy")
    hidden = tuple(
        HiddenStates.mapped(map(Path, teacher["files"]), teacher["shard_size"]) for teacher in described["hidden"]
    )
    return SupervisedTexts(
        datasets.load_from_disk(str(part / _TOKENS))["input_ids"],
        Supervision(_map_array(part / "target.npy"), _map_array(part / "weight.npy"), _map_array(part / "picked.npy")),
        TeacherSignals(
            tuple(_map_array(part / f"logits-{teacher}.npy") for teacher in range(described["n_logits"])),
            TeacherSignals(hidden=hidden).take(rows).hidden,
        ),
    )


def run_job(folder: Path, checkpoints: Path, advance: Advance, *, resume: bool) -> None:
    """Train a job's student together with the other processes of the group; the first process writes the result.

    Args:
        folder: Folder of the job.
        checkpoints: Folder of checkpoints.
        advance: Called with the number of updates just made, by the first process.
        resume: Go on from the last checkpoint.
    """
    method, training = MethodSettings(**_read_settings(folder)["method"]), read_training_settings(folder)
    student = _read_student(folder / _STUDENT)
    train, held_out = (read_texts(folder, name) for name in (TRAIN, HELD_OUT))
    heads = _read_heads(json.loads((folder / _SIGNALS).read_text("utf-8"))["heads"])
    history = fit(
        student.model,
        student.tokenizer,
        train,
        held_out,
        objective_of(method, training.seed, heads, student, train.signals),
        training,
        folder=checkpoints,
        advance=advance,
        resume=resume,
    )
    if process_rank() == 0:
        with report_write_errors(folder):
            save_model(student.model, str(folder / _TRAINED_WEIGHTS))
        write_text_atomically(folder / _HISTORY, json.dumps(history))


def take_result(folder: Path, student: Student) -> History:
    """Give a student the weights that its job came to.

    Returns:
        The training curve.
    """
    load_model(student.model, str(folder / _TRAINED_WEIGHTS))
    student.model.eval()
    history: History = json.loads((folder / _HISTORY).read_text("utf-8"))
    return history


def read_training_settings(folder: Path) -> TrainingSettings:
    """The settings of the training loop of a job."""
    return TrainingSettings(**_read_settings(folder)["training"])


def _read_settings(folder: Path) -> dict[str, Any]:
    settings: dict[str, Any] = json.loads((folder / _SETTINGS).read_text("utf-8"))
    return settings


def _write_texts(folder: Path, data: TrainingData, rows: np.ndarray) -> None:
    folder.mkdir(exist_ok=True)
    data.tokenized.dataset.select(rows).save_to_disk(str(folder / _TOKENS))
    supervision = data.supervision.take(rows)
    arrays = {"rows": rows, "target": supervision.target, "weight": supervision.weight, "picked": supervision.picked}
    arrays |= {f"logits-{teacher}": np.asarray(logits)[rows] for teacher, logits in enumerate(data.signals.logits)}
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)


def _describe_hidden_states(hidden: Any) -> dict[str, Any]:
    return {"files": [str(file) for file in hidden.files], "shard_size": hidden.shard_size}


def _map_array(file: Path) -> np.ndarray:
    array: np.ndarray = np.load(file, mmap_mode="r")
    return array


def _read_heads(described: list[dict[str, Any]]) -> TaughtHeads:
    return TaughtHeads(
        tuple(
            TaughtHead(
                Head(**{**head["head"], "labels": tuple(head["head"]["labels"])}),
                LabelSpace(**head["labels"]),
                head["weight"],
            )
            for head in described
        )
    )


def _read_student(folder: Path) -> Student:
    config = json.loads((folder / "config.json").read_text("utf-8"))
    kind = StaticStudent if config["model_type"] == STATIC else AutoModelForSequenceClassification
    return Student(*load_saved(kind, folder))
