"""The heads of a bundle's student: entries of the manifest, which the docstrings here describe."""

from collections.abc import Mapping
from typing import Annotated, Literal

from amalgam_edge.heads import Head, Heads
from amalgam_edge.runtime.manifest_models import Calibration
from amalgam_edge.storage.record import record
from amalgam_edge.storage.record_fields import Amount, Count, Items, Json, JsonName, Name, Share, TextCount


@record
class LabelSource:
    """A class of a teacher that became a label.

    Attributes:
        teacher: The teacher's name.
        class_name: The name that the teacher has for the class.
    """

    teacher: Name
    class_name: Annotated[Name, JsonName("class")]


@record
class Label:
    """A label that the student answers with.

    Attributes:
        name: The label's name in the union of the labels of the head's teachers.
        sources: The teachers' classes that the label stands for.
        threshold: The probability from which on the label of a sigmoid head holds; null for a softmax head.
    """

    name: Name
    sources: Annotated[tuple[LabelSource, ...], Items(most=100_000)]
    threshold: Share | None


@record
class BundleHead:
    """A question that the student answers.

    Attributes:
        name: The head's name; ``label`` where there is one and nobody named it.
        activation: ``softmax``: one of the labels holds; ``sigmoid``: any of them may.
        labels: The labels, in the order of the head's logits.
        weight: The factor of the head's loss in the loss of all heads.
        abstain: Of a softmax head, the score below which no label is given; 0 gives one to every text.
        calibration: The temperatures in the student's last layer; null where none were fitted.
        agreement: Share of held-out texts on which the head answers as its supervision does, in float and with all
            tokens; null where an early version did not measure it.
    """

    name: Name
    activation: Literal["softmax", "sigmoid"]
    labels: Annotated[tuple[Label, ...], Items(most=100_000, fewest=1, unique="name")]
    weight: Amount
    abstain: Share
    calibration: Calibration | None
    agreement: Share | None

    def head(self) -> Head:
        """What reads answers from its logits."""
        thresholds = tuple(0.5 if label.threshold is None else label.threshold for label in self.labels)
        return Head(
            name=self.name,
            activation=self.activation,
            labels=tuple(label.name for label in self.labels),
            thresholds=thresholds if self.activation == "sigmoid" else (),
            abstain=self.abstain,
        )


@record
class HeadChange:
    """A change to one head of the finished bundle, under which all other heads answer as they did before.

    Attributes:
        action: What was done to the head.
        head: The head's name.
        settings: How a new head was made: its teachers, corpus and method, every default written out; empty of a head
            that was dropped.
        models: The models whose other heads were compared with what they had answered before: precisions, and
            ``cascade`` for its static student.
        n_texts: How many texts each of them answered.
        batch_sizes: The most texts in a batch; all texts were answered in batches of each of these sizes.
        largest_difference: The largest difference of any logit or probability of another head; 0 where all of them are
            equal to the bit, without which no change is written.
    """

    action: Literal["add", "replace", "drop"]
    head: Name
    settings: Annotated[Mapping[Name, Json], Items(most=1000)]
    models: tuple[Name, ...]
    n_texts: TextCount
    batch_sizes: tuple[Count, ...]
    largest_difference: Amount


def heads_of(described: tuple[BundleHead, ...]) -> Heads:
    """What reads answers from the student's logits."""
    return Heads(tuple(head.head() for head in described))
