"""Opens ONNX Runtime sessions on the CPU or a GPU."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from amalgam_edge.cores import compute_threads
from amalgam_edge.environment import CUDA_DEVICE, CUDA_PROVIDER
from amalgam_edge.errors import AmalgamError, MissingExtraError, first_line
from amalgam_edge.runtime.external_data import has_external_data
from amalgam_edge.storage.own_files import FileContent

try:
    import onnxruntime
except ImportError as error:
    raise MissingExtraError("running a model", "cpu", error) from error


def open_session(
    model: str | Path | FileContent, threads: int | None = None, device: str = "cpu"
) -> onnxruntime.InferenceSession:
    """Load an ONNX model.

    Args:
        model: Path of a model that this project made, or the content of any model, which must hold all its weights.
        threads: Threads to compute with on the CPU, at most one per usable core; None for that many.
        device: ``cpu``, ``cuda`` or ``cuda:N``. The session runs there or not at all.

    Raises:
        AmalgamError: ONNX Runtime cannot load the model, the model keeps weights in other files, the device is not
            available, or the number of threads is none.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = compute_threads(threads)  # 0 would be all cores of the machine, whatever the quota
    options.log_severity_level = 3  # errors only
    name = str(model.path) if isinstance(model, FileContent) else str(model)
    content: str | bytes = name
    if isinstance(model, FileContent):
        _require_all_weights(model)
        content = model.content
    providers = _providers(device)
    where = "" if device == "cpu" else f" on {device}"
    try:
        # Its own fallback would go on without the GPU, and print that to standard output.
        session = onnxruntime.InferenceSession(content, options, providers=providers, enable_fallback=0)
    except Exception as error:  # onnxruntime raises another class for each status, and they have no common base
        raise AmalgamError(f"{name}: onnxruntime cannot load it{where} ({first_line(error)})") from error
    if device != "cpu" and CUDA_PROVIDER not in session.get_providers():
        raise AmalgamError(f"--device {device}: onnxruntime found no usable CUDA here; use --device cpu")
    return session


def _require_all_weights(model: FileContent) -> None:
    """Refuse a model with weights in other files: nobody has checked those, nor where the model says they are."""
    try:
        external = has_external_data(model.content)
    except ValueError as error:
        raise AmalgamError(f"{model.path}: onnxruntime cannot load it (no ONNX model, {error})") from error
    if external:
        raise AmalgamError(f"{model.path}: keeps weights outside of the file, where nothing is read; build it again")


def cuda_device_id(device: str) -> int:
    """N in ``cuda:N``; 0 for ``cuda``."""
    return int(device.partition(":")[2] or 0)


def _providers(device: str) -> list[Any]:
    if device == "cpu":
        return ["CPUExecutionProvider"]
    if not isinstance(device, str) or not CUDA_DEVICE.fullmatch(device):
        raise AmalgamError(f"--device {device}: onnxruntime runs on cpu, cuda or cuda:N here")
    if CUDA_PROVIDER not in onnxruntime.get_available_providers():
        raise AmalgamError(
            f"--device {device}: this onnxruntime has no CUDA provider; uninstall it and install amalgam-edge[gpu], or "
            "use --device cpu"
        )
    _load_cuda_libraries()
    # By default CUDA multiplies in TF32, which rounds float32 inputs to a mantissa of ten bits.
    return [(CUDA_PROVIDER, {"device_id": cuda_device_id(device), "use_tf32": "0"}), "CPUExecutionProvider"]


def _load_cuda_libraries() -> None:
    """Load CUDA's libraries from the packages that pip installs, where the system's loader does not look."""
    load = getattr(onnxruntime, "preload_dlls", None)  # onnxruntime >= 1.21
    if load is not None:
        with redirect_stdout(sys.stderr):  # it prints what it does not find
            load()
