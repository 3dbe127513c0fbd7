import yaml
from manifests import make_manifest, make_precision, make_teacher

from amalgam_edge.exporters.model_card import render_model_card
from amalgam_edge.tables import evaluation_table, precision_table, teacher_table


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
    for table in (precision_table(manifest), teacher_table(manifest), evaluation_table(manifest)):
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


def test_the_example_is_python():
    card = render_model_card(make_manifest(), "student")
    example = card.split("```python\n")[1].split("```")[0]
    compile(example, "card", "exec")


def test_without_evaluation_there_is_no_such_section():
    assert "## Evaluation" in render_model_card(make_manifest(), "s")
    card = render_model_card(make_manifest(evaluation={}), "s")
    assert "## Evaluation" not in card
    assert "macro-F1" not in card


def test_one_teacher_and_float_alone():
    only = {"fp32": make_precision("onnx/model.onnx", 1_000_000, "float", 1.0, 0.0, 1.0, 1.0)}
    card = render_model_card(
        make_manifest(
            teachers=[make_teacher("fun", ["games", "net"], picked_share=1.0)],
            precisions=only,
            default_precision="fp32",
            evaluation={},
        ),
        "s",
    )
    assert "merged from 1 teacher(s)" in card
    assert "| fp32 * |" in card
    assert "int8" not in card


def test_braces_in_names_are_only_text():
    labels = [{"name": "{title}", "sources": []}, {"name": "{0}", "sources": []}]
    card = render_model_card(make_manifest(labels=labels), "{folder}")
    assert "# {folder}" in card
    assert "`{title}`, `{0}`" in card


def test_a_trimmed_vocabulary_is_said_to_be_one():
    trimmed = {"n_tokens": 512, "n_before": 30522, "fidelity": {"agreement": 0.99, "mean_kl": 0.01, "n_texts": 100}}
    card = render_model_card(make_manifest(vocabulary=trimmed), "s").replace("\n", " ")
    assert "It knows 512 of its encoder's 30522 tokens" in card
    assert "tokens; words" not in render_model_card(make_manifest(), "s")
