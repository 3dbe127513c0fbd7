"""The label space: merging, renaming, padding and encoding."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amalgam_edge.errors import AmalgamError
from amalgam_edge.labels import LabelSpace

REAL_NAMES = st.text("abcdefghij", min_size=1, max_size=3)
TEACHERS = st.dictionaries(
    st.sampled_from(["north", "south", "east", "west"]),
    st.lists(REAL_NAMES, min_size=1, max_size=6, unique=True),
    min_size=1,
)


def test_labels_stand_in_the_order_of_first_mention():
    space = LabelSpace.union({"a": ["games", "net"], "b": ["net", "admin", "games", "text"]})
    assert space.names == ("games", "net", "admin", "text")
    assert dict(space.columns) == {"a": (0, 1), "b": (1, 2, 0, 3)}
    assert space.teachers == ("a", "b")
    assert len(space) == 4
    assert space.warnings == ()


def test_generic_names_stay_different_labels_with_a_warning():
    space = LabelSpace.union({"a": ["LABEL_0", "LABEL_1"], "b": ["LABEL_0", "spam"], "c": ["ham", "spam"]})
    assert space.names == ("a/LABEL_0", "a/LABEL_1", "b/LABEL_0", "spam", "ham")
    assert len(space.warnings) == 2
    assert "'a'" in space.warnings[0]
    assert "generic" in space.warnings[0]
    assert "'b'" in space.warnings[1]


@pytest.mark.parametrize("name", ["0", "17", "LABEL_0", "LABEL_12"])
def test_digits_and_label_numbers_are_generic(name):
    assert LabelSpace.union({"t": [name, "real"]}).names == (f"t/{name}", "real")


@pytest.mark.parametrize("name", ["LABEL_", "LABEL_x", "label 1", "v2", "1st", "LABEL_1 ", "3.5"])
def test_names_that_only_resemble_generic_ones_are_real(name):
    space = LabelSpace.union({"s": [name], "t": [name]})
    assert space.names == (name,)
    assert space.warnings == ()


def test_spellings_of_one_name_stay_apart_with_a_warning():
    space = LabelSpace.union({"a": ["Games", "net"], "b": ["games", "net "]})
    assert space.names == ("Games", "net", "games", "net ")
    assert len(space.warnings) == 2
    assert "'Games'" in space.warnings[0]
    assert "'games'" in space.warnings[0]


def test_a_rename_names_generic_classes_without_a_warning():
    space = LabelSpace.union(
        {"a": ["LABEL_0", "LABEL_1"], "b": ["yes", "no"]}, {"a": {"LABEL_0": "no", "LABEL_1": "yes"}}
    )
    assert space.names == ("no", "yes")
    assert dict(space.columns) == {"a": (0, 1), "b": (1, 0)}
    assert space.warnings == ()


def test_a_rename_for_one_teacher_takes_precedence_over_one_for_all():
    space = LabelSpace.union(
        {"a": ["pos", "neg"], "b": ["pos", "neg"]}, {"*": {"pos": "good", "neg": "bad"}, "b": {"pos": "great"}}
    )
    assert space.names == ("good", "bad", "great")
    assert dict(space.columns) == {"a": (0, 1), "b": (2, 1)}


def test_generic_names_that_are_not_renamed_still_cause_a_warning():
    space = LabelSpace.union({"a": ["LABEL_0", "LABEL_1"]}, {"a": {"LABEL_0": "no"}})
    assert space.names == ("no", "a/LABEL_1")
    assert len(space.warnings) == 1


def test_renames_can_swap_two_names():
    space = LabelSpace.union({"a": ["x", "y"], "b": ["x", "y"]}, {"b": {"x": "y", "y": "x"}})
    assert dict(space.columns) == {"a": (0, 1), "b": (1, 0)}


@pytest.mark.parametrize(
    ("teachers", "renames", "message"),
    [
        ({}, {}, "no teacher"),
        ({"a": ["x", "x"]}, {}, "both called 'x'"),
        ({"a": ["x", "y"]}, {"a": {"x": "y"}}, "both called 'y'"),
        ({"a": ["x", "y"]}, {"*": {"x": "z", "y": "z"}}, "both called 'z'"),
        ({"a": ["x", "y"]}, {"nobody": {"x": "z"}}, "'nobody'"),
        ({"a": ["x"], "b": ["y"]}, {"a": {"y": "z"}}, "'y'"),
        ({"a": ["x"], "b": ["y"]}, {"*": {"q": "z"}}, "'q'"),
        ({"a": ["x"]}, {"a": {"x": " "}}, "'x' of teacher 'a' to nothing"),
    ],
)
def test_mistakes_are_refused_by_name(teachers, renames, message):
    with pytest.raises(AmalgamError, match=message):
        LabelSpace.union(teachers, renames)


def test_pad_puts_each_class_in_its_column():
    space = LabelSpace.union({"a": ["x", "y"], "b": ["z", "x"]})
    padded = space.pad("b", np.array([[0.25, 0.75], [1.0, 0.0]]))
    assert padded.tolist() == [[0.75, 0.0, 0.25], [0.0, 0.0, 1.0]]


def test_pad_keeps_the_dtype():
    space = LabelSpace.union({"a": ["x", "y"]})
    assert space.pad("a", np.ones((1, 2), dtype=np.float32)).dtype == np.float32


def test_encode_gives_positions():
    space = LabelSpace.union({"a": ["x", "y"], "b": ["z"]})
    encoded = space.encode(["z", "x", "x", "y"])
    assert encoded.tolist() == [2, 0, 0, 1]
    assert encoded.dtype == np.int64


def test_encode_lists_every_unknown_name_once():
    space = LabelSpace.union({"a": ["x", "y"]})
    with pytest.raises(AmalgamError, match=r"2 label name\(s\).*'p', 'q'.*x, y"):
        space.encode(["q", "x", "p", "q"])


@pytest.mark.parametrize("n_unknown", [5, 6, 9])
def test_encode_lists_at_most_five_unknown_names(n_unknown):
    space = LabelSpace.union({"a": ["x", "y"]})
    with pytest.raises(AmalgamError) as caught:
        space.encode([f"n{k}" for k in range(n_unknown)])
    assert "'n4'" in str(caught.value)
    assert "'n5'" not in str(caught.value)
    assert ("…" in str(caught.value)) == (n_unknown > 5)


def test_warnings_do_not_make_label_spaces_different():
    space = LabelSpace.union({"a": ["Games"], "b": ["games"]})
    assert space.warnings
    assert space == LabelSpace(space.names, space.columns, space.original_names)


def test_encode_refuses_none_among_unknown_names():
    space = LabelSpace.union({"a": ["x", "y"]})
    with pytest.raises(AmalgamError, match="'None', 'q'"):
        space.encode([None, "q", "x"])


def test_sources_name_the_original_class_of_each_teacher():
    space = LabelSpace.union({"a": ["LABEL_0", "net"], "b": ["net"]}, {"a": {"LABEL_0": "games"}})
    assert space.sources() == {
        "games": [{"teacher": "a", "class": "LABEL_0"}],
        "net": [{"teacher": "a", "class": "net"}, {"teacher": "b", "class": "net"}],
    }


@given(TEACHERS, st.data())
def test_pad_preserves_mass_and_can_be_undone(teachers, data):
    space = LabelSpace.union(teachers)
    name = data.draw(st.sampled_from(sorted(teachers)))
    rows = data.draw(st.integers(0, 4))
    numbers = st.floats(0, 1, allow_subnormal=False)
    size = rows * len(teachers[name])
    values = np.array(data.draw(st.lists(numbers, min_size=size, max_size=size))).reshape(rows, len(teachers[name]))
    padded = space.pad(name, values)
    assert padded.shape == (rows, len(space))
    np.testing.assert_allclose(padded.sum(axis=1), values.sum(axis=1))
    found = [[padded[row, space.names.index(label)] for label in teachers[name]] for row in range(rows)]
    assert found == values.tolist()


@given(TEACHERS, st.lists(REAL_NAMES, min_size=1, max_size=4, unique=True))
def test_another_teacher_does_not_move_earlier_labels(teachers, classes):
    before = LabelSpace.union(teachers)
    after = LabelSpace.union({**teachers, "last": classes})
    assert after.names[: len(before)] == before.names
    assert all(after.columns[t] == before.columns[t] for t in teachers)


@given(TEACHERS)
def test_every_class_is_in_the_union_once(teachers):
    space = LabelSpace.union(teachers)
    assert sorted(space.names) == sorted({c for classes in teachers.values() for c in classes})
    for teacher, classes in teachers.items():
        assert [space.names[column] for column in space.columns[teacher]] == classes


def test_labels_known_by_the_same_teachers_are_one_group():
    space = LabelSpace.union({"a": ["u", "v", "w"], "b": ["w", "x", "v"], "c": ["y"]})
    assert space.names == ("u", "v", "w", "x", "y")
    assert space.knowledge.tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 0], [0, 1, 0], [0, 0, 1]]
    u, v, w, x, y = space.groups.tolist()
    assert v == w
    assert len({u, v, x, y}) == 4
