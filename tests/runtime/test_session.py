import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from amalgam_edge import cores
from amalgam_edge.errors import AmalgamError
from amalgam_edge.runtime import session
from amalgam_edge.runtime.session import open_session
from amalgam_edge.storage.own_files import FileContent


@pytest.fixture
def doubling(tmp_path):
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "g", value[:1], value[1:])
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def test_paths_and_contents_are_loaded(doubling):
    for model in (doubling, str(doubling), FileContent.read(doubling)):
        opened = open_session(model, threads=1)
        assert opened.run(["y"], {"x": np.array([1.5], dtype=np.float32)})[0].tolist() == [3.0]
        assert opened.get_providers() == ["CPUExecutionProvider"]


@pytest.fixture
def four_cores(monkeypatch):
    monkeypatch.setattr(cores, "usable_cores", lambda: 4)


def test_the_number_of_threads_is_passed_on(doubling, four_cores):
    assert open_session(doubling, threads=3).get_session_options().intra_op_num_threads == 3


@pytest.mark.parametrize("threads", [None, 4, 64])
def test_there_is_one_thread_per_usable_core_at_most(doubling, four_cores, threads):
    """0 would be all cores of the machine, which a container may not use."""
    assert open_session(doubling, threads=threads).get_session_options().intra_op_num_threads == 4


@pytest.mark.parametrize("content", [b"", b"this is no model\nat all", b"\x00" * 100])
def test_content_that_is_no_model_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(AmalgamError, match="onnxruntime cannot load it") as refused:
        open_session(path)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)
    with pytest.raises(AmalgamError, match="onnxruntime cannot load it") as refused:
        open_session(FileContent.read(path))
    assert str(path) in str(refused.value)


def test_a_model_cut_short_is_refused(doubling):
    doubling.write_bytes(doubling.read_bytes()[:-10])
    with pytest.raises(AmalgamError, match="cannot load"):
        open_session(doubling)


def test_a_missing_model_is_refused(tmp_path):
    with pytest.raises(AmalgamError, match="nowhere"):
        open_session(tmp_path / "nowhere.onnx")


def test_without_a_runtime_the_extra_is_named():
    code = (
        "import sys; sys.modules['onnxruntime'] = None\n"
        "from amalgam_edge.errors import AmalgamError\n"
        "try:\n    from amalgam_edge.runtime import EdgeClassifier\n"
        "except AmalgamError as error:\n    print(error)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == 'running a model needs onnxruntime: pip install "amalgam-edge[cpu]"'


def test_warnings_of_the_runtime_are_not_logged(doubling):
    assert open_session(doubling).get_session_options().log_severity_level == 3


@pytest.mark.parametrize(("device", "number"), [("cuda", 0), ("cuda:0", 0), ("cuda:3", 3)])
def test_cuda_sessions_keep_to_float32_and_fall_back_to_the_cpu_for_single_operations(monkeypatch, device, number):
    available = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(session.onnxruntime, "get_available_providers", lambda: available)
    cuda = ("CUDAExecutionProvider", {"device_id": number, "use_tf32": "0"})
    assert session._providers(device) == [cuda, "CPUExecutionProvider"]
    assert session.cuda_device_id(device) == number


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "CPU", "", None, 0])
def test_unknown_devices_are_refused(doubling, device):
    with pytest.raises(AmalgamError, match="onnxruntime runs on cpu, cuda or cuda:N here"):
        open_session(doubling, device=device)
