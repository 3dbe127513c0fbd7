"""Where a head reads the first token alone, the last layer works for that token alone. Exact.

A classifier that takes ``hidden[:, 0]`` needs, in its last layer, the keys and values of all tokens, but query,
attention, output and feed-forward of the first alone. Nothing is assumed of the architecture: going backwards from the
selection, each operation that treats the entries of an axis one by one is asked for its first entry only, as far as all
that read it want no more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from operator import getitem
from typing import Any

import torch
from torch.fx import GraphModule, Node
from torch.fx.experimental.symbolic_shapes import statically_known_true

from amalgam_edge.exporters.tracing.marks import MARK

aten = torch.ops.aten

# What is asked of a node: all of it, or the first entry of one axis.
_ALL = -1
# Inputs and what is asked of each; None where the operation mixes the entries of the axis.
_Asked = dict[Node, int] | None


def first_token_only(module: GraphModule) -> int:
    """Narrow, in place, what only the first entry of an axis is read of.

    Args:
        module: a traced module of aten operations whose nodes carry their shapes.

    Returns:
        How many matrix products became smaller.
    """
    asked = _ask(module.graph)
    narrowed = 0
    for node in list(module.graph.nodes):
        axis = asked[node]
        if axis == _ALL:
            continue
        for source, source_axis in (_inputs(node, axis) or {}).items():
            if source_axis not in (_ALL, asked[source]):
                with module.graph.inserting_before(node):
                    first = module.graph.call_function(aten.slice.Tensor, (source, source_axis, 0, 1))
                node.replace_input_with(source, first)
        _resize(node, axis)
        narrowed += node.target in _PRODUCTS
    module.recompile()
    return narrowed


def _ask(graph: torch.fx.Graph) -> dict[Node, int]:
    """What the readers of each node ask of it, last node first: where they disagree, all of it."""
    asked: dict[Node, int] = {}
    for node in reversed(graph.nodes):
        axis = asked.setdefault(node, _ALL)
        wanted = _inputs(node, axis)
        if wanted is None:
            asked[node] = _ALL
            wanted = _inputs(node, _ALL) or {}
        for source in node.all_input_nodes:
            source_axis = wanted.get(source, _ALL)
            asked[source] = source_axis if asked.get(source, source_axis) == source_axis else _ALL
    for node in graph.nodes:
        if node.target is getitem:  # parts of a split are narrowed together or not at all
            asked[node] = asked[_args(node)[0]]
    return asked


def _inputs(node: Node, axis: int) -> _Asked:
    """What a node asks of its inputs if it is asked for the first entry of ``axis``, or for all of itself."""
    if axis == _ALL:
        selects_first = node.target is aten.select.int and _args(node)[2] == 0
        return {_args(node)[0]: _positive(_args(node)[1], _rank(_args(node)[0]))} if selects_first else {}
    if node.target in _RULES:
        return _RULES[node.target](node, axis)
    pointwise = torch.Tag.pointwise in getattr(node.target, "tags", ()) and _is_tensor(node)
    return _elementwise(node, axis) if pointwise else None


def _elementwise(node: Node, axis: int) -> _Asked:
    """Each tensor that has the axis, at more than one entry, is narrowed too; the others are broadcast."""
    return {source: _aligned(node, source, axis) for source in node.all_input_nodes if _is_tensor(source)}


def _expand(node: Node, axis: int) -> _Asked:
    return {_args(node)[0]: _aligned(node, _args(node)[0], axis)}


def _aligned(node: Node, source: Node, axis: int) -> int:
    """The axis of an input that is broadcast to an axis of the output, aligned at the end."""
    source_axis = axis - (_rank(node) - _rank(source))
    return source_axis if source_axis >= 0 and not _known(_shape(source)[source_axis], 1) else _ALL


def _mark(node: Node, axis: int) -> _Asked:
    """A mask of one entry begins any longer mask."""
    batched = _args(node)[2]
    return {_args(node)[0]: axis} if batched and axis > 0 else None


def _beside(node: Node, axis: int) -> _Asked:
    """The operation works along one other axis, or several at the end."""
    works_along = _args(node)[1]
    if isinstance(works_along, (list, tuple)):  # layer_norm's normalized_shape
        along = range(_rank(node) - len(works_along), _rank(node))
    else:
        along = range(_positive(works_along, _rank(node)), _positive(works_along, _rank(node)) + 1)
    return {_args(node)[0]: axis} if axis not in along else None


def _linear(node: Node, axis: int) -> _Asked:
    source, *weights = _args(node)
    return {source: axis} if axis < _rank(node) - 1 and source not in weights else None


def _matmul(node: Node, axis: int) -> _Asked:
    left, right = _args(node)[:2]
    same_rank = _rank(left) == _rank(right) == _rank(node)
    return {left: axis} if same_rank and axis == _rank(node) - 2 and left is not right else None


def _transpose(node: Node, axis: int) -> _Asked:
    first, second = (_positive(dim, _rank(node)) for dim in _args(node)[1:3])
    return {_args(node)[0]: {first: second, second: first}.get(axis, axis)}


def _permute(node: Node, axis: int) -> _Asked:
    return {_args(node)[0]: _positive(_args(node)[1][axis], _rank(node))}


def _unsqueeze(node: Node, axis: int) -> _Asked:
    added = _positive(_args(node)[1], _rank(node))
    return {_args(node)[0]: axis - (axis > added)} if axis != added else None


def _select(node: Node, axis: int) -> _Asked:
    dropped = _positive(_args(node)[1], _rank(_args(node)[0]))
    return {_args(node)[0]: axis + (axis >= dropped)}


def _slice(node: Node, axis: int) -> _Asked:
    defaults: tuple[Any, ...] = (None, 0, None, None, 1)
    source, dim, start, _, step = _args(node) + defaults[len(_args(node)) :]
    return {source: axis} if _positive(dim, _rank(node)) != axis or (start in (None, 0) and step == 1) else None


def _reduce(node: Node, axis: int) -> _Asked:
    """A mean or a sum over other axes, behind this one unless they are kept."""
    source, dims, *kept = (*_args(node), None)[:3]
    if not dims:  # over all of them
        return None
    along = [_positive(dim, _rank(source)) for dim in dims]
    stays = axis not in along and (True in kept or min(along) > axis)
    return {source: axis} if stays else None


def _reshape(node: Node, axis: int) -> _Asked:
    """An axis that stays whole, with as much before it as it had."""
    shape, source = _shape(node), _shape(_args(node)[0])
    for source_axis, size in enumerate(source):
        if _known(size, shape[axis]) and _known(math.prod(source[:source_axis]), math.prod(shape[:axis])):
            return {_args(node)[0]: source_axis}
    return None


def _cat(node: Node, axis: int) -> _Asked:
    dim = _args(node)[1] if len(_args(node)) > 1 else 0
    return dict.fromkeys(_args(node)[0], axis) if _positive(dim, _rank(node)) != axis else None


def _gather(node: Node, axis: int) -> _Asked:
    source, dim, index = _args(node)[:3]
    same = _known(_shape(source)[axis], _shape(index)[axis])
    return {source: axis, index: axis} if same and _positive(dim, _rank(node)) != axis else None


def _split(node: Node, axis: int) -> _Asked:
    source = _args(node)[0]
    dim = _args(node)[2] if len(_args(node)) > 2 else 0
    return {source: axis} if _positive(dim, _rank(source)) != axis else None


def _part(node: Node, axis: int) -> _Asked:
    return {_args(node)[0]: axis}


def _resize(node: Node, axis: int) -> None:
    """Put 1 for a narrowed axis in the arguments of an operation that names its output's sizes, or where it ends."""
    if node.target in _SIZED:
        sizes = list(_args(node)[1])
        sizes[axis] = 1
        node.args = (_args(node)[0], sizes, *_args(node)[2:])
    elif node.target is aten.slice.Tensor and _positive((*_args(node), 0)[1], _rank(node)) == axis:
        node.args = (_args(node)[0], axis, 0, 1)


def _args(node: Node) -> tuple[Any, ...]:
    return node.args


def _is_tensor(node: Node) -> bool:
    return isinstance(node.meta["val"], torch.Tensor)


def _shape(node: Any) -> Sequence[Any]:
    return node.meta["val"].shape


def _rank(node: Any) -> int:
    return len(_shape(node))


def _positive(axis: int, rank: int) -> int:
    return axis % rank


def _known(one: Any, other: Any) -> bool:
    return statically_known_true(one == other)


_Rule = Callable[[Node, int], _Asked]
_SIZED = {aten.view.default, aten._unsafe_view.default, aten.reshape.default, aten.expand.default}
_PRODUCTS = {aten.linear.default, aten.matmul.default, aten.bmm.default}
_ELEMENTWISE = (  # of those that torch does not tag as such
    aten.dropout.default,
    aten.contiguous.default,
    aten.type_as.default,
    aten._to_copy.default,
)
_RULES: dict[Any, _Rule] = {
    **dict.fromkeys(_ELEMENTWISE, _elementwise),
    MARK: _mark,
    aten.linear.default: _linear,
    aten.matmul.default: _matmul,
    aten.bmm.default: _matmul,
    aten.layer_norm.default: _beside,
    aten.softmax.int: _beside,
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
    aten.cat.default: _cat,
    aten.gather.default: _gather,
    aten.split.Tensor: _split,
    aten.split_with_sizes.default: _split,
    getitem: _part,
}
