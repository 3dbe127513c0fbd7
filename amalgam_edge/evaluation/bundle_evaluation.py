"""Measuring a finished bundle on labelled texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from amalgam_edge.corpus import read_corpus
from amalgam_edge.evaluation.comparison import CASCADE, Rival
from amalgam_edge.labels import LabelSpace
from amalgam_edge.metrics import accuracy as evaluation
from amalgam_edge.metrics.calibration import reliability
from amalgam_edge.metrics.risk_coverage import risk_coverage
from amalgam_edge.metrics.uncertainty import softmax
from amalgam_edge.runtime import Bundle, EdgeClassifier


def evaluate_bundle(
    bundle: Bundle,
    data: str,
    *,
    text_column: str | None = None,
    label_column: str = "label",
    split: str = "test",
    precisions: Sequence[str] = (),
    threads: int | None = None,
    abstain: float | None = None,
    compare: Bundle | None = None,
) -> dict[str, Any]:
    """Accuracy, macro-F1 and the worth of scores of each precision, in the form of the manifest's ``evaluation``.

    The bundle's cascade is measured too, where it has one and no precisions are named.

    Args:
        bundle: what to measure.
        data: labelled texts, in any form that a corpus may have.
        text_column: by default ``text``, or the only column of strings.
        label_column: holds label names of the bundle.
        split: of a Hub data set.
        precisions: by default all that the bundle carries.
        threads: to compute with.
        abstain: give no label below this score; by default the bundle's own threshold, and 0 never abstains.
        compare: another bundle, whose accuracy on the same texts is set beside this one's.

    Raises:
        AmalgamError: the data cannot be read or names a label that the bundle does not know; a bundle is damaged.
    """
    labelled = read_corpus(data, text_column=text_column, label_column=label_column, split=split, drop_duplicates=False)
    gold = LabelSpace(bundle.labels, {}, {}).encode(labelled.labels)
    texts = list(labelled.texts)
    classifiers = {
        precision: EdgeClassifier(bundle, precision=precision, threads=threads, abstain=abstain, cascade=False)
        for precision in precisions or bundle.precisions
    }
    if bundle.cascade and not precisions:
        classifiers[CASCADE] = EdgeClassifier(bundle, threads=threads, abstain=abstain, cascade=True)
    rival = Rival.load(compare, bundle, labelled.labels, precisions, threads) if compare else None
    student, right = {}, {}
    for name, classifier in classifiers.items():
        logits = classifier.logits(texts)
        student[name] = measure_answers(gold, logits, label_domains(bundle), classifier.abstain)
        right[name] = logits.argmax(axis=1) == gold
    measured = {"data": data, "n_texts": len(texts), "labels": list(bundle.labels), "student": student}
    return measured | ({"comparison": rival.compare(texts, right)} if rival else {})


def label_domains(bundle: Bundle) -> dict[str, list[int]]:
    """Teacher → positions of its labels, from where the manifest says that each label came from."""
    domains: dict[str, list[int]] = {}
    for position, label in enumerate(bundle.manifest["labels"]):
        for teacher in dict.fromkeys(source["teacher"] for source in label.get("sources", ())):
            domains.setdefault(teacher, []).append(position)
    return domains


def measure_answers(
    gold: np.ndarray, logits: np.ndarray, domains: Mapping[str, Sequence[int]], abstain: float
) -> dict[str, Any]:
    """All that is measured of one model's answers.

    Args:
        gold: ``(n_texts,)``.
        logits: ``(n_texts, n_labels)``.
        domains: teacher → positions of its labels.
        abstain: threshold on the likeliest label's probability; 0 for none.
    """
    n_labels = logits.shape[1]
    predicted = logits.argmax(axis=1)
    scores, confusion = evaluation.measure(gold, predicted, n_labels)
    reliable = reliability(logits, np.eye(n_labels)[gold])
    selective = risk_coverage(predicted == gold, softmax(logits.astype(np.float64)).max(axis=1))
    return {
        **scores,
        **(evaluation.measure_answered(gold, logits, abstain) if abstain else {}),
        "nll": evaluation.negative_log_likelihood(gold, logits),
        "ece": reliable.error,
        "aurc": selective.area,
        "domains": {teacher: evaluation.measure_domain(confusion, own) for teacher, own in domains.items()},
        "confusion": confusion.tolist(),
        "reliability": {
            "confidence": reliable.confidence.tolist(),
            "accuracy": reliable.accuracy.tolist(),
            "share": reliable.share.tolist(),
        },
        "risk_coverage": {"coverage": selective.coverage.tolist(), "risk": selective.risk.tolist()},
    }
