"""The sections of a recipe: the settings of each stage, with their defaults. Defaults stand nowhere else.

A stage is handed its own section and no other. A setting that several stages need, such as the seed, is a field of each
of their sections under one name; the recipe fills them all from one value.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from amalgam_edge.recipe.options import Bounds, option

Share = Annotated[float, Bounds(ge=0.0, le=1.0)]
Positive = Annotated[float, Bounds(gt=0.0)]
NotNegative = Annotated[float, Bounds(ge=0.0)]
Count = Annotated[int, Bounds(ge=1)]
PassCount = Annotated[int, Bounds(ge=2)]
DropoutRate = Annotated[float, Bounds(gt=0.0, lt=1.0)]
Seed = Annotated[int, Bounds(ge=0, lt=2**31)]
Length = Annotated[int, Bounds(ge=4)]

BackendName = Literal["auto", "onnxruntime", "torch"]
MaskKind = Literal["systematic", "independent"]
Precision = Literal["fp32", "fp16"]
Heads = Literal["union", "each"] | dict[str, tuple[str, ...]]
Shares = Share | dict[str, Share]

STATIC = "static"
STATIC_PREFIX = f"{STATIC}:"

# Accuracy of a static student after MUKA-soft on 1,631 short texts, whose weights are small: 57.9 % at 2e-3,
# 67.1 % at 5e-3, 70.5 % at 1e-2, 69.2 % at 2e-2.
STATIC_LEARNING_RATE = 1e-2
ENCODER_LEARNING_RATE = 1e-4


# Settings that stand in several sections are declared once each, here.
def _seed() -> Any:
    return option(0, "Seed of the dropout masks, of the student's initial head and of shuffling.")


def _device() -> Any:
    return option("auto", "Where to compute: auto, cpu, cuda or cuda:N.", affects_result=False)


def _max_length() -> Any:
    return option(128, "Longest text in tokens; longer texts are cut.")


def _dropout() -> Any:
    return option(None, "Dropout probability for teachers that were trained without dropout.")


def _text_column() -> Any:
    return option(None, "Column that holds the text.  [default: text]")


def _threads() -> Any:
    return option(
        None,
        "CPU threads that run the teachers, at most one per usable core.  [default: that many]",
        affects_result=False,
    )


def _batch_tokens() -> Any:
    return option(
        None,
        "Tokens in one batch of a teacher, padding included.  [default: 1024 on a CPU, 16384 on a GPU]",
        affects_result=False,
    )


@dataclass(frozen=True)
class TeacherSettings:
    """The teachers, and how their labels are merged."""

    sources: tuple[str, ...] = option(
        (),
        "A fine-tuned classifier: a folder, a Hub name, or NAME=PATH. Give the option once for each teacher.",
        name="teachers",
    )
    heads: Heads | None = option(
        None,
        "Which question each teacher answers: union merges all into one head, each gives every teacher a head of its "
        "own; in a recipe also names of heads, each with its teachers.  [default: union, unless the scores show that "
        "the teachers answer different questions]",
        is_new=True,
    )
    labels: str | None = option(None, "YAML file that renames and merges the labels of teachers.")
    dropout: DropoutRate | None = _dropout()
    max_length: Length = _max_length()


@dataclass(frozen=True)
class CorpusSettings:
    """The unlabeled texts."""

    source: str = option("", "Unlabeled texts: a file, a folder, or hf://datasets/NAME.", name="corpus")
    text_column: str | None = _text_column()
    split: str = option("train", "Split to read of a data set from the Hub.")
    held_out: Count = option(
        500, "Texts held out from training for the quality gate; at most a fifth of the corpus is held out."
    )


@dataclass(frozen=True)
class ScoringSettings:
    """How teachers are scored: what the score of a text depends on, besides the teacher and the text."""

    passes: PassCount | Literal["auto"] = option(
        10,
        "Dropout passes of each teacher over each text; auto runs more where it is unclear which teacher to trust.",
    )
    max_passes: PassCount = option(10, "Most passes per text under --passes auto.")
    masks: MaskKind = option(
        "systematic", "Dropout masks: systematic balances them over the passes, independent draws each anew."
    )
    seed: Seed = _seed()
    dropout: DropoutRate | None = _dropout()
    precision: Precision = option("fp32", "Precision of the teachers' arithmetic; fp16 needs a GPU.")
    batch_tokens: Count | None = _batch_tokens()

    @property
    def most_passes(self) -> int:
        """The most passes that a text can get."""
        return self.max_passes if self.passes == "auto" else self.passes


@dataclass(frozen=True)
class ComputeSettings:
    """Where teachers run. Scores do not depend on it beyond the rounding of floats."""

    backend: BackendName = option(
        "auto",
        "What runs the teachers; auto takes torch on CUDA, elsewhere onnxruntime if it is installed.",
        affects_result=False,
    )
    device: str = _device()
    threads: Count | None = _threads()
    batch_tokens: Count | None = _batch_tokens()
    engine: Literal["local", "ray"] = option(
        "local", "What scores the corpus: local is this process, ray uses the workers of a Ray cluster.",
        affects_result=False,
    )  # fmt: skip
    address: str | None = option(
        None,
        "Address of the Ray cluster; auto finds one that runs on this machine.  [default: start one on this machine]",
        affects_result=False,
    )
    workers: Count | None = option(
        None,
        "Number of Ray workers.  [default: one per GPU; without GPUs, the cluster's cores divided by --threads, or one "
        "per core if --threads is not given]",
        affects_result=False,
    )


@dataclass(frozen=True)
class MethodSettings:
    """How the teachers' scores become supervision, and the loss of the student."""

    name: str = option(
        "refined", 'How teachers become supervision; "amalgam-edge methods" lists the methods.', name="method"
    )
    reweight: bool = option(
        True, "Weight each text by the margin between its two most certain teachers (muka-soft, muka-hard)."
    )
    score_temperature: Positive = option(0.2, "Temperature of the softmax over the teachers' certainties.")
    refinement_rounds: Annotated[int, Bounds(ge=0)] = option(
        4, "Rounds that learn what each teacher's certainty means (refined)."
    )
    distillation_temperature: Positive = option(
        2.0, "Temperature of the softmax over logits in distillation (vanilla-kd, uhc, cfl, dfa)."
    )
    feature_weight: NotNegative = option(
        1.0, "Weight of the loss that draws the student's hidden state towards the teachers' (cfl, dfa)."
    )
    reconstruction_weight: NotNegative = option(
        1.0, "Weight of the loss that keeps the teachers' hidden states recoverable (cfl, dfa)."
    )
    common_width: Count = option(128, "Width of the space in which hidden states are compared (cfl).")


@dataclass(frozen=True)
class HintSettings:
    """What is known of some of the texts; nothing has to be."""

    owner_column: str | None = option(
        None,
        "Column of --corpus with the name of the teacher that knows a text's label, such as that of the stream it came "
        "from; empty where that is not known.",
        is_new=True,
    )
    known_labels: str | None = option(
        None,
        "Texts of the corpus with their true labels, which go before what teachers say: a file with the columns text "
        "and label, or of several heads one called as each.",
        is_new=True,
    )


@dataclass(frozen=True)
class StudentSettings:
    """The model that is trained."""

    encoder: str = option(
        "",
        "Encoder to start from: a folder, a Hub name, or teacher:NAME for a teacher's own. static and static:ENCODER "
        "make a static student: token vectors without layers.",
        name="student",
    )
    layers: Count | Annotated[tuple[Count, ...], Bounds(min_length=1)] | None = option(
        None,
        "Number of the encoder's layers to keep. Several numbers, as in 3,6, train several students and need a "
        "--budget to choose by.  [default: all]",
        name="student_layers",
    )
    static_width: Count = option(64, "Width of a static student's token vectors; at most that of its encoder.")
    max_length: Length = _max_length()
    seed: Seed = _seed()
    device: str = _device()

    @property
    def is_static(self) -> bool:
        """Whether a static student is asked for."""
        return self.encoder == STATIC or self.encoder.startswith(STATIC_PREFIX)

    @property
    def layer_counts(self) -> tuple[int | None, ...]:
        """How many layers each student keeps; None stands for all."""
        return self.layers if isinstance(self.layers, tuple) else (self.layers,)


@dataclass(frozen=True)
class CascadeSettings:
    """A static student in front of the encoder."""

    enabled: bool = option(
        False, "Train a static student that answers the texts it is sure of before the encoder is asked.",
        name="cascade",
    )  # fmt: skip
    agreement: Share = option(
        0.99, "Share of texts on which the cascade must give the encoder's own label.", name="cascade_agreement"
    )
    width: Count = option(
        64, "Width of a static student's token vectors; at most that of its encoder.", name="static_width"
    )
    seed: Seed = _seed()
    device: str = _device()


@dataclass(frozen=True)
class TrainingSettings:
    """How a student is trained."""

    epochs: Count = option(5, "Passes of training over the corpus.")
    batch_size: Count = option(32, "Texts per update, over all processes together.")
    learning_rate: Positive | None = option(
        None,
        "Peak learning rate; 2e-5 suits encoders of 12 layers.  "
        f"[default: {ENCODER_LEARNING_RATE:g}, of a static student {STATIC_LEARNING_RATE:g}]",
    )
    warmup_ratio: Share = option(0.1, "Share of the updates over which the learning rate rises to its peak.")
    weight_decay: NotNegative = option(0.01, "Weight decay of the AdamW optimizer.")
    seed: Seed = _seed()
    device: str = _device()
    threads: Count | None = _threads()
    report_to: str = option("none", "Logger of the training loop, such as tensorboard or wandb.", affects_result=False)
    head_weights: dict[str, Positive] | None = option(
        None,
        "Factor of a head's loss in the loss of all heads, as HEAD=FACTOR.  [default: 1 for each]",
        is_new=True,
    )
    processes: Count = option(
        1, "Number of processes that train the student; they share each batch.", name="launch", affects_result=False
    )

    def peak_learning_rate(self, *, static: bool = False) -> float:
        """The peak learning rate of an encoder, or of a static student."""
        if self.learning_rate is not None:
            return self.learning_rate
        return STATIC_LEARNING_RATE if static else ENCODER_LEARNING_RATE

    def n_updates(self, n_texts: int) -> int:
        """How many updates training on ``n_texts`` texts takes."""
        return self.epochs * math.ceil(n_texts / self.batch_size)


@dataclass(frozen=True)
class ExportSettings:
    """What ships, and how good it must be."""

    max_disagreement: Share = option(
        0.01, "Largest share of held-out texts on which the int8 model may give another label than the float model."
    )
    budget: str | None = option(
        None,
        'Limits of the model that ships, such as "size<=20MB, latency<=2ms, loss<=1%, memory<=150MB"; more precisions '
        "are then tried.",
    )
    trim_vocabulary: bool = option(
        False, "Leave out tokens that the corpus does not use, as far as the held-out texts allow."
    )
    calibrate: bool = option(
        True, "Fit a temperature on held-out texts, so that the student's scores are probabilities."
    )
    abstain: Shares = option(
        0.0,
        "Give no label where the score is below this threshold; stored in the bundle. HEAD=SCORE sets that of one "
        "head.",
    )
    thresholds: str | None = option(
        None,
        "YAML file: label of a sigmoid head to the probability from which on it holds; of several heads, head to such "
        "a mapping.  [default: 0.5 for each]",
        is_new=True,
    )
    include_torch: bool = option(False, "Add the student as torch weights (safetensors) to the bundle.")


@dataclass(frozen=True)
class EvaluationSettings:
    """Labelled texts, on which teachers and student are measured."""

    source: str | None = option(None, "Labelled texts on which teachers and student are measured.", name="evaluate")
    split: str = option("test", "Split to read, where --evaluate names a data set of the Hub.", name="evaluate_split")
    label_column: tuple[str, ...] = option(
        ("label",),
        "Column of --evaluate that holds the true label. Of several heads HEAD=COLUMN, each; without it the column is "
        "called as the head.",
    )
    text_column: str | None = _text_column()


@dataclass(frozen=True)
class OutputSettings:
    """Where results go."""

    folder: str = option("", "Folder to write the result to.", name="output", affects_result=False)
    work: str | None = option(
        None,
        "Folder for scores and checkpoints, which later builds reuse.  [default: OUTPUT.work]",
        affects_result=False,
    )
