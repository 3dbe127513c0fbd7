import hashlib
import json

import onnx
import pytest

from amalgam_edge.errors import AmalgamError
from amalgam_edge.runtime import Bundle, EdgeClassifier
from amalgam_edge.runtime.bundle import version_of
from amalgam_edge.runtime.manifest import read_manifest, write_manifest
from amalgam_edge.runtime.publishing import save_bundle
from tests.support.manifests import OF_ONE_HEAD, edit_manifest, read_document


def test_a_bundle_says_what_it_carries(bundle_folder):
    bundle = Bundle.open(bundle_folder)
    assert bundle == Bundle.open(str(bundle_folder))
    assert bundle.labels == ("games", "science", "net", "Straße & 猫")
    assert bundle.precisions == ("fp32", "int8")
    assert bundle.default_precision == "int8"
    assert bundle.model_name() == bundle.model_name("int8") == "onnx/model_quantized.onnx"
    assert bundle.model_name("fp32") == "onnx/model.onnx"
    bundle.verify()


def test_what_is_no_bundle_is_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(AmalgamError, match="no bundle") as refused:
            Bundle.open(folder)
        assert str(folder) in str(refused.value)


def test_an_unknown_precision_is_refused(bundle_folder):
    with pytest.raises(AmalgamError, match="no precision 'int4'; it has fp32, int8"):
        Bundle.open(bundle_folder).read_model("int4")


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
        b'{"format_version": 2}',
        b'{"format_version": 3}',
        b'{"format_version": true}',
        b'{"format_version": 3.0}',
    ],
)
def test_a_damaged_manifest_is_refused(copied, content):
    """It may open, but no classifier may come of it, and no other error."""
    (copied / "amalgam.json").write_bytes(content)
    with pytest.raises(AmalgamError, match=r"amalgam\.json"):
        EdgeClassifier(Bundle.open(copied))


NEEDED = ("labels", "precisions", "default_precision", "files", "max_length", "pad_token_id")


@pytest.mark.parametrize(
    ("entry", "version"), [*((entry, version) for entry in NEEDED for version in (1, 2, 3)), ("heads", 3)]
)
def test_a_manifest_that_lacks_an_entry_is_refused(copied, entry, version):
    edit_manifest(copied, version=version)
    lacking = read_document(copied)
    del (lacking["heads"][0] if entry == "labels" and version == 3 else lacking)[entry]
    (copied / "amalgam.json").write_text(json.dumps(lacking), "utf-8")
    place = rf"heads\[0\]\.{entry}" if entry == "labels" else entry
    message = rf"amalgam\.json: a damaged manifest, {place}: is lacking; copy the bundle again"
    with pytest.raises(AmalgamError, match=message):
        EdgeClassifier(Bundle.open(copied))


@pytest.mark.parametrize(
    ("changes", "remedy"),
    [
        ({"format_version": 4, "versions": {"amalgam-edge": "3.1.0"}}, r'of format 4, newer.*"amalgam-edge>=3\.1\.0"'),
        (
            {"format_version": 4, "versions": {"amalgam-edge": "1.10.0rc12.post3.dev456+g01234567"}},
            r"rc12.post3.dev456\+",
        ),
        ({"format_version": 4, "versions": {"amalgam-edge": "3" * 100}}, "of format 4, newer.*--upgrade amalgam-edge"),
        ({"format_version": 4, "versions": "lost"}, "of format 4, newer.*--upgrade amalgam-edge"),
        ({"format_version": 4, "versions": {"amalgam-edge": "3\n$(x)"}}, "of format 4, newer.*--upgrade amalgam-edge"),
        ({"format_version": 10**3000}, "of format 10000000000000000000, newer.*pip install"),
        ({"format_version": 0}, "of format 0, older.*build it again"),
    ],
)
def test_other_formats_are_refused_with_what_to_do(copied, changes, remedy):
    edit_manifest(copied, **changes)
    with pytest.raises(AmalgamError, match=remedy) as refused:
        Bundle.open(copied)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("entry", "value", "fault"),
    [
        ("labels", "games", "labels: a list is expected, not a string"),
        ("labels", ["games"], "labels[0]: an object is expected, not a string"),
        ("labels", [{"name": 3, "sources": []}], "labels[0].name: a string is expected, not a whole number"),
        ("labels", [{}], "labels[0].name: is lacking"),
        ("precisions", ["fp32"], "precisions: an object is expected, not a list"),
        ("precisions", {}, "precisions: holds fewer than 1 items"),
        ("precisions", {"int8": {}}, "precisions.int8.file: is lacking"),
        ("precisions", {"int8": {"file": "../m.onnx"}}, "precisions.int8.file: is no name of a file within the folder"),
        ("default_precision", 8, "default_precision: a string is expected, not a whole number"),
        ("files", ["README.md"], "files: an object is expected, not a list"),
        ("files", {"../README.md": "0" * 64}, "files['../README.md']: is no name of a file within the folder"),
        ("files", {"/etc/hostname": "0" * 64}, "files['/etc/hostname']: is no name of a file within the folder"),
        ("files", {"onnx/../../x": "0" * 64}, "files['onnx/../../x']: is no name of a file within the folder"),
        ("files", {"C:x": "0" * 64}, "files['C:x']: is no name of a file within the folder"),
        ("files", {"README.md": "0" * 63}, "files.README.md: is not of the form [0-9a-f]{64}"),
        ("max_length", "long", "max_length: a whole number is expected, not a string"),
        ("max_length", 0, "max_length: is less than 1"),
        ("max_length", True, "max_length: a whole number is expected, not true or false"),
        ("pad_token_id", [0], "pad_token_id: a whole number is expected, not a list"),
        ("pad_token_id", -1, "pad_token_id: is less than 0"),
        ("abstain", "often", "abstain: a number is expected, not a string"),
        ("abstain", 1.5, "abstain: is more than 1"),
        ("abstain", float("nan"), "abstain: is no finite number"),
        ("calibration", 1.5, "calibration: an object is expected, not a number"),
        ("cascade", "onnx/model_static.onnx", "cascade: an object is expected, not a string"),
    ],
)
@pytest.mark.parametrize("version", [1, 2, 3])
def test_an_entry_that_makes_no_sense_is_named(copied, entry, value, fault, version):
    """By its place in the newest format."""
    edit_manifest(copied, version=version, **{entry: value})
    with pytest.raises(AmalgamError) as refused:
        Bundle.open(copied)
    fault = f"heads[0].{fault}" if entry in OF_ONE_HEAD else fault
    assert str(refused.value) == f"{copied / 'amalgam.json'}: a damaged manifest, {fault}; copy the bundle again"


def test_a_default_that_is_not_there_is_refused(copied):
    edit_manifest(copied, default_precision="q4")
    with pytest.raises(AmalgamError, match="no precision 'q4'; it has fp32, int8"):
        EdgeClassifier(Bundle.open(copied))


def test_labels_that_the_model_does_not_have_are_refused(copied):
    edit_manifest(copied, labels=[{"name": "games", "sources": [], "threshold": None}])
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
    precisions = {"fancy": read_document(copied)["precisions"]["fp32"]}
    edit_manifest(copied, precisions=precisions, default_precision="fancy")
    assert Bundle.open(copied).read_model().path == copied / "onnx" / "model.onnx"


def test_a_bundle_without_a_threshold_never_abstains(copied):
    """As those of the first versions."""
    assert Bundle.open(copied).heads["label"].abstain == 0
    edit_manifest(copied, abstain=0.75)
    assert Bundle.open(copied).heads["label"].abstain == 0.75


def test_entries_of_later_versions_are_let_be(copied):
    edit_manifest(copied, novelty={"x": 1})
    assert Bundle.open(copied).labels[0] == "games"


@pytest.mark.parametrize("name", ["onnx/model.onnx", "tokenizer.json", "config.json"])
def test_one_flipped_bit_is_found(copied, flip, name):
    bundle = Bundle.open(copied)
    assert bundle.read(name).content == (copied / name).read_bytes()
    flip(copied / name)
    for check in (bundle.verify, lambda: bundle.read(name), lambda: bundle.check(name)):
        with pytest.raises(AmalgamError, match="damaged") as refused:
            check()
        assert str(copied / name) in str(refused.value)


@pytest.mark.parametrize("name", ["onnx/model.onnx", "onnx/model_quantized.onnx", "tokenizer.json"])
def test_a_missing_file_is_found(copied, name):
    (copied / name).unlink()
    bundle = Bundle.open(copied)
    checks = [bundle.verify, lambda: bundle.read(name), lambda: bundle.check(name)]
    for check in checks[bundle.may_lack(name) :]:
        with pytest.raises(AmalgamError, match="missing") as refused:
            check()
        assert str(copied / name) in str(refused.value)
    assert bundle.missing() == ((name,) if bundle.may_lack(name) else ())


def test_what_a_bundle_may_lack_is_what_it_does_not_need_by_default(copied):
    bundle = Bundle.open(copied)
    assert [name for name in bundle.manifest.files if bundle.may_lack(name)] == ["onnx/model.onnx"]
    assert bundle.may_lack("README.md")
    edit_manifest(copied, default_precision="fp32")
    assert [name for name in read_document(copied)["files"] if Bundle.open(copied).may_lack(name)] == [
        "onnx/model_quantized.onnx"
    ]


def test_a_file_that_was_not_built_with_it_is_refused(copied):
    (copied / "extra.bin").write_bytes(b"x")
    bundle = Bundle.open(copied)
    bundle.verify()
    with pytest.raises(AmalgamError, match="missing"):
        bundle.read("extra.bin")


@pytest.fixture
def secret(tmp_path):
    file = tmp_path / "id_rsa"
    file.write_text("a secret of this machine", "utf-8")
    return file


def list_file(folder, name, content):
    """Let the manifest list a file with the SHA-256 of this content."""
    files = {**read_document(folder)["files"], name: hashlib.sha256(content).hexdigest()}
    edit_manifest(folder, files=files)


def test_a_link_in_a_bundle_is_never_read_copied_or_listed(copied, secret, tmp_path):
    """Even where its maker knows what the link leads to."""
    (copied / "notes.txt").symlink_to(secret)
    copy = tmp_path / "unlisted"
    save_bundle(Bundle.open(copied), copy)
    assert not (copy / "notes.txt").exists()
    assert "notes.txt" not in write_manifest(copied, read_manifest(copied)).files

    list_file(copied, "notes.txt", secret.read_bytes())
    bundle = Bundle.open(copied)
    for use in (bundle.verify, lambda: bundle.read("notes.txt"), lambda: save_bundle(bundle, tmp_path / "listed")):
        with pytest.raises(AmalgamError, match=r"notes\.txt: a link"):
            use()
    assert not (tmp_path / "listed").exists()


def test_a_linked_folder_in_a_bundle_is_never_read(copied, tmp_path):
    (copied / "onnx").rename(tmp_path / "elsewhere")
    (copied / "onnx").symlink_to(tmp_path / "elsewhere")
    for use in (Bundle.open(copied).verify, lambda: EdgeClassifier(Bundle.open(copied))):
        with pytest.raises(AmalgamError, match="a link"):
            use()


def test_a_manifest_that_is_a_link_is_not_read(copied, tmp_path):
    (copied / "amalgam.json").rename(tmp_path / "manifest.json")
    (copied / "amalgam.json").symlink_to(tmp_path / "manifest.json")
    with pytest.raises(AmalgamError, match=r"amalgam\.json: a link"):
        Bundle.open(copied)


def test_a_model_whose_weights_lie_elsewhere_is_refused_though_its_digest_is_right(copied, secret):
    model = onnx.load(copied / "onnx" / "model.onnx")
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=f"../../{secret.name}")
    (copied / "onnx" / "model.onnx").write_bytes(model.SerializeToString())
    write_manifest(copied, read_manifest(copied))
    with pytest.raises(AmalgamError, match=r"model\.onnx: keeps weights outside of the file"):
        EdgeClassifier(Bundle.open(copied), precision="fp32")


def test_a_model_without_logits_is_refused(copied):
    model = onnx.load(copied / "onnx" / "model.onnx")
    model.graph.output[0].name = "answers"
    model.graph.node.append(onnx.helper.make_node("Identity", ["logits"], ["answers"]))
    (copied / "onnx" / "model.onnx").write_bytes(model.SerializeToString())
    write_manifest(copied, read_manifest(copied))
    with pytest.raises(AmalgamError, match=r"model\.onnx: no classifier, it has no output 'logits'"):
        EdgeClassifier(Bundle.open(copied), precision="fp32")


def test_the_version_is_of_the_manifest_that_was_read(copied):
    bundle = Bundle.open(copied)
    digest = hashlib.sha256((copied / "amalgam.json").read_bytes()).hexdigest()
    assert (bundle.digest, bundle.version) == (digest, digest[:12])
    assert version_of(copied) == bundle.version
    edit_manifest(copied, abstain=0.5)
    assert version_of(copied) != bundle.version
    with pytest.raises(AmalgamError, match=r"amalgam\.json: damaged or changed"):
        bundle.read("amalgam.json")
