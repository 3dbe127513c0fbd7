"""Backends that run teachers: ONNX Runtime, after an export, or torch."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import torch

from amalgam_edge.cores import compute_threads
from amalgam_edge.environment import CUDA_DEVICE, CUDA_PROVIDER, execution_providers
from amalgam_edge.errors import AmalgamError
from amalgam_edge.inference.batches import CPU_BATCH_TOKENS
from amalgam_edge.inference.devices import resolve_device
from amalgam_edge.inference.runner import DropoutRunner
from amalgam_edge.inference.torch_runner import TorchRunner
from amalgam_edge.models.teacher import Teacher
from amalgam_edge.recipe.sections import BackendName, ScoringSettings
from amalgam_edge.scoring.adaptive_passes import balanced_over

_GPU_BATCH_FACTOR = 16  # tokens of a batch on a GPU, over those on a CPU


@dataclass(frozen=True)
class Backend:
    """What runs teachers, and on which device; scores depend on it by the rounding of floats alone.

    Attributes:
        name: ``onnxruntime`` or ``torch``.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        threads: Number of threads on the CPU, at most one per usable core; None for that many.
    """

    name: str
    device: str
    threads: int | None = None

    def __str__(self) -> str:
        return f"{self.name} on {self.device}"

    @property
    def batch_tokens(self) -> int:
        """Number of tokens that run together fastest: on a CPU what caches hold, on a GPU enough to keep it busy."""
        return CPU_BATCH_TOKENS * (1 if self.device == "cpu" else _GPU_BATCH_FACTOR)

    def open(self, teacher: Teacher, settings: ScoringSettings) -> DropoutRunner:
        """Make a teacher ready to run.

        Raises:
            AmalgamError: The teacher cannot be exported, or the device does not exist.
        """
        return self._open_onnx(teacher, settings) if self.name == "onnxruntime" else self._open_torch(teacher, settings)

    def _open_torch(self, teacher: Teacher, settings: ScoringSettings) -> DropoutRunner:
        if self.threads is not None:
            torch.set_num_threads(compute_threads(self.threads))
        return TorchRunner(
            teacher.model,
            teacher.sites,
            seed=settings.seed,
            passes=balanced_over(settings),
            masks=settings.masks,
            device=self.device,
            half=settings.precision == "fp16",
        )

    def _open_onnx(self, teacher: Teacher, settings: ScoringSettings) -> DropoutRunner:
        from amalgam_edge.exporters.teacher_export import export_teacher
        from amalgam_edge.inference.onnx_runner import OnnxRunner

        with tempfile.TemporaryDirectory(prefix="amalgam-", ignore_cleanup_errors=True) as folder:
            model = Path(folder, "teacher.onnx")
            export_teacher(
                teacher,
                model,
                passes=balanced_over(settings),
                masks=settings.masks,
                half=settings.precision == "fp16",
            )
            return OnnxRunner(model, seed=settings.seed, device=self.device, threads=self.threads)


def resolve_backend(name: BackendName, device: str, threads: int | None = None) -> Backend:
    """Choose the backend and the device that run teachers.

    Args:
        name: ``onnxruntime``, ``torch``, or ``auto``, which prefers torch on CUDA and ONNX Runtime on the CPU. ONNX
            Runtime has no CUDA kernels for the integer operations that make masks; it copies them to the CPU and back,
            and took nine times as long on an H200.
        device: ``cpu``, ``cuda``, ``cuda:N``, or ``auto``, which prefers CUDA where the backend has it.
        threads: Number of threads on the CPU, at most one per usable core; None for that many.

    Raises:
        AmalgamError: The backend or the device is not there. Nothing else is used in its place.
    """
    if name == "onnxruntime" and find_spec("onnxruntime") is None:
        raise AmalgamError('--backend onnxruntime: not installed: pip install "amalgam-edge[cpu]", or --backend torch')
    providers = execution_providers()
    if name == "auto":
        name = _automatic(providers, device)
    if name == "torch":
        return Backend(name, str(resolve_device(device)), threads)
    if device == "auto":
        device = "cuda" if CUDA_PROVIDER in providers else "cpu"
    if device != "cpu" and not CUDA_DEVICE.fullmatch(device):
        raise AmalgamError(f"--device {device}: onnxruntime runs on cpu, cuda or cuda:N; use --device cpu")
    if device != "cpu" and CUDA_PROVIDER not in providers:
        raise AmalgamError(
            f"--device {device}: this onnxruntime has no CUDA provider; install amalgam-edge[gpu], or give "
            "--backend torch or --device cpu"
        )
    return Backend(name, device, threads)


def _automatic(providers: tuple[str, ...], device: str) -> Literal["onnxruntime", "torch"]:
    torch_cuda, runtime_cuda = torch.cuda.is_available(), CUDA_PROVIDER in providers
    if device == "cpu" or (device == "auto" and not (torch_cuda or runtime_cuda)):
        return "onnxruntime" if providers else "torch"
    return "onnxruntime" if runtime_cuda and not torch_cuda else "torch"
