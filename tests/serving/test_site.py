"""What the page needs of a bundle."""

import hashlib
import json
import re
from importlib.resources import files

import pytest

from amalgam_edge.browser.libraries import LIBRARY_FILES
from amalgam_edge.browser.site import PAGE_FILES, describe_model, export_site, model_files
from amalgam_edge.errors import AmalgamError
from amalgam_edge.runtime.bundle import Bundle
from tests.support import heads


def test_the_page_gets_the_model_and_its_tokenizer_under_fixed_names(bundle_folder):
    assert {name: file.content for name, file in model_files(Bundle.open(bundle_folder)).items()} == {
        "model.onnx": (bundle_folder / "onnx" / "model_quantized.onnx").read_bytes(),
        "tokenizer.json": (bundle_folder / "tokenizer.json").read_bytes(),
        "tokenizer_config.json": (bundle_folder / "tokenizer_config.json").read_bytes(),
    }


def test_the_tokenizer_s_settings_may_be_missing(copied):
    manifest = json.loads((copied / "amalgam.json").read_text("utf-8"))
    del manifest["files"]["tokenizer_config.json"]
    (copied / "amalgam.json").write_text(json.dumps(manifest), "utf-8")
    assert set(model_files(Bundle.open(copied))) == {"model.onnx", "tokenizer.json"}


def test_the_page_s_description_of_a_model(bundle_folder, tokenizer):
    files = ("onnx/model_quantized.onnx", "tokenizer.json", "tokenizer_config.json")
    bundle = Bundle.open(bundle_folder)
    assert describe_model("tiny", bundle) == {
        "name": "tiny",
        "version": bundle.version,
        "labels": ["games", "science", "net", "Straße & 猫"],
        "max_length": 40,
        "pad_token_id": tokenizer.pad_token_id,
        "n_last_tokens": 1,
        "abstain": 0.0,
        "bytes": sum((bundle_folder / name).stat().st_size for name in files),
    }


def test_the_page_s_description_of_a_model_of_several_heads(heads_folder):
    described = describe_model("six", Bundle.open(heads_folder("six")))
    assert "abstain" not in described
    assert described["labels"] == [f"{head.name}/{label}" for head in heads.SIX for label in head.labels]
    for found, head in zip(described["heads"], heads.SIX, strict=True):
        reading = {"abstain": head.abstain} if head.activation == "softmax" else {"thresholds": [*head.thresholds]}
        assert found == {"name": head.name, "activation": head.activation, "labels": [*head.labels], **reading}


def test_every_file_of_the_page_is_sent_and_kept_for_when_there_is_no_network():
    folder = files("amalgam_edge.browser") / "page"
    assert {path.name for path in folder.iterdir()} == {*PAGE_FILES}
    kept = re.search(r"const PAGE = (\[.*?\]);", (folder / "offline.js").read_text("utf-8"))[1]
    assert {*json.loads(kept)} == {*PAGE_FILES, "./", "config.json"} - {"index.html", "offline.js"}


@pytest.fixture
def libraries(tmp_path, monkeypatch):
    """A folder that stands in for the JavaScript libraries: each file holds its own name."""
    folder = tmp_path / "libraries"
    folder.mkdir()
    for name in LIBRARY_FILES:
        (folder / name).write_text(name, "utf-8")
    monkeypatch.setenv("AMALGAM_WEB_LIBRARIES", str(folder))
    return folder


def test_an_exported_page_holds_itself_its_libraries_and_the_model(bundle_folder, libraries, tmp_path):
    """Under the names that the page asks for: ``config.json``, ``libraries/NAME`` and ``bundles/MODEL/NAME``."""
    bundle = Bundle.open(bundle_folder)
    n_bytes = export_site(bundle, tmp_path / "page")
    found = {
        path.relative_to(tmp_path / "page").as_posix(): path.read_bytes()
        for path in (tmp_path / "page").rglob("*")
        if path.is_file()
    }
    config = json.loads(found.pop("config.json"))
    version = hashlib.sha256((bundle_folder / "amalgam.json").read_bytes()).hexdigest()[:12]
    assert config == {
        "server": False,
        "browser": True,
        "key": False,
        "models": [{**describe_model(bundle_folder.name, bundle), "version": version}],
    }
    page = {path.name: path.read_bytes() for path in (files("amalgam_edge.browser") / "page").iterdir()}
    model = {f"bundles/{bundle_folder.name}/{name}": file.content for name, file in model_files(bundle).items()}
    scripts = {f"libraries/{name}": name.encode() for name in LIBRARY_FILES}
    assert found == {".amalgam-edge-page": b"", **page, **model, **scripts}
    assert n_bytes == sum(path.stat().st_size for path in (tmp_path / "page").rglob("*") if path.is_file())


def test_an_exported_page_is_replaced_on_request_and_other_folders_never(bundle_folder, libraries, tmp_path):
    bundle = Bundle.open(bundle_folder)
    mine, page = tmp_path / "mine", tmp_path / "page"
    mine.mkdir()
    page.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    with pytest.raises(AmalgamError, match="no exported page; name another folder"):
        export_site(bundle, mine, overwrite=True)
    assert [path.name for path in mine.iterdir()] == ["thesis.txt"]
    export_site(bundle, page)  # an empty folder may be filled
    (page / "of an earlier page").touch()
    with pytest.raises(AmalgamError, match="--overwrite replaces it"):
        export_site(bundle, page)
    export_site(bundle, page, overwrite=True)
    assert not (page / "of an earlier page").exists()


def test_a_tokenizer_that_changes_texts_for_its_special_tokens_has_no_last_ones(bundle_folder, monkeypatch):
    monkeypatch.setattr("amalgam_edge.browser.site.special_tokens", lambda tokenizer: None)
    assert describe_model("tiny", Bundle.open(bundle_folder))["n_last_tokens"] == 0
    monkeypatch.setattr("amalgam_edge.browser.site.special_tokens", lambda tokenizer: ([1], [2, 3]))
    assert describe_model("tiny", Bundle.open(bundle_folder))["n_last_tokens"] == 2
