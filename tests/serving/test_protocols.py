"""Both protocols through their usual clients, compared with the classifier itself."""

import httpx
import numpy as np
import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError

from amalgam_edge.runtime import EdgeClassifier
from tests.support import heads, tiny

pytestmark = pytest.mark.serving

InferenceServerException = pytest.importorskip("tritonclient.utils").InferenceServerException

TEXTS = [*tiny.TEXTS[:6], "👩‍🚀 猫 Straße", " ", "chess and maps of the night sky " * 50]


@pytest.fixture(scope="module")
def expected(bundle_folder):
    classifier = EdgeClassifier.from_pretrained(bundle_folder, precision="fp32", threads=1)
    return classifier(TEXTS, all_scores=True)


@pytest.fixture
def online(monkeypatch):
    """Take Hugging Face's client out of its offline mode, in which it refuses local addresses as well."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


@pytest.mark.usefixtures("online")
def test_hugging_face_s_client_gets_every_label(server, expected):
    client = InferenceClient(base_url=server.url)
    for text, answer in zip(TEXTS, expected, strict=True):
        found = {element.label: element.score for element in client.text_classification(text)}
        assert found == pytest.approx(answer.scores, abs=1e-5)
        assert [*found] == [*answer.scores]


@pytest.mark.usefixtures("online")
def test_hugging_face_s_client_may_name_a_model_and_top_k(server, expected):
    client = InferenceClient(base_url=f"{server.url}/models/other")
    found = client.text_classification(TEXTS[0], top_k=2)
    assert [element.label for element in found] == [*expected[0].scores][:2]


@pytest.mark.usefixtures("online")
def test_hugging_face_s_client_may_ask_for_other_functions(server, bundle_folder):
    client = InferenceClient(base_url=f"{server.url}/predict")
    logits = EdgeClassifier.from_pretrained(bundle_folder, precision="fp32", threads=1).logits(TEXTS[:1])[0]
    for function, wanted in (("none", logits), ("sigmoid", 1 / (1 + np.exp(-logits)))):
        found = client.text_classification(TEXTS[0], function_to_apply=function)
        assert [element.score for element in found] == pytest.approx(sorted(wanted, reverse=True), abs=1e-4)


@pytest.mark.usefixtures("online")
def test_hugging_face_s_client_gets_the_error_message(server):
    client = InferenceClient(base_url=f"{server.url}/models/none")
    with pytest.raises(HfHubHTTPError, match="no model of that name; there are tiny, other"):
        client.text_classification("x")


def test_a_batch_is_answered_in_order(server, expected):
    rows = httpx.post(server.url, json={"inputs": TEXTS}).json()
    assert [row[0]["label"] for row in rows] == [answer.label for answer in expected]
    for row, answer in zip(rows, expected, strict=True):
        assert {element["label"]: element["score"] for element in row} == pytest.approx(answer.scores, abs=1e-5)


@pytest.fixture(scope="module")
def triton(server):
    import tritonclient.http as http

    client = http.InferenceServerClient(server.url.removeprefix("http://"))
    yield http, client
    client.close()


def input_tensor(http, texts, *, binary, column=False):
    shape = [len(texts), 1] if column else [len(texts)]
    tensor = http.InferInput("text", shape, "BYTES")
    tensor.set_data_from_numpy(
        np.array([text.encode() for text in texts], dtype=object).reshape(shape), binary_data=binary
    )
    return tensor


def test_triton_s_client_finds_the_server_and_its_models(triton, server):
    _, client = triton
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("tiny")
    assert not client.is_model_ready("none")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data", "model_configuration"]
    metadata = client.get_model_metadata("tiny")
    assert metadata["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1]}]
    assert client.get_model_metadata("tiny", metadata["versions"][0]) == metadata


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
@pytest.mark.parametrize("column", [True, False])
def test_triton_s_client_gets_tensors(triton, expected, binary_in, binary_out, column):
    http, client = triton
    names = ("label", "score", "probabilities", "truncated")
    outputs = [http.InferRequestedOutput(name, binary_data=binary_out) for name in names]
    result = client.infer(
        "tiny", [input_tensor(http, TEXTS, binary=binary_in, column=column)], outputs=outputs, request_id="7"
    )
    labels = [label.decode() if isinstance(label, bytes) else label for label in result.as_numpy("label").tolist()]
    assert labels == [answer.label for answer in expected]
    np.testing.assert_allclose(result.as_numpy("score"), [answer.score for answer in expected], atol=1e-5)
    names = client.get_model_metadata("tiny")["parameters"]["labels"]
    table = [[answer.scores[name] for name in names] for answer in expected]
    np.testing.assert_allclose(result.as_numpy("probabilities"), table, atol=1e-5)
    assert result.as_numpy("truncated").tolist() == [answer.truncated for answer in expected]
    assert result.get_response()["id"] == "7"


def test_triton_s_client_may_name_no_output(triton, expected):
    http, client = triton
    result = client.infer("other", [input_tensor(http, TEXTS, binary=True)])
    np.testing.assert_allclose(result.as_numpy("score"), [answer.score for answer in expected], atol=1e-5)


def test_triton_s_client_gets_the_error_message(triton):
    http, client = triton
    with pytest.raises(InferenceServerException, match="no output 'logit'"):
        client.infer("tiny", [input_tensor(http, ["x"], binary=True)], outputs=[http.InferRequestedOutput("logit")])
    with pytest.raises(InferenceServerException, match="no version of that name"):
        client.infer("tiny", [input_tensor(http, ["x"], binary=True)], model_version="7")


def test_info_tells_what_is_served(server, bundle_folder):
    info = httpx.get(f"{server.url}/info").json()
    assert [model["name"] for model in info["models"]] == ["tiny", "other"]
    assert info["models"][0]["precision"] == "fp32"
    assert info["models"][0]["labels"] == ["games", "science", "net", "Straße & 猫"]
    assert info["limits"] == {
        "body_bytes": 4_000_000,
        "texts": 1024,
        "characters": 100_000,
        "queue": 4096,
        "seconds": 10.0,
        "wait_ms": 2.0,
        "batch_tokens": 2048,
        "connections": 2048,
        "head_bytes": 32_768,
        "headers": 100,
        "inflight_bytes": 32_000_000,
        "receive_seconds": 30.0,
        "send_seconds": 30.0,
        "idle_seconds": 75.0,
    }


def test_the_api_description_has_a_schema_for_each_request(server):
    document = httpx.get(f"{server.url}/openapi.json").json()
    for path in ("/", "/predict", "/models/{name}", "/v2/models/{name}/infer"):
        schema = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert schema["type"] == "object"


def test_metrics_count_texts_and_requests(server):
    before = server.metric("amalgam_texts_total", model="other")
    httpx.post(f"{server.url}/models/other", json={"inputs": ["a", "b", "c"]})
    assert server.metric("amalgam_texts_total", model="other") == before + 3
    assert server.metric("amalgam_request_seconds_count", path="/models/{name}") > 0
    assert server.metric("amalgam_queue_texts", model="other") == 0
    n_bad = server.metric("amalgam_requests_total", path="/predict", status="422")
    httpx.post(f"{server.url}/predict", json={"inputs": 3})
    assert server.metric("amalgam_requests_total", path="/predict", status="422") == n_bad + 1


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
@pytest.mark.parametrize("binary", [True, False])
def test_triton_s_client_may_compress_requests_and_ask_for_compressed_responses(triton, expected, algorithm, binary):
    http, client = triton
    result = client.infer(
        "tiny",
        [input_tensor(http, TEXTS, binary=binary)],
        outputs=[http.InferRequestedOutput("score", binary_data=binary)],
        request_compression_algorithm=algorithm,
        response_compression_algorithm=algorithm,
    )
    np.testing.assert_allclose(result.as_numpy("score"), [answer.score for answer in expected], atol=1e-5)


def test_triton_s_client_reads_the_index_and_configurations(triton):
    _, client = triton
    index = client.get_model_repository_index()
    version = client.get_model_metadata("tiny")["versions"][0]
    assert index == [{"name": name, "version": version, "state": "READY", "reason": ""} for name in ("tiny", "other")]
    config = client.get_model_config("tiny")
    assert config["name"] == "tiny"
    assert config["input"] == [{"name": "text", "data_type": "TYPE_STRING", "dims": [-1]}]
    assert config["output"][2] == {"name": "probabilities", "data_type": "TYPE_FP32", "dims": [-1, 4]}
    assert client.get_model_config("tiny", version) == config
    with pytest.raises(InferenceServerException, match="no model of that name"):
        client.get_model_config("none")


@pytest.mark.parametrize(
    ("body", "status"), [(b"", 200), (b'{"ready": true}', 200), (b"[]", 422), (b"{", 422), (b'{"ready": 1}', 422)]
)
def test_the_index_reads_its_request(server, body, status):
    assert httpx.post(f"{server.url}/v2/repository/index", content=body).status_code == status


def test_half_an_emoji_fails_no_other_text(server):
    whole, mark = httpx.post(server.url, json={"inputs": ["cut ?", "x"]}).json(), "\ufeff"
    for body in (r'{"inputs": ["cut \ud83d", "x"]}', mark + r'{"inputs": ["cut \ud83d", "x"]}'):
        answer = httpx.post(server.url, content=body.encode(), headers={"content-encoding": "Identity"})
        assert answer.json() == whole
    tensor = r'{"name": "text", "shape": [2], "datatype": "BYTES", "data": ["cut \ud83d", "x"]}'
    answer = httpx.post(
        f"{server.url}/v2/models/tiny/infer", content=f'{mark}{{"id": "\\ud83d", "inputs": [{tensor}]}}'.encode()
    )
    assert answer.json()["outputs"][0]["data"] == [row[0]["label"] for row in whole]


@pytest.mark.usefixtures("online")
def test_clients_choose_a_head_by_address_and_by_output(serve, heads_folder):
    """Neither client has an argument for heads: one has the address, the other the names of outputs."""
    http = pytest.importorskip("tritonclient.http")
    server = serve(f"tiny={heads_folder('three')}")
    logits, _ = heads.logits_of(heads_folder("three"), TEXTS)
    by_head = heads.by_head(heads.THREE, logits)
    for head in heads.THREE:
        wanted = heads.ranked(head, by_head[head.name], heads.scores_of(head, by_head[head.name]))
        client = InferenceClient(base_url=f"{server.url}/models/tiny?head={head.name}")
        for text, scores in zip(TEXTS, wanted, strict=True):
            found = {element.label: element.score for element in client.text_classification(text, top_k=2)}
            assert found == pytest.approx(dict([*scores.items()][:2]), abs=1e-5)
    with pytest.raises(HfHubHTTPError, match="no head 'mood'; there are topic, priority, safety"):
        InferenceClient(base_url=f"{server.url}/?head=mood").text_classification("x")
    triton = http.InferenceServerClient(server.url.removeprefix("http://"))
    outputs = [http.InferRequestedOutput(name, binary_data=True) for name in ("safety.holds", "topic.label")]
    result = triton.infer("tiny", [input_tensor(http, TEXTS, binary=True)], outputs=outputs)
    scores = 1 / (1 + np.exp(-by_head["safety"]))
    np.testing.assert_array_equal(result.as_numpy("safety.holds"), scores >= heads.SAFETY.thresholds)
    best = [heads.TOPIC.labels[k].encode() for k in by_head["topic"].argmax(axis=1)]
    assert result.as_numpy("topic.label").tolist() == best
    triton.close()
