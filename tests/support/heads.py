"""Bundles of several heads, and what they answer by plain onnxruntime and numpy."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

from amalgam_edge.heads import SIGMOID, SOFTMAX, Head, Heads

MAX_LENGTH = 40

TOPIC = Head("topic", SOFTMAX, ("billing", "login", "Straße & 猫"))
PRIORITY = Head("priority", SOFTMAX, ("low", "high"), abstain=0.9)
SAFETY = Head("safety", SIGMOID, ("toxic", "threat", "spam", "a; b"), thresholds=(0.5, 0.9, 0.2, 0.5))
AREA = Head("product area", SOFTMAX, tuple(f"area {k}" for k in range(8)))
URGENT = Head("urgent?", SIGMOID, ("urgent",), thresholds=(0.5,))
LANGUAGE = Head("language", SOFTMAX, ("English", "Deutsch", "日本語", 'the "other"'))

ONE = Heads((TOPIC,))
ONE_SIGMOID = Heads((SAFETY,))
THREE = Heads((TOPIC, PRIORITY, SAFETY))
SIX = Heads((TOPIC, PRIORITY, SAFETY, AREA, URGENT, LANGUAGE))
ALL = {"one": ONE, "one-sigmoid": ONE_SIGMOID, "three": THREE, "six": SIX}


def write_bundle(folder: Path, heads: Heads, base: Path, *, seed: int = 7) -> Path:
    """Write a bundle with these heads: another's float model, whose last layer is drawn anew; returns the folder.

    Args:
        folder: The folder to write.
        heads: The heads that it answers.
        base: A bundle of a tiny classifier. To export one for each set of heads would take far longer.
        seed: The seed of the last layer's weights.
    """
    from amalgam_edge.runtime.manifest import write_manifest
    from tests.support.manifests import make_manifest, make_precision

    (folder / "onnx").mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(base / name, folder)
    _write_model(folder / "onnx" / "model.onnx", heads, base, np.random.default_rng(seed))
    config = json.loads((base / "config.json").read_text("utf-8"))
    named = {
        "id2label": dict(enumerate(heads.labels)),
        "label2id": {label: k for k, label in enumerate(heads.labels)},
        "problem_type": heads.problem_type,
    }
    (folder / "config.json").write_text(json.dumps({**config, **named}), "utf-8")
    write_manifest(
        folder,
        make_manifest(
            heads=tuple(map(describe_head, heads)),
            precisions={"fp32": make_precision("onnx/model.onnx")},
            default_precision="fp32",
            max_length=MAX_LENGTH,
            pad_token_id=config["pad_token_id"],
            evaluation=None,
        ),
    )
    return folder


def _write_model(path: Path, heads: Heads, base: Path, rng: np.random.Generator) -> None:
    """Write the float model of a bundle with a last layer of random weights, under which no label always wins."""
    import onnx
    from onnx import numpy_helper

    from amalgam_edge.exporters.rewrites.calibrated_outputs import add_probabilities
    from tests.support import tiny

    model = onnx.load(base / "onnx" / "model.onnx")
    graph = model.graph
    graph.node.remove(next(node for node in graph.node if "probabilities" in node.output))
    del graph.output[1:]
    last = next(node for node in graph.node if "logits" in node.output)
    weights, bias = (next(tensor for tensor in graph.initializer if tensor.name == name) for name in last.input[1:])
    n_labels, n_inputs = len(heads.labels), weights.dims[1]
    graph.output[0].type.tensor_type.shape.dim[1].dim_value = n_labels

    def set_values(tensor: Any, values: np.ndarray) -> None:
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float32), tensor.name))

    set_values(weights, rng.normal(0.0, 2.5 / np.sqrt(n_inputs), (n_labels, n_inputs)))
    set_values(bias, np.zeros(n_labels))
    add_probabilities(graph, heads)
    onnx.save(model, path)
    logits, _ = logits_of(path.parents[1], [*tiny.TEXTS])
    set_values(bias, -logits.mean(axis=0))
    onnx.save(model, path)


def describe_head(head: Head) -> Any:
    """A head as the manifest has it."""
    from tests.support.manifests import make_head, make_label

    thresholds = head.thresholds or [None] * len(head)
    return make_head(
        name=head.name,
        activation=head.activation,
        labels=tuple(make_label(name, at, a=name) for name, at in zip(head.labels, thresholds, strict=True)),
        abstain=head.abstain,
    )


def logits_of(folder: Path, texts: list[str]) -> tuple[np.ndarray, list[bool]]:
    """Logits ``(n_texts, n_labels)`` and whether each text was cut, by onnxruntime, a text at a time."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    truncated = [len(tokenizer.encode(text).ids) > MAX_LENGTH for text in texts]
    tokenizer.enable_truncation(MAX_LENGTH)
    session = onnxruntime.InferenceSession(folder / "onnx" / "model.onnx")
    rows = []
    for text in texts:
        ids = np.array([tokenizer.encode(text).ids])
        rows.append(session.run(["logits"], {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0][0])
    return np.stack(rows), truncated


def by_head(heads: Heads, logits: np.ndarray) -> dict[str, np.ndarray]:
    """Head → the logits of its labels, side by side in the order of the heads."""
    found, first = {}, 0
    for head in heads:
        found[head.name] = logits[:, first : first + len(head.labels)].astype(np.float64)
        first += len(head.labels)
    assert first == logits.shape[1]
    return found


def scores_of(head: Head, logits: np.ndarray) -> np.ndarray:
    """The scores of a head's labels: a softmax over them, or a sigmoid of each."""
    if head.activation == "sigmoid":
        return 1 / (1 + np.exp(-logits))
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def ranked(head: Head, logits: np.ndarray, scores: np.ndarray) -> list[dict[str, float]]:
    """Label → score of each text, the likeliest first."""
    return [
        {head.labels[k]: float(row[k]) for k in np.argsort(-of_text, kind="stable")}
        for of_text, row in zip(logits, scores, strict=True)
    ]


def labels_that_hold(head: Head, logits: np.ndarray) -> list[list[str]]:
    """The labels that a head answers with: the likeliest one unless it abstains, or those above their thresholds."""
    answers = []
    for row in ranked(head, logits, scores_of(head, logits)):
        if head.activation == "sigmoid":
            at_least = dict(zip(head.labels, head.thresholds, strict=True))
            answers.append([label for label, score in row.items() if score >= at_least[label]])
        else:
            label, score = next(iter(row.items()))
            answers.append([label] if score >= head.abstain else [])
    return answers
