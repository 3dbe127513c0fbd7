"""One head of a finished bundle is added, replaced or dropped; what the others answer is equal to the bit."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from amalgam_edge import add_head, drop_head, replace_head
from amalgam_edge.building import changing_heads
from amalgam_edge.cli import heads
from amalgam_edge.corpus import read_corpus
from amalgam_edge.errors import AmalgamError
from amalgam_edge.exporters.quantization.int8 import INT8_LADDER, quantize_to_int8
from amalgam_edge.exporters.quantization.precisions import PRECISIONS
from amalgam_edge.exporters.selection.calibration import observe_activations
from amalgam_edge.exporters.static_export import export_int8_static_student
from amalgam_edge.exporters.student_export import export_student
from amalgam_edge.models.static_student import StaticConfig, StaticStudent
from amalgam_edge.recipe.new_head import HEAD_SETTINGS
from amalgam_edge.runtime import Bundle, EdgeClassifier
from amalgam_edge.runtime.bundle import MODEL_FILES, STATIC_FILE
from amalgam_edge.runtime.manifest import write_manifest
from amalgam_edge.runtime.manifest_models import Cascade, StaticModel
from amalgam_edge.runtime.publishing import save_bundle
from amalgam_edge.runtime.text_model import TextModel
from amalgam_edge.storage.own_files import FileContent
from tests.conftest import BUNDLE_LABELS
from tests.support import tiny
from tests.support.manifests import make_label, make_manifest, make_precision, make_teacher

EVERY = {"fp32", "int8", "fp16", "w8", "q4", "int8-pq"}
BATCH_SIZES = (1, 5, 32)


@pytest.fixture(scope="module")
def teachers(tmp_path_factory, make_classifier):
    folder = tmp_path_factory.mktemp("teachers")
    many = {"problem_type": "multi_label_classification"}
    return {
        "mood": make_classifier(folder / "mood", ["calm", "cross", "glad"], seed=5),
        "mood2": make_classifier(folder / "mood2", ["glad", "sad"], architecture="distilbert", seed=6),
        "flags": make_classifier(folder / "flags", ["rude", "spam"], seed=7, **many),
    }


@pytest.fixture(scope="module")
def texts():
    return [f"{text} {number}" for number in range(4) for text in tiny.TEXTS]


@pytest.fixture(scope="module")
def options(texts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("options")
    corpus = folder / "corpus.txt"
    corpus.write_text("\n".join(texts), "utf-8")
    work = {"work": str(folder / "work")}  # scores are kept there for all tests
    return {"corpus": str(corpus), "passes": 2, "backend": "torch", "max_disagreement": 1.0, **work}


@pytest.fixture(scope="module")
def every(tmp_path_factory, torch_folder, torch_model):
    """A bundle of one head in every precision."""
    folder = tmp_path_factory.mktemp("every") / "student"
    tokenizer = AutoTokenizer.from_pretrained(torch_folder)
    tokenizer.model_max_length = 40
    tokenizer.save_pretrained(folder)
    torch_model.config.save_pretrained(folder)
    source = folder / MODEL_FILES["fp32"]
    export_student(torch_model, source)
    content = FileContent.read(folder / "tokenizer.json")
    sizes = {"max_length": 40, "pad_token_id": tokenizer.pad_token_id}
    activations = observe_activations(
        source, source, list(tiny.TEXTS), lambda path: TextModel(FileContent.read(path), content, **sizes)
    )
    quantize_to_int8(source, folder / MODEL_FILES["int8"], INT8_LADDER[0], activations)
    for name, precision in PRECISIONS.items():
        if precision.write:
            precision.write(source, folder / MODEL_FILES[name], INT8_LADDER[0], activations)
    labels = tuple(make_label(label, a=label) for label in BUNDLE_LABELS)
    precisions = {name: make_precision(file) for name, file in MODEL_FILES.items()}
    write_manifest(
        folder,
        make_manifest(
            labels=labels, precisions=precisions, teachers=(make_teacher("a", list(BUNDLE_LABELS)),), **sizes
        ),
    )
    return folder


@pytest.fixture(scope="module")
def two(every, teachers, options, tmp_path_factory):
    """The same bundle with a second head."""
    output = tmp_path_factory.mktemp("two") / "student"
    add_head(every, teachers=f"mood={teachers['mood']}", output=output, progress=False, **options)
    return output


def outputs_of(folder, precision, texts):
    """Logits and probabilities in batches of several sizes, in one order for all models."""
    bundle = Bundle.open(folder)
    model = opened(bundle, bundle.read_model(precision))
    names = ["logits", "probabilities"]
    return [batch for size in BATCH_SIZES for batch in model.outputs(texts, names, batch_size=size)]


def opened(bundle, content):
    sizes = {"max_length": bundle.manifest.max_length, "pad_token_id": bundle.manifest.pad_token_id}
    return TextModel(content, bundle.read("tokenizer.json"), threads=1, **sizes)


def assert_same_bits(before, after, texts, kept):
    """What these heads answer is the same to the bit, in all precisions and batches, logits and probabilities alike."""
    old, new = Bundle.open(before), Bundle.open(after)
    assert set(old.precisions) == set(new.precisions) == EVERY
    for precision in old.precisions:
        pairs = zip(outputs_of(before, precision, texts), outputs_of(after, precision, texts), strict=True)
        for was, now in ((was, now) for batches in pairs for was, now in zip(*batches, strict=True)):
            assert now.shape == (len(was), len(new.labels))
            for head in kept:
                columns = was[:, old.heads.columns(head)], now[:, new.heads.columns(head)]
                assert columns[0].tobytes() == columns[1].tobytes(), precision


def hidden_states(folder, texts):
    """What the first Gemm that computes logits reads in the float model, ``(n_texts, width)``."""
    bundle = Bundle.open(folder)
    model = onnx.load(folder / bundle.model_name("fp32"))
    last = next(node for node in model.graph.node if node.op_type == "Gemm" and node.output[0].startswith("logits"))
    model.graph.output.append(helper.make_tensor_value_info(last.input[0], TensorProto.FLOAT, None))
    reading = opened(bundle, FileContent(folder / "hidden.onnx", model.SerializeToString()))
    return np.concatenate([next(reading.outputs([text], [last.input[0]]))[0] for text in texts]).astype(np.float64)


def test_the_other_head_answers_the_same_to_the_bit(every, two, texts):
    assert_same_bits(every, two, texts, ["label"])
    bundle = Bundle.open(two)
    assert bundle.heads.names == ("label", "mood")
    of_label, of_mood = [f"label/{name}" for name in BUNDLE_LABELS], ["mood/calm", "mood/cross", "mood/glad"]
    assert bundle.labels == (*of_label, *of_mood)
    bundle.verify()


def test_the_new_head_is_linear_in_the_hidden_states(two, texts):
    """Its logits are W x + b for some W and b, found by least squares on half of the texts and true on the rest."""
    states = np.hstack([hidden_states(two, texts), np.ones((len(texts), 1))])
    bundle = Bundle.open(two)
    float_logits = EdgeClassifier(bundle, precision="fp32").logits(texts)[:, bundle.heads.columns("mood")]
    fitted = np.linalg.lstsq(states[:40], float_logits[:40], rcond=None)[0]
    np.testing.assert_allclose(states[40:] @ fitted, float_logits[40:], atol=1e-3)


def test_the_manifest_says_what_was_compared(every, two, texts):
    manifest = Bundle.open(two).manifest
    (change,) = manifest.changes
    assert (change.action, change.head, change.largest_difference) == ("add", "mood", 0.0)
    assert set(change.models) == EVERY
    assert change.n_texts == 64 // 5
    assert change.settings["teachers"] == [f"mood={change.settings['teachers'][0].partition('=')[2]}"]
    head = manifest.heads[1]
    assert head.calibration.n_texts == change.n_texts
    assert 0 <= head.agreement <= 1
    assert [(teacher.name, teacher.head) for teacher in manifest.teachers] == [
        ("a", "label"),
        ("mood", "mood"),
    ]
    for model in manifest.precisions.values():
        assert set(model.fidelity.heads) == {"label", "mood"}
        assert model.bytes == (two / model.file).stat().st_size
    assert set(manifest.evaluation.heads) == {"label"}


def test_the_agreement_is_with_the_teacher_on_held_out_texts(two, teachers, options):
    """One teacher's supervision is its own answer without dropout."""
    corpus = read_corpus(options["corpus"])
    held_out = corpus.take(corpus.split(500)[1])
    folder = teachers["mood"]
    tokenizer, teacher = (kind.from_pretrained(folder) for kind in (AutoTokenizer, AutoModelForSequenceClassification))
    inputs = [tokenizer(text, return_tensors="pt", return_token_type_ids=False) for text in held_out]
    expected = [int(teacher.eval()(**one).logits.argmax()) for one in inputs]
    bundle = Bundle.open(two)
    given = EdgeClassifier(bundle, precision="fp32").logits(held_out)[:, bundle.heads.columns("mood")].argmax(axis=1)
    assert bundle.manifest.heads[1].agreement == pytest.approx(np.mean(given == expected))


def test_the_config_follows(two):
    config = json.loads((two / "config.json").read_text("utf-8"))
    labels = Bundle.open(two).labels
    assert config["id2label"] == {str(k): label for k, label in enumerate(labels)}
    assert config["label2id"] == {label: k for k, label in enumerate(labels)}
    assert config["problem_type"] == "multi_label_classification"


def test_again_and_again(two, teachers, options, texts, tmp_path):
    """A third head, which any number of labels may hold in; the second replaced in its place; the first dropped."""
    texts = texts[:20]
    three, other, last, only = (tmp_path / name for name in ("three", "other", "last", "only"))
    add_head(two, teachers=f"flags={teachers['flags']}", output=three, progress=False, **options)
    assert_same_bits(two, three, texts, ["label", "mood"])
    replace_head(three, "mood", teachers=f"m2={teachers['mood2']}", output=other, progress=False, **options)
    assert Bundle.open(other).heads.names == ("label", "mood", "flags")
    assert Bundle.open(other).heads["mood"].labels == ("glad", "sad")
    assert_same_bits(three, other, texts, ["label", "flags"])
    drop_head(other, "label", output=last, progress=False, corpus=options["corpus"])
    assert_same_bits(other, last, texts, ["mood", "flags"])
    drop_head(last, "mood", output=only, progress=False)
    assert_same_bits(last, only, texts, ["flags"])
    assert Bundle.open(only).labels == ("rude", "spam")
    assert [change.action for change in Bundle.open(only).manifest.changes] == ["add", "add", "replace", "drop", "drop"]
    assert EdgeClassifier.from_pretrained(only)(texts)[0].labels is not None
    assert {teacher.name for teacher in Bundle.open(only).manifest.teachers} == {"flags"}


def test_several_teachers_teach_a_head_together(every, teachers, options, texts, tmp_path):
    both = [f"{name}={teachers[name]}" for name in ("mood", "mood2")]
    bundle = add_head(every, teachers=both, head="mood", output=tmp_path / "o", progress=False, **options)
    assert bundle.heads["mood"].labels == ("calm", "cross", "glad", "sad")


def test_scores_are_reused(every, teachers, options, invoke, tmp_path):
    output = tmp_path / "other"
    arguments = ["heads", "add", every, "--teacher", f"mood={teachers['mood']}", "--corpus", options["corpus"]]
    arguments += ["--passes", "2", "--backend", "torch", "--output", output, "--max-disagreement", "1"]
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    assert "head 'mood' added" in result.output
    stores = sorted((tmp_path / "other.work" / "scores").iterdir())
    times = [path.stat().st_mtime_ns for path in sorted(stores[0].rglob("*.parquet"))]
    shutil.rmtree(output)
    assert invoke(*arguments).exit_code == 0
    assert [path.stat().st_mtime_ns for path in sorted(stores[0].rglob("*.parquet"))] == times != []


def test_heads_are_listed(two, invoke):
    result = invoke("heads", "list", two)
    assert result.exit_code == 0
    assert "mood" in result.output
    assert "equal to the bit" in result.output
    assert "equal to the bit" in invoke("inspect", two).output


def test_a_difference_refuses_the_change_and_leaves_nothing(every, teachers, options, tmp_path, monkeypatch):
    monkeypatch.setattr(changing_heads, "largest_difference", lambda *models: 0.25)
    folder = shutil.copytree(every, tmp_path / "student")
    before = (folder / "amalgam.json").read_bytes()
    with pytest.raises(AmalgamError, match=r"would change, by up to 0\.25, so the bundle stays as it was"):
        add_head(folder, teachers=f"mood={teachers['mood']}", progress=False, **options)
    assert (folder / "amalgam.json").read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} <= {"student", "student.work"}
    Bundle.open(folder).verify()


def test_an_interrupted_change_leaves_the_old_bundle(every, teachers, options, tmp_path, monkeypatch):
    def interrupt(*arguments, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr(changing_heads, "write_manifest", interrupt)
    folder = shutil.copytree(every, tmp_path / "student")
    with pytest.raises(KeyboardInterrupt):
        add_head(folder, teachers=f"mood={teachers['mood']}", progress=False, **options)
    Bundle.open(folder).verify()
    assert Bundle.open(folder).heads.names == ("label",)


def test_in_place(every, teachers, options, texts, tmp_path):
    folder = shutil.copytree(every, tmp_path / "student")
    add_head(folder, teachers=str(teachers["mood"]), progress=False, **options)
    assert Bundle.open(folder).heads.names == ("label", "mood")
    drop_head(folder, "mood", progress=False)
    bundle = Bundle.open(folder)
    assert bundle.labels == Bundle.open(every).labels
    was, now = (EdgeClassifier(each).logits(texts) for each in (Bundle.open(every), bundle))
    assert was.tobytes() == now.tobytes()
    assert {path.name for path in tmp_path.iterdir()} <= {"student", "student.work"}


def test_a_damaged_bundle_is_refused(every, teachers, options, tmp_path):
    folder = shutil.copytree(every, tmp_path / "student")
    with (folder / "onnx/model_quantized.onnx").open("ab") as file:
        file.write(b"x")
    with pytest.raises(AmalgamError, match="damaged or changed"):
        add_head(folder, teachers=str(teachers["mood"]), progress=False, **options)
    assert Bundle.open(folder).heads.names == ("label",)


@pytest.mark.parametrize(
    ("command", "fault"),
    [
        (("add", "--name", "label"), "head 'label' is there already; replace it"),
        (("add", "--name", "a/b"), "'a/b' cannot be the name of a head"),
        (("replace", "topic"), "no head 'topic'; there are label"),
        (("add", "--method", "dfa"), "trains the encoder too"),
        (("add", "--corpus", "/nowhere.txt"), "nowhere.txt"),
    ],
)
def test_mistakes_are_told_before_any_work(every, teachers, options, mistake, command, fault, tmp_path):
    action, *more = command
    before = (every / "amalgam.json").read_bytes()
    corpus = () if "--corpus" in more else ("--corpus", options["corpus"])
    arguments = [more.pop(0)] if action == "replace" else []
    output = tmp_path / "o"
    assert fault in mistake(
        "heads", action, every, *arguments, "--teacher", teachers["mood"], *corpus, *more, "--output", output
    )
    assert (every / "amalgam.json").read_bytes() == before
    assert not output.exists()


def test_the_command_line_has_all_settings_of_a_new_head():
    own = {"held_out", "max_disagreement", "output"}  # whose defaults are the bundle's
    assert set(HEAD_SETTINGS) == {*heads._OF_A_NEW_HEAD, *own}


def test_mistakes_of_a_drop(every, mistake):
    assert "no head 'topic'; there are label" in mistake("heads", "drop", every, "topic")
    assert "'label' is its only head; replace it instead" in mistake("heads", "drop", every, "label")


def test_teachers_of_two_kinds_cannot_share_a_head(every, teachers, options, tmp_path):
    both = [f"{name}={teachers[name]}" for name in ("mood", "flags")]
    with pytest.raises(AmalgamError, match="cannot share a head"):
        add_head(every, teachers=both, head="x", output=tmp_path / "o", progress=False, **options)
    assert not (tmp_path / "o").exists()


def test_a_teacher_called_like_that_of_another_head_is_refused(every, teachers, options):
    with pytest.raises(AmalgamError, match="a teacher 'a' taught head 'label'"):
        add_head(every, teachers=f"a={teachers['mood']}", head="x", **options)


def test_several_teachers_need_a_name(every, teachers, options):
    with pytest.raises(AmalgamError, match="name it with --name"):
        add_head(every, teachers=[str(teachers["mood"]), str(teachers["mood2"])], **options)


def test_settings_of_the_encoder_are_of_no_use(every, teachers, options):
    with pytest.raises(AmalgamError, match="epochs: of no use here"):
        add_head(every, teachers=str(teachers["mood"]), epochs=3, **options)


def test_a_bundle_without_its_float_model_is_refused_with_the_remedy(every, teachers, options, tmp_path):
    folder = shutil.copytree(every, tmp_path / "student")
    (folder / "onnx/model.onnx").unlink()
    with pytest.raises(
        AmalgamError,
        match=r"holds no float model to fit a head on \(models: int8, fp16, w8, q4, int8-pq\); build it again",
    ):
        add_head(folder, teachers=str(teachers["mood"]), **options)


def test_a_precision_that_answers_the_new_head_otherwise_is_not_shipped_unsaid(every, teachers, options, tmp_path):
    """The default cannot be left out, so the change is refused."""
    strict = {**options, "max_disagreement": 0.0}
    try:
        add_head(every, teachers=str(teachers["mood"]), output=tmp_path / "o", progress=False, **strict)
    except AmalgamError as error:
        assert "it is the default; allow more (--max-disagreement)" in str(error)
    else:
        fidelity = Bundle.open(tmp_path / "o").manifest.precisions["int8"].fidelity
        assert fidelity.heads["mood"] == 1.0


@pytest.fixture(scope="module")
def cascaded(every, tokenizer, tmp_path_factory):
    """A bundle of the float model alone, behind a static student that is always sure."""
    folder = tmp_path_factory.mktemp("cascaded") / "student"
    save_bundle(Bundle.open(every), folder, precisions="fp32")
    config = StaticConfig(vocab_size=len(tokenizer), width=8, num_labels=4, pad_token_id=tokenizer.pad_token_id)
    torch.manual_seed(3)
    export_int8_static_student(StaticStudent(config).eval(), folder / STATIC_FILE, Bundle.open(folder).heads)
    static = StaticModel(STATIC_FILE, 1, 8, threshold=0.0, agreement=1.0, share=1.0)
    write_manifest(folder, replace(Bundle.open(folder).manifest, cascade=Cascade(0.0, 10, (), static)))
    return folder


def test_the_static_student_of_a_cascade_gets_the_head_too(cascaded, teachers, options, texts, tmp_path):
    bundle = add_head(cascaded, teachers=f"mood={teachers['mood']}", output=tmp_path / "o", progress=False, **options)
    assert bundle.cascade.share > 0
    assert bundle.manifest.cascade.n_texts == len(texts) // 5
    assert set(bundle.manifest.changes[0].models) == {"fp32", "cascade"}
    before, after = (opened(each, each.read(STATIC_FILE)).run(texts)[0] for each in (Bundle.open(cascaded), bundle))
    assert after[:, :4].tobytes() == before.tobytes()
    encoder = opened(bundle, bundle.read_model("fp32")).run(texts)[0]
    same = after[:, 4:].argmax(axis=1) == encoder[:, 4:].argmax(axis=1)
    assert same.mean() > 0.7  # it learned from the encoder's answers
    dropped = drop_head(bundle, "mood", output=tmp_path / "d", corpus=options["corpus"], progress=False)
    assert opened(dropped, dropped.read(STATIC_FILE)).run(texts)[0].tobytes() == before.tobytes()


def test_a_cascade_is_left_out_where_its_threshold_cannot_be_measured(cascaded, teachers, options, invoke, tmp_path):
    add_head(cascaded, teachers=f"mood={teachers['mood']}", output=tmp_path / "o", progress=False, **options)
    result = invoke("heads", "drop", tmp_path / "o", "mood")
    assert result.exit_code == 0, result.output
    assert "no cascade any more" in result.output
    bundle = Bundle.open(tmp_path / "o")
    assert bundle.manifest.cascade is None
    assert STATIC_FILE not in bundle.manifest.files


def test_a_torch_student_is_left_out_and_said_so(cascaded, teachers, options, torch_folder, invoke, tmp_path):
    folder = shutil.copytree(cascaded, tmp_path / "student")
    shutil.copy(torch_folder / "model.safetensors", folder)
    write_manifest(folder, replace(Bundle.open(folder).manifest, cascade=None))
    arguments = ["--teacher", f"mood={teachers['mood']}", "--corpus", options["corpus"], "--work", options["work"]]
    result = invoke("heads", "add", folder, *arguments, "--passes", "2", "--backend", "torch")
    assert result.exit_code == 0, result.output
    assert "model.safetensors is left out" in result.output
    assert "model.safetensors" not in Bundle.open(folder).manifest.files
    assert "labels are called otherwise now" in " ".join(result.output.split())


def test_a_bundle_of_the_hub_needs_an_output(every, teachers, options):
    of_hub = replace(Bundle.open(every), hub=SimpleNamespace(repository="owner/name"))
    for call in (
        lambda: add_head(of_hub, teachers=str(teachers["mood"]), **options),
        lambda: replace_head(of_hub, "label", teachers=str(teachers["mood"]), **options),
        lambda: drop_head(of_hub, "label"),
    ):
        with pytest.raises(AmalgamError, match=r"owner/name: a bundle of the Hub is not replaced; .*\(--output\)"):
            call()
