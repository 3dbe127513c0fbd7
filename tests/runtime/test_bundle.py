import json

import pytest

from amalgam_edge.errors import AmalgamError
from amalgam_edge.runtime import Bundle, EdgeClassifier


def edit_manifest(folder, **changes):
    """Change entries of a manifest; None takes one out."""
    path = folder / "amalgam.json"
    manifest = {**json.loads(path.read_text("utf-8")), **changes}
    path.write_text(json.dumps({k: v for k, v in manifest.items() if v is not None}), "utf-8")


def test_a_bundle_says_what_it_carries(bundle_folder):
    bundle = Bundle.open(bundle_folder)
    assert bundle == Bundle.open(str(bundle_folder))
    assert bundle.labels == ("games", "science", "net", "Straße & 猫")
    assert bundle.precisions == ("fp32", "int8")
    assert bundle.default_precision == "int8"
    assert bundle.model_file() == bundle.model_file("int8") == bundle_folder / "onnx" / "model_quantized.onnx"
    assert bundle.model_file("fp32") == bundle_folder / "onnx" / "model.onnx"
    bundle.verify()


def test_what_is_no_bundle_is_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(AmalgamError, match="no bundle") as refused:
            Bundle.open(folder)
        assert str(folder) in str(refused.value)


def test_an_unknown_precision_is_refused(bundle_folder):
    with pytest.raises(AmalgamError, match="no precision 'int4'; it has fp32, int8"):
        Bundle.open(bundle_folder).model_file("int4")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe\x00",
        b"[]",
        b"3",
        b"null",
        b"{}",
        b'{"format_version": "one"}',
        b'{"format_version": null}',
        b'{"format_version": 1}',
    ],
)
def test_a_damaged_manifest_is_refused(copied, content):
    """It may open, but no classifier may come of it, and no other error."""
    (copied / "amalgam.json").write_bytes(content)
    with pytest.raises(AmalgamError, match=r"amalgam\.json"):
        EdgeClassifier(Bundle.open(copied))


@pytest.mark.parametrize("entry", ["labels", "precisions", "default_precision", "files", "max_length", "pad_token_id"])
def test_a_manifest_that_lacks_an_entry_is_refused(copied, entry):
    edit_manifest(copied, **{entry: None})
    with pytest.raises(AmalgamError, match=r"amalgam\.json"):
        EdgeClassifier(Bundle.open(copied))


@pytest.mark.parametrize(
    ("changes", "remedy"),
    [
        ({"format_version": 2, "versions": {"amalgam-edge": "3.1.0"}}, r'of format 2, newer.*"amalgam-edge>=3\.1\.0"'),
        ({"format_version": 2, "versions": "lost"}, "of format 2, newer.*--upgrade amalgam-edge"),
        ({"format_version": 0}, "of format 0, older.*build it again"),
    ],
)
def test_other_formats_are_refused_with_what_to_do(copied, changes, remedy):
    edit_manifest(copied, **changes)
    with pytest.raises(AmalgamError, match=remedy) as refused:
        Bundle.open(copied)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("labels", "games"),
        ("labels", ["games"]),
        ("labels", [{"name": 3}]),
        ("labels", [{}]),
        ("precisions", ["fp32"]),
        ("precisions", {"int8": {}}),
        ("precisions", {"int8": {"file": "../model.onnx"}}),
        ("default_precision", 8),
        ("files", ["README.md"]),
        ("files", {"../README.md": "0" * 64}),
        ("files", {"/etc/hostname": "0" * 64}),
        ("files", {"onnx/../../x": "0" * 64}),
        ("files", {"C:x": "0" * 64}),
        ("max_length", "long"),
        ("max_length", 0),
        ("pad_token_id", [0]),
        ("abstain", "often"),
        ("abstain", 1.5),
        ("cascade", "onnx/model_static.onnx"),
    ],
)
def test_an_entry_that_makes_no_sense_is_named(copied, entry, value):
    edit_manifest(copied, **{entry: value})
    with pytest.raises(AmalgamError, match=rf"amalgam\.json: a damaged manifest, its {entry} cannot be read; copy"):
        Bundle.open(copied)


def test_a_default_that_is_not_there_is_refused(copied):
    edit_manifest(copied, default_precision="q4")
    with pytest.raises(AmalgamError, match="no precision 'q4'; it has fp32, int8"):
        EdgeClassifier(Bundle.open(copied))


def test_labels_that_the_model_does_not_have_are_refused(copied):
    edit_manifest(copied, labels=[{"name": "games"}])
    with pytest.raises(AmalgamError, match="answers over 4 labels and the manifest names 1; copy the bundle again"):
        EdgeClassifier(Bundle.open(copied))


def test_swapped_models_are_found(copied):
    one, other = (copied / "onnx" / name for name in ("model.onnx", "model_quantized.onnx"))
    kept = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(kept)
    for precision in ("fp32", "int8"):
        with pytest.raises(AmalgamError, match=r"model(_quantized)?\.onnx: damaged or changed"):
            EdgeClassifier(Bundle.open(copied), precision=precision)


def test_a_precision_of_a_later_version_is_found_by_its_file(copied):
    manifest = json.loads((copied / "amalgam.json").read_text("utf-8"))
    precisions = {"fancy": manifest["precisions"]["fp32"]}
    edit_manifest(copied, precisions=precisions, default_precision="fancy")
    assert Bundle.open(copied).model_file() == copied / "onnx" / "model.onnx"


def test_a_bundle_without_a_threshold_never_abstains(copied):
    """As those of the first versions."""
    assert Bundle.open(copied).abstain == 0
    edit_manifest(copied, abstain=0.75)
    assert Bundle.open(copied).abstain == 0.75


def test_entries_of_later_versions_are_let_be(copied):
    edit_manifest(copied, novelty={"x": 1})
    assert Bundle.open(copied).labels[0] == "games"


@pytest.mark.parametrize("name", ["onnx/model.onnx", "tokenizer.json", "config.json"])
def test_one_flipped_bit_is_found(copied, flip, name):
    bundle = Bundle.open(copied)
    assert bundle.file(name) == copied / name
    flip(copied / name)
    for check in (bundle.verify, lambda: bundle.file(name)):
        with pytest.raises(AmalgamError, match="damaged") as refused:
            check()
        assert str(copied / name) in str(refused.value)


@pytest.mark.parametrize("name", ["onnx/model.onnx", "tokenizer.json"])
def test_a_missing_file_is_found(copied, name):
    (copied / name).unlink()
    bundle = Bundle.open(copied)
    for check in (bundle.verify, lambda: bundle.file(name)):
        with pytest.raises(AmalgamError, match="missing") as refused:
            check()
        assert str(copied / name) in str(refused.value)


def test_a_file_that_was_not_built_with_it_is_refused(copied):
    (copied / "extra.bin").write_bytes(b"x")
    bundle = Bundle.open(copied)
    bundle.verify()
    with pytest.raises(AmalgamError, match="missing"):
        bundle.file("extra.bin")
