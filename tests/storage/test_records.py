"""The codec of records: round trips, bounds, and documents that nobody means well."""

from __future__ import annotations

import copy
import dataclasses
import json
import time
from collections.abc import Mapping
from typing import Annotated, Literal

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amalgam_edge.errors import AmalgamError
from amalgam_edge.storage.json_text import parse_json, read_json
from amalgam_edge.storage.record import record
from amalgam_edge.storage.record_fields import (
    MAY_LACK,
    FilePath,
    Free,
    Inline,
    Items,
    Json,
    JsonName,
    MayLack,
    Number,
    PlainName,
    Text,
)
from amalgam_edge.storage.record_schema import Entry, entries_of, field_descriptions, json_schema
from amalgam_edge.storage.records import from_json, to_json

Percent = Annotated[float, Number(at_least=0, at_most=100)]


@record
class Point:
    """A point.

    Attributes:
        x: How far
            right it is.
        label: What it is called.
    """

    x: float
    label: Annotated[str, Text(longest=5)] = "p"


@record
class Extent:
    """An extent.

    Attributes:
        width: How wide it is.
        height: How high it is.
    """

    width: int
    height: int


@record
class Drawing:
    """A drawing.

    Attributes:
        kind: What it is.
        class_name: Its class.
        percent: A share.
        visible: Whether it is seen.
        note: A note.
        points: Its points.
        sizes: Name → size.
        extent: How large it is.
        room: How much room it has.
        free: Anything.
        tags: Its tags.
    """

    kind: Literal["drawing", 2]
    class_name: Annotated[str, JsonName("class")]
    percent: Percent
    visible: bool
    note: Annotated[str | None, MAY_LACK]
    points: Annotated[tuple[Point, ...], Items(most=3, unique="label")]
    sizes: Annotated[Mapping[PlainName, int | None], Items(most=4)]
    extent: Annotated[Extent | None, Inline()]
    room: Point
    free: Annotated[Json, Free(deepest=3, most=20, longest=10)]
    tags: Annotated[tuple[str, ...], MayLack(())]


def drawing(**changes):
    return Drawing(**{
        "kind": "drawing", "class_name": "c", "percent": 50.0, "visible": True, "note": None,
        "points": (Point(1.0, "a"), Point(2.5, "b")), "sizes": {"s": 3, "t": None}, "extent": Extent(4, 5),
        "room": Point(0.0), "free": {"k": [1, None, "x"]}, "tags": ("t",), **changes,
    })  # fmt: skip


DOCUMENT = {
    "kind": "drawing", "class": "c", "percent": 50.0, "visible": True,
    "points": [{"x": 1.0, "label": "a"}, {"x": 2.5, "label": "b"}], "sizes": {"s": 3, "t": None}, "width": 4,
    "height": 5, "room": {"x": 0.0, "label": "p"}, "free": {"k": [1, None, "x"]}, "tags": ["t"],
}  # fmt: skip


def refusal(document, cls=Drawing):
    with pytest.raises(AmalgamError) as refused:
        from_json(cls, document)
    assert len(str(refused.value).splitlines()) == 1
    return str(refused.value)


def test_a_record_becomes_a_document_in_the_order_of_its_fields():
    document = to_json(drawing())
    assert document == DOCUMENT
    assert list(document) == list(DOCUMENT)
    assert from_json(Drawing, document) == drawing()


def test_none_is_written_only_where_the_entry_is_always_there():
    document = to_json(drawing(note=None, extent=None))
    assert "note" not in document
    assert "width" not in document
    assert from_json(Drawing, document) == drawing(note=None, extent=None)
    assert from_json(Drawing, document | {"note": None, "width": None}) == drawing(note=None, extent=None)


def test_inline_entries_can_be_written_as_null():
    @record
    class Holder:
        inner: Annotated[Extent | None, Inline(nulls=True)]

    assert to_json(Holder(None)) == {"width": None, "height": None}
    assert from_json(Holder, {"width": None}) == Holder(None)
    assert refusal({"width": 1}, Holder) == "height: is lacking"


def test_what_may_lack_has_a_default_where_it_does():
    document = {name: value for name, value in DOCUMENT.items() if name != "tags"}
    assert from_json(Drawing, document).tags == ()


def test_unknown_entries_are_ignored_and_not_kept():
    found = from_json(Drawing, {**DOCUMENT, "later": {"deep": [[[[[[1]]]]]]}})
    assert to_json(found) == DOCUMENT


def test_whole_numbers_may_stand_for_floats_and_not_the_other_way_round():
    found = from_json(Point, {"x": 3, "label": "p"})
    assert found == Point(3.0)
    assert isinstance(found.x, float)
    assert refusal({"width": 3.0, "height": 1}, Extent) == "width: a whole number is expected, not a number"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "other"}, "kind: is none of 'drawing', 2"),
        ({"kind": 2.0}, "kind: is none of 'drawing', 2"),
        ({"class": 3}, "class: a string is expected, not a whole number"),
        ({"percent": -0.1}, "percent: is less than 0"),
        ({"percent": 100.1}, "percent: is more than 100"),
        ({"percent": 10**400}, "percent: is more than 100"),
        ({"percent": float("nan")}, "percent: is no finite number"),
        ({"percent": float("inf")}, "percent: is no finite number"),
        ({"percent": True}, "percent: a number is expected, not true or false"),
        ({"percent": "50"}, "percent: a number is expected, not a string"),
        ({"visible": 1}, "visible: true or false is expected, not a whole number"),
        ({"visible": None}, "visible: true or false is expected, not null"),
        ({"points": {}}, "points: a list is expected, not an object"),
        ({"points": [3]}, "points[0]: an object is expected, not a whole number"),
        ({"points": [{"x": 1, "label": "a"}, {"x": "no", "label": "b"}]}, "points[1].x: a number is expected, not a"),
        ({"points": [{"x": 1, "label": "too long"}]}, "points[0].label: is longer than 5 characters"),
        ({"points": [{"x": 1, "label": "\ud800"}]}, "points[0].label: holds half of a surrogate pair"),
        ({"points": [{"x": k, "label": "a"} for k in range(2)]}, "points: two items have the same label"),
        ({"points": [{"x": k, "label": str(k)} for k in range(4)]}, "points: holds more than 3 items"),
        ({"sizes": {"a/b": 1}}, "sizes['a/b']: is no name of a file within the folder"),
        ({"sizes": {"a": 10**12 * 10**12}}, "sizes.a: is more than 9007199254740992"),
        ({"sizes": {str(k): 1 for k in range(5)}}, "sizes: holds more than 4 items"),
        ({"sizes": {"line\nbreak": 1}}, r"sizes['line\nbreak']: is no name"),
        ({"free": [[[[[]]]]]}, "free: is nested too deeply"),
        ({"free": list(range(30))}, "free: holds more than 20 values"),
        ({"free": {"x" * 11: 1}}, "free: is longer than 10 characters"),
        ({"free": {"a": float("nan")}}, "free: holds a number that is not finite"),
        ({"free": 2**65}, "free: holds a number of more than 64 bits"),
        ({"free": "\udfff"}, "free: holds half of a surrogate pair"),
        ({"height": None}, "height: a whole number is expected, not null"),
    ],
)
def test_what_does_not_fit_is_told_by_where_it_stands(changes, message):
    assert refusal({**DOCUMENT, **changes}).startswith(message)


@pytest.mark.parametrize("entry", [name for name in DOCUMENT if name not in ("tags", "width", "height")])
def test_what_is_lacking_is_named(entry):
    assert refusal({name: value for name, value in DOCUMENT.items() if name != entry}) == f"{entry}: is lacking"


@pytest.mark.parametrize("document", [None, [], "drawing", 3, True, 1.5])
def test_a_document_that_is_no_object_is_refused(document):
    assert refusal(document).startswith("an object is expected, not ")


def test_keys_are_shown_short_and_in_one_line():
    message = refusal({**DOCUMENT, "sizes": {"a\u2028b\n" + "x" * 10**6: 1}})
    assert len(message) < 150
    assert message.isascii()


texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=5)
names = st.from_regex(r"[a-z]{1,8}", fullmatch=True).filter(lambda name: name not in {"con", "prn", "aux", "nul"})
leaves = (
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | texts
)
drawings = st.builds(
    Drawing,
    kind=st.sampled_from(["drawing", 2]),
    class_name=texts,
    percent=st.floats(0, 100),
    visible=st.booleans(),
    note=st.none() | texts,
    points=st.lists(
        st.builds(Point, st.floats(-(2.0**53), 2.0**53), texts), max_size=3, unique_by=lambda point: point.label
    ).map(tuple),
    sizes=st.dictionaries(names, st.none() | st.integers(-(2**53), 2**53), max_size=4),
    extent=st.none() | st.builds(Extent, st.integers(-9, 9), st.integers(-9, 9)),
    room=st.builds(Point, st.floats(-9, 9)),
    free=st.lists(leaves, max_size=4) | st.dictionaries(texts, leaves, max_size=4),
    tags=st.lists(texts, max_size=4).map(tuple),
)


@settings(deadline=None)
@given(drawings)
def test_a_document_becomes_the_record_that_it_came_from(found):
    text = json.dumps(to_json(found), ensure_ascii=False, allow_nan=False)
    assert from_json(Drawing, parse_json(text.encode(), 10**6)) == found
    jsonschema.validate(json.loads(text), json_schema(Drawing))


anything = st.recursive(
    leaves | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=20,
)


@settings(deadline=None)
@given(st.fixed_dictionaries({}, optional=dict.fromkeys(DOCUMENT, anything)))
def test_whatever_a_document_holds_it_is_read_or_refused_in_one_line(changes):
    try:
        found = from_json(Drawing, {**DOCUMENT, **changes})
    except AmalgamError as error:
        assert len(str(error).splitlines()) == 1
    else:
        assert from_json(Drawing, to_json(found)) == found


@pytest.mark.parametrize(
    "path",
    [
        "", ".", "..", "../x", "a/../b", "a/..", "/etc/passwd", "//host/x", "a//b", "a/", "./a", "a/.", "C:x", "C:/x",
        r"a\b", r"..\x", "a\0b", "a\nb", "\x7f", "a.", "a ", "a./b", "a /b", "con", "NUL", "a/aux.txt", "com1",
        "LPT9.x", "x" * 2000, "\ud800",
    ],
)  # fmt: skip
def test_paths_that_lead_out_of_the_folder_or_are_none_everywhere_are_refused(path):
    refusal({"file": path}, WithFile)


@record
class WithFile:
    """A record.

    Attributes:
        file: A file.
    """

    file: FilePath


FILE_SCHEMA = json_schema(WithFile)["properties"]["file"]


@pytest.mark.parametrize(
    "path", ["a", "a.b", ".hidden", "onnx/model.onnx", "a b/c", "Straße/猫", "console", "..a", "a..b"]
)
def test_ordinary_paths_are_taken(path):
    assert from_json(WithFile, {"file": path}).file == path
    jsonschema.validate({"file": path}, {"properties": {"file": FILE_SCHEMA}})


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", r"a\b", "C:", "a\0", "a.", "nul", "x" * 300])
def test_names_of_folders_hold_no_path(name):
    @record
    class Holder:
        teacher: PlainName

    refusal({"teacher": name}, Holder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no JSON"),
        (b"{", "no JSON"),
        (b"\xff{}", "no JSON"),
        (b"\xef\xbb\xbf{}", "no JSON"),
        (b"[1, 2", "no JSON"),
        (b"1" * 5000, "no JSON"),
        (b'{"a": 1, "a": 2}', "an object names an entry twice"),
        (b'[{"b": {"a": 1, "a": 1}}]', "an object names an entry twice"),
        (b"[" * 10**5, "nested too deeply"),
        (b"[" * 10**5 + b"]" * 10**5, "nested too deeply"),
        (b'{"a":' * 10**5 + b"1" + b"}" * 10**5, "nested too deeply"),
        (b'"' + b"x" * 10**6 + b'"', "longer than 1000000 bytes"),
    ],
)
def test_text_that_is_no_json_is_refused_quickly(content, message):
    start = time.perf_counter()
    with pytest.raises(AmalgamError) as refused:
        parse_json(content, 10**6)
    assert str(refused.value) == message
    assert time.perf_counter() - start < 5


def test_no_more_of_a_file_is_read_than_is_allowed(tmp_path):
    path = tmp_path / "large.json"
    with path.open("wb") as file:
        file.write(b'{"a": "')
        file.truncate(100 * 2**20)  # a sparse file: no disk is filled
    with pytest.raises(AmalgamError, match="longer than 1000 bytes"):
        read_json(path, 1000)


def test_records_are_frozen_dataclasses():
    point = Point(1.0, label="a")
    with pytest.raises(dataclasses.FrozenInstanceError):
        point.x = 2.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        del point.x
    assert dataclasses.is_dataclass(Point)
    assert [field.name for field in dataclasses.fields(Point)] == ["x", "label"]
    assert dataclasses.replace(point, x=3.0) == Point(3.0, "a")
    assert dataclasses.asdict(point) == {"x": 1.0, "label": "a"}
    assert copy.deepcopy(point) == point
    assert len({point, Point(1.0, "a"), Point(1.0, "b")}) == 2
    assert point != Extent(1, 2)
    assert repr(point) == "Point(x=1.0, label='a')"


@pytest.mark.parametrize(
    ("arguments", "named", "message"),
    [
        ((), {}, "Point lacks x"),
        ((1.0, "a", 3), {}, "Point takes 2 values, 3 were given"),
        ((1.0,), {"x": 2.0}, "Point got x twice"),
        ((1.0,), {"y": 2.0}, "Point has no y"),
    ],
)
def test_records_refuse_arguments_as_dataclasses_do(arguments, named, message):
    with pytest.raises(TypeError, match=message):
        Point(*arguments, **named)


def test_the_schema_says_what_the_reader_checks():
    schema = json_schema(Drawing)
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(DOCUMENT, schema)
    properties = schema["properties"]
    assert properties["class"] == {"description": "Its class.", "type": "string", "maxLength": 4096}
    assert properties["percent"] == {"description": "A share.", "type": "number", "minimum": 0, "maximum": 100}
    assert properties["points"]["items"] == {"$ref": "#/$defs/Point"}
    assert properties["points"]["maxItems"] == 3
    assert schema["$defs"]["Point"]["properties"]["label"]["maxLength"] == 5
    assert set(schema["required"]) == set(DOCUMENT) - {"width", "height", "tags"}
    for changes in (
        {"percent": 101},
        {"visible": 1},
        {"points": 3},
        {"kind": "x"},
        {"sizes": {"a/b": 1}},
        {"width": "1"},
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**DOCUMENT, **changes}, schema)


def test_descriptions_come_from_the_docstring():
    assert field_descriptions(Point) == {"x": "How far right it is.", "label": "What it is called."}
    assert entries_of(Point) == [
        Entry("x", "number", True, "How far right it is.", ()),
        Entry("label", "string", True, "What it is called.", ()),
    ]
    entries = {entry.name: entry for entry in entries_of(Drawing)}
    assert entries["percent"].holds == "number from 0 to 100"
    assert (entries["points"].holds, entries["points"].classes) == ("list of Point", (Point,))
    assert entries["sizes"].holds == "object of whole number, or null"
    assert entries["kind"].holds == '"drawing" or 2'
    assert (entries["width"].holds, entries["width"].required) == ("whole number, or null", False)
