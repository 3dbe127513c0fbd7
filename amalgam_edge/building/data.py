"""What the steps of a build hand to each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import datasets
import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from amalgam_edge.corpus import Corpus
from amalgam_edge.gold import GoldAnswers
from amalgam_edge.methods import TeacherSignals
from amalgam_edge.methods.supervision import Supervision
from amalgam_edge.methods.taught_heads import TaughtHeads
from amalgam_edge.metrics.calibration import Calibration
from amalgam_edge.models.teacher import Teacher
from amalgam_edge.runtime.manifest_models import TrimmedVocabulary
from amalgam_edge.scoring.scores import TeacherScores
from amalgam_edge.training.fitting import History


@dataclass(frozen=True)
class BuildTexts:
    """The texts of a build.

    Attributes:
        corpus: The unlabeled texts.
        train: Rows of the corpus to train on, ``(n_train,)``.
        held_out: Rows of the corpus that are held out for the quality gate, ``(n_held_out,)``.
        labelled: Texts with true labels, for evaluation only; None without them.
        known: Texts with true labels that the student may learn from; None without them.
        n_failed: Number of texts that were left out because a teacher could not score them.
    """

    corpus: Corpus
    train: np.ndarray
    held_out: np.ndarray
    labelled: Corpus | None
    known: Corpus | None = None
    n_failed: int = 0


@dataclass(frozen=True)
class TokenizedCorpus:
    """A corpus as token ids.

    Attributes:
        dataset: Memory-mapped data set with the column ``input_ids``.
        n_truncated: Number of texts that were cut to the longest input.
    """

    dataset: datasets.Dataset
    n_truncated: int


@dataclass(frozen=True)
class Student:
    """A student that is trained, and its tokenizer, whose ``model_max_length`` is the longest input."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


@dataclass(frozen=True)
class Models:
    """The models of a build, before any training.

    Attributes:
        teachers: The teachers.
        heads: The student's heads, with the union of their teachers' labels.
        students: One student for each number of layers.
        gold: Head → true labels of the labelled texts; empty without labelled texts.
        tokenized: The corpus in the students' tokens.
    """

    teachers: Sequence[Teacher]
    heads: TaughtHeads
    students: Sequence[Student]
    gold: Mapping[str, GoldAnswers]
    tokenized: TokenizedCorpus


@dataclass(frozen=True)
class TrainingData:
    """What every student of a build is trained on.

    Attributes:
        texts: The texts of the build.
        tokenized: The corpus as token ids.
        heads: The heads.
        scores: Scores of each teacher.
        supervision: Target and weight of each text.
        signals: What the method's objective reads of each teacher, beyond the supervision.
    """

    texts: BuildTexts
    tokenized: TokenizedCorpus
    heads: TaughtHeads
    scores: Sequence[TeacherScores]
    supervision: Supervision
    signals: TeacherSignals


@dataclass(frozen=True)
class StudentVariant:
    """A trained student with one choice of vocabulary.

    Attributes:
        student: The student, on the CPU.
        vocabulary: The tokens that were left out, as the manifest describes them; None where all stayed.
        calibrations: The temperatures that were fitted for each head; empty without calibration.
    """

    student: Student
    vocabulary: TrimmedVocabulary | None = None
    calibrations: tuple[Calibration, ...] = ()

    @property
    def temperatures(self) -> np.ndarray:
        """The numbers that the student's logits are divided by, ``(n_labels,)`` of float64, or ``()`` without any."""
        return np.concatenate([each.temperatures for each in self.calibrations]) if self.calibrations else np.ones(())

    @property
    def n_tokens(self) -> int:
        """The number of tokens in the vocabulary."""
        return int(self.student.model.get_input_embeddings().weight.shape[0])


@dataclass(frozen=True)
class TrainedStudent:
    """A trained student.

    Attributes:
        layers: Number of layers; None for a static student.
        history: The training curve.
        agreements: Of each head, the share of held-out texts on which it answers as the supervision does.
        variants: The vocabularies that it may ship with. Under a budget the whole vocabulary comes first.
    """

    layers: int | None
    history: History
    agreements: tuple[float, ...]
    variants: Sequence[StudentVariant]

    @property
    def agreement(self) -> float:
        """The mean agreement over the heads."""
        return float(np.mean(self.agreements))


@dataclass(frozen=True)
class ScoredTexts:
    """The texts that every teacher scored.

    Attributes:
        texts: The texts, without those that a teacher could not score.
        tokenized: The same texts as token ids.
        scores: Scores of each teacher for the same texts.
    """

    texts: BuildTexts
    tokenized: TokenizedCorpus
    scores: Sequence[TeacherScores]
