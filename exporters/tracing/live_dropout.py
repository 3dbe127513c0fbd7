"""Dropout as plain ONNX arithmetic, which no optimiser removes.

ONNX's own Dropout is deleted from graphs that are run for inference. Here each mark that tracing left becomes the
arithmetic of :mod:`amalgam_edge.dropout.masks`, word for word: integers that wrap around, a comparison, and a product
with the values. With short texts it is nodes that cost, more than what they compute. So words are mixed for all sites
at once that have an axis in common, and masks of one shape are made together; except where two axes grow with the
text, as in attention: there one mask at a time is as much as memory should hold.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from amalgam_edge.dropout import masks as words
from amalgam_edge.dropout.masks import Masks
from amalgam_edge.exporters.tracing.marks import DOMAIN

MC_PASS = "mc_pass"  # noqa: S105  (no password)
MC_SEED = "mc_seed"

_Dims = tuple[int | str, ...]


@dataclass(frozen=True)
class _Site:
    """A mark: what it reads and writes, the dimensions of its mask, and whether the batch comes before them."""

    number: int
    source: str
    target: str
    dims: _Dims
    batched: bool


class _Words(NamedTuple):
    """Names of what is drawn for the rows of some sites, or for their columns; the sites are the first axis.

    See :func:`amalgam_edge.dropout.masks.unit_hashes`; ``move`` is how far each has moved by this pass, nothing where
    masks are independent.
    """

    base: str
    factor: str
    move: str = ""

    def each(self, change: Callable[[str], str]) -> _Words:
        return _Words(*(change(name) if name else "" for name in self))


def place_live_dropout(model: onnx.ModelProto, probabilities: Mapping[int, float], passes: int, masks: Masks) -> None:
    """Turn every mark into arithmetic, in place, and add the inputs ``mc_pass`` and ``mc_seed``, scalars of int64.

    Args:
        model: traced, with the shapes of its values.
        probabilities: p of each site.
        passes: K, the length of a round, over which systematic masks are balanced.
        masks: ``systematic`` or ``independent``.
    """
    graph = model.graph
    dims = {info.name: _dims(info) for info in [*graph.value_info, *graph.input]}
    sites = {node.output[0]: _site(node, dims) for node in graph.node if node.domain == DOMAIN}
    axes = {dim: (info.name, axis) for info in graph.input for axis, dim in enumerate(dims[info.name])}
    builder = _Builder()
    masker = _Masker(builder, list(sites.values()), probabilities, axes, passes, masks)
    for node in graph.node:
        if node.domain == DOMAIN:
            masker.drop(sites[node.output[0]])
        else:
            builder.nodes.append(node)
    del graph.node[:]
    graph.node.extend(builder.nodes)
    graph.initializer.extend(builder.constants)
    graph.input.extend(helper.make_tensor_value_info(name, TensorProto.INT64, []) for name in (MC_PASS, MC_SEED))
    opsets = [opset for opset in model.opset_import if opset.domain != DOMAIN]
    del model.opset_import[:]
    model.opset_import.extend(opsets)


class _Builder:
    """Nodes and constants in the order in which they are asked for."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        self._known: dict[tuple[Any, ...], str] = {}

    def add(self, op_type: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Append a node of one output and return the output's name."""
        output = output or f"live_dropout/{op_type}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [output], f"live_dropout/{len(self.nodes)}", **attributes))
        return output

    def once(self, op_type: str, *inputs: str) -> str:
        """As :meth:`add`, but the same node on the same inputs is there once."""
        key = (op_type, *inputs)
        if key not in self._known:
            self._known[key] = self.add(op_type, *inputs)
        return self._known[key]

    def split(self, stacked: str, sizes: Sequence[int]) -> list[str]:
        """Parts of the first axis."""
        if len(sizes) == 1:
            return [stacked]
        outputs = [f"{stacked}_{part}" for part in range(len(sizes))]
        inputs = [stacked, self.constant(sizes, np.int64)]
        self.nodes.append(helper.make_node("Split", inputs, outputs, f"{stacked}_split", axis=0))
        return outputs

    def constant(self, value: Any, dtype: Any = np.int32) -> str:
        """The name of a constant; equal ones are stored once."""
        array = np.asarray(value, dtype=dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._known:
            self._known[key] = f"live_dropout/constant_{len(self._known)}"
            self.constants.append(numpy_helper.from_array(array, self._known[key]))
        return self._known[key]


class _Masker:
    """The arithmetic of :mod:`amalgam_edge.dropout.masks` as nodes; each method says which part of it.

    Args:
        builder: takes the nodes.
        sites: all that there are.
        probabilities: p of each.
        axes: where a size known only at run time can be read, a value and its axis; what lacks is read off the sites.
        passes: K.
        masks: ``systematic`` or ``independent``.
    """

    def __init__(
        self,
        builder: _Builder,
        sites: Sequence[_Site],
        probabilities: Mapping[int, float],
        axes: dict[int | str, tuple[str, int]],
        passes: int,
        masks: Masks,
    ) -> None:
        self._to = builder
        self._sites = sites
        self._probabilities = probabilities
        self._axes = axes
        number = builder.add("Cast", MC_PASS, to=TensorProto.INT32)
        self._live = builder.add("GreaterOrEqual", number, builder.constant(0))
        seed = builder.add("Cast", MC_SEED, to=TensorProto.INT32)
        seed_word = self._mix(builder.add("BitwiseXor", seed, builder.constant(words.SEED_SALT)))
        length = words.round_length(passes, masks)
        round_number = builder.add("Div", number, builder.constant(length))
        after = builder.add("Add", round_number, builder.constant(1))
        round_word = self._mix(builder.add("Mul", after, builder.constant(words.GOLDEN)))
        self._word = self._mix(builder.add("Add", seed_word, round_word))
        self._strides = words.strides(length)
        self._tables = (self._shifts(number, length), builder.constant(self._strides)) if length > 1 else ("", "")
        self._coordinates: dict[int | str, str] = {}
        self._drawn: dict[int, tuple[_Words, _Words]] = {}
        self._made: dict[int, str] = {}

    def drop(self, site: _Site) -> None:
        """The product of a site's values with its mask."""
        to = self._to
        for axis, size in enumerate(site.dims):
            self._axes.setdefault(size, (site.source, axis + site.batched))
        if not self._is_drawn(site):
            self._draw([other for other in self._sites if not self._is_drawn(other) and self._is_known(other.dims)])
        mask = self._made.get(site.number) or self._mask([site], *self._drawn[site.number])
        if not site.batched:
            mask = to.add("Squeeze", mask, to.constant([0], np.int64))
        to.add("Mul", site.source, mask, output=site.target)

    def _is_drawn(self, site: _Site) -> bool:
        return site.number in self._drawn or site.number in self._made

    def _is_known(self, dims: _Dims) -> bool:
        return all(isinstance(size, int) or size in self._axes for size in dims)

    def _draw(self, sites: Sequence[_Site]) -> None:
        """``unit_hashes`` of some sites, up to what needs rows and columns both."""
        to, shapes = self._to, list(dict.fromkeys(site.dims for site in sites))
        sites = sorted(sites, key=lambda site: shapes.index(site.dims))
        offsets = to.constant([words.site_offset(site.number) for site in sites])
        drawn = self._mix(to.add("Add", self._word, offsets))
        rows = {dims: _widest(dims[:-1], [other[:-1] for other in shapes]) for dims in shapes}
        columns = {dims: dims[-1:] for dims in shapes}
        rows_of = self._shared(sites, drawn, rows, self._rows)
        columns_of = self._shared(sites, drawn, columns, self._columns)
        for dims in shapes:
            cut = [axis + 1 for axis, pair in enumerate(zip(dims, rows[dims], strict=False)) if pair[0] != pair[1]]
            own_rows = rows_of[dims].each(partial(self._first, axes=cut))
            own_columns = columns_of[dims].each(partial(self._unsqueezed, axes=list(range(1, len(dims)))))
            self._keep([site for site in sites if site.dims == dims], own_rows, own_columns)

    def _keep(self, sites: Sequence[_Site], rows: _Words, columns: _Words) -> None:
        """Keep what was drawn for sites of one shape: their masks, or if these would grow too large, their words."""
        each = [1] * len(sites)
        numbers = [site.number for site in sites]
        if sum(isinstance(size, str) for size in sites[0].dims) < 2:
            self._made |= zip(numbers, self._to.split(self._mask(sites, rows, columns), each), strict=True)
        else:
            pairs = zip(self._split(rows, each), self._split(columns, each), strict=True)
            self._drawn |= zip(numbers, pairs, strict=True)

    def _shared(
        self,
        sites: Sequence[_Site],
        drawn: str,
        kinds: Mapping[_Dims, _Dims],
        draw: Callable[[str, _Dims], _Words],
    ) -> dict[_Dims, _Words]:
        """Draw for all sites of a kind together; what belongs to each shape of sites, which stand in its order."""
        found: dict[_Dims, _Words] = {}
        for kind in dict.fromkeys(kinds.values()):
            chosen = [number for number, site in enumerate(sites) if kinds[site.dims] == kind]
            word = drawn
            if len(chosen) < len(sites):
                word = self._to.add("Gather", drawn, self._to.constant(chosen, np.int64))
            counts = Counter(sites[number].dims for number in chosen)
            found |= zip(counts, self._split(draw(word, kind), list(counts.values())), strict=True)
        return found

    def _rows(self, word: str, dims: _Dims) -> _Words:
        """Of all sites that have rows of this shape: ``(n_sites, *dims, 1)``."""
        to = self._to
        rows = self._unsqueezed(word, list(range(1, len(dims) + 2)))
        for axis, size in enumerate(dims):
            coordinate = self._unsqueezed(self._coordinate(size), list(range(1, len(dims) + 1 - axis)))
            rows = self._mix(to.add("Add", rows, coordinate))
        return self._words(to.add("BitwiseOr", rows, to.constant(1)), rows, self._tables[0])

    def _columns(self, word: str, dims: _Dims) -> _Words:
        """Of all sites that have this many columns: ``(n_sites, n_columns)``."""
        to = self._to
        salted = to.add("BitwiseXor", self._unsqueezed(word, [1]), to.constant(words.COLUMN_SALT))
        columns = self._mix(to.add("Add", salted, self._coordinate(dims[0])))
        return self._words(to.add("BitwiseAnd", columns, to.constant(-2)), columns, self._tables[1])

    def _words(self, base: str, word: str, table: str) -> _Words:
        factor = self._mix(self._to.add("BitwiseXor", word, self._to.constant(words.FACTOR_SALT)))
        return _Words(base, factor, self._choose(factor, table) if table else "")

    def _mask(self, sites: Sequence[_Site], rows: _Words, columns: _Words) -> str:
        """``DropoutPass.mask`` of sites of one shape, ``(n_sites, *dims)``."""
        to = self._to
        moved = to.add("Mul", to.add("Add", rows.base, columns.base), to.add("Add", rows.factor, columns.factor))
        if rows.move:
            moved = to.add("Add", moved, to.add("Mul", rows.move, columns.move))
        rates = [self._probabilities[site.number] for site in sites]
        shape = [len(sites)] + [1] * len(sites[0].dims) if len(set(rates)) > 1 else []
        thresholds, scales = (
            np.array([function(rate) for rate in rates][: math.prod(shape)], dtype).reshape(shape)
            for function, dtype in ((words.threshold, np.int32), (words.scale, np.float32))
        )
        threshold = self._if_live(to.constant(thresholds), to.constant(words.LOWEST))
        scale = self._if_live(to.constant(scales, np.float32), to.constant(1.0, np.float32))
        return to.add("Where", to.add("GreaterOrEqual", moved, threshold), scale, to.constant(0.0, np.float32))

    def _if_live(self, one: str, other: str) -> str:
        return self._to.once("Where", self._live, one, other)

    def _split(self, drawn: _Words, sizes: Sequence[int]) -> list[_Words]:
        parts = (self._to.split(name, sizes) if name else [""] * len(sizes) for name in drawn)
        return [_Words(*each) for each in zip(*parts, strict=True)]

    def _first(self, name: str, axes: Sequence[int]) -> str:
        """The first entry of some axes, which are kept."""
        if not axes:
            return name
        begin, end = ([value] * len(axes) for value in (0, 1))
        return self._to.add("Slice", name, *(self._to.constant(each, np.int64) for each in (begin, end, axes)))

    def _unsqueezed(self, name: str, axes: Sequence[int]) -> str:
        return self._to.once("Unsqueeze", name, self._to.constant(axes, np.int64)) if axes else name

    def _shifts(self, number: str, length: int) -> str:
        """How far each stride has moved by this pass of its round."""
        to = self._to
        turn = to.add("Mod", number, to.constant(length))
        moved = to.add("Mod", to.add("Mul", to.constant(self._strides), turn), to.constant(length))
        return to.add("Mul", moved, to.constant(words.step(length)))

    def _mix(self, word: str) -> str:
        to = self._to
        for multiplier in words.MULTIPLIERS:
            word = to.add("BitwiseXor", word, self._shifted(word, 15))
            word = to.add("Mul", word, to.constant(multiplier))
        return to.add("BitwiseXor", word, self._shifted(word, 16))

    def _shifted(self, word: str, bits: int) -> str:
        """A word without its sign, shifted right.

        The bits that fall out are cleared first, so that the quotient is exact where a runtime divides in float32.
        """
        to = self._to
        kept = to.add("BitwiseAnd", word, to.constant(words.POSITIVE & -(1 << bits)))
        return to.add("Div", kept, to.constant(1 << bits))

    def _choose(self, word: str, table: str) -> str:
        """The table's entry that a word chooses."""
        to = self._to
        choice = self._shifted(word, 31 - words.CHOICE_BITS)
        index = self._shifted(to.add("Mul", choice, to.constant(len(self._strides))), words.CHOICE_BITS)
        return to.add("Gather", table, index)

    def _coordinate(self, size: int | str) -> str:
        """``coordinate_words`` of an axis."""
        if size not in self._coordinates:
            self._coordinates[size] = (
                self._to.constant(words.coordinate_words(size).numpy())
                if isinstance(size, int)
                else self._coordinates_along(*self._axes[size])
            )
        return self._coordinates[size]

    def _coordinates_along(self, source: str, axis: int) -> str:
        to = self._to
        size = to.add("Squeeze", to.add("Shape", source, start=axis, end=axis + 1), to.constant([0], np.int64))
        after = to.add("Add", to.add("Cast", size, to=TensorProto.INT32), to.constant(1))
        numbers = to.add("Range", to.constant(1), after, to.constant(1))
        return self._mix(to.add("Mul", numbers, to.constant(words.GOLDEN)))


def _site(mark: NodeProto, dims: Mapping[str, _Dims]) -> _Site:
    number, batched = (next(a.i for a in mark.attribute if a.name == name) for name in ("site", "batched"))
    return _Site(number, mark.input[0], mark.output[0], dims[mark.output[0]][batched:], bool(batched))


def _dims(info: ValueInfoProto) -> _Dims:
    return tuple(dim.dim_param or dim.dim_value for dim in info.type.tensor_type.shape.dim)


def _widest(dims: _Dims, others: Sequence[_Dims]) -> _Dims:
    """What these rows are the first of: a size of one gives way to that of others that agree in all else."""
    for other in others:
        if len(other) == len(dims) and all(size in (1, there) for size, there in zip(dims, other, strict=True)):
            dims = other
    return dims
