"""Bundles of the Hub: which files are fetched, at which commit, and why they cannot be had."""

from __future__ import annotations

import errno
import os
import pickle
import re
import shutil
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import constants

from amalgam_edge import api
from amalgam_edge.errors import AmalgamError
from amalgam_edge.runtime import EdgeClassifier
from amalgam_edge.runtime.finding import find_bundle
from amalgam_edge.runtime.hub import HubFiles, explain_hub_error
from amalgam_edge.runtime.publishing import save_bundle
from tests.support import hub, tiny

NAME = "owner/student"
USED = ["amalgam.json", "onnx/model_quantized.onnx", "tokenizer.json"]


@pytest.fixture
def there(monkeypatch, tmp_path, bundle_folder):
    """A Hub that this process asks and that holds the bundle; nothing is in the cache."""
    with hub.running() as running:
        hub.let_this_process_ask(running, monkeypatch, tmp_path / "cache")
        running.files[NAME] = {**hub.files_of(bundle_folder), "photo.png": bytes(10_000)}
        yield running


def test_a_classifier_fetches_what_it_uses_and_no_byte_more(there, bundle_folder):
    found = EdgeClassifier.from_pretrained(NAME, threads=1)
    assert found(tiny.TEXTS) == EdgeClassifier.from_pretrained(bundle_folder, threads=1)(tiny.TEXTS)
    assert sorted(there.downloads) == [(name, (bundle_folder / name).stat().st_size) for name in USED]
    assert found.bundle.version == find_bundle(bundle_folder).version
    before = there.requests
    EdgeClassifier.from_pretrained(NAME, threads=1)
    assert there.requests == before + 1  # whether main is still that commit
    assert len(there.downloads) == len(USED)


def test_a_pickled_classifier_is_fetched_again_at_its_commit_and_without_the_token(there):
    pickled = pickle.dumps(EdgeClassifier.from_pretrained(NAME, revision="main", token="hf_secret", threads=1))
    assert b"hf_secret" not in pickled
    again = pickle.loads(pickled)
    assert (again.bundle.source, again.bundle.hub.revision, again.bundle.hub.token) == (NAME, hub.COMMIT, None)
    assert repr(again).startswith(f"<EdgeClassifier '{NAME}': int8, 4 labels")
    assert again(tiny.TEXTS) == EdgeClassifier.from_pretrained(NAME, threads=1)(tiny.TEXTS)


def test_another_precision_is_fetched_when_it_is_asked_for(there, bundle_folder):
    EdgeClassifier.from_pretrained(NAME)
    EdgeClassifier.from_pretrained(NAME, precision="fp32")
    assert sorted(name for name, _ in there.downloads) == sorted([*USED, "onnx/model.onnx"])


def test_the_manifest_alone_is_fetched_of_a_bundle_that_is_looked_at(there):
    bundle = find_bundle(NAME)
    assert bundle.precisions == ("fp32", "int8")
    assert (bundle.source, bundle.name, bundle.hub.revision) == (NAME, "student", hub.COMMIT)
    assert [name for name, _ in there.downloads] == ["amalgam.json"]


def test_a_copy_fetches_all_files_of_the_bundle_and_no_others(there, bundle_folder, tmp_path):
    save_bundle(find_bundle(NAME), tmp_path / "copy")
    assert hub.files_of(tmp_path / "copy") == hub.files_of(bundle_folder)
    assert sorted(name for name, _ in there.downloads) == sorted(hub.files_of(bundle_folder))


def test_a_copy_of_one_precision_fetches_no_other(there, tmp_path):
    save_bundle(find_bundle(NAME), tmp_path / "copy", precisions=["int8"])
    assert "onnx/model.onnx" not in dict(there.downloads)


def test_all_files_are_of_the_commit_that_the_manifest_is_of(there, bundle_folder):
    bundle = find_bundle(NAME)
    there.move_main(NAME, dict.fromkeys(there.files[NAME], b"of another commit"))
    tokenizer = bundle.read("tokenizer.json")
    assert tokenizer.content == (bundle_folder / "tokenizer.json").read_bytes()
    assert tokenizer.path.parent.name == hub.COMMIT


def test_a_revision_is_a_tag_or_a_commit(there, bundle_folder):
    commit = there.tag(NAME, "v1")
    there.files[NAME] = {"README.md": b"no bundle any more"}
    for revision in ("v1", commit):
        assert find_bundle(NAME, revision=revision).hub.revision == commit
        assert EdgeClassifier.from_pretrained(NAME, revision=revision).bundle == find_bundle(NAME, revision=revision)
    with pytest.raises(
        AmalgamError, match=r"student: no bundle \(amalgam.json is not in the repository\); publish one"
    ):
        find_bundle(NAME)


def test_a_folder_has_no_revisions(bundle_folder):
    with pytest.raises(AmalgamError, match="a folder here, which has no revisions"):
        EdgeClassifier.from_pretrained(bundle_folder, revision="v1")


def test_the_token_is_sent_and_neither_shown_nor_pickled(there):
    bundle = find_bundle(NAME, token="hf_secret")
    bundle.read("tokenizer.json")
    assert there.tokens == {"Bearer hf_secret"}
    assert "hf_secret" not in repr(bundle)
    assert b"hf_secret" not in pickle.dumps(bundle)
    assert pickle.loads(pickle.dumps(bundle)) == bundle


def test_the_cache_may_be_named(there, tmp_path):
    bundle = find_bundle(NAME, cache_dir=tmp_path / "elsewhere")
    bundle.read("tokenizer.json")
    assert bundle.folder.is_relative_to(tmp_path / "elsewhere")
    assert not (tmp_path / "cache").exists()


def test_without_the_hub_the_cache_answers(there, monkeypatch):
    EdgeClassifier.from_pretrained(NAME, threads=1)
    before = there.requests
    found = EdgeClassifier.from_pretrained(NAME, threads=1, local_files_only=True)
    assert found(["chess"])[0].label in found.labels
    with pytest.raises(AmalgamError, match=r"onnx/model.onnx cannot be had from the Hub: the Hub is not asked"):
        EdgeClassifier.from_pretrained(NAME, precision="fp32", local_files_only=True)
    assert there.requests == before
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert EdgeClassifier.from_pretrained(NAME, threads=1)(["chess"]) == found(["chess"])
    assert there.requests == before


def test_nothing_in_the_cache_is_one_line(there, monkeypatch):
    with pytest.raises(AmalgamError, match=r"no folder here, .* its cache here does not hold it; once leave out --off"):
        find_bundle(NAME, local_files_only=True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(AmalgamError, match=r"since HF_HUB_OFFLINE is set, .*; unset it once"):
        find_bundle(NAME)


@pytest.mark.parametrize(
    ("status", "headers", "words"),
    [
        (403, {"X-Error-Code": "GatedRepo"}, "it is gated; ask for access at https://huggingface.co/owner/student"),
        (401, {"X-Error-Code": "RepoNotFound"}, "no such repository, or none that you may read; if it is private"),
        (404, {"X-Error-Code": "RepoNotFound"}, "no such repository, or none that you may read"),
        (404, {"X-Error-Code": "RevisionNotFound"}, "it has no revision 'main'"),
        (401, {"X-Error-Message": "Invalid credentials in Authorization header"}, "refuses the token .*hf auth login"),
        (403, {"X-Error-Message": "no"}, r"the Hub forbids it \(status 403\); hf auth login"),
        (429, {}, r"asked too often \(status 429\); wait some minutes"),
        (503, {}, r"the Hub fails \(status 503\); try again later"),
        (418, {}, "the Hub refuses it "),
    ],
)
def test_each_refusal_has_its_reason_in_one_line(there, status, headers, words):
    there.refusal = status, headers
    with pytest.raises(
        AmalgamError, match=f"{NAME}: no folder here, and it cannot be had from the Hub: .*{words}"
    ) as no:
        find_bundle(NAME)
    assert "\n" not in str(no.value)
    assert "Traceback" not in str(no.value)


def test_a_repository_that_is_not_there_is_told_from_a_mistyped_folder(there):
    with pytest.raises(AmalgamError, match=r"owner/studnet: no folder here, and .*there is no such repository"):
        find_bundle("owner/studnet")


def test_a_name_that_the_hub_has_not_is_one_line(there):
    with pytest.raises(AmalgamError, match=r"a--b/c..d: no folder here, .*that is no name of a repository"):
        find_bundle("a--b/c..d")
    assert there.requests == 0


class ReadTimeout(Exception):  # noqa: N818
    """As every HTTP library calls it."""


class ConnectError(Exception):
    """As one of them calls it."""


@pytest.mark.parametrize(
    ("cause", "words"),
    [
        (ReadTimeout("timed out"), "does not answer in time"),
        (ConnectError("[Errno 111] Connection refused"), r"cannot be reached \(\[Errno 111\] Connection refused\)"),
        (OSError(errno.ENOSPC, "full", "/cache/blobs/x"), "cannot be written .*No space left"),
        (PermissionError(errno.EACCES, "Permission denied", "/cache"), "/cache: cannot be read or written"),
        (ValueError("first\nsecond"), "^first$"),
    ],
)
def test_other_failures_are_told_apart(cause, words):
    assert re.search(words, explain_hub_error(cause, NAME))
    if not isinstance(cause, PermissionError):  # the client wraps what the network says, and not what the disk does
        wrapped = huggingface_hub.errors.LocalEntryNotFoundError("An error happened\nwhile trying")
        wrapped.__cause__ = cause
        assert re.search(words, explain_hub_error(wrapped, NAME))


def test_a_file_that_only_the_manifest_knows_is_missing(there):
    del there.files[NAME]["onnx/model.onnx"]
    bundle = find_bundle(NAME)
    assert not bundle.has("onnx/model.onnx")
    assert bundle.available_precisions() == ("int8",)
    with pytest.raises(AmalgamError, match=r"model\.onnx: missing from the bundle; delete .*models--owner--student"):
        EdgeClassifier(bundle, precision="fp32")


def test_a_damaged_file_of_the_hub_is_refused(there, bundle_folder):
    there.files[NAME]["tokenizer.json"] = b"{}"
    with pytest.raises(AmalgamError, match=r"tokenizer\.json: damaged or changed since .*publish the bundle again"):
        EdgeClassifier.from_pretrained(NAME)


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="the cache holds links where there are any")
def test_a_file_that_repositories_share_is_read(there, bundle_folder):
    """Newer clients keep such files once for all repositories, and link to them twice."""
    bundle = find_bundle(NAME)
    path = bundle.folder / "tokenizer.json"
    bundle.read("tokenizer.json")
    blob = path.resolve()
    content = "ab" + "0" * 62
    shared = blob.parents[2] / "blobs" / "ab" / content
    shared.parent.mkdir(parents=True)
    shutil.move(blob, shared)
    blob.symlink_to(Path("../../blobs/ab") / content)
    assert bundle.read("tokenizer.json").content == (bundle_folder / "tokenizer.json").read_bytes()


def test_optimize_never_replaces_what_is_in_the_cache(there):
    with pytest.raises(AmalgamError, match=r"owner/student: a bundle of the Hub is not replaced; name a folder"):
        api.optimize(NAME, "size<=1MB")
    with pytest.raises(AmalgamError, match="owner/student: opened already; leave the revision out"):
        api.optimize(find_bundle(NAME), "size<=1MB", output="new", revision="v1")


def test_evaluate_takes_a_name_of_the_hub(there, tmp_path, bundle_folder):
    labelled = tmp_path / "labelled.csv"
    labelled.write_text("text,label\nchess,games\nmail,net\n", "utf-8")
    commit = there.tag(NAME, "v1")
    measured = api.evaluate(NAME, labelled, precisions=["int8"], threads=1, revision=commit, compare=NAME)
    logits = EdgeClassifier.from_pretrained(bundle_folder, precision="int8", threads=1).logits(["chess", "mail"])
    assert measured.heads["label"].student["int8"].accuracy == np.mean(logits.argmax(axis=1) == [0, 2])
    assert measured.comparison.bundle == NAME
    assert "onnx/model.onnx" not in dict(there.downloads)


def test_one_revision_is_one_value():
    assert HubFiles(NAME, token="a") == HubFiles(NAME, token="b")
    assert HubFiles(NAME, "v1") != HubFiles(NAME, "v2")
