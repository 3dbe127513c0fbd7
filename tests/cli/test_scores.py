"""Scores in other places than a local folder, with texts that fail, inspected, verified, joined."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

from amalgam_edge.corpus import read_corpus
from amalgam_edge.inference.torch_runner import TorchRunner
from amalgam_edge.scoring.store import ScoreStore

OPTIONS = ["--passes", "2", "--backend", "torch", "--device", "cpu", "--threads", "1"]


@pytest.fixture(scope="module")
def two(inputs):
    return ["--teacher", inputs.a, "--teacher", f"second={inputs.b}", "--corpus", inputs.corpus, *OPTIONS]


@pytest.fixture(scope="module")
def scored(invoke, two, tmp_path_factory):
    """Scores in a local folder. Read only."""
    output = tmp_path_factory.mktemp("scored") / "scores"
    result = invoke("score", *two, "--output", output)
    assert result.exit_code == 0, result.output
    return output


@pytest.fixture
def poisoned(monkeypatch, inputs):
    """A text over which teacher b raises."""
    original = TorchRunner.run
    seen = []

    def run(self, input_ids, attention_mask, passes):
        if self._model.config.model_type == "distilbert":
            texts = [row[mask == 1].tolist() for row, mask in zip(input_ids, attention_mask, strict=True)]
            seen.append(texts[0]) if not seen else None
            if seen[0] in texts:
                raise RuntimeError("too deep")
        return original(self, input_ids, attention_mask, passes)

    monkeypatch.setattr(TorchRunner, "run", run)
    return seen


def test_scores_and_texts_may_lie_in_an_object_store(invoke, mistake, two, scored, inputs, bucket):
    import fsspec

    fsspec.filesystem("s3").put(str(inputs.corpus), f"{bucket}/texts/part.jsonl")
    options = [*two, "--corpus", f"{bucket}/texts/*.jsonl", "--output", f"{bucket}/scores/"]
    result = invoke("score", *options)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == f"scores: {bucket}/scores/"
    for name in ("a", "second"):
        with fsspec.open(f"{bucket}/scores/{name}/shard-000000.parquet") as file:
            assert pq.read_table(file).equals(pq.read_table(scored / name / "shard-000000.parquet"))
    assert mistake("score", *options).startswith(f"{bucket}/scores/a: holds scores already; --resume goes on")
    assert invoke("score", *options, "--resume").stdout == result.stdout
    assert invoke("scores", "verify", f"{bucket}/scores").exit_code == 0
    assert "passes: 2 on" in invoke("inspect", f"{bucket}/scores").output


@pytest.mark.parametrize("option", ["--output", "--work"])
def test_a_build_elsewhere_is_refused(mistake, build_options, tmp_path, option):
    message = mistake("build", *build_options, "--output", tmp_path / "student", option, "s3://bucket/student")
    assert message.startswith(f"{option} s3://bucket/student: a build needs a local folder")


def test_inspect_shows_what_is_in_the_shards(invoke, scored, inputs):
    shown = invoke("inspect", scored).output
    lines = [line.split() for line in shown.splitlines()]
    n = str(len(inputs.texts))
    assert lines[1][:4] == ["a", n, n, "0"]
    assert lines[2][:4] == ["second", n, n, "0"]
    assert "1 of 1" in shown
    assert "1 shards by amalgam-edge" in shown
    assert "engine local, torch on cpu" in shown
    assert f"passes: 2 on {n} texts" in shown
    first, second = json.loads(invoke("inspect", scored, "--json").output)
    assert (first["teacher"], second["teacher"]) == ("a", "second")
    mean = np.array(pq.read_table(scored / "a" / "shard-000000.parquet")["mean_probabilities"].to_pylist())
    assert first["confidence"]["max"] == pytest.approx(mean.max(), abs=1e-4)
    assert first["teacher_fingerprint"] in shown
    assert len(json.loads(invoke("inspect", scored / "second", "--json").output)) == 1


def test_inspect_of_neither_speaks_of_bundles(mistake, tmp_path):
    assert "amalgam.json" in mistake("inspect", tmp_path)


def test_verify_ends_with_1_and_says_what_is_wrong(invoke, mistake, scored, tmp_path):
    whole = invoke("scores", "verify", scored)
    assert whole.exit_code == 0, whole.output
    assert whole.output.count("all as they were written") == 2
    damaged = shutil.copytree(scored, tmp_path / "damaged")
    (damaged / "a" / "shard-000000.parquet").unlink()
    (damaged / "second" / "shard-000000.parquet").write_bytes(b"no parquet")
    result = invoke("scores", "verify", damaged)
    assert result.exit_code == 1
    first, second = result.output.splitlines()
    assert first.startswith(f"{damaged / 'a'}: 1 of 1 shards are missing")
    assert second.startswith(f"{damaged / 'second' / 'shard-000000.parquet'}: a damaged shard")
    assert "no scores in it" in mistake("scores", "verify", tmp_path / "gone")


def test_merge_joins_what_two_machines_scored(invoke, mistake, two, inputs, scored, tmp_path):
    for part, teacher in (("one", inputs.a), ("two", f"second={inputs.b}")):
        output = ["--corpus", inputs.corpus, *OPTIONS, "--output", tmp_path / part]
        assert invoke("score", "--teacher", teacher, *output).exit_code == 0
    merged = ["scores", "merge", tmp_path / "one", tmp_path / "two", "--output", tmp_path / "all"]
    result = invoke(*merged)
    assert result.exit_code == 0, result.output
    assert result.output.splitlines() == [f"{tmp_path / 'all' / name}: 1 shards, whole" for name in ("a", "second")]
    resumed = invoke("score", *two, "--output", tmp_path / "all", "--resume")
    assert resumed.exit_code == 0, resumed.output
    for name in ("a", "second"):
        assert pq.read_table(tmp_path / "all" / name / "shard-000000.parquet").equals(
            pq.read_table(scored / name / "shard-000000.parquet")
        )
    assert "holds scores already" in mistake(*merged)
    assert "name two or more" in mistake("scores", "merge", tmp_path / "one", "--output", tmp_path / "none")


def test_help_of_each_command_has_an_example(invoke):
    for arguments in (["scores"], ["scores", "verify"], ["scores", "merge"]):
        assert "amalgam-edge scores " in invoke(*arguments, "--help").output.partition("Example")[2]


def test_a_text_that_fails_is_counted_shown_and_left_out_of_the_build(
    invoke, build_options, inputs, poisoned, tmp_path
):
    output = tmp_path / "student"
    result = invoke("build", *build_options, "--output", output, "--max-disagreement", "1")
    assert result.exit_code == 0, result.output
    (folder,) = (tmp_path / "student.work" / "scores").glob("b-*")
    (failure,) = ScoreStore.from_folder(folder).failures()
    assert failure["error"] == "RuntimeError: too deep"
    n = len(inputs.texts)
    assert f"1 of {n} texts could not be scored by every teacher (a 0, b 1) and are left out" in result.output
    left = tmp_path / "left.txt"
    left.write_text("\n".join(text for row, text in enumerate(inputs.texts) if row != failure["text"]), "utf-8")
    corpus = json.loads((output / "amalgam.json").read_text("utf-8"))["corpus"]
    assert corpus["fingerprint"] == read_corpus(str(left)).fingerprint
    assert (corpus["n_texts"], corpus["n_failed"]) == (n - 1, 1)

    shown = invoke("inspect", tmp_path / "student.work" / "scores").output
    assert f"text {failure['text']} failed: RuntimeError: too deep" in shown
    assert invoke("scores", "verify", tmp_path / "student.work" / "scores").exit_code == 0


def test_score_counts_what_failed(invoke, two, inputs, poisoned, tmp_path):
    result = invoke("score", *two, "--output", tmp_path / "scores")
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines() if line]
    assert lines[0][:3] == ["teacher", "texts", "failed"]
    assert lines[1][:3] == ["a", str(len(inputs.texts)), "0"]
    assert lines[2][:3] == ["second", str(len(inputs.texts) - 1), "1"]


WITHOUT_PYARROW = """
import sys
sys.modules["pyarrow"] = None
from amalgam_edge.cli.main import main
main()
"""


def test_without_the_training_part_scores_say_what_to_install(scored):
    finished = subprocess.run(
        [sys.executable, "-c", WITHOUT_PYARROW, "inspect", str(scored)],
        capture_output=True,
        text=True,
        check=False,
        env=dict(os.environ),
    )
    assert finished.returncode == 2
    assert finished.stderr.startswith("Error: reading scores needs pyarrow")
