"""Students cut from encoders, against the checkpoints that they are cut from."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification, BertConfig, FNetConfig

from amalgam_edge.errors import AmalgamError
from amalgam_edge.models.checkpoints import resolve_student
from amalgam_edge.models.student import build_student, kept_layers
from tests.support import tiny

LABELS = ["games", "science", "net", "text"]
TEACHER_LABELS = ["a", "b", "c", "d"]  # as many, so that a head could be taken over by mistake
LAYER = re.compile(r"\.layers?\.(\d+)\.")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory, make_classifier):
    """Checkpoints of four layers by architecture, made when first asked for."""
    made = {}

    def checkpoint(architecture):
        if architecture not in made:
            folder = tmp_path_factory.mktemp(architecture)
            made[architecture] = make_classifier(folder, TEACHER_LABELS, architecture=architecture, layers=4, seed=3)
        return made[architecture]

    return checkpoint


@pytest.fixture(params=tiny.ARCHITECTURES)
def checkpoint(request, checkpoints):
    return checkpoints(request.param)


@pytest.fixture
def bert(checkpoints):
    return checkpoints("bert")


def build(folder, **options):
    return build_student(str(folder), LABELS, **options)


def hidden(model, inputs):
    with torch.inference_mode():
        return model.eval()(**inputs).last_hidden_state


def n_layers(model):
    layers = {int(found[1]) for name in model.state_dict() if (found := LAYER.search(name))}
    return len(layers) if layers else model.config.num_hidden_layers


@given(st.integers(1, 60).flatmap(lambda depth: st.tuples(st.just(depth), st.integers(1, depth))))
def test_kept_layers_are_evenly_spaced(sizes):
    depth, keep = sizes
    layers = kept_layers(depth, keep)
    assert len(layers) == keep
    assert layers[0] == 0
    gaps = np.diff(layers)
    assert (gaps >= 1).all()
    if keep > 1:
        assert layers[-1] == depth - 1
        assert gaps.max() - gaps.min() <= 1


def test_kept_layers_by_hand():
    assert kept_layers(12, 6) == (0, 2, 4, 7, 9, 11)
    assert kept_layers(4, 2) == (0, 3)
    assert kept_layers(3, 3) == (0, 1, 2)


@pytest.mark.parametrize("keep", [0, -1, 5])
def test_kept_layers_out_of_range_are_refused(keep):
    with pytest.raises(AmalgamError, match="has 4 layers"):
        kept_layers(4, keep)


def test_kept_layers_have_the_checkpoints_weights(checkpoint):
    student, _ = build(checkpoint, layers=2)
    source = load_file(checkpoint / "model.safetensors")
    assert student.config.num_hidden_layers == n_layers(student) == 2
    prefix = f"{student.base_model_prefix}."
    shared = [name for name in student.state_dict() if name.startswith(prefix)]
    in_layers = 0
    for name in shared:
        layer = LAYER.search(name)
        in_layers += layer is not None
        original = LAYER.sub(f"{layer[0][:-2]}{(0, 3)[int(layer[1])]}.", name) if layer else name
        assert torch.equal(student.state_dict()[name], source[original]), name
    layers_share_weights = student.config.model_type == "albert"
    assert (in_layers >= 10) is not layers_share_weights
    assert len(shared) >= 10


def test_a_cut_student_is_the_encoder_without_the_other_layers(checkpoint, tokenizer):
    student, _ = build(checkpoint, layers=2)
    encoder = AutoModel.from_pretrained(checkpoint)
    if encoder.config.model_type == "albert":
        encoder.config.num_hidden_layers = 2
    else:
        _, stack = next(
            (n, m) for n, m in encoder.named_modules() if isinstance(m, torch.nn.ModuleList) and len(m) == 4
        )
        del stack[1:3]
    inputs = tiny.padded(tokenizer, tiny.TEXTS[:5])
    np.testing.assert_allclose(hidden(student.base_model, inputs), hidden(encoder, inputs), atol=1e-5)


@pytest.mark.parametrize("layers", [None, 4])
def test_a_whole_student_is_the_checkpoints_encoder(checkpoint, tokenizer, layers):
    student, _ = build(checkpoint, layers=layers)
    inputs = tiny.padded(tokenizer, tiny.TEXTS[:5])
    expected = hidden(AutoModel.from_pretrained(checkpoint), inputs)
    np.testing.assert_allclose(hidden(student.base_model, inputs), expected, atol=1e-6)


def test_the_head_is_new(checkpoint):
    student, _ = build(checkpoint, layers=2)
    source = load_file(checkpoint / "model.safetensors")
    prefix = f"{student.base_model_prefix}."
    head = {name: tensor for name, tensor in student.state_dict().items() if not name.startswith(prefix)}
    matrices = [name for name, tensor in head.items() if tensor.dim() == 2]
    assert matrices
    for name in matrices:
        assert not torch.allclose(head[name], source[name], atol=1e-3), name


def test_a_saved_student_answers_alike(checkpoint, tokenizer, tmp_path):
    student, saved_tokenizer = build(checkpoint, layers=2)
    student.save_pretrained(tmp_path)
    saved_tokenizer.save_pretrained(tmp_path)
    loaded, report = AutoModelForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    inputs = tiny.padded(tokenizer, tiny.TEXTS[:5])
    with torch.inference_mode():
        expected = student.eval()(**inputs).logits
        found = loaded.eval()(**inputs).logits
    assert found.shape == (5, 4)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_seed_determines_the_head(bert):
    first = build(bert, seed=1)[0].state_dict()
    torch.rand(7)
    again = build(bert, seed=1)[0].state_dict()
    other = build(bert, seed=2)[0].state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())
    assert not torch.equal(first["classifier.weight"], other["classifier.weight"])
    same = [name for name in first if name.startswith("bert.")]
    assert all(torch.equal(first[name], other[name]) for name in same)


def test_the_seed_determines_a_missing_pooler(tmp_path, tokenizer):
    """A masked language model has no pooler, so the student's is new, and must not depend on what ran before."""
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_attention_heads=2, intermediate_size=64, num_hidden_layers=2
    )
    AutoModelForMaskedLM.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    torch.manual_seed(1)
    first = build(tmp_path, seed=5)[0].state_dict()
    torch.manual_seed(2)
    second = build(tmp_path, seed=5)[0].state_dict()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def test_students_compute_in_float32(tmp_path, make_classifier):
    make_classifier(tmp_path, TEACHER_LABELS)
    AutoModelForSequenceClassification.from_pretrained(tmp_path).half().save_pretrained(tmp_path)
    assert {parameter.dtype for parameter in build(tmp_path)[0].parameters()} == {torch.float32}


def test_labels_are_in_the_config(bert):
    config = build(bert)[0].config
    assert config.id2label == dict(enumerate(LABELS))
    assert config.label2id == {"games": 0, "science": 1, "net": 2, "text": 3}
    assert config.num_labels == 4
    assert config.problem_type == "single_label_classification"


def test_the_number_of_labels_is_free(bert, tokenizer):
    student, _ = build_student(str(bert), ["yes", "no"])
    assert student(**tiny.padded(tokenizer, ["x"])).logits.shape == (1, 2)


@pytest.mark.parametrize(("asked", "given"), [(10, 10), (64, 64), (500, 64)])
def test_the_tokenizer_cuts_at_the_longest_input(bert, asked, given):
    _, tokenizer = build(bert, max_length=asked)
    assert tokenizer.model_max_length == given
    assert len(tokenizer("very long " * 300, truncation=True)["input_ids"]) == given


def test_the_positions_before_robertas_first_are_not_counted(checkpoints):
    student, tokenizer = build(checkpoints("roberta"), max_length=500)
    assert tokenizer.model_max_length == tiny.MAX_POSITIONS - 2
    encoded = tokenizer("very long " * 300, truncation=True, return_tensors="pt", return_token_type_ids=False)
    assert torch.isfinite(student(**encoded).logits).all()


@pytest.mark.parametrize("layers", [0, 5, -1])
def test_layers_out_of_range_are_refused(bert, layers):
    with pytest.raises(AmalgamError, match="--student-layers"):
        build(bert, layers=layers)


@pytest.mark.parametrize("name", ["{folder}/nowhere", "{folder}", "no-such-owner/no-such-model"])
def test_an_unknown_checkpoint_is_refused(tmp_path, name):
    name = name.format(folder=tmp_path)
    with pytest.raises(AmalgamError, match=re.escape(name)):
        build(name)


def test_a_checkpoint_without_weights_is_refused(tmp_path, bert):
    (tmp_path / "config.json").write_bytes((bert / "config.json").read_bytes())
    with pytest.raises(AmalgamError, match=re.escape(str(tmp_path))):
        build(tmp_path)


def test_a_checkpoint_without_tokenizer_is_refused(tmp_path, bert):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((bert / name).read_bytes())
    with pytest.raises(AmalgamError, match="tokenizer"):
        build(tmp_path)


def test_an_architecture_of_unknown_depth_is_refused(tmp_path, tokenizer):
    FNetConfig(num_hidden_layers=2).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(AmalgamError, match="fnet"):
        build(tmp_path)


def test_a_teacher_can_be_the_student():
    sources = {"a": "runs/a", "b": "owner/b"}
    assert resolve_student("teacher:b", sources) == "owner/b"
    assert resolve_student("owner/encoder", sources) == "owner/encoder"
    with pytest.raises(AmalgamError, match="no teacher 'c'; there are a, b"):
        resolve_student("teacher:c", sources)


def test_defaults_are_all_layers_128_tokens_and_seed_zero(tmp_path, make_classifier):
    make_classifier(tmp_path, TEACHER_LABELS, max_position_embeddings=200, layers=3)
    student, tokenizer = build(tmp_path)
    given = build(tmp_path, layers=3, max_length=128, seed=0)[0].state_dict()
    assert tokenizer.model_max_length == 128
    assert student.state_dict().keys() == given.keys()
    assert all(torch.equal(tensor, given[name]) for name, tensor in student.state_dict().items())
