"""Commands as processes: encodings, pipes that close, signals. Everywhere one line, and never a traceback."""

from __future__ import annotations

import csv
import io
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

from amalgam_edge.cli import main
from amalgam_edge.cli.process_border import Terminated, resumed_command

COMMAND = [sys.executable, "-m", "amalgam_edge.cli"]
NEEDS_SIGNALS = pytest.mark.skipif(os.name == "nt", reason="processes are ended otherwise on Windows")
LOCALES = {
    "C": {"LC_ALL": "C"},
    "ASCII": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "latin-1": {"PYTHONIOENCODING": "latin-1"},
    "cp1252": {"PYTHONIOENCODING": "cp1252:strict", "LC_ALL": "POSIX"},
}
TEXTS = ["Straße 猫", "emoji 🐧, ümlaut"]


def run(*arguments, stdin=b"", locale=None):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "PYTHONIO"))}
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        input=stdin,
        capture_output=True,
        env=environment | LOCALES.get(locale, {}),
        check=False,
    )


@pytest.mark.parametrize("locale", LOCALES)
def test_texts_are_utf8_in_and_out_whatever_the_locale(bundle_folder, locale, tmp_path):
    (tmp_path / "t.txt").write_text("\n".join(TEXTS), "utf-8")
    for output_format in ("jsonl", "csv"):
        options = ["predict", bundle_folder, "--format", output_format]
        for finished in (
            run(*options, *TEXTS, locale=locale),
            run(*options, stdin="\n".join(TEXTS).encode(), locale=locale),
            run(*options, "--file", tmp_path / "t.txt", locale=locale),
        ):
            assert (finished.returncode, finished.stderr) == (0, b"")
            shown = finished.stdout.decode("utf-8")
            rows = (
                map(json.loads, shown.splitlines()) if output_format == "jsonl" else csv.DictReader(io.StringIO(shown))
            )
            assert [row["text"] for row in rows] == TEXTS


@pytest.mark.parametrize("locale", LOCALES)
def test_lines_for_people_are_utf8_too(bundle_folder, locale):
    finished = run("inspect", bundle_folder, locale=locale)
    assert finished.returncode == 0
    assert "Straße & 猫" in finished.stdout.decode("utf-8")
    refused = run("inspect", "no-such-猫", locale=locale)
    assert (refused.returncode, refused.stderr.count(b"\n")) == (2, 1)
    assert b"Traceback" not in refused.stderr


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "one\ngrün\n".encode("latin-1"),
            "standard input, line 2: not a text file (UTF-8 is expected); if it is Latin-1",
        ),
        ("a text".encode("utf-16"), "standard input, line 1: UTF-16, and UTF-8 is expected"),
        (b"one\n\0\n", "standard input: a binary file, not text (UTF-8 is expected); line 2 holds a NUL byte"),
    ],
)
def test_other_encodings_are_refused_by_name(bundle_folder, content, message):
    finished = run("predict", bundle_folder, stdin=content)
    assert finished.returncode == 2
    assert finished.stderr.decode().startswith(f"Error: {message}")
    assert finished.stderr.count(b"\n") == 1
    assert finished.stdout == b""


@pytest.mark.skipif(os.name == "nt", reason="arguments are Unicode on Windows")
def test_an_argument_that_is_no_utf8_is_refused(bundle_folder):
    finished = subprocess.run(
        [*COMMAND, "predict", str(bundle_folder), "a text", b"gr\xfcn"], capture_output=True, text=True, check=False
    )
    assert (finished.returncode, finished.stdout) == (2, "")
    assert finished.stderr == "Error: text 2: not UTF-8; put the texts into a file, and name it with --file\n"


@pytest.mark.parametrize("output_format", ["table", "jsonl", "csv"])
def test_a_reader_that_leaves_is_no_error_to_tell(bundle_folder, output_format):
    with subprocess.Popen(
        [*COMMAND, "predict", bundle_folder, "--format", output_format],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        process.stdin.write(b"a text\n")
        process.stdin.flush()
        assert process.stdout.readline()
        process.stdout.close()
        process.stdin.write(b"another one\n" * 10)
        process.stdin.close()
        assert process.stderr.read() == b""
        assert process.wait() != 2


@pytest.mark.parametrize(
    "arguments", [("--help",), ("methods", "--json"), ("inspect", "{bundle}", "--json"), ("doctor",)]
)
def test_so_it_is_of_every_command(bundle_folder, arguments):
    reader, writer = os.pipe()
    os.close(reader)
    finished = subprocess.run(
        [*COMMAND, *(word.format(bundle=bundle_folder) for word in arguments)],
        stdout=writer,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writer)
    assert finished.stderr == b""


@contextmanager
def ended_after(process, seconds):
    """End a process that does not end by itself, so that the test fails instead of waiting for it."""
    timer = threading.Timer(seconds, process.kill)
    timer.start()
    try:
        yield
    except BaseException:
        process.kill()
        raise
    finally:
        timer.cancel()


@pytest.fixture
def heeds_ctrl_c():
    """Processes that are started in the background ignore Ctrl-C, and so do those that they start: not here."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@NEEDS_SIGNALS
@pytest.mark.usefixtures("heeds_ctrl_c")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_row_is_answered_as_it_comes_and_a_signal_ends_it_in_one_line(bundle_folder, number, status):
    with (
        subprocess.Popen(
            [*COMMAND, "predict", bundle_folder, "--input-format", "jsonl", "--format", "jsonl"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process,
        ended_after(process, seconds=100),
    ):
        for text in ("one", "two"):
            process.stdin.write(json.dumps({"text": text}).encode() + b"\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["text"] == text  # before the next line is written
        process.send_signal(number)
        assert (process.wait(), process.stderr.read(), process.stdout.read()) == (status, b"interrupted\n", b"")


RESUMABLE = {"build", "score"}


@pytest.mark.parametrize(("interrupt", "status"), [(KeyboardInterrupt, 130), (Terminated, 143)])
@pytest.mark.parametrize("name", main.cli.list_commands(None))
def test_every_command_ends_in_one_line_when_it_is_interrupted(invoke, monkeypatch, name, interrupt, status):
    def stop(*arguments, **options):
        raise interrupt

    command = main.cli.get_command(None, name)
    monkeypatch.setattr(command, "make_context", stop)
    arguments = [name, "--seed", "1"]
    result = invoke(*arguments)
    assert result.exit_code == status
    assert ("resume" in {parameter.name for parameter in command.params}) == (name in RESUMABLE)
    more = f"; to go on: cli {name} --resume --seed 1" if name in RESUMABLE else ""
    assert result.stderr == f"interrupted{more}\n"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["build", "--output", "my folder/"], "p build --resume --output 'my folder/'"),
        (["score", "--resume", "--corpus", "a'b;c"], """p score --resume --corpus 'a'"'"'b;c'"""),
    ],
)
def test_the_command_that_goes_on_can_be_pasted_into_a_shell(arguments, line):
    shown = resumed_command("p", arguments)
    assert shown == line
    assert [word for word in shlex.split(shown)[1:] if word != "--resume"] == [w for w in arguments if w != "--resume"]


@NEEDS_SIGNALS
@pytest.mark.usefixtures("heeds_ctrl_c")
def test_a_run_that_is_interrupted_names_the_command_that_ends_it(inputs, tmp_path):
    """Scoring, for real: interrupted at its first step with a teacher, and gone on with by the line that it printed."""
    corpus = tmp_path / "a corpus.txt"
    corpus.write_text("".join(f"text {k}\n" for k in range(300)), "utf-8")
    options = ["--teacher", inputs.a, "--corpus", corpus, "--passes", "4", "--backend", "torch", "--device", "cpu"]
    command = [*COMMAND, "score", *map(str, options), "--output", str(tmp_path / "scores")]
    with (
        subprocess.Popen(
            command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
        ) as process,
        ended_after(process, seconds=200),
    ):
        for line in process.stderr:
            if "scoring with" in line:
                break
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
    assert process.returncode == 130
    (last,) = [line for line in rest.splitlines() if line.startswith("interrupted")]
    assert "Traceback" not in rest
    shown = last.removeprefix("interrupted; to go on: ")
    assert shown == f"python -m amalgam_edge.cli {shlex.join(['score', '--resume', *command[4:]])}"
    resumed = subprocess.run([*COMMAND, *shlex.split(shown)[3:]], capture_output=True, text=True, check=False)
    assert resumed.returncode == 0, resumed.stderr
    assert list(Path(tmp_path, "scores").iterdir())
