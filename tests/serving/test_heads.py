"""Bundles of one, three and six heads by both protocols, compared with plain onnxruntime and numpy."""

import asyncio
import json

import httpx
import numpy as np
import pytest

from amalgam_edge.serving.admission import AccessControl
from amalgam_edge.serving.app import create_app
from amalgam_edge.serving.limits import Limits
from amalgam_edge.serving.metrics import ServerMetrics
from amalgam_edge.serving.models import LoadOptions, ModelRegistry
from tests.support import heads, tiny

TEXTS = [*tiny.TEXTS[:7], "", "Straße 猫", "chess and maps of the night sky " * 20]
NAMES = [*heads.ALL]
SEVERAL = ["three", "six"]
FUNCTIONS = {
    "softmax": lambda logits: np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True),
    "sigmoid": lambda logits: 1 / (1 + np.exp(-logits)),
    "none": lambda logits: logits,
}


@pytest.fixture(scope="module")
def expected(heads_folder):
    """``expected(name)`` → logits by head, and whether each text was cut."""

    def of(name):
        logits, truncated = heads.logits_of(heads_folder(name), TEXTS)
        return heads.by_head(heads.ALL[name], logits), truncated

    return of


@pytest.fixture
def ask(heads_folder):
    """``ask(name, (method, path, body), …)`` → the responses of a server with that bundle, and its metrics."""

    def ask(name, *requests):
        async def run():
            metrics = ServerMetrics()
            models = ModelRegistry({"tiny": str(heads_folder(name))}, LoadOptions(threads=1), Limits(), metrics)
            await models.load()
            app = create_app(models, Limits(), metrics, AccessControl())
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
                responses = [await client.request(method, path, json=body) for method, path, body in requests]
            await models.close()
            return responses, metrics.exposition().decode()

        return asyncio.run(run())

    return ask


def classify(**parameters):
    return "POST", "/models/tiny", {"inputs": TEXTS, "parameters": parameters}


def infer(outputs=None):
    tensor = {"name": "text", "shape": [len(TEXTS)], "datatype": "BYTES", "data": TEXTS}
    named = {} if outputs is None else {"outputs": [{"name": name} for name in outputs]}
    return "POST", "/v2/models/tiny/infer", {"inputs": [tensor], **named}


def assert_labels(found, wanted):
    """Labels and scores of each text, in order."""
    for row, scores in zip(found, wanted, strict=True):
        assert [entry["label"] for entry in row] == [*scores]
        assert [entry["score"] for entry in row] == pytest.approx([*scores.values()], abs=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_one_head_answers_in_the_protocol_s_own_shape(ask, expected, name):
    by_head, truncated = expected(name)
    for head in heads.ALL[name]:
        logits = by_head[head.name]
        wanted = heads.ranked(head, logits, heads.scores_of(head, logits))
        by_query = ("POST", f"/models/tiny?head={head.name.replace('?', '%3F')}", {"inputs": TEXTS})
        responses, _ = ask(name, classify(head=head.name), by_query, classify(head=head.name, top_k=1))
        assert_labels(responses[0].json(), wanted)
        assert_labels(responses[2].json(), [dict([*row.items()][:1]) for row in wanted])
        assert responses[1].content == responses[0].content
        assert responses[0].headers["x-truncated"] == "9"
    assert truncated == [False] * 9 + [True]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_function_to_apply_is_that_of_the_request_whatever_the_head_s_own(ask, expected, function):
    by_head, _ = expected("six")
    responses, _ = ask("six", *[classify(head=head.name, function_to_apply=function) for head in heads.SIX])
    for head, response in zip(heads.SIX, responses, strict=True):
        logits = by_head[head.name]
        assert_labels(response.json(), heads.ranked(head, logits, FUNCTIONS[function](logits)))


@pytest.mark.parametrize("name", SEVERAL)
@pytest.mark.parametrize("top_k", [None, 2])
def test_without_a_head_all_answer_in_one_request(ask, expected, name, top_k):
    by_head, _ = expected(name)
    (response,), _ = ask(name, classify(top_k=top_k))
    rows = response.json()
    assert [[*row] for row in rows] == [[*heads.ALL[name].names]] * len(TEXTS)
    for head in heads.ALL[name]:
        logits = by_head[head.name]
        wanted = heads.ranked(head, logits, heads.scores_of(head, logits))
        assert_labels([row[head.name] for row in rows], [dict([*row.items()][:top_k]) for row in wanted])
    assert response.headers["x-truncated"] == "9"


@pytest.mark.parametrize("name", ["one", "one-sigmoid"])
def test_a_bundle_of_one_head_answers_with_it(ask, expected, name):
    (head,) = heads.ALL[name]
    logits = expected(name)[0][head.name]
    (response,), _ = ask(name, classify())
    assert_labels(response.json(), heads.ranked(head, logits, heads.scores_of(head, logits)))


@pytest.mark.parametrize("name", NAMES)
def test_a_head_that_is_not_there_is_refused_with_the_names_of_those_that_are(ask, name):
    requests = [classify(head="mood"), classify(head=""), ("POST", "/?head=mood", {"inputs": "x"})]
    for response, asked in zip(ask(name, *requests)[0], ("mood", "", "mood"), strict=True):
        assert response.status_code == 422
        assert response.json() == {"error": f"no head '{asked}'; there are {', '.join(heads.ALL[name].names)}"}
    (response,), _ = ask(name, classify(head=3))
    assert response.status_code == 422
    assert response.json()["error"].startswith("parameters.head: ")


def test_the_body_s_head_wins_over_that_of_the_address(ask):
    body = {"inputs": "x", "parameters": {"head": "priority"}}
    (response,), _ = ask("three", ("POST", "/?head=topic", body))
    assert {entry["label"] for entry in response.json()[0]} == {"low", "high"}


def outputs_of(head, logits):
    """Name → datatype, shape and values of the outputs of a head, without its name."""
    scores, n_texts = heads.scores_of(head, logits), len(logits)
    ranked = heads.ranked(head, logits, scores)
    outputs = {
        "label": ("BYTES", [n_texts], [next(iter(row)) for row in ranked]),
        "score": ("FP32", [n_texts], [next(iter(row.values())) for row in ranked]),
        "probabilities": ("FP32", [n_texts, len(head.labels)], scores.ravel().tolist()),
    }
    if head.activation == "sigmoid":
        held = heads.labels_that_hold(head, logits)
        assert len({len(labels) for labels in held}) > 1 or len(head.labels) == 1
        outputs["label"] = ("BYTES", [n_texts], [";".join(labels) for labels in held])
        outputs["holds"] = (
            "BOOL", [n_texts, len(head.labels)], [label in labels for labels in held for label in head.labels]
        )  # fmt: skip
    return outputs


def all_outputs(name, by_head, truncated):
    several = len(heads.ALL[name]) > 1
    outputs = {
        (f"{head.name}.{kind}" if several else kind): output
        for head in heads.ALL[name]
        for kind, output in outputs_of(head, by_head[head.name]).items()
    }
    return {**outputs, "truncated": ("BOOL", [len(TEXTS)], truncated)}


@pytest.mark.parametrize("name", NAMES)
def test_the_open_inference_protocol_has_outputs_for_each_head(ask, expected, name):
    wanted = all_outputs(name, *expected(name))
    (response, some, metadata, config), _ = ask(
        name,
        infer(),
        infer([*reversed(wanted)]),
        ("GET", "/v2/models/tiny", None),
        ("GET", "/v2/models/tiny/config", None),
    )
    found = {output["name"]: output for output in response.json()["outputs"]}
    assert [*found] == [*wanted]
    assert [output["name"] for output in some.json()["outputs"]] == [*reversed(wanted)]
    for output, (datatype, shape, values) in wanted.items():
        assert (found[output]["datatype"], found[output]["shape"]) == (datatype, shape)
        exact = datatype != "FP32"
        assert found[output]["data"] == (values if exact else pytest.approx(values, abs=1e-5))
    described = {output["name"]: (output["datatype"], output["shape"]) for output in metadata.json()["outputs"]}
    assert described == {output: (datatype, [-1, *shape[1:]]) for output, (datatype, shape, _) in wanted.items()}
    types = {"BYTES": "TYPE_STRING", "FP32": "TYPE_FP32", "BOOL": "TYPE_BOOL"}
    assert [(output["name"], output["data_type"], output["dims"]) for output in config.json()["output"]] == [
        (output, types[datatype], shape) for output, (datatype, shape) in described.items()
    ]


@pytest.mark.parametrize("name", NAMES)
def test_only_outputs_of_the_model_can_be_asked_for(ask, expected, name):
    known = [*all_outputs(name, *expected(name))]
    for unknown in ("topic.labels", "label" if len(heads.ALL[name]) > 1 else "topic.label", "mood.label"):
        (response,), _ = ask(name, infer([known[0], unknown]))
        assert response.status_code == 422
        assert response.json() == {"error": f"no output '{unknown}'; there are {', '.join(known)}"}


def test_the_metadata_says_how_answers_are_read(ask):
    def parameters(name):
        return ask(name, ("GET", "/v2/models/tiny", None))[0][0].json()["parameters"]

    assert parameters("one") == {"labels": ["billing", "login", "Straße & 猫"]}
    assert parameters("one-sigmoid") == {
        "labels": ["toxic", "threat", "spam", "a; b"],
        "activation": "sigmoid",
        "thresholds": [0.5, 0.9, 0.2, 0.5],
    }
    assert parameters("three") == {
        "labels": {
            "topic": ["billing", "login", "Straße & 猫"],
            "priority": ["low", "high"],
            "safety": ["toxic", "threat", "spam", "a; b"],
        },
        "activation": {"topic": "softmax", "priority": "softmax", "safety": "sigmoid"},
        "thresholds": {"safety": [0.5, 0.9, 0.2, 0.5]},
    }


def test_the_api_s_description_names_heads_and_outputs(ask, expected):
    (document,), _ = ask("three", ("GET", "/openapi.json", None))
    for path in ("/", "/predict", "/models/{name}"):
        operation = document.json()["paths"][path]["post"]
        parameters = schema_of(operation)["properties"]["parameters"]["properties"]
        assert parameters["head"]["enum"] == ["topic", "priority", "safety", None]
        answer = operation["responses"]["200"]["content"]["application/json"]["schema"]
        assert [option["items"]["type"] for option in answer["anyOf"]] == ["array", "object"]
    infer = document.json()["paths"]["/v2/models/{name}/infer"]["post"]
    outputs = schema_of(infer)["properties"]["outputs"]["items"]["properties"]["name"]["enum"]
    assert outputs == [*all_outputs("three", *expected("three"))]
    (document,), _ = ask("one", ("GET", "/openapi.json", None))
    operation = document.json()["paths"]["/"]["post"]
    assert [*schema_of(operation)["properties"]["parameters"]["properties"]] == ["top_k", "function_to_apply"]


def schema_of(operation):
    return operation["requestBody"]["content"]["application/json"]["schema"]


@pytest.mark.parametrize("path", ["/info", "/config.json"])
def test_what_is_told_of_a_model_says_how_its_answers_are_read(ask, path):
    def told(name):
        return ask(name, ("GET", path, None))[0][0].json()["models"][0]

    one, sigmoid, three = told("one"), told("one-sigmoid"), told("three")
    assert (one["labels"], one["abstain"], "heads" in one) == ([*heads.TOPIC.labels], 0.0, False)
    safety = {
        "name": "safety",
        "activation": "sigmoid",
        "labels": ["toxic", "threat", "spam", "a; b"],
        "thresholds": [0.5, 0.9, 0.2, 0.5],
    }
    assert (sigmoid["labels"], sigmoid["heads"]) == (safety["labels"], [safety])
    assert three["labels"][3:6] == ["priority/low", "priority/high", "safety/toxic"]
    assert "abstain" not in three
    assert three["heads"][1:] == [
        {"name": "priority", "activation": "softmax", "labels": ["low", "high"], "abstain": 0.9},
        safety,
    ]


def test_a_text_counts_as_an_abstention_if_some_head_gives_no_label(ask, expected):
    by_head, _ = expected("three")
    n_abstaining = sum(not labels for labels in heads.labels_that_hold(heads.PRIORITY, by_head["priority"]))
    assert 0 < n_abstaining < len(TEXTS)
    _, metrics = ask("three", classify())
    assert f'amalgam_abstentions_total{{model="tiny"}} {float(n_abstaining)}' in metrics


def test_texts_that_run_together_are_answered_as_those_that_run_alone(ask):
    (together, *alone), _ = ask("six", classify(), *(("POST", "/", {"inputs": text}) for text in TEXTS))
    for row, response in zip(together.json(), alone, strict=True):
        (single,) = response.json()
        for name, labels in row.items():
            assert [entry["label"] for entry in labels] == [entry["label"] for entry in single[name]]
            scores = [entry["score"] for entry in single[name]]
            assert [entry["score"] for entry in labels] == pytest.approx(scores, abs=1e-5)


def test_names_are_json_whatever_is_in_them(ask):
    (response,), _ = ask("six", classify(head="language"))
    assert {entry["label"] for entry in json.loads(response.text)[0]} == set(heads.LANGUAGE.labels)
