"""A teacher on ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from amalgam_edge.runtime.session import cuda_device_id, open_session


class OnnxRunner:
    """Runs a teacher that was exported with live dropout.

    A batch is put on the device once for all its passes, and logits land where they are returned.

    Args:
        model: as :func:`amalgam_edge.exporters.teacher_export.export_teacher` wrote it.
        seed: of the masks.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        threads: to compute with on the CPU; by default one a core.

    Raises:
        AmalgamError: the model cannot be loaded, or the device is not there.
    """

    def __init__(self, model: Path, *, seed: int = 0, device: str = "cpu", threads: int | None = None) -> None:
        self._session = open_session(model, threads, device)
        self._seed = np.array(seed, dtype=np.int64)
        self._place = ("cpu", 0) if device == "cpu" else ("cuda", cuda_device_id(device))

    @property
    def n_classes(self) -> int:
        """How many logits the model gives."""
        return int(self._session.get_outputs()[0].shape[1])

    def run(self, input_ids: np.ndarray, attention_mask: np.ndarray, passes: Sequence[int]) -> np.ndarray:
        """Logits ``(n_passes, n_texts, n_classes)``; see :class:`~amalgam_edge.inference.runner.TeacherRunner`."""
        logits = np.empty((len(passes), len(input_ids), self.n_classes), dtype=np.float32)
        binding = self._session.io_binding()
        for name, array in (("input_ids", input_ids), ("attention_mask", attention_mask)):
            binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(array, *self._place))
        binding.bind_cpu_input("mc_seed", self._seed)
        for mc_pass, row in zip(passes, logits, strict=True):
            binding.bind_cpu_input("mc_pass", np.array(mc_pass, dtype=np.int64))
            binding.bind_output("logits", "cpu", 0, np.float32, row.shape, row.ctypes.data)
            self._session.run_with_iobinding(binding)
        return logits
