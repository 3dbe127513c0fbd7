"""The manifest of scores: those of version 1, and manifests that nobody means well."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import fsspec
import jsonschema
import numpy as np
import pytest

from amalgam_edge.errors import AmalgamError
from amalgam_edge.scoring.folders import find_stores, verify
from amalgam_edge.scoring.scores_manifest import (
    MOST_BYTES,
    ScoreKey,
    ScoresManifest,
    ScoreWriter,
    read_manifest,
    write_manifest,
)
from amalgam_edge.scoring.store import ScoreStore
from amalgam_edge.storage.records import to_json

SCORES = Path(__file__).parents[1] / "fixtures" / "scores_v1"
SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "reference" / "scores.schema.json").read_text("utf-8"))


def read(path):
    return json.loads(path.read_text("utf-8"))


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(SCORES / "a", tmp_path / "a")


def test_scores_of_earlier_versions_are_whole_and_read():
    assert verify(SCORES) == []
    stores = find_stores(SCORES)
    assert [(store.key.teacher, store.key.n_texts, store.shard_size) for store in stores] == [
        ("a", 27, 1024),
        ("b", 27, 1024),
    ]
    for store in stores:
        scores = store.read()
        assert len(scores) == 27
        assert scores.scored.all()
        np.testing.assert_allclose(scores.probabilities.sum(axis=1), 1, atol=1e-6)
        assert [(writer.engine, writer.backend) for writer in store.written_by()] == [("local", "torch on cpu")]


def test_a_manifest_of_an_earlier_version_is_written_as_it_was(folder):
    before = (folder / "manifest.json").read_bytes()
    write_manifest(folder, read_manifest(folder))
    assert (folder / "manifest.json").read_bytes() == before


def test_the_key_that_earlier_versions_named_folders_by_is_the_same():
    """A build looks for scores in a folder that is named by the key's fingerprint."""
    key = read_manifest(SCORES / "a").key
    assert key.fingerprint == ScoreStore.from_folder(SCORES / "a").read_shard(0).lineage["key_fingerprint"]


def test_who_wrote_may_not_be_known(folder):
    document = read(folder / "manifest.json")
    del document["written_by"]
    (folder / "manifest.json").write_text(json.dumps(document))
    assert read_manifest(folder).written_by == ()


def test_manifests_fit_the_schema():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    key = ScoreKey("t", "f" * 64, "c" * 64, 10, {"passes": "auto", "teachers": ["f" * 64]})
    for manifest in (read_manifest(SCORES / "a"), ScoresManifest(key, 4, (ScoreWriter({"python": "3.11"}),))):
        jsonschema.validate(to_json(manifest), SCHEMA)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**to_json(read_manifest(SCORES / "a")), "shard_size": 0}, SCHEMA)


HOSTILE = {
    "more texts than there are": (lambda d: d["key"].update(n_texts=10**12), "key.n_texts: is more than 68719476736"),
    "shards of one text each": (
        lambda d: (d["key"].update(n_texts=2**36), d.update(shard_size=1)),
        "more than 1048576 shards",
    ),
    "shards of no text": (lambda d: d.update(shard_size=0), "shard_size: is less than 1"),
    "shards of all texts there are": (lambda d: d.update(shard_size=2**40), "shard_size: is more than 1048576"),
    "a negative number of texts": (lambda d: d["key"].update(n_texts=-1), "key.n_texts: is less than 0"),
    "a number of texts in words": (
        lambda d: d["key"].update(n_texts="many"),
        "key.n_texts: a whole number",
    ),
    "true for a number": (lambda d: d["key"].update(n_texts=True), "key.n_texts: a whole number"),
    "a teacher in the parent's folder": (
        lambda d: d["key"].update(teacher="../x"),
        "key.teacher: is no name",
    ),
    "a teacher with a path": (lambda d: d["key"].update(teacher="/etc"), "key.teacher: is no name"),
    "a teacher on another drive": (lambda d: d["key"].update(teacher="C:x"), "key.teacher: is no name"),
    "a teacher called by dots": (lambda d: d["key"].update(teacher=".."), "key.teacher: is no name"),
    "a teacher without a name": (lambda d: d["key"].update(teacher=""), "key.teacher: is no name"),
    "settings that are a list": (lambda d: d["key"].update(settings=[]), "key.settings: an object is expected"),
    "settings without end": (lambda d: d["key"]["settings"].update(all=[0] * 10**6), "key.settings.all: holds more"),
    "half of a surrogate pair": (lambda d: d["key"]["settings"].update(x="\ud800"), "key.settings.x: holds half"),
    "NaN among the settings": (lambda d: d["key"]["settings"].update(x=float("nan")), "key.settings.x: holds a number"),
    "a writer that is a name": (lambda d: d.update(written_by=["me"]), "written_by[0]: an object is expected"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_manifest_is_refused_quickly_in_one_line(folder, case):
    damage, fault = HOSTILE[case]
    document = read(folder / "manifest.json")
    damage(document)
    (folder / "manifest.json").write_text(json.dumps(document))
    start = time.perf_counter()
    with pytest.raises(AmalgamError) as refused:
        ScoreStore.from_folder(folder)
    assert str(refused.value).startswith(f"{folder / 'manifest.json'}: damaged, {fault}")
    assert len(str(refused.value).splitlines()) == 1
    assert time.perf_counter() - start < 5
    (problem,) = verify(folder)
    assert problem == str(refused.value)


@pytest.mark.parametrize("content", ['{"key":' * 10**5, "[" * 10**5 + "]" * 10**5, "1" * 5000, '{"key": 1, "key": 1}'])
def test_text_that_is_no_manifest_is_refused(folder, content):
    (folder / "manifest.json").write_text(content)
    with pytest.raises(AmalgamError, match=r"manifest\.json: damaged, .*; restore it"):
        ScoreStore.from_folder(folder)


def test_a_manifest_of_a_hundred_megabytes_is_not_read(folder):
    with (folder / "manifest.json").open("r+b") as file:
        file.truncate(100 * 2**20)  # a sparse file: no disk is filled
    with pytest.raises(AmalgamError, match=f"longer than {MOST_BYTES} bytes"):
        ScoreStore.from_folder(folder)


def test_no_more_of_a_manifest_elsewhere_is_read_than_is_allowed(memory):
    fsspec.filesystem("memory").pipe_file("/here/a/manifest.json", b" " * (MOST_BYTES + 10))
    with pytest.raises(AmalgamError, match=f"longer than {MOST_BYTES} bytes"):
        read_manifest(f"{memory}/a")


def test_a_key_that_would_be_refused_is_not_written(tmp_path):
    store = ScoreStore(tmp_path / "x", ScoreKey("../x", "f" * 64, "c" * 64, 3, {}))
    with pytest.raises(AmalgamError, match=r"cannot be written, key\.teacher: is no name of a file within the folder"):
        store.open()
    assert not (tmp_path / "x").exists()
