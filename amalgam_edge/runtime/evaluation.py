"""What ``amalgam-edge evaluate`` measures, as records that become its JSON."""

from collections.abc import Mapping
from typing import Annotated, Literal

from amalgam_edge.runtime.manifest_models import ModelAccuracy
from amalgam_edge.storage.record import record
from amalgam_edge.storage.record_fields import MAY_LACK, Amount, Count, Items, Name, Number, Share, TextCount

Signed = Annotated[float, Number(at_least=-1, at_most=1)]
Curve = Annotated[tuple[Share, ...], Items(most=10_000)]


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
class ModelEvaluation(ModelAccuracy):
    """All that is measured of one model's answers.

    Attributes:
        nll: Mean −log p of the gold label, in nats.
        ece: Expected calibration error: how far confidence is from accuracy.
        aurc: Area under the curve of risk and coverage.
        domains: Teacher → how good the labels are on texts of its labels.
        confusion: Counts by gold label (rows) and predicted label (columns), ``(n_labels, n_labels)``.
        reliability: Answers sorted by their confidence.
        risk_coverage: What is gained by leaving out the least sure.
    """

    nll: Amount
    ece: Share
    aurc: Share
    domains: Mapping[Name, DomainAccuracy]
    confusion: tuple[tuple[Count, ...], ...]
    reliability: ReliabilityBins
    risk_coverage: RiskCoverageCurve


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
class BundleComparison:
    """A bundle beside another one on the same texts. Labels are matched by name.

    Attributes:
        bundle: The folder of the other bundle.
        same_bundle: Whether both are the same, file by file.
        missing_labels: Gold label that the other bundle does not know → how many texts have it.
        models: Model of the bundle → how it compares.
    """

    bundle: Name
    same_bundle: bool
    missing_labels: Mapping[Name, TextCount]
    models: Mapping[Name, ModelComparison]


@record
class HeadEvaluation:
    """One head on the texts that have gold labels for it.

    Attributes:
        activation: Whether one of its labels holds (``softmax``) or any of them may (``sigmoid``).
        n_texts: How many such texts there are.
        labels: The names of its labels, in the order of the confusion matrices.
        student: Precision → what was measured; the cascade is among them as ``cascade``.
    """

    activation: Literal["softmax", "sigmoid"]
    n_texts: TextCount
    labels: Annotated[tuple[Name, ...], Items(most=100_000)]
    student: Mapping[Name, ModelEvaluation]


@record
class Evaluation:
    """A bundle on texts with gold labels.

    Attributes:
        data: The labelled texts, as they were named.
        n_texts: How many texts there are.
        heads: Head → what was measured; heads without gold labels are left out.
        comparison: Another bundle beside it; None where none was named.
    """

    data: Name
    n_texts: TextCount
    heads: Mapping[Name, HeadEvaluation]
    comparison: Annotated[BundleComparison | None, MAY_LACK] = None
