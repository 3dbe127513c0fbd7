"""The classifier of a bundle: texts in, labels and scores out."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Unpack

import numpy as np

from amalgam_edge.errors import AmalgamError
from amalgam_edge.metrics.uncertainty import softmax
from amalgam_edge.runtime.bundle import TOKENIZER, Bundle
from amalgam_edge.runtime.cascade import open_cascade
from amalgam_edge.runtime.finding import load_unchanged
from amalgam_edge.runtime.hub import HubOptions
from amalgam_edge.runtime.publishing import push_bundle, save_bundle
from amalgam_edge.runtime.text_model import ENCODER_BATCH, STATIC_BATCH, TextModel


@dataclass(frozen=True)
class Prediction:
    """The classification of one text.

    Attributes:
        label: The likeliest label; None if its score is below the threshold.
        score: Probability of the likeliest label.
        scores: Label → probability, the likeliest first; None unless all scores were requested.
        truncated: Whether the text was longer than the model's input, so that its end was not read.
    """

    label: str | None
    score: float
    scores: dict[str, float] | None = None
    truncated: bool = False


class EdgeClassifier:
    """Classifies texts with a bundle. Safe to call from several threads at once.

    >>> classifier = EdgeClassifier.from_pretrained("student/")  # doctest: +SKIP
    >>> classifier(["a puzzle game about falling blocks"])[0].label  # doctest: +SKIP
    'games'

    Args:
        bundle: The bundle to load. The files that are used are checked by SHA-256.
        precision: One of the bundle's precisions; None for the bundle's own choice.
        threads: Threads to compute with; None for one per core.
        abstain: Score in [0, 1] below which no label is given; 0 always gives one, None takes the bundle's threshold.
        cascade: Whether the bundle's static student answers where it is sure; None for whenever the bundle has one.

    Raises:
        AmalgamError: A file is damaged, the bundle lacks the precision or the cascade, or the threshold is not a score.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        precision: str | None = None,
        threads: int | None = None,
        abstain: float | None = None,
        cascade: bool | None = None,
    ) -> None:
        self.bundle = bundle
        self.labels = bundle.labels
        self.precision = precision or bundle.default_precision
        self.abstain = bundle.abstain if abstain is None else abstain
        if not 0 <= self.abstain <= 1:
            raise AmalgamError(f"abstain is a score between 0 and 1 (got {abstain!r})")
        self.max_length = bundle.manifest.max_length
        self._batch_size = STATIC_BATCH if bundle.is_static else ENCODER_BATCH
        encoder = TextModel(
            bundle.read_model(precision),
            bundle.read(TOKENIZER),
            max_length=self.max_length,
            pad_token_id=bundle.manifest.pad_token_id,
            threads=threads,
        )
        if encoder.n_labels not in (None, len(self.labels)):
            raise AmalgamError(
                f"{bundle.folder}: the model answers over {encoder.n_labels} labels and the manifest names "
                f"{len(self.labels)}; copy the bundle again"
            )
        self._model = open_cascade(bundle, encoder, enabled=cascade, threads=threads) or encoder

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        precision: str | None = None,
        threads: int | None = None,
        abstain: float | None = None,
        cascade: bool | None = None,
        **hub: Unpack[HubOptions],
    ) -> EdgeClassifier:
        """Load a bundle from a folder, or from the Hugging Face Hub by ``owner/name``.

        Args:
            source: The bundle's folder, or its name on the Hub. A folder of that name wins over the Hub.
            precision: One of the bundle's precisions; None for the bundle's own choice.
            threads: Threads to compute with; None for one per core.
            abstain: Score in [0, 1] below which no label is given; 0 always gives one, None takes the bundle's
                threshold.
            cascade: Whether the bundle's static student answers where it is sure; None for whenever the bundle has one.
            hub: How a bundle of the Hub is fetched: ``revision`` (a branch, a tag or a commit), ``token``,
                ``cache_dir``, ``local_files_only``. Only the files that are used are fetched.

        Raises:
            AmalgamError: There is no bundle or it cannot be had, a file is damaged, the bundle lacks the precision or
                the cascade, or the threshold is not a score.
        """
        return load_unchanged(
            source,
            lambda bundle: cls(bundle, precision=precision, threads=threads, abstain=abstain, cascade=cascade),
            **hub,
        )

    def __call__(
        self, texts: Sequence[str], *, all_scores: bool = False, batch_size: int | None = None
    ) -> list[Prediction]:
        """Classify texts.

        Args:
            texts: Texts to classify. An empty text is classified like any other, though its label means nothing.
            all_scores: Whether to give the probability of every label.
            batch_size: Most texts in a batch; None for 32, or 256 if the bundle's student is a static one.

        Returns:
            One prediction for each text, in the order of ``texts``.

        Raises:
            AmalgamError: One string was given instead of a list.
        """
        if isinstance(texts, str):
            raise AmalgamError("give a list of texts, not one string")
        if not texts:
            return []
        logits, truncated = self.run(texts, batch_size=batch_size)
        probabilities = softmax(logits.astype(np.float64))
        best = probabilities.argmax(axis=1)
        best_scores = probabilities[np.arange(len(best)), best]
        has_label = (self.abstain == 0) | (best_scores >= self.abstain)  # 0 gives a label even for a score of NaN
        all_ranked = map(self._ranked, probabilities) if all_scores else repeat(None, len(best))
        columns = (best.tolist(), has_label.tolist(), best_scores.tolist(), all_ranked, truncated.tolist())
        return [
            Prediction(self.labels[label] if labelled else None, score, scores, was_cut)
            for label, labelled, score, scores, was_cut in zip(*columns, strict=True)
        ]

    def logits(self, texts: Sequence[str], *, batch_size: int | None = None) -> np.ndarray:
        """Logits ``(n_texts, n_labels)`` of float32, in the order of ``texts``."""
        return self.run(texts, batch_size=batch_size)[0]

    def run(self, texts: Sequence[str], *, batch_size: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Logits ``(n_texts, n_labels)`` of float32, and whether each text was cut ``(n_texts,)`` of bool."""
        return self._model.run(texts, batch_size=batch_size or self._batch_size)

    def save_pretrained(self, folder: str | Path, *, precisions: str | Sequence[str] = ()) -> None:
        """Copy the bundle, or some precisions of it; see :func:`~amalgam_edge.runtime.publishing.save_bundle`.

        A model that somebody deleted is left out with a warning.
        """
        save_bundle(self.bundle, Path(folder), precisions=precisions, notify=_warn)

    def push_to_hub(
        self, repo_id: str, *, precisions: str | Sequence[str] = (), private: bool = False, token: str | None = None
    ) -> str:
        """Publish the bundle on the Hub; see :func:`~amalgam_edge.runtime.publishing.push_bundle`.

        A model that somebody deleted is left out with a warning.
        """
        return push_bundle(self.bundle, repo_id, precisions=precisions, private=private, token=token, notify=_warn)

    def _ranked(self, probabilities: np.ndarray) -> dict[str, float]:
        """Label → probability, the likeliest first."""
        ranked = np.argsort(-probabilities, kind="stable")
        return {self.labels[k]: float(probabilities[k]) for k in ranked}


def _warn(line: str) -> None:
    warnings.warn(line, stacklevel=5)
