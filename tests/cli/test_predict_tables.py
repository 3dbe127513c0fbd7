"""``amalgam-edge predict`` and ``evaluate`` on tables: what is read, where it is written, and that nothing is lost."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import subprocess
import sys
import threading

import pytest

from amalgam_edge import EdgeClassifier, console_progress

ROWS = [
    {"id": "1", "text": "a puzzle game\nof two lines", "label": "games"},
    {"id": "2", "text": "chess and maps of the night sky " * 50, "label": "science"},
    {"id": "3", "text": 'comma, "quotes" and 猫', "label": "net"},
]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Format → a file of the rows."""
    folder = tmp_path_factory.mktemp("tables")
    made = {suffix: folder / f"rows{suffix}" for suffix in (".csv", ".tsv", ".jsonl", ".json")}
    for suffix, delimiter in ((".csv", ","), (".tsv", "\t")):
        with made[suffix].open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(ROWS[0]), delimiter=delimiter)
            writer.writeheader()
            writer.writerows(ROWS)
    made[".jsonl"].write_text("".join(json.dumps(row) + "\n" for row in ROWS), "utf-8")
    made[".json"].write_text(json.dumps(ROWS), "utf-8")
    return made


@pytest.fixture(scope="module")
def answers(bundle_folder):
    return EdgeClassifier.from_pretrained(bundle_folder)([row["text"] for row in ROWS])


@pytest.mark.parametrize("way", ["file", "standard input"])
@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".json"])
def test_tables_of_every_format_give_the_same_answers(invoke, bundle_folder, files, answers, suffix, way):
    options = ["predict", bundle_folder, "--format", "jsonl"]
    if way == "file":
        result = invoke(*options, "--file", files[suffix])
    else:
        result = invoke(*options, "--input-format", suffix[1:], input=files[suffix].read_bytes())
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [{name: row[name] for name in ROWS[0]} for row in rows] == ROWS
    assert [row["predicted_label"] for row in rows] == [answer.label for answer in answers]
    assert [row["score"] for row in rows] == pytest.approx([answer.score for answer in answers], abs=1e-3)
    assert [row["truncated"] for row in rows] == [False, True, False]
    assert [row["abstained"] for row in rows] == [False] * 3


def test_csv_has_the_columns_of_the_input_before_those_of_the_prediction(invoke, bundle_folder, files, answers):
    result = invoke("predict", bundle_folder, "--file", files[".csv"], "--format", "csv", "--abstain", "1")
    header, *rows = csv.reader(io.StringIO(result.stdout))
    assert header == ["id", "text", "label", "predicted_label", "score", "truncated", "abstained"]
    assert [row[:3] for row in rows] == [list(row.values()) for row in ROWS]
    assert [row[3] for row in rows] == [""] * 3
    assert [row[5:] for row in rows] == [["false", "true"], ["true", "true"], ["false", "true"]]


def test_another_column_may_be_the_text(invoke, mistake, bundle_folder, files):
    options = ["predict", bundle_folder, "--file", files[".csv"], "--format", "jsonl", "--text-column"]
    by_label = [json.loads(line) for line in invoke(*options, "label").stdout.splitlines()]
    direct = EdgeClassifier.from_pretrained(bundle_folder)([row["label"] for row in ROWS])
    assert [row["predicted_label"] for row in by_label] == [answer.label for answer in direct]
    assert mistake(*options, "nix") == f"{files['.csv']}: no column 'nix'; it has 'id', 'text', 'label'"


@pytest.mark.parametrize("name", ["out.jsonl", "out.csv", "out.jsonl.gz", "deep/out.CSV.GZ", "out.txt"])
def test_an_output_file_holds_what_standard_output_would(invoke, bundle_folder, files, tmp_path, name):
    output = tmp_path / name
    options = ["predict", bundle_folder, "--file", files[".jsonl"]]
    result = invoke(*options, "--output", output)
    assert (result.exit_code, result.stdout) == (0, ""), result.output
    content = output.read_bytes()
    content = gzip.decompress(content) if name.lower().endswith(".gz") else content
    output_format = {"txt": "table"}.get(name.split(".")[1], name.split(".")[1].lower())
    assert content.decode() == invoke(*options, "--format", output_format).stdout
    assert [path.name for path in output.parent.iterdir()] == [output.name]


def test_an_output_file_is_written_whole_or_not_at_all(invoke, mistake, bundle_folder, tmp_path):
    output, broken = tmp_path / "out.csv", tmp_path / "in.jsonl"
    broken.write_text('{"text": "x"}\n' * 1500 + '{"text": \n', "utf-8")
    for content in (None, "what was there"):
        if content:
            output.write_text(content, "utf-8")
        message = mistake("predict", bundle_folder, "--file", broken, "--output", output)
        assert message.startswith(f"{broken}, line 1501: no JSON")
        assert (output.read_text("utf-8") if output.exists() else None) == content
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.csv"]


def test_the_input_may_be_replaced_by_the_output(invoke, bundle_folder, files, tmp_path):
    file = tmp_path / "rows.csv"
    file.write_bytes(files[".csv"].read_bytes())
    assert invoke("predict", bundle_folder, "--file", file, "--output", file).exit_code == 0
    assert [row["id"] for row in csv.DictReader(io.StringIO(file.read_text("utf-8")))] == ["1", "2", "3"]
    refused = invoke("predict", bundle_folder, "--file", file, "--output", file)
    assert "columns 'label' and 'predicted_label' are both taken" in str(refused.exception)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_a_named_pipe_is_written_into(invoke, bundle_folder, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    taken = []
    reader = threading.Thread(target=lambda: taken.append(pipe.read_text("utf-8")), daemon=True)
    reader.start()
    result = invoke("predict", bundle_folder, "a text", "--output", pipe, "--format", "jsonl")
    reader.join(timeout=60)
    assert result.exit_code == 0, result.output
    assert json.loads(taken[0])["text"] == "a text"
    assert pipe.is_fifo()


def test_outputs_that_cannot_be_written_are_refused_at_once(mistake, bundle_folder, tmp_path):
    options = ["predict", bundle_folder, "text", "--output"]
    assert "its ending (.txt, .jsonl, .csv, and .gz after it) names no format" in mistake(*options, tmp_path / "x.xml")
    assert "names no format; give --format" in mistake(*options, tmp_path / "x.csv.xz")
    (tmp_path / "folder.csv").mkdir()
    assert mistake(*options, tmp_path / "folder.csv") == f"{tmp_path / 'folder.csv'}: a folder; name a file"
    (tmp_path / "file").touch()
    output = tmp_path / "file" / "x.csv"
    assert mistake(*options, output).startswith(f"{output}: cannot be written (")


def test_arguments_are_no_file(mistake, bundle_folder):
    for option in (["--text-column", "x"], ["--input-format", "csv"], ["--file", "x.csv"]):
        assert "give one of them" in mistake("predict", bundle_folder, "a text", *option)


def test_nothing_but_a_header_is_nothing_to_answer(invoke, bundle_folder, tmp_path):
    file = tmp_path / "t.csv"
    file.write_text("text,id\n", "utf-8")
    result = invoke("predict", bundle_folder, "--file", file, "--format", "csv")
    assert (result.exit_code, result.stdout) == (0, "text,id,label,score,truncated,abstained\n")


def test_a_file_that_takes_long_is_reported_on_standard_error_alone(invoke, bundle_folder, tmp_path, monkeypatch):
    file = tmp_path / "t.txt"
    file.write_text("a\n" * 2049, "utf-8")
    options = ["predict", bundle_folder, "--file", file, "--format", "csv"]
    assert invoke(*options).stderr == ""
    clock = iter(range(0, 10**6, 15))
    monkeypatch.setattr(console_progress, "monotonic", lambda: next(clock))
    shown = invoke(*options)
    assert shown.stderr.startswith("2048 texts, ")
    assert "texts/s" in shown.stderr
    assert len(shown.stdout.splitlines()) == 2050


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".json", ".csv.gz"])
def test_evaluate_reads_tables_without_the_training_extra(invoke, bundle_folder, files, answers, tmp_path, suffix):
    """The same file by the reader of corpora gives the same measurements."""
    content = files[suffix.removesuffix(".gz")].read_bytes()
    file = tmp_path / f"rows{suffix}"
    file.write_bytes(gzip.compress(content) if suffix.endswith(".gz") else content)
    code = "import sys; sys.modules.update(datasets=None, pydantic=None, pandas=None, pyarrow=None, torch=None)\n"
    code += "from amalgam_edge.cli.main import main; main()"
    finished = run_python(code, "evaluate", bundle_folder, "--data", file, "--json")
    by_corpus = json.loads(invoke("evaluate", bundle_folder, "--data", f"{file}*", "--json").stdout)
    assert json.loads(finished) | {"data": ""} == by_corpus | {"data": ""}
    assert by_corpus["n_texts"] == 3


def run_python(code, *arguments):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    finished = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("text,gold\na,games\n", [], "no column 'label'; it has 'text', 'gold'"),
        ("text,label\na,games\n", ["--text-column", "label"], "column 'label' cannot be both text and label"),
        ("text,label\n ,games\n", [], "no text in it (1 rows, 1 of them blank)"),
    ],
)
def test_evaluate_refuses_tables_as_a_build_does(mistake, bundle_folder, tmp_path, content, options, message):
    file = tmp_path / "t.csv"
    file.write_text(content, "utf-8")
    for data in (file, f"{file}*"):  # a pattern is read as a corpus is
        assert message in mistake("evaluate", bundle_folder, "--data", data, *options)
