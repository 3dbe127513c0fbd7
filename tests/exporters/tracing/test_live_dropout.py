"""The masks of exported graphs against those of torch, unit by unit and to the bit, on tensors of ones."""

import io
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from amalgam_edge.dropout.masks import DROPOUT_OFF, DropoutPass, site_word, unit_hashes
from amalgam_edge.exporters.tracing.dropout_marks import DOMAIN
from amalgam_edge.exporters.tracing.live_dropout import MC_PASS, MC_SEED, place_live_dropout
from tests.support.exact_openvino import compile_exactly

SEEDS = (0, 1, 12_345, 2**30 + 3, 2**31 - 1)
KINDS = ("systematic", "independent")
HEADS = 3


@dataclass(frozen=True)
class Site:
    """A dropout of a graph made by hand; names in ``dims`` are sizes known only at run time."""

    number: int
    p: float
    dims: tuple[int | str, ...]
    batched: bool = True

    def shape(self, sizes):
        return tuple(sizes.get(dim, dim) for dim in self.dims)


COLUMNS = Site(0, 0.1, (40,))
TOKENS = Site(1, 0.1, ("L", 24))
ATTENTION = Site(2, 0.5, (HEADS, "L", "L"))
POSITIONS = Site(3, 0.1, (2, 33, 8), batched=False)
MANY = (
    COLUMNS,
    TOKENS,
    ATTENTION,
    POSITIONS,
    Site(4, 0.5, ("L", 24)),
    Site(6, 0.1, ("L", 24)),
    Site(9, 1.0, ("L", 24)),
    Site(10, 0.9, (HEADS, "L", "L")),
    Site(11, 0.3, ("R", 8), batched=False),
    Site(12, 0.3, ("R", 8)),
    Site(13, 1e-3, (1, 24)),
    Site(40, 0.25, (24, "L")),
    Site(41, 0.25, (2, "R", 3, "L")),
    Site(1000, 0.1, (40,)),
)


def graph_of(sites, passes, masks):
    """A model that drops from an input of its own at each site, in the order given."""
    nodes, inputs, outputs, infos = [], [], [], []
    for site in sites:
        dims = (["B"] if site.batched else []) + list(site.dims)
        names = [f"{kind}{site.number}" for kind in ("in", "marked", "out")]
        nodes += [
            helper.make_node("Mark", names[:1], names[1:2], domain=DOMAIN, site=site.number, batched=int(site.batched)),
            helper.make_node("Identity", names[1:2], names[2:]),
        ]
        for name, values in zip(names, (inputs, infos, outputs), strict=True):
            values.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, dims))
    graph = helper.make_graph(nodes, "sites", inputs, outputs, value_info=infos)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    place_live_dropout(model, {site.number: site.p for site in sites}, passes, masks)
    return model


def ones(sites, sizes, batch=2):
    return {
        f"in{site.number}": np.ones(((batch,) if site.batched else ()) + site.shape(sizes), np.float32)
        for site in sites
    }


def scalars(mc_pass, seed):
    return {MC_PASS: np.array(mc_pass, dtype=np.int64), MC_SEED: np.array(seed, dtype=np.int64)}


def torch_mask(site, sizes, passes, masks, mc_pass, seed):
    one = DropoutPass(mc_pass, passes, masks)
    word = site_word(torch.tensor(seed, dtype=torch.int32), site.number, one.round_number)
    return one.mask(unit_hashes(word, site.shape(sizes)), site.p).numpy()


def open_onnxruntime(model, level="ORT_ENABLE_ALL"):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda feeds: dict(zip((o.name for o in session.get_outputs()), session.run(None, feeds), strict=True))


def open_openvino(model):
    compiled = compile_exactly(io.BytesIO(model.SerializeToString()))

    def run(feeds):
        answers = compiled(feeds)
        return {name: answers[output].copy() for output in compiled.outputs for name in output.names}

    return run


RUNTIMES = {
    "onnxruntime": open_onnxruntime,
    "onnxruntime unoptimised": lambda model: open_onnxruntime(model, "ORT_DISABLE_ALL"),
    "openvino": open_openvino,
}


@pytest.fixture(params=RUNTIMES)
def opened(request):
    return RUNTIMES[request.param]


optimised = pytest.mark.parametrize("opened", ["onnxruntime", "openvino"], indirect=True)


def assert_same(run, sites, sizes, passes, masks, mc_pass, seed):
    found = run({**ones(sites, sizes), **scalars(mc_pass, seed)})
    for site in sites:
        mask = torch_mask(site, sizes, passes, masks, mc_pass, seed)
        np.testing.assert_array_equal(found[f"out{site.number}"], np.stack([mask] * 2) if site.batched else mask)


# --- to the bit


@pytest.mark.parametrize("masks", KINDS)
@pytest.mark.parametrize("passes", [1, 2, 7, 10, 16, 100])
def test_masks_are_those_of_torch(opened, passes, masks):
    run = opened(graph_of(MANY, passes, masks))
    for mc_pass in (DROPOUT_OFF, 0, passes // 2, passes - 1, passes, 1000):
        for seed in SEEDS:
            assert_same(run, MANY, {"L": 9, "R": 4}, passes, masks, mc_pass, seed)


@optimised
@pytest.mark.parametrize("masks", KINDS)
@pytest.mark.parametrize("length", [1, 2, 31, 128, 511, 512])
def test_masks_are_those_of_torch_at_any_length(opened, length, masks):
    sites = (TOKENS, ATTENTION, Site(3, 0.1, (HEADS, "L", "L")), Site(5, 0.3, ("R", 24), batched=False))
    run = opened(graph_of(sites, 16, masks))
    for mc_pass, seed in ((0, 0), (15, 2**31 - 1), (4, 99)):
        assert_same(run, sites, {"L": length, "R": 2 * length}, 16, masks, mc_pass, seed)


def test_lengths_may_change_from_run_to_run(opened):
    run = opened(graph_of(MANY, 10, "systematic"))
    for length in (5, 64, 1, 17, 5):
        assert_same(run, MANY, {"L": length, "R": length + 1}, 10, "systematic", 3, 11)


@optimised
@pytest.mark.parametrize("passes", [2, 3, 7, 10, 16, 41])
def test_every_pass_of_many_rounds_is_that_of_torch(opened, passes):
    # Quotients and remainders of the pass' number are where a runtime that divides in float32 would go wrong.
    sites = (Site(0, 0.3, (17,)), Site(1, 0.3, (5, 3)))
    run = opened(graph_of(sites, passes, "systematic"))
    numbers = {turn * passes + off for turn in (*range(1, 25), 333, 1000, 1001, 9999) for off in (-1, 0, passes // 2)}
    for mc_pass in sorted({*range(passes), *numbers, 10**6 - 1, 10**6}):
        assert_same(run, sites, {}, passes, "systematic", mc_pass, 5)


@optimised
@pytest.mark.parametrize("p", [1e-6, 0.05, 0.1, 0.15, 0.25, 1 / 3, 0.5, 0.75, 0.999, 1.0])
def test_any_probability(opened, p):
    sites = (Site(0, p, ("L", 32)), Site(1, p, (48,)), Site(2, p, (2, "L", 5), batched=False))
    run = opened(graph_of(sites, 16, "systematic"))
    for mc_pass in (DROPOUT_OFF, 0, 9):
        assert_same(run, sites, {"L": 40}, 16, "systematic", mc_pass, 3)


@pytest.mark.parametrize("masks", KINDS)
def test_a_unit_of_all_axes_is_hashed_alike_by_hand(opened, masks):
    # 32-bit words in Python's integers, for two units of a site with three axes.
    words, site = 2**32, Site(6, 0.5, (2, "L", 5))

    def mix(word):
        for multiplier in (0x7FEB352D, 0x21F0AAAD):
            word = (word ^ (word % 2**31 >> 15)) * multiplier % words
        return word ^ (word % 2**31 >> 16)

    def coordinate(number):
        return mix((number + 1) * 0x9E3779B9 % words)

    mc_pass, seed, passes = 19, 77, 16
    turn = mc_pass % passes if masks == "systematic" else 0
    round_number = mc_pass // passes if masks == "systematic" else mc_pass
    word = mix((mix(seed ^ 0x3C6EF372) + coordinate(round_number)) % words)
    word = mix((word + (site.number + 1) * 0x9E3779B9) % words)
    odd_numbers = [1, 3, 5, 7, 9, 11, 13, 15]
    found = opened(graph_of([site], passes, masks))({**ones([site], {"L": 7}), **scalars(mc_pass, seed)})["out6"]
    for head, token, feature in ((0, 0, 0), (1, 6, 4), (1, 3, 2), (0, 5, 3)):
        row = mix((mix((word + coordinate(head)) % words) + coordinate(token)) % words)
        column = mix(((word ^ 0x1B873593) + coordinate(feature)) % words)
        of_row, of_column = mix(row ^ 0x5A827999), mix(column ^ 0x5A827999)
        hashed = ((row | 1) + (column & ~1)) * (of_row + of_column)
        stride_of_row, stride_of_column = (odd_numbers[(f % 2**31 >> 16) * 8 >> 15] for f in (of_row, of_column))
        hashed += stride_of_row * turn % passes * (words // passes) * stride_of_column
        kept = (hashed + words // 2) % words >= words // 2
        assert found[1, head, token, feature] == (2.0 if kept else 0.0)


# --- what the graph is


def test_values_are_multiplied_with_the_mask_and_texts_share_it(opened):
    site = Site(3, 0.25, ("L", 6))
    run = opened(graph_of([site], 8, "systematic"))
    values = np.random.default_rng(0).normal(size=(4, 5, 6)).astype(np.float32)
    found = run({"in3": values, **scalars(2, 1)})["out3"]
    np.testing.assert_array_equal(found, values * torch_mask(site, {"L": 5}, 8, "systematic", 2, 1))
    np.testing.assert_array_equal(run({"in3": values, **scalars(DROPOUT_OFF, 1)})["out3"], values)


def test_the_model_that_is_left_is_plain_and_valid():
    for masks in KINDS:
        model = graph_of(MANY, 16, masks)
        onnx.checker.check_model(model, full_check=True)
        assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 18)]
        assert {node.domain for node in model.graph.node} == {""}
        assert not {"Dropout", "Bernoulli", "RandomUniformLike", "Mark"} & {node.op_type for node in model.graph.node}
        assert [value.name for value in model.graph.input[-2:]] == [MC_PASS, MC_SEED]
        names = [name for node in model.graph.node for name in node.output]
        assert len(names) == len(set(names))
        assert len({node.name for node in model.graph.node if node.name}) == len(
            [n for n in model.graph.node if n.name]
        )


def test_no_shift_divides_what_is_not_a_multiple():
    # A runtime that divides in float32 rounds quotients of large words; multiples of a power of two divide exactly.
    model = graph_of(MANY, 16, "systematic")
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    producers = {name: node for node in model.graph.node for name in node.output}
    shifts = [node for node in model.graph.node if node.op_type == "Div" and producers[node.input[0]].op_type != "Cast"]
    assert len(shifts) > 50
    for node in shifts:
        cleared = producers[node.input[0]]
        assert cleared.op_type == "BitwiseAnd"
        assert int(constants[cleared.input[1]]) % int(constants[node.input[1]]) == 0
        assert int(constants[cleared.input[1]]) < 2**31


def test_sites_do_not_depend_on_which_others_are_there_and_in_which_order():
    sizes = {"L": 6, "R": 3}
    together = open_onnxruntime(graph_of(MANY, 16, "systematic"))({**ones(MANY, sizes), **scalars(5, 4)})
    reversed_order = open_onnxruntime(graph_of(MANY[::-1], 16, "systematic"))({**ones(MANY, sizes), **scalars(5, 4)})
    for site in MANY:
        alone = open_onnxruntime(graph_of([site], 16, "systematic"))({**ones([site], sizes), **scalars(5, 4)})
        name = f"out{site.number}"
        np.testing.assert_array_equal(alone[name], together[name])
        np.testing.assert_array_equal(reversed_order[name], together[name])


def test_a_graph_without_marks_only_gains_the_two_inputs():
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])], "g", [value],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    place_live_dropout(model, {}, 16, "systematic")
    onnx.checker.check_model(model, full_check=True)
    found = open_onnxruntime(model)({"x": np.ones(3, np.float32), **scalars(0, 0)})
    np.testing.assert_array_equal(found["y"], np.ones(3, np.float32))
