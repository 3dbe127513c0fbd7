"""The classifier of a bundle: texts in, labels and scores out."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from amalgam_edge.errors import AmalgamError, at_least_one
from amalgam_edge.runtime.bundle import TOKENIZER, Bundle, version_of
from amalgam_edge.runtime.cascade import CascadeModel, open_cascade
from amalgam_edge.runtime.finding import load_unchanged
from amalgam_edge.runtime.forks import OpenedAgainInChildren
from amalgam_edge.runtime.hub import HubOptions
from amalgam_edge.runtime.predictions import (
    Abstain,
    predictions_of,
    with_abstain,
)
from amalgam_edge.runtime.publishing import push_bundle, save_bundle
from amalgam_edge.runtime.text_model import ENCODER_BATCH, STATIC_BATCH, TextModel
from amalgam_edge.runtime.texts import Texts, list_texts

_SHOWN_LABELS = 6


class EdgeClassifier:
    """Classifies texts with a bundle. Safe to call from several threads at once, and from forked processes.

    >>> classifier = EdgeClassifier.from_pretrained("student/")  # doctest: +SKIP
    >>> classifier("a puzzle game about falling blocks")[0].label  # doctest: +SKIP
    'games'
    >>> frame["label"] = classifier.predict(frame["text"])  # doctest: +SKIP

    A classifier is pickled as its bundle's place and its options; wherever it is unpickled, the same bundle must be.

    Args:
        bundle: The bundle to load. The files that are used are checked by SHA-256.
        precision: One of the bundle's precisions; None for the bundle's own choice.
        threads: Threads to compute with, at most one per usable core; None for that many.
        abstain: Score in [0, 1] below which a softmax head gives no label, or one for each head by its name; 0 always
            gives one, None takes the bundle's thresholds.
        cascade: Whether the bundle's static student answers where it is sure; None for whenever the bundle has one.
        device: ``cpu``, ``cuda`` or ``cuda:N``. On a GPU the encoder runs, by default its model of half floats or
            floats; the static student of a cascade stays on the CPU.

    Raises:
        AmalgamError: A file is damaged, the bundle lacks the precision or the cascade, the threshold is not a score,
            the number of threads is none, or the device is not available.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        precision: str | None = None,
        threads: int | None = None,
        abstain: Abstain | None = None,
        cascade: bool | None = None,
        device: str = "cpu",
    ) -> None:
        self.bundle = bundle
        self.labels = bundle.labels
        self.precision = precision or bundle.default_precision_on(device)
        self.heads = with_abstain(bundle.heads, abstain)
        self.max_length = bundle.manifest.max_length
        self._batch_size = STATIC_BATCH if bundle.is_static else ENCODER_BATCH
        self._options = {
            "precision": precision, "threads": threads, "abstain": abstain, "cascade": cascade, "device": device,
        }  # fmt: skip
        chosen = self.precision
        self._model = OpenedAgainInChildren(lambda: _open_unchanged(bundle, chosen, threads, cascade, device))

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        precision: str | None = None,
        threads: int | None = None,
        abstain: Abstain | None = None,
        cascade: bool | None = None,
        device: str = "cpu",
        **hub: Unpack[HubOptions],
    ) -> EdgeClassifier:
        """Load a bundle from a folder, or from the Hugging Face Hub by ``owner/name``.

        Args:
            source: The bundle's folder, or its name on the Hub. A folder of that name wins over the Hub.
            precision: One of the bundle's precisions; None for the bundle's own choice.
            threads: Threads to compute with, at most one per usable core; None for that many.
            abstain: Score in [0, 1] below which a softmax head gives no label, or one for each head by its name; 0
                always gives one, None takes the bundle's thresholds.
            cascade: Whether the bundle's static student answers where it is sure; None for whenever the bundle has one.
            device: ``cpu``, ``cuda`` or ``cuda:N``, see :class:`EdgeClassifier`.
            hub: How a bundle of the Hub is fetched: ``revision`` (a branch, a tag or a commit), ``token``,
                ``cache_dir``, ``local_files_only``. Only the files that are used are fetched.

        Raises:
            AmalgamError: There is no bundle or it cannot be had, a file is damaged, the bundle lacks the precision or
                the cascade, the threshold is not a score, the number of threads is none, or the device is not
                available.
        """
        return load_unchanged(
            source,
            lambda bundle: cls(
                bundle, precision=precision, threads=threads, abstain=abstain, cascade=cascade, device=device
            ),
            **hub,
        )

    def __call__(self, texts: Texts, *, all_scores: bool = False, batch_size: int | None = None) -> list[Any]:
        """Classify texts.

        Args:
            texts: Texts to classify: a list, a column of a table, an array, a generator; or one string, which is a list
                of one. An empty text is classified like any other, though its label means nothing.
            all_scores: Whether to give the probability of every label.
            batch_size: Most texts in a batch; None for 32, or 256 if the bundle's student is a static one.

        Returns:
            One prediction for each text, in the order of ``texts``: a
            :class:`~amalgam_edge.runtime.predictions.Prediction`; for a sigmoid head a
            :class:`~amalgam_edge.runtime.predictions.LabelSet`; for several heads a
            :class:`~amalgam_edge.runtime.predictions.HeadPredictions`, which has one of these for each head.

        Raises:
            AmalgamError: A text is not a string, or ``batch_size`` is less than 1.
        """
        logits, truncated = self.run(texts, batch_size=batch_size)
        return predictions_of(self.heads, logits, truncated, all_scores=all_scores)

    def predict(self, texts: Texts, *, batch_size: int | None = None) -> list[Any]:
        """The label of each text, in the order of ``texts``; None where its score is below the threshold.

        For a sigmoid head it is a tuple of the labels that hold, for several heads {head: answer}.

        Args:
            texts: As for calling the classifier.
            batch_size: As for calling the classifier.

        Raises:
            AmalgamError: As for calling the classifier.
        """
        return [prediction.answer for prediction in self(texts, batch_size=batch_size)]

    def predict_proba(self, texts: Texts, *, batch_size: int | None = None) -> np.ndarray:
        """The probability of each label ``(n_texts, n_labels)`` of float64; column ``k`` is that of ``labels[k]``.

        The columns of one head are ``heads.columns(name)``.

        Args:
            texts: As for calling the classifier.
            batch_size: As for calling the classifier.

        Raises:
            AmalgamError: As for calling the classifier.
        """
        return self.heads.probabilities(self.logits(texts, batch_size=batch_size))

    def logits(self, texts: Texts, *, batch_size: int | None = None) -> np.ndarray:
        """Logits ``(n_texts, n_labels)`` of float32, in the order of ``texts``."""
        return self.run(texts, batch_size=batch_size)[0]

    def run(self, texts: Texts, *, batch_size: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Logits ``(n_texts, n_labels)`` of float32, and whether each text was cut ``(n_texts,)`` of bool.

        Raises:
            AmalgamError: As for calling the classifier.
        """
        if batch_size is None:
            batch_size = self._batch_size
        else:
            batch_size = at_least_one(batch_size, "batch_size is a number of texts, at least 1")
        listed = list_texts(texts)
        if not listed:
            return np.empty((0, len(self.labels)), dtype=np.float32), np.empty(0, dtype=bool)
        return self._model.get().run(listed, batch_size=batch_size)

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

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, self.labels[:_SHOWN_LABELS]))
        more = ", …" if len(self.labels) > _SHOWN_LABELS else ""
        heads = f"{len(self.heads)} heads, " if len(self.heads) > 1 else ""
        labels = f"{heads}{len(self.labels)} labels ({shown}{more})"
        return f"<EdgeClassifier {self.bundle.source!r}: {self.precision}, {labels}>"

    def __reduce__(self) -> tuple[Any, ...]:
        source, options = _place(self.bundle)
        return _load_again, (type(self), source, self.bundle.digest, {**self._options, **options})


def _open_unchanged(
    bundle: Bundle, precision: str, threads: int | None, cascade: bool | None, device: str
) -> TextModel | CascadeModel:
    """Open a bundle's models; a forked child may ask for them when another bundle stands in its place."""
    try:
        return _open_model(bundle, precision, threads, cascade, device)
    except AmalgamError as error:
        if version_of(bundle.folder) == bundle.version:
            raise
        raise AmalgamError(
            f"{bundle.folder}: holds another bundle than when this classifier was loaded; load it anew"
        ) from error


def _open_model(
    bundle: Bundle, precision: str, threads: int | None, cascade: bool | None, device: str
) -> TextModel | CascadeModel:
    encoder = TextModel(
        bundle.read_model(precision),
        bundle.read(TOKENIZER),
        max_length=bundle.manifest.max_length,
        pad_token_id=bundle.manifest.pad_token_id,
        threads=threads,
        device=device,
    )
    if encoder.n_labels not in (None, len(bundle.labels)):
        raise AmalgamError(
            f"{bundle.folder}: the model answers over {encoder.n_labels} labels and the manifest names "
            f"{len(bundle.labels)}; copy the bundle again"
        )
    return open_cascade(bundle, encoder, enabled=cascade, threads=threads) or encoder


def _place(bundle: Bundle) -> tuple[str | Path, dict[str, Any]]:
    """Where a bundle is found again, from another folder or process too; without the token, which is a secret."""
    if bundle.hub is None:
        return bundle.folder.absolute(), {}
    hub = bundle.hub
    pinned = {"revision": hub.revision, "cache_dir": hub.cache_dir, "local_files_only": hub.local_files_only}
    return hub.repository, pinned


def _load_again(
    classifier_type: type[EdgeClassifier], source: str | Path, digest: str, options: dict[str, Any]
) -> EdgeClassifier:
    """The classifier that was pickled, of the very bundle that it had."""
    classifier = classifier_type.from_pretrained(source, **options)
    if classifier.bundle.digest != digest:
        raise AmalgamError(f"{source}: holds another bundle than when this classifier was pickled; load it anew")
    return classifier


def _warn(line: str) -> None:
    warnings.warn(line, stacklevel=5)
