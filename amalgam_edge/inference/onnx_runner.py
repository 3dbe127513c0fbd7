"""Dropout passes of an exported teacher, on ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from amalgam_edge.runtime.session import cuda_device_id, open_session


class OnnxRunner:
    """Runs a teacher that was exported with live dropout; a :class:`~amalgam_edge.inference.runner.DropoutRunner`.

    A batch is copied to the device once for all its passes, and logits are written straight into the returned array.

    Args:
        model: ONNX file that :func:`amalgam_edge.exporters.teacher_export.export_teacher` wrote.
        seed: Seed of the masks.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        threads: Number of threads on the CPU, at most one per usable core; by default that many.

    Raises:
        AmalgamError: The model cannot be loaded, or the device does not exist.
    """

    def __init__(self, model: Path, *, seed: int = 0, device: str = "cpu", threads: int | None = None) -> None:
        self._session = open_session(model, threads, device)
        self._seed = np.array(seed, dtype=np.int64)
        self._device = ("cpu", 0) if device == "cpu" else ("cuda", cuda_device_id(device))

    @property
    def n_classes(self) -> int:
        """The number of logits for each text."""
        return int(self._session.get_outputs()[0].shape[1])

    def run(self, input_ids: np.ndarray, attention_mask: np.ndarray, passes: Sequence[int]) -> np.ndarray:
        """Logits ``(n_passes, n_texts, n_classes)``; see :class:`~amalgam_edge.inference.runner.DropoutRunner`."""
        logits = np.empty((len(passes), len(input_ids), self.n_classes), dtype=np.float32)
        binding = self._session.io_binding()
        for name, array in (("input_ids", input_ids), ("attention_mask", attention_mask)):
            binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(array, *self._device))
        binding.bind_cpu_input("mc_seed", self._seed)
        for mc_pass, row in zip(passes, logits, strict=True):
            binding.bind_cpu_input("mc_pass", np.array(mc_pass, dtype=np.int64))
            binding.bind_output("logits", "cpu", 0, np.float32, row.shape, row.ctypes.data)
            self._session.run_with_iobinding(binding)
        return logits
