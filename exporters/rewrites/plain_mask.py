"""The attention mask made in three operations where tracing leaves thirty. Exact.

transformers builds the mask that is added to attention's scores by indexing with the numbers of batch, query and key,
so that one path serves all kinds of masks. For a plain padding mask the result is 0 at tokens and the least number at
padding, whatever the query.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import NodeProto, helper

from amalgam_edge.errors import AmalgamError
from amalgam_edge.exporters.rewrites.graphs import GraphIndex, add_constant, replace_nodes

PLAIN_MASK = "plain_mask"

# (texts, tokens) of the masks that a candidate is tried on.
_PROBES = ((1, 1), (1, 7), (2, 5), (3, 4), (4, 19))


def make_mask_plain(graph: onnx.GraphProto, opset: int) -> bool:
    """Replace the mask that is added to attention's scores by ``plain_mask``, ``(n_texts, 1, 1, n_tokens)``, in place.

    Whether a value is such a mask is found by computing it, on masks with and without padding: what equals the plain
    one in every entry depends on nothing else.

    Args:
        graph: with the inputs ``input_ids`` and ``attention_mask``.
        opset: that it is written in.

    Returns:
        Whether there was one.
    """
    for value, nodes in _candidates(graph):
        lowest = _plain_padding(graph, value, nodes, opset)
        if lowest is not None:
            replace_nodes(graph, {value: _plain_mask(graph, value, lowest)})
            _rename(graph, value, PLAIN_MASK)
            return True
    return False


def _candidates(graph: onnx.GraphProto) -> Iterator[tuple[str, list[NodeProto]]]:
    """Values that are added to something else and depend on the mask and on shapes alone, with what makes them."""
    index = GraphIndex(graph)
    position = {name: place for place, node in enumerate(graph.node) for name in node.output}
    for node in graph.node:
        for value in node.input if node.op_type == "Add" else ():
            makers = _makers(index, value)
            if makers:
                yield value, sorted(makers, key=lambda maker: position[maker.output[0]])


def _makers(index: GraphIndex, value: str) -> list[NodeProto]:
    """All nodes behind a value; none if it is a constant, knows nothing of the mask, or reads the tokens."""
    found: dict[str, NodeProto] = {}
    of_mask = False
    waiting = [(value, "")]
    while waiting:
        name, reader = waiting.pop()
        of_mask |= name == "attention_mask" and reader != "Shape"
        if name == "input_ids" and reader != "Shape":
            return []
        node = index.producer(name)
        if node is not None and node.output[0] not in found:
            found[node.output[0]] = node
            waiting.extend((source, node.op_type) for source in node.input if source)
    return list(found.values()) if of_mask else []


def _plain_padding(graph: onnx.GraphProto, value: str, nodes: list[NodeProto], opset: int) -> np.ndarray | None:
    """The number that stands at padding if the value is a plain mask; None if it is anything else."""
    wanted = {name for node in nodes for name in node.input}
    part = helper.make_graph(
        nodes,
        "mask",
        [entry for entry in graph.input if entry.name in wanted],
        [helper.make_empty_tensor_value_info(value)],
        [tensor for tensor in graph.initializer if tensor.name in wanted],
    )
    model = helper.make_model(part, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    from amalgam_edge.runtime.session import open_session  # scoring on torch alone has no ONNX Runtime

    try:
        session = open_session(model.SerializeToString(), threads=1)
    except AmalgamError:  # what cannot be run by itself is no candidate
        return None
    lowest = None
    generator = np.random.default_rng(0)
    for n_texts, n_tokens in _PROBES:
        mask = (generator.random((n_texts, n_tokens)) < 0.6).astype(np.int64)
        mask[:, 0] = 1
        mask[0, -1] = n_tokens == 1
        feed = {"attention_mask": mask, "input_ids": np.ones_like(mask)}
        found = session.run(None, {name: feed[name] for name in feed if name in wanted})[0]
        if found.ndim != 4 or found.dtype != np.float32:
            return None
        lowest = found.min() if lowest is None or n_tokens > 1 else lowest
        plain = np.where(mask[:, None, None, :] == 1, np.float32(0), lowest)
        if not np.array_equal(np.broadcast_to(plain, found.shape), found):
            return None
    return lowest


def _plain_mask(graph: onnx.GraphProto, value: str, lowest: np.ndarray) -> list[NodeProto]:
    axes = add_constant(graph, np.array([1, 2], np.int64), "mask_axes")
    zero = add_constant(graph, np.array(0, np.float32), "mask_token")
    low = add_constant(graph, np.array(lowest, np.float32), "mask_padding")
    return [
        helper.make_node("Cast", ["attention_mask"], ["mask_bool"], "mask_bool", to=onnx.TensorProto.BOOL),
        helper.make_node("Unsqueeze", ["mask_bool", axes], ["mask_4d"], "mask_4d"),
        helper.make_node("Where", ["mask_4d", zero, low], [value], PLAIN_MASK),
    ]


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [new if name == old else name for name in names]
