"""The classifier that users meet at the edge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import numpy as np

from amalgam_edge.errors import AmalgamError
from amalgam_edge.metrics.uncertainty import softmax
from amalgam_edge.runtime.bundle import TOKENIZER, Bundle
from amalgam_edge.runtime.cascade import open_cascade
from amalgam_edge.runtime.publishing import push_bundle, save_bundle
from amalgam_edge.runtime.text_model import STATIC_BATCH, TextModel


@dataclass(frozen=True)
class Prediction:
    """The answer for one text.

    Attributes:
        label: the likeliest label; None where its score is below the threshold.
        score: the likeliest label's probability.
        scores: label → probability, likeliest first; only where all scores were asked for.
        truncated: the text was longer than the model's input and its tail was not read.
    """

    label: str | None
    score: float
    scores: dict[str, float] | None = None
    truncated: bool = False


class EdgeClassifier:
    """A bundle, ready to answer. Safe to call from several threads at once.

    >>> classifier = EdgeClassifier.from_pretrained("student/")  # doctest: +SKIP
    >>> classifier(["a puzzle game about falling blocks"])[0].label  # doctest: +SKIP
    'games'

    Args:
        bundle: what to load; the files that are used are checked against their SHA-256.
        precision: one of the bundle's; by default the bundle's own choice.
        threads: to compute with; by default one a core.
        abstain: give no label below this score, in [0, 1]; by default the bundle's own threshold, and 0 never abstains.
        cascade: let the bundle's static student answer where it is sure; by default where the bundle has one.

    Raises:
        AmalgamError: a damaged file, a precision that the bundle does not carry, a cascade that it does not hold, or a
            threshold that is no score.
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
        self._batch_size = STATIC_BATCH if bundle.is_static else 32
        encoder = TextModel(
            bundle.model_file(precision),
            bundle.file(TOKENIZER),
            max_length=self.max_length,
            pad_token_id=bundle.manifest.pad_token_id,
            threads=threads,
        )
        if encoder.n_labels not in (None, len(self.labels)):
            raise AmalgamError(
                f"{bundle.folder}: the model answers over {encoder.n_labels} labels and the manifest names "
                f"{len(self.labels)}; copy the bundle again"
            )
        self._model = open_cascade(bundle, encoder, wanted=cascade, threads=threads) or encoder

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        precision: str | None = None,
        threads: int | None = None,
        abstain: float | None = None,
        cascade: bool | None = None,
    ) -> EdgeClassifier:
        """Load a bundle from a folder, or from the Hub by ``owner/name``.

        Raises:
            AmalgamError: no bundle there, a damaged file, or a precision or cascade that it does not hold.
        """
        folder = Path(source)
        if not folder.exists() and str(source).count("/") == 1 and not str(source).startswith((".", "/")):
            folder = _download(str(source))
        return cls(Bundle.open(folder), precision=precision, threads=threads, abstain=abstain, cascade=cascade)

    def __call__(
        self, texts: Sequence[str], *, all_scores: bool = False, batch_size: int | None = None
    ) -> list[Prediction]:
        """Classify texts; answers stand in the order of ``texts``.

        Args:
            texts: any strings; an empty one is answered as the model sees it.
            all_scores: give the probability of every label.
            batch_size: texts that run together, sorted by length; by default 32, and 256 of a static student.
        """
        if isinstance(texts, str):
            raise AmalgamError("give a list of texts, not one string")
        if not texts:
            return []
        logits, truncated = self.run(texts, batch_size=batch_size)
        probabilities = softmax(logits.astype(np.float64))
        best = probabilities.argmax(axis=1)
        found = probabilities[np.arange(len(best)), best]
        answers = (self.abstain == 0) | (found >= self.abstain)
        every = map(self._ranked, probabilities) if all_scores else repeat(None, len(best))
        columns = (best.tolist(), answers.tolist(), found.tolist(), every, truncated.tolist())
        return [
            Prediction(self.labels[label] if answered else None, score, scores, cut)
            for label, answered, score, scores, cut in zip(*columns, strict=True)
        ]

    def logits(self, texts: Sequence[str], *, batch_size: int | None = None) -> np.ndarray:
        """The model's logits, ``(n_texts, n_labels)`` of float32, in the order of ``texts``."""
        return self.run(texts, batch_size=batch_size)[0]

    def run(self, texts: Sequence[str], *, batch_size: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Logits ``(n_texts, n_labels)`` of float32, and whether each text's tail was not read, ``(n_texts,)``."""
        return self._model.run(texts, batch_size=batch_size or self._batch_size)

    def save_pretrained(self, folder: str | Path) -> None:
        """Copy the bundle, every file verified; see :func:`~amalgam_edge.runtime.publishing.save_bundle`."""
        save_bundle(self.bundle, Path(folder))

    def push_to_hub(self, repo_id: str, *, private: bool = False, token: str | None = None) -> str:
        """Publish the bundle on the Hub; see :func:`~amalgam_edge.runtime.publishing.push_bundle`."""
        return push_bundle(self.bundle, repo_id, private=private, token=token)

    def _ranked(self, probabilities: np.ndarray) -> dict[str, float]:
        ranked = np.argsort(-probabilities, kind="stable")
        return {self.labels[k]: float(probabilities[k]) for k in ranked}


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download  # comes with tokenizers; needed only for Hub names

    try:
        return Path(snapshot_download(name))
    except Exception as error:  # network, authentication and naming errors share no base class
        raise AmalgamError(f"{name}: neither a folder here nor a bundle that can be had from the Hub") from error
