"""Measuring a finished bundle on labelled texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from amalgam_edge.corpus import read_corpus
from amalgam_edge.evaluation import measure, measure_answered
from amalgam_edge.labels import LabelSpace
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
) -> dict[str, Any]:
    """Accuracy and macro-F1 of each precision of a bundle, in the form of the manifest's ``evaluation``.

    Its cascade is measured too, where it has one and no precisions are named.

    Args:
        bundle: what to measure.
        data: labelled texts, in any form that a corpus may have.
        text_column: by default ``text``, or the only column of strings.
        label_column: holds label names of the bundle.
        split: of a Hub data set.
        precisions: by default all that the bundle carries.
        threads: to compute with.
        abstain: give no label below this score; by default the bundle's own threshold, and 0 never abstains.

    Raises:
        AmalgamError: the data cannot be read or names a label that the bundle does not know.
    """
    labelled = read_corpus(data, text_column=text_column, label_column=label_column, split=split, drop_duplicates=False)
    gold = LabelSpace(bundle.labels, {}, {}).encode(labelled.labels)
    texts = list(labelled.texts)
    classifiers = {
        precision: EdgeClassifier(bundle, precision=precision, threads=threads, abstain=abstain, cascade=False)
        for precision in precisions or bundle.precisions
    }
    if bundle.cascade and not precisions:
        classifiers["cascade"] = EdgeClassifier(bundle, threads=threads, abstain=abstain, cascade=True)
    student = {}
    for name, classifier in classifiers.items():
        logits = classifier.logits(texts)
        measured, confusion = measure(gold, logits.argmax(axis=1), len(bundle.labels))
        answered = measure_answered(gold, logits, classifier.abstain) if classifier.abstain else {}
        student[name] = {**measured, **answered, "confusion": confusion.tolist()}
    return {"data": data, "n_texts": len(texts), "student": student}
