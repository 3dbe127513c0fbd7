from __future__ import annotations

import shutil
import tempfile

import numpy as np
import pytest
import scipy.special
import torch

from amalgam_edge import cores
from amalgam_edge.dropout.masks import DROPOUT_OFF
from amalgam_edge.errors import AmalgamError
from amalgam_edge.exporters import teacher_export
from amalgam_edge.models.teacher import load_teacher
from amalgam_edge.scoring import backends
from amalgam_edge.scoring.backends import Backend, resolve_backend
from amalgam_edge.scoring.score import ScoringSettings, score_texts
from amalgam_edge.scoring.scores import ARRAYS
from tests.support import tiny

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


@pytest.fixture
def machine(monkeypatch):
    """``machine(runtime=…, torch_cuda=…)``: what this machine pretends to have."""

    def pretend(*, runtime: str | None, torch_cuda: bool):
        providers = {None: (), "cpu": (CPU,), "cuda": (CUDA, CPU)}[runtime]
        monkeypatch.setattr(backends, "execution_providers", lambda: providers)
        monkeypatch.setattr(backends, "find_spec", lambda name: object() if runtime else None)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: torch_cuda)
        if torch_cuda:  # the device cannot really be had here
            monkeypatch.setattr(
                backends, "resolve_device", lambda device: torch.device("cuda" if device == "auto" else device)
            )

    return pretend


@pytest.mark.parametrize(
    ("runtime", "torch_cuda", "asked", "found"),
    [
        (None, False, ("auto", "auto"), ("torch", "cpu")),
        (None, False, ("auto", "cpu"), ("torch", "cpu")),
        (None, True, ("auto", "auto"), ("torch", "cuda")),
        ("cpu", False, ("auto", "auto"), ("onnxruntime", "cpu")),
        ("cpu", False, ("auto", "cpu"), ("onnxruntime", "cpu")),
        ("cpu", False, ("torch", "auto"), ("torch", "cpu")),
        ("cpu", False, ("onnxruntime", "auto"), ("onnxruntime", "cpu")),
        ("cpu", True, ("auto", "auto"), ("torch", "cuda")),
        ("cpu", True, ("auto", "cuda:1"), ("torch", "cuda:1")),
        ("cpu", True, ("auto", "cpu"), ("onnxruntime", "cpu")),
        ("cpu", True, ("onnxruntime", "auto"), ("onnxruntime", "cpu")),
        ("cpu", True, ("torch", "cpu"), ("torch", "cpu")),
        ("cuda", True, ("auto", "auto"), ("torch", "cuda")),
        ("cuda", True, ("auto", "cuda:1"), ("torch", "cuda:1")),
        ("cuda", True, ("onnxruntime", "auto"), ("onnxruntime", "cuda")),
        ("cuda", False, ("auto", "auto"), ("onnxruntime", "cuda")),
        ("cuda", False, ("auto", "cuda:1"), ("onnxruntime", "cuda:1")),
        ("cuda", True, ("auto", "cpu"), ("onnxruntime", "cpu")),
        ("cuda", True, ("torch", "auto"), ("torch", "cuda")),
    ],
)
def test_what_runs_teachers_and_where(machine, runtime, torch_cuda, asked, found):
    machine(runtime=runtime, torch_cuda=torch_cuda)
    backend = resolve_backend(*asked, threads=3)
    assert (backend.name, backend.device, backend.threads) == (*found, 3)


@pytest.mark.parametrize(
    ("runtime", "torch_cuda", "asked", "remedy"),
    [
        (None, True, ("onnxruntime", "auto"), 'pip install "amalgam-edge[cpu]"'),
        (None, False, ("auto", "cuda"), "use --device cpu"),
        ("cpu", False, ("auto", "cuda"), "use --device cpu"),
        ("cpu", False, ("torch", "cuda"), "use --device cpu"),
        ("cpu", False, ("torch", "cuda:1"), "use --device cpu"),
        ("cpu", False, ("torch", "nonsense"), "use --device cpu"),
        ("cpu", False, ("auto", "nonsense"), "use --device cpu"),
        ("cpu", False, ("onnxruntime", "cuda"), "amalgam-edge[gpu], or give --backend torch or --device cpu"),
        ("cpu", True, ("onnxruntime", "cuda:1"), "amalgam-edge[gpu], or give --backend torch or --device cpu"),
        ("cpu", False, ("onnxruntime", "nonsense"), "--device cpu"),
        ("cuda", False, ("torch", "cuda"), "use --device cpu"),
        ("cuda", True, ("onnxruntime", "nonsense"), "--device cpu"),
        ("cuda", True, ("onnxruntime", "cuda:x"), "--device cpu"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_refused_with_a_remedy(machine, runtime, torch_cuda, asked, remedy):
    machine(runtime=runtime, torch_cuda=torch_cuda)
    with pytest.raises(AmalgamError) as refused:
        resolve_backend(*asked)
    message = str(refused.value)
    assert remedy in message
    assert message.startswith(("--device " + asked[1], "--backend " + asked[0]))
    assert "\n" not in message


@pytest.mark.parametrize("name", ["torch", "onnxruntime"])
@pytest.mark.parametrize(("device", "tokens"), [("cpu", 1024), ("cuda", 16_384), ("cuda:1", 16_384)])
def test_batches_are_sixteen_times_as_large_on_a_gpu(name, device, tokens):
    assert Backend(name, device).batch_tokens == tokens


def test_a_backend_says_what_it_is():
    assert str(Backend("torch", "cuda:1")) == "torch on cuda:1"


@pytest.fixture(scope="module")
def teacher(tmp_path_factory, make_classifier):
    folder = make_classifier(tmp_path_factory.mktemp("teacher"), ["a", "b", "c"], layers=1)
    return load_teacher("t", str(folder), max_length=32)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    return tmp_path_factory.mktemp("exports")


@pytest.fixture
def exported_once(monkeypatch, kept):
    """Exports that differ in nothing are made once."""
    original = teacher_export.export_teacher

    def export(teacher, path, **options):
        copy = kept / "-".join(map(str, [teacher.name, *options.values()]))
        if not copy.exists():
            original(teacher, copy, **options)
        shutil.copy(copy, path)

    monkeypatch.setattr(teacher_export, "export_teacher", export)


@pytest.fixture
def any_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def scored(backend, teacher, settings):
    runner = backend.open(teacher, settings)
    return score_texts([teacher], [runner], tiny.TEXTS, settings, lambda count: None)[0]


SETTINGS = ScoringSettings(passes=4, seed=2)


@pytest.mark.parametrize("name", ["torch", "onnxruntime"])
def test_scores_do_not_depend_on_threads(teacher, exported_once, any_threads, name):
    one, two = (scored(Backend(name, "cpu", threads), teacher, SETTINGS) for threads in (1, 2))
    for array in ARRAYS:
        np.testing.assert_allclose(getattr(one, array), getattr(two, array), rtol=0, atol=1e-5, err_msg=array)


def test_torch_takes_the_threads_that_were_asked_for_but_one_per_usable_core_at_most(teacher, any_threads, monkeypatch):
    monkeypatch.setattr(cores, "usable_cores", lambda: 2)
    for threads, found in ((2, 2), (1, 1), (64, 2)):
        Backend("torch", "cpu", threads).open(teacher, SETTINGS)
        assert torch.get_num_threads() == found


def test_both_backends_say_the_same(teacher, exported_once):
    on_torch, on_onnxruntime = (scored(Backend(name, "cpu"), teacher, SETTINGS) for name in ("torch", "onnxruntime"))
    for array in ARRAYS:
        np.testing.assert_allclose(
            getattr(on_torch, array), getattr(on_onnxruntime, array), rtol=0, atol=1e-4, err_msg=array
        )
    assert on_torch.mutual_information.max() > 0.01


def test_an_export_for_scoring_leaves_no_file(teacher, exported_once, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    Backend("onnxruntime", "cpu").open(teacher, SETTINGS)
    assert list(tmp_path.iterdir()) == []


def test_half_precision_on_the_cpu_is_refused_by_torch_with_the_remedy(teacher):
    with pytest.raises(AmalgamError, match="fp16 needs a GPU; use --precision fp32"):
        Backend("torch", "cpu").open(teacher, ScoringSettings(passes=4, precision="fp16"))


def test_a_teacher_in_half_precision_answers_nearly_as_in_float32(teacher, exported_once):
    """Under the same masks, so that a pass differs by rounding alone and far less than passes do among themselves."""
    inputs = {name: tensor.numpy() for name, tensor in tiny.padded(teacher.tokenizer, tiny.TEXTS).items()}
    numbers = [DROPOUT_OFF, 0, 3]
    half, full = (
        scipy.special.softmax(
            Backend("onnxruntime", "cpu")
            .open(teacher, ScoringSettings(passes=4, seed=2, precision=precision))
            .run(*inputs.values(), numbers),
            axis=-1,
        )
        for precision in ("fp16", "fp32")
    )
    assert half.dtype == np.float32
    assert 0 < np.abs(half - full).max() < 0.02
    assert np.abs(full[1] - full[2]).max() > 0.2
