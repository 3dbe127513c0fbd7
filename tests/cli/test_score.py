from __future__ import annotations

import errno
import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import scipy.special
import scipy.stats
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

COMMAND = [sys.executable, "-m", "amalgam_edge.cli", "score"]
COLUMNS = {
    "text", "logits", "probabilities", "mean_probabilities", "predictive_entropy", "mutual_information", "energy",
    "passes",
}  # fmt: skip


def run_command(*arguments):
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False)


def table(folder):
    """All shards of one teacher."""
    return pq.ParquetDataset(sorted(folder.glob("shard-*.parquet"))).read()


def column(folder, name):
    return np.array(table(folder)[name].to_pylist())


def files(folder):
    """Everything below a folder, with the times at which it was written."""
    return {path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def two(inputs):
    """What scores the small corpus with both teachers, less ``--output``."""
    return [
        *("--teacher", inputs.a, "--teacher", f"second={inputs.b}", "--corpus", inputs.corpus),
        *("--passes", "3", "--seed", "5", "--backend", "torch", "--device", "cpu", "--threads", "1"),
    ]


@pytest.fixture(scope="module")
def scored(two, tmp_path_factory):
    """Scores by the real command, on torch. Read only."""
    output = tmp_path_factory.mktemp("scored") / "deep" / "scores"
    finished = run_command(*two, "--output", output)
    assert finished.returncode == 0, finished.stderr
    return SimpleNamespace(folder=output, stdout=finished.stdout, stderr=finished.stderr)


def test_each_teacher_gets_a_folder_of_parquet(scored, inputs):
    assert sorted(path.name for path in scored.folder.iterdir()) == ["a", "second"]
    for name in ("a", "second"):
        assert sorted(path.name for path in (scored.folder / name).iterdir()) == [
            "manifest.json",
            "shard-000000.parquet",
        ]
        assert set(table(scored.folder / name).column_names) == COLUMNS
        assert column(scored.folder / name, "text").tolist() == list(range(len(inputs.texts)))
        assert set(column(scored.folder / name, "passes")) == {3}


def test_rows_are_in_the_order_of_the_corpus(scored, inputs):
    for name, source in (("a", inputs.a), ("second", inputs.b)):
        model = AutoModelForSequenceClassification.from_pretrained(source).eval()
        tokenizer = AutoTokenizer.from_pretrained(source)
        logits = column(scored.folder / name, "logits")
        for row in (0, 17, len(inputs.texts) - 1):
            with torch.inference_mode():
                expected = model(**tokenizer(inputs.texts[row], return_tensors="pt")).logits[0]
            np.testing.assert_allclose(logits[row], expected, atol=1e-4)


def test_the_columns_fit_each_other(scored):
    folder = scored.folder / "a"
    logits, mean = column(folder, "logits").astype(float), column(folder, "mean_probabilities").astype(float)
    np.testing.assert_allclose(column(folder, "probabilities"), scipy.special.softmax(logits, axis=1), atol=1e-6)
    np.testing.assert_allclose(column(folder, "predictive_entropy"), scipy.stats.entropy(mean, axis=1), atol=1e-5)
    np.testing.assert_allclose(column(folder, "energy"), scipy.special.logsumexp(logits, axis=1), rtol=1e-5)
    information = column(folder, "mutual_information")
    assert (information >= 0).all()
    assert (information <= column(folder, "predictive_entropy") + 1e-6).all()
    assert information.max() > 0.01


def test_the_table_says_what_the_scores_come_to(scored, inputs):
    u = [
        scipy.stats.entropy(column(scored.folder / name, "mean_probabilities").astype(float), axis=1) / np.log(2)
        for name in ("a", "second")
    ]
    picked = (u[0] <= u[1]).mean()
    lines = [line.split() for line in scored.stdout.strip().splitlines()]
    assert lines[0] == ["teacher", "texts", "passes", "a", "text", "mean", "u", "picked"]
    assert lines[1] == ["a", str(len(inputs.texts)), "3.0", f"{u[0].mean():.3f}", f"{picked:.1%}"]
    assert lines[2] == ["second", str(len(inputs.texts)), "3.0", f"{u[1].mean():.3f}", f"{1 - picked:.1%}"]
    assert lines[-1] == ["scores:", str(scored.folder)]


def test_progress_names_each_step_and_what_runs_the_teachers(scored, inputs):
    steps = [line for line in scored.stderr.splitlines() if line.startswith("[")]
    assert steps == [
        "[1/4] reading texts",
        "[2/4] loading teachers",
        "[3/4] scoring with a, 3 passes, torch on cpu",
        "[4/4] scoring with second, 3 passes, torch on cpu",
    ]
    assert scored.stderr.count(f"{len(inputs.texts)} texts in ") == 2


def test_onnx_runtime_gives_the_same_tables(scored, two, inputs, invoke, tmp_path):
    one = ["--teacher", inputs.a, *two[4:]]
    finished = run_command(*one, "--backend", "onnxruntime", "--output", tmp_path / "scores")
    assert finished.returncode == 0, finished.stderr
    assert "scoring with a, 3 passes, onnxruntime on cpu" in finished.stderr
    for heading in COLUMNS:
        np.testing.assert_allclose(
            column(tmp_path / "scores" / "a", heading),
            column(scored.folder / "a", heading),
            rtol=0,
            atol=1e-4,
            err_msg=heading,
        )
    # What computes scores is no part of what they are: either backend goes on with what the other left.
    again = invoke("score", *two, "--output", tmp_path / "scores", "--resume")
    assert again.exit_code == 0, again.output


def test_a_begun_folder_is_not_gone_on_with_unasked(scored, two, mistake):
    before = files(scored.folder)
    message = mistake("score", *two, "--output", scored.folder)
    assert message.startswith(f"{scored.folder / 'a'}: holds scores already; --resume goes on with them")
    assert files(scored.folder) == before


def test_a_finished_run_has_nothing_left_to_do(scored, two, invoke, monkeypatch):
    def refuse(*_):
        raise AssertionError("a teacher was run again")

    monkeypatch.setattr("amalgam_edge.scoring.score.score_texts", refuse)
    before = files(scored.folder)
    again = invoke("score", *two, "--output", scored.folder, "--resume")
    assert again.exit_code == 0, again.output
    assert again.stdout == scored.stdout
    assert files(scored.folder) == before


def test_a_recipe_may_say_it_all(scored, two, inputs, invoke, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"teachers: [{inputs.a}, second={inputs.b}]\ncorpus: {inputs.corpus}\npasses: 3\nseed: 5\nepochs: 7\n"
        f"backend: torch\ndevice: cpu\noutput: {scored.folder}\n",
        "utf-8",
    )
    again = invoke("score", "--recipe", recipe, "--resume")
    assert again.exit_code == 0, again.output
    assert again.stdout == scored.stdout


def test_help_shows_examples_and_options(invoke):
    shown = invoke("score", "--help").output
    assert "Examples:" in shown
    assert "amalgam-edge score --teacher runs/a" in shown
    for option in ("--teacher", "--passes", "--backend", "--device", "--threads", "--precision", "--resume"):
        assert option in shown
    assert "[default: 10]" in shown
    assert "--student" not in shown


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (["--passes", "4"], "passes 3 there, 4 here"),
        (["--passes", "auto"], "passes 3 there, auto here"),
        (["--seed", "6"], "seed 5 there, 6 here"),
        (["--masks", "independent"], "masks systematic there, independent here"),
        (["--dropout", "0.3"], "dropout None there, 0.3 here"),
        (["--max-length", "9"], "max length 64 there, 9 here"),
    ],
)
def test_other_settings_do_not_go_on_with_these_scores(scored, two, mistake, changes, named):
    before = files(scored.folder)
    message = mistake("score", *two, *changes, "--output", scored.folder, "--resume")
    assert message.startswith(f"{scored.folder / 'a'}: holds scores of another run (")
    assert named in message
    assert files(scored.folder) == before


def test_another_corpus_or_teacher_does_not_go_on_with_these_scores(scored, inputs, two, mistake, tmp_path):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join(inputs.texts[:-1]), "utf-8")
    same_size = tmp_path / "same_size.txt"
    same_size.write_text("\n".join([*inputs.texts[:-1], "another"]), "utf-8")
    go_on = ["--output", scored.folder, "--resume"]
    message = mistake("score", *two, "--corpus", corpus, *go_on)
    assert "another corpus fingerprint" in message
    assert f"n texts {len(inputs.texts)} there, {len(inputs.texts) - 1} here" in message
    message = mistake("score", *two, "--corpus", same_size, *go_on)
    assert "(another corpus fingerprint)" in message
    others = ["--teacher", f"a={inputs.b}", "--corpus", inputs.corpus, "--passes", "3", "--seed", "5"]
    assert "(another teacher fingerprint)" in mistake("score", *others, "--backend", "torch", *go_on)


@pytest.mark.parametrize(
    ("file", "content", "named"),
    [
        ("manifest.json", "[]", "manifest.json: damaged"),
        ("manifest.json", "", "manifest.json: damaged"),
        ("shard-000000.parquet", "", "shard-000000.parquet: a damaged shard"),
        ("shard-000000.parquet", "PAR1 garbage PAR1", "shard-000000.parquet: a damaged shard"),
    ],
)
def test_damage_is_told_in_one_line_and_mends_itself_when_told_how(
    scored, two, invoke, mistake, tmp_path, file, content, named
):
    output = tmp_path / "scores"
    shutil.copytree(scored.folder, output)
    damaged = output / "second" / file
    damaged.write_text(content)
    before = files(output)
    assert named in mistake("score", *two, "--output", output, "--resume")
    assert files(output) == before
    if file.startswith("shard"):  # "delete it and score again"
        damaged.unlink()
        again = invoke("score", *two, "--output", output, "--resume")
        assert again.exit_code == 0, again.output
        assert table(output / "second").equals(table(scored.folder / "second"))


def with_config(source, folder, **changes):
    """A copy of a checkpoint with another config."""
    shutil.copytree(source, folder)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps(config | changes), "utf-8")
    return folder


def test_bad_input_is_refused_in_one_line_and_leaves_nothing(mistake, inputs, tmp_path, make_classifier):
    output = tmp_path / "scores"
    base = ["--corpus", inputs.corpus, "--output", output]
    a = ["--teacher", inputs.a]
    empty = tmp_path / "empty.txt"
    empty.touch()
    masked = with_config(inputs.a, tmp_path / "masked", architectures=["BertForMaskedLM"])
    regression = with_config(inputs.a, tmp_path / "regression", problem_type="regression")
    still = make_classifier(tmp_path / "still", ["x", "y"], dropout=0.0, layers=1)
    cases = [
        (base, "no teacher given: name one with --teacher"),
        ([*a, "--output", output], "given: name one with --corpus"),
        ([*a, "--corpus", inputs.corpus], "no output given: name one with --output"),
        (["--teacher", tmp_path / "nowhere", *base], "no such folder"),
        (["--teacher", masked, *base], "no sequence-classification head"),
        (["--teacher", regression, *base], "is a regression head"),
        (["--teacher", still, *base], "give --dropout P"),
        ([*a, "--teacher", f"a={inputs.b}", *base], "two teachers are called 'a'"),
        ([*a, *base, "--corpus", tmp_path / "gone.csv"], "gone.csv: no such file or folder"),
        ([*a, *base, "--corpus", empty], "the file is empty"),
        ([*a, *base, "--text-column", "body"], "no column 'body'"),
        ([*a, *base, "--passes", "1"], "passes"),
        ([*a, *base, "--max-passes", "1"], "max_passes"),
        ([*a, *base, "--threads", "0"], "threads"),
        ([*a, *base, "--batch-tokens", "0"], "batch_tokens"),
        ([*a, *base, "--seed", str(2**31)], "seed"),
        ([*a, *base, "--dropout", "1"], "dropout"),
        ([*a, *base, "--recipe", tmp_path / "gone.yaml"], "no such recipe"),
    ]
    if not torch.cuda.is_available():
        cases += [
            ([*a, *base, "--device", "cuda"], "--device cuda"),
            ([*a, *base, "--device", "cuda:7", "--backend", "torch"], "--device cuda:7"),
            ([*a, *base, "--device", "cuda", "--backend", "onnxruntime"], "give --backend torch or --device cpu"),
            ([*a, *base, "--device", "nonsense"], "--device nonsense"),
        ]
    for arguments, expected in cases:
        assert expected in mistake("score", *arguments), arguments
        assert not output.exists(), arguments


@pytest.mark.parametrize(
    ("option", "value", "named"),
    [
        ("--passes", "many", "'many' is neither a whole number nor auto"),
        ("--passes", "2.5", "'2.5'"),
        ("--backend", "tensorflow", "'onnxruntime', 'torch'"),
        ("--precision", "int8", "'fp32', 'fp16'"),
        ("--threads", "two", "'two'"),
    ],
)
def test_values_that_are_none_are_refused_by_click(invoke, inputs, tmp_path, option, value, named):
    result = invoke("score", "--teacher", inputs.a, "--corpus", inputs.corpus, option, value, "--output", tmp_path)
    assert result.exit_code == 2
    assert f"Invalid value for '{option}'" in result.output
    assert named in result.output


def test_what_is_not_given_is_named_as_it_is_written(mistake, inputs, tmp_path):
    assert mistake("score", "--teacher", inputs.a, "--output", tmp_path / "scores").startswith("no corpus given")


def test_a_teacher_without_dropout_is_scored_as_the_remedy_says(invoke, inputs, tmp_path, make_classifier):
    still = make_classifier(tmp_path / "still", ["x", "y"], dropout=0.0, layers=1)
    result = invoke(
        "score", "--teacher", still, "--corpus", inputs.corpus, "--passes", "2", "--backend", "torch",
        "--device", "cpu", "--dropout", "0.2", "--output", tmp_path / "scores",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert column(tmp_path / "scores" / "still", "mutual_information").max() > 0.01


def test_an_output_that_cannot_be_a_folder_is_refused(mistake, two, tmp_path):
    (tmp_path / "file").write_text("mine")
    for output in (tmp_path / "file", tmp_path / "file" / "scores"):
        assert f"{output / 'a'}: cannot be written to (Not a directory)" in mistake("score", *two, "--output", output)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("backend", ["torch", "onnxruntime"])
def test_half_precision_on_the_cpu_is_refused(mistake, two, tmp_path, backend):
    half = ["--backend", backend, "--precision", "fp16", "--output", tmp_path / "scores"]
    assert mistake("score", *two, *half) == "fp16 needs a GPU; use --precision fp32"
    assert not (tmp_path / "scores").exists()


def test_the_remedy_for_half_precision_works_in_the_same_folder(invoke, mistake, two, tmp_path):
    mistake("score", *two, "--precision", "fp16", "--output", tmp_path / "scores")
    result = invoke("score", *two, "--precision", "fp32", "--output", tmp_path / "scores")
    assert result.exit_code == 0, result.output


WITHOUT_ONNXRUNTIME = """
import sys
sys.modules["onnxruntime"] = None
from amalgam_edge.cli.main import main
main()
"""


def test_without_onnx_runtime_teachers_run_on_torch(two, tmp_path):
    auto = ["--backend", "auto", "--output", str(tmp_path / "scores")]
    finished = subprocess.run(
        [sys.executable, "-c", WITHOUT_ONNXRUNTIME, "score", *map(str, two), *auto],
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert "torch on cpu" in finished.stderr


@pytest.fixture(scope="module")
def crowd(make_classifier, invoke, tmp_path_factory):
    """Some thousand texts, twelve shards of them, a small teacher, and its scores by a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("crowd")
    teacher = make_classifier(folder / "teacher", ["x", "y", "z"], layers=1, hidden_size=16, intermediate_size=32)
    corpus = folder / "corpus.txt"
    corpus.write_text("\n".join(f"{('games', 'net', 'fonts')[k % 3]} {k}" for k in range(12_000)), "utf-8")
    options = [
        *("--teacher", teacher, "--corpus", corpus, "--passes", "3"),
        *("--backend", "torch", "--device", "cpu", "--threads", "1"),
    ]
    whole = invoke("score", *options, "--output", folder / "whole")
    assert whole.exit_code == 0, whole.output
    expected = table(folder / "whole" / "teacher")
    assert expected.num_rows == 12_000
    return SimpleNamespace(options=options, table=expected, stdout=whole.stdout)


def shards(output):
    return sorted(path.name for path in (output / "teacher").glob("shard-*.parquet"))


def assert_finishes(crowd, invoke, output):
    result = invoke("score", *crowd.options, "--output", output, "--resume")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[:-1] == crowd.stdout.splitlines()[:-1]
    assert table(output / "teacher").equals(crowd.table)


def wait_for_lines(process, output, count):
    for _ in range(count):
        assert process.stderr.readline()


def wait_for_manifest(process, output, _):
    while not (output / "teacher" / "manifest.json").exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.001)


def wait_for_new_shards(process, output, count):
    enough = len(shards(output)) + count
    while len(shards(output)) < enough:
        assert process.poll() is None
        time.sleep(0.001)


# What to wait for; and then a moment more, so that a kill falls into the middle of something.
MOMENTS = [
    (wait_for_lines, 1, 0.0),
    (wait_for_lines, 3, 0.1),
    (wait_for_manifest, 0, 0.0),
    (wait_for_lines, 5, 0.02),
    *((wait_for_new_shards, 1, random.Random(9).uniform(0.0, 0.15)) for _ in range(6)),
]


# Imports once, and then is forked for each line that it reads: what is killed ten times need not import ten times.
FORKS = """
import json, os, sys
import amalgam_edge.cli.score, amalgam_edge.building.scoring, transformers.models.auto.modeling_auto
from amalgam_edge.cli.main import main

for line in sys.stdin.buffer.raw:
    stderr, *arguments = json.loads(line)
    child = os.fork()
    if not child:
        os.dup2(os.open(stderr, os.O_WRONLY), 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.argv[1:] = arguments
        main()
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Forked:
    """A command in a fork of a process that runs ``FORKS``."""

    def __init__(self, parent, arguments, stderr):
        os.mkfifo(stderr)
        self._parent = parent
        parent.stdin.write(json.dumps([str(stderr), *map(str, arguments)]).encode() + b"\n")
        self._pid = int(parent.stdout.readline())
        self.stderr = stderr.open("rb")

    def poll(self):
        """None while it runs."""
        return self._status() if select.select([self._parent.stdout], [], [], 0)[0] else None

    def kill(self):
        """End it by kill -9; its exit status."""
        os.kill(self._pid, signal.SIGKILL)
        self.stderr.close()
        return self._status()

    def _status(self):
        return int(self._parent.stdout.readline())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_after_kill_9_at_ten_moments_the_tables_are_those_of_an_undisturbed_run(crowd, invoke, tmp_path):
    output = tmp_path / "scores"
    unmeasured = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "bufsize": 0}
    seen = []
    with subprocess.Popen([sys.executable, "-c", FORKS], env=unmeasured, **pipes) as parent:
        for number, (wait, count, delay) in enumerate(MOMENTS):
            resume = ["--resume"] if (output / "teacher").exists() else []
            command = ["score", *crowd.options, "--output", output, *resume]
            process = Forked(parent, command, tmp_path / f"stderr-{number}")
            try:
                wait(process, output, count)
                time.sleep(delay)
            finally:
                status = process.kill()
            assert status == -signal.SIGKILL
            assert shards(output)[: len(seen)] == seen
            seen = shards(output)
    assert 6 <= len(seen) < 12
    assert_finishes(crowd, invoke, output)


FULL_DISK = """
import resource, signal, sys
from amalgam_edge.cli.main import main
from amalgam_edge.scoring.store import ScoreStore

original = ScoreStore.write

def write(store, shard, scores, failures):
    if shard == 4:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
    try:
        original(store, shard, scores, failures)
    finally:  # whatever else this process writes, such as its coverage, has room
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

ScoreStore.write = write
main()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there are no resource limits")
def test_a_full_disk_ends_in_one_line_and_loses_nothing(crowd, invoke, tmp_path):
    output = tmp_path / "scores"
    full = subprocess.run(
        [sys.executable, "-c", FULL_DISK, "score", *map(str, crowd.options), "--output", str(output)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert full.returncode == 2, full.stderr
    assert full.stdout == ""
    assert full.stderr.splitlines()[-1].startswith(
        f"Error: {output / 'teacher'}: cannot be written to ({os.strerror(errno.EFBIG)});"
    )
    assert "Traceback" not in full.stderr
    assert sorted(path.name for path in (output / "teacher").iterdir()) == [
        "manifest.json",
        *(f"shard-00000{k}.parquet" for k in range(4)),
    ]
    assert_finishes(crowd, invoke, output)


@pytest.mark.parametrize("file", ["manifest.json", "shard-000000.parquet", "shard-000007.parquet"])
def test_no_space_left_ends_in_one_line_and_loses_nothing(crowd, invoke, mistake, tmp_path, monkeypatch, file):
    output = tmp_path / "scores"
    original = Path.write_bytes

    def write(path, content):
        if path.name.startswith(f".{file}."):  # the name that it has until it is whole
            original(path, bytes(content)[:100])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return original(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", write)
        message = mistake("score", *crowd.options, "--output", output)
    assert message.startswith(f"{output / 'teacher'}: cannot be written to (No space left on device);")
    written = ["manifest.json", *(f"shard-{k:06d}.parquet" for k in range(12))]
    assert sorted(path.name for path in (output / "teacher").iterdir()) == written[: written.index(file)]
    assert_finishes(crowd, invoke, output)
