"""The attention mask of padding, on graphs made by hand."""

import numpy as np
import pytest
from onnx import TensorProto, helper

from amalgam_edge.exporters.rewrites import padding_mask
from amalgam_edge.exporters.rewrites.padding_mask import simplify_padding_mask
from tests.support.graphs import OPSET, initializers, make_graph, run_graph, value_info

RNG = np.random.default_rng(0)
LOWEST = np.float32(-1e9)


def masked_scores(*nodes, low=LOWEST):
    """scores + mask, where these nodes compute ``mask``."""
    return make_graph(
        [*nodes, helper.make_node("Add", ["scores", "mask"], ["out"], "add")],
        [*(value_info(name, TensorProto.INT64, "n", "t") for name in ("attention_mask", "input_ids")),
         value_info("scores", TensorProto.FLOAT, "n", 2, "t", "t")],
        [value_info("out", TensorProto.FLOAT, "n", 2, "t", "t")],
        one=np.float32(1), low=np.float32(low), axes=np.array([1, 2]), zero=np.float32(0), pad=np.array(0),
        first=np.array(0), step=np.array(1), last_axis=np.array([1]), width=np.array(64), axis_0=np.array([0]),
        wide=np.array(1023),
    )  # fmt: skip


CAST = helper.make_node("Cast", ["attention_mask"], ["cast"], "cast", to=TensorProto.FLOAT)
PADDING = (
    CAST,
    helper.make_node("Sub", ["one", "cast"], ["off"], "off"),
    helper.make_node("Mul", ["off", "low"], ["lows"], "lows"),
    helper.make_node("Unsqueeze", ["lows", "axes"], ["padding"], "padding"),
)
SIMPLE = (*PADDING, helper.make_node("Identity", ["padding"], ["mask"], "mask"))
SHAPED_LIKE_THE_TOKENS = (  # the shape of the token ids is read, but none of them
    CAST,
    helper.make_node("Shape", ["input_ids"], ["shape"], "shape"),
    helper.make_node("Reshape", ["cast", "shape"], ["shaped"], "shaped"),
    helper.make_node("Sub", ["one", "shaped"], ["off"], "off"),
    helper.make_node("Mul", ["off", "low"], ["lows"], "lows"),
    helper.make_node("Unsqueeze", ["lows", "axes"], ["mask"], "mask"),
)
QUERY_TIMES_KEY = (  # padding as a query sees nothing either
    CAST,
    helper.make_node("Unsqueeze", ["cast", "axes"], ["keys"], "keys"),
    helper.make_node("Transpose", ["keys"], ["queries"], "queries", perm=[0, 1, 3, 2]),
    helper.make_node("Mul", ["keys", "queries"], ["both"], "both"),
    helper.make_node("Sub", ["one", "both"], ["off"], "off"),
    helper.make_node("Mul", ["off", "low"], ["mask"], "mask"),
)
BY_TOKEN = (  # padding is known by its token
    helper.make_node("Equal", ["input_ids", "pad"], ["is_pad"], "is_pad"),
    helper.make_node("Where", ["is_pad", "low", "zero"], ["lows"], "lows"),
    helper.make_node("Unsqueeze", ["lows", "axes"], ["mask"], "mask"),
)
LOCAL_ATTENTION = (  # a query sees 64 tokens on either side, as in ModernBERT's local layers
    *PADDING,
    helper.make_node("Shape", ["attention_mask"], ["shape"], "shape"),
    helper.make_node("Gather", ["shape", "step"], ["n_tokens"], "n_tokens"),
    helper.make_node("Range", ["first", "n_tokens", "step"], ["positions"], "positions"),
    helper.make_node("Unsqueeze", ["positions", "last_axis"], ["rows"], "rows"),
    helper.make_node("Sub", ["rows", "positions"], ["offset"], "offset"),
    helper.make_node("Abs", ["offset"], ["distance"], "distance"),
    helper.make_node("Greater", ["distance", "width"], ["far"], "far"),
    helper.make_node("Where", ["far", "low", "padding"], ["mask"], "mask"),
)
WIDE_ATTENTION = (  # 1,023 on either side, which only a text of more than 1,024 tokens tells apart
    *LOCAL_ATTENTION[:-2],
    helper.make_node("Greater", ["distance", "wide"], ["far"], "far"),
    LOCAL_ATTENTION[-1],
)
BY_LENGTH = (  # the number at padding depends on the number of tokens
    CAST,
    helper.make_node("Sub", ["one", "cast"], ["off"], "off"),
    helper.make_node("Shape", ["attention_mask"], ["shape"], "shape"),
    helper.make_node("Gather", ["shape", "step"], ["n_tokens"], "n_tokens"),
    helper.make_node("Cast", ["n_tokens"], ["float_tokens"], "float_tokens", to=TensorProto.FLOAT),
    helper.make_node("Neg", ["float_tokens"], ["negative"], "negative"),
    helper.make_node("Mul", ["off", "negative"], ["lows"], "lows"),
    helper.make_node("Unsqueeze", ["lows", "axes"], ["mask"], "mask"),
)
BY_SHAPE = (  # zeros wherever padding is: the mask's shape is read, but not the mask
    helper.make_node("Shape", ["attention_mask"], ["shape"], "shape"),
    helper.make_node("ConstantOfShape", ["shape"], ["zeros"], "zeros"),
    helper.make_node("Unsqueeze", ["zeros", "axes"], ["mask"], "mask"),
)
OTHERS = {
    "by shape": BY_SHAPE,
    "query times key": QUERY_TIMES_KEY,
    "by token": BY_TOKEN,
    "local attention": LOCAL_ATTENTION,
    "wide local attention": WIDE_ATTENTION,
    "by length": BY_LENGTH,
}


@pytest.mark.parametrize("nodes", [SIMPLE, SHAPED_LIKE_THE_TOKENS], ids=["simple", "shaped like the tokens"])
def test_a_padding_mask_is_computed_in_three_operations(nodes):
    graph = masked_scores(*nodes)
    assert simplify_padding_mask(graph, OPSET)
    assert [node.op_type for node in graph.node] == ["Cast", "Unsqueeze", "Where", "Add"]
    assert initializers(graph)["mask_padding"] == LOWEST
    scores = RNG.normal(size=(2, 2, 3, 3)).astype(np.float32)
    mask = np.array([[1, 1, 0], [1, 1, 1]])
    found = run_graph(graph, scores=scores, attention_mask=mask, input_ids=mask)
    np.testing.assert_allclose(found, scores + np.where(mask, 0, LOWEST)[:, None, None], rtol=1e-6)


@pytest.mark.parametrize("nodes", OTHERS.values(), ids=OTHERS)
def test_another_mask_stays_as_it_is(nodes):
    graph = masked_scores(*nodes)
    run_graph(  # it is a graph that runs
        graph,
        scores=np.zeros((1, 2, 3, 3), np.float32),
        attention_mask=np.ones((1, 3), int),
        input_ids=np.ones((1, 3), int),
    )
    before = graph.SerializeToString()
    assert not simplify_padding_mask(graph, OPSET)
    assert graph.SerializeToString() == before


@pytest.mark.parametrize(
    ("low", "is_simplified"), [(-1e4, True), (-9999, False), (-1, False), (0, False), (1e9, False)]
)
def test_a_number_that_does_not_hide_padding_stays_as_it_is(low, is_simplified):
    """Fused attention leaves padding out; -10,000, as the first BERT has it, comes to the same in float32."""
    assert simplify_padding_mask(masked_scores(*SIMPLE, low=low), OPSET) == is_simplified


def test_masks_are_compared_from_1_to_1025_tokens_with_and_without_padding():
    masks = list(padding_mask._probe_masks())
    lengths = [mask.shape[1] for mask in masks]
    assert (min(lengths), max(lengths)) == (1, 1025)
    assert {bool(mask.all()) for mask in masks} == {len(mask) > 1 for mask in masks} == {True, False}
