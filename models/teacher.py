"""Teachers: fine-tuned sequence classifiers, as they come from a folder or the Hub.

A new kind of teacher starts here: :class:`Teacher` says what scoring needs of one, :func:`load_teacher` makes it, and
:func:`_require_classifier` names the kinds that are refused so far.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from amalgam_edge.dropout.sites import DropoutSite, find_sites
from amalgam_edge.errors import AmalgamError
from amalgam_edge.metrics.uncertainty import SIGMOID, SOFTMAX, Activation
from amalgam_edge.models.checkpoints import heads_of, parse_teacher
from amalgam_edge.models.loading import fingerprint, load_classifier, load_config, load_tokenizer, longest_input
from amalgam_edge.recipe.sections import TeacherSettings

_PROBE_TEXT = "a probe of the dropout sites"


@dataclass(frozen=True)
class Teacher:
    """A fine-tuned sequence classifier with its tokenizer and the names of its classes.

    Attributes:
        name: The name by which labels, scores and reports call it.
        source: The folder or the name on the Hub that it was loaded from.
        model: The model in float32 with eager attention, in evaluation mode.
        tokenizer: The tokenizer that it was fine-tuned with, padding on the right.
        class_names: The names of its classes, in the order of its logits.
        max_length: The longest input in tokens.
        sites: Where it applies dropout.
        fingerprint: SHA-256 of weights, config and tokenizer.
        activation: What makes probabilities of its logits: ``softmax`` where one class holds, ``sigmoid`` where any
            may.
        head: Name of the head that it teaches; teachers of one head are compared with each other.
    """

    name: str
    source: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    class_names: tuple[str, ...]
    max_length: int
    sites: tuple[DropoutSite, ...]
    fingerprint: str
    activation: Activation = SOFTMAX
    head: str = ""


def load_all(teacher_settings: TeacherSettings) -> list[Teacher]:
    """Load every teacher of a build, each with the name of the head that it teaches.

    Raises:
        AmalgamError: As :func:`load_teachers` and :func:`~amalgam_edge.models.checkpoints.heads_of`.
    """
    head_of = {teacher: head for head, teachers in heads_of(teacher_settings).items() for teacher in teachers}
    teachers = load_teachers(
        teacher_settings.sources, dropout=teacher_settings.dropout, max_length=teacher_settings.max_length
    )
    return [replace(teacher, head=head_of[teacher.name]) for teacher in teachers]


def load_teachers(
    specs: Sequence[str], *, dropout: float | None = None, max_length: int = 128, needs_dropout: bool = True
) -> list[Teacher]:
    """Load several teachers.

    Args:
        specs: ``name=path`` or ``path`` for each teacher; a path is a folder or a name on the Hub.
        dropout: The probability for the dropouts that a teacher has at zero.
        max_length: The longest input in tokens, lowered to what each teacher can take.
        needs_dropout: Whether to refuse a teacher whose uncertainty cannot be sampled.

    Raises:
        AmalgamError: There is no teacher, two have the same name, or one is no classifier.
    """
    if not specs:
        raise AmalgamError("no teacher given: name at least one with --teacher PATH")
    named = [parse_teacher(spec) for spec in specs]
    names = [name for name, _ in named]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise AmalgamError(f"two teachers are called '{twice}': name them apart with --teacher NAME=PATH")
    return [
        load_teacher(name, source, dropout=dropout, max_length=max_length, needs_dropout=needs_dropout)
        for name, source in named
    ]


def load_teacher(
    name: str, source: str, *, dropout: float | None = None, max_length: int = 128, needs_dropout: bool = True
) -> Teacher:
    """Load one teacher; see :func:`load_teachers`."""
    config = load_config(source)
    _require_classifier(name, source, config)
    if dropout is not None:
        _raise_zero_dropouts(config, dropout)
    model = load_classifier(source, config)
    tokenizer = load_tokenizer(source)
    model.eval()
    sites = find_sites(model, dict(tokenizer(_PROBE_TEXT, return_tensors="pt", return_token_type_ids=False)))
    if needs_dropout and not sites:
        raise AmalgamError(
            f"teacher '{name}' has no dropout above zero, so its uncertainty cannot be sampled: "
            "give --dropout P (say 0.1)"
        )
    return Teacher(
        name=name,
        source=source,
        model=model,
        tokenizer=tokenizer,
        class_names=tuple(str(config.id2label[k]) for k in sorted(config.id2label)),
        max_length=min(max_length, longest_input(config, tokenizer)),
        sites=sites,
        fingerprint=fingerprint(model, tokenizer),
        activation=activation_of(config),
    )


def activation_of(config: PretrainedConfig) -> Activation:
    """What makes probabilities of a classifier's logits, as transformers' own pipeline does it.

    It is the sigmoid for ``multi_label_classification``, and for one logit: whether the one class holds.
    """
    is_sigmoid = config.problem_type == "multi_label_classification" or config.num_labels == 1
    return SIGMOID if is_sigmoid else SOFTMAX


def _require_classifier(name: str, source: str, config: PretrainedConfig) -> None:
    architectures = config.architectures or []
    if architectures and not any("ForSequenceClassification" in a for a in architectures):
        raise AmalgamError(
            f"teacher '{name}' ({source}) is a {architectures[0]}, with no sequence-classification head: "
            "fine-tune it first"
        )
    if config.problem_type == "regression" or config.num_labels < 1:
        raise AmalgamError(f"teacher '{name}' ({source}) is a regression head; only classifiers can be merged")


def _raise_zero_dropouts(config: PretrainedConfig, p: float) -> None:
    """Set every dropout probability of a config that is zero to ``p``, in place."""
    if not 0.0 < p < 1.0:
        raise AmalgamError(f"dropout must lie between 0 and 1, not {p}")
    for key, value in config.to_dict().items():
        if "drop" in key and isinstance(value, (int, float)) and not isinstance(value, bool) and value == 0:
            setattr(config, key, p)
