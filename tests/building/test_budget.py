"""Budgets, fronts and picks, by hand."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amalgam_edge.building.budget import EXAMPLE, Budget, Candidate, front, pick
from amalgam_edge.errors import AmalgamError


def candidate(name, megabytes=10.0, latency_ms=2.0, loss=0.5, memory=100.0, batch_ms=30.0):
    return Candidate(name, "by hand", megabytes, latency_ms, 2 * latency_ms, batch_ms, memory, loss, 1e-4)


FLOAT = candidate("fp32", 70, 3, 0.0, 180, 40)
INT8 = candidate("int8", 18, 1.4, 0.6, 110, 25)
Q4 = candidate("q4", 16, 2.0, 1.7, 105, 60)
FP16 = candidate("fp16", 35, 5.0, 0.0, 190, 80)
W8 = candidate("w8", 19, 2.5, 0.4, 110, 70)
ALL = [FLOAT, INT8, Q4, FP16, W8]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (EXAMPLE, {"size": 10, "latency": 2, "loss": 1}),
        ("size<=500kB", {"size": 0.5}),
        (" LATENCY <= 800us , memory<=1.5 GB", {"latency": 0.8, "memory": 1500}),
        ("loss<=.5%", {"loss": 0.5}),
    ],
)
def test_wishes_are_read_in_their_units(text, expected):
    assert Budget.parse(text).limits == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "''"), ("size<10MB", "'size<10MB'"), ("size<=10", "'size<=10'"), ("size<=10ms", "'size<=10ms'"),
        ("speed<=2ms", "'speed<=2ms'"), ("latency<=2ms,,loss<=1%", "''"), ("loss<=x%", "'loss<=x%'"),
        ("size<=-1MB", "'size<=-1MB'"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_named_with_an_example(text, named):
    with pytest.raises(AmalgamError) as refused:
        Budget.parse(text)
    assert named in str(refused.value)
    assert EXAMPLE in str(refused.value)


def test_a_wish_is_named_once():
    with pytest.raises(AmalgamError, match="size is limited twice"):
        Budget.parse("size<=1MB, size<=2MB")


def test_the_front_by_hand():
    # fp16 is smaller than fp32 and as true; nothing beats w8 in truth below 35 MB, and nothing is smaller than q4
    assert front(ALL) == ["fp32", "int8", "q4", "fp16", "w8"]
    slow = candidate("slow", 18, 1.5, 0.6, batch_ms=25)
    assert front([INT8, slow]) == ["int8"]
    assert front([INT8, candidate("twin", 18, 1.4, 0.6, batch_ms=25)]) == ["int8", "twin"]


@given(
    st.lists(st.tuples(*[st.integers(0, 3)] * 4), min_size=1, max_size=12),
)
def test_whatever_is_off_the_front_is_beaten_by_something_on_it(costs):
    made = [candidate(str(k), c[0], c[1], c[2], batch_ms=c[3]) for k, c in enumerate(costs)]
    on = {name: next(c for c in made if c.name == name) for name in front(made)}
    assert on
    for one in made:
        if one.name not in on:
            assert any(all(a <= b for a, b in zip(o.costs(), one.costs(), strict=True)) for o in on.values())


def test_the_fastest_that_meets_the_budget_is_picked():
    picked = pick(ALL, Budget.parse("size<=40MB, loss<=1%"))
    assert (picked.name, picked.within_budget) == ("int8", True)
    assert "fp16, w8 would too" in picked.reason
    alone = pick(ALL, Budget.parse("size<=40MB, loss<=0.1%"))
    assert (alone.name, alone.reason) == ("fp16", "it alone meets the budget")


def test_where_nothing_meets_it_the_nearest_is_picked_and_the_miss_is_told():
    picked = pick(ALL, Budget.parse("size<=10MB, loss<=1%"))
    assert (picked.name, picked.within_budget) == ("int8", False)
    assert "size is 18 MB, 8 MB too much" in picked.reason.replace("whose size", "size")
    assert "loss" not in picked.reason


def test_what_is_not_known_meets_nothing():
    unknown = candidate("fp32", memory=None)
    picked = pick([unknown], Budget.parse("memory<=1GB"))
    assert not picked.within_budget
    assert "memory is not known here" in picked.reason
    assert pick([unknown], Budget.parse("size<=1GB")).within_budget


def test_a_limit_on_loss_is_added_where_there_is_none():
    assert Budget({"size": 1.0}).with_loss(2.0).limits == {"size": 1.0, "loss": 2.0}
    assert Budget({"loss": 0.5}).with_loss(2.0).limits == {"loss": 0.5}


def test_a_model_that_another_beats_is_picked_if_it_alone_needs_as_little_memory():
    hungry = candidate("hungry", 10, 1.0, 0.1, 300)
    frugal = candidate("frugal", 10, 1.1, 0.1, 90)
    assert front([hungry, frugal]) == ["hungry"]
    picked = pick([hungry, frugal], Budget.parse("memory<=100MB"))
    assert (picked.name, picked.within_budget) == ("frugal", True)


def of_student(layers, agreement, *models):
    return [replace(model, name=f"{layers}-layer {model.name}", layers=layers, agreement=agreement) for model in models]


SMALL = of_student(3, 0.81, candidate("fp32", 45, 1.5, 0.0), candidate("int8", 12, 0.7, 0.4))
LARGE = of_student(
    6, 0.834, candidate("fp32", 70, 3.0, 0.0), candidate("int8", 18, 1.4, 0.6), candidate("q4", 16, 2, 1)
)


def test_of_the_students_that_can_meet_the_budget_the_truest_is_picked_and_of_its_models_the_fastest():
    picked = pick(SMALL + LARGE, Budget.parse("size<=20MB, loss<=1%"))
    assert (picked.name, picked.within_budget) == ("6-layer int8", True)
    assert picked.reason == (
        "of the students that can meet the budget, that of 6 layers agrees most with held-out supervision "
        "(83.4%; 3 layers: 81.0%); of its models the fastest that meets the budget; 6-layer q4 would too"
    )


def test_a_student_that_cannot_meet_the_budget_is_not_picked_however_true():
    picked = pick(SMALL + LARGE, Budget.parse("latency<=1ms"))
    assert (picked.name, picked.within_budget) == ("3-layer int8", True)
    assert picked.reason == (
        "the student of 3 layers alone can meet the budget; of its models it alone meets the budget"
    )
    nothing = pick(SMALL + LARGE, Budget.parse("size<=10MB"))
    assert (nothing.name, nothing.within_budget) == ("3-layer int8", False)
    assert "size is 12 MB, 2 MB too much" in nothing.reason.replace("whose size", "size")


def test_of_students_that_agree_as_often_the_fastest_model_is_picked():
    equal = of_student(3, 0.834, *[replace(model, name=model.name.removeprefix("3-layer ")) for model in SMALL])
    assert pick(LARGE + equal, Budget.parse("loss<=1%")).name == "3-layer int8"


def test_a_deeper_student_is_on_the_front_for_what_it_agrees_more():
    assert front(SMALL + LARGE) == [model.name for model in SMALL + LARGE]
    worse = [replace(model, agreement=0.81) for model in LARGE]
    assert front(SMALL + worse) == [model.name for model in SMALL]


@given(st.lists(st.tuples(st.sampled_from([1, 2, 3]), *[st.integers(1, 4)] * 3), min_size=1, max_size=12))
def test_the_pick_is_the_best_of_all_that_meet_the_budget(rows):
    agreements = {1: 0.5, 2: 0.75, 3: 0.7}
    made = [
        replace(candidate(str(k), size, speed, loss), layers=layers, agreement=agreements[layers])
        for k, (layers, size, speed, loss) in enumerate(rows)
    ]
    picked = pick(made, Budget.parse("size<=2MB, loss<=3%"))
    able = [(-agreements[c.layers], c.latency_ms) for c in made if c.megabytes <= 2 and c.loss_percent <= 3]
    assert picked.within_budget == bool(able)
    one = made[int(picked.name)]
    if able:
        assert (-agreements[one.layers], one.latency_ms) == min(able)
