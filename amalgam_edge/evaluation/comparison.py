"""A second bundle on the texts that a first one was measured on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from amalgam_edge.errors import AmalgamError
from amalgam_edge.metrics.significance import compare
from amalgam_edge.runtime import Bundle, EdgeClassifier
from amalgam_edge.runtime.evaluation import BundleComparison, ModelComparison

CASCADE = "cascade"


def default_model(bundle: Bundle) -> str:
    """What a bundle answers with where nothing else is asked for: its cascade, or its default precision."""
    return CASCADE if bundle.cascade else bundle.default_precision


@dataclass(frozen=True)
class OtherBundle:
    """Another bundle, loaded to answer the same texts. Labels are matched by name.

    Attributes:
        bundle: The other bundle.
        same_bundle: Whether it is the bundle measured, or a copy of it.
        gold: The gold labels' names, ``(n_texts,)``; those that it does not know count as wrong.
        pairs: Model of the bundle measured → model of the other one that it is compared with.
        classifiers: Model of the other one → what answers.
    """

    bundle: Bundle
    same_bundle: bool
    gold: np.ndarray
    pairs: Mapping[str, str]
    classifiers: Mapping[str, EdgeClassifier]

    @classmethod
    def load(
        cls, other: Bundle, measured: Bundle, gold: Sequence[str], precisions: Sequence[str], threads: int | None
    ) -> OtherBundle:
        """Load what is compared: the same precisions of both, or what each answers with by default.

        Raises:
            AmalgamError: The other bundle is damaged, lacks a precision, or knows none of the gold labels.
        """
        if not set(gold) & set(other.labels):
            raise AmalgamError(
                f"{other.source}: knows none of the gold labels; it has {', '.join(other.labels)} "
                "(labels are matched by name)"
            )
        pairs = {name: name for name in precisions} or {default_model(measured): default_model(other)}
        classifiers = {
            name: EdgeClassifier(
                other, precision=None if name == CASCADE else name, cascade=name == CASCADE, threads=threads
            )
            for name in pairs.values()
        }
        same = other.manifest.files == measured.manifest.files
        return cls(other, same, np.array(gold), pairs, classifiers)

    def compare(self, texts: list[str], right: Mapping[str, np.ndarray]) -> BundleComparison:
        """The differences in accuracy.

        Args:
            texts: Texts with gold labels.
            right: Model of the bundle measured → whether each of its answers is right, ``(n_texts,)``.
        """
        names = np.array(self.bundle.labels)
        answered = {
            name: names[classifier.logits(texts).argmax(axis=1)] == self.gold
            for name, classifier in self.classifiers.items()
        }
        unknown = Counter(label for label in self.gold.tolist() if label not in self.bundle.labels)
        return BundleComparison(
            bundle=self.bundle.source,
            same_bundle=self.same_bundle,
            missing_labels=dict(sorted(unknown.items())),
            models={
                name: ModelComparison(other, **vars(compare(right[name], answered[other])))
                for name, other in self.pairs.items()
            },
        )
