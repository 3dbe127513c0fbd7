"""The page in headless Chromium: on the server, in the browser, as files on a plain web host, and offline."""

import csv
import functools
import http.server
import io
import json
import re
import shutil
import subprocess
import threading
from pathlib import Path

import httpx
import pytest

from amalgam_edge.browser import libraries, site
from amalgam_edge.errors import AmalgamError
from amalgam_edge.runtime import EdgeClassifier
from amalgam_edge.runtime.bundle import Bundle
from tests.support import heads, tiny

pytestmark = pytest.mark.serving

WEB = Path(__file__).parents[1] / "web"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
TEXTS = [*tiny.TEXTS[:20], 'said "no", twice', "=cmd()", "Straße 猫 👩‍🚀", "chess and maps of the night sky " * 30]

NEEDS_CHROMIUM = [
    pytest.mark.skipif(not shutil.which("node"), reason="no node here"),
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium here"),
    pytest.mark.skipif(
        not (WEB / "node_modules/playwright-core").is_dir(), reason="playwright-core is not installed: make web"
    ),
]


def in_chromium(test):
    for mark in NEEDS_CHROMIUM:
        test = mark(test)
    return test


@pytest.fixture(scope="module", autouse=True)
def downloaded_libraries(tmp_path_factory):
    """Download the libraries into a temporary cache folder."""
    folder = tmp_path_factory.mktemp("libraries")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(libraries, "user_cache_path", lambda name: folder)
        patch.setenv("XDG_CACHE_HOME", str(folder))
        try:
            patch.setenv("AMALGAM_WEB_LIBRARIES", str(libraries.get_libraries()))
        except AmalgamError as error:
            pytest.skip(f"no npm registry: {error}")
        yield


def visit(url, where, tmp_path, *more):
    """What tests/web/page.mjs reads off the page."""
    texts = tmp_path / "texts.json"
    texts.write_text(json.dumps(TEXTS))
    command = ["node", str(WEB / "page.mjs"), CHROMIUM, url, str(texts), where, str(tmp_path / "shot"), *more]
    ran = subprocess.run(command, cwd=WEB, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


@pytest.fixture(scope="module")
def exact_folder(tmp_path_factory, bundle_folder):
    """The bundle with its float model alone: int8 answers of a random model move with the texts that run beside it."""
    folder = shutil.copytree(bundle_folder, tmp_path_factory.mktemp("exact") / "exact")
    manifest = json.loads((folder / "amalgam.json").read_text())
    del manifest["precisions"]["int8"]
    (folder / "amalgam.json").write_text(json.dumps({**manifest, "default_precision": "fp32"}))
    return folder


def check_page(seen):
    """The page has no errors, loads nothing from other origins, and fits a narrow screen."""
    assert seen["faults"] == seen["elsewhere"] == seen["unnamed"] == []
    assert not seen["wide"]
    assert seen["empty"] == "Type or paste a text first."
    assert [row[2] for row in seen["many"]["rows"]] == [text.strip() for text in TEXTS]


def check_one(seen, folder):
    """The bars show the classifier's scores, as far as they are rounded."""
    (answer,) = EdgeClassifier.from_pretrained(folder, threads=1)(TEXTS[:1], all_scores=True)
    shown = {label: float(score.split()[0]) / 100 for label, _, score in seen["one"]["bars"]}
    assert [*shown] == [*answer.scores]
    assert shown == pytest.approx(answer.scores, abs=6e-4)


def check_many(seen, folder):
    """The table and the downloaded file hold the classifier's answers."""
    expected = EdgeClassifier.from_pretrained(folder, threads=1)([t.strip() for t in TEXTS], all_scores=True)
    for row, answer in zip(seen["many"]["rows"], expected, strict=True):
        assert row[0] == answer.label
        assert float(row[1].split()[0]) / 100 == pytest.approx(answer.score, abs=6e-4)
    table = [*csv.DictReader(io.StringIO(seen["csv"].removeprefix("\ufeff")))]
    assert [row["label"] for row in table] == [answer.label for answer in expected]
    assert [row["text"] for row in table] == [text.strip().replace("=cmd()", "'=cmd()") for text in TEXTS]
    for row, answer in zip(table, expected, strict=True):
        assert {label: float(row[label]) for label in answer.scores} == pytest.approx(answer.scores, abs=1e-4)


@in_chromium
def test_the_page_shows_the_same_on_the_server_and_in_the_browser(serve, exact_folder, tmp_path):
    server = serve(f"tiny={exact_folder}", "--in-browser")
    seen = {}
    for where in ("server", "browser"):
        seen[where] = visit(server.url, where, tmp_path)
        check_page(seen[where])
        check_one(seen[where], exact_folder)
        check_many(seen[where], exact_folder)
    assert [row[0] for row in seen["server"]["many"]["rows"]] == [row[0] for row in seen["browser"]["many"]["rows"]]
    assert "on the server" in seen["server"]["one"]["status"]
    assert "in this browser" in seen["browser"]["one"]["status"]
    assert any(re.match(r"Loading the model: [\d.]+ of \d+ MB", text) for text in seen["browser"]["progress"])
    assert seen["browser"]["isolated"]  # so that WebAssembly has threads


def shown_percent(score):
    return pytest.approx(float(score.removesuffix(" %")) / 100, abs=6e-4)


def check_heads_of_one(shown, model, logits):
    """Each head shows what it answers with, and all of its labels as bars."""
    for head, of_head in zip(model, shown["heads"], strict=True):
        (row,) = heads.ranked(head, logits[head.name], heads.scores_of(head, logits[head.name]))
        (answers,) = heads.labels_that_hold(head, logits[head.name])
        assert [label for label, _, _ in of_head["bars"]] == [*row]
        assert [*row.values()] == [shown_percent(score) for _, score, _ in of_head["bars"]]
        assert [label for label, _, mark in of_head["bars"] if mark == "held"] == answers
        title = of_head["answer"] if len(model) > 1 else shown["title"]
        assert [label in title for label in answers] == [True] * len(answers)
        assert (title == "No label is likely enough") == (not answers)
        assert of_head["name"] == (head.name if len(model) > 1 else None)
        assert len(model) == 1 or head.name in of_head["caption"]


def check_table_of_heads(many, model, logits):
    """A column for each head, with the labels that it answers with."""
    assert many["columns"] == ["Text", *model.names]
    for column, head in enumerate(model, 1):
        ranked = heads.ranked(head, logits[head.name], heads.scores_of(head, logits[head.name]))
        answers = heads.labels_that_hold(head, logits[head.name])
        for row, scores, labels in zip(many["rows"], ranked, answers, strict=True):
            assert [label for label, _ in row[column]] == (labels or ["–"])
            wanted = [scores[label] for label in labels] or [max(scores.values())]
            assert wanted == [shown_percent(score) for _, score in row[column]]
    assert many["named"] == [[None, *model.names]] * len(TEXTS)


def check_csv_of_heads(table, model, logits):
    """A column for each head, as ``amalgam-edge predict`` writes it, and one for each label."""
    names = {head.name: (head.name, f"{head.name}_score") for head in model}
    if len(model) == 1:
        names = {head.name: ("labels", "label_score") for head in model}
    for head in model:
        scores = heads.scores_of(head, logits[head.name])
        answers = heads.labels_that_hold(head, logits[head.name])
        answer_column, score_column = names[head.name]
        for row, of_text, labels in zip(table, scores, answers, strict=True):
            prefix = f"{head.name}/" if len(model) > 1 else ""
            found = [float(row[f"{prefix}{label}"]) for label in head.labels]
            assert found == pytest.approx(of_text.tolist(), abs=1e-4)
            given = [of_text[head.labels.index(label)] for label in labels]
            if head.activation == "softmax":
                assert row[answer_column] == (labels[0] if labels else "")
                assert float(row[score_column]) == pytest.approx(of_text.max(), abs=1e-4)
                continue
            has_separator = any(";" in label for label in labels)
            assert row[answer_column] == (
                json.dumps(labels, separators=(",", ":")) if has_separator else ";".join(labels)
            )
            assert [*map(float, filter(None, row[f"{score_column}s"].split(";")))] == pytest.approx(given, abs=1e-4)


@in_chromium
@pytest.mark.parametrize("name", ["one-sigmoid", "three", "six"])
def test_the_page_shows_the_heads_side_by_side(serve, heads_folder, tmp_path, name):
    folder, model, texts = heads_folder(name), heads.ALL[name], [text.strip() for text in TEXTS]
    logits, truncated = heads.logits_of(folder, texts)
    by_head = heads.by_head(model, logits)
    server = serve(f"tiny={folder}", "--in-browser")
    for where in ("server", "browser"):
        seen = visit(server.url, where, tmp_path)
        assert seen["faults"] == seen["elsewhere"] == seen["unnamed"] == []
        assert not seen["wide"]
        check_heads_of_one(seen["one"], model, {head: rows[:1] for head, rows in by_head.items()})
        check_heads_of_one(seen["last"], model, {head: rows[-1:] for head, rows in by_head.items()})
        if len(model) > 1:
            check_table_of_heads(seen["many"], model, by_head)
        table = [*csv.DictReader(io.StringIO(seen["csv"].removeprefix("\ufeff")))]
        check_csv_of_heads(table, model, by_head)
        check_cut(seen, table, truncated)


def check_cut(seen, table, truncated):
    """A text whose end was not read is marked wherever the page shows it."""
    assert truncated[-1]
    assert not truncated[0]
    assert seen["one"]["cut"] is None
    assert "not read" not in seen["one"]["status"]
    assert seen["last"]["cut"] == "The end of this text was not read: the model reads 40 tokens of a text."
    assert seen["last"]["status"].endswith(" Its end was not read.")
    assert seen["many"]["cut"] == ["end not read" if cut else None for cut in truncated]
    assert seen["many"]["status"].endswith(f" The end of {sum(truncated)} was not read.")
    assert [row["truncated"] for row in table] == ["true" if cut else "false" for cut in truncated]


@in_chromium
def test_the_page_tells_which_texts_were_cut(serve, exact_folder, tmp_path):
    server = serve(f"tiny={exact_folder}", "--in-browser")
    _, truncated = heads.logits_of(exact_folder, [text.strip() for text in TEXTS])
    for where in ("server", "browser"):
        seen = visit(server.url, where, tmp_path)
        check_cut(seen, [*csv.DictReader(io.StringIO(seen["csv"].removeprefix("\ufeff")))], truncated)


@in_chromium
def test_an_exported_page_works_on_any_web_host_and_then_offline(bundle_folder, tmp_path):
    output = tmp_path / "site"
    site.export_site(Bundle.open(bundle_folder), output)
    quiet = functools.partial(
        type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None}), directory=output
    )
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), quiet) as host:
        threading.Thread(target=host.serve_forever, daemon=True).start()
        seen = visit(f"http://127.0.0.1:{host.server_port}/", "browser", tmp_path, "offline")
        host.shutdown()
    check_page(seen)
    check_one(seen, bundle_folder)  # its int8 model's
    assert [row[0] for row in seen["again"]["rows"]] == [row[0] for row in seen["many"]["rows"]]


def test_with_api_keys_the_page_asks_for_one(serve, bundle_folder, tmp_path):
    keys = tmp_path / "keys.txt"
    keys.write_text("a-key")
    server = serve(f"tiny={bundle_folder}", "--in-browser", "--api-key-file", keys)
    assert httpx.get(f"{server.url}/config.json").json()["key"] is True
    assert httpx.get(f"{server.url}/libraries/tokenizers.min.mjs").status_code == 200
    assert httpx.get(f"{server.url}/bundles/tiny/model.onnx").status_code == 401
    key = {"authorization": "Bearer a-key"}
    model = httpx.get(f"{server.url}/bundles/tiny/model.onnx", headers=key)
    assert model.status_code == 200
    assert model.headers["cache-control"] == "private, max-age=31536000, immutable"


def test_only_the_model_and_its_tokenizer_can_be_downloaded(serve, bundle_folder):
    server = serve(f"tiny={bundle_folder}", "--in-browser")
    for name in ("amalgam.json", "config.json", "..%2famalgam.json", "onnx%2fmodel.onnx", "%2e%2e/amalgam.json"):
        assert httpx.get(f"{server.url}/bundles/tiny/{name}").status_code == 404
    for name in ("package.json", "..%2f..%2fetc%2fpasswd"):
        assert httpx.get(f"{server.url}/libraries/{name}").status_code == 404
    assert (
        httpx.get(f"{server.url}/bundles/tiny/tokenizer.json").content
        == (bundle_folder / "tokenizer.json").read_bytes()
    )


def test_the_page_has_a_content_security_policy(server):
    page = httpx.get(server.url)
    policy = dict(part.split(" ", 1) for part in page.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == "'self' 'wasm-unsafe-eval'"
    assert policy["frame-ancestors"] == "'none'"
    assert not re.search(r"<script(?![^>]*src=)|\son\w+=|style=|https?://", page.text)


def test_without_the_libraries_models_run_on_the_server_only(server):
    assert httpx.get(f"{server.url}/config.json").json()["browser"] is False
    assert httpx.get(f"{server.url}/libraries/tokenizers.min.mjs").status_code == 404
    assert httpx.get(f"{server.url}/bundles/tiny/model.onnx").status_code == 404


def test_the_service_worker_s_cache_has_the_name_of_the_pinned_libraries(monkeypatch):
    monkeypatch.delenv("AMALGAM_WEB_LIBRARIES")
    assert f'"amalgam-edge-{libraries._folder().name}"' in site.read_page_file("offline.js").decode()


def test_only_an_exported_page_is_replaced_and_only_on_request(bundle_folder, tmp_path):
    bundle = Bundle.open(bundle_folder)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    with pytest.raises(AmalgamError, match="no exported page"):
        site.export_site(bundle, tmp_path / "mine", overwrite=True)
    site.export_site(bundle, tmp_path / "site")
    with pytest.raises(AmalgamError, match="--overwrite"):
        site.export_site(bundle, tmp_path / "site")
    assert site.export_site(bundle, tmp_path / "site", overwrite=True) > 14e6
