"""The settings of the amalgamation benchmark: which teachers, which unlabeled texts, which test texts. Pure functions.

A setting makes a :class:`Plan` from a corpus, a second corpus and a seed. Test texts are the same for all seeds, except
in settings where the seed decides which labels take part.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from string import ascii_lowercase

from benchmarks.common.errors import UnavailableError
from examples.corpora import Rows, Split, by_hash

TWO_LANGUAGES = "debian_two_languages"
UNBALANCED_SHARE = 0.9  # share of the unlabeled texts that have labels of the first teacher
OUT_OF_DOMAIN_SHARE = 0.2  # share of the unlabeled texts whose label no teacher knows


@dataclass(frozen=True)
class LabelledCorpus:
    """A labelled corpus with its texts split by purpose.

    Attributes:
        name: Name of the corpus.
        split: Its texts by purpose.
        order: Its labels, in the order in which seed 0 deals them out to teachers. Labels of one item, such as those of
            a domain, go to the same teacher.
        larger: More texts for the unlabeled corpus with their labels, none of them in ``split``.
    """

    name: str
    split: Split
    order: tuple[tuple[str, ...], ...]
    larger: Rows


@dataclass(frozen=True)
class PlanInputs:
    """What a plan is made from.

    Attributes:
        source: The corpus.
        other: Another corpus, for settings that take two.
        seed: Decides which teacher gets which labels.
    """

    source: LabelledCorpus
    other: LabelledCorpus
    seed: int


@dataclass(frozen=True)
class TeacherPlan:
    """What a teacher is fine-tuned on.

    Attributes:
        name: Its name in scores and results.
        labels: Its labels, in the order of its logits.
        rows: Pairs of text and label that it is fine-tuned on.
        architecture: One of ``architectures.ARCHITECTURES``.
        useful: Whether there is anything to be learned from it.
        epochs: Epochs that it is fine-tuned for; None for as many as the study says.
    """

    name: str
    labels: tuple[str, ...]
    rows: Rows
    architecture: str = "bert"
    useful: bool = True
    epochs: int | None = None


@dataclass(frozen=True)
class Plan:
    """The teachers and texts of one setting, corpus and seed.

    Attributes:
        teachers: The teachers, in order.
        corpus: Unlabeled texts with the gold label that no student sees; None where no teacher knows the label.
        test: Pairs of text and label for testing.
    """

    teachers: tuple[TeacherPlan, ...]
    corpus: list[tuple[str, str | None]]
    test: Rows

    def owners(self) -> dict[str, list[int]]:
        """For each label, the positions of the useful teachers that know it."""
        owners: dict[str, list[int]] = defaultdict(list)
        for position, teacher in enumerate(self.teachers):
            for label in teacher.labels if teacher.useful else ():
                owners[label].append(position)
        return dict(owners)


def interleaved(label_sets: Iterable[Sequence[str]]) -> tuple[tuple[str, ...], ...]:
    """The order of labels, each an item, from which :func:`deal_labels` makes these sets again with seed 0."""
    return tuple((label,) for label in chain.from_iterable(zip(*label_sets, strict=True)))


def deal_labels(order: Sequence[tuple[str, ...]], n_teachers: int, seed: int) -> list[tuple[str, ...]]:
    """Deal items of labels out to teachers in turn: as they are with seed 0, in a shuffled order with any other seed.

    Raises:
        UnavailableError: A teacher would have fewer than two labels.
    """
    items = sorted(order, key=lambda item: by_hash(f"{seed} {item[0]}")) if seed else list(order)
    hands = [tuple(chain.from_iterable(items[first::n_teachers])) for first in range(n_teachers)]
    if min(map(len, hands)) < 2:
        n_labels = sum(map(len, order))
        raise UnavailableError(f"{n_teachers} teachers need {2 * n_teachers} labels, there are {n_labels}")
    return hands


def with_labels(rows: Rows, labels: Collection[str]) -> Rows:
    """The rows that have one of these labels."""
    return [row for row in rows if row[1] in labels]


def deal_rows(rows: Rows, n_teachers: int) -> list[Rows]:
    """Deal the rows of each label out to teachers in turn, in the order given."""
    parts: list[Rows] = [[] for _ in range(n_teachers)]
    n_seen: dict[str, int] = defaultdict(int)
    for row in rows:
        parts[n_seen[row[1]] % n_teachers].append(row)
        n_seen[row[1]] += 1
    return parts


def balanced_sample(rows: Rows, n: int) -> Rows:
    """``n`` rows, spread as evenly as possible over the labels, chosen by hash.

    Raises:
        UnavailableError: There are fewer rows.
    """
    if len(rows) < n:
        raise UnavailableError(f"{n} texts are needed, there are {len(rows)}")
    by_label: dict[str, Rows] = defaultdict(list)
    for row in sorted(rows, key=_hash):
        by_label[row[1]].append(row)
    ranked = [(rank, by_hash(row[0]), row) for of_label in by_label.values() for rank, row in enumerate(of_label)]
    return [row for _, _, row in sorted(ranked)[:n]]


def teacher_plan(position: int, labels: Sequence[str], rows: Rows, architecture: str = "bert") -> TeacherPlan:
    """The plan of the teacher at a position, which is fine-tuned on the rows that have its labels."""
    return TeacherPlan(f"teacher-{ascii_lowercase[position]}", tuple(labels), with_labels(rows, labels), architecture)


def plan_for_label_sets(split: Split, label_sets: Sequence[Sequence[str]], architectures: Sequence[str] = ()) -> Plan:
    """A teacher for each set of labels, and all texts that have one of the labels."""
    known = set(chain.from_iterable(label_sets))
    kinds = architectures or ["bert"] * len(label_sets)
    return Plan(
        tuple(
            teacher_plan(k, labels, split.for_teachers, kind)
            for k, (labels, kind) in enumerate(zip(label_sets, kinds, strict=True))
        ),
        [*with_labels(split.corpus, known)],
        with_labels(split.test, known),
    )


def disjoint_teachers(inputs: PlanInputs, n_teachers: int) -> Plan:
    """Teachers with disjoint labels."""
    return plan_for_label_sets(inputs.source.split, deal_labels(inputs.source.order, n_teachers, inputs.seed))


def trained_for(inputs: PlanInputs, epochs: int) -> Plan:
    """Two teachers that are fine-tuned for so many epochs: too few, enough or too many."""
    plan = disjoint_teachers(inputs, 2)
    return replace(plan, teachers=tuple(replace(teacher, epochs=epochs) for teacher in plan.teachers))


def same_labels(inputs: PlanInputs, n_teachers: int) -> Plan:
    """Teachers that all know all labels, and have learned them from different texts."""
    plan = disjoint_teachers(inputs, 1)
    (whole,) = plan.teachers
    parts = deal_rows(whole.rows, n_teachers)
    return replace(plan, teachers=tuple(teacher_plan(k, whole.labels, rows) for k, rows in enumerate(parts)))


def heterogeneous(inputs: PlanInputs, architectures: Sequence[str]) -> Plan:
    """Teachers of other architectures, sizes and tokenizers."""
    return plan_for_label_sets(
        inputs.source.split, deal_labels(inputs.source.order, len(architectures), inputs.seed), architectures
    )


def two_datasets(inputs: PlanInputs) -> Plan:
    """The first teacher knows half of the labels of the corpus, the second half of another's; texts are from both."""
    first, second = (
        deal_labels(inputs.source.order, 2, inputs.seed)[0],
        deal_labels(inputs.other.order, 2, inputs.seed)[1],
    )
    parts = plan_for_label_sets(inputs.source.split, [first]), plan_for_label_sets(inputs.other.split, [second])
    return Plan(
        (parts[0].teachers[0], teacher_plan(1, second, inputs.other.split.for_teachers)),
        sorted(chain(*(part.corpus for part in parts)), key=_hash),
        [row for part in parts for row in part.test],
    )


def overlap(inputs: PlanInputs) -> Plan:
    """Two teachers share two labels, which they have learned from different texts."""
    first, second = deal_labels(inputs.source.order, 2, inputs.seed)
    shared = (first[-1], second[-1])
    label_sets = [(*first, second[-1]), (*second, first[-1])]
    plan = plan_for_label_sets(inputs.source.split, label_sets)
    parts = deal_rows(with_labels(inputs.source.split.for_teachers, shared), 2)
    owner = {row: position for position, rows in enumerate(parts) for row in rows}  # who learns from a shared label
    return replace(
        plan,
        teachers=tuple(
            replace(teacher, rows=[row for row in teacher.rows if owner.get(row, position) == position])
            for position, teacher in enumerate(plan.teachers)
        ),
    )


def few(inputs: PlanInputs, n_texts: int) -> Plan:
    """Two teachers, and an unlabeled corpus with ``n_texts`` texts of each label."""
    plan = disjoint_teachers(inputs, 2)
    chosen: Rows = []
    for label in plan.owners():
        parts = (
            sorted(with_labels(rows, [label]), key=_hash) for rows in (inputs.source.split.corpus, inputs.source.larger)
        )
        rows = [*chain(*parts)]
        if len(rows) < n_texts:
            raise UnavailableError(
                f"{n_texts} unlabeled texts per label are needed, but {label} has {len(rows)}; make a larger corpus "
                f"with --most {round(2.5 * n_texts)} and save it as examples/data/{inputs.source.name}_large.csv"
            )
        chosen += rows[:n_texts]
    return replace(plan, corpus=sorted(chosen, key=_hash))


def languages(inputs: PlanInputs) -> Plan:
    """Each teacher reads one language; the corpus fixes the language of each label, so the seed does not matter."""
    return plan_for_label_sets(inputs.source.split, deal_labels(inputs.source.order, 2, 0))


def unbalanced(inputs: PlanInputs) -> Plan:
    """Nine in ten of the texts, both unlabeled and test texts, have labels of the first teacher."""
    plan = disjoint_teachers(inputs, 2)
    first, second = (teacher.labels for teacher in plan.teachers)
    split = inputs.source.split
    return replace(
        plan,
        corpus=[*unbalanced_sample(split.corpus, first, second)],
        test=unbalanced_sample(split.test, first, second),
    )


def unbalanced_sample(rows: Rows, most: Collection[str], rest: Collection[str]) -> Rows:
    """All rows with labels ``most``, and so few with labels ``rest`` that nine in ten have labels ``most``."""
    first = with_labels(rows, most)
    kept = balanced_sample(with_labels(rows, rest), round(len(first) * (1 - UNBALANCED_SHARE) / UNBALANCED_SHARE))
    return sorted([*first, *kept], key=_hash)


def with_out_of_domain_texts(plan: Plan, texts: Rows) -> Plan:
    """The plan with texts whose labels no teacher knows added, until they are a fifth of the unlabeled corpus."""
    added = balanced_sample(texts, round(len(plan.corpus) * OUT_OF_DOMAIN_SHARE / (1 - OUT_OF_DOMAIN_SHARE)))
    rows = [*plan.corpus, *((text, None) for text, _ in added)]
    return replace(plan, corpus=sorted(rows, key=_hash))


def out_of_domain(inputs: PlanInputs) -> Plan:
    """One label of each teacher is held back from it; a fifth of the unlabeled texts have these two labels."""
    first, second = deal_labels(inputs.source.order, 2, inputs.seed)
    if len(first) < 3 or len(second) < 3:
        raise UnavailableError(f"each of two teachers needs three labels, there are {len(inputs.source.order)}")
    held_back = with_labels(inputs.source.split.corpus, (first[-1], second[-1]))
    return with_out_of_domain_texts(plan_for_label_sets(inputs.source.split, [first[:-1], second[:-1]]), held_back)


def out_of_domain_far(inputs: PlanInputs) -> Plan:
    """A fifth of the unlabeled texts are from another corpus."""
    return with_out_of_domain_texts(disjoint_teachers(inputs, 2), inputs.other.split.corpus)


def useless_foreign(inputs: PlanInputs) -> Plan:
    """A third teacher knows labels of another corpus, which no text has."""
    plan = disjoint_teachers(inputs, 2)
    third = teacher_plan(2, deal_labels(inputs.other.order, 2, inputs.seed)[1], inputs.other.split.for_teachers)
    return replace(plan, teachers=(*plan.teachers, replace(third, useful=False)))


def useless_shuffled(inputs: PlanInputs) -> Plan:
    """A third teacher has half of the labels of the second one and is fine-tuned on its texts with shuffled labels."""
    plan = disjoint_teachers(inputs, 2)
    second = plan.teachers[1]
    third = teacher_plan(2, second.labels[: max(2, len(second.labels) // 2)], second.rows)
    shuffled = [label for _, label in sorted(third.rows, key=lambda row: by_hash(f"{inputs.seed} {row[0]}"))]
    rows = [(text, label) for (text, _), label in zip(third.rows, shuffled, strict=True)]
    return replace(plan, teachers=(*plan.teachers, replace(third, rows=rows, useful=False)))


BASE = "two"
SETTINGS: dict[str, Callable[[PlanInputs], Plan]] = {
    BASE: partial(disjoint_teachers, n_teachers=2),
    "three": partial(disjoint_teachers, n_teachers=3),
    "four": partial(disjoint_teachers, n_teachers=4),
    "five": partial(disjoint_teachers, n_teachers=5),
    "ten": partial(disjoint_teachers, n_teachers=10),
    "trained-3": partial(trained_for, epochs=3),
    "trained-10": partial(trained_for, epochs=10),
    "trained-30": partial(trained_for, epochs=30),
    "same-labels": partial(same_labels, n_teachers=3),
    "heterogeneous": partial(heterogeneous, architectures=("bert", "distilbert")),
    "heterogeneous-three": partial(heterogeneous, architectures=("bert", "distilbert", "roberta")),
    "datasets": two_datasets,
    "overlap": overlap,
    "few-100": partial(few, n_texts=100),
    "few-300": partial(few, n_texts=300),
    "few-1000": partial(few, n_texts=1000),
    "languages": languages,
    "unbalanced": unbalanced,
    "out-of-domain": out_of_domain,
    "out-of-domain-far": out_of_domain_far,
    "useless-foreign": useless_foreign,
    "useless-shuffled": useless_shuffled,
}


def make_plan(setting: str, inputs: PlanInputs) -> Plan:
    """The plan of a setting, by its name in ``SETTINGS``.

    Raises:
        UnavailableError: The setting is not possible with this corpus.
    """
    if (setting == "languages") != (inputs.source.name == TWO_LANGUAGES):
        raise UnavailableError(f"the setting languages needs the corpus {TWO_LANGUAGES}, which has no other setting")
    return SETTINGS[setting](inputs)


def _hash(row: tuple[str, str | None]) -> str:
    return by_hash(row[0])
