"""The manifest: bundles and exported teachers of this format and of earlier ones, and hostile manifests."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial
from operator import attrgetter
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amalgam_edge.errors import AmalgamError
from amalgam_edge.runtime import Bundle, EdgeClassifier
from amalgam_edge.runtime.manifest import (
    MOST_BYTES,
    Manifest,
    TeacherManifest,
    finite,
    read_manifest,
    read_teacher_manifest,
    write_manifest,
)
from amalgam_edge.runtime.manifest_migrations import migrated
from amalgam_edge.runtime.manifest_models import Cascade, CascadeAttempt, Fidelity, TrimmedVocabulary
from amalgam_edge.runtime.manifest_origin import TrainingPoint
from amalgam_edge.runtime.publishing import save_bundle
from amalgam_edge.storage.records import from_json, to_json
from tests.support import hub
from tests.support.manifests import (
    EARLIER,
    FIXTURES,
    copy_earlier_bundle,
    make_calibration,
    make_candidate,
    make_evaluation,
    make_front,
    make_gate,
    make_head,
    make_label,
    make_manifest,
    make_precision,
    read_document,
)

BUNDLE_1 = FIXTURES / "bundle_v1"
ANSWERS_1 = json.loads((FIXTURES / "bundle_v1_answers.json").read_text("utf-8"))
SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "reference" / "amalgam.schema.json").read_text("utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
MODELS_1 = {
    "fp32": {"precision": "fp32", "cascade": False},
    "int8": {"precision": "int8", "cascade": False},
    "cascade": {"cascade": True},
}


def read(path):
    return json.loads(path.read_text("utf-8"))


def full_manifest():
    """A manifest with every entry that may be null."""
    return make_manifest(
        training=(TrainingPoint(1, 0.5, loss=0.9), TrainingPoint(1, 0.5, held_out_loss=0.8)),
        vocabulary=TrimmedVocabulary(512, 30522, Fidelity(0.99, None, 100, {"label": 0.99}, {})),
        front=make_front(),
        calibration=make_calibration(),
        abstain=0.25,
        cascade=Cascade(0.99, 200, (CascadeAttempt(0.8, 0.975, 0.7),), None),
    )


@pytest.fixture
def bundle_1(tmp_path):
    return shutil.copytree(BUNDLE_1, tmp_path / "student")


@pytest.fixture
def earlier(tmp_path):
    """``earlier(version)`` → a bundle whose manifest is of that format."""
    return partial(copy_earlier_bundle, folder=tmp_path / "student")


@pytest.mark.parametrize("version", EARLIER)
def test_a_bundle_of_an_earlier_format_opens_and_is_whole(earlier, version):
    bundle = Bundle.open(earlier(version))
    bundle.verify()
    assert bundle.labels == ("games", "net", "fonts", "text")
    assert bundle.heads.is_one_softmax
    assert bundle.precisions == ("fp32", "int8")
    assert (bundle.default_precision, bundle.heads["label"].abstain, bundle.is_static) == ("int8", 0.2, False)
    assert bundle.cascade.file == "onnx/model_static.onnx"


@pytest.mark.parametrize("version", EARLIER)
@pytest.mark.parametrize(("model", "tolerance"), [("fp32", 1e-4), ("int8", 0.15), ("cascade", 1e-4)])
def test_a_bundle_of_an_earlier_format_answers_as_it_did(earlier, model, tolerance, version):
    """int8 moves with the CPU, so its tolerance is that of int8 against float."""
    classifier = EdgeClassifier.from_pretrained(earlier(version), **MODELS_1[model])
    expected = ANSWERS_1["models"][model]
    np.testing.assert_allclose(classifier.logits(ANSWERS_1["texts"]), expected["logits"], atol=tolerance)
    assert [answer.label for answer in classifier(ANSWERS_1["texts"])] == expected["labels"]


def of_one_head(before):
    """What a manifest of format 2 says, as format 3 says it of a student with one softmax head; by hand."""
    after = {name: value for name, value in before.items() if name not in ("labels", "abstain", "calibration")}
    calibration = before["calibration"] and dict(before["calibration"])
    if calibration:
        calibration["temperatures"] = [calibration.pop("temperature")]
    after["heads"] = [
        {
            "name": "label",
            "activation": "softmax",
            "labels": [{**label, "threshold": None} for label in before["labels"]],
            "weight": 1.0,
            "abstain": before["abstain"],
            "calibration": calibration,
            "agreement": before["student"]["agreement"],
        }
    ]
    after = json.loads(json.dumps(after))
    for teacher in after["teachers"]:
        teacher["head"] = "label"
    for entry in (*after["precisions"].values(), *filter(None, [after["vocabulary"]])):
        entry["fidelity"].update(heads={}, labels={})
    if evaluation := after["evaluation"]:
        own = {"n_texts": evaluation["n_texts"], **{name: evaluation.pop(name) for name in ("student", "teachers")}}
        for teacher in own["teachers"].values():
            teacher["student"] = {}  # nobody counted how often it answers as the teacher does
        evaluation["heads"] = {"label": own}
    return {**after, "changes": [], "format_version": 3}


def test_all_that_a_bundle_of_version_1_says_is_said_in_version_3():
    before, after = read(BUNDLE_1 / "amalgam.json"), to_json(read_manifest(BUNDLE_1))
    assert after == of_one_head({**before, "kind": "bundle", "front": None})
    assert [name for name in after if name in before] == [name for name in before if name in after]


def test_all_that_a_budget_of_version_1_led_to_is_said_in_version_3():
    before = read(FIXTURES / "manifests_v1" / "budget.json")
    assert to_json(from_json(Manifest, migrated(before))) == of_one_head({**before, "kind": "bundle"})


def test_all_that_a_bundle_of_version_2_says_is_said_in_version_3(earlier):
    before, after = read(FIXTURES / "manifests_v2" / "bundle.json"), to_json(read_manifest(earlier(2)))
    assert all(before[name] for name in ("calibration", "evaluation", "cascade", "vocabulary", "front", "abstain"))
    assert after == of_one_head(before)
    assert [name for name in after if name in before] == [name for name in before if name in after]


@pytest.mark.parametrize("entry", ["calibration", "evaluation", "cascade", "vocabulary", "front"])
def test_what_version_2_said_was_none_is_none(earlier, entry):
    bundle = earlier(2)
    before = {**read_document(bundle), entry: None}
    (bundle / "amalgam.json").write_text(json.dumps(before), "utf-8")
    assert to_json(read_manifest(bundle)) == of_one_head(before)


@pytest.mark.parametrize("version", EARLIER)
def test_an_exported_teacher_of_an_earlier_format_is_read(tmp_path, version):
    shutil.copy(FIXTURES / f"manifests_v{version}" / "teacher.json", tmp_path / "amalgam.json")
    found = read_teacher_manifest(tmp_path)
    assert (found.name, found.classes, found.round, len(found.dropout_sites)) == ("a", ("games", "net"), 4, 8)
    assert to_json(found) == {**read(tmp_path / "amalgam.json"), "format_version": 3, "activation": "softmax"}


def test_a_teacher_of_a_newer_format_is_refused_with_what_to_do(tmp_path):
    newer = {**read(FIXTURES / "manifests_v2" / "teacher.json"), "format_version": 4, "versions": {"amalgam-edge": "9"}}
    (tmp_path / "amalgam.json").write_text(json.dumps(newer), "utf-8")
    with pytest.raises(AmalgamError, match=r'format 4, newer than this version.* can read \(3\); .*"amalgam-edge>=9"'):
        read_teacher_manifest(tmp_path)


def first_of_all(document):
    """A manifest with only the entries that the very first bundles had."""
    for name in ("model_type", "student", "vocabulary", "calibration", "abstain", "cascade"):
        del document[name]
    for name in ("n_failed", "n_truncated"):
        del document["corpus"][name]
    for teacher in document["teachers"]:
        del teacher["from_hub"]
    for precision in document["precisions"].values():
        del precision["kernels"]
    for row in document["evaluation"]["student"].values():
        del row["answered"], row["answered_accuracy"]
    del document["gate"]["compared_with"]
    return document


def test_what_the_first_bundles_did_not_say_is_none_or_not_known(bundle_1):
    document = first_of_all(read(bundle_1 / "amalgam.json"))
    (bundle_1 / "amalgam.json").write_text(json.dumps(document), "utf-8")
    manifest = read_manifest(bundle_1)
    (head,) = manifest.heads
    assert (head.calibration, manifest.cascade, manifest.vocabulary, manifest.front) == (None, None, None, None)
    assert (head.abstain, head.agreement, manifest.model_type) == (0.0, None, None)
    assert (manifest.corpus.n_failed, manifest.corpus.n_truncated) == (0, None)
    assert manifest.gate.compared_with == "the float model"
    assert not any(teacher.from_hub for teacher in manifest.teachers)
    assert all(precision.kernels == {} for precision in manifest.precisions.values())
    assert set(vars(manifest.student).values()) == {None}
    classifier = EdgeClassifier.from_pretrained(bundle_1, precision="fp32")
    assert classifier(["chess"])[0].label in classifier.labels


def test_a_bundle_of_version_1_without_labelled_texts_was_not_evaluated():
    document = {**read(BUNDLE_1 / "amalgam.json"), "evaluation": {}, "calibration": None}
    assert from_json(Manifest, migrated(document)).evaluation is None


def test_early_candidates_have_no_student_and_are_called_by_their_precision():
    document = read(FIXTURES / "manifests_v1" / "budget.json")
    for row in document["front"]["candidates"]:
        for name in ("layers", "n_tokens", "agreement", "precision"):
            del row[name]
    row = from_json(Manifest, migrated(document)).front.candidates[0]
    assert (row.layers, row.n_tokens, row.agreement, row.precision) == (None, None, None, row.name)


def test_numbers_that_version_1_wrote_of_models_that_overflow_are_not_known():
    document = read(FIXTURES / "manifests_v1" / "budget.json")
    document["front"]["candidates"][2]["mean_kl"] = float("nan")
    document["gate"]["attempts"][0]["mean_kl"] = float("inf")
    document["precisions"]["fp16"]["fidelity"]["mean_kl"] = float("nan")
    document["training"][0]["loss"] = float("nan")
    manifest = from_json(Manifest, migrated(document))
    assert manifest.front.candidates[2].mean_kl is None
    assert manifest.gate.attempts[0].mean_kl is None
    assert manifest.precisions["fp16"].fidelity.mean_kl is None
    assert manifest.training[0].loss is None


@pytest.mark.parametrize("path", ["manifests_v1/budget.json", "manifests_v2/bundle.json", "manifests_v2/teacher.json"])
def test_migrating_leaves_the_document_as_it_was(path):
    document = read(FIXTURES / path)
    before = json.dumps(document)
    migrated(document)
    assert json.dumps(document) == before


@pytest.mark.parametrize("version", EARLIER)
def test_a_copy_of_a_bundle_of_an_earlier_format_is_the_same_to_the_byte(earlier, tmp_path, version):
    bundle = earlier(version)
    save_bundle(Bundle.open(bundle), tmp_path / "copy")
    assert hub.files_of(tmp_path / "copy") == hub.files_of(bundle)


def test_the_manifest_hashes_each_file(tmp_path):
    contents = {"README.md": b"card", "onnx/model.onnx": bytes(range(256)) * 9, "onnx/deep/empty": b""}
    for name, content in contents.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    written = write_manifest(tmp_path, make_manifest(labels=(make_label("Straße"),), max_length=7))
    text = (tmp_path / "amalgam.json").read_text("utf-8")
    document = json.loads(text)
    assert document["files"] == {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    assert list(document["files"]) == sorted(contents)  # whatever order the file system lists them in
    assert document["heads"][0]["labels"] == [{"name": "Straße", "sources": [], "threshold": None}]
    assert (document["max_length"], document["format_version"], document["kind"]) == (7, 3, "bundle")
    assert "Straße" in text
    assert text.endswith("}\n")
    assert read_manifest(tmp_path) == written
    Bundle(tmp_path, written).verify()


def test_a_manifest_written_again_does_not_hash_itself(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    for _ in range(2):
        written = write_manifest(tmp_path, make_manifest())
    assert list(written.files) == ["a.txt"]


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        (
            {"labels": (make_label("a"), make_label("b"), make_label("a"))},
            r"heads\[0\].labels: two items have the same name",
        ),
        ({"heads": (make_head(), make_head(activation="sigmoid"))}, "heads: two items have the same name"),
        ({"gate": make_gate(max_disagreement=float("nan"))}, "gate.max_disagreement: is no finite number"),
        ({"precisions": {"int8": make_precision("../m.onnx")}}, "precisions.int8.file: is no name of a file within"),
        ({"max_length": np.int64(3)}, "max_length: a whole number is expected, not int64"),
    ],
)
def test_what_would_be_refused_is_not_written(tmp_path, changes, fault):
    with pytest.raises(AmalgamError, match=f"a damaged manifest, {fault}"):
        write_manifest(tmp_path, make_manifest(**changes))
    assert not list(tmp_path.iterdir())


def test_an_exported_teacher_is_no_bundle_and_a_bundle_no_teacher(tmp_path):
    shutil.copy(FIXTURES / "manifests_v1" / "teacher.json", tmp_path / "amalgam.json")
    with pytest.raises(AmalgamError, match="an exported teacher, no bundle"):
        read_manifest(tmp_path)
    with pytest.raises(AmalgamError, match="no exported teacher; make one with amalgam-edge export-teacher"):
        read_teacher_manifest(BUNDLE_1)
    with pytest.raises(AmalgamError, match=r"no exported teacher \(amalgam.json is not there\)"):
        read_teacher_manifest(tmp_path / "nowhere")


def test_bundles_and_teachers_fit_the_schema():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    for document in (
        to_json(full_manifest()),
        to_json(make_manifest(evaluation=None)),
        to_json(read_manifest(BUNDLE_1)),
        migrated(read(FIXTURES / "manifests_v1" / "budget.json")),
        migrated(read(FIXTURES / "manifests_v1" / "teacher.json")),
        migrated(read(FIXTURES / "manifests_v2" / "bundle.json")),
        migrated(read(FIXTURES / "manifests_v2" / "teacher.json")),
    ):
        jsonschema.validate(document, SCHEMA)


HEAD = to_json(make_head())
WRONG = [
    {"kind": "teacher"},
    {"format_version": 1},
    {"format_version": 2},
    {"heads": None},
    {"heads": []},
    *({"heads": [{**HEAD, **changes}]} for changes in ({"labels": None}, {"abstain": 2}, {"activation": "tanh"})),
    {"files": {"/x": "0" * 64}},
]


@pytest.mark.parametrize("changes", WRONG)
def test_the_schema_refuses_what_the_reader_does(changes):
    document = {**to_json(make_manifest()), **changes}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, SCHEMA)
    if "format_version" not in changes and "kind" not in changes:  # which the reader looks at first
        with pytest.raises(AmalgamError):
            from_json(Manifest, document)


@pytest.mark.parametrize("manifest", [make_manifest(), full_manifest(), make_manifest(evaluation=None)])
def test_a_manifest_becomes_what_it_was(manifest):
    assert from_json(Manifest, json.loads(json.dumps(to_json(manifest), allow_nan=False))) == manifest


texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=9)
shares = st.floats(0, 1)
amounts = st.floats(0, 1e9)
name_of = attrgetter("name")


@settings(deadline=None)
@given(st.builds(
    make_manifest,
    max_length=st.integers(1, 2**31 - 1),
    heads=st.lists(
        st.builds(
            make_head,
            name=texts,
            activation=st.sampled_from(["softmax", "sigmoid"]),
            weight=amounts,
            abstain=shares,
            agreement=st.none() | shares,
            labels=st.lists(st.builds(make_label, texts, st.none() | shares), min_size=1, max_size=3, unique_by=name_of)
            .map(tuple),
            calibration=st.none() | st.builds(
                make_calibration, temperatures=st.lists(amounts, min_size=1, max_size=3).map(tuple)
            ),
        ),
        min_size=1, max_size=3, unique_by=name_of,
    ).map(tuple),
    default_precision=texts,
    recipe=st.dictionaries(texts, st.integers(0, 9) | st.none()),
    training=st.lists(
        st.builds(TrainingPoint, st.integers(0, 2**53), amounts, st.none() | amounts, st.none() | amounts), max_size=5
    ).map(tuple),
    gate=st.builds(make_gate, passed=st.booleans(), max_disagreement=shares),
    front=st.none() | st.builds(
        make_front,
        candidates=st.lists(
            st.builds(make_candidate, st.text("abc", min_size=1), megabytes=amounts, mean_kl=st.none() | amounts),
            min_size=1, max_size=3,
        ).map(tuple),
    ),
    evaluation=st.none() | st.builds(make_evaluation, n_texts=st.integers(0, 2**36)),
))  # fmt: skip
def test_any_manifest_becomes_what_it_was(manifest):
    document = json.loads(json.dumps(to_json(manifest), allow_nan=False))
    assert from_json(Manifest, document) == manifest
    VALIDATOR.validate(document)


@pytest.mark.parametrize(("value", "expected"), [(1.5, 1.5), (0, 0.0), (float("nan"), None), (float("-inf"), None)])
def test_only_finite_numbers_stand_in_a_manifest(value, expected):
    assert finite(value) == expected


def labels_in(document):
    """The labels in a document of any format."""
    return (document if "labels" in document else document["heads"][0])["labels"]


DEEP = '{"a":' * 10**5 + "1" + "}" * 10**5
HOSTILE = {
    "counts beyond any corpus": lambda d: d["corpus"].update(n_texts=10**12),
    "a size of thousands of digits": lambda d: d["precisions"]["int8"].update(bytes=10**4000),
    "a negative count": lambda d: d["gate"].update(n_texts=-1),
    "a share above 1": lambda d: d["teachers"][0].update(picked_share=1.5),
    "half of a surrogate pair": lambda d: labels_in(d)[0].update(name="\ud800"),
    "two labels of one name": lambda d: labels_in(d).append(labels_in(d)[0]),
    "a label of a million letters": lambda d: labels_in(d)[0].update(name="x" * 10**6),
    "a hundred thousand precisions": lambda d: d["precisions"].update(
        {str(k): d["precisions"]["int8"] for k in range(10**5)}
    ),
    "a recipe of many values": lambda d: d["recipe"].update(all=[0] * 200_000),
    "a list for a teacher": lambda d: d["teachers"].append([]),
    "null for the corpus": lambda d: d.update(corpus=None),
    "a number for the files": lambda d: d.update(files=3),
    "a path to the parent's folder": lambda d: d["files"].update({"onnx/../../.ssh/id": "0" * 64}),
    "an absolute path": lambda d: d["precisions"]["int8"].update(file="/etc/passwd"),
    "a path on another drive": lambda d: d["precisions"]["int8"].update(file="C:/Windows/x"),
    "backslashes": lambda d: d["files"].update({"..\\x": "0" * 64}),
    "a device of Windows": lambda d: d["files"].update({"onnx/NUL": "0" * 64}),
    "a NUL": lambda d: d["files"].update({"a\0b": "0" * 64}),
    "a digest that is none": lambda d: d["files"].update({"a": "0" * 63 + "\n"}),
    "a kind of its own": lambda d: d.update(kind="ransom"),
    "a list for the kind": lambda d: d.update(kind=["teacher"]),
    "an object for a version": lambda d: d.update(format_version={}),
}


HOSTILE_HEADS = {
    "no heads": lambda d: d["heads"].clear(),
    "two heads of one name": lambda d: d["heads"].append(d["heads"][0]),
    "a list for a head": lambda d: d["heads"].append([]),
    "a head of no labels": lambda d: d["heads"][0]["labels"].clear(),
    "a thousand and one heads": lambda d: d.update(heads=[{**d["heads"][0], "name": str(k)} for k in range(1001)]),
    "an activation of its own": lambda d: d["heads"][0].update(activation="tanh"),
    "a threshold above 1": lambda d: d["heads"][0]["labels"][0].update(threshold=1.5),
    "no temperatures": lambda d: d["heads"][0]["calibration"]["temperatures"].clear(),
    "a temperature that is no number": lambda d: d["heads"][0]["calibration"].update(temperatures=[float("nan")]),
    "a negative weight": lambda d: d["heads"][0].update(weight=-1.0),
    "a number for the head of a teacher": lambda d: d["teachers"][0].update(head=3),
    "a list for the agreement by head": lambda d: d["precisions"]["int8"]["fidelity"].update(heads=[]),
    "a list for the evaluation by head": lambda d: d["evaluation"].update(heads=[]),
}
CASES = [
    *((case, version) for case in HOSTILE for version in (1, 2, 3) if version > 1 or "kind" not in case),
    *((case, 3) for case in HOSTILE_HEADS),
]  # format 1 had no kind of bundle, and format 3 was the first to have heads


@pytest.mark.parametrize(("case", "version"), CASES)
def test_a_hostile_manifest_is_refused_quickly_in_one_line(earlier, case, version):
    bundle = earlier(min(version, 2))
    path = bundle / "amalgam.json"
    document = to_json(read_manifest(bundle)) if version == 3 else read(path)
    assert document["format_version"] == version
    (HOSTILE | HOSTILE_HEADS)[case](document)
    path.write_text(json.dumps(document), "utf-8")
    start = time.perf_counter()
    with pytest.raises(AmalgamError, match=r"amalgam\.json: a damaged manifest, .*; copy the bundle again") as refused:
        Bundle.open(bundle)
    assert time.perf_counter() - start < 5
    assert len(str(refused.value).splitlines()) == 1
    assert len(str(refused.value)) < len(str(path)) + 300


ODD = (None, True, 3, "x", [], [3], [[]], {}, {"x": 3}, {"x": []})


@pytest.mark.parametrize("path", ["manifests_v1/budget.json", "manifests_v2/bundle.json"])
def test_entries_of_any_form_are_migrated_or_refused(path):
    """Two levels deep."""
    document = read(FIXTURES / path)
    places = [(name,) for name in document if name != "format_version"]
    places += [(name, key) for name, entry in document.items() if isinstance(entry, dict) for key in entry]
    for place in places:
        for value in ODD:
            changed = json.loads(json.dumps(document))
            parent = changed[place[0]] if len(place) > 1 else changed
            parent[place[-1]] = value
            with suppress(AmalgamError):
                from_json(Manifest, migrated(changed))


@pytest.mark.parametrize("content", [
    DEEP,
    DEEP.replace("{", "[").replace('"a":', "").replace("}", "]"),
    '{"format_version": 3, "format_version": 3}',
    '{"format_version": 3, "recipe": ' + DEEP + "}",
    '{"format_version": ' + "9" * 5000 + "}",
    '{"format_version": 1e999}',
    '{"format_version": "3"}',
])  # fmt: skip
def test_text_that_is_no_manifest_is_refused_quickly(bundle_1, content):
    (bundle_1 / "amalgam.json").write_text(content, "utf-8")
    start = time.perf_counter()
    with pytest.raises(AmalgamError, match=r"amalgam\.json: a damaged manifest, .*; copy the bundle again"):
        Bundle.open(bundle_1)
    assert time.perf_counter() - start < 5


def test_a_manifest_of_a_hundred_megabytes_is_not_read(bundle_1):
    with (bundle_1 / "amalgam.json").open("r+b") as file:
        file.truncate(100 * 2**20)  # a sparse file: no disk is filled
    with pytest.raises(AmalgamError, match=f"longer than {MOST_BYTES} bytes"):
        Bundle.open(bundle_1)


def test_deep_entries_that_nobody_knows_are_let_be(bundle_1):
    document = {**read(bundle_1 / "amalgam.json"), "later": json.loads("[" * 50 + "]" * 50)}
    (bundle_1 / "amalgam.json").write_text(json.dumps(document), "utf-8")
    assert "later" not in to_json(read_manifest(bundle_1))


def test_an_unknown_method_or_writer_is_said_to_be_unknown():
    manifest = replace(make_manifest(), recipe={}, versions={})
    assert manifest.method == "of an unknown method"
    assert manifest.written_with == "of an unknown version"


def test_a_teachers_manifest_is_written_by_the_same_writer(tmp_path):
    document = migrated(read(FIXTURES / "manifests_v1" / "teacher.json"))
    (tmp_path / "model.onnx").write_bytes(b"x")
    written = write_manifest(tmp_path, from_json(TeacherManifest, document))
    assert list(written.files) == ["model.onnx"]
    assert read_teacher_manifest(tmp_path) == written
