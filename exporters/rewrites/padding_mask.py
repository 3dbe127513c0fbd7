"""Compute the attention mask of padding in three operations instead of about thirty.

Pattern: a value that is added to attention scores and depends on ``attention_mask`` and on shapes alone. transformers
builds it by indexing with the numbers of batch, query and key, so that one code path serves all kinds of masks.
Replacement: Cast, Unsqueeze and Where, which put 0 at tokens and the lowest number at padding, whatever the query.
Faster because each of the thirty small operations costs more to start than to compute.
Exact: the value is replaced only if it equals the simple mask in every entry on several masks, with and without
padding, from 1 to 1,025 tokens. It reads nothing but the mask and shapes, so that only a rule for even longer texts,
such as an attention window of more than 1,024 tokens, could make it differ.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, helper

from amalgam_edge.errors import AmalgamError
from amalgam_edge.exporters.rewrites.graph_editing import GraphIndex, add_constant, replace_nodes
from amalgam_edge.storage.own_files import FileContent

PADDING_MASK = "plain_mask"  # the name of the value, and of the node that computes it

# (n_texts, n_tokens) of the masks on which a candidate is compared with the simple mask. The longest is there to tell
# sliding windows apart: ModernBERT's layers of local attention see 64 tokens on either side.
_PROBE_SHAPES = ((1, 1), (1, 7), (2, 5), (3, 4), (4, 19), (1, 1025))


# Added to a score, this or less leaves a weight of exactly 0 in float32: what is rewritten next leaves padding out.
_HIDES = -1e4


def simplify_padding_mask(graph: onnx.GraphProto, opset: int) -> bool:
    """Replace the mask that is added to attention scores by a simple one, ``(n_texts, 1, 1, n_tokens)``, in place.

    Args:
        graph: A graph with the inputs ``input_ids`` and ``attention_mask``.
        opset: The ONNX opset version that the graph is written in.

    Returns:
        Whether the graph had such a mask.
    """
    for value, nodes in _candidates(graph):
        at_padding = _padding_number(graph, value, nodes, opset)
        if at_padding is not None:
            replace_nodes(graph, {value: _simple_mask(graph, value, at_padding)})
            _rename(graph, value, PADDING_MASK)
            return True
    return False


def _candidates(graph: onnx.GraphProto) -> Iterator[tuple[str, list[NodeProto]]]:
    """The values that are added to another and depend on mask and shapes alone, with the nodes that compute them."""
    index = GraphIndex(graph)
    position = {name: place for place, node in enumerate(graph.node) for name in node.output}
    for node in graph.node:
        for value in node.input if node.op_type == "Add" else ():
            ancestors = _ancestors_of_mask(index, value)
            if ancestors:
                yield value, sorted(ancestors, key=lambda ancestor: position[ancestor.output[0]])


def _ancestors_of_mask(index: GraphIndex, value: str) -> list[NodeProto]:
    """All nodes that a value depends on; an empty list if it does not depend on the mask, or reads the token ids.

    Reading the shape of an input does not count: a mask may depend on the number of tokens.
    """
    found: dict[str, NodeProto] = {}
    reads_mask = False
    pending = [(value, "")]
    while pending:
        name, reader = pending.pop()
        reads_mask |= name == "attention_mask" and reader != "Shape"
        if name == "input_ids" and reader != "Shape":
            return []
        node = index.producer(name)
        if node is not None and node.output[0] not in found:
            found[node.output[0]] = node
            pending.extend((source, node.op_type) for source in node.input if source)
    return list(found.values()) if reads_mask else []


def _padding_number(graph: onnx.GraphProto, value: str, nodes: list[NodeProto], opset: int) -> np.ndarray | None:
    """The number at padding if the value equals the simple mask on all probes; None if it is anything else."""
    needed = {name for node in nodes for name in node.input}
    part = helper.make_graph(
        nodes,
        "mask",
        [entry for entry in graph.input if entry.name in needed],
        [helper.make_empty_tensor_value_info(value)],
        [tensor for tensor in graph.initializer if tensor.name in needed],
    )
    model = helper.make_model(part, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    from amalgam_edge.runtime.session import open_session  # scoring on torch alone has no ONNX Runtime

    try:
        session = open_session(FileContent(Path("mask"), model.SerializeToString()), threads=1)
    except AmalgamError:  # a part of the graph that cannot run by itself is no candidate
        return None
    at_padding = None
    for mask in _probe_masks():
        feed = {"attention_mask": mask, "input_ids": np.ones_like(mask)}
        found = session.run(None, {name: feed[name] for name in feed if name in needed})[0]
        if found.ndim != 4 or found.dtype != np.float32:
            return None
        if at_padding is None and not mask.all():
            at_padding = found.min()
        simple = np.where(mask[:, None, None, :] == 1, np.float32(0), np.float32(at_padding or 0))
        if not np.array_equal(np.broadcast_to(simple, found.shape), found):
            return None
    return at_padding if at_padding is not None and at_padding <= _HIDES else None


def _probe_masks() -> Iterator[np.ndarray]:
    """Random masks whose first token is always present, and whose first text ends in padding if it is longer."""
    generator = np.random.default_rng(0)
    for n_texts, n_tokens in _PROBE_SHAPES:
        mask = (generator.random((n_texts, n_tokens)) < 0.6).astype(np.int64)
        mask[:, 0] = 1
        mask[0, -1] = n_tokens == 1
        yield mask


def _simple_mask(graph: onnx.GraphProto, value: str, at_padding: np.ndarray) -> list[NodeProto]:
    axes = add_constant(graph, np.array([1, 2], np.int64), "mask_axes")
    zero = add_constant(graph, np.array(0, np.float32), "mask_token")
    low = add_constant(graph, np.array(at_padding, np.float32), "mask_padding")
    return [
        helper.make_node("Cast", ["attention_mask"], ["mask_bool"], "mask_bool", to=onnx.TensorProto.BOOL),
        helper.make_node("Unsqueeze", ["mask_bool", axes], ["mask_4d"], "mask_4d"),
        helper.make_node("Where", ["mask_4d", zero, low], [value], PADDING_MASK),
    ]


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [new if name == old else name for name in names]
