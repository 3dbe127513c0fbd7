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
    assert list(found) == [
        "amalgam-edge", "numpy", "tokenizers", "onnxruntime", "onnxruntime-gpu", "torch", "transformers", "optimum",
        "onnx", "onnxscript", "accelerate", "datasets",
    ]  # fmt: skip


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


@pytest.mark.parametrize(
    ("detected", "named"),
    [
        (["AVX2", "AVX512F", "AVX512VNNI", "SSE"], ("AVX2", "AVX512", "AVX512-VNNI")),
        (["AVX512VNNI", "AVX2"], ("AVX2", "AVX512-VNNI")),
        (["ASIMDDP", "ASIMD", "SVE"], ("NEON", "NEON-dotprod")),
        ([], ()),
    ],
)
def test_cpu_features_are_those_that_numpy_finds(monkeypatch, detected, named):
    from numpy._core import _multiarray_umath

    known = dict.fromkeys(["AVX2", "AVX512F", "AVX512VNNI", "SSE", "ASIMD", "ASIMDDP", "SVE"], False)
    monkeypatch.setattr(_multiarray_umath, "__cpu_features__", known | dict.fromkeys(detected, True))
    assert environment.cpu_features() == named


def test_the_machine_is_described_without_naming_it():
    machine = environment.describe_machine()
    assert set(machine) == {"system", "architecture", "cpu_features"}
    assert machine["architecture"] == platform.machine()
    assert (platform.node() or "no name") not in str(machine)
