"""Runs an ONNX model: one batch with all threads, or several batches with one thread each."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from amalgam_edge.errors import AmalgamError
from amalgam_edge.runtime.session import open_session

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

Feed = Mapping[str, np.ndarray]


class ModelRunner:
    """Runs a model on batches. Safe to call from several threads at once.

    Threads that share a batch wait for each other at each of the model's hundred or so operations. So several batches
    run at the same time, each in one thread.

    Args:
        model: Path of an ONNX model.
        threads: Threads to compute with; None for one per core.
    """

    def __init__(self, model: Path, threads: int | None = None) -> None:
        self._model = model
        self._threads = threads or usable_cores()
        self._shared_session = open_session(model, threads)
        self._parallel: tuple[InferenceSession, ThreadPoolExecutor] | None = None
        self._lock = Lock()

    @property
    def n_labels(self) -> int | None:
        """The number of logits that the model gives; None if its ONNX file does not tell.

        Raises:
            AmalgamError: The model gives no logits.
        """
        widths = [output.shape[-1] for output in self._shared_session.get_outputs() if output.name == "logits"]
        if not widths:
            raise AmalgamError(f"{self._model}: the model has no output named 'logits'; build the bundle again")
        return widths[0] if isinstance(widths[0], int) else None

    def run(self, names: Sequence[str], feeds: Sequence[Feed]) -> list[list[np.ndarray]]:
        """The outputs of these names, for each batch of inputs.

        Args:
            names: Names of the outputs.
            feeds: One mapping from input name to array for each batch.
        """
        if self._threads == 1 or len(feeds) == 1:
            return [self._shared_session.run(names, feed) for feed in feeds]
        session, pool = self._one_thread_per_batch()
        return list(pool.map(lambda feed: session.run(names, feed), feeds))

    def _one_thread_per_batch(self) -> tuple[InferenceSession, ThreadPoolExecutor]:
        """A session that uses one thread and a pool to call it from; opened once several batches come at a time."""
        with self._lock:
            if self._parallel is None:
                self._parallel = open_session(self._model, threads=1), ThreadPoolExecutor(self._threads)
            return self._parallel


def usable_cores() -> int:
    """The number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
