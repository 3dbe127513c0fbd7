"""Teachers: which checkpoints are accepted, what a teacher knows of its model, and what is refused in one line."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from amalgam_edge.errors import AmalgamError
from amalgam_edge.models.checkpoints import heads_of, parse_teacher
from amalgam_edge.models.teacher import load_teacher, load_teachers
from amalgam_edge.recipe.sections import TeacherSettings
from tests.support import tiny

LEARNT_POSITIONS = ("bert", "distilbert", "roberta", "xlm-roberta", "mpnet", "electra", "albert", "camembert")
AFTER_PADDING = ("roberta", "xlm-roberta", "mpnet", "camembert")


@pytest.fixture
def copied(tmp_path, classifier_folder):
    """A copy of a BERT classifier that a test may damage."""
    return shutil.copytree(classifier_folder, tmp_path / "copy")


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **changes}), "utf-8")


def refusal(*specs, **options):
    """The one line that a user sees."""
    with pytest.raises(AmalgamError) as refused:
        load_teachers([str(spec) for spec in specs], **options)
    message = str(refused.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("spec", "name", "source"),
    [
        ("runs/bert", "bert", "runs/bert"),
        ("runs/bert/", "bert", "runs/bert/"),
        ("games=runs/bert", "games", "runs/bert"),
        ("owner/some-model.v2", "some-model.v2", "owner/some-model.v2"),
        ("games=owner/model", "games", "owner/model"),
        ("model", "model", "model"),
        (r"C:\models\bert", "bert", r"C:\models\bert"),
        (r"games=C:\models\bert", "games", r"C:\models\bert"),
        ("runs/lr=0.1", "lr-0.1", "runs/lr=0.1"),
        ("games=runs/lr=0.1", "games", "runs/lr=0.1"),
        ("runs/my model", "my-model", "runs/my model"),
    ],
)
def test_a_spec_gives_name_and_source(spec, name, source):
    assert parse_teacher(spec) == (name, source)


def test_a_folder_that_is_there_is_no_name_and_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parse_teacher("lr=0.1") == ("lr", "0.1")
    (tmp_path / "lr=0.1").mkdir()
    assert parse_teacher("lr=0.1") == ("lr-0.1", "lr=0.1")


def test_teachers_keep_order_and_names(classifier_folder, other_classifier_folder):
    teachers = load_teachers([f"b={other_classifier_folder}", f"a={classifier_folder}"])
    assert [t.name for t in teachers] == ["b", "a"]
    assert [t.source for t in teachers] == [str(other_classifier_folder), str(classifier_folder)]
    assert [t.class_names for t in teachers] == [("text", "net"), ("games", "science", "net")]


def test_no_teacher_is_refused():
    assert "--teacher" in refusal()


def test_two_teachers_of_one_name_are_refused(tmp_path, classifier_folder):
    twin = shutil.copytree(classifier_folder, tmp_path / classifier_folder.name)
    message = refusal(classifier_folder, twin)
    assert f"'{classifier_folder.name}'" in message
    assert "NAME=PATH" in message


def test_a_folder_without_a_model_is_refused(tmp_path):
    message = refusal(tmp_path)
    assert str(tmp_path) in message
    assert "config.json" in message


def test_a_missing_folder_is_refused(tmp_path):
    assert str(tmp_path / "nowhere") in refusal(tmp_path / "nowhere")


def test_a_config_that_is_no_json_is_refused(copied):
    (copied / "config.json").write_text("{", "utf-8")
    assert str(copied) in refusal(copied)


@pytest.mark.parametrize("architecture", ["bert", "roberta", "albert", "deberta-v2", "modernbert"])
def test_a_model_without_a_tokenizer_is_refused(tmp_path, make_classifier, architecture):
    """transformers makes up an empty tokenizer for some, to which every word is unknown."""
    make_classifier(tmp_path, ["a", "b"], architecture=architecture)
    for path in tmp_path.glob("tokenizer*"):
        path.unlink()
    assert "tokenizer" in refusal(tmp_path)


def test_a_tokenizer_without_padding_is_refused(copied):
    path = copied / "tokenizer_config.json"
    settings = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**settings, "pad_token": None}), "utf-8")
    assert "pad_token" in refusal(copied)


def test_an_encoder_without_head_is_refused(tmp_path, copied):
    AutoModel.from_pretrained(copied).save_pretrained(tmp_path / "encoder")
    message = refusal(f"t={tmp_path / 'encoder'}")
    assert "BertModel" in message
    assert "'t'" in message


def test_weights_without_head_are_refused(copied):
    weights = load_file(copied / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if not name.startswith("classifier.")}
    assert len(kept) == len(weights) - 2
    save_file(kept, copied / "model.safetensors", {"format": "pt"})
    assert "classifier." in refusal(copied)


def test_weights_of_another_shape_are_refused(copied):
    edit_config(copied, id2label={0: "a", 1: "b"}, label2id={"a": 0, "b": 1})
    assert str(copied) in refusal(copied)


def test_regression_is_refused_by_name(copied):
    edit_config(copied, problem_type="regression")
    message = refusal(f"mine={copied}")
    assert "regression" in message
    assert "'mine'" in message


@pytest.mark.parametrize(
    ("problem_type", "activation"),
    [
        ("multi_label_classification", "sigmoid"),
        ("single_label_classification", "softmax"),
        (None, "softmax"),
    ],
)
def test_the_problem_says_whether_classes_exclude_each_other(copied, problem_type, activation):
    edit_config(copied, problem_type=problem_type)
    assert load_teacher("t", str(copied)).activation == activation


def test_of_one_class_the_question_is_whether_it_holds(make_classifier, tmp_path):
    teacher = load_teacher("t", str(make_classifier(tmp_path, ["only"])))
    assert (teacher.class_names, teacher.activation) == (("only",), "sigmoid")


def test_one_class_of_a_regression_is_refused(make_classifier, tmp_path):
    make_classifier(tmp_path, ["only"])
    edit_config(tmp_path, problem_type="regression")
    assert "regression" in refusal(f"mine={tmp_path}")


def test_pickled_weights_are_refused_unread(copied):
    (copied / "model.safetensors").unlink()
    (copied / "pytorch_model.bin").write_bytes(b"nothing that could be unpickled")
    message = refusal(copied)
    assert ".bin" in message
    assert "safetensors" in message


@pytest.mark.parametrize("architecture", ["bert", "albert", "modernbert"])
def test_a_teacher_without_dropout_needs_an_option(tmp_path, make_classifier, architecture):
    make_classifier(tmp_path, ["a", "b"], architecture=architecture, dropout=0.0)
    assert "--dropout" in refusal(tmp_path)
    teacher = load_teacher("t", str(tmp_path), dropout=0.25)
    assert len(teacher.sites) >= 4
    assert {site.p for site in teacher.sites} == {0.25}


def test_dropout_given_leaves_dropouts_above_zero_alone(tmp_path, make_classifier):
    make_classifier(tmp_path, ["a", "b"], dropout=0.1, attention_probs_dropout_prob=0.0)
    probabilities = {site.p for site in load_teacher("t", str(tmp_path), dropout=0.3).sites}
    assert probabilities == {0.1, 0.3}


@pytest.mark.parametrize("p", [0.0, 1.0, 1.5, -0.1, float("nan")])
def test_dropout_out_of_range_is_refused(classifier_folder, p):
    assert "between 0 and 1" in refusal(classifier_folder, dropout=p)


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_the_longest_text_runs(tmp_path, make_classifier, architecture):
    make_classifier(tmp_path, ["a", "b"], architecture=architecture)
    teacher = load_teacher("t", str(tmp_path), max_length=500)
    # Position ids of RoBERTa's kin start after the padding index, which is 1.
    assert teacher.max_length == (tiny.MAX_POSITIONS - 2 if architecture in AFTER_PADDING else tiny.MAX_POSITIONS)
    encoded = teacher.tokenizer(
        "far too long " * 100, truncation=True, max_length=teacher.max_length, return_tensors="pt"
    )
    assert encoded["input_ids"].shape == (1, teacher.max_length)
    with torch.inference_mode():
        logits = teacher.model(encoded["input_ids"], attention_mask=encoded["attention_mask"]).logits
        assert torch.isfinite(logits).all()
        if architecture in LEARNT_POSITIONS:
            longer = encoded["input_ids"][:, [0, *range(teacher.max_length)]]
            with pytest.raises((IndexError, RuntimeError)):
                teacher.model(longer, attention_mask=torch.ones_like(longer))


@pytest.mark.parametrize("architecture", ["roberta", "mpnet"])
def test_the_longest_text_runs_under_another_padding_index(tmp_path, make_classifier, architecture):
    make_classifier(tmp_path, ["a", "b"], architecture=architecture, pad_token_id=0)
    teacher = load_teacher("t", str(tmp_path), max_length=500)
    ids = torch.full((1, teacher.max_length), 7)
    with torch.inference_mode():
        assert torch.isfinite(teacher.model(ids, attention_mask=torch.ones_like(ids)).logits).all()
        longer = torch.full((1, teacher.max_length + 1), 7)
        with pytest.raises((IndexError, RuntimeError)):
            teacher.model(longer, attention_mask=torch.ones_like(longer))


def test_max_length_is_the_smallest_limit(tmp_path, make_classifier, classifier_folder):
    assert load_teacher("t", str(classifier_folder), max_length=9).max_length == 9
    short = tiny.make_tokenizer()
    short.model_max_length = 20
    make_classifier(tmp_path, ["a", "b"], tokenizer=short)
    assert load_teacher("t", str(tmp_path)).max_length == 20


def test_class_names_stand_in_the_order_of_the_logits(tmp_path, make_classifier):
    names = [f"class {letter}" for letter in "zyxwvutsrqpo"]  # twelve, so that "10" sorts before "2" as text
    make_classifier(tmp_path, names)
    assert load_teacher("t", str(tmp_path)).class_names == tuple(names)


def test_models_come_ready_to_predict(copied):
    weights = load_file(copied / "model.safetensors")
    half = {name: tensor.half() for name, tensor in weights.items()}
    save_file(half, copied / "model.safetensors", {"format": "pt"})
    edit_config(copied, dtype="float16")
    model = load_teacher("t", str(copied)).model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.config._attn_implementation == "eager"
    assert not any(module.training for module in model.modules())


def test_a_fingerprint_is_the_same_wherever_the_teacher_lies(classifier_folder, copied):
    first = load_teacher("t", str(classifier_folder)).fingerprint
    assert first == load_teacher("t", str(classifier_folder)).fingerprint
    assert first == load_teacher("another name", str(copied), max_length=5).fingerprint


def test_a_fingerprint_changes_with_one_weight(copied):
    before = load_teacher("t", str(copied)).fingerprint
    weights = load_file(copied / "model.safetensors")
    weights["classifier.bias"][1] += 1e-3
    save_file(weights, copied / "model.safetensors", {"format": "pt"})
    assert load_teacher("t", str(copied)).fingerprint != before


def test_a_fingerprint_changes_with_the_tokenizer(copied):
    before = load_teacher("t", str(copied)).fingerprint
    path = copied / "tokenizer.json"
    content = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**content, "normalizer": {"type": "Lowercase"}}), "utf-8")
    assert load_teacher("t", str(copied)).fingerprint != before


def test_a_fingerprint_changes_with_the_labels(copied):
    before = load_teacher("t", str(copied)).fingerprint
    edit_config(copied, id2label={0: "net", 1: "games", 2: "science"}, label2id={"net": 0, "games": 1, "science": 2})
    assert load_teacher("t", str(copied)).fingerprint != before


def test_a_fingerprint_tells_dropouts_apart(tmp_path, make_classifier, classifier_folder):
    make_classifier(tmp_path, ["a", "b"], dropout=0.0)
    low, high = (load_teacher("t", str(tmp_path), dropout=p).fingerprint for p in (0.1, 0.2))
    assert low != high
    # Where no dropout is at zero, the option changes nothing.
    without, given = (load_teacher("t", str(classifier_folder), dropout=p).fingerprint for p in (None, 0.4))
    assert without == given


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_each_live_dropout_is_a_site(tmp_path, make_classifier, monkeypatch, architecture):
    make_classifier(tmp_path, ["a", "b"], architecture=architecture, dropout=0.125)
    teacher = load_teacher("t", str(tmp_path))
    calls = []

    def counted(values, p=0.5, training=True, inplace=False):
        if training and p > 0:
            calls.append(p)
        return values

    monkeypatch.setattr(torch.nn.functional, "dropout", counted)
    teacher.model.train()
    teacher.model(**tiny.padded(teacher.tokenizer, ["count the dropouts"]))
    assert [site.p for site in teacher.sites] == calls == [0.125] * len(calls)
    assert len(calls) >= 5  # attention and feed-forward of two layers, and the head


@pytest.mark.parametrize("name", ["runs/teachr", "./teacher", "a/b/c", "/teacher"])
def test_a_mistyped_folder_is_not_looked_for_on_the_hub(name, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the Hub was asked")

    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", refuse)
    with pytest.raises(AmalgamError, match=f"{name}: no such folder"):
        load_teacher("t", name)


def test_texts_are_cut_at_128_tokens_unless_told_otherwise(tmp_path, make_classifier):
    make_classifier(tmp_path, ["a", "b"], max_position_embeddings=200)
    assert load_teacher("t", str(tmp_path)).max_length == 128
    assert load_teachers([f"t={tmp_path}"])[0].max_length == 128
    assert load_teacher("t", str(tmp_path), max_length=300).max_length == 200


@pytest.mark.parametrize("spec", [".", "..", "...=x", "./"])
def test_a_name_of_dots_is_refused(spec):
    """It would be the name of a folder, and of another one than it seems."""
    with pytest.raises(AmalgamError, match="a name has letters or digits"):
        parse_teacher(spec)


@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_teachers_pad_on_the_right(copied, padding_side):
    path = copied / "tokenizer_config.json"
    settings = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**settings, "padding_side": padding_side}), "utf-8")
    assert load_teacher("t", str(copied)).tokenizer.padding_side == "right"


@pytest.mark.parametrize(
    ("changes", "activation"),
    [
        ({}, "softmax"),
        ({"problem_type": "single_label_classification"}, "softmax"),
        ({"problem_type": "multi_label_classification"}, "sigmoid"),
    ],
)
def test_the_config_says_whether_classes_exclude_each_other(copied, changes, activation):
    edit_config(copied, **changes)
    assert load_teacher("t", str(copied)).activation == activation


def test_one_logit_is_a_class_that_holds_or_not(tmp_path, make_classifier):
    teacher = load_teacher("t", str(make_classifier(tmp_path / "toxic", ["toxic"])))
    assert (teacher.activation, teacher.class_names) == ("sigmoid", ("toxic",))


def test_regression_is_refused_by_name_whatever_the_number_of_outputs(copied, tmp_path, make_classifier):
    edit_config(copied, problem_type="regression")
    assert "is a regression head" in refusal(f"stars={copied}")
    one = make_classifier(tmp_path / "stars", ["stars"], problem_type="regression")
    assert "teacher 'stars'" in refusal(one)


TEACHERS = ("a=x", "b=y", "c=z")


@pytest.mark.parametrize(
    ("heads", "found"),
    [
        (None, {"label": ("a", "b", "c")}),
        ("union", {"label": ("a", "b", "c")}),
        ("each", {"a": ("a",), "b": ("b",), "c": ("c",)}),
        ({"intent": ("a", "c"), "safety": ("b",)}, {"intent": ("a", "c"), "safety": ("b",)}),
    ],
)
def test_teachers_are_grouped_as_the_recipe_says(heads, found):
    assert heads_of(TeacherSettings(sources=TEACHERS, heads=heads)) == found


@pytest.mark.parametrize(
    ("heads", "reason"),
    [
        ({"intent": ()}, "--head intent: no teacher"),
        ({"intent": ("a", "q")}, "--head intent: no teacher 'q'; there are a, b, c"),
        ({"x": ("a", "b"), "y": ("b", "c")}, "teacher 'b' is named twice"),
        ({"x": ("a", "a", "b", "c")}, "teacher 'a' is named twice"),
        ({"x": ("a", "b")}, "teacher 'c' is in no head"),
        ({"x/y": ("a", "b", "c")}, "'x/y' cannot be the name of a head"),
    ],
)
def test_heads_that_do_not_fit_their_teachers_are_refused(heads, reason):
    with pytest.raises(AmalgamError, match=reason):
        heads_of(TeacherSettings(sources=TEACHERS, heads=heads))
