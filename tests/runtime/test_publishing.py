import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import huggingface_hub
import pytest

from amalgam_edge.errors import AmalgamError
from amalgam_edge.runtime import Bundle, EdgeClassifier
from amalgam_edge.runtime.publishing import push_bundle, save_bundle
from tests.support import hub
from tests.support.manifests import edit_manifest, read_document


@pytest.fixture
def carded(copied):
    """A bundle with a model card."""
    card = '# student\n```python\nclassifier = EdgeClassifier.from_pretrained("student")\n```\n'
    (copied / "README.md").write_text(card, "utf-8")
    digest = huggingface_hub.utils.sha.sha_fileobj((copied / "README.md").open("rb")).hex()
    edit_manifest(copied, files={**read_document(copied)["files"], "README.md": digest})
    Bundle.open(copied).verify()
    return copied


def test_a_saved_bundle_is_the_same_to_the_bit(bundle_folder, tmp_path):
    copy = tmp_path / "deep" / "copy"
    EdgeClassifier.from_pretrained(bundle_folder, threads=1).save_pretrained(copy)
    assert hub.files_of(copy) == hub.files_of(bundle_folder)
    texts = ["chess", "fonts for mathematics"]
    first, second = (EdgeClassifier.from_pretrained(folder, threads=1) for folder in (bundle_folder, copy))
    assert first(texts) == second(texts)


def test_only_the_files_of_the_bundle_are_copied(copied, tmp_path):
    (copied / "notes.txt").write_text("mine")
    save_bundle(Bundle.open(copied), tmp_path / "target")
    assert not (tmp_path / "target" / "notes.txt").exists()


@pytest.mark.parametrize("fault", ["missing", "damaged"])
def test_a_damaged_bundle_is_not_copied_at_all(copied, flip, tmp_path, fault):
    classifier = EdgeClassifier.from_pretrained(copied, precision="int8")
    if fault == "missing":
        (copied / "config.json").unlink()
    else:
        flip(copied / "onnx" / "model.onnx")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(AmalgamError, match=fault):
        classifier.save_pretrained(tmp_path / "target")
    assert sorted(tmp_path.iterdir()) == before


def test_what_is_in_the_way_is_kept(bundle_folder, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    for target in (tmp_path, tmp_path / "thesis.txt"):
        with pytest.raises(AmalgamError, match="not empty; name another folder"):
            save_bundle(Bundle.open(bundle_folder), target)
    assert hub.files_of(tmp_path) == {"thesis.txt": b"years of work"}


def test_an_empty_folder_may_be_filled(bundle_folder, tmp_path):
    save_bundle(Bundle.open(bundle_folder), tmp_path)
    Bundle.open(tmp_path).verify()
    assert Bundle.open(tmp_path).manifest == Bundle.open(bundle_folder).manifest


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("name", ["README.md", "report.html", "recipe.yaml"])
@pytest.mark.parametrize("content", [b"mine \xff\r\n", None])
def test_files_for_people_may_be_edited_or_deleted(copied, tmp_path, name, content):
    (copied / name).write_bytes(b"as it was built")
    edit_manifest(copied, files={**read_document(copied)["files"], name: sha256(copied / name)})
    (copied / name).unlink()
    if content is not None:
        (copied / name).write_bytes(content)
    Bundle.open(copied).verify()
    said = []
    save_bundle(Bundle.open(copied), tmp_path / "target", notify=said.append)
    assert said == []
    listed = read_document(tmp_path / "target")["files"]
    assert hub.files_of(tmp_path / "target").get(name) == content
    assert listed.get(name) == (None if content is None else hashlib.sha256(content).hexdigest())
    assert {**listed, name: ""} == {**read_document(copied)["files"], name: ""}
    assert Bundle.open(tmp_path / "target").edited() == ()


def test_a_link_in_the_place_of_a_file_for_people_is_not_followed(carded, tmp_path):
    (tmp_path / "secret").write_text("secret")
    (carded / "README.md").unlink()
    (carded / "README.md").symlink_to(tmp_path / "secret")
    with pytest.raises(AmalgamError, match="a link, and links in a folder are not followed"):
        save_bundle(Bundle.open(carded), tmp_path / "target")
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "onnx/model.onnx", "tokenizer_config.json"])
def test_all_other_files_are_as_they_were_built(copied, flip, tmp_path, name):
    flip(copied / name)
    for use in (Bundle.verify, lambda bundle: save_bundle(bundle, tmp_path / "target")):
        with pytest.raises(AmalgamError, match="damaged or changed"):
            use(Bundle.open(copied))


def test_a_precision_whose_model_is_gone_is_left_out_and_said(copied, tmp_path):
    (copied / "onnx" / "model.onnx").unlink()
    bundle = Bundle.open(copied)
    bundle.verify()
    assert bundle.missing() == ("onnx/model.onnx",)
    assert bundle.available_precisions() == ("int8",)
    with pytest.warns(UserWarning, match=r"fp32 is left out: .*model\.onnx is not there"):
        EdgeClassifier(bundle, threads=1).save_pretrained(tmp_path / "target")
    copy = Bundle.open(tmp_path / "target")
    assert copy.precisions == ("int8",)
    assert set(copy.manifest.files) == set(bundle.manifest.files) - {"onnx/model.onnx"}
    assert hub.files_of(tmp_path / "target").keys() == {"amalgam.json", *copy.manifest.files}
    copy.verify()


def test_the_default_precision_is_never_left_out_silently(copied, tmp_path):
    (copied / "onnx" / "model_quantized.onnx").unlink()
    with pytest.raises(AmalgamError, match=r"missing from the bundle, and int8 .*, or name precisions to keep: fp32"):
        save_bundle(Bundle.open(copied), tmp_path / "target")
    with pytest.raises(AmalgamError, match="missing from the bundle; copy the bundle again"):
        Bundle.open(copied).verify()
    save_bundle(Bundle.open(copied), tmp_path / "target", precisions="fp32")
    assert Bundle.open(tmp_path / "target").default_precision == "fp32"
    (copied / "onnx" / "model.onnx").unlink()
    with pytest.raises(AmalgamError, match=r"copy the bundle again$"):
        save_bundle(Bundle.open(copied), tmp_path / "other", precisions="fp32")


@pytest.mark.parametrize(("precisions", "kept"), [("int8", "int8"), (["int8", "int8"], "int8"), (("fp32",), "fp32")])
def test_a_bundle_of_one_precision_answers_as_the_whole_one(bundle_folder, tmp_path, precisions, kept):
    EdgeClassifier.from_pretrained(bundle_folder).save_pretrained(tmp_path / "copy", precisions=precisions)
    copy = Bundle.open(tmp_path / "copy")
    copy.verify()
    assert (copy.precisions, copy.default_precision) == ((kept,), kept)
    (model,) = (path.name for path in (tmp_path / "copy" / "onnx").iterdir())
    assert model == Path(copy.model_name()).name
    texts = ["chess", "fonts for mathematics"]
    whole = EdgeClassifier.from_pretrained(bundle_folder, precision=kept, threads=1)
    assert EdgeClassifier(copy, threads=1)(texts) == whole(texts)
    with pytest.raises(AmalgamError, match=f"no precision '.*'; it has {kept}"):
        EdgeClassifier(copy, precision="int8" if kept == "fp32" else "fp32")


def test_a_precision_that_is_not_there_is_refused(bundle_folder, tmp_path):
    with pytest.raises(AmalgamError, match="no precision 'q4'; it has fp32, int8"):
        save_bundle(Bundle.open(bundle_folder), tmp_path / "copy", precisions=["int8", "q4"])
    assert not (tmp_path / "copy").exists()


def test_torch_weights_go_with_fp32(copied, tmp_path):
    (copied / "model.safetensors").write_bytes(b"weights")
    files = {**read_document(copied)["files"], "model.safetensors": sha256(copied / "model.safetensors")}
    edit_manifest(copied, files=files)
    for precisions, there in (((), True), ("fp32", True), ("int8", False)):
        target = tmp_path / f"target {precisions}"
        save_bundle(Bundle.open(copied), target, precisions=precisions)
        assert (target / "model.safetensors").exists() == there


def test_a_cascade_whose_model_is_gone_is_left_out_and_said(tmp_path):
    folder = shutil.copytree(Path(__file__).parents[1] / "fixtures" / "bundle_v1", tmp_path / "bundle")
    assert Bundle.open(folder).cascade
    (folder / "onnx" / "model_static.onnx").unlink()
    said = []
    save_bundle(Bundle.open(folder), tmp_path / "copy", notify=said.append)
    assert said == [f"the cascade is left out: {folder / 'onnx/model_static.onnx'} is not there"]
    assert Bundle.open(tmp_path / "copy").manifest.cascade is None
    EdgeClassifier.from_pretrained(tmp_path / "copy")(["chess"])


def test_the_card_of_a_copy_names_what_it_holds(tmp_path):
    folder = shutil.copytree(Path(__file__).parents[1] / "fixtures" / "bundle_v1", tmp_path / "bundle")
    assert Bundle.open(folder).default_precision == "int8"
    before = (folder / "README.md").read_text("utf-8").splitlines()
    save_bundle(Bundle.open(folder), tmp_path / "copy", precisions=["fp32"])
    after = (tmp_path / "copy" / "README.md").read_text("utf-8").splitlines()
    gone = [line for line in before if line.startswith(("| int8 ", "| student int8 "))]
    (starred,) = [line.replace("| fp32 |", "| fp32 * |") for line in before if line.startswith("| fp32 |")]
    assert len(gone) == 2
    assert starred in after
    assert set(before) - set(after) == {*gone, starred.replace(" *", "", 1)}
    assert set(after) - set(before) == {starred}


def amalgam_edge(address, home, *arguments):
    """Run the command in a process that takes ``address`` for the Hub."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": address,
        "HF_TOKEN": "hf_x",
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(home),
    }
    script = Path(sys.executable).with_name("amalgam-edge")
    return subprocess.run([script, *map(str, arguments)], env=environment, capture_output=True, text=True, check=False)


def test_what_was_pushed_can_be_had_from_the_hub(carded, tmp_path):
    with hub.running() as there:
        pushed = amalgam_edge(there.address, tmp_path / "home", "push", carded, "owner/name", "--private")
        assert pushed.returncode == 0, pushed.stderr
        assert pushed.stdout == f"{there.address}/owner/name\n"
        assert there.private == {"owner/name": True}
        assert there.tokens == {"Bearer hf_x"}
        assert len(there.commits) == 1
        answered = amalgam_edge(there.address, tmp_path / "home", "predict", "owner/name", "chess", "--format", "jsonl")
        assert answered.returncode == 0, answered.stderr
    (own,) = EdgeClassifier.from_pretrained(carded)(["chess"])
    answer = {"label": own.label, "score": pytest.approx(own.score), "truncated": False, "abstained": False}
    assert json.loads(answered.stdout) == {"text": "chess", **answer}
    held = there.files["owner/name"]
    assert 'from_pretrained("owner/name")' in held["README.md"].decode()
    assert {name: held[name] for name in hub.files_of(carded) if name not in ("README.md", "amalgam.json")} == {
        name: content for name, content in hub.files_of(carded).items() if name not in ("README.md", "amalgam.json")
    }


class Api:
    """Stands in for HfApi and notes what it is told."""

    private = False
    fault: Exception | None = None
    told: ClassVar[list] = []

    def __init__(self, token=None):
        Api.told.append(("token", token))

    def create_repo(self, repo_id, *, private, exist_ok):
        if Api.fault:
            raise Api.fault
        Api.told.append(("create", repo_id, private, exist_ok))
        return f"hub/{repo_id}"

    def repo_info(self, repo_id):
        return self

    def list_repo_files(self, repo_id):
        return [".gitattributes", "notes.md", "onnx/model.onnx", "onnx/model_q4.onnx", "model.safetensors"]

    def create_commit(self, repo_id, operations, *, commit_message):
        Api.told.append(("commit", {type(o).__name__[15:]: set() for o in operations}))
        for operation in operations:
            Api.told[-1][1][type(operation).__name__[15:]].add(operation.path_in_repo)


@pytest.fixture
def api(monkeypatch):
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(Api, "told", [])
    return Api


def test_what_is_pushed_may_be_one_precision_of_a_bundle_that_people_touched(api, carded):
    (carded / "README.md").write_bytes(b'\xff from_pretrained("student")')
    EdgeClassifier.from_pretrained(carded).push_to_hub("owner/name", precisions="int8")
    operations = api.told[-1][1]
    assert operations["Add"] == set(hub.files_of(carded)) - {"onnx/model.onnx"}
    assert operations["Delete"] == {"onnx/model.onnx", "onnx/model_q4.onnx", "model.safetensors"}


def test_models_of_an_earlier_bundle_go(api, bundle_folder):
    classifier = EdgeClassifier.from_pretrained(bundle_folder)
    assert classifier.push_to_hub("owner/name", token="secret") == "hub/owner/name"
    token, created, (_, operations) = api.told
    assert token == ("token", "secret")
    assert created == ("create", "owner/name", False, True)
    assert operations["Delete"] == {"onnx/model_q4.onnx", "model.safetensors"}
    assert operations["Add"] == set(hub.files_of(bundle_folder))


def test_nothing_private_goes_to_a_public_repository(api, bundle_folder):
    with pytest.raises(AmalgamError, match="owner/name: is public already"):
        push_bundle(Bundle.open(bundle_folder), "owner/name", private=True)
    assert [entry[0] for entry in api.told] == ["token", "create"]


def test_a_refusal_of_the_hub_is_one_line(api, bundle_folder, monkeypatch):
    monkeypatch.setattr(api, "fault", huggingface_hub.errors.OfflineModeIsEnabled("no way there\nat all"))
    with pytest.raises(AmalgamError, match=r"owner/name: cannot be pushed: the Hub is not asked, since HF_HUB_OFFLINE"):
        push_bundle(Bundle.open(bundle_folder), "owner/name")


@pytest.mark.parametrize("name", ["name", "a/b/c", "/name", "owner/", "ö/x", "owner/na me", ""])
def test_a_name_that_no_repository_has_is_refused(api, bundle_folder, name):
    with pytest.raises(AmalgamError, match="is called owner/name"):
        push_bundle(Bundle.open(bundle_folder), name)
    assert api.told == []


def test_a_damaged_bundle_is_not_pushed(api, copied, flip):
    flip(copied / "config.json")
    with pytest.raises(AmalgamError, match="damaged"):
        push_bundle(Bundle.open(copied), "owner/name")
    assert [entry[0] for entry in api.told] == ["token"]
