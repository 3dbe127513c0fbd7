import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from amalgam_edge.exporters.quantization.activations import Activation
from amalgam_edge.exporters.quantization.int8 import INT8_LADDER, Int8Settings, quantize_to_int8
from amalgam_edge.exporters.selection import gate
from amalgam_edge.exporters.selection.gate import pass_gate
from amalgam_edge.heads import Heads
from amalgam_edge.runtime.text_model import TextModel
from amalgam_edge.storage.own_files import FileContent

WAYS = (Int8Settings("plain"), Int8Settings("calibrated", calibrated=True), *INT8_LADDER)
THREE, FOUR = Heads.of_labels("abc"), Heads.of_labels("abcd")  # of scripted models, and of toys
TEXTS = [f"text {k} about {word}" for k in range(20) for word in ("maps", "sound", "ice", "news", "fonts")]


@pytest.fixture
def source(toy):
    return toy()


@pytest.fixture
def target(tmp_path):
    return tmp_path / "model_quantized.onnx"


@pytest.fixture
def open_model(tokenizer_folder):
    def opened(path):
        return TextModel(
            FileContent.read(path),
            FileContent.read(tokenizer_folder / "tokenizer.json"),
            max_length=32,
            pad_token_id=1,
            threads=1,
        )

    return opened


class Scripted:
    """Opens models whose first labels are wrong, as many as a script says for each model after the first.

    A script's entry is that number, or the number and how sure the model is, which is 5 otherwise.
    """

    def __init__(self, wrong, n_texts=100):
        self.wrong = iter(wrong)
        self.truth = np.arange(n_texts) % 3
        self.opened = []

    def __call__(self, path):
        if path.name.endswith(".observed.onnx"):
            return Observed()
        self.opened.append(path)
        entry = next(self.wrong) if len(self.opened) > 1 else 0
        count, sureness = entry if isinstance(entry, tuple) else (entry, 5.0)
        labels = self.truth.copy()
        labels[:count] = (labels[:count] + 1) % 3
        return Answers(sureness * np.eye(3)[labels])


class Observed:
    """A model that puts out statistics of its three multiplied values, all channels alike."""

    def outputs(self, texts, names, *, batch_size=32):
        yield [np.ones(32) if name.endswith("_largest") else np.eye(32) for name in names]


class Answers:
    def __init__(self, logits):
        self.logits = logits

    def run(self, texts, *, batch_size=32):
        return self.logits[: len(texts)], np.zeros(len(texts), dtype=bool)


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_least_careful_settings_are_taken_where_they_are_good_enough(source, target, open_model, tmp_path):
    said = []
    result = pass_gate(
        source, target, TEXTS, open_model, heads=FOUR, calibration=TEXTS, budget=1.0, say=said.append, ladder=WAYS
    )
    assert result.accepted == WAYS[0]
    assert result.attempts == ((WAYS[0], result.fidelity),)
    assert said == []
    assert files(tmp_path) == ["model.onnx", "model_quantized.onnx"]
    quantize_to_int8(source, tmp_path / "by hand.onnx", WAYS[0])
    reference, found = open_model(source).run(TEXTS)[0], open_model(tmp_path / "by hand.onnx").run(TEXTS)[0]
    np.testing.assert_array_equal(open_model(target).run(TEXTS)[0], found)
    assert result.fidelity.agreement == np.mean(reference.argmax(1) == found.argmax(1))
    assert result.fidelity.n_texts == len(TEXTS)


def test_the_ladder_is_walked_in_order(source, target, tmp_path):
    said = []
    opened = Scripted([30, 20, 4])
    result = pass_gate(
        source, target, TEXTS, opened, heads=THREE, calibration=TEXTS, budget=0.05, say=said.append, ladder=WAYS
    )
    assert result.accepted == WAYS[2]
    assert [how for how, _ in result.attempts] == list(WAYS)
    assert [round(f.disagreement, 9) for _, f in result.attempts] == [0.3, 0.2, 0.04]
    assert opened.opened == [source, target, target, target]
    assert len(said) == 2
    for line, how, share in zip(said, WAYS, ("30.00%", "20.00%"), strict=False):
        assert how.name in line
        assert share in line
        assert "5.00%" in line
    assert files(tmp_path) == ["model.onnx", "model_quantized.onnx"]


def test_labels_may_be_compared_with_those_of_another_model(source, target):
    """The int8 model agrees with the float model, but not with the reference that is given instead."""
    others = 5.0 * np.eye(3)[np.roll(np.arange(100) % 3, 1)]
    with pytest.raises(StopIteration):  # no way comes near, and the script ends
        pass_gate(
            source,
            target,
            TEXTS,
            Scripted([0]),
            heads=THREE,
            calibration=TEXTS,
            budget=0.5,
            reference=others,
            ladder=WAYS,
        )
    own = 5.0 * np.eye(3)[np.arange(100) % 3]
    result = pass_gate(source, target, TEXTS, Scripted([0]), heads=THREE, calibration=TEXTS, budget=0.0, reference=own)
    assert result.fidelity.agreement == 1.0


def test_the_target_holds_the_accepted_model(source, target, tmp_path):
    result = pass_gate(
        source, target, TEXTS, Scripted([50, 0]), heads=THREE, calibration=TEXTS, budget=0.05, ladder=WAYS
    )
    seen = dict.fromkeys(("bag", "h1", "h2"), Activation(np.ones(32), np.eye(32)))
    quantize_to_int8(source, tmp_path / "by hand.onnx", result.accepted, seen)
    assert result.accepted == WAYS[1]
    assert target.read_bytes() == (tmp_path / "by hand.onnx").read_bytes()


@pytest.mark.parametrize(("wrong", "n_texts", "budget"), [(1, 100, 0.01), (20, 2000, 0.01), (3, 10, 0.3), (0, 7, 0.0)])
def test_as_many_changed_labels_as_the_budget_allows_are_accepted(source, target, wrong, n_texts, budget):
    texts = ["x"] * n_texts
    result = pass_gate(
        source,
        target,
        texts,
        Scripted([wrong] + [n_texts] * 20, n_texts),
        heads=THREE,
        calibration=texts,
        budget=budget,
        ladder=WAYS,
    )
    assert result.accepted == WAYS[0]


@pytest.mark.parametrize(("wrong", "n_texts", "budget"), [(2, 100, 0.01), (21, 2000, 0.01), (1, 7, 0.0)])
def test_one_changed_label_beyond_the_budget_is_refused(source, target, wrong, n_texts, budget):
    texts = ["x"] * n_texts
    result = pass_gate(
        source, target, texts, Scripted([wrong, 0], n_texts), heads=THREE, calibration=texts, budget=budget, ladder=WAYS
    )
    assert result.accepted == WAYS[1]


def test_the_most_harmful_product_is_left_in_float(toy, target, open_model, tmp_path):
    source = toy(outlier=400.0)
    said = []
    ladder = (Int8Settings("plain"),)
    result = pass_gate(
        source, target, TEXTS, open_model, heads=FOUR, calibration=TEXTS, budget=0.1, ladder=ladder, say=said.append
    )
    (first, careless), (second, careful) = result.attempts
    assert first == ladder[0]
    assert careless.disagreement > 0.3
    assert second.float_nodes == ("w2",)
    assert result.accepted == second
    assert careful.disagreement <= 0.1
    assert any("ranking" in line for line in said)
    assert files(tmp_path) == ["model.onnx", "model_quantized.onnx"]


def test_calibration_makes_up_for_a_large_weight_of_a_channel_that_is_always_zero(toy, target, open_model):
    result = pass_gate(
        toy(outlier=400.0), target, TEXTS, open_model, heads=FOUR, calibration=TEXTS, budget=0.1, ladder=INT8_LADDER
    )
    assert result.accepted == INT8_LADDER[0]


def test_without_an_outlier_no_product_needs_float(source, target, open_model):
    result = pass_gate(source, target, TEXTS, open_model, heads=FOUR, calibration=TEXTS, budget=0.1, ladder=WAYS[:1])
    assert result.accepted == WAYS[0]


def test_products_return_to_float_from_the_settings_nearest_the_float_model(source, target):
    """By divergence; each of the three products is then tried alone, and half of them may stay in float: one."""
    opened = Scripted([50, 20, 40, *[3, 2, 1], 20])
    result = pass_gate(source, target, TEXTS, opened, heads=THREE, calibration=TEXTS, budget=0.0, ladder=WAYS)
    assert result.accepted is None
    last = result.attempts[-1][0]
    assert last.name == f"{WAYS[1].name}, 1 product(s) in float"
    assert last.float_nodes == ("w3",)  # the product whose trial came nearest is the most harmful one
    assert len(result.attempts) == 4
    assert result.fidelity.disagreement == pytest.approx(0.2)


def test_the_nearest_is_the_one_of_least_divergence_even_if_it_changes_more_labels(source, target):
    opened = Scripted([50, (20, 50.0), 40, *[3, 2, 1], 40])
    result = pass_gate(source, target, TEXTS, opened, heads=THREE, calibration=TEXTS, budget=0.0, ladder=WAYS)
    fidelities = [fidelity for _, fidelity in result.attempts[:3]]
    assert min(fidelities, key=lambda f: f.disagreement) is fidelities[1]
    assert min(fidelities, key=lambda f: f.mean_kl) is fidelities[2]
    assert result.attempts[-1][0].name == f"{WAYS[2].name}, 1 product(s) in float"


def test_nothing_is_left_where_nothing_passes(source, target, open_model, tmp_path):
    """An adversary turns the answers of all quantized files."""

    def adversary(path):
        model = open_model(path)
        if path == source or path.name.endswith(".observed.onnx"):
            return model
        return Answers(np.roll(model.run(TEXTS)[0], 1, axis=1))

    said = []
    result = pass_gate(
        source, target, TEXTS, adversary, heads=FOUR, calibration=TEXTS, budget=0.0, say=said.append, ladder=WAYS
    )
    assert result.accepted is None
    assert len(result.attempts) == len(WAYS) + 1
    assert result.fidelity == min((f for _, f in result.attempts), key=lambda f: f.disagreement)
    assert result.fidelity.disagreement > 0
    assert sum("over the budget" in line for line in said) == len(result.attempts)
    assert files(tmp_path) == ["model.onnx"]


def test_activations_are_those_of_the_calibration_texts(source, target, open_model, monkeypatch):
    seen = {}

    def record(source, target, how, activations):
        seen.update(activations)
        quantize_to_int8(source, target, how, activations)

    monkeypatch.setattr(gate, "quantize_to_int8", record)
    pass_gate(source, target, TEXTS[:3], open_model, heads=FOUR, calibration=TEXTS, budget=1.0, ladder=WAYS[1:])
    weights = {t.name: numpy_helper.to_array(t).astype(np.float64) for t in onnx.load(source).graph.initializer}
    model = open_model(source)
    bags = np.array([weights["table"][model.tokenize([text]).ids].sum(axis=0) for text in TEXTS])
    hidden = np.tanh(bags @ weights["w1"])
    for name, values in (("bag", bags), ("h1", hidden), ("h2", np.tanh(hidden @ weights["w2"]))):
        np.testing.assert_allclose(seen[name].largest, np.abs(values).max(axis=0), rtol=1e-4)
        np.testing.assert_allclose(seen[name].gram, values.T @ values, rtol=1e-3, atol=1e-2)
    assert sorted(seen) == ["bag", "h1", "h2"]


def test_a_failure_leaves_no_trial_model_behind(source, target, tmp_path):
    def failing(path):
        if "trial" in path.name:
            raise RuntimeError("cut off")
        if path.name.endswith(".observed.onnx"):
            return Observed()
        return Answers(np.eye(4)[np.arange(100) % 4] if path == source else np.ones((100, 4)))

    with pytest.raises(RuntimeError, match="cut off"):
        pass_gate(source, target, TEXTS, failing, heads=FOUR, calibration=TEXTS, budget=0.0, ladder=WAYS)
    assert not [name for name in files(tmp_path) if "trial" in name]


def test_products_are_ranked_on_the_first_200_texts(source, target, monkeypatch):
    texts = [str(k) for k in range(230)]
    seen = {}

    class Recording(Answers):
        def run(self, texts, *, batch_size=32):
            seen.setdefault(self.name, []).append(list(texts))
            return super().run(texts)

    def recorded(path):
        if path.name.endswith(".observed.onnx"):
            return Observed()
        labels = np.arange(230) % 3
        model = Recording(5.0 * np.eye(3)[labels if path == source else (labels + 1) % 3])
        model.name = "trial" if path.name.endswith(".trial.onnx") else path.stem
        return model

    pass_gate(source, target, texts, recorded, heads=THREE, calibration=texts, budget=0.0)
    assert seen["trial"] == [texts[:200]] * 3
    assert seen[target.stem] == [texts] * 2  # the ladder's one, and one product in float


def test_trials_of_single_products_are_rounded_to_the_nearest_level(source, target, monkeypatch):
    tried = []

    def record(source, target, settings, activations):
        tried.append(settings)
        quantize_to_int8(source, target, settings, activations)

    monkeypatch.setattr(gate, "quantize_to_int8", record)
    pass_gate(source, target, TEXTS, Scripted([50, *[3, 2, 1], 0]), heads=THREE, calibration=TEXTS, budget=0.0)
    trials = tried[1:-1]
    assert [settings.float_nodes for settings in trials] == [("w1",), ("w2",), ("w3",)]
    assert not any(settings.gptq_rounding for settings in trials)
    assert all(settings.calibrated for settings in trials)
    assert tried[0] == INT8_LADDER[0]  # the default
    assert tried[-1].gptq_rounding
