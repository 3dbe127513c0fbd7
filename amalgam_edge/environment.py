"""This machine and this installation: package versions, ONNX Runtime providers, CPU features."""

from __future__ import annotations

import platform
import re
import sys

_PACKAGES = (
    "amalgam-edge",
    "numpy",
    "tokenizers",
    "onnxruntime",
    "onnxruntime-gpu",
    "torch",
    "transformers",
    "optimum",
    "onnx",
    "onnxscript",
    "accelerate",
    "datasets",
)
RUNTIMES = ("onnxruntime", "onnxruntime-gpu")
CUDA_PROVIDER = "CUDAExecutionProvider"
CUDA_DEVICE = re.compile(r"cuda(:\d+)?")
# CPU features that decide how fast, and how exactly, int8 models run: numpy's name and the usual one.
_FEATURES = {
    "AVX2": "AVX2",
    "AVX512F": "AVX512",
    "AVX512VNNI": "AVX512-VNNI",
    "ASIMD": "NEON",
    "ASIMDDP": "NEON-dotprod",
}


def package_versions() -> dict[str, str | None]:
    """Installed version of each package that the library may use; None where it is not installed."""
    return {name: _version(name) for name in _PACKAGES}


def own_version() -> str:
    """Version of amalgam-edge; 0 in a source tree that was never installed."""
    return _version("amalgam-edge") or "0"


def installed_versions() -> dict[str, str]:
    """Version of Python and of each package that is installed and that the library may use."""
    found = {name: number for name, number in package_versions().items() if number is not None}
    return {"python": platform.python_version(), **found}


def cpu_features() -> tuple[str, ...]:
    """CPU features of this machine that int8 kernels use, as numpy detects them."""
    try:
        from numpy._core._multiarray_umath import __cpu_features__ as detected
    except ImportError:  # numpy < 2
        from numpy.core._multiarray_umath import __cpu_features__ as detected  # type: ignore[no-redef]
    return tuple(name for key, name in _FEATURES.items() if detected.get(key))


def execution_providers() -> tuple[str, ...]:
    """Execution providers of the installed ONNX Runtime; empty where it is not installed."""
    try:
        import onnxruntime
    except ImportError:
        return ()
    return tuple(onnxruntime.get_available_providers())


def problems() -> tuple[str, ...]:
    """Problems of this installation, each in one line with what to do about it."""
    found = []
    runtimes = [name for name in RUNTIMES if _version(name)]
    if len(runtimes) > 1:
        found.append(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files: "
            "pip uninstall both, then install one (amalgam-edge[cpu] or amalgam-edge[gpu])"
        )
    if not runtimes:
        found.append('no ONNX Runtime is installed: pip install "amalgam-edge[cpu]" (or [gpu])')
    if runtimes == ["onnxruntime-gpu"] and CUDA_PROVIDER not in execution_providers():
        found.append("onnxruntime-gpu is installed but finds no CUDA here; [cpu] is smaller and does the same")
    return tuple(found)


def describe_machine() -> dict[str, object]:
    """Operating system, architecture and CPU features, which latencies depend on."""
    return {"system": sys.platform, "architecture": platform.machine(), "cpu_features": list(cpu_features())}


def _version(name: str) -> str | None:
    from importlib import metadata  # takes 30 ms, and only reports need it

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
