"""The settings of the amalgamation benchmark: which teachers, which unlabeled texts, which test texts. Pure functions.

A setting makes a :class:`Plan` of a corpus, of another one beside it, and of a seed. Test texts are the same for all
seeds, but where the seed says which labels take part.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from string import ascii_lowercase

from corpora import Rows, Split
from sampling import by_hash

TWO_LANGUAGES = "debian_two_languages"
UNBALANCED_SHARE = 0.9  # of the unlabeled texts, that belong to the first teacher
OUT_OF_DOMAIN_SHARE = 0.2  # of the unlabeled texts, that belong to none


class LeftOut(Exception):  # noqa: N818
    """A setting cannot be had of a corpus; the message says why."""


@dataclass(frozen=True)
class Source:
    """A labelled corpus, ready to be planned with.

    Attributes:
        name: of the corpus.
        split: its texts by purpose.
        order: its labels, as seed 0 deals them out.
        larger: more unlabeled texts with their labels, none of them in ``split``.
    """

    name: str
    split: Split
    order: tuple[str, ...]
    larger: Rows


@dataclass(frozen=True)
class Case:
    """What a plan is made of.

    Attributes:
        source: the corpus.
        other: another corpus, for settings that take two.
        seed: of the deal.
    """

    source: Source
    other: Source
    seed: int


@dataclass(frozen=True)
class TeacherPlan:
    """A teacher to be.

    Attributes:
        name: by which scores and results call it.
        labels: in the order of its logits.
        rows: texts that it is fine-tuned on, with the labels that it is told.
        architecture: one of ``teachers.ARCHITECTURES``.
        useful: whether there is anything to be learned from it.
    """

    name: str
    labels: tuple[str, ...]
    rows: Rows
    architecture: str = "bert"
    useful: bool = True


@dataclass(frozen=True)
class Plan:
    """What a setting comes to.

    Attributes:
        teachers: in order.
        corpus: unlabeled texts, and the gold label that no student sees; None for texts of no teacher's labels.
        test: labelled texts.
    """

    teachers: tuple[TeacherPlan, ...]
    corpus: list[tuple[str, str | None]]
    test: Rows

    def owners(self) -> dict[str, list[int]]:
        """Label → positions of the useful teachers that know it."""
        owners: dict[str, list[int]] = defaultdict(list)
        for position, teacher in enumerate(self.teachers):
            for label in teacher.labels if teacher.useful else ():
                owners[label].append(position)
        return dict(owners)


def interleaved(hands: Iterable[Sequence[str]]) -> tuple[str, ...]:
    """The order of labels that :func:`deal` deals into these hands again."""
    return tuple(chain.from_iterable(zip(*hands, strict=True)))


def deal(order: Sequence[str], n_teachers: int, seed: int) -> list[tuple[str, ...]]:
    """Labels dealt round among teachers: as they stand by seed 0, in an order of its own by any other.

    Raises:
        LeftOut: a teacher would have fewer than two.
    """
    if len(order) < 2 * n_teachers:
        raise LeftOut(f"{n_teachers} teachers need {2 * n_teachers} labels, there are {len(order)}")
    cards = sorted(order, key=lambda label: by_hash(f"{seed} {label}")) if seed else list(order)
    return [tuple(cards[first::n_teachers]) for first in range(n_teachers)]


def of(rows: Rows, labels: Collection[str]) -> Rows:
    """The rows of some labels."""
    return [row for row in rows if row[1] in labels]


def spread(rows: Rows, n: int) -> Rows:
    """``n`` rows, as many of each label as can be, chosen by hash.

    Raises:
        LeftOut: there are not so many.
    """
    if len(rows) < n:
        raise LeftOut(f"{n} texts are needed, there are {len(rows)}")
    by_label: dict[str, Rows] = defaultdict(list)
    for row in sorted(rows, key=_hash):
        by_label[row[1]].append(row)
    ranked = [(rank, by_hash(row[0]), row) for own in by_label.values() for rank, row in enumerate(own)]
    return [row for _, _, row in sorted(ranked)[:n]]


def teacher(position: int, labels: Sequence[str], rows: Rows, architecture: str = "bert") -> TeacherPlan:
    """The teacher at a position, fine-tuned on the rows that bear its labels."""
    return TeacherPlan(f"teacher-{ascii_lowercase[position]}", tuple(labels), of(rows, labels), architecture)


def plain(split: Split, hands: Sequence[Sequence[str]], architectures: Sequence[str] = ()) -> Plan:
    """Teachers with these labels, and all texts of their labels."""
    own = set(chain.from_iterable(hands))
    kinds = architectures or ["bert"] * len(hands)
    return Plan(
        tuple(
            teacher(k, hand, split.for_teachers, kind) for k, (hand, kind) in enumerate(zip(hands, kinds, strict=True))
        ),
        [*of(split.corpus, own)],
        of(split.test, own),
    )


def several(case: Case, n_teachers: int) -> Plan:
    """Teachers with disjoint labels."""
    return plain(case.source.split, deal(case.source.order, n_teachers, case.seed))


def heterogeneous(case: Case, architectures: Sequence[str]) -> Plan:
    """Teachers of other architectures, sizes and tokenizers."""
    return plain(case.source.split, deal(case.source.order, len(architectures), case.seed), architectures)


def two_datasets(case: Case) -> Plan:
    """The first teacher knows half of the corpus' labels, the second half of another corpus'; texts are of both."""
    first, second = deal(case.source.order, 2, case.seed)[0], deal(case.other.order, 2, case.seed)[1]
    parts = plain(case.source.split, [first]), plain(case.other.split, [second])
    return Plan(
        (parts[0].teachers[0], teacher(1, second, case.other.split.for_teachers)),
        sorted(chain(*(part.corpus for part in parts)), key=_hash),
        [row for part in parts for row in part.test],
    )


def overlap(case: Case) -> Plan:
    """Two teachers share two labels, of which each has seen texts of its own."""
    first, second = deal(case.source.order, 2, case.seed)
    shared = (first[-1], second[-1])
    hands = [(*first, second[-1]), (*second, first[-1])]
    plan = plain(case.source.split, hands)
    theirs: dict[str, int] = defaultdict(int)
    half: dict[tuple[str, str], int] = {}
    for row in of(case.source.split.for_teachers, shared):
        half[row] = theirs[row[1]] % 2
        theirs[row[1]] += 1
    return replace(
        plan,
        teachers=tuple(
            replace(one, rows=[row for row in one.rows if half.get(row, position) == position])
            for position, one in enumerate(plan.teachers)
        ),
    )


def few(case: Case, n_texts: int) -> Plan:
    """``n_texts`` unlabeled texts a label; the teachers and the test are those of two teachers."""
    plan = several(case, 2)
    chosen: Rows = []
    for label in plan.owners():
        parts = (sorted(of(rows, [label]), key=_hash) for rows in (case.source.split.corpus, case.source.larger))
        rows = [*chain(*parts)]
        if len(rows) < n_texts:
            raise LeftOut(
                f"{n_texts} unlabeled texts a label are needed, of {label} there are {len(rows)}; samples/"
                f"{case.source.name}_large.csv may hold more, made with --most {round(2.5 * n_texts)}"
            )
        chosen += rows[:n_texts]
    return replace(plan, corpus=sorted(chosen, key=_hash))


def languages(case: Case) -> Plan:
    """Each teacher reads one language; which label is in which language is the corpus', so seeds do not deal."""
    return plain(case.source.split, deal(case.source.order, 2, 0))


def unbalanced(case: Case) -> Plan:
    """Nine in ten of the texts, unlabeled ones and test texts, belong to the first teacher."""
    plan = several(case, 2)
    first, second = (one.labels for one in plan.teachers)
    split = case.source.split
    return replace(plan, corpus=[*thinned(split.corpus, first, second)], test=thinned(split.test, first, second))


def thinned(rows: Rows, most: Collection[str], rest: Collection[str]) -> Rows:
    """All rows of the labels ``most``, and so few of the labels ``rest`` that nine in ten are of ``most``."""
    first = of(rows, most)
    kept = spread(of(rows, rest), round(len(first) * (1 - UNBALANCED_SHARE) / UNBALANCED_SHARE))
    return sorted([*first, *kept], key=_hash)


def with_strangers(plan: Plan, strangers: Rows) -> Plan:
    """The plan with a fifth of its unlabeled texts from among ``strangers``, whose labels no teacher knows."""
    added = spread(strangers, round(len(plan.corpus) * OUT_OF_DOMAIN_SHARE / (1 - OUT_OF_DOMAIN_SHARE)))
    rows = [*plan.corpus, *((text, None) for text, _ in added)]
    return replace(plan, corpus=sorted(rows, key=_hash))


def out_of_domain(case: Case) -> Plan:
    """A label of each teacher is held back from it; a fifth of the unlabeled texts are of these two."""
    first, second = deal(case.source.order, 2, case.seed)
    if len(first) < 3 or len(second) < 3:
        raise LeftOut(f"each of two teachers needs three labels, there are {len(case.source.order)}")
    held_back = of(case.source.split.corpus, (first[-1], second[-1]))
    return with_strangers(plain(case.source.split, [first[:-1], second[:-1]]), held_back)


def out_of_domain_far(case: Case) -> Plan:
    """A fifth of the unlabeled texts are another corpus'."""
    return with_strangers(several(case, 2), case.other.split.corpus)


def useless_foreign(case: Case) -> Plan:
    """A third teacher knows labels of another corpus, of which there is no text."""
    plan = several(case, 2)
    third = teacher(2, deal(case.other.order, 2, case.seed)[1], case.other.split.for_teachers)
    return replace(plan, teachers=(*plan.teachers, replace(third, useful=False)))


def useless_shuffled(case: Case) -> Plan:
    """A third teacher has half of the second one's labels, and was fine-tuned on its texts with labels shuffled."""
    plan = several(case, 2)
    second = plan.teachers[1]
    third = teacher(2, second.labels[: max(2, len(second.labels) // 2)], second.rows)
    shuffled = [label for _, label in sorted(third.rows, key=lambda row: by_hash(f"{case.seed} {row[0]}"))]
    rows = [(text, label) for (text, _), label in zip(third.rows, shuffled, strict=True)]
    return replace(plan, teachers=(*plan.teachers, replace(third, rows=rows, useful=False)))


BASE = "two"
SETTINGS: dict[str, Callable[[Case], Plan]] = {
    BASE: partial(several, n_teachers=2),
    "three": partial(several, n_teachers=3),
    "four": partial(several, n_teachers=4),
    "five": partial(several, n_teachers=5),
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


def plan(setting: str, case: Case) -> Plan:
    """What a setting comes to.

    Raises:
        LeftOut: it cannot be had of this corpus.
    """
    if (setting == "languages") != (case.source.name == TWO_LANGUAGES):
        raise LeftOut(f"languages is the setting of {TWO_LANGUAGES}, and its only one")
    return SETTINGS[setting](case)


def _hash(row: tuple[str, str | None]) -> str:
    return by_hash(row[0])
