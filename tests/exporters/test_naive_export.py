"""Why this project exports dropout as arithmetic: ONNX's own Dropout is silently gone where models are run."""

import io
import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from amalgam_edge.dropout.masks import DROPOUT_OFF
from amalgam_edge.inference.onnx_runner import OnnxRunner
from tests.support import tiny


class Logits(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask):
        return self.model(input_ids=input_ids, attention_mask=attention_mask).logits


@pytest.fixture(scope="module")
def inputs(tokenizer):
    return {name: tensor.numpy() for name, tensor in tiny.padded(tokenizer, tiny.TEXTS[:4]).items()}


@pytest.fixture(scope="module")
def naive(random_classifier, inputs):
    """A BERT in training mode as ``torch.onnx.export`` writes it, and its logits in evaluation mode."""
    model = random_classifier()
    feeds = tuple(torch.from_numpy(array) for array in inputs.values())
    with torch.inference_mode():
        expected = model(*feeds).logits.numpy()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch says that training mode may be meant otherwise; it is not
        program = torch.onnx.export(Logits(model.train()), feeds, dynamo=True, input_names=list(inputs), verbose=False)
    model.eval()
    return program.model_proto, expected


def answers(model, inputs, level, n=3):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [session.run(None, inputs)[0] for _ in range(n)]


def test_the_naive_export_holds_live_dropouts(naive):
    model, _ = naive
    dropouts = [node for node in model.graph.node if node.op_type == "Dropout"]
    assert len(dropouts) == 8
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert {(float(constants[node.input[1]]), bool(constants[node.input[2]])) for node in dropouts} == {
        (float(np.float32(0.1)), True)
    }


@pytest.mark.parametrize("level", ["ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL"])
def test_the_naive_export_is_silently_deterministic(naive, inputs, level):
    model, expected = naive
    found = answers(model, inputs, level)
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])
    np.testing.assert_allclose(found[0], expected, atol=1e-4)  # no dropout at all


def test_the_naive_export_drops_only_where_nothing_is_optimised(naive, inputs):
    model, _ = naive
    found = answers(model, inputs, "ORT_DISABLE_ALL")
    assert np.abs(found[0] - found[1]).max() > 1e-2


def test_the_naive_export_is_refused_by_openvino(naive):
    openvino = pytest.importorskip("openvino")
    model, _ = naive
    with pytest.raises(RuntimeError, match="Dropout"):
        openvino.Core().read_model(io.BytesIO(model.SerializeToString()))


def test_our_export_drops_and_repeats_itself(teachers, inputs):
    exported = teachers("bert")
    graph = onnx.load(exported.path).graph
    assert not {"Dropout", "Bernoulli", "RandomUniform", "RandomUniformLike"} & {node.op_type for node in graph.node}
    runner = OnnxRunner(exported.path, seed=1, threads=1)
    found = runner.run(**inputs, passes=[DROPOUT_OFF, *range(16)])
    for position, one in enumerate(found):
        for other in found[:position]:
            assert np.abs(one - other).max() > 1e-2
    np.testing.assert_array_equal(runner.run(**inputs, passes=[DROPOUT_OFF, *range(16)]), found)
