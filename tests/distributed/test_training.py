"""Training on several processes comes to what one process comes to, and goes on when one of them dies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import datasets
import numpy as np
import psutil
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file

from amalgam_edge.building import launched_process
from amalgam_edge.building.data import BuildTexts, Student, TokenizedCorpus, TrainingData
from amalgam_edge.building.training_job import TRAIN, read_texts, write_job
from amalgam_edge.cli.main import cli
from amalgam_edge.errors import AmalgamError
from amalgam_edge.methods import TeacherSignals
from amalgam_edge.methods.supervision import Supervision
from amalgam_edge.recipe.recipe import Recipe
from amalgam_edge.scoring.hidden_states import HiddenStates
from tests.support import fits
from tests.support.heads import one_head
from tests.support.interrupted import assert_same_model

pytestmark = pytest.mark.distributed
TESTS = Path(__file__).parents[1]


def torchrun(*arguments, n=2, **options):
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "localhost"),
        *("--nproc-per-node", str(n), *map(str, arguments)),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS.parent)}
    result = subprocess.run(
        command, env=environment, capture_output=True, text=True, encoding="utf-8", timeout=240, check=False, **options
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Folders of what one process came to, and two."""
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    torchrun(TESTS / "support" / "fits.py", two)
    for method in fits.METHOD_NAMES:
        fits.run(method, one)
    return one, two


def assert_same_weights(found, expected, atol):
    """But for the biases of attention's keys: they change no softmax, and their gradients are nothing but rounding."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        if not name.endswith("key.bias"):
            np.testing.assert_allclose(found[name], tensor, atol=atol, rtol=0, err_msg=name)


@pytest.mark.parametrize("method", fits.METHOD_NAMES)
def test_two_processes_make_the_steps_of_one(both, method):
    """Uneven weights, a batch that one process has no text of, a loss that is a statistic of the batch, parameters of
    an objective: none of it makes a difference."""
    one, two = (load_file(folder / f"{method}.safetensors") for folder in both)
    assert_same_weights(two, one, atol=5e-6)
    assert np.abs(one["student.classifier.weight"] - fits.new_model().classifier.weight.detach().numpy()).max() > 1e-3
    curves = [json.loads((folder / f"{method}.json").read_text("utf-8")) for folder in both]
    assert len(curves[0]) == len(curves[1])
    for found, expected in zip(curves[1], curves[0], strict=True):
        assert found == pytest.approx(expected, abs=1e-5)


def training_data(folder):
    """Ten texts of which six are trained on, three labels, a teacher's logits, and hidden states in a file."""
    rng = np.random.default_rng(0)
    np.save(folder / "hidden.npy", rng.normal(size=(10, 3)).astype(np.float16))
    dataset = datasets.Dataset.from_dict({"input_ids": [[2, *range(9, 10 + k), 3] for k in range(10)]})
    train, held_out = np.array([0, 2, 3, 5, 8, 9]), np.array([1, 4, 6, 7])
    target, weight = rng.dirichlet(np.ones(3), size=10).astype(np.float32), rng.random(10, dtype=np.float32)
    data = TrainingData(
        texts=BuildTexts(None, train, held_out, None),
        tokenized=TokenizedCorpus(dataset, 0),
        heads=one_head({"t": ["a", "b", "c"]}),
        scores=(),
        supervision=Supervision(target, weight, np.full(10, -1)),
        signals=TeacherSignals(
            (rng.normal(size=(10, 3)).astype(np.float32),), (HiddenStates.mapped([folder / "hidden.npy"], 16),)
        ),
    )
    return data, folder / "hidden.npy"


@pytest.fixture(scope="module")
def build_options(tmp_path_factory, make_classifier):
    """What every build here needs, less ``--output``; the student has no dropout, whose masks depend on the process."""
    folder = tmp_path_factory.mktemp("inputs")
    words = {"games": "chess cards dice puzzle", "net": "mail server proxy router", "text": "editor words lines diff"}
    texts = [f"{a} {b} {c}" for own in words.values() for a in own.split() for b in own.split() for c in ("x", "y z")]
    corpus = folder / "corpus.txt"
    corpus.write_text("\n".join(texts), "utf-8")
    student = make_classifier(folder / "student", ["x", "y"], seed=2, layers=2, dropout=0.0)
    return [
        *("--teacher", make_classifier(folder / "a", ["games", "net"])),
        *("--teacher", make_classifier(folder / "b", ["net", "text"], architecture="distilbert", seed=1)),
        *("--corpus", corpus, "--student", student, "--passes", "2", "--backend", "torch", "--device", "cpu"),
        *("--method", "cfl", "--common-width", "8", "--epochs", "8", "--batch-size", "8"),
        *("--max-disagreement", "1", "--held-out", "15", "--work", folder / "work"),
    ]


@pytest.fixture(scope="module")
def invoke():
    def run(*arguments):
        return CliRunner().invoke(cli, [str(argument) for argument in arguments])

    return run


@pytest.fixture(scope="module")
def alone(invoke, build_options, tmp_path_factory):
    """A bundle that one process built."""
    bundle = tmp_path_factory.mktemp("alone") / "student"
    result = invoke("build", *build_options, "--output", bundle)
    assert result.exit_code == 0, result.output
    return bundle


def assert_same_bundle(found, expected):
    manifests = [json.loads((bundle / "amalgam.json").read_text("utf-8")) for bundle in (found, expected)]
    assert manifests[0]["supervision"] == manifests[1]["supervision"]
    assert manifests[0]["recipe_fingerprint"] == manifests[1]["recipe_fingerprint"]
    curves = [
        [entry["held_out_loss"] for entry in manifest["training"] if "held_out_loss" in entry] for manifest in manifests
    ]
    np.testing.assert_allclose(curves[0], curves[1], rtol=1e-4)
    assert_same_model(found, expected)


def test_a_build_that_launches_two_processes_comes_to_the_same_bundle(alone, invoke, build_options, tmp_path):
    result = invoke("build", *build_options, "--launch", "2", "--output", tmp_path / "student")
    assert result.exit_code == 0, result.output
    assert_same_bundle(tmp_path / "student", alone)
    assert "updates in" in result.stderr
    assert not list(Path(build_options[-1]).glob("training*"))


def test_processes_that_torchrun_started_come_to_the_same_bundle(alone, tmp_path):
    started = torchrun("-m", "amalgam_edge.cli.training", alone / "recipe.yaml", "--output", tmp_path / "student")
    assert_same_bundle(tmp_path / "student", alone)
    assert started.stdout.count("bundle: ") == 1  # the first one alone speaks
    assert started.stderr.count("reading texts") == 1
    assert "Loading weights" not in started.stderr  # what libraries say of themselves


def test_what_a_process_reads_is_mapped_and_not_in_its_memory(tmp_path, random_classifier, tokenizer):
    """Of target, weight, and what teachers say; rows and tokens are those of the corpus' training texts."""
    data, hidden = training_data(tmp_path)
    student = Student(random_classifier(("a", "b", "c"), layers=1), tokenizer)
    write_job(tmp_path / "job", student, data, Recipe().method, Recipe().training)
    texts = read_texts(tmp_path / "job", TRAIN)
    signals = [*texts.signals.logits, *(part.source.shards[0] for part in texts.signals.hidden)]
    for array in (texts.supervision.target, texts.supervision.weight, *signals):
        assert isinstance(array, np.memmap)
    assert [Path(part.source.shards[0].filename) for part in texts.signals.hidden] == [hidden]  # where it was
    assert datasets.load_from_disk(str(tmp_path / "job" / TRAIN / "tokens")).cache_files
    for k, row in enumerate(data.texts.train):
        assert texts[k]["input_ids"] == data.tokenized.dataset[int(row)]["input_ids"]
        np.testing.assert_array_equal(texts[k]["target"], data.supervision.target[row])
        np.testing.assert_array_equal(texts[k]["weight"], data.supervision.weight[row])
        for name, parts in (("teacher_logits", data.signals.logits), ("teacher_hidden", data.signals.hidden)):
            for found, expected in zip(texts[k][name], parts, strict=True):
                np.testing.assert_array_equal(found, expected[int(row)])


def process_of(parent, rank):
    """The process of a rank among those that a build started."""
    return next(
        child
        for child in psutil.Process(parent).children(recursive=True)
        if child.environ().get("RANK") == str(rank) and launched_process.__name__ in child.cmdline()
    )


def test_a_build_goes_on_after_one_of_its_processes_was_killed(alone, invoke, build_options, tmp_path):
    work = tmp_path / "work"
    command = ["build", *build_options[:-1], work, "--launch", "2", "--output", tmp_path / "student"]
    with subprocess.Popen(
        [sys.executable, "-m", "amalgam_edge.cli", *map(str, command)],
        stderr=subprocess.PIPE, text=True, encoding="utf-8",
    ) as build:  # fmt: skip
        try:
            while not list(work.glob("training-*/checkpoint-*/complete")):
                assert build.poll() is None, build.stderr.read()
                time.sleep(0.02)
            process_of(build.pid, 1).kill()
            told = build.communicate(timeout=120)[1]
        finally:
            build.kill()
    assert build.returncode == 2, told
    (error,) = [line for line in told.splitlines() if line.startswith("Error: ")]
    assert "process 1 was ended by signal 9" in error
    assert "--resume" in error
    assert "Traceback" not in told
    assert not (tmp_path / "student").exists()

    result = invoke(*command, "--resume")
    assert result.exit_code == 0, result.output
    assert_same_bundle(tmp_path / "student", alone)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--batch-size", "7"], "--batch-size 7: 2 processes cannot share it evenly; use 8"),
        (["--launch", "0"], "launch"),
    ],
)
def test_what_cannot_be_shared_is_refused_at_once(invoke, build_options, tmp_path, options, expected):
    result = invoke("build", *build_options, "--launch", "2", *options, "--output", tmp_path / "student")
    assert isinstance(result.exception, AmalgamError)
    assert expected in str(result.exception)
