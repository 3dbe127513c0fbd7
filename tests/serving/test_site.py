"""What the page needs of a bundle."""

import json
from types import SimpleNamespace

import pytest

from amalgam_edge.browser.site import browser_precision, describe_model, model_files
from amalgam_edge.errors import AmalgamError
from amalgam_edge.runtime.bundle import Bundle


@pytest.mark.parametrize(
    ("precisions", "expected"),
    [
        (("fp32", "fp16", "w8", "q4", "int8-pq", "int8"), "int8"),
        (("fp32", "fp16", "w8", "q4", "int8-pq"), "int8-pq"),
        (("fp32", "fp16", "w8", "q4"), "q4"),
        (("fp32", "fp16", "w8"), "w8"),
        (("fp32", "fp16"), "fp32"),
    ],
)
def test_the_browser_runs_the_smallest_model_that_it_can(precisions, expected):
    assert browser_precision(SimpleNamespace(precisions=precisions, folder="student")) == expected


def test_a_bundle_without_a_model_for_browsers_is_refused():
    with pytest.raises(AmalgamError, match="student: no model that a browser runs"):
        browser_precision(SimpleNamespace(precisions=("fp16",), folder="student"))


def test_the_page_gets_the_model_and_its_tokenizer_under_fixed_names(bundle_folder):
    assert model_files(Bundle.open(bundle_folder)) == {
        "model.onnx": bundle_folder / "onnx" / "model_quantized.onnx",
        "tokenizer.json": bundle_folder / "tokenizer.json",
        "tokenizer_config.json": bundle_folder / "tokenizer_config.json",
    }


def test_the_tokenizer_s_settings_may_be_missing(copied):
    manifest = json.loads((copied / "amalgam.json").read_text("utf-8"))
    del manifest["files"]["tokenizer_config.json"]
    (copied / "amalgam.json").write_text(json.dumps(manifest), "utf-8")
    assert set(model_files(Bundle.open(copied))) == {"model.onnx", "tokenizer.json"}


def test_the_page_s_description_of_a_model(bundle_folder, tokenizer):
    files = ("onnx/model_quantized.onnx", "tokenizer.json", "tokenizer_config.json")
    assert describe_model("tiny", Bundle.open(bundle_folder), "v1") == {
        "name": "tiny",
        "version": "v1",
        "labels": ["games", "science", "net", "Straße & 猫"],
        "max_length": 40,
        "pad_token_id": tokenizer.pad_token_id,
        "n_last_tokens": 1,
        "abstain": 0.0,
        "bytes": sum((bundle_folder / name).stat().st_size for name in files),
    }
