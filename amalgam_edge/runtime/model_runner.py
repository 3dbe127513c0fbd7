"""Runs an ONNX model: one batch with all threads, several batches with one thread each, or batch by batch on a GPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from amalgam_edge.cores import compute_threads
from amalgam_edge.errors import AmalgamError, first_line
from amalgam_edge.runtime.session import open_session
from amalgam_edge.storage.own_files import FileContent

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

Feed = Mapping[str, np.ndarray]

LOGITS = "logits"  # name of the output


class ModelRunner:
    """Runs a model on batches. Safe to call from several threads at once.

    Threads that share a batch wait for each other at each of the model's hundred or so operations. So several batches
    run at the same time, each in one thread. A GPU computes one batch after another, in one session.

    Args:
        model: Content of an ONNX model with an output ``logits``. It is kept until several batches come at a time.
        threads: Threads to compute with, at most one per usable core; None for that many.
        device: ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        AmalgamError: ONNX Runtime cannot load the model, it is no classifier, or the device is not available.
    """

    def __init__(self, model: FileContent, threads: int | None = None, device: str = "cpu") -> None:
        self._threads = compute_threads(threads) if device == "cpu" else 1
        self._shared_session = open_session(model, threads, device)
        names = {output.name for output in self._shared_session.get_outputs()}
        if LOGITS not in names:
            raise AmalgamError(f"{model.path}: no classifier, it has no output '{LOGITS}'; build it again")
        self._path = model.path
        self._model = model if self._threads > 1 else None
        self._parallel: tuple[InferenceSession, ThreadPoolExecutor] | None = None
        self._lock = Lock()

    @property
    def n_labels(self) -> int | None:
        """The number of logits that the model gives; None if its ONNX file does not tell."""
        width = next(output.shape[-1] for output in self._shared_session.get_outputs() if output.name == LOGITS)
        return width if isinstance(width, int) else None

    def run(self, names: Sequence[str], feeds: Sequence[Feed]) -> list[list[np.ndarray]]:
        """The outputs of these names, for each batch of inputs.

        Args:
            names: Names of the outputs.
            feeds: One mapping from input name to array for each batch.

        Raises:
            AmalgamError: ONNX Runtime cannot run the model on them.
        """
        if self._threads == 1 or len(feeds) == 1:
            return [self._run(self._shared_session, names, feed) for feed in feeds]
        session, pool = self._one_thread_per_batch()
        return list(pool.map(lambda feed: self._run(session, names, feed), feeds))

    def _run(self, session: InferenceSession, names: Sequence[str], feed: Feed) -> list[np.ndarray]:
        try:
            outputs: list[np.ndarray] = session.run(names, feed)
        except Exception as error:  # onnxruntime raises another class for each status, and they have no common base
            raise AmalgamError(f"{self._path}: onnxruntime cannot run it ({first_line(error)})") from error
        return outputs

    def _one_thread_per_batch(self) -> tuple[InferenceSession, ThreadPoolExecutor]:
        """A session that uses one thread and a pool to call it from; opened once several batches come at a time."""
        with self._lock:
            if self._parallel is None:
                assert self._model is not None  # noqa: S101  (there are several threads)
                self._parallel = open_session(self._model, threads=1), ThreadPoolExecutor(self._threads)
                self._model = None
            return self._parallel
