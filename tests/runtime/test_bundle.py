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


def test_a_newer_format_is_refused(copied):
    edit_manifest(copied, format_version=2)
    with pytest.raises(AmalgamError, match="of format 2, newer"):
        Bundle.open(copied)


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
