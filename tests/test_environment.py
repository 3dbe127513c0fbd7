import platform
from importlib.metadata import PackageNotFoundError, version

import onnxruntime
import pytest

from amalgam_edge import environment


@pytest.fixture
def installed(monkeypatch):
    """``installed(name=version)``: what is installed, and nothing else."""

    def pretend(packages, providers=("CPUExecutionProvider",)):
        def found(name):
            if name not in packages:
                raise PackageNotFoundError(name)
            return packages[name]

        monkeypatch.setattr("importlib.metadata.version", found)
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: list(providers))

    return pretend


def test_versions_are_those_of_the_packages():
    found = environment.package_versions()
    for name in ("numpy", "tokenizers", "torch", "transformers", "onnx"):
        assert found[name] == version(name)
    assert {"amalgam-edge", "onnxruntime", "onnxruntime-gpu"} <= set(found)


def test_what_is_not_installed_has_no_version(installed):
    installed({"numpy": "2.0", "onnxruntime": "1.20"})
    found = environment.package_versions()
    assert {name: number for name, number in found.items() if number} == {"numpy": "2.0", "onnxruntime": "1.20"}
    assert environment.installed_versions() == {
        "python": platform.python_version(),
        "numpy": "2.0",
        "onnxruntime": "1.20",
    }


def test_one_runtime_is_no_problem(installed):
    installed({"onnxruntime": "1.31"})
    assert environment.problems() == ()
    installed({"onnxruntime-gpu": "1.31"}, ("CUDAExecutionProvider", "CPUExecutionProvider"))
    assert environment.problems() == ()


def test_both_runtimes_are_a_problem(installed):
    installed({"onnxruntime": "1.31", "onnxruntime-gpu": "1.31"}, ("CUDAExecutionProvider",))
    (problem,) = environment.problems()
    assert "overwrite" in problem
    assert "pip uninstall" in problem


def test_no_runtime_is_a_problem(installed):
    installed({"numpy": "2.0"})
    (problem,) = environment.problems()
    assert "amalgam-edge[cpu]" in problem


def test_a_gpu_runtime_without_gpu_is_a_problem(installed):
    installed({"onnxruntime-gpu": "1.31"})
    (problem,) = environment.problems()
    assert "CUDA" in problem


def test_providers_are_onnxruntimes(monkeypatch):
    assert "CPUExecutionProvider" in environment.execution_providers()
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    assert environment.execution_providers() == ()


def test_cpu_features_are_those_that_numpy_finds(monkeypatch):
    from numpy._core import _multiarray_umath

    monkeypatch.setattr(
        _multiarray_umath,
        "__cpu_features__",
        {"AVX2": True, "AVX512F": False, "AVX512VNNI": True, "SSE": True},
    )
    assert environment.cpu_features() == ("AVX2", "AVX512-VNNI")


def test_the_machine_is_described_without_naming_it():
    machine = environment.describe_machine()
    assert set(machine) == {"system", "architecture", "cpu_features"}
    assert machine["architecture"] == platform.machine()
    assert (platform.node() or "no name") not in str(machine)
