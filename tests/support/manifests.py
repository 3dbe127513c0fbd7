"""A small manifest of the form that a build writes, made by hand; and what changes manifests in folders."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from amalgam_edge.runtime.manifest import Manifest
from amalgam_edge.runtime.manifest_heads import BundleHead, Label, LabelSource
from amalgam_edge.runtime.manifest_models import (
    BuildEvaluation,
    Calibration,
    Fidelity,
    Front,
    FrontCandidate,
    Gate,
    GateAttempt,
    GoldCalibration,
    HeadAccuracy,
    Latency,
    ModelAccuracy,
    Precision,
    TeacherAccuracy,
)
from amalgam_edge.runtime.manifest_origin import (
    CorpusCounts,
    Machine,
    SourceTeacher,
    StudentFacts,
)

FIXTURES = Path(__file__).parents[1] / "fixtures"
EARLIER = (1, 2)  # the formats that are migrated
OF_ONE_HEAD = ("labels", "abstain", "calibration")  # which formats 1 and 2 said of the student, having one head


def copy_earlier_bundle(version: int, folder: Path) -> Path:
    """A copy of the bundle of format 1 whose manifest is of this format; the folder."""
    shutil.copytree(FIXTURES / "bundle_v1", folder)
    if version == 2:  # the files of a bundle are those of format 1
        shutil.copy(FIXTURES / "manifests_v2" / "bundle.json", folder / "amalgam.json")
    assert read_document(folder)["format_version"] == version
    return folder


def read_document(folder: Path) -> dict[str, Any]:
    """What a folder's manifest says, as it stands there."""
    document: dict[str, Any] = json.loads((folder / "amalgam.json").read_text("utf-8"))
    return document


def edit_manifest(folder: Path, *, version: int = 3, **changes: Any) -> None:
    """Change entries of a bundle's manifest; labels, abstain and calibration are changed in its one head.

    Args:
        folder: The bundle, whose manifest is of format 3.
        version: The format that the changed manifest is in.
        changes: Entry → its new value.
    """
    document = read_document(folder)
    if version < 3:
        document = {**in_format_2(document), "format_version": version}
    for name, value in changes.items():
        (document["heads"][0] if version == 3 and name in OF_ONE_HEAD else document)[name] = value
    (folder / "amalgam.json").write_text(json.dumps(document), "utf-8")


def with_head(manifest: Manifest, **changes: Any) -> Manifest:
    """A manifest of one head, with changed entries of that head."""
    (head,) = manifest.heads
    return replace(manifest, heads=(replace(head, **changes),))


def in_format_2(document: dict[str, Any]) -> dict[str, Any]:
    """A document of format 3 of a student with one softmax head, as format 2 said the same."""
    (head,) = document["heads"]
    evaluation = document["evaluation"]
    return {
        **{name: value for name, value in document.items() if name != "heads"},
        "format_version": 2,
        "labels": [_without(label, "threshold") for label in head["labels"]],
        "abstain": head["abstain"],
        "calibration": head["calibration"] and _with_one_temperature(head["calibration"]),
        "teachers": [_without(teacher, "head") for teacher in document["teachers"]],
        "precisions": {name: _with_plain_fidelity(each) for name, each in document["precisions"].items()},
        "vocabulary": document["vocabulary"] and _with_plain_fidelity(document["vocabulary"]),
        "evaluation": evaluation and {**_without(evaluation, "heads"), **evaluation["heads"][head["name"]]},
    }


def _without(entry: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if name not in names}


def _with_one_temperature(calibration: dict[str, Any]) -> dict[str, Any]:
    (temperature,) = calibration["temperatures"]
    return {"temperature": temperature, **_without(calibration, "temperatures")}


def _with_plain_fidelity(entry: dict[str, Any]) -> dict[str, Any]:
    return {**entry, "fidelity": _without(entry["fidelity"], "heads", "labels")}


def make_manifest(**changes: Any) -> Manifest:
    """Two teachers, three labels, both precisions, evaluated; ``changes`` replace whole entries.

    ``labels``, ``calibration`` and ``abstain`` are those of the one head that there is where no ``heads`` are given.
    """
    of_head = {name: changes.pop(name) for name in ("labels", "calibration", "abstain") if name in changes}
    return Manifest(**{
        "versions": {"python": "3.11.9", "amalgam-edge": "0.1.0"},
        "machine": Machine("linux", "x86_64", ("AVX2",)),
        "heads": (make_head(**of_head),),
        "teachers": (make_teacher("fun", ["games", "net"]), make_teacher("work", ["science", "net"], picked_share=0.4)),
        "corpus": CorpusCounts("c" * 64, 120, 108, n_blank=2, n_duplicate=7, n_failed=0, n_truncated=3),
        "recipe": {"method": "muka-soft", "held_out": 500},
        "recipe_fingerprint": "e" * 64,
        "supervision": "a" * 64,
        "training": (),
        "student": StudentFacts(),
        "vocabulary": None,
        "model_type": "bert",
        "max_length": 48,
        "pad_token_id": 1,
        "precisions": {
            "fp32": make_precision("onnx/model.onnx", 45_678_901, "float", 1.0, 0.0, 3.456, 5.0),
            "int8": make_precision(
                "onnx/model_quantized.onnx", 11_449_999, "signed 7-bit weights", 0.9931, 0.00123, 1.2, 1.999
            ),
        },
        "default_precision": "int8",
        "gate": make_gate(),
        "front": None,
        "cascade": None,
        "evaluation": make_evaluation(),
        **changes,
    })  # fmt: skip


def make_head(**changes: Any) -> BundleHead:
    """A head of three labels, of which one holds."""
    return BundleHead(**{
        "name": "label",
        "activation": "softmax",
        "labels": (
            make_label("games", fun="games"),
            make_label("science", work="science"),
            make_label("net", fun="net", work="net"),
        ),
        "weight": 1.0,
        "abstain": 0.0,
        "calibration": None,
        "agreement": None,
        **changes,
    })  # fmt: skip


def make_label(name: str, threshold: float | None = None, **sources: str) -> Label:
    """A label; ``sources``: teacher → its class."""
    return Label(name, tuple(LabelSource(teacher, class_name) for teacher, class_name in sources.items()), threshold)


def make_teacher(name: str, labels: list[str], *, picked_share: float = 0.6, **changes: Any) -> SourceTeacher:
    return SourceTeacher(**{
        "name": name,
        "source": f"runs/{name}",
        "from_hub": False,
        "fingerprint": "f" * 64,
        "head": "label",
        "labels": tuple(labels),
        "dropout_sites": 13,
        "mean_uncertainty": 0.12345,
        "picked_share": picked_share,
        **changes,
    })  # fmt: skip


def make_gate(**changes: Any) -> Gate:
    return Gate(**{
        "passed": True,
        "n_texts": 12,
        "max_disagreement": 0.01,
        "compared_with": "the float model",
        "attempts": (GateAttempt("signed 7-bit weights", 0.0069, 0.00123),),
        **changes,
    })  # fmt: skip


def make_evaluation(**changes: Any) -> BuildEvaluation:
    """Gold labels for the one head; ``student`` and ``teachers`` are those of that head."""
    of_head = {name: changes.pop(name) for name in ("student", "teachers") if name in changes}
    return BuildEvaluation(**{
        "data": "labelled.csv",
        "n_texts": 60,
        "heads": {"label": make_head_accuracy(**of_head)},
        **changes,
    })  # fmt: skip


def make_head_accuracy(**changes: Any) -> HeadAccuracy:
    return HeadAccuracy(**{
        "n_texts": 60,
        "student": {"fp32": make_accuracy(0.9, 0.8765), "int8": make_accuracy(0.88333, 0.8)},
        "teachers": {"fun": TeacherAccuracy(0.955, 40), "work": TeacherAccuracy(None, 0)},
        **changes,
    })  # fmt: skip


def make_accuracy(accuracy: float, macro_f1: float, **changes: Any) -> ModelAccuracy:
    of_sets = {"micro_f1": None, "mean_average_precision": None}
    return ModelAccuracy(accuracy, macro_f1, **{**of_sets, "abstaining": None, **changes})


def make_calibration(**changes: Any) -> Calibration:
    return Calibration(**{
        "temperatures": (1.2345,),
        "n_texts": 12,
        "ece_before": 0.1,
        "ece_after": 0.0123,
        "gold": GoldCalibration(n_texts=60, ece_before=0.2, ece_after=0.15),
        **changes,
    })  # fmt: skip


def make_precision(
    file: str,
    size: int = 1_000_000,
    quantization: str = "float",
    agreement: float = 1.0,
    mean_kl: float | None = 0.0,
    p50: float = 1.0,
    p95: float = 1.0,
    kernels: dict[str, int] | None = None,
) -> Precision:
    return Precision(
        file, size, quantization, Fidelity(agreement, mean_kl, 12, {}, {}), Latency(p50, p95), kernels or {}
    )


def make_candidate(name: str, **changes: Any) -> FrontCandidate:
    return FrontCandidate(**{
        "name": name, "made_by": "by hand", "megabytes": 17.0, "latency_ms": 3.0, "p95_ms": 6.0, "batch_ms": 45.0,
        "memory_megabytes": None, "loss_percent": 1.0, "mean_kl": 0.001, "layers": None, "n_tokens": None,
        "agreement": None, "precision": name, "on_front": True, **changes,
    })  # fmt: skip


def make_front(
    *, picked: str = "int8", within_budget: bool = True, candidates: tuple[FrontCandidate, ...] | None = None
) -> Front:
    """What a budget led to: by default float and int8 on the front, half floats off it."""
    rows = (
        ("fp32", 45.7, 3.46, 0.0, True, None),
        ("int8", 11.4, 1.2, 0.69, True, 101.0),
        ("fp16", 46.0, 5.0, 0.01, False, 150.2),
    )
    made = tuple(
        make_candidate(
            name,
            megabytes=megabytes,
            latency_ms=latency,
            p95_ms=latency * 2,
            batch_ms=latency * 15,
            memory_megabytes=memory,
            loss_percent=loss,
            mean_kl=loss / 1000,
            on_front=on_front,
        )
        for name, megabytes, latency, loss, on_front, memory in rows
    )
    return Front({"size": 20.0, "loss": 1.0}, candidates or made, picked, within_budget, "it alone meets the budget")
