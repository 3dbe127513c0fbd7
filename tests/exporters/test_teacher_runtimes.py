"""Exported teachers against torch, pass by pass: architecture × runtime × degree of optimisation."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from amalgam_edge.dropout.masks import DROPOUT_OFF
from amalgam_edge.dropout.sites import LiveDropout
from amalgam_edge.errors import AmalgamError
from amalgam_edge.exporters import teacher_export
from amalgam_edge.exporters.teacher_export import export_teacher
from amalgam_edge.exporters.tracing import to_onnx
from amalgam_edge.exporters.tracing.live_dropout import MC_PASS, MC_SEED
from amalgam_edge.inference.onnx_runner import OnnxRunner
from tests.support import tiny
from tests.support.exact_openvino import compile_exactly

TOLERANCE = 1e-4  # of the largest logit, or of 1
SEEDS = (0, 2**31 - 1)
WEB = Path(__file__).parents[1] / "web"
AFTER_PADDING = ("roberta", "xlm-roberta", "mpnet", "camembert")  # number positions from beyond the padding's
LEVELS = ("ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_LAYOUT", "ORT_ENABLE_ALL")


def batches(tokenizer):
    """One token alone; two texts, one padded; sixteen of different lengths."""
    two = np.array([[2, 77, 120, 3, 301], [2, 205, 1, 1, 1]])
    texts = tiny.padded(tokenizer, tiny.TEXTS)
    return [
        (np.array([[42]]), np.array([[1]])),
        (two, np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])),
        (texts["input_ids"].numpy(), texts["attention_mask"].numpy()),
    ]


@pytest.fixture(scope="session")
def expected(tokenizer):
    """``expected(exported)`` → the feeds of the matrix, and torch's logits in float64 for each."""
    made = {}

    def answer(exported):
        key = exported.path
        if key not in made:
            feeds, logits, numbers = [], [], (DROPOUT_OFF, 0, exported.passes // 2, exported.passes - 1)
            for seed in SEEDS:
                runner = exported.in_torch(seed, double=True)
                for ids, mask in batches(tokenizer):
                    feeds += [feed(ids, mask, number, seed) for number in numbers]
                    logits += list(runner.run(ids, mask, numbers))
            made[key] = feeds, logits
        return made[key]

    return answer


def feed(ids, mask, number, seed):
    return {
        "input_ids": ids,
        "attention_mask": mask,
        MC_PASS: np.array(number, dtype=np.int64),
        MC_SEED: np.array(seed, dtype=np.int64),
    }


def run_onnxruntime(path, feeds, level="ORT_ENABLE_ALL", save_to=None):
    if not hasattr(onnxruntime.GraphOptimizationLevel, level):
        pytest.skip(f"this onnxruntime has no {level}")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if save_to is not None:
        options.optimized_model_filepath = str(save_to)
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return [session.run(["logits"], inputs)[0] for inputs in feeds]


def run_openvino(path, feeds):
    compiled = compile_exactly(path)
    return [compiled(inputs)["logits"].copy() for inputs in feeds]


def run_web(path, feeds, tmp_path):
    node = shutil.which("node")
    if node is None or not (WEB / "node_modules" / "onnxruntime-web").is_dir():
        pytest.skip("no onnxruntime-web: install node, then npm install --prefix tests/web --ignore-scripts")
    written = [{name: array.tolist() for name, array in inputs.items()} for inputs in feeds]
    (tmp_path / "feeds.json").write_text(json.dumps(written), "utf-8")
    command = [node, WEB / "run.mjs", path, tmp_path / "feeds.json", tmp_path / "answers.json"]
    subprocess.run(command, check=True, timeout=300)
    answers = json.loads((tmp_path / "answers.json").read_text("utf-8"))
    return [np.array(answer["data"], dtype=np.float32).reshape(answer["dims"]) for answer in answers]


def assert_close(found, logits):
    assert len(found) == len(logits)
    for ours, theirs in zip(found, logits, strict=True):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, atol=TOLERANCE * max(1.0, np.abs(theirs).max()), rtol=0)


@pytest.fixture(scope="session", params=tiny.ARCHITECTURES)
def exported(request, teachers):
    return teachers(request.param)


# --- the matrix


@pytest.mark.parametrize("level", LEVELS)
def test_onnxruntime_gives_the_logits_of_torch(exported, expected, level):
    feeds, logits = expected(exported)
    assert_close(run_onnxruntime(exported.path, feeds, level), logits)


@pytest.mark.parametrize("level", ["ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL"])
def test_an_optimised_model_that_is_saved_and_loaded_gives_the_logits_of_torch(exported, expected, level, tmp_path):
    feeds, logits = expected(exported)
    saved = tmp_path / "optimised.onnx"
    run_onnxruntime(exported.path, [], level, save_to=saved)
    assert_close(run_onnxruntime(saved, feeds, "ORT_DISABLE_ALL"), logits)
    assert_close(run_onnxruntime(saved, feeds, level), logits)


def test_openvino_gives_the_logits_of_torch(exported, expected):
    feeds, logits = expected(exported)
    assert_close(run_openvino(exported.path, feeds), logits)


def test_the_web_runtime_gives_the_logits_of_torch(exported, expected, tmp_path):
    feeds, logits = expected(exported)
    assert_close(run_web(exported.path, feeds, tmp_path), logits)


# --- what torch's logits are


@pytest.mark.parametrize("architecture", ["bert", "deberta-v2"])
@pytest.mark.parametrize("masks", ["systematic", "independent"])
def test_the_logits_are_those_of_a_forward_run_in_training_mode(teachers, tokenizer, architecture, masks):
    exported = teachers(architecture, masks=masks)
    model = exported.teacher.model
    unbatched = {site.number for site in exported.teacher.sites if not site.batched}
    assert bool(unbatched) == (architecture == "deberta-v2")
    ids, mask = batches(tokenizer)[2]
    inputs = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
    for number in (0, 11):
        live = LiveDropout(5, 16, masks, unbatched=unbatched)
        live.start(number)
        model.train()
        with torch.no_grad(), live:
            logits = model(**inputs).logits.numpy()
        model.eval()
        assert_close(run_onnxruntime(exported.path, [feed(ids, mask, number, 5)]), [logits])


def test_without_dropout_a_teacher_answers_as_the_model_in_evaluation_mode(exported, tokenizer):
    ids, mask = batches(tokenizer)[2]
    model = exported.teacher.model
    assert not model.training
    with torch.inference_mode():
        logits = model(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask)).logits.numpy()
    found = run_onnxruntime(exported.path, [feed(ids, mask, DROPOUT_OFF, seed) for seed in (0, 1, 2**31 - 1)])
    assert_close(found, [logits] * 3)
    np.testing.assert_array_equal(found[0], found[1])


def test_all_passes_differ_and_the_seed_changes_them(exported, tokenizer):
    ids, mask = batches(tokenizer)[2]
    feeds = [feed(ids, mask, number, seed) for seed in (0, 1) for number in range(DROPOUT_OFF, 16)]
    found = np.stack(run_onnxruntime(exported.path, feeds)).reshape(2, 17, 16, 3)
    np.testing.assert_array_equal(found[0, 0], found[1, 0])
    live = [found[0, 0], *found[0, 1:], *found[1, 1:]]
    for position, one in enumerate(live):
        for other in live[:position]:
            assert np.abs(one - other).max() > 1e-2  # far beyond the tolerance
    np.testing.assert_array_equal(np.stack(run_onnxruntime(exported.path, feeds)).reshape(found.shape), found)


def test_a_text_does_not_depend_on_its_batch(exported, tokenizer):
    ids, mask = batches(tokenizer)[2]
    runner = OnnxRunner(exported.path, seed=3, threads=1)
    together = runner.run(ids, mask, range(4))
    for row in range(0, 16, 5):
        length = int(mask[row].sum())
        alone = runner.run(ids[row : row + 1, :length].copy(), mask[row : row + 1, :length].copy(), range(4))
        np.testing.assert_allclose(alone[:, 0], together[:, row], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("masks", ["systematic", "independent"])
def test_passes_beyond_the_first_round_are_those_of_torch(teachers, tokenizer, masks):
    exported = teachers("bert", masks=masks, passes=7)
    ids, mask = batches(tokenizer)[1]
    passes = [6, 7, 8, 13, 14, 700, 123_456]
    logits = exported.in_torch(9, double=True).run(ids, mask, passes)
    assert_close(run_onnxruntime(exported.path, [feed(ids, mask, number, 9) for number in passes]), list(logits))
    assert_close(run_openvino(exported.path, [feed(ids, mask, number, 9) for number in passes]), list(logits))
    for position, one in enumerate(logits):
        for other in logits[:position]:
            assert np.abs(one - other).max() > 1e-3


def test_the_longest_texts(exported):
    length = 62 if exported.teacher.model.config.model_type in AFTER_PADDING else 64
    ids = np.arange(2 * length).reshape(2, length) % 380 + 5
    mask = np.ones_like(ids)
    ids[1, 50:], mask[1, 50:] = exported.teacher.tokenizer.pad_token_id, 0
    passes = (DROPOUT_OFF, 0, 9)
    logits = exported.in_torch(2, double=True).run(ids, mask, passes)
    assert_close(run_onnxruntime(exported.path, [feed(ids, mask, number, 2) for number in passes]), list(logits))


# --- other probabilities, numbers of passes and masks


@pytest.mark.parametrize("masks", ["systematic", "independent"])
@pytest.mark.parametrize(
    ("architecture", "passes"),
    [*(("bert", passes) for passes in (2, 7, 10, 16)), ("deberta-v2", 7), ("deberta-v2", 16)],
)
def test_any_number_of_passes_and_both_kinds_of_masks(teachers, expected, architecture, masks, passes):
    exported = teachers(architecture, passes=passes, masks=masks)
    feeds, logits = expected(exported)
    assert_close(run_onnxruntime(exported.path, feeds), logits)
    assert exported.difference <= TOLERANCE


def test_independent_masks_in_other_runtimes(teachers, expected, tmp_path):
    exported = teachers("deberta-v2", passes=7, masks="independent")
    feeds, logits = expected(exported)
    assert_close(run_openvino(exported.path, feeds), logits)
    assert_close(run_web(exported.path, feeds, tmp_path), logits)


SITES = {
    "half": {"dropout": 0.5},
    "mixed": {"hidden_dropout_prob": 0.25, "attention_probs_dropout_prob": 0.4, "classifier_dropout": 0.5},
    "some": {"attention_probs_dropout_prob": 0.0, "classifier_dropout": 0.5, "layers": 1},
}


@pytest.mark.parametrize("name", SITES)
def test_any_probability_at_any_site(teachers, expected, name):
    exported = teachers("bert", **SITES[name])
    sites = {site.number: site.p for site in exported.teacher.sites}
    assert sorted(set(sites.values())) == {"half": [0.5], "mixed": [0.25, 0.4, 0.5], "some": [0.1, 0.5]}[name]
    assert list(sites) == ([0, 2, 3, 4] if name == "some" else list(range(8)))
    feeds, logits = expected(exported)
    assert_close(run_onnxruntime(exported.path, feeds), logits)
    assert_close(run_onnxruntime(exported.path, feeds, "ORT_DISABLE_ALL"), logits)
    assert np.abs(logits[1] - logits[0]).max() > 1e-2


def test_kinds_and_numbers_of_passes_choose_other_masks(teachers, tokenizer):
    ids, mask = batches(tokenizer)[1]
    kinds = [("systematic", 7), ("systematic", 16), ("independent", 7), ("independent", 16)]
    found = [
        run_onnxruntime(teachers("bert", masks=masks, passes=passes).path, [feed(ids, mask, 3, 1)])[0]
        for masks, passes in kinds
    ]
    np.testing.assert_array_equal(found[2], found[3])  # independent passes know nothing of their number
    for position, one in enumerate(found[:3]):
        for other in found[:position]:
            assert np.abs(one - other).max() > 1e-3


# --- the file


def test_inputs_and_outputs(exported):
    graph = onnx.load(exported.path).graph
    assert [value.name for value in graph.input] == ["input_ids", "attention_mask", MC_PASS, MC_SEED]
    assert [value.name for value in graph.output] == ["logits"]
    assert {value.type.tensor_type.elem_type for value in graph.input} == {onnx.TensorProto.INT64}
    assert [len(value.type.tensor_type.shape.dim) for value in graph.input] == [2, 2, 0, 0]


def test_the_file_is_valid_and_needs_nothing_but_onnx(exported):
    model = onnx.load(exported.path)
    onnx.checker.check_model(model, full_check=True)
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 18)]
    assert not model.functions
    assert {node.domain for node in model.graph.node} == {""}
    random = ("Dropout", "RandomUniform", "RandomUniformLike", "RandomNormal", "RandomNormalLike", "Bernoulli")
    assert not [node.op_type for node in model.graph.node if node.op_type in (*random, "Multinomial")]


def test_the_returned_difference_is_measured_and_small(exported):
    assert 0.0 < exported.difference <= TOLERANCE


@pytest.fixture
def again(teachers, monkeypatch):
    """``again(path, off=0.0, **options)``: export a BERT anew without tracing it, its head off by a little."""
    exported = teachers("bert")
    marked = exported.path.parents[2] / "traced" / "bert" / "marked.onnx"

    def export(path, off=0.0, **options):
        proto = onnx.load(marked)
        bias = next(tensor for tensor in proto.graph.initializer if tensor.name.endswith("classifier.bias"))
        moved = onnx.numpy_helper.to_array(bias) + np.array([off, 0, 0], dtype=np.float32)
        bias.CopyFrom(onnx.numpy_helper.from_array(moved, bias.name))
        monkeypatch.setattr(teacher_export, "to_onnx", lambda *args: proto)
        return export_teacher(exported.teacher, path, passes=16, **options)

    return export


@pytest.mark.parametrize("off", [3e-4, float("nan")])
def test_an_export_that_differs_is_refused(again, tmp_path, off):
    with pytest.raises(AmalgamError, match="teacher 'bert': the exported bert differs from torch") as refused:
        again(tmp_path / "model.onnx", off)
    assert "--backend torch" in str(refused.value)


def test_a_half_precision_export_may_differ_by_a_twentieth(again, tmp_path, monkeypatch):
    monkeypatch.setattr(teacher_export, "TOLERANCE", 10.0)  # so that only the file in half precision is refused
    with pytest.raises(AmalgamError, match=r"\(allowed 0.05\); use --precision fp32"):
        again(tmp_path / "model.onnx", 1.0, half=True)


def test_an_export_is_compared_without_dropout_and_in_two_rounds(again, tmp_path, monkeypatch):
    compared = []

    class Recording(OnnxRunner):
        def run(self, ids, mask, passes):
            compared.append(list(passes))
            return super().run(ids, mask, passes)

    monkeypatch.setattr(teacher_export, "OnnxRunner", Recording)
    again(tmp_path / "model.onnx")
    assert compared == [[-1, 0, 23]] * 5  # of K = 16, pass 23 is in the second round


def test_weights_of_up_to_two_billion_bytes_are_one_file():
    """Protobuf cannot hold 2 GiB."""
    assert 2**30 < to_onnx._MAX_FILE_BYTES < 2**31 - 2**20


def test_an_export_under_other_masks_is_refused(again, tmp_path, monkeypatch):
    place = teacher_export.place_live_dropout

    def misplace(model, rates, passes, masks):
        place(model, dict.fromkeys(rates, 0.11), passes, masks)

    monkeypatch.setattr(teacher_export, "place_live_dropout", misplace)
    with pytest.raises(AmalgamError, match="differs from torch"):
        again(tmp_path / "model.onnx")


def test_the_model_is_left_in_evaluation_mode(again, teachers, tmp_path):
    again(tmp_path / "model.onnx")
    assert not teachers("bert").teacher.model.training


@pytest.fixture
def split_weights(monkeypatch):
    """Have weights put beside the file as if they were beyond what one file can hold."""
    monkeypatch.setattr(to_onnx, "_MAX_FILE_BYTES", 1000)


def test_weights_beyond_one_file_go_beside_it(again, teachers, expected, tmp_path, split_weights):
    again(tmp_path / "model.onnx")
    whole = teachers("bert").path.stat().st_size
    assert {path.name for path in tmp_path.iterdir()} == {"model.onnx", "model.onnx.data"}
    assert (tmp_path / "model.onnx").stat().st_size < whole
    feeds, logits = expected(teachers("bert"))
    assert_close(run_onnxruntime(tmp_path / "model.onnx", feeds), logits)


def test_an_export_takes_the_place_of_an_earlier_one(again, tmp_path, split_weights):
    again(tmp_path / "model.onnx")
    before = (tmp_path / "model.onnx.data").stat().st_size
    again(tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx.data").stat().st_size == before


def test_half_precision_gives_nearly_the_logits_of_torch(again, teachers, expected, tmp_path):
    again(tmp_path / "model.onnx", half=True)
    model = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert {value.type.tensor_type.elem_type for value in model.graph.input} == {onnx.TensorProto.INT64}
    assert model.graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert onnx.TensorProto.FLOAT not in {tensor.data_type for tensor in model.graph.initializer}
    feeds, logits = expected(teachers("bert"))
    for found, theirs in zip(run_onnxruntime(tmp_path / "model.onnx", feeds), logits, strict=True):
        assert np.abs(found - theirs).max() < 0.1  # passes are several apart
    assert np.abs(logits[1] - logits[2]).max() > 1.0


def test_half_precision_of_weights_beyond_one_file(again, teachers, expected, tmp_path, split_weights):
    again(tmp_path / "model.onnx", half=True)
    feeds, logits = expected(teachers("bert"))
    for found, theirs in zip(run_onnxruntime(tmp_path / "model.onnx", feeds), logits, strict=True):
        assert np.abs(found - theirs).max() < 0.1
    assert (tmp_path / "model.onnx.data").stat().st_size < 0.6 * teachers("bert").path.stat().st_size
