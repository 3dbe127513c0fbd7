import copy
import dataclasses
from pathlib import Path

import pytest
import yaml

from amalgam_edge.errors import AmalgamError
from amalgam_edge.recipe.fields import RecipeFields
from amalgam_edge.recipe.options import options_of
from amalgam_edge.recipe.reading import read_recipe, read_renames, read_yaml_mapping
from amalgam_edge.recipe.recipe import SECTIONS, Recipe, recipe_options


@pytest.fixture
def write(tmp_path):
    def written(content, name="recipe.yaml"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return written


def refusal(call, *arguments):
    with pytest.raises(AmalgamError) as refused:
        call(*arguments)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_defaults_are_those_of_the_method():
    recipe = read_recipe(None, {})
    assert recipe == Recipe()
    # Written by hand, since builds of today must come to the same models.
    assert recipe.as_dict() == {
        "teachers": [], "heads": None, "labels": None, "dropout": None, "max_length": 128,
        "corpus": "", "text_column": None, "split": "train", "held_out": 500,
        "passes": 10, "max_passes": 10, "masks": "systematic", "seed": 0, "precision": "fp32", "batch_tokens": None,
        "backend": "auto", "device": "auto", "threads": None, "engine": "local", "address": None, "workers": None,
        "method": "refined", "reweight": True, "score_temperature": 0.2, "refinement_rounds": 4,
        "distillation_temperature": 2.0, "feature_weight": 1.0, "reconstruction_weight": 1.0, "common_width": 128,
        "owner_column": None, "known_labels": None,
        "student": "", "student_layers": None, "static_width": 64, "cascade": False, "cascade_agreement": 0.99,
        "epochs": 5, "batch_size": 32, "learning_rate": None, "warmup_ratio": 0.1, "weight_decay": 0.01,
        "report_to": "none", "head_weights": None, "launch": 1,
        "max_disagreement": 0.01, "budget": None, "trim_vocabulary": False, "calibrate": True, "abstain": 0.0,
        "include_torch": False, "thresholds": None,
        "evaluate": None, "evaluate_split": "test", "label_column": ["label"],
        "output": "", "work": None,
    }  # fmt: skip
    assert recipe.training.peak_learning_rate() == 1e-4
    assert recipe.training.peak_learning_rate(static=True) == 1e-2


def test_the_file_wins_over_defaults_and_overrides_over_the_file(write):
    path = write("passes: 8\nepochs: 5\nteachers: [a, b=c]\n")
    recipe = read_recipe(path, {"epochs": 7, "seed": 3})
    assert (recipe.scoring.passes, recipe.training.epochs, recipe.training.seed) == (8, 7, 3)
    assert recipe.teachers.sources == ("a", "b=c")
    assert read_recipe(path, {"teachers": ["d"]}).teachers.sources == ("d",)


def test_an_override_mends_a_value_of_the_file(write):
    assert read_recipe(write("passes: 0\n"), {"passes": 4}).scoring.passes == 4


def test_one_teacher_may_stand_alone(write):
    assert read_recipe(write("teachers: runs/a\n"), {}).teachers.sources == ("runs/a",)


@pytest.mark.parametrize("number", ["1e-4", "0.0001", "1.0e-4"])
def test_numbers_may_be_written_as_in_papers(write, number):
    assert read_recipe(write(f"learning_rate: {number}\n"), {}).training.learning_rate == 1e-4


def test_an_unknown_field_is_refused(write):
    path = write("epoch: 3\n")
    message = refusal(read_recipe, path, {})
    assert message.startswith(f"{path}: epoch: ")
    assert refusal(read_recipe, None, {"epoch": 3}).startswith("epoch: ")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("passes", 1),
        ("passes", "many"),
        ("passes", 2.5),
        ("max_passes", 1),
        ("max_passes", "auto"),
        ("masks", "random"),
        ("backend", "tensorflow"),
        ("precision", "int8"),
        ("threads", 0),
        ("dropout", 0.0),
        ("dropout", 1.0),
        ("max_length", 3),
        ("batch_tokens", 0),
        ("score_temperature", 0.0),
        ("distillation_temperature", -1.0),
        ("student_layers", 0),
        ("student_layers", []),
        ("student_layers", "three"),
        ("epochs", 0),
        ("epochs", 1.5),
        ("batch_size", -4),
        ("learning_rate", 0),
        ("warmup_ratio", 1.1),
        ("weight_decay", -0.1),
        ("seed", -1),
        ("seed", 2**31),
        ("held_out", 0),
        ("max_disagreement", 1.01),
        ("max_disagreement", -0.01),
        ("reweight", "perhaps"),
        ("teachers", {"a": "b"}),
        ("learning_rate", float("nan")),
    ],
)
def test_values_out_of_range_are_refused(write, field, value):
    path = write(yaml.safe_dump({field: value}))
    message = refusal(read_recipe, path, {})
    assert message.startswith(f"{path}: {field}: ")
    assert repr(value) in message
    # Given on the command line, the file is not to blame.
    assert refusal(read_recipe, write("epochs: 2\n"), {field: value}).startswith(f"{field}: ")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_disagreement", 0.0),
        ("max_disagreement", 1.0),
        ("passes", 2),
        ("passes", "auto"),
        ("max_passes", 2),
        ("max_length", 4),
        ("threads", 1),
        ("batch_tokens", 1),
        ("seed", 2**31 - 1),
    ],
)
def test_the_ends_of_ranges_are_within(field, value):
    assert read_recipe(None, {field: value}).as_dict()[field] == value


@pytest.mark.parametrize(("content", "passes"), [("passes: auto", "auto"), ("passes: 7", 7), ("passes: '7'", 7)])
def test_passes_are_a_number_or_auto(write, content, passes):
    assert read_recipe(write(content), {}).scoring.passes == passes


@pytest.mark.parametrize("passes", [0, 1, "many", "Auto", "", 2.5, True, None, [3]])
def test_passes_of_another_kind_are_refused(write, passes):
    assert "passes" in refusal(read_recipe, None, {"passes": passes})
    path = write(yaml.safe_dump({"passes": passes}))
    assert refusal(read_recipe, path, {}).startswith(f"{path}: passes")


@pytest.mark.parametrize(
    ("content", "kept", "counts"),
    [
        ("3", 3, (3,)), ("'3'", 3, (3,)), ("[3]", 3, (3,)), ("[3, 6]", (3, 6), (3, 6)), ("3,6", (3, 6), (3, 6)),
        ("' 6 , 3'", (6, 3), (6, 3)), ("null", None, (None,)),
    ],
)  # fmt: skip
def test_layers_are_one_count_or_several(write, content, kept, counts):
    recipe = read_recipe(write(f"student_layers: {content}"), {})
    assert (recipe.student.layers, recipe.student.layer_counts) == (kept, counts)
    assert read_recipe(write(recipe.to_yaml()), {}) == recipe


@pytest.mark.parametrize("value", ["3,", "3,x", [3, 0], [3, -1], "3;6", [[3]]])
def test_counts_of_layers_that_are_none_are_refused(value):
    assert refusal(read_recipe, None, {"student_layers": value}).startswith("student_layers: ")


def test_of_several_counts_the_wrong_one_is_named():
    assert refusal(read_recipe, None, {"student_layers": "3,x"}).endswith("(got 'x')")
    assert refusal(read_recipe, None, {"student_layers": [3, 0]}).endswith("(got 0)")


FINGERPRINTS = [
    ({}, "2133c00241909ccdbb811c553b39afa4d136a51cc334ba85d6495fb29066515f"),
    ({"passes": "auto", "max_passes": 25}, "d253b684cb30f66107bec9c8d3fb2b00e7f0f8464abddabb8e21ff33efffe6bf"),
    (
        {
            "teachers": ["runs/teacher-a", "sport=runs/b"],
            "corpus": "unlabeled.jsonl",
            "student": "sentence-transformers/all-MiniLM-L6-v2",
            "student_layers": [3, 6],
            "budget": "size<=10MB",
            "dropout": 0.1,
            "learning_rate": 2e-5,
            "cascade": True,
            "evaluate": "labelled.jsonl",
            "output": "student/",
            "seed": 7,
            "device": "cuda:1",
            "threads": 4,
        },
        "843f9bb5b6de8f822ba8715d9557ddd2a999a095a714f6f167c6065bc61e62e9",
    ),
]


@pytest.mark.parametrize(("settings", "fingerprint"), FINGERPRINTS)
def test_a_recipe_has_the_fingerprint_that_it_had_in_the_first_version(settings, fingerprint):
    """A literal: with another fingerprint, no finished build would be found again, and none resumed."""
    assert Recipe(**settings).fingerprint() == fingerprint


def test_several_spellings_of_the_layers_have_one_fingerprint():
    one = {Recipe(student_layers=count).fingerprint() for count in (3, "3", [3])}
    several = {Recipe(student_layers=counts).fingerprint() for counts in ([3, 6], "3,6", (3, 6))}
    assert (len(one), len(several)) == (1, 1)
    assert several != one


def test_a_shared_setting_reaches_every_section_that_has_it():
    recipe = Recipe(seed=7, device="cpu", dropout=0.3, max_length=9, threads=2, batch_tokens=5, text_column="t")
    seen = {
        option.name: {getattr(getattr(recipe, section), option.attribute)}
        for section, settings in SECTIONS.items()
        for option in options_of(section, settings)
        if option.name in ("seed", "device", "dropout", "max_length", "threads", "batch_tokens", "text_column")
    }
    for section, settings in SECTIONS.items():
        for option in options_of(section, settings):
            if option.name in seen:
                seen[option.name].add(getattr(getattr(recipe, section), option.attribute))
    assert seen == {
        "seed": {7}, "device": {"cpu"}, "dropout": {0.3}, "max_length": {9}, "threads": {2}, "batch_tokens": {5},
        "text_column": {"t"},
    }  # fmt: skip


def test_a_shared_setting_is_declared_alike_everywhere():
    declared = {}
    for section, settings in SECTIONS.items():
        for option in options_of(section, settings):
            facts = (option.default, option.description, option.affects_result, option.annotation)
            assert declared.setdefault(option.name, facts) == facts, (section, option.name)


def test_keyword_arguments_are_typed_as_the_settings_are():
    assert set(RecipeFields.__annotations__) == set(recipe_options())


def test_paths_may_be_given_as_paths():
    recipe = Recipe(output=Path("a/b"), teachers=[Path("t")], corpus=Path("c.txt"))
    assert (recipe.output.folder, recipe.teachers.sources, recipe.corpus.source) == (str(Path("a/b")), ("t",), "c.txt")


def test_a_recipe_reaches_other_processes():
    recipe = Recipe(teachers=["a"], passes="auto", student_layers="3,6")
    assert copy.deepcopy(recipe) == recipe  # by the protocol that processes use to send objects


def test_a_mistyped_setting_is_told_the_one_that_was_meant():
    assert "did you mean epochs?" in refusal(read_recipe, None, {"epoch": 3})


def test_fields_of_the_past_are_refused(write):
    assert "scoring_batch_size" in refusal(read_recipe, write("scoring_batch_size: 16\n"), {})


def test_a_recipe_does_not_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Recipe().training = Recipe(epochs=4).training
    with pytest.raises(dataclasses.FrozenInstanceError):
        Recipe().training.epochs = 4


def test_yaml_and_back_is_the_same_recipe(write):
    recipe = Recipe(
        teachers=["a", "b=Ordner/größe"],
        corpus="texts.csv",
        learning_rate=2e-5,
        weight_decay=1e-12,
        dropout=0.1,
        student_layers=6,
        reweight=False,
        seed=2**31 - 1,
        passes="auto",
        max_passes=25,
        backend="torch",
        threads=2,
        text_column="yes",
        label_column="1.0",
        output="null",
    )
    assert read_recipe(write(recipe.to_yaml()), {}) == recipe
    assert read_recipe(write(Recipe().to_yaml()), {}) == Recipe()
    assert set(yaml.safe_load(recipe.to_yaml())) == set(recipe_options())
    assert "größe" in recipe.to_yaml()


def test_the_fingerprint_is_of_what_the_result_depends_on():
    recipe = Recipe(teachers=["a"], output="x", passes="auto")
    unrelated = {
        "output": "y", "work": "z", "device": "cuda:1", "report_to": "wandb", "backend": "torch", "threads": 2,
        "batch_tokens": 99, "launch": 2, "engine": "ray", "address": "auto", "workers": 3,
    }  # fmt: skip
    assert recipe.fingerprint() == recipe.replace(**unrelated).fingerprint()
    changed = {
        "teachers": ["b"], "corpus": "c", "text_column": "c", "split": "test", "labels": "l", "passes": 4,
        "max_passes": 40, "masks": "independent", "dropout": 0.5, "max_length": 64, "precision": "fp16",
        "method": "muka-hard",
        "reweight": False, "score_temperature": 1.0, "distillation_temperature": 1.0, "student": "s",
        "student_layers": 2, "epochs": 1, "batch_size": 1, "learning_rate": 1.0, "warmup_ratio": 0.0,
        "weight_decay": 0.0, "seed": 1, "held_out": 50, "max_disagreement": 0.0, "evaluate": "e",
        "label_column": "gold",
        "heads": "each", "head_weights": {"a": 2.0}, "thresholds": "t", "owner_column": "o", "known_labels": "k",
        "evaluate_split": "dev", "include_torch": True, "trim_vocabulary": True,
        "calibrate": False, "abstain": 0.5, "budget": "size<=1MB",
        "static_width": 8, "cascade": True, "cascade_agreement": 0.5, "feature_weight": 0.0,
        "reconstruction_weight": 0.0, "common_width": 1, "refinement_rounds": 1,
    }  # fmt: skip
    assert set(changed) | set(unrelated) == set(recipe_options())
    prints = {recipe.replace(**{field: value}).fingerprint() for field, value in changed.items()}
    assert len(prints | {recipe.fingerprint()}) == len(changed) + 1


def test_the_cap_of_passes_counts_where_they_are_adaptive_alone():
    assert Recipe(passes=5).fingerprint() == Recipe(passes=5, max_passes=40).fingerprint()


@pytest.mark.parametrize(
    ("settings", "folder"),
    [
        ({"output": "out"}, "out.work"),
        ({"output": "runs/out/"}, "runs/out.work"),
        ({"output": "out", "work": "elsewhere"}, "elsewhere"),
    ],
)
def test_work_lies_beside_the_output(settings, folder):
    assert Recipe(**settings).work_folder == Path(folder)


@pytest.mark.parametrize("read", [lambda path: read_recipe(path, {}), read_renames])
def test_files_that_cannot_be_read_are_refused(write, tmp_path, read):
    for path in (tmp_path / "nowhere.yaml", tmp_path):
        assert str(path) in refusal(read, path)
    for content in ("a: [1", "a: b: c", b"\xff\xfe\xfa", "\t- x: {", "a: !!python/object/apply:os.getcwd []"):
        message = refusal(read, write(content))
        assert str(tmp_path / "recipe.yaml") in message
        assert "not a YAML" in message
    for content, kind in (("- a\n- b\n", "list"), ("words\n", "str"), ("", "NoneType"), ("3\n", "int")):
        assert f"this is a {kind}" in refusal(read, write(content))


def test_a_field_that_is_no_word_is_refused(write):
    assert "recipe.yaml" in refusal(read_recipe, write("1: 2\n"), {})


def test_a_mapping_is_read_as_it_stands(write):
    assert read_yaml_mapping(write("a: 1\nb: {c: [2]}\n"), "thing") == {"a": 1, "b": {"c": [2]}}


def test_renames_are_texts(write):
    path = write('work: {LABEL_0: science, 1: net, LABEL_2: 7}\n"*": {Net: net}\n3: {a: b}\n')
    assert read_renames(path) == {
        "work": {"LABEL_0": "science", "1": "net", "LABEL_2": "7"},
        "*": {"Net": "net"},
        "3": {"a": "b"},
    }


def test_without_a_file_nothing_is_renamed():
    assert read_renames(None) == {}


@pytest.mark.parametrize(
    "content", ["work: net\n", "work: [a, b]\n", "work: {a: [b]}\n", "work: {a: null}\n", "work:\n"]
)
def test_renames_of_another_form_are_refused(write, content):
    assert "'work'" in refusal(read_renames, write(content))


@pytest.mark.parametrize("content", ["work: {LABEL_0: no, LABEL_1: yes}\n", "work: {yes: agree, no: disagree}\n"])
def test_words_that_yaml_takes_for_truth_values_are_refused(write, content):
    """``yes`` and ``no`` would become classes called True and False."""
    assert "'work'" in refusal(read_renames, write(content))


def test_aliases_are_refused_before_they_grow(write):
    """Each line doubles what the one before stands for: a few lines stand for more than fits into memory."""
    lines = ["a0: &a0 [x, x]", *(f"a{k}: &a{k} [*a{k - 1}, *a{k - 1}]" for k in range(1, 60)), "teachers: *a59"]
    message = refusal(read_recipe, write("\n".join(lines)), {})
    assert "without aliases" in message
    assert len(message) < 500


@pytest.mark.parametrize(
    "content",
    [
        "x" * (2**20 + 1),
        "[" * 10_000,
        "- " * 10_000,
        "teachers: " + "[" * 5000 + "]" * 5000,
        "passes: " + "9" * 10_000,
        "passes: 2001-99-99",
        "seed: !!python/object/apply:os.system [echo]",
        "? " * 5000,
        "passes: !!timestamp x",
        "passes: .inf",
    ],
)
def test_hostile_yaml_is_refused_in_one_short_line(write, content):
    message = refusal(read_recipe, write(content), {})
    assert "recipe.yaml" in message
    assert "\n" not in message
    assert len(message) < 2500
