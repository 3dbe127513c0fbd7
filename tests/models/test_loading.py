"""Reading checkpoints: what is refused for safety, and limits that no tiny model shows."""

import ast
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerFast

from amalgam_edge.errors import AmalgamError
from amalgam_edge.models.loading import (
    fingerprint,
    load_classifier,
    load_config,
    load_encoder,
    load_tokenizer,
    longest_input,
)
from amalgam_edge.models.teacher import load_teacher

CODE = """
from pathlib import Path
Path({marker!r}).touch()
from transformers import BertConfig
class OwnConfig(BertConfig):
    model_type = "own"
"""


@pytest.fixture
def with_code(tmp_path, classifier_folder, monkeypatch):
    """A checkpoint of an unknown model type, with Python code for it; any prompt is answered with yes."""
    folder, marker = tmp_path / "checkpoint", tmp_path / "code was run"
    shutil.copytree(classifier_folder, folder)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig"}}
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    (folder / "own.py").write_text(CODE.format(marker=str(marker)), "utf-8")
    monkeypatch.setattr("builtins.input", lambda *prompt: "y")
    yield folder
    assert not marker.exists()


def test_code_of_a_checkpoint_is_never_run(with_code):
    with pytest.raises(AmalgamError, match="custom code"):
        load_config(str(with_code))
    with pytest.raises(AmalgamError, match="custom code"):
        load_teacher("t", str(with_code))


def test_code_of_an_encoder_is_never_run(with_code, classifier_folder):
    with pytest.raises(AmalgamError, match="custom code"):
        load_encoder(str(with_code), load_config(str(classifier_folder)), 64)


def test_code_of_a_tokenizer_is_never_run(with_code, classifier_folder):
    path = with_code / "tokenizer_config.json"
    settings = json.loads(path.read_text("utf-8"))
    settings |= {
        "tokenizer_class": "OwnTokenizer",
        "auto_map": {"AutoTokenizer": ["own.OwnTokenizer", "own.OwnTokenizer"]},
    }
    path.write_text(json.dumps(settings), "utf-8")
    with pytest.raises(AmalgamError, match="its tokenizer needs custom code, which is never run"):
        load_tokenizer(str(with_code))


@pytest.mark.parametrize(
    "entries",
    [
        {"attn_implementation": "somebody/kernel"},
        {"_attn_implementation": "somebody/kernel:flash"},
        {"experts_implementation": "somebody/kernel@main"},
        {"attn_implementation": {"text_config": "somebody/kernel"}},
        {"text_config": {"attn_implementation": "somebody/kernel"}},
    ],
)
@pytest.mark.parametrize(
    "load", [load_config, lambda folder: load_encoder(folder, None, 64), lambda folder: load_classifier(folder, None)]
)
def test_kernels_of_the_hub_are_code_and_never_run(tmp_path, classifier_folder, load, entries):
    shutil.copytree(classifier_folder, tmp_path / "checkpoint")
    config = json.loads((tmp_path / "checkpoint" / "config.json").read_text("utf-8"))
    (tmp_path / "checkpoint" / "config.json").write_text(json.dumps({**config, **entries}), "utf-8")
    with pytest.raises(AmalgamError, match="needs custom code, which is never run"):
        load(str(tmp_path / "checkpoint"))


@pytest.mark.parametrize(
    "name",
    ["weights.bin", "../elsewhere.safetensors", "/tmp/x.safetensors", "a/b.safetensors", "", "x.safetensors/", 7],
)
def test_an_index_of_weights_names_safetensors_beside_it_alone(tmp_path, classifier_folder, name):
    folder = shutil.copytree(classifier_folder, tmp_path / "checkpoint")
    (folder / "model.safetensors").rename(tmp_path / "elsewhere.safetensors")
    torch.save({}, folder / "weights.bin")
    index = {"metadata": {"total_size": 1}, "weight_map": {"classifier.bias": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")
    for load in (load_classifier, lambda folder, config: load_encoder(folder, config, 64)):
        with pytest.raises(AmalgamError, match=r"model\.safetensors\.index\.json"):
            load(str(folder), load_config(str(folder)))


@pytest.mark.parametrize("content", ["", "[", "[]", '{"weight_map": 3}', '{"weight_map": {"a": 1}}', "[" * 10**5])
def test_a_damaged_index_of_weights_is_refused_in_one_line(tmp_path, classifier_folder, content):
    folder = shutil.copytree(classifier_folder, tmp_path / "checkpoint")
    (folder / "model.safetensors.index.json").write_text(content, "utf-8")
    with pytest.raises(AmalgamError, match=r"model\.safetensors\.index\.json .*save the model again") as refused:
        load_classifier(str(folder), load_config(str(folder)))
    assert "\n" not in str(refused.value)


def test_weights_in_several_files_are_read(tmp_path, classifier_folder):
    config = load_config(str(classifier_folder))
    load_classifier(str(classifier_folder), config).save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    found, expected = (load_classifier(str(f), config).state_dict() for f in (tmp_path / "sharded", classifier_folder))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


PACKAGES = ("amalgam_edge", "exporters", "models", "cli")


def test_nothing_else_reads_checkpoints_by_transformers():
    """Every other place goes through ``models/loading.py``, which allows neither code nor pickle."""
    root = Path(__file__).parents[2]
    calls = []
    for file in (path for package in PACKAGES for path in (root / package).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr == "from_pretrained":
                calls.append((file.relative_to(root).as_posix(), ast.unparse(node.value)))
            if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
                calls.append((file.relative_to(root).as_posix(), "trust_remote_code"))
            names = node.names if isinstance(node, (ast.Import, ast.ImportFrom)) else []
            assert not {"pickle", "joblib", "dill", "cloudpickle"} & {name.name for name in names}, file
    assert {call for call in calls if "classifier" not in call[1].lower()} == {
        ("models/loading.py", "kind"),
        ("models/loading.py", "AutoConfig"),
        ("models/loading.py", "AutoTokenizer"),
    }


@pytest.mark.parametrize("load", [load_classifier, lambda folder, config: load_encoder(folder, config, 64)])
def test_pickled_weights_are_refused_unread(tmp_path, classifier_folder, load):
    shutil.copytree(classifier_folder, tmp_path / "checkpoint")
    (tmp_path / "checkpoint" / "model.safetensors").unlink()
    (tmp_path / "checkpoint" / "pytorch_model.bin").write_bytes(b"nothing that could be unpickled")
    with pytest.raises(AmalgamError, match="safetensors"):
        load(str(tmp_path / "checkpoint"), load_config(str(classifier_folder)))


def tokenizer_of(n_tokens):
    backend = Tokenizer(models.WordLevel({f"t{k}": k for k in range(n_tokens)}, unk_token="t0"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="t0", pad_token="t1")


def test_a_tokenizer_of_fewer_than_16_tokens_is_taken_for_none(tmp_path):
    tokenizer_of(15).save_pretrained(tmp_path / "small")
    tokenizer_of(16).save_pretrained(tmp_path / "enough")
    with pytest.raises(AmalgamError, match="no tokenizer in it"):
        load_tokenizer(str(tmp_path / "small"))
    assert len(load_tokenizer(str(tmp_path / "enough"))) == 16


def test_tokenizers_pad_on_the_right_and_those_of_encoders_truncate_there_too(tmp_path, classifier_folder):
    shutil.copytree(classifier_folder, tmp_path / "left")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "left", padding_side="left", truncation_side="left")
    tokenizer.save_pretrained(tmp_path / "left")
    assert load_tokenizer(str(tmp_path / "left")).padding_side == "right"
    loaded = load_encoder(str(tmp_path / "left"), load_config(str(tmp_path / "left")), 10)[1]
    assert (loaded.padding_side, loaded.truncation_side, loaded.model_max_length) == ("right", "right", 10)


def longest(model_type, positions=514, padding=1, tokenizer_limit=10**30):
    config = SimpleNamespace(model_type=model_type, max_position_embeddings=positions, pad_token_id=padding)
    return longest_input(config, SimpleNamespace(model_max_length=tokenizer_limit))


@pytest.mark.parametrize("model_type", ["roberta", "xlm-roberta", "camembert", "mpnet", "xlm-roberta-xl", "xmod"])
def test_position_ids_begin_after_the_padding_index_in_these_architectures(model_type):
    """Each computes positions as fairseq does: the padding index + 1 + the number of tokens before."""
    assert longest(model_type) == 512
    assert longest(model_type, padding=3) == (512 if model_type == "mpnet" else 510)  # MPNet's code has it fixed at 1


@pytest.mark.parametrize(
    ("limits", "length"),
    [
        ({}, 514),
        ({"tokenizer_limit": 200}, 200),
        ({"positions": None}, 100_000),
        ({"positions": -1}, 100_000),  # T5 and XLNet have no limit
        ({"positions": None, "tokenizer_limit": 4096}, 4096),
    ],
)
def test_the_longest_input_is_the_smallest_limit(limits, length):
    assert longest("bert", **limits) == length


def tiny_fingerprint(classifier_folder, **changes):
    model = SimpleNamespace(state_dict=dict, config=AutoConfig.from_pretrained(classifier_folder))
    for name, value in changes.items():
        setattr(model.config, name, value)
    return fingerprint(model, AutoTokenizer.from_pretrained(classifier_folder))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("_name_or_path", "elsewhere"),
        ("transformers_version", "0.1"),
        ("architectures", ["Other"]),
        ("dtype", "float16"),
    ],
)
def test_a_fingerprint_ignores_what_does_not_change_predictions(classifier_folder, name, value):
    assert tiny_fingerprint(classifier_folder, **{name: value}) == tiny_fingerprint(classifier_folder)


def test_a_fingerprint_changes_with_the_config(classifier_folder):
    assert tiny_fingerprint(classifier_folder, hidden_act="relu") != tiny_fingerprint(classifier_folder)
