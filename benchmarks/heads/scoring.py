"""Makes teachers and their scores under dropout, and keeps both, so that statistics can be tried without models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from amalgam_edge.dropout.masks import DROPOUT_OFF
from amalgam_edge.dropout.sites import find_sites
from amalgam_edge.inference.batches import CPU_BATCH_TOKENS, batches_by_length, encode
from amalgam_edge.methods.competition import Answers, answers
from amalgam_edge.metrics.uncertainty import (
    SIGMOID,
    SOFTMAX,
    Activation,
    normalised_uncertainty,
    summarise_passes,
    to_probabilities,
)
from amalgam_edge.models.loading import fingerprint, load_classifier, load_config, load_tokenizer
from amalgam_edge.models.student import build_student
from amalgam_edge.models.teacher import Teacher
from amalgam_edge.progress import Progress
from amalgam_edge.recipe.sections import ScoringSettings, TrainingSettings
from amalgam_edge.scoring.backends import resolve_backend
from amalgam_edge.storage.fingerprints import sha256_of_mapping
from benchmarks.amalgamation.architectures import untrained
from benchmarks.heads.settings import HeadTeacher
from benchmarks.heads.teachers import fine_tune
from examples.teachers import Classifier, encoder_folder

PASSES = 10


@dataclass(frozen=True)
class Workshop:
    """Where teachers and scores are kept, and how teachers are made.

    Attributes:
        runs: Folder for everything that is made.
        training: How teachers are trained.
        layers: Layers of teachers of the architecture ``bert``; None for all six.
        threads: Number of threads that score.
    """

    runs: Path
    training: TrainingSettings
    layers: int | None
    threads: int

    def key(self, teacher: HeadTeacher) -> str:
        """A hash of everything that a teacher is made from, after the name of its question."""
        made_from = {**asdict(teacher), "name": "", "training": asdict(self.training), "layers": self.layers}
        return f"{teacher.question.name}-{sha256_of_mapping(made_from)[:12]}"

    def teacher(self, teacher: HeadTeacher, progress: Progress) -> Path:
        """The folder of a teacher, which is fine-tuned if there is none."""
        folder = self.runs / "set_teachers" / self.key(teacher)
        folder.parent.mkdir(parents=True, exist_ok=True)
        rows = [{teacher.question.name: cell} for _, cell in teacher.rows]
        fine_tune(
            teacher.question,
            [text for text, _ in teacher.rows],
            teacher.question.target(rows),
            folder,
            progress,
            new_classifier=partial(self._untrained, architecture=teacher.architecture),
            settings=self.training,
        )
        return folder

    def pass_logits(self, teacher: HeadTeacher, texts: Sequence[str], progress: Progress) -> np.ndarray:
        """A teacher's logits of each pass and, last, without dropout, ``(PASSES + 1, n_texts, n_labels)``."""
        path = self.runs / "scores" / f"{self.key(teacher)}.npz"
        known: dict[str, np.ndarray] = {}
        if path.exists():
            with np.load(path) as kept:
                known = dict(zip(kept["texts"].tolist(), kept["logits"].swapaxes(0, 1), strict=True))
        if missing := [text for text in dict.fromkeys(texts) if text not in known]:
            found = score(self.teacher(teacher, progress), missing, self.threads)
            known |= dict(zip(missing, found.swapaxes(0, 1), strict=True))
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part.npz")
            np.savez(part, texts=np.array([*known]), logits=np.stack([*known.values()], axis=1))
            part.replace(path)
        return np.stack([known[text] for text in texts], axis=1)

    def _untrained(self, labels: Sequence[str], texts: Sequence[str], seed: int, *, architecture: str) -> Classifier:
        if architecture == "bert":
            return build_student(encoder_folder(), labels, layers=self.layers, seed=seed)
        return untrained(labels, texts, seed, architecture=architecture)


def score(folder: Path, texts: Sequence[str], threads: int) -> np.ndarray:
    """Logits of each pass and, last, without dropout, of a teacher of any problem type; see `amalgam-edge score`."""
    config = load_config(str(folder))
    model, tokenizer = load_classifier(str(folder), config), load_tokenizer(str(folder))
    teacher = Teacher(
        name=folder.name,
        source=str(folder),
        model=model,
        tokenizer=tokenizer,
        class_names=tuple(config.id2label.values()),
        max_length=tokenizer.model_max_length,
        sites=find_sites(model, dict(tokenizer("a text", return_tensors="pt", return_token_type_ids=False))),
        fingerprint=fingerprint(model, tokenizer),
    )
    runner = resolve_backend("auto", "cpu", threads).open(teacher, ScoringSettings(passes=PASSES))
    logits = np.empty((PASSES + 1, len(texts), runner.n_classes), dtype=np.float32)
    encoded = encode(texts, tokenizer, teacher.max_length)
    for batch in batches_by_length(encoded, pad_token_id=tokenizer.pad_token_id, batch_tokens=CPU_BATCH_TOKENS):
        passes = [*range(PASSES), DROPOUT_OFF]
        logits[:, batch.rows] = runner.run(batch.input_ids, batch.attention_mask, passes)
    return logits


def say(pass_logits: np.ndarray, *, multi: bool) -> Answers:
    """What a teacher says of each text, from logits as :func:`score` returns them.

    Uncertainty is the entropy of the mean prediction or, if ``multi``, the mean of the labels' binary entropies.
    """
    activation: Activation = SIGMOID if multi else SOFTMAX
    passes, without_dropout = pass_logits[:PASSES], pass_logits[-1].astype(np.float64)
    mean, information = summarise_passes(passes, np.full(passes.shape[1], PASSES), activation)
    certain = 1.0 - normalised_uncertainty(mean, activation)
    return Answers(answers(to_probabilities(without_dropout, activation), activation), certain, information)
