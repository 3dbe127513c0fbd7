"""A second bundle on the texts that a first one was measured on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from amalgam_edge.errors import AmalgamError
from amalgam_edge.gold import GoldAnswers, gold_sets
from amalgam_edge.heads import SIGMOID, Head
from amalgam_edge.metrics.significance import compare
from amalgam_edge.runtime import Bundle, EdgeClassifier
from amalgam_edge.runtime.evaluation import BundleComparison, HeadComparison, ModelComparison

CASCADE = "cascade"


def default_model(bundle: Bundle) -> str:
    """What a bundle answers with where nothing else is asked for: its cascade, or its default precision."""
    return CASCADE if bundle.cascade else bundle.default_precision


@dataclass(frozen=True)
class OtherBundle:
    """Another bundle, loaded to answer the same texts. Labels are matched by name.

    Attributes:
        bundle: The other bundle.
        measured: The bundle that it is set beside.
        heads: Head with gold labels → the other bundle's head that is compared with it.
        pairs: Model of the bundle measured → model of the other one that it is compared with.
        classifiers: Model of the other one → what answers.
    """

    bundle: Bundle
    measured: Bundle
    heads: Mapping[str, Head]
    pairs: Mapping[str, str]
    classifiers: Mapping[str, EdgeClassifier]

    @classmethod
    def load(
        cls,
        other: Bundle,
        measured: Bundle,
        gold: Mapping[str, GoldAnswers],
        precisions: Sequence[str],
        threads: int | None,
    ) -> OtherBundle:
        """Load what is compared: the same precisions of both, or what each answers with by default.

        Raises:
            AmalgamError: There are no gold labels; the other bundle is damaged, lacks a precision, or knows none of
                the heads, or none of the gold labels of one.
        """
        heads = _matching_heads(other, measured, gold)
        for name, head in heads.items():
            occurring = _occurring(measured.heads[name], gold[name])
            if occurring and not set(occurring) & set(head.labels):
                where = f" of head '{name}'" if len(measured.heads) > 1 else ""
                raise AmalgamError(
                    f"{other.source}: knows none of the gold labels{where}; it has {', '.join(head.labels)} "
                    "(labels are matched by name)"
                )
        pairs = {name: name for name in precisions} or {default_model(measured): default_model(other)}
        classifiers = {
            name: EdgeClassifier(
                other, precision=None if name == CASCADE else name, cascade=name == CASCADE, threads=threads
            )
            for name in pairs.values()
        }
        return cls(other, measured, heads, pairs, classifiers)

    def compare(
        self, texts: list[str], gold: Mapping[str, GoldAnswers], logits: Mapping[str, np.ndarray]
    ) -> BundleComparison:
        """The differences in accuracy.

        Args:
            texts: All texts.
            gold: Head → gold answers.
            logits: Model of the bundle measured → logits ``(n_texts, n_labels)``.
        """
        others = {name: classifier.logits(texts) for name, classifier in self.classifiers.items()}
        return BundleComparison(
            bundle=self.bundle.source,
            same_bundle=self.bundle.manifest.files == self.measured.manifest.files,
            heads={name: self._compare_head(name, gold[name], logits, others) for name in self.heads},
            missing_heads=tuple(name for name in gold if name not in self.heads),
        )

    def _compare_head(
        self, name: str, gold: GoldAnswers, logits: Mapping[str, np.ndarray], others: Mapping[str, np.ndarray]
    ) -> HeadComparison:
        own, other = self.measured.heads[name], self.heads[name]

        def right(bundle: Bundle, head: Head, answers: np.ndarray) -> np.ndarray:
            return _is_right(own, gold, head, answers[gold.rows][:, bundle.heads.columns(head.name)])

        occurring = _occurring(own, gold)
        return HeadComparison(
            missing_labels={label: n_texts for label, n_texts in occurring.items() if label not in other.labels},
            models={
                model: ModelComparison(
                    paired,
                    **vars(
                        compare(right(self.measured, own, logits[model]), right(self.bundle, other, others[paired]))
                    ),
                )
                for model, paired in self.pairs.items()
            },
        )


def _matching_heads(other: Bundle, measured: Bundle, gold: Mapping[str, GoldAnswers]) -> dict[str, Head]:
    """Head with gold labels → the other's head of that name, or its only one where each bundle has one.

    Raises:
        AmalgamError: There are no gold labels, or none for a head that the other has.
    """
    if not gold:
        raise AmalgamError("--compare counts right answers, and there are no gold labels: name their column")
    if len(measured.heads) == len(other.heads) == 1:
        return {next(iter(gold)): next(iter(other.heads))}
    heads = {name: other.heads[name] for name in gold if name in other.heads.names}
    if not heads:
        raise AmalgamError(
            f"{other.source}: has none of the heads {', '.join(gold)}; it has {', '.join(other.heads.names)} "
            "(heads are matched by name)"
        )
    return heads


def _occurring(head: Head, gold: GoldAnswers) -> dict[str, int]:
    """Gold label that occurs → how many texts have it, by name."""
    counts = dict(zip(head.labels, gold_sets(head, gold).sum(axis=0).tolist(), strict=True))
    return {label: counts[label] for label in sorted(counts) if counts[label]}


def _is_right(own: Head, gold: GoldAnswers, head: Head, logits: np.ndarray) -> np.ndarray:
    """Whether a head's answers are the gold labels, matched by name, ``(n_gold,)`` of bool.

    Args:
        own: The head that the gold answers are of.
        gold: The gold answers.
        head: The head that answers.
        logits: Its logits of the texts that have gold answers.
    """
    answers = head.answers(logits)
    sets = answers.astype(bool) if head.activation == SIGMOID else np.eye(len(head), dtype=bool)[answers[:, 0]]
    positions = {label: position for position, label in enumerate(head.labels)}
    known = [position for position, label in enumerate(own.labels) if label in positions]
    named = np.zeros((len(sets), len(own)), dtype=bool)
    named[:, known] = sets[:, [positions[own.labels[position]] for position in known]]
    right: np.ndarray = (named == gold_sets(own, gold)).all(axis=1) & (named.sum(axis=1) == sets.sum(axis=1))
    return right
