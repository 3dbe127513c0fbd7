"""One ONNX model, run on a batch with all threads, or on several batches with a thread each."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from amalgam_edge.runtime.session import open_session

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

Feed = Mapping[str, np.ndarray]


class ModelRunner:
    """Runs a model on batches. Safe to call from several threads at once.

    Threads that share one batch wait for each other at each of its hundred operations; those that have a batch of their
    own do not.

    Args:
        model: path of an ONNX model.
        threads: to compute with; by default one a core.
    """

    def __init__(self, model: Path, threads: int | None = None) -> None:
        self._model = model
        self._threads = threads or cores()
        self._together = open_session(model, threads)
        self._apart: tuple[InferenceSession, ThreadPoolExecutor] | None = None
        self._lock = Lock()

    @property
    def n_labels(self) -> int | None:
        """How many logits the model gives; None where it does not say."""
        width = next(output.shape[-1] for output in self._together.get_outputs() if output.name == "logits")
        return width if isinstance(width, int) else None

    def run(self, names: Sequence[str], feeds: Sequence[Feed]) -> list[list[np.ndarray]]:
        """What the model puts out under these names, for each feed."""
        if self._threads == 1 or len(feeds) == 1:
            return [self._together.run(names, feed) for feed in feeds]
        session, pool = self._one_thread_each()
        return list(pool.map(lambda feed: session.run(names, feed), feeds))

    def _one_thread_each(self) -> tuple[InferenceSession, ThreadPoolExecutor]:
        """Opened when first asked for: who answers one text at a time never pays for it."""
        with self._lock:
            if self._apart is None:
                self._apart = open_session(self._model, threads=1), ThreadPoolExecutor(self._threads)
            return self._apart


def cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
