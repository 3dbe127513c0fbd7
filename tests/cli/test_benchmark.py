"""The benchmark on a tiny student: what it compares is right; how fast it is nobody asks."""

import json
import shutil

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from amalgam_edge.errors import AmalgamError
from amalgam_edge.evaluation.edge_benchmark import texts_of
from amalgam_edge.evaluation.peers import PEERS, open_peer, trained_student
from amalgam_edge.runtime import Bundle


@pytest.fixture(scope="module")
def trained(invoke, build_options, built, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    work = shutil.copytree(built.work, folder / "work")
    output = folder / "student"
    options = ["--include-torch", "--max-disagreement", "1", "--work", work, "--output", output]
    result = invoke("build", *build_options, *options)
    assert result.exit_code == 0, result.output
    return output


@pytest.mark.parametrize("name", list(PEERS))
def test_a_peer_answers_as_the_student_was_trained(trained, name):
    if "ctranslate2" in name:
        pytest.skip("the tiny student has a byte-level tokenizer under BERT, which its converter does not take")
    pytest.importorskip(PEERS[name][0])
    ids = [[5, 6, 7, 8], [9, 10], [11, 12, 13, 14, 15, 16]]
    with trained_student(Bundle.open(trained), threads=1) as student:
        run = open_peer(name, student)
        expected = []
        for one in ids:
            with torch.inference_mode():
                expected.append(student.model(torch.tensor([one])).logits.numpy()[0])
    tolerance = 0.2 if "int8" in name else 1e-4
    np.testing.assert_allclose(run(ids), np.array(expected), atol=tolerance * np.abs(expected).max())


def test_the_table_has_a_column_for_each_cell_and_a_row_for_each_contender(trained, invoke, inputs):
    options = ["--against", "torch,onnxruntime int8", "--corpus", inputs.corpus, "--rounds", "1", "--threads", "1"]
    result = invoke("benchmark", trained, *options)
    assert result.exit_code == 0, result.output
    head, *rows = result.stdout.strip().splitlines()[-5:]
    assert head.split() == ["ms", "1×16", "1×64", "32×16", "32×64", "corpus"]
    assert [row.split("  ")[0].strip() for row in rows] == [
        "amalgam-edge fp32", "amalgam-edge int8", "torch", "onnxruntime int8",
    ]  # fmt: skip
    assert rows[0].count("×") == 5
    assert "×" not in rows[2]


def test_a_bundle_alone_needs_no_torch_student(built, invoke):
    result = invoke("benchmark", built.bundle, "--rounds", "1", "--json")
    assert result.exit_code == 0, result.output
    cells = json.loads(result.stdout[result.stdout.index("[\n") :])
    assert [cell["name"] for cell in cells] == ["1×16", "1×64", "32×16", "32×64"]
    assert all(seconds > 0 for cell in cells for seconds in cell["seconds"].values())


def test_mistakes(built, trained, mistake):
    assert "--include-torch" in mistake("benchmark", built.bundle, "--against", "torch")
    message = mistake("benchmark", trained, "--against", "tensorflow")
    assert "no peer 'tensorflow'" in message
    assert "ctranslate2" in message


def test_a_peer_that_is_not_installed_is_named(trained, monkeypatch):
    import builtins

    inner = builtins.__import__

    def no_openvino(name, *rest, **options):
        if name == "openvino":
            raise ModuleNotFoundError(name)
        return inner(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", no_openvino)
    with (
        trained_student(Bundle.open(trained), threads=1) as student,
        pytest.raises(AmalgamError, match="openvino is not installed: pip install openvino"),
    ):
        open_peer("openvino", student)


@pytest.mark.parametrize("n_tokens", [4, 16, 40])
def test_texts_have_exactly_so_many_tokens(tokenizer_folder, n_tokens):
    tokenizer = Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))
    texts = texts_of(tokenizer, 5, n_tokens)
    assert [len(tokenizer.encode(text).ids) for text in texts] == [n_tokens] * 5
