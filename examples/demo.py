"""The demo: merge two real teachers into one student with `amalgam-edge build`, and compare it with other students.

    python -m examples.demo              # or: make demo

1. Fine-tune two teachers on disjoint halves of the labels of ``examples/data/debian_sections.csv``; they stand for your
   own.
2. Throw the labels of the remaining texts away, and run `amalgam-edge build`, `predict` and `evaluate`.
3. Train three more students of the same shape, by vanilla distillation, by MUKA as in the paper and on the true labels,
   and compare.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from time import monotonic

from datasets import disable_progress_bars
from transformers import set_seed
from transformers.utils import logging

from amalgam_edge.building.inputs import new_student
from amalgam_edge.building.pipeline import prepare_training_data, resolved_training
from amalgam_edge.building.students import train
from amalgam_edge.building.supervising import supervise
from amalgam_edge.console_progress import ConsoleProgress
from amalgam_edge.heads import ONLY_HEAD
from amalgam_edge.inference.predict import predict_texts
from amalgam_edge.inference.torch_runner import TorchRunner
from amalgam_edge.methods import supervision
from amalgam_edge.metrics.accuracy import accuracy
from amalgam_edge.progress import Progress
from amalgam_edge.recipe.reading import read_recipe
from amalgam_edge.recipe.recipe import Recipe
from amalgam_edge.reports.bundle_tables import precision_table
from amalgam_edge.reports.tables import Column, Table
from amalgam_edge.runtime.manifest import Manifest, read_manifest
from examples import corpora
from examples.teachers import encoder_folder, fine_tune

CORPUS = "debian_sections"
OTHER_METHODS = ("vanilla-kd", "muka-soft")
TEACHERS = corpora.TEACHERS[CORPUS]


def compare_supervision(recipe: Recipe, progress: Progress, label_of: dict[str, str]) -> dict[str, float]:
    """Accuracy of students that differ from that of the recipe only in their supervision.

    Args:
        recipe: The recipe of the build, whose scores are read again.
        progress: Receives a step for each student.
        label_of: The true label of each unlabeled text.

    Returns:
        Accuracy on all labels, by the name of the supervision.
    """
    methods = {name: recipe.replace(method=name).method for name in OTHER_METHODS}
    models, data = prepare_training_data(recipe.replace(method=OTHER_METHODS[0]), progress)
    corpus_gold = data.heads.only.labels.encode([label_of[text] for text in data.texts.corpus.texts])
    compared = {
        **{name: (method, supervise(method, data.heads, data.scores)) for name, method in methods.items()},
        "true labels": (recipe.method, supervision.from_labels(corpus_gold, len(data.heads.only.labels))),
    }
    training = resolved_training(recipe)
    accuracies = {}
    progress.begin(len(compared))
    for name, (method, target) in compared.items():
        student = new_student(recipe.student, models.teachers, data.heads.heads, recipe.student.layer_counts[0])
        folder = recipe.work_folder / f"comparison-{name.replace(' ', '-')}"
        with progress.step(f"student by {name}", training.n_updates(len(data.texts.train)), "updates") as advance:
            train(student, replace(data, supervision=target), method, training, folder, advance)
        shutil.rmtree(folder)
        logits = predict_texts(
            TorchRunner(student.model, sites=()),
            student.tokenizer,
            list(data.texts.labelled.texts),
            max_length=student.tokenizer.model_max_length,
        )
        accuracies[name] = accuracy(models.gold[ONLY_HEAD].answers, logits.argmax(axis=1))
    return accuracies


def accuracy_table(manifest: Manifest, accuracies: dict[str, float]) -> Table:
    """Accuracies of the teachers on their own labels, and of the students on all labels."""
    evaluation = manifest.evaluation
    teachers = [
        (name, f"{row.n_texts} texts of its own labels", f"{row.accuracy:.1%}")
        for name, row in evaluation.heads[ONLY_HEAD].teachers.items()
    ]
    all_texts = f"{evaluation.n_texts} texts of all labels"
    students = [
        *((f"student by {name}", all_texts, f"{accuracies[name]:.1%}") for name in OTHER_METHODS),
        *(
            (f"student by {manifest.method}, {precision}", all_texts, f"{row.accuracy:.1%}")
            for precision, row in evaluation.heads[ONLY_HEAD].student.items()
        ),
        ("student by true labels", all_texts, f"{accuracies['true labels']:.1%}"),
    ]
    columns = (Column("model", numeric=False), Column("measured on", numeric=False), Column("accuracy"))
    return Table(columns, (*teachers, *students))


def run_command(arguments: Iterable[str]) -> None:
    """Print a command of amalgam-edge and run it; end the demo if it fails."""
    command = list(arguments)
    print(f"\n$ amalgam-edge {' '.join(f'{word!r}' if ' ' in word else word for word in command)}", flush=True)
    finished = subprocess.run([sys.executable, "-m", "amalgam_edge.cli", *command], check=False)
    if finished.returncode not in (0, 3):  # 3: no int8 model passed the gate, as the table will show
        sys.exit(finished.returncode)


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder for everything that is made")
    runs = parser.parse_args().runs
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    disable_progress_bars()
    set_seed(0)
    start = monotonic()
    progress = ConsoleProgress()

    for_teachers, corpus, test = corpora.split(*corpora.load(CORPUS))
    student = runs / "student"
    for folder in (*(runs / name for name in TEACHERS), student, runs / "student.work"):  # other folders in runs/ stay
        shutil.rmtree(folder, ignore_errors=True)
    runs.mkdir(parents=True, exist_ok=True)
    corpora.write_jsonl(runs / "unlabeled.jsonl", ({"text": text} for text, _ in corpus))
    corpora.write_jsonl(runs / "labelled.jsonl", ({"text": text, "label": label} for text, label in test))
    progress.begin(len(TEACHERS))
    for name, labels in TEACHERS.items():
        fine_tune(name, labels, for_teachers, runs / name, progress)

    run_command(
        ["build"]
        + [word for name in TEACHERS for word in ("--teacher", str(runs / name))]
        + ["--corpus", str(runs / "unlabeled.jsonl"), "--student", encoder_folder(), "--student-layers", "3"]
        + ["--evaluate", str(runs / "labelled.jsonl"), "--output", str(student)]
    )
    run_command(["predict", str(student), "a puzzle game about falling blocks", "typefaces for old manuscripts"])
    run_command(["evaluate", str(student), "--data", str(runs / "labelled.jsonl")])

    print("\nThe same student under other supervision, for comparison:", flush=True)
    accuracies = compare_supervision(read_recipe(student / "recipe.yaml", {}), progress, dict(corpus))
    manifest = read_manifest(student)
    print(f"\n{accuracy_table(manifest, accuracies).to_text()}\n\n{precision_table(manifest).to_text()}")
    print(f"\nreport: {student / 'report.html'}\nthe whole demo took {(monotonic() - start) / 60:.1f} min")


if __name__ == "__main__":
    main()
