"""What ``amalgam-edge evaluate`` measures, as records that become its JSON."""

from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Literal

from amalgam_edge.runtime.manifest_models import ModelAccuracy, TeacherAccuracy
from amalgam_edge.storage.record import record
from amalgam_edge.storage.record_fields import (
    MAY_LACK,
    Amount,
    Count,
    Items,
    MayLack,
    Name,
    Number,
    Share,
    Text,
    TextCount,
)

Signed = Annotated[float, Number(at_least=-1, at_most=1)]
Curve = Annotated[tuple[Share, ...], Items(most=10_000)]
Labels = Annotated[tuple[Name, ...], Items(most=100_000)]
Example = Annotated[str, Text(longest=10_000)]


@record
class DomainAccuracy:
    """How good a model's labels are on the texts whose gold label is one of a teacher's.

    Attributes:
        n_texts: How many such texts there are.
        accuracy: Share of them that are labelled right; None where there are none.
        macro_f1: Mean of F1 over the teacher's labels that occur; None where there are none.
    """

    n_texts: TextCount
    accuracy: Share | None
    macro_f1: Share | None


@record
class ReliabilityBins:
    """Answers sorted into bins of equal width by their confidence, ``(n_bins,)`` each.

    Attributes:
        confidence: The mean confidence in each bin; 0 where it is empty.
        accuracy: The share of right answers in each bin; 0 where it is empty.
        share: The share of all texts in each bin.
    """

    confidence: Curve
    accuracy: Curve
    share: Curve


@record
class RiskCoverageCurve:
    """What is gained by leaving out the texts that a model is least sure of, ``(n_points,)`` each.

    Attributes:
        coverage: The share of texts that are answered, surest first.
        risk: The share of wrong answers among those.
    """

    coverage: Curve
    risk: Curve


@record
class LabelScores:
    """How good a model is about one label.

    Attributes:
        n_gold: How many texts have the label as gold, of a sigmoid head among others.
        precision: Share right of the texts that the model gives the label; None where it gives it to none.
        recall: Share of the texts with the label that the model gives it; None where there are none.
        f1: 2 · hits / (texts with the label + texts that are given it); None where both are none.
        ece: Calibration error of the label's probability; None for a label of a softmax head.
    """

    n_gold: TextCount
    precision: Share | None
    recall: Share | None
    f1: Share | None
    ece: Share | None


@record
class ModelEvaluation(ModelAccuracy):
    """All that is measured of one model's answers for a head.

    What does not fit a sigmoid head is empty or None: ``aurc``, ``domains``, ``confusion``, ``risk_coverage``.

    Attributes:
        nll: Mean −log p of the gold label, in nats; of a sigmoid head the mean over all labels of all texts, each
            yes or no.
        ece: Expected calibration error: how far confidence is from accuracy; of a sigmoid head over all labels of all
            texts, each yes or no.
        aurc: Area under the curve of risk and coverage.
        labels: Label → how good the model is about it.
        domains: Teacher → how good the labels are on texts of its labels.
        confusion: Counts by gold label (rows) and predicted label (columns), ``(n_labels, n_labels)``.
        reliability: Answers sorted by their confidence.
        risk_coverage: What is gained by leaving out the least sure.
    """

    nll: Amount
    ece: Share
    aurc: Share | None
    labels: Annotated[Mapping[Name, LabelScores], Items(most=100_000)]
    domains: Mapping[Name, DomainAccuracy]
    confusion: tuple[tuple[Count, ...], ...]
    reliability: ReliabilityBins
    risk_coverage: RiskCoverageCurve | None


@record
class ModelComparison:
    """Two models on the same texts; only texts that one alone labels right tell them apart.

    Attributes:
        other: The model of the other bundle.
        n_texts: How many texts both answered.
        accuracy: The accuracy of the first model.
        other_accuracy: The accuracy of the other.
        difference: The first accuracy less the other, (b − c) / n_texts.
        interval: The bounds between which the difference lies with 95 % confidence.
        b: How many texts the first model alone has right.
        c: How many texts the other alone has right.
        p_value: How likely so uneven a b and c are if both err alike.
    """

    other: Name
    n_texts: TextCount
    accuracy: Share
    other_accuracy: Share
    difference: Signed
    interval: Annotated[tuple[Signed, ...], Items(fewest=2, most=2)]
    b: TextCount
    c: TextCount
    p_value: Share


@record
class HeadComparison:
    """A head beside the other bundle's head of the same name. Labels are matched by name.

    Attributes:
        missing_labels: Gold label that the other head does not know → how many texts have it.
        models: Model of the bundle → how it compares.
    """

    missing_labels: Annotated[Mapping[Name, TextCount], Items(most=100_000)]
    models: Mapping[Name, ModelComparison]


@record
class BundleComparison:
    """A bundle beside another one on the same texts. Heads are matched by name, or because each bundle has one.

    Attributes:
        bundle: The folder of the other bundle.
        same_bundle: Whether both are the same, file by file.
        heads: Head → how it compares.
        missing_heads: Heads with gold labels that the other bundle does not have.
    """

    bundle: Name
    same_bundle: bool
    heads: Mapping[Name, HeadComparison]
    missing_heads: tuple[Name, ...]


@record
class DifferingAnswer:
    """A text that the student answers otherwise than one of its teachers. Labels are those that the teacher has.

    Attributes:
        text: The text; of a long one the middle is left out.
        gold: The gold label, of a sigmoid head all that hold; None where that is not known.
        teacher: What the teacher answers.
        student: What the student answers.
    """

    text: Example
    gold: Labels | None
    teacher: Labels
    student: Labels


@record
class TeacherEvaluation(TeacherAccuracy):
    """A teacher on the same texts, and the student beside it.

    Attributes:
        as_built: Whether the teacher is the one that the bundle was built from, by its fingerprint.
        examples: Who was right (``student_right``, ``teacher_right``, ``neither_right``, or ``no_gold``) → texts that
            the bundle's default model and the teacher answer differently, at most ten of each kind.
    """

    as_built: bool = True
    examples: Annotated[Mapping[Name, tuple[DifferingAnswer, ...]], MayLack({})] = field(default_factory=dict)


@record
class HeadEvaluation:
    """One head on labelled texts, and beside its teachers.

    Attributes:
        activation: Whether one of its labels holds (``softmax``) or any of them may (``sigmoid``).
        n_texts: How many texts have gold labels for it.
        labels: The names of its labels, in the order of the confusion matrices.
        student: Precision → what was measured; the cascade is among them as ``cascade``; empty without gold labels.
        teachers: Teacher → how it and the student compare; empty where no teacher was named.
    """

    activation: Literal["softmax", "sigmoid"]
    n_texts: TextCount
    labels: Annotated[tuple[Name, ...], Items(most=100_000)]
    student: Mapping[Name, ModelEvaluation]
    teachers: Annotated[Mapping[Name, TeacherEvaluation], MayLack({})] = field(default_factory=dict)


@record
class Evaluation:
    """A bundle on texts with gold labels, or beside its teachers.

    Attributes:
        data: The texts, as they were named.
        n_texts: How many texts there are.
        default_model: The student's model that answers where nothing else is asked for; of named precisions the first,
            if that is not among them.
        heads: Head → what was measured; heads with neither gold labels nor teachers are left out.
        comparison: Another bundle beside it; None where none was named.
    """

    data: Name
    n_texts: TextCount
    default_model: Name
    heads: Mapping[Name, HeadEvaluation]
    comparison: Annotated[BundleComparison | None, MAY_LACK] = None
