"""Where a bundle's student comes from: entries of the manifest, which the docstrings here describe."""

from typing import Annotated

from amalgam_edge.storage.record import record
from amalgam_edge.storage.record_fields import MAY_LACK, Amount, Count, Digest, Items, Name, Share, TextCount


@record
class Machine:
    """The machine that built the bundle; latencies are to be read against it.

    Attributes:
        system: The operating system, as Python's ``sys.platform`` names it.
        architecture: The kind of CPU, such as ``x86_64``.
        cpu_features: The instruction sets that int8 kernels use and that the CPU has.
    """

    system: Name
    architecture: Name
    cpu_features: tuple[Name, ...]


@record
class SourceTeacher:
    """A teacher that the student was distilled from.

    Attributes:
        name: The teacher's name.
        source: The folder or Hub name that the teacher was loaded from.
        from_hub: Whether the source is a name on the Hub.
        fingerprint: SHA-256 of the teacher's weights, config and tokenizer.
        head: The name of the head that the teacher teaches.
        labels: The labels that the teacher knows, by their names in its head, in the order of the teacher's classes.
        dropout_sites: How many calls of dropout one forward run of the teacher makes.
        mean_uncertainty: Mean over the corpus of the teacher's normalised predictive entropy.
        picked_share: Share of the texts on which the teacher was the one of its head to be trusted most.
    """

    name: Name
    source: Name
    from_hub: bool
    fingerprint: Digest
    head: Name
    labels: Annotated[tuple[Name, ...], Items(most=100_000)]
    dropout_sites: Count
    mean_uncertainty: Share
    picked_share: Share


@record
class CorpusCounts:
    """The unlabeled texts that the student was distilled on.

    Attributes:
        fingerprint: SHA-256 of the texts in order.
        n_texts: How many texts were scored.
        n_train: How many of these the student was trained on; the others were held out.
        n_blank: How many blank texts were left out.
        n_duplicate: How many repeated texts were left out.
        n_failed: How many texts were left out because a teacher could not score them.
        n_truncated: How many texts are longer than the student's input; null where an early version did not count them.
    """

    fingerprint: Digest
    n_texts: TextCount
    n_train: TextCount
    n_blank: TextCount
    n_duplicate: TextCount
    n_failed: TextCount
    n_truncated: TextCount | None


@record
class TrainingPoint:
    """A point of the training curve.

    Attributes:
        step: How many updates had been made.
        epoch: How many passes over the texts had been made.
        loss: The loss on the texts trained on since the last point, in nats, weighted.
        held_out_loss: The same loss on the held-out texts.
    """

    step: Count
    epoch: Amount
    loss: Annotated[float | None, MAY_LACK] = None
    held_out_loss: Annotated[float | None, MAY_LACK] = None


@record
class StudentFacts:
    """What is known of the student, whatever its precision.

    Attributes:
        layers: How many layers its encoder has; null for a static student, and where an early version did not say.
        n_tokens: How many tokens it knows; null where an early version did not say.
        agreement: Share of held-out texts on which it answers as the supervision does, in float and with all tokens,
            the mean over its heads; null where an early version did not measure it.
    """

    layers: Count | None = None
    n_tokens: Count | None = None
    agreement: Share | None = None
