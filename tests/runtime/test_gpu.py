"""Students on a GPU: what is refused, which precision is taken, and, where there is a GPU, what they answer."""

import asyncio
import sys

import numpy as np
import onnxruntime
import pytest
from click.testing import CliRunner

from amalgam_edge.cli.main import cli
from amalgam_edge.errors import AmalgamError
from amalgam_edge.runtime import Bundle, EdgeClassifier, model_runner, session
from amalgam_edge.runtime.bundle import MODEL_FILES
from amalgam_edge.serving import server
from amalgam_edge.serving.limits import Limits
from amalgam_edge.serving.metrics import ServerMetrics
from amalgam_edge.serving.models import LoadOptions, ModelRegistry
from tests.support import tiny
from tests.support.manifests import make_manifest, make_precision

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


def gpu_here():
    """Whether CUDA computes here; that ONNX Runtime was built with it does not tell."""
    import torch

    return CUDA in onnxruntime.get_available_providers() and torch.cuda.is_available()


has_gpu = pytest.mark.skipif(not gpu_here(), reason="no GPU here that onnxruntime-gpu could run students on")
no_gpu = pytest.mark.skipif(gpu_here(), reason="there is a GPU here")


def by_command(*arguments):
    """Run a command that a mistake of the user must end, and pass the mistake on."""
    raise CliRunner().invoke(cli, list(map(str, arguments))).exception


DOORS = {
    "EdgeClassifier": lambda folder, device: EdgeClassifier(Bundle.open(folder), device=device),
    "from_pretrained": lambda folder, device: EdgeClassifier.from_pretrained(folder, device=device),
    "predict": lambda folder, device: by_command("predict", folder, "a text", "--device", device),
    "serve": lambda folder, device: by_command("serve", folder, "--port", "0", "--device", device),
}


@pytest.fixture(params=DOORS)
def refused(request, bundle_folder, monkeypatch):
    """``refused(device)``: the line with which one of the doors refuses a device."""
    monkeypatch.setattr(server, "listen", lambda host, port: pytest.fail("it was not refused"))

    def refuse(device):
        with pytest.raises(AmalgamError) as error:
            DOORS[request.param](bundle_folder, device)
        assert "\n" not in str(error.value)
        return str(error.value)

    return refuse


@no_gpu
def test_without_the_provider_every_door_says_what_to_install(refused, monkeypatch):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CPU])
    line = "this onnxruntime has no CUDA provider; uninstall it and install amalgam-edge[gpu], or use --device cpu"
    assert refused("cuda") == f"--device cuda: {line}"
    assert refused("cuda:3") == f"--device cuda:3: {line}"


@no_gpu
def test_a_provider_that_cannot_be_used_is_never_replaced_by_the_cpu(refused, monkeypatch, capfd):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    assert "--device cuda" in refused("cuda")
    assert "Falling back" not in capfd.readouterr().out


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "CPU", "auto", ""])
def test_other_devices_are_refused(refused, device):
    assert "onnxruntime runs on cpu, cuda or cuda:N here" in refused(device)


def test_a_session_that_fails_on_the_gpu_says_where(bundle_folder, monkeypatch, capfd):
    """ONNX Runtime's own fallback would take the CPU and print that to standard output."""

    def fail(self, providers, *rest):
        raise RuntimeError("CUDA failure 101: invalid device ordinal\nat some line")

    monkeypatch.setattr(session, "_providers", lambda device: [CUDA, CPU])
    monkeypatch.setattr(onnxruntime.InferenceSession, "_create_inference_session", fail)
    with pytest.raises(AmalgamError, match=r"cannot load it on cuda:9 \(CUDA failure 101: invalid device ordinal\)"):
        EdgeClassifier.from_pretrained(bundle_folder, device="cuda:9")
    assert capfd.readouterr().out == ""


def test_what_loading_cuda_prints_goes_to_standard_error(monkeypatch, capfd):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    missing = "Failed to load libcudart.so\n"
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: sys.stdout.write(missing), raising=False)
    assert session._providers("cuda")[0][0] == CUDA
    assert capfd.readouterr() == ("", missing)
    monkeypatch.delattr(onnxruntime, "preload_dlls")  # older versions
    assert session._providers("cuda")[0][0] == CUDA


@pytest.mark.parametrize(
    ("precisions", "on_cpu", "on_gpu"),
    [
        (("fp32", "int8"), "int8", "fp32"),
        (("fp32", "int8", "fp16"), "int8", "fp16"),
        (("fp32", "q4", "w8"), "q4", "fp32"),
        (("int8",), "int8", "int8"),
        (("fp32",), "fp32", "fp32"),
    ],
)
def test_a_gpu_takes_floats_where_the_bundle_has_them(tmp_path, precisions, on_cpu, on_gpu):
    models = {name: make_precision(MODEL_FILES[name]) for name in precisions}
    bundle = Bundle(tmp_path, make_manifest(precisions=models, default_precision=on_cpu))
    assert bundle.default_precision_on("cpu") == on_cpu
    assert bundle.default_precision_on("cuda") == bundle.default_precision_on("cuda:1") == on_gpu


@pytest.mark.parametrize(("precision", "model"), [(None, "model.onnx"), ("int8", "model_quantized.onnx")])
def test_the_device_reaches_the_session_and_a_named_precision_is_taken(bundle_folder, monkeypatch, precision, model):
    opened, inner = [], model_runner.open_session

    def open_here(content, threads=None, device="cpu"):
        opened.append((content.path.name, device))
        return inner(content, threads)

    monkeypatch.setattr(model_runner, "open_session", open_here)
    classifier = EdgeClassifier.from_pretrained(bundle_folder, precision=precision, device="cuda")
    classifier(tiny.TEXTS * 40, batch_size=8)  # several batches
    assert opened == [(model, "cuda")]
    assert classifier.precision == (precision or "fp32")


@has_gpu
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_gpu_answers_as_the_cpu_does(bundle_folder, precision):
    texts = tiny.TEXTS * 20
    expected = EdgeClassifier.from_pretrained(bundle_folder, precision=precision).logits(texts)
    classifier = EdgeClassifier.from_pretrained(bundle_folder, precision=precision, device="cuda")
    assert classifier._model._runner._shared_session.get_providers()[0] == CUDA
    np.testing.assert_allclose(classifier.logits(texts), expected, atol=1e-3)


@has_gpu
def test_a_gpu_that_is_not_there_is_refused(bundle_folder):
    with pytest.raises(AmalgamError, match="cuda:99"):
        EdgeClassifier.from_pretrained(bundle_folder, device="cuda:99")


@has_gpu
def test_a_server_answers_on_a_gpu(bundle_folder):
    async def scenario():
        registry = ModelRegistry({"tiny": str(bundle_folder)}, LoadOptions(device="cuda"), Limits(), ServerMetrics())
        await registry.load()
        try:
            return await registry.get().run(tiny.TEXTS)
        finally:
            await registry.close()

    assert len(asyncio.run(scenario())) == len(tiny.TEXTS)
