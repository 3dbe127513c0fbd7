"""Add, replace or drop one head of a student's graph, and leave the nodes of all others as they are.

Pattern: the outputs ``logits`` and ``probabilities`` of a graph that this project wrote, as it was built or after
earlier changes.
Replacement: what was built keeps its nodes up to its outputs, which become inner values. A new head is a Gemm of its
own on the hidden state that the last layer reads. The outputs are concatenations: of what was built, or of the columns
of those of its heads that are still there, and of new heads.
Exact for the heads that stay. Their last casts and divisions are kept too: half floats would else be rounded elsewhere,
since ONNX Runtime leaves out pairs of casts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper

from amalgam_edge.errors import AmalgamError
from amalgam_edge.exporters.rewrites.calibrated_outputs import (
    LOGITS,
    PROBABILITIES,
    activation_node,
    add_probabilities,
)
from amalgam_edge.exporters.rewrites.graph_editing import (
    GraphIndex,
    add_constant,
    attribute,
    keep_needed,
    name_value,
    rename_value,
)
from amalgam_edge.heads import Head, Heads

_AS_BUILT, _JOIN, _TAKE = "as_built", "join_heads", "take_head"
_PRODUCTS = ("Gemm", "MatMul", "MatMulInteger", "MatMulNBits")
_FARTHEST = 6  # nodes between a product and the hidden state: the quantizer's, a division of channels, casts


@dataclass(frozen=True)
class HeadLayer:
    """The linear layer of a head: logits = hidden states · weight + bias.

    Attributes:
        weight: ``(width, n_labels)``.
        bias: ``(n_labels,)``.
    """

    weight: np.ndarray
    bias: np.ndarray

    def __call__(self, states: np.ndarray) -> np.ndarray:
        """Logits ``(n_texts, n_labels)`` of hidden states ``(n_texts, width)``, in float64."""
        logits: np.ndarray = states.astype(np.float64) @ self.weight + self.bias
        return logits

    def divide(self, temperatures: np.ndarray) -> HeadLayer:
        """The layer whose logits are divided by temperatures, ``(n_labels,)``."""
        return HeadLayer(self.weight / temperatures, self.bias / temperatures)


@dataclass(frozen=True)
class HiddenState:
    """The vector of a text that the last layer turns into logits, as a value of a graph.

    Attributes:
        name: The name of the value, ``(n_texts, width)``.
        width: Its entries; of a quantized graph perhaps more than of the float one, whose entries then come first.
        dtype: What the graph computes in, float32 or float16.
    """

    name: str
    width: int
    dtype: np.dtype


@dataclass(frozen=True)
class _Part:
    """Where a head's outputs are: in columns of what was built, or in values of its own.

    Attributes:
        logits: The value that holds its logits, of float32.
        probabilities: The value that holds its probabilities.
        start: The first of its columns in both.
        stop: The column after its last.
        total: How many columns the values have; 0 where some of them are not used any more.
    """

    logits: str
    probabilities: str
    start: int
    stop: int
    total: int

    def value(self, output: str) -> str:
        """The value that holds what goes into this output."""
        return self.logits if output == LOGITS else self.probabilities


def hidden_state(graph: onnx.GraphProto, heads: Heads, name: str = "") -> HiddenState:
    """Find the hidden state that the heads of a graph read.

    Args:
        graph: A student's graph, with the output ``probabilities``.
        heads: The heads that it answers.
        name: The name of the hidden state in the float graph that this one was made from; empty for a float graph.

    Raises:
        AmalgamError: No last layer is found, or it does not read that value.
    """
    index = GraphIndex(graph)
    found = next(_products_of(index, _parts(graph, heads)[0].logits), None)
    if found is None:
        raise _unknown_form("no last layer is found in it")
    source, weight = found.input[0], index.constant(found.input[1])
    width = _n_inputs(found, weight)
    if name and name not in _values_before(index, source):
        raise _unknown_form(f"its last layer does not read '{name}', which that of the float model reads")
    is_half = weight is not None and weight.dtype == np.float16
    return HiddenState(name or source, width, np.dtype(np.float16 if is_half else np.float32))


def reading_hidden_state(model: onnx.ModelProto, hidden: HiddenState) -> onnx.ModelProto:
    """The same model with one output, ``logits``, which is the hidden state: it runs where the student does."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    rename_value(graph, LOGITS, name_value(graph, f"{LOGITS}_as_built"))
    graph.node.append(helper.make_node("Identity", [hidden.name], [LOGITS], "read_hidden_state"))
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, None))
    keep_needed(graph, list(graph.node))
    return copy


def put_head(
    graph: onnx.GraphProto, heads: Heads, head: Head, layer: HeadLayer, hidden: HiddenState, position: int
) -> None:
    """Let a graph answer with a new head, in place.

    Args:
        graph: A student's graph.
        heads: The heads that it answers so far.
        head: The new head.
        layer: Its layer, on the float graph's hidden states.
        hidden: The hidden state of this graph.
        position: Its place among the heads; the number of heads to put it behind all, else it replaces the one there.
    """
    if hidden.width < len(layer.weight):
        raise _unknown_form(f"its hidden state has {hidden.width} entries, that of the float model {len(layer.weight)}")
    parts = _parts(graph, heads)
    parts[position : position + 1] = [_add_layer(graph, head, layer, hidden)]
    _write_outputs(graph, parts)


def drop_head(graph: onnx.GraphProto, heads: Heads, name: str) -> None:
    """Let a graph answer without one of its heads, in place; at least one other head stays."""
    parts = _parts(graph, heads)
    del parts[heads.names.index(name)]
    _write_outputs(graph, parts)


def with_probabilities(graph: onnx.GraphProto, heads: Heads) -> None:
    """Add the output ``probabilities``, which graphs of early versions lack, in place."""
    if PROBABILITIES not in {output.name for output in graph.output}:
        add_probabilities(graph, heads)


def _add_layer(graph: onnx.GraphProto, head: Head, layer: HeadLayer, hidden: HiddenState) -> _Part:
    """Add the nodes of a new head, in place."""
    weight = np.zeros((hidden.width, len(head)), dtype=hidden.dtype)
    weight[: len(layer.weight)] = layer.weight
    logits = computed = name_value(graph, f"{LOGITS}_of_{head.name}")
    if hidden.dtype == np.float16:
        computed = name_value(graph, f"{logits}_half")
    constants = {"weight": weight, "bias": layer.bias.astype(hidden.dtype)}
    names = [add_constant(graph, value, name_value(graph, f"{logits}_{name}")) for name, value in constants.items()]
    graph.node.append(helper.make_node("Gemm", [hidden.name, *names], [computed], computed))
    if computed != logits:
        graph.node.append(helper.make_node("Cast", [computed], [logits], logits, to=TensorProto.FLOAT))
    probabilities = name_value(graph, f"{PROBABILITIES}_of_{head.name}")
    graph.node.append(activation_node(head, logits, probabilities))
    return _Part(logits, probabilities, 0, len(head), len(head))


def _parts(graph: onnx.GraphProto, heads: Heads) -> list[_Part]:
    """Where the outputs of each head are, in order.

    Raises:
        AmalgamError: The graph gives another number of logits.
    """
    axes = next(output for output in graph.output if output.name == LOGITS).type.tensor_type.shape.dim
    n_logits = axes[-1].dim_value if axes else 0
    if n_logits != len(heads.labels):
        raise _unknown_form(f"it gives {n_logits} logits, and the bundle has {len(heads.labels)} labels")
    index = GraphIndex(graph)
    joins = [index.producer(output, "Concat") for output in (LOGITS, PROBABILITIES)]
    if any(node is None or not node.name.startswith(_JOIN) for node in joins):
        entries = [(LOGITS, PROBABILITIES)]
    else:
        entries = list(zip(*(node.input for node in joins if node is not None), strict=True))
    n_built = len(heads) - len(entries) + 1  # heads in what was built, if that is there as a whole
    parts: list[_Part] = []
    for logits, probabilities in entries:
        taken = [index.producer(name, "Gather") for name in (logits, probabilities)]
        own = [len(head) for head in heads.heads[len(parts) : len(parts) + (n_built if _is_built(logits) else 1)]]
        if taken[0] is not None and taken[1] is not None and taken[0].name.startswith(_TAKE):
            columns = index.constant(taken[0].input[1])
            start = -1 if columns is None else int(columns[0])
            parts.append(_Part(taken[0].input[0], taken[1].input[0], start, start + own[0], 0))
            continue
        ends = np.cumsum(own).tolist()
        parts += [_Part(logits, probabilities, end - size, end, ends[-1]) for size, end in zip(own, ends, strict=True)]
    return parts


def _is_built(logits: str) -> bool:
    """Whether a value is all that was built, rather than one head of it or a later one."""
    return logits == LOGITS or logits.startswith(f"{LOGITS}_{_AS_BUILT}")


def _write_outputs(graph: onnx.GraphProto, parts: Sequence[_Part]) -> None:
    """Let the outputs be those of the heads, side by side, and drop what is not needed for them any more."""
    for output in (LOGITS, PROBABILITIES):
        built = name_value(graph, f"{output}_{_AS_BUILT}")
        rename_value(graph, output, built)
        entries: list[str] = []
        position = 0
        while position < len(parts):
            run = _whole_run(parts[position:])
            part = parts[position]
            source = built if part.value(output) == output else part.value(output)
            entries.append(source if run else _take(graph, source, part, output))
            position += run or 1
        graph.node.append(helper.make_node("Concat", entries, [output], f"{_JOIN}_{output}", axis=-1))
    n_labels = sum(part.stop - part.start for part in parts)
    for declared in graph.output:
        axes = declared.type.tensor_type.shape.dim
        if len(axes):
            axes[-1].Clear()
            axes[-1].dim_value = n_labels
    keep_needed(graph, list(graph.node))


def _whole_run(parts: Sequence[_Part]) -> int:
    """How many of the first parts are all columns of one value; 0 if its first ones are not."""
    first, stop = parts[0], 0
    for count, part in enumerate(parts, 1):
        if part.logits != first.logits or part.start != stop:
            return 0
        stop = part.stop
        if stop == first.total:
            return count
    return 0


def _take(graph: onnx.GraphProto, source: str, part: _Part, output: str) -> str:
    """Add a node that takes a head's columns, in place; returns the name of its value."""
    taken = name_value(graph, f"{output}_{_TAKE}")
    columns = add_constant(graph, np.arange(part.start, part.stop), name_value(graph, f"{taken}_columns"))
    graph.node.append(helper.make_node("Gather", [source, columns], [taken], f"{_TAKE}_{taken}", axis=-1))
    return taken


def _products_of(index: GraphIndex, name: str) -> Iterator[NodeProto]:
    """The products that a value is computed from, the nearest first."""
    waiting, seen = [name], {name}
    while waiting:
        node = index.producer(waiting.pop(0))
        if node is None:
            continue
        if node.op_type in _PRODUCTS:
            yield node
            continue
        waiting += [source for source in node.input if source not in seen]
        seen.update(node.input)


def _n_inputs(product: NodeProto, weight: np.ndarray | None) -> int:
    """The width of what a product reads.

    Raises:
        AmalgamError: It is no product with a constant matrix.
    """
    if product.op_type == "MatMulNBits":
        width = attribute(product, "K", 0)
        assert isinstance(width, int)  # noqa: S101  (an attribute of one number)
        return width
    if weight is None or weight.ndim != 2:
        raise _unknown_form("its last layer has no constant weights")
    return int(weight.shape[1 if attribute(product, "transB", 0) else 0])


def _values_before(index: GraphIndex, name: str) -> set[str]:
    """A value and those that it is computed from in a few nodes, up to another product."""
    reached = level = {name}
    for _ in range(_FARTHEST):
        nodes = [node for node in map(index.producer, level) if node is not None and node.op_type not in _PRODUCTS]
        level = {source for node in nodes for source in node.input}
        reached = reached | level
    return reached


def _unknown_form(reason: str) -> AmalgamError:
    return AmalgamError(f"a model of a form that heads cannot be changed in: {reason}; build the bundle again")


__all__ = [
    "HeadLayer",
    "HiddenState",
    "drop_head",
    "hidden_state",
    "put_head",
    "reading_hidden_state",
    "with_probabilities",
]
