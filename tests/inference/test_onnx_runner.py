import inspect

import numpy as np
import onnxruntime
import pytest
from filelock import FileLock

from amalgam_edge.dropout.masks import DROPOUT_OFF
from amalgam_edge.errors import AmalgamError
from amalgam_edge.exporters.teacher_export import export_teacher
from amalgam_edge.inference.onnx_runner import OnnxRunner
from amalgam_edge.inference.runner import prove_dropout_alive
from amalgam_edge.inference.torch_runner import TorchRunner
from amalgam_edge.models.teacher import load_teacher
from tests.support import tiny

PASSES = 8
CUDA = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
no_cuda = pytest.mark.skipif(not CUDA, reason="this onnxruntime has no CUDA provider: needs onnxruntime-gpu and a GPU")


@pytest.fixture(scope="session")
def exported(tmp_path_factory, make_classifier):
    """A tiny teacher with dropout, and the path of its ONNX file; made once whatever the number of workers."""
    shared = tmp_path_factory.getbasetemp()
    folder = (shared.parent if shared.name.startswith("popen-") else shared) / "onnx-runner"
    folder.mkdir(exist_ok=True)
    with FileLock(folder / "lock"):
        made = (folder / "made").exists()
        if not made:
            make_classifier(folder / "torch", ["a", "b", "c"], architecture="distilbert", dropout=0.2)
        teacher = load_teacher("t", str(folder / "torch"))
        if not made:
            export_teacher(teacher, folder / "teacher.onnx", passes=PASSES)
            (folder / "made").touch()
    return teacher, folder / "teacher.onnx"


@pytest.fixture(scope="session")
def path(exported):
    return exported[1]


@pytest.fixture
def probe(tokenizer):
    return {name: tensor.numpy() for name, tensor in tiny.padded(tokenizer, tiny.TEXTS[:4]).items()}


def in_torch(exported, seed=0):
    teacher, _ = exported
    return TorchRunner(teacher.model, teacher.sites, seed=seed, passes=PASSES, device="cpu")


@pytest.mark.parametrize("seed", [0, 1, 2**31 - 1])
def test_answers_are_those_of_torch(exported, path, probe, seed):
    passes = [DROPOUT_OFF, *range(PASSES), 3 * PASSES + 1]
    found = OnnxRunner(path, seed=seed).run(**probe, passes=passes)
    np.testing.assert_allclose(found, in_torch(exported, seed).run(**probe, passes=passes), atol=1e-4, rtol=1e-4)


def test_it_is_run_as_the_runner_in_torch_is(exported, path, probe):
    ours, theirs = OnnxRunner(path), in_torch(exported)
    assert ours.n_classes == theirs.n_classes == 3
    assert inspect.signature(ours.run) == inspect.signature(theirs.run)
    found, expected = (runner.run(**probe, passes=range(2)) for runner in (ours, theirs))
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype) == ((2, 4, 3), np.float32)
    assert found.flags.c_contiguous
    assert found.flags.owndata


def test_passes_come_in_the_order_asked_for(path, probe):
    runner = OnnxRunner(path, threads=1)
    asked = runner.run(**probe, passes=[5, DROPOUT_OFF, 2, 5])
    assert asked.shape == (4, 4, 3)
    np.testing.assert_array_equal(asked[0], asked[3])
    for position, number in enumerate([5, DROPOUT_OFF, 2]):
        np.testing.assert_array_equal(asked[position], runner.run(**probe, passes=[number])[0])
    assert np.abs(asked[0] - asked[2]).max() > 0.05
    assert np.abs(asked[0] - asked[1]).max() > 0.05


def test_no_passes_give_no_logits(path, probe):
    assert OnnxRunner(path).run(**probe, passes=[]).shape == (0, 4, 3)


def test_the_seed_chooses_the_masks(path, probe):
    first, same, other = (OnnxRunner(path, seed=s, threads=1).run(**probe, passes=[0]) for s in (1, 1, 2))
    default, zero = (OnnxRunner(path, threads=1, **seed).run(**probe, passes=[0]) for seed in ({}, {"seed": 0}))
    np.testing.assert_array_equal(default, zero)
    np.testing.assert_array_equal(first, same)
    assert np.abs(first - other).max() > 0.05
    off = [OnnxRunner(path, seed=s, threads=1).run(**probe, passes=[DROPOUT_OFF]) for s in (1, 2)]
    np.testing.assert_array_equal(*off)


def test_earlier_answers_are_not_overwritten(path, probe):
    runner = OnnxRunner(path)
    first = runner.run(**probe, passes=[0, 1])
    kept = first.copy()
    runner.run(**probe, passes=[2, 3])
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize("length", [24, 33, 64])
def test_padding_does_not_matter(path, tokenizer, length):
    runner, texts = OnnxRunner(path), tiny.TEXTS[:4]
    short = {name: tensor.numpy() for name, tensor in tiny.padded(tokenizer, texts).items()}
    assert short["input_ids"].shape[1] < length
    added = ((0, 0), (0, length - short["input_ids"].shape[1]))
    pad = tokenizer.pad_token_id
    longer = {
        "input_ids": np.pad(short["input_ids"], added, constant_values=pad),
        "attention_mask": np.pad(short["attention_mask"], added),
    }
    expected = runner.run(**short, passes=[DROPOUT_OFF, 0, 5])
    np.testing.assert_allclose(runner.run(**longer, passes=[DROPOUT_OFF, 0, 5]), expected, atol=1e-4, rtol=1e-4)


def test_a_text_does_not_depend_on_its_batch(path, probe):
    runner = OnnxRunner(path)
    together = runner.run(**probe, passes=range(3))
    for row in range(4):
        alone = {name: array[row : row + 1] for name, array in probe.items()}
        np.testing.assert_allclose(runner.run(**alone, passes=range(3))[:, 0], together[:, row], atol=1e-4)


def test_arrays_need_not_be_contiguous(path, probe):
    runner = OnnxRunner(path, threads=1)
    strided = {name: np.repeat(array, 2, axis=1)[:, ::2] for name, array in probe.items()}
    assert not any(array.flags.c_contiguous for array in strided.values())
    np.testing.assert_array_equal(runner.run(**strided, passes=[0, 3]), runner.run(**probe, passes=[0, 3]))


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_threads_do_not_matter(path, tokenizer, threads):
    inputs = {name: tensor.numpy() for name, tensor in tiny.padded(tokenizer, tiny.TEXTS).items()}
    expected = OnnxRunner(path).run(**inputs, passes=[DROPOUT_OFF, 0, 7])
    found = OnnxRunner(path, threads=threads).run(**inputs, passes=[DROPOUT_OFF, 0, 7])
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_live_dropout_is_proven(path, probe):
    prove_dropout_alive("t", OnnxRunner(path), **probe)


@pytest.mark.parametrize("content", [b"", b"no model", b"\x08\x0a" * 99], ids=["empty", "text", "bytes"])
def test_a_file_that_is_no_model_is_refused(tmp_path, content):
    file = tmp_path / "teacher.onnx"
    file.write_bytes(content)
    assert_refused(lambda: OnnxRunner(file), str(file))


def test_a_file_that_is_not_there_is_refused(tmp_path):
    assert_refused(lambda: OnnxRunner(tmp_path / "nowhere.onnx"), "nowhere.onnx")


def assert_refused(act, *words):
    with pytest.raises(AmalgamError) as refused:
        act()
    message = str(refused.value)
    assert "\n" not in message
    for word in words:
        assert word in message


# --- devices


@pytest.mark.skipif(CUDA, reason="this onnxruntime has a CUDA provider")
@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:3"])
def test_a_cuda_that_is_not_there_is_refused_and_never_the_cpu(path, device):
    assert_refused(lambda: OnnxRunner(path, device=device), f"--device {device}", "cpu", "amalgam-edge[gpu]")


@pytest.mark.parametrize("device", ["tpu", "", "mps", "CPU"])
def test_a_device_that_is_no_device_is_refused(path, device):
    assert_refused(lambda: OnnxRunner(path, device=device), f"--device {device}")


@pytest.mark.parametrize("device", ["cuda:x", "cudax", "cuda:-1"])
def test_a_cuda_device_without_a_number_is_refused(path, device, monkeypatch):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *args, **kwargs: pytest.fail("a session was opened"))
    assert_refused(lambda: OnnxRunner(path, device=device), f"--device {device}")


def test_a_cuda_provider_that_does_not_start_is_refused(path, monkeypatch):
    # onnxruntime itself goes on with the CPU: libraries missing, driver too old, no GPU.
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    inner = onnxruntime.InferenceSession

    def start(content, options, providers, **rest):
        return inner(content, options, providers=["CPUExecutionProvider"], **rest)

    monkeypatch.setattr(onnxruntime, "InferenceSession", start)
    assert_refused(lambda: OnnxRunner(path, device="cuda"), "--device cuda", "CUDA")


@no_cuda
def test_a_cuda_device_beyond_the_last_is_refused(path):
    assert_refused(lambda: OnnxRunner(path, device="cuda:99"), "cuda:99")


@no_cuda
@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_a_cuda_device_gives_the_logits_of_the_cpu_pass_by_pass(path, probe, device):
    passes = [DROPOUT_OFF, 5, 0, PASSES + 3, 5]
    cpu, cuda = (OnnxRunner(path, seed=4, device=name).run(**probe, passes=passes) for name in ("cpu", device))
    np.testing.assert_allclose(cuda, cpu, atol=1e-3)
    assert np.abs(cuda[1] - cuda[2]).max() > 0.05
    np.testing.assert_array_equal(cuda[1], cuda[4])
