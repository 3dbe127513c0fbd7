import pytest
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard import metadata_load

from amalgam_edge.reports.bundle_tables import precision_table, teacher_table
from amalgam_edge.reports.evaluation_tables import evaluation_table
from amalgam_edge.reports.model_card import render_model_card
from amalgam_edge.runtime.manifest_models import Fidelity, TrimmedVocabulary
from tests.support.manifests import (
    make_accuracy,
    make_calibration,
    make_evaluation,
    make_label,
    make_manifest,
    make_precision,
    make_teacher,
)


def front_matter(card):
    start, head, body = card.split("---\n", 2)
    assert start == ""
    return yaml.safe_load(head), body


def test_the_hub_finds_its_head():
    head, body = front_matter(render_model_card(make_manifest(), "my student"))
    assert head["library_name"] == "amalgam-edge"
    assert head["pipeline_tag"] == "text-classification"
    assert "onnx" in head["tags"]
    assert body.startswith("# my student\n")


def test_the_card_says_what_the_manifest_does():
    manifest = make_manifest()
    card = render_model_card(manifest, "student")
    for table in (precision_table(manifest), teacher_table(manifest), evaluation_table(manifest.evaluation)):
        assert table.to_markdown() in card
    for words in (
        "`games`, `science`, `net`",
        "over 3 labels, merged from 2 teacher(s)",
        "method muka-soft",
        "on 12 texts held out",
        "(120 texts)",
        "cut to 48 tokens",
        'from_pretrained("student")',
    ):
        assert words in card.replace("\n", " ")
    assert "{" not in card
    assert "None" not in card


def test_a_model_made_after_the_evaluation_claims_none_of_it():
    manifest = make_manifest(evaluation=make_evaluation(student={"fp32": make_accuracy(0.9, 0.8765)}))
    head, body = front_matter(render_model_card(manifest, "s"))
    assert "model-index" not in head
    assert "student fp32" in body


def test_the_example_is_python():
    card = render_model_card(make_manifest(), "student")
    example = card.split("```python\n")[1].split("```")[0]
    compile(example, "card", "exec")


def test_without_evaluation_there_is_no_such_section():
    assert "## Evaluation" in render_model_card(make_manifest(), "s")
    card = render_model_card(make_manifest(evaluation=None), "s")
    assert "## Evaluation" not in card
    assert "macro-F1" not in card


def test_one_teacher_and_float_alone():
    only = {"fp32": make_precision("onnx/model.onnx", 1_000_000, "float", 1.0, 0.0, 1.0, 1.0)}
    card = render_model_card(
        make_manifest(
            teachers=(make_teacher("fun", ["games", "net"], picked_share=1.0),),
            precisions=only,
            default_precision="fp32",
            evaluation=None,
        ),
        "s",
    )
    assert "merged from 1 teacher(s)" in card
    assert "| fp32 * |" in card
    assert "int8" not in card


def test_braces_in_names_are_only_text():
    labels = (make_label("{title}"), make_label("{0}"))
    card = render_model_card(make_manifest(labels=labels), "{folder}")
    assert "# {folder}" in card
    assert "`{title}`, `{0}`" in card


def test_a_trimmed_vocabulary_is_said_to_be_one():
    trimmed = TrimmedVocabulary(n_tokens=512, n_before=30522, fidelity=Fidelity(0.99, 0.01, 100, {}, {}))
    card = render_model_card(make_manifest(vocabulary=trimmed), "s").replace("\n", " ")
    assert "It knows 512 of its encoder's 30522 tokens" in card
    assert "tokens; words" not in render_model_card(make_manifest(), "s")


HOSTILE = ["a: b", "- x", "'", '"', "#1", "{title}", "a\\nb", "猫"]


@pytest.mark.parametrize("name", ["student", *HOSTILE])
def test_huggingface_hub_reads_its_head(name, tmp_path):
    evaluation = make_evaluation(data=f"/srv/private/{name}.csv")
    path = tmp_path / "README.md"
    path.write_text(render_model_card(make_manifest(evaluation=evaluation), name), "utf-8")
    head = metadata_load(path)
    assert head["library_name"] == "amalgam-edge"
    assert "base_model" not in head
    assert "license" not in head
    assert "private" not in path.read_text("utf-8")
    data = ModelCard.load(path).data
    assert data.pipeline_tag == "text-classification"
    assert data.model_name == name
    measured = {(result.metric_type, result.metric_name): result.metric_value for result in data.eval_results}
    assert measured == {("accuracy", None): 0.88333, ("f1", "macro-F1"): 0.8}  # of int8, the default
    assert {result.dataset_name for result in data.eval_results} == {f"{name}.csv"}


def test_teachers_of_the_hub_are_its_base_models(tmp_path):
    known = make_teacher("work", ["net"], source="owner/name", from_hub=True)
    manifest = make_manifest(
        teachers=(make_teacher("fun", ["games"]), known),
        evaluation=make_evaluation(data="hf://datasets/owner/texts"),
    )
    path = tmp_path / "README.md"
    path.write_text(render_model_card(manifest, "student"), "utf-8")
    data = ModelCard.load(path).data
    assert data.base_model == ["owner/name"]
    assert {result.dataset_type for result in data.eval_results} == {"owner/texts"}


def test_without_evaluation_no_results_are_claimed(tmp_path):
    path = tmp_path / "README.md"
    path.write_text(render_model_card(make_manifest(evaluation=None), "student"), "utf-8")
    assert "model-index" not in metadata_load(path)


def test_what_scores_mean_is_said():
    manifest = make_manifest(calibration=make_calibration(), abstain=0.5)
    card = render_model_card(manifest, "s")
    assert "## Scores\n\nTemperature 1.23, calibration error on supervision 10.0% → 1.2%" in card
    assert "no label below a score of 0.5." in card
    assert "to every text that it answers, also" in card
    assert "to every text, also" in render_model_card(make_manifest(), "s")
    assert "## Scores" not in render_model_card(make_manifest(), "s")
