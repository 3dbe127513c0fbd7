"""A small manifest of the form that a build writes, made by hand."""

from __future__ import annotations

from typing import Any


def make_manifest(**changes: Any) -> dict[str, Any]:
    """Two teachers, three labels, both precisions, evaluated; ``changes`` replace whole entries."""
    return {
        "format_version": 1,
        "versions": {"python": "3.11.9", "amalgam-edge": "0.1.0"},
        "labels": [
            {"name": "games", "sources": [{"teacher": "fun", "class": "games"}]},
            {"name": "science", "sources": [{"teacher": "work", "class": "science"}]},
            {"name": "net", "sources": [{"teacher": "fun", "class": "net"}, {"teacher": "work", "class": "net"}]},
        ],
        "teachers": [make_teacher("fun", ["games", "net"]), make_teacher("work", ["science", "net"], picked_share=0.4)],
        "corpus": {"fingerprint": "c" * 64, "n_texts": 120, "n_train": 108, "n_blank": 2, "n_duplicate": 7},
        "recipe": {"method": "muka-soft"},
        "training": [],
        "max_length": 48,
        "pad_token_id": 1,
        "precisions": {
            "fp32": make_precision("onnx/model.onnx", 45_678_901, "float", 1.0, 0.0, 3.456, 5.0),
            "int8": make_precision(
                "onnx/model_quantized.onnx", 11_449_999, "signed 7-bit weights", 0.9931, 0.00123, 1.2, 1.999
            ),
        },
        "default_precision": "int8",
        "gate": {
            "passed": True,
            "n_texts": 12,
            "max_disagreement": 0.01,
            "attempts": [
                {"quantization": "signed 7-bit weights", "disagreement": 0.0069, "mean_kl": 0.00123},
            ],
        },
        "evaluation": {
            "data": "labelled.csv",
            "n_texts": 60,
            "student": {
                "fp32": {"accuracy": 0.9, "macro_f1": 0.8765},
                "int8": {"accuracy": 0.88333, "macro_f1": 0.8},
            },
            "teachers": {"fun": {"accuracy": 0.955, "n_texts": 40}, "work": {"accuracy": None, "n_texts": 0}},
        },
        **changes,
    }


def make_teacher(name: str, labels: list[str], *, picked_share: float = 0.6) -> dict[str, Any]:
    return {
        "name": name,
        "source": f"runs/{name}",
        "fingerprint": "f" * 64,
        "labels": labels,
        "dropout_sites": 13,
        "mean_uncertainty": 0.12345,
        "picked_share": picked_share,
    }


def make_calibration(**changes: Any) -> dict[str, Any]:
    return {
        "temperature": 1.2345,
        "n_texts": 12,
        "ece_before": 0.1,
        "ece_after": 0.0123,
        "gold": {"n_texts": 60, "ece_before": 0.2, "ece_after": 0.15},
        **changes,
    }


def make_precision(
    file: str, size: int, quantization: str, agreement: float, mean_kl: float, p50: float, p95: float
) -> dict[str, Any]:
    return {
        "file": file,
        "bytes": size,
        "quantization": quantization,
        "fidelity": {"agreement": agreement, "mean_kl": mean_kl, "n_texts": 12},
        "latency_ms": {"p50": p50, "p95": p95},
    }


def make_front(*, picked: str = "int8", within_budget: bool = True) -> dict[str, Any]:
    """What a budget led to: float and int8 on the front, half floats off it."""
    rows = [
        ("fp32", 45.7, 3.46, 0.0, True, None),
        ("int8", 11.4, 1.2, 0.69, True, 101.0),
        ("fp16", 46.0, 5.0, 0.01, False, 150.2),
    ]
    return {
        "limits": {"size": 20.0, "loss": 1.0},
        "candidates": [
            {
                "name": name, "made_by": "by hand", "megabytes": megabytes, "latency_ms": latency,
                "p95_ms": latency * 2, "batch_ms": latency * 15, "memory_megabytes": memory, "loss_percent": loss,
                "mean_kl": loss / 1000, "on_front": on_front,
            }
            for name, megabytes, latency, loss, on_front, memory in rows
        ],
        "picked": picked,
        "within_budget": within_budget,
        "reason": "it alone meets the budget",
    }  # fmt: skip
