"""Narrow the last layer of a traced classifier to the first token, where its head reads no other. Exact.

Pattern: ``hidden[:, 0]``, or any other selection of the first entry of an axis, behind operations of which nothing else
is read.
Replacement: the same operations on the first entry alone.
Faster: such a classifier needs in its last layer the keys and values of all tokens, but query, attention, output and
feed-forward of the first one only.
Exact because each operation passed on the way treats the entries of the axis one by one. Nothing is assumed of the
architecture: going backwards from the selection, an operation is narrowed only if every reader wants its first entry
alone, and operations that are not known to be safe stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from operator import getitem
from typing import Any

import torch
from torch.fx import GraphModule, Node
from torch.fx.experimental.symbolic_shapes import statically_known_true

from amalgam_edge.exporters.tracing.dropout_marks import MARK

aten = torch.ops.aten

# What is needed of a node is an axis, of which only the first entry is needed, or _WHOLE, if all of it is.
_WHOLE = -1
# What a node needs of each input; None if it mixes the entries of the axis, so that it needs all inputs whole.
_InputNeeds = dict[Node, int] | None


def can_be_narrowed(graph: torch.fx.Graph) -> bool:
    """Whether no operation writes in place, and none without a rule is composed of others that may have one."""
    return not any(
        node.target._schema.is_mutable or (_is_composite(node.target) and _is_tensor(node) and not _is_known(node))
        for node in graph.nodes
        if isinstance(node.target, torch._ops.OpOverload)
    )


def narrow_to_first_token(module: GraphModule) -> int:
    """Compute only the first entry of an axis, in place, wherever nothing else is read.

    Args:
        module: A traced module of aten operations, none of which writes in place, whose nodes carry their shapes.

    Returns:
        How many matrix products became smaller.
    """
    needs = _find_needs(module.graph)
    narrowed_products = 0
    for node in list(module.graph.nodes):
        axis = needs[node]
        if axis == _WHOLE:
            continue
        for source, source_axis in (_input_needs(node, axis) or {}).items():
            if source_axis not in (_WHOLE, needs[source]):
                with module.graph.inserting_before(node):
                    first = module.graph.call_function(aten.slice.Tensor, (source, source_axis, 0, 1))
                node.replace_input_with(source, first)
        _set_output_size(node, axis)
        narrowed_products += node.target in _PRODUCTS
    module.recompile()
    return narrowed_products


def _find_needs(graph: torch.fx.Graph) -> dict[Node, int]:
    """What the readers of each node need of it; where they differ, the node is needed whole."""
    needs: dict[Node, int] = {}
    for node in reversed(graph.nodes):
        axis = needs.setdefault(node, _WHOLE)
        of_inputs = _input_needs(node, axis)
        if of_inputs is None:
            needs[node] = _WHOLE
            of_inputs = _input_needs(node, _WHOLE) or {}
        for source in node.all_input_nodes:
            source_axis = of_inputs.get(source, _WHOLE)
            needs[source] = source_axis if needs.get(source, source_axis) == source_axis else _WHOLE
    for node in graph.nodes:
        if node.target is getitem:  # the parts of a split are narrowed together or not at all
            needs[node] = needs[_args(node)[0]]
    return needs


def _input_needs(node: Node, axis: int) -> _InputNeeds:
    """What a node needs of its inputs to compute the first entry of ``axis``, or all of itself for ``_WHOLE``."""
    if axis == _WHOLE:
        selects_first = node.target is aten.select.int and _args(node)[2] == 0
        return {_args(node)[0]: _positive(_args(node)[1], _rank(_args(node)[0]))} if selects_first else {}
    if node.target in _RULES:
        return _RULES[node.target](node, axis)
    return _elementwise(node, axis) if _is_pointwise(node) else None


# Rules: what an operation needs of its inputs, if only the first entry of an axis of its output is needed.


def _elementwise(node: Node, axis: int) -> _InputNeeds:
    """Each tensor that has the axis, with more than one entry, is narrowed too; the others are broadcast."""
    return {source: _aligned_axis(node, source, axis) for source in node.all_input_nodes if _is_tensor(source)}


def _expand(node: Node, axis: int) -> _InputNeeds:
    return {_args(node)[0]: _aligned_axis(node, _args(node)[0], axis)}


def _aligned_axis(node: Node, source: Node, axis: int) -> int:
    """The axis of an input that is broadcast to an axis of the output; shapes are aligned at their ends."""
    source_axis = axis - (_rank(node) - _rank(source))
    return source_axis if source_axis >= 0 and not _known_equal(_shape(source)[source_axis], 1) else _WHOLE


def _dropout_mark(node: Node, axis: int) -> _InputNeeds:
    """A dropout mask of one entry is the beginning of any longer mask, unless the axis is the batch."""
    batched = _args(node)[2]
    return {_args(node)[0]: axis} if batched and axis > 0 else None


def _along_other_axes(node: Node, axis: int) -> _InputNeeds:
    """The operation works along another axis, as softmax, or along the last axes, as layer_norm."""
    works_along = _args(node)[1]
    if isinstance(works_along, (list, tuple)):  # layer_norm's normalized_shape
        along = range(_rank(node) - len(works_along), _rank(node))
    else:
        along = range(_positive(works_along, _rank(node)), _positive(works_along, _rank(node)) + 1)
    return {_args(node)[0]: axis} if axis not in along else None


def _linear(node: Node, axis: int) -> _InputNeeds:
    source, *weights = _args(node)
    return {source: axis} if axis < _rank(node) - 1 and source not in weights else None


def _matmul(node: Node, axis: int) -> _InputNeeds:
    """The rows of a product need the same rows of its left side, and all of its right side."""
    left, right = _args(node)[:2]
    same_rank = _rank(left) == _rank(right) == _rank(node)
    return {left: axis} if same_rank and axis == _rank(node) - 2 and left is not right else None


def _transpose(node: Node, axis: int) -> _InputNeeds:
    first, second = (_positive(dim, _rank(node)) for dim in _args(node)[1:3])
    return {_args(node)[0]: {first: second, second: first}.get(axis, axis)}


def _permute(node: Node, axis: int) -> _InputNeeds:
    return {_args(node)[0]: _positive(_args(node)[1][axis], _rank(node))}


def _unsqueeze(node: Node, axis: int) -> _InputNeeds:
    added = _positive(_args(node)[1], _rank(node))
    return {_args(node)[0]: axis - (axis > added)} if axis != added else None


def _select(node: Node, axis: int) -> _InputNeeds:
    removed = _positive(_args(node)[1], _rank(_args(node)[0]))
    return {_args(node)[0]: axis + (axis >= removed)}


def _slice(node: Node, axis: int) -> _InputNeeds:
    """A slice of another axis, or one from the first entry on without gaps."""
    defaults: tuple[Any, ...] = (None, 0, None, None, 1)
    source, dim, start, _, step = _args(node) + defaults[len(_args(node)) :]
    return {source: axis} if _positive(dim, _rank(node)) != axis or (start in (None, 0) and step == 1) else None


def _reduce(node: Node, axis: int) -> _InputNeeds:
    """A mean or a sum over other axes, which come after this one unless they are kept."""
    source, dims, *kept = (*_args(node), None)[:3]
    if not dims:  # over all axes
        return None
    along = [_positive(dim, _rank(source)) for dim in dims]
    stays = axis not in along and (True in kept or min(along) > axis)
    return {source: axis} if stays else None


def _reshape(node: Node, axis: int) -> _InputNeeds:
    """An axis that stays whole, with as many entries before it as it had."""
    shape, source = _shape(node), _shape(_args(node)[0])
    for source_axis, size in enumerate(source):
        same_size = _known_equal(size, shape[axis])
        if same_size and _known_equal(math.prod(source[:source_axis]), math.prod(shape[:axis])):
            return {_args(node)[0]: source_axis}
    return None


def _concatenate(node: Node, axis: int) -> _InputNeeds:
    dim = _args(node)[1] if len(_args(node)) > 1 else 0
    return dict.fromkeys(_args(node)[0], axis) if _positive(dim, _rank(node)) != axis else None


def _gather(node: Node, axis: int) -> _InputNeeds:
    source, dim, index = _args(node)[:3]
    same_size = _known_equal(_shape(source)[axis], _shape(index)[axis])
    return {source: axis, index: axis} if same_size and _positive(dim, _rank(node)) != axis else None


def _split(node: Node, axis: int) -> _InputNeeds:
    source = _args(node)[0]
    dim = _args(node)[2] if len(_args(node)) > 2 else 0
    return {source: axis} if _positive(dim, _rank(source)) != axis else None


def _part_of_split(node: Node, axis: int) -> _InputNeeds:
    return {_args(node)[0]: axis}


def _set_output_size(node: Node, axis: int) -> None:
    """Put 1 for a narrowed axis into the arguments of an operation that name its output's sizes, or a slice's end."""
    if node.target in _OPERATIONS_WITH_SIZES:
        sizes = list(_args(node)[1])
        sizes[axis] = 1
        node.args = (_args(node)[0], sizes, *_args(node)[2:])
    elif node.target is aten.slice.Tensor and _positive((*_args(node), 0)[1], _rank(node)) == axis:
        node.args = (_args(node)[0], axis, 0, 1)


def _args(node: Node) -> tuple[Any, ...]:
    return node.args


def _is_composite(operation: torch._ops.OpOverload) -> bool:
    return operation.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd)


def _is_known(node: Node) -> bool:
    return node.target in _RULES or _is_pointwise(node)


def _is_pointwise(node: Node) -> bool:
    return torch.Tag.pointwise in getattr(node.target, "tags", ()) and _is_tensor(node)


def _is_tensor(node: Node) -> bool:
    return isinstance(node.meta["val"], torch.Tensor)


def _shape(node: Any) -> Sequence[Any]:
    return node.meta["val"].shape


def _rank(node: Any) -> int:
    return len(_shape(node))


def _positive(axis: int, rank: int) -> int:
    return axis % rank


def _known_equal(size: Any, other_size: Any) -> bool:
    """Whether two sizes, which may be symbols, are equal for inputs of every shape."""
    return statically_known_true(size == other_size)


_Rule = Callable[[Node, int], _InputNeeds]
_OPERATIONS_WITH_SIZES = {
    aten.view.default,
    aten._unsafe_view.default,
    aten.reshape.default,
    aten.expand.default,
}
_PRODUCTS = {aten.linear.default, aten.matmul.default, aten.bmm.default}
_UNTAGGED_ELEMENTWISE = (  # elementwise operations that torch does not tag as pointwise
    aten.dropout.default,
    aten.contiguous.default,
    aten.type_as.default,
    aten.to.device,
    aten.to.dtype,
    aten.to.dtype_layout,
    aten._to_copy.default,
    aten.where.ScalarOther,
    aten.__and__.Tensor,
)
_RULES: dict[Any, _Rule] = {
    **dict.fromkeys(_UNTAGGED_ELEMENTWISE, _elementwise),
    MARK: _dropout_mark,
    aten.linear.default: _linear,
    aten.matmul.default: _matmul,
    aten.bmm.default: _matmul,
    aten.layer_norm.default: _along_other_axes,
    aten.softmax.int: _along_other_axes,
    aten.transpose.int: _transpose,
    aten.permute.default: _permute,
    aten.unsqueeze.default: _unsqueeze,
    aten.select.int: _select,
    aten.slice.Tensor: _slice,
    aten.mean.dim: _reduce,
    aten.sum.dim_IntList: _reduce,
    aten.view.default: _reshape,
    aten._unsafe_view.default: _reshape,
    aten.reshape.default: _reshape,
    aten.expand.default: _expand,
    aten.cat.default: _concatenate,
    aten.gather.default: _gather,
    aten.chunk.default: _split,
    aten.split.Tensor: _split,
    aten.split_with_sizes.default: _split,
    getitem: _part_of_split,
}
