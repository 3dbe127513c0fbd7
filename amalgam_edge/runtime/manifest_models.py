"""The models in a bundle and what was measured of them: entries of the manifest, which the docstrings here describe."""

from collections.abc import Callable, Mapping
from dataclasses import field, replace
from typing import Annotated, TypeVar

from amalgam_edge.storage.record import record
from amalgam_edge.storage.record_fields import (
    MAY_LACK,
    Amount,
    Count,
    FilePath,
    Inline,
    Items,
    MayLack,
    Name,
    Number,
    Share,
    Text,
    TextCount,
)

_T = TypeVar("_T")


@record
class Fidelity:
    """How near a model is to another one, by its answers to held-out texts.

    Attributes:
        agreement: Share of texts on which both give the same answer, of the head where it is lowest: the same likeliest
            label, or the same set of labels.
        mean_kl: Mean Kullback-Leibler divergence of the model's distribution from the other's, in nats, summed over
            heads; null where an answer is not finite, or where a head was dropped since and no texts were at hand.
        n_texts: How many texts both answered.
        heads: Head → its own agreement; empty where an early version, of one head, did not say.
        labels: Sigmoid head → the lowest agreement on a single one of its labels.
    """

    agreement: Share
    mean_kl: Amount | None
    n_texts: TextCount
    heads: Mapping[Name, Share]
    labels: Mapping[Name, Share]


@record
class TrimmedVocabulary:
    """The tokens that were left out of the student.

    Attributes:
        n_tokens: How many tokens stayed.
        n_before: How many tokens there had been.
        fidelity: How near the student is to the one with all tokens.
    """

    n_tokens: Count
    n_before: Count
    fidelity: Fidelity


@record
class Latency:
    """Milliseconds for one text at a time, tokenizing included, on the machine that built the bundle.

    Attributes:
        p50: The median.
        p95: The 95th percentile.
    """

    p50: Amount
    p95: Amount


@record
class Precision:
    """A model of the student in one precision.

    Attributes:
        file: The model's path in the bundle.
        bytes: The size of that file.
        quantization: How the model was made, in words.
        fidelity: How near the model is to the float model.
        latency_ms: How long it takes.
        kernels: Operators of ONNX Runtime's own in the graph that it makes of the model, and how often each; empty
            where an early version did not count them.
    """

    file: FilePath
    bytes: Count
    quantization: Name
    fidelity: Fidelity
    latency_ms: Latency
    kernels: Mapping[Name, Count]


@record
class GateAttempt:
    """A way to quantize that was tried.

    Attributes:
        quantization: The way, in words.
        disagreement: Share of held-out texts whose likeliest label changed.
        mean_kl: Mean Kullback-Leibler divergence from the float model, in nats; null where an answer is not finite.
    """

    quantization: Name
    disagreement: Share
    mean_kl: Amount | None


@record
class Gate:
    """What int8 had to pass.

    Attributes:
        passed: Whether an int8 model changed few enough labels.
        n_texts: How many held-out texts were answered.
        max_disagreement: The share of them whose label a model may change.
        compared_with: The model whose labels count, in words.
        attempts: The ways that were tried, in order.
    """

    passed: bool
    n_texts: TextCount
    max_disagreement: Share
    compared_with: Name
    attempts: tuple[GateAttempt, ...]


@record
class FrontCandidate:
    """A model that could have shipped under the budget.

    Attributes:
        name: The model's name among all candidates: what tells its student from others, and its precision.
        made_by: How it was quantized, in words.
        megabytes: The size of its file, in 10⁶ bytes.
        latency_ms: Median milliseconds of one text at a time, tokenizing included.
        p95_ms: The 95th percentile of the same.
        batch_ms: Median milliseconds of 32 texts of mixed lengths.
        memory_megabytes: The most memory that a process takes which runs it, in 10⁶ bytes; null where unknown.
        loss_percent: Percentage of held-out texts whose label is not that of the float model with all tokens.
        mean_kl: Mean Kullback-Leibler divergence from that model, in nats; null where an answer is not finite.
        layers: How many layers its student has; null where it has none, or where that is not known.
        n_tokens: How many tokens its student knows; null where that is not known.
        agreement: The agreement of its student with the supervision; null where that was not measured.
        precision: Its precision.
        on_front: Whether no other candidate is as good in everything and better in something.
    """

    name: Name
    made_by: Name
    megabytes: Amount
    latency_ms: Amount
    p95_ms: Amount
    batch_ms: Amount
    memory_megabytes: Amount | None
    loss_percent: Annotated[float, Number(at_least=0, at_most=100)]
    mean_kl: Amount | None
    layers: Count | None
    n_tokens: Count | None
    agreement: Share | None
    precision: Name
    on_front: bool


@record
class Front:
    """What a budget led to.

    Attributes:
        limits: The limits of the budget: ``size`` and ``memory`` in MB, ``latency`` in ms, ``loss`` in percent.
        candidates: Every model that was measured.
        picked: The name of the candidate that ships.
        within_budget: Whether that keeps all limits.
        reason: Why it was picked, in words.
    """

    limits: Mapping[Name, Amount]
    candidates: tuple[FrontCandidate, ...]
    picked: Name
    within_budget: bool
    reason: Annotated[str, Text(longest=100_000)]


@record
class GoldCalibration:
    """What the temperatures do on texts with gold labels.

    Attributes:
        n_texts: How many texts there were.
        ece_before: Expected calibration error without the temperatures.
        ece_after: Expected calibration error with them.
    """

    n_texts: TextCount
    ece_before: Share
    ece_after: Share


@record
class Calibration:
    """The temperatures of a head in the student's last layer.

    Attributes:
        temperatures: What its logits were divided by: one number, or one for each label of a sigmoid head.
        n_texts: How many held-out texts they were fitted to.
        ece_before: Expected calibration error against their supervision without them; of a sigmoid head the mean over
            its labels.
        ece_after: Expected calibration error against their supervision with them.
        gold: What they do on texts with gold labels; null without such texts.
    """

    temperatures: Annotated[tuple[Amount, ...], Items(most=100_000, fewest=1)]
    n_texts: TextCount
    ece_before: Share
    ece_after: Share
    gold: GoldCalibration | None


@record
class CascadeAttempt:
    """A threshold that was tried.

    Attributes:
        threshold: The probability from which on the static student's answer stands.
        agreement: Share of held-out texts that the cascade answers as the encoder alone does.
        share: Share of held-out texts that the static student answers.
    """

    threshold: Share
    agreement: Share
    share: Share


@record
class StaticModel:
    """The static student of a cascade, and the threshold that it ships with.

    Attributes:
        file: The static student's path in the bundle.
        bytes: The size of that file.
        width: Entries of a token's vector.
        threshold: The probability from which on the static student's answer stands.
        agreement: Share of held-out texts that the cascade answers as the encoder alone does.
        share: Share of held-out texts that the static student answers.
    """

    file: FilePath
    bytes: Count
    width: Count
    threshold: Share
    agreement: Share
    share: Share


@record
class Cascade:
    """What became of the cascade that was asked for.

    Attributes:
        agreement_asked: The share of texts that the cascade has to answer as the encoder alone does.
        n_texts: How many held-out texts it was measured on.
        attempts: The thresholds that were tried, in order.
        static_model: The static student; none where no threshold kept the agreement.
    """

    agreement_asked: Share
    n_texts: TextCount
    attempts: tuple[CascadeAttempt, ...]
    static_model: Annotated[StaticModel | None, Inline(nulls=True)]


@record
class Answered:
    """What is answered where the student may abstain.

    Attributes:
        answered: Share of texts whose score is not below the threshold; lacking without a threshold.
        answered_accuracy: Accuracy on those; null where there are none.
    """

    answered: Share
    answered_accuracy: Share | None


@record
class ModelAccuracy:
    """How good a model's labels are on texts with gold labels.

    Attributes:
        accuracy: Share of texts whose likeliest label is the gold one; of a sigmoid head, whose labels are all right.
        macro_f1: Mean of F1 over the labels that occur.
        micro_f1: Of a sigmoid head, F1 over all labels of all texts together.
        mean_average_precision: Of a sigmoid head, the mean over labels of the precision at each text that has it.
        abstaining: What is answered where the student may abstain.
    """

    accuracy: Share
    macro_f1: Share
    micro_f1: Annotated[Share | None, MAY_LACK]
    mean_average_precision: Annotated[Share | None, MAY_LACK]
    abstaining: Annotated[Answered | None, Inline()]


@record
class TeacherAgreement:
    """How a model of the student answers beside one of its teachers, text by text.

    They are compared on the teacher's own labels. In a softmax head of several teachers, on texts whose gold label is
    one of these; without gold labels, on texts that the student gives one of these. Otherwise on all texts.

    Attributes:
        n_texts: How many texts both answered.
        agreement: Share of them that both answer alike: with the same label, of a sigmoid head with the same set of
            labels; null where there are none.
        labels: Label of a sigmoid head → share of the texts on which both say that it holds, or both that it does not.
        accuracy: Share of those with gold labels that the student answers right; null where there are none.
        student_right: Of the texts with gold labels that they answer differently, how many the student has right.
        teacher_right: How many of these the teacher has right.
        neither_right: How many of these neither has right.
    """

    n_texts: TextCount
    agreement: Share | None
    labels: Annotated[Mapping[Name, Share], Items(most=100_000)]
    accuracy: Share | None
    student_right: TextCount
    teacher_right: TextCount
    neither_right: TextCount


@record
class TeacherAccuracy:
    """How good a teacher is on texts whose gold label is one of its own; for a sigmoid head on all texts.

    Attributes:
        accuracy: Share of these texts that it labels right, of a sigmoid head all labels; null where there are none.
        n_texts: How many such texts there are.
        macro_f1: Mean of F1 over its labels that occur; lacking where an early version did not measure it.
        micro_f1: Of a sigmoid head, F1 over all its labels of all texts together.
        student: Model of the student → how it answers beside the teacher; empty where that was not measured.
    """

    accuracy: Share | None
    n_texts: TextCount
    macro_f1: Annotated[Share | None, MAY_LACK] = None
    micro_f1: Annotated[Share | None, MAY_LACK] = None
    student: Annotated[Mapping[Name, TeacherAgreement], MayLack({})] = field(default_factory=dict)


@record
class HeadAccuracy:
    """How good a head is on the texts that have gold labels for it.

    Attributes:
        n_texts: How many such texts there are.
        student: Precision → how good it is; the cascade is among them as ``cascade``.
        teachers: Teacher → how good it is on its own labels.
    """

    n_texts: TextCount
    student: Mapping[Name, ModelAccuracy]
    teachers: Mapping[Name, TeacherAccuracy]


@record
class BuildEvaluation:
    """What was measured on texts with gold labels when the bundle was built.

    Attributes:
        data: The labelled texts, as the build was told them.
        n_texts: How many texts there are.
        heads: Head → how good it is; heads without gold labels are left out.
    """

    data: Name
    n_texts: TextCount
    heads: Mapping[Name, HeadAccuracy]


def with_models(evaluation: BuildEvaluation, is_kept: Callable[[str], bool]) -> BuildEvaluation:
    """The same evaluation with some of the student's models, chosen by their names."""
    return replace(evaluation, heads={name: _with_models(head, is_kept) for name, head in evaluation.heads.items()})


def _with_models(head: HeadAccuracy, is_kept: Callable[[str], bool]) -> HeadAccuracy:
    def kept(models: Mapping[str, _T]) -> dict[str, _T]:
        return {model: row for model, row in models.items() if is_kept(model)}

    teachers = {name: replace(teacher, student=kept(teacher.student)) for name, teacher in head.teachers.items()}
    return replace(head, student=kept(head.student), teachers=teachers)
