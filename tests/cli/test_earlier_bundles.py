"""Commands on bundles and on scores that earlier versions of the formats wrote."""

from __future__ import annotations

import json

import pytest

from amalgam_edge.building import candidates
from amalgam_edge.runtime import Bundle
from amalgam_edge.runtime.manifest import read_manifest
from amalgam_edge.storage.records import to_json
from tests.support.manifests import EARLIER, FIXTURES, copy_earlier_bundle


@pytest.fixture(params=EARLIER)
def bundle(request, tmp_path):
    return copy_earlier_bundle(request.param, tmp_path / "student")


def test_inspect_shows_it(invoke, bundle):
    shown = invoke("inspect", bundle)
    assert shown.exit_code == 0, shown.output
    for words in (
        "4 labels, refined, 64 training texts",
        "built with amalgam-edge 0.1.0 on x86_64",
        "294 of 400 tokens",
        "temperature ",
        "cascade: a static student",
        "int8 runs with DynamicQuantizeMatMul",
        "9 files, all as they were built",
    ):
        assert words in shown.output


def test_inspect_writes_the_manifest_as_this_version_would(invoke, bundle):
    shown = invoke("inspect", bundle, "--json")
    assert shown.exit_code == 0, shown.output
    assert json.loads(shown.stdout) == to_json(read_manifest(bundle))


def test_optimize_makes_a_bundle_of_this_version_of_it(invoke, bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(candidates, "peak_megabytes", lambda *paths, **options: 100.0)
    monkeypatch.setattr(candidates, "median_call_times", lambda runs, **options: dict.fromkeys(runs, 1e-3))
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(f"mail server {k} chess" for k in range(20)), "utf-8")
    result = invoke("optimize", bundle, "--budget", "loss<=100%", "--calibration", texts, "--output", tmp_path / "new")
    assert result.exit_code == 0, result.output
    made = Bundle.open(tmp_path / "new")
    made.verify()
    assert json.loads((tmp_path / "new" / "amalgam.json").read_text("utf-8")) == to_json(made.manifest)
    assert made.manifest.front.picked == made.default_precision
    assert made.labels == Bundle.open(bundle).labels


def test_scores_are_verified(invoke):
    shown = invoke("scores", "verify", FIXTURES / "scores_v1")
    assert shown.exit_code == 0, shown.output
    assert "1 shards of 27 texts, all as they were written" in shown.output
