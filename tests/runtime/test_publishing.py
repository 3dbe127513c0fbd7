import json
import os
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


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def carded(copied):
    """A bundle with a model card."""
    card = '# student\n```python\nclassifier = EdgeClassifier.from_pretrained("student")\n```\n'
    (copied / "README.md").write_text(card, "utf-8")
    manifest = json.loads((copied / "amalgam.json").read_text("utf-8"))
    manifest["files"]["README.md"] = huggingface_hub.utils.sha.sha_fileobj((copied / "README.md").open("rb")).hex()
    (copied / "amalgam.json").write_text(json.dumps(manifest), "utf-8")
    Bundle.open(copied).verify()
    return copied


def test_a_saved_bundle_is_the_same_to_the_bit(bundle_folder, tmp_path):
    copy = tmp_path / "deep" / "copy"
    EdgeClassifier.from_pretrained(bundle_folder, threads=1).save_pretrained(copy)
    assert contents(copy) == contents(bundle_folder)
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
    assert contents(tmp_path) == {"thesis.txt": b"years of work"}


def test_an_empty_folder_may_be_filled(bundle_folder, tmp_path):
    save_bundle(Bundle.open(bundle_folder), tmp_path)
    Bundle.open(tmp_path).verify()
    assert Bundle.open(tmp_path).manifest == Bundle.open(bundle_folder).manifest


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
    assert json.loads(answered.stdout) == {"text": "chess", "label": own.label, "score": pytest.approx(own.score)}
    held = there.files["owner/name"]
    assert 'from_pretrained("owner/name")' in held["README.md"].decode()
    assert {name: held[name] for name in contents(carded) if name not in ("README.md", "amalgam.json")} == {
        name: content for name, content in contents(carded).items() if name not in ("README.md", "amalgam.json")
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


def test_models_of_an_earlier_bundle_go(api, bundle_folder):
    classifier = EdgeClassifier.from_pretrained(bundle_folder)
    assert classifier.push_to_hub("owner/name", token="secret") == "hub/owner/name"
    token, created, (_, operations) = api.told
    assert token == ("token", "secret")
    assert created == ("create", "owner/name", False, True)
    assert operations["Delete"] == {"onnx/model_q4.onnx", "model.safetensors"}
    assert operations["Add"] == set(contents(bundle_folder))


def test_nothing_private_goes_to_a_public_repository(api, bundle_folder):
    with pytest.raises(AmalgamError, match="owner/name: is public already"):
        push_bundle(Bundle.open(bundle_folder), "owner/name", private=True)
    assert [entry[0] for entry in api.told] == ["token", "create"]


def test_a_refusal_of_the_hub_is_one_line(api, bundle_folder, monkeypatch):
    monkeypatch.setattr(api, "fault", huggingface_hub.errors.OfflineModeIsEnabled("no way there\nat all"))
    with pytest.raises(AmalgamError, match=r"owner/name: cannot be pushed \(no way there\); hf auth login"):
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
