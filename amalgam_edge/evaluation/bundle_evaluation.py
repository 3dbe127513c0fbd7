"""Measuring a finished bundle on labelled texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from amalgam_edge.evaluation.comparison import CASCADE, OtherBundle
from amalgam_edge.evaluation.labelled_texts import read_labelled_texts
from amalgam_edge.labels import encode_names
from amalgam_edge.metrics import accuracy as evaluation
from amalgam_edge.metrics.calibration import reliability
from amalgam_edge.metrics.risk_coverage import risk_coverage
from amalgam_edge.metrics.uncertainty import softmax
from amalgam_edge.runtime import Bundle, EdgeClassifier
from amalgam_edge.runtime.evaluation import (
    DomainAccuracy,
    Evaluation,
    HeadEvaluation,
    ModelEvaluation,
    ReliabilityBins,
    RiskCoverageCurve,
)
from amalgam_edge.runtime.manifest_models import Answered
from amalgam_edge.storage.records import from_json


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
) -> Evaluation:
    """Accuracy, macro-F1 and how good the scores are, of each precision.

    The bundle's cascade is measured too, where it has one and no precisions are named.

    Args:
        bundle: The bundle to measure.
        data: Labelled texts, in any form that a corpus may have.
        text_column: The column that holds the text; by default ``text``, or the only column of strings.
        label_column: The column that holds label names of the bundle.
        split: The split of a Hub data set.
        precisions: The precisions to measure; by default all whose model is there.
        threads: How many threads compute, at most one per usable core; by default that many.
        abstain: No label is given below this score; by default the bundle's own threshold, and 0 never abstains.
        compare: Another bundle, whose accuracy on the same texts is set beside this one's.

    Raises:
        AmalgamError: The data cannot be read or names a label that the bundle does not know; a bundle is damaged.
    """
    head = next(iter(bundle.heads))
    labelled = read_labelled_texts(data, text_column=text_column, label_column=label_column, split=split)
    gold = encode_names(head.labels, labelled.labels)
    texts = labelled.texts
    classifiers = {
        precision: EdgeClassifier(bundle, precision=precision, threads=threads, abstain=abstain, cascade=False)
        for precision in precisions or bundle.available_precisions()
    }
    if bundle.cascade and not precisions:
        classifiers[CASCADE] = EdgeClassifier(bundle, threads=threads, abstain=abstain, cascade=True)
    other = OtherBundle.load(compare, bundle, labelled.labels, precisions, threads) if compare else None
    student, right = {}, {}
    for name, classifier in classifiers.items():
        logits = classifier.logits(texts)
        abstain = next(iter(classifier.heads)).abstain
        student[name] = measure_answers(gold, logits, label_domains(bundle), abstain)
        right[name] = logits.argmax(axis=1) == gold
    return Evaluation(
        data=data,
        n_texts=len(texts),
        heads={head.name: HeadEvaluation(head.activation, len(texts), head.labels, student)},
        comparison=other.compare(texts, right) if other else None,
    )


def label_domains(bundle: Bundle) -> dict[str, list[int]]:
    """Teacher → positions of its labels, as the manifest says where each label comes from."""
    domains: dict[str, list[int]] = {}
    for position, label in enumerate(bundle.manifest.heads[0].labels):
        for teacher in dict.fromkeys(source.teacher for source in label.sources):
            domains.setdefault(teacher, []).append(position)
    return domains


def measure_answers(
    gold: np.ndarray, logits: np.ndarray, domains: Mapping[str, Sequence[int]], abstain: float
) -> ModelEvaluation:
    """All that is measured of one model's answers.

    Args:
        gold: Positions of the gold labels, ``(n_texts,)``.
        logits: The model's answers, ``(n_texts, n_labels)``.
        domains: Teacher → positions of its labels.
        abstain: Threshold on the likeliest label's probability; 0 for none.
    """
    n_labels = logits.shape[1]
    predicted = logits.argmax(axis=1)
    confusion = evaluation.confusion_matrix(gold, predicted, n_labels)
    reliable = reliability(logits, np.eye(n_labels)[gold])
    selective = risk_coverage(predicted == gold, softmax(logits.astype(np.float64)).max(axis=1))
    return ModelEvaluation(
        **evaluation.accuracy_and_macro_f1(confusion),
        micro_f1=None,
        mean_average_precision=None,
        abstaining=(
            from_json(Answered, evaluation.answered_share_and_accuracy(gold, logits, abstain)) if abstain else None
        ),
        nll=evaluation.negative_log_likelihood(gold, logits),
        ece=reliable.error,
        aurc=selective.area,
        domains={
            teacher: from_json(DomainAccuracy, evaluation.domain_accuracy_and_macro_f1(confusion, columns))
            for teacher, columns in domains.items()
        },
        confusion=tuple(map(tuple, confusion.tolist())),
        reliability=ReliabilityBins(
            confidence=tuple(reliable.confidence.tolist()),
            accuracy=tuple(reliable.accuracy.tolist()),
            share=tuple(reliable.share.tolist()),
        ),
        risk_coverage=RiskCoverageCurve(tuple(selective.coverage.tolist()), tuple(selective.risk.tolist())),
    )
