"""A pair of tiny teachers, texts, and one bundle that they were merged into by the command line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from amalgam_edge.building import candidates
from amalgam_edge.cli.main import cli
from amalgam_edge.errors import AmalgamError
from tests.support.translations import translations_read_once  # noqa: F401  (a fixture)

THINGS = {
    "games": "chess cards dice puzzle arcade",
    "net": "mail server proxy router socket",
    "fonts": "serif glyph italic script bold",
    "text": "editor words lines spelling diff",
}


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


@pytest.fixture(scope="session")
def invoke() -> Callable[..., Result]:
    """Run the command line in this process; a user's mistake comes back as ``result.exception``."""

    def run(*arguments: str, **options: Any) -> Result:
        return CliRunner().invoke(cli, [str(argument) for argument in arguments], **options)

    return run


@pytest.fixture(scope="session")
def mistake(invoke: Callable[..., Result]) -> Callable[..., str]:
    """Run a command that must fail by a mistake of the user; its one line."""

    def run(*arguments: str, **options: Any) -> str:
        result = invoke(*arguments, **options)
        assert isinstance(result.exception, AmalgamError), (result.exception, result.output)
        message = str(result.exception)
        assert "\n" not in message
        return message

    return run


@contextmanager
def measurements_left_out() -> Iterator[None]:
    """Let every model take 100 MB and a millisecond: measuring it takes most of the time of choosing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(candidates, "peak_megabytes", lambda *paths, **options: 100.0)
        patch.setattr(candidates, "median_call_times", lambda runs, **options: dict.fromkeys(runs, 1e-3))
        yield


@pytest.fixture
def quick() -> Iterator[None]:
    """Measurements are left out in this test."""
    with measurements_left_out():
        yield


@pytest.fixture(scope="module")
def quick_module() -> Iterator[None]:
    """Measurements are left out in this module."""
    with measurements_left_out():
        yield


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory, make_classifier: Callable[..., Path]) -> SimpleNamespace:
    """Teachers a (games, net) and b (fonts, text), an unlabeled corpus, labelled texts, and a student's checkpoint."""
    folder = tmp_path_factory.mktemp("inputs")
    rows = [
        {"text": f"{first} {second} {number}", "label": label}
        for label, words in THINGS.items()
        for number, (first, second) in enumerate((a, b) for a in words.split() for b in words.split() if a != b)
    ]
    return SimpleNamespace(
        a=make_classifier(folder / "a", ["games", "net"]),
        b=make_classifier(folder / "b", ["fonts", "text"], architecture="distilbert", seed=1),
        student=make_classifier(folder / "student", ["x", "y"], seed=2, layers=3),
        corpus=write_jsonl(folder / "corpus.jsonl", [{"text": row["text"]} for row in rows] + [{"text": " "}]),
        labelled=write_jsonl(folder / "labelled.jsonl", rows[::3]),
        texts=[row["text"] for row in rows],
    )


@pytest.fixture(scope="session")
def build_options(inputs: SimpleNamespace) -> list[str]:
    """What every build here needs, less ``--output``."""
    return [
        *("--teacher", inputs.a, "--teacher", inputs.b, "--corpus", inputs.corpus),
        *("--student", inputs.student, "--student-layers", "1", "--passes", "4", "--epochs", "1", "--device", "cpu"),
        *("--backend", "torch"),
    ]


@pytest.fixture(scope="session")
def static_options(inputs: SimpleNamespace) -> list[str]:
    """The same for a static student, which is soon made."""
    return [
        *("--teacher", inputs.a, "--teacher", inputs.b, "--corpus", inputs.corpus, "--student", "static"),
        *("--passes", "4", "--epochs", "1", "--device", "cpu", "--backend", "torch", "--max-disagreement", "1"),
    ]


@pytest.fixture(scope="session")
def built(
    invoke: Callable[..., Result],
    inputs: SimpleNamespace,
    build_options: list[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> SimpleNamespace:
    """A finished build: its bundle, its work folder, and what it printed."""
    folder = tmp_path_factory.mktemp("built")
    bundle = folder / "student"
    result = invoke(
        "build", *build_options, "--evaluate", inputs.labelled, "--output", bundle, "--max-disagreement", "1"
    )
    assert result.exit_code == 0, result.output
    return SimpleNamespace(bundle=bundle, work=folder / "student.work", output=result.output, folder=folder)
