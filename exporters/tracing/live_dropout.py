"""Write dropout as plain ONNX arithmetic, which no optimizer removes.

Pattern: the marks that tracing left in place of dropouts.
Replacement: the arithmetic of :mod:`amalgam_edge.dropout.masks`, operation by operation: integers that wrap around, a
comparison, and a product with the values. ONNX's own Dropout would be deleted from a graph that runs inference.
Exact: the masks are those of torch to the bit, in any runtime.
Fast: with short texts each node costs more to start than to compute. So the words of all sites that have an axis in
common are mixed together, and masks of one shape are computed together; except where two axes grow with the text, as in
attention, where one mask at a time is as much as memory should hold.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, ValueInfoProto, helper

from amalgam_edge.dropout import masks as words
from amalgam_edge.dropout.masks import Masks
from amalgam_edge.exporters.tracing.dropout_marks import DOMAIN
from amalgam_edge.exporters.tracing.node_builder import NodeBuilder

MC_PASS = "mc_pass"  # noqa: S105  (no password)
MC_SEED = "mc_seed"

_Shape = tuple[int | str, ...]  # a size known only at run time is named


@dataclass(frozen=True)
class _MarkedSite:
    """A dropout site, as its mark describes it.

    Attributes:
        number: The number of the site.
        source: The name of the values that it reads.
        target: The name of the values that it writes.
        shape: The shape of its mask, without the batch.
        batched: Whether the values have the batch as a first axis.
    """

    number: int
    source: str
    target: str
    shape: _Shape
    batched: bool


class _DrawnWords(NamedTuple):
    """The names of what is drawn for the rows of some sites, or for their columns; sites are the first axis.

    A unit's hash is (base of row + base of column) · (factor of row + factor of column), as
    :func:`amalgam_edge.dropout.masks.unit_hashes` computes it.

    Attributes:
        base: The name of the summand of the hash.
        factor: The name of the factor of the hash.
        shift: The name of how far the row's or column's stride has moved the hash by this pass; empty where masks are
            independent.
    """

    base: str
    factor: str
    shift: str = ""

    def map(self, change: Callable[[str], str]) -> _DrawnWords:
        return _DrawnWords(*(change(name) if name else "" for name in self))


def place_live_dropout(model: onnx.ModelProto, probabilities: Mapping[int, float], passes: int, masks: Masks) -> None:
    """Turn every mark into arithmetic, in place, and add the inputs ``mc_pass`` and ``mc_seed``, scalars of int64.

    Args:
        model: A traced model that records the shapes of its values.
        probabilities: The dropout probability p of each site, by its number.
        passes: K, the length of a round, over which systematic masks are balanced.
        masks: ``systematic`` or ``independent``.
    """
    graph = model.graph
    shapes = {info.name: _shape(info) for info in [*graph.value_info, *graph.input]}
    sites = {node.output[0]: _marked_site(node, shapes) for node in graph.node if node.domain == DOMAIN}
    sizes = {size: (info.name, axis) for info in graph.input for axis, size in enumerate(shapes[info.name])}
    builder = NodeBuilder()
    mask_nodes = _MaskNodes(builder, list(sites.values()), probabilities, sizes, passes, masks)
    for node in graph.node:
        if node.domain == DOMAIN:
            mask_nodes.apply(sites[node.output[0]])
        else:
            builder.nodes.append(node)
    del graph.node[:]
    graph.node.extend(builder.nodes)
    graph.initializer.extend(builder.constants)
    graph.input.extend(helper.make_tensor_value_info(name, TensorProto.INT64, []) for name in (MC_PASS, MC_SEED))
    opsets = [opset for opset in model.opset_import if opset.domain != DOMAIN]
    del model.opset_import[:]
    model.opset_import.extend(opsets)


class _WordNodes:
    """Scrambled 32-bit words and the tables of strides, as nodes; each method names its counterpart in torch.

    Args:
        builder: Takes the nodes.
        passes: K, the length of a round.
        masks: ``systematic`` or ``independent``.

    Attributes:
        live: The name of whether dropout is on in this pass.
        round_word: The name of the word of seed and round, before a site is mixed in.
        shifts: The name of the table of how far each stride has moved by this pass; empty where masks are independent.
        strides: The name of the table of strides; empty where masks are independent.
    """

    def __init__(self, builder: NodeBuilder, passes: int, masks: Masks) -> None:
        self._builder = builder
        number = builder.add("Cast", MC_PASS, to=TensorProto.INT32)
        self.live = builder.add("GreaterOrEqual", number, builder.constant(0))
        seed = builder.add("Cast", MC_SEED, to=TensorProto.INT32)
        seed_word = self.mix(builder.add("BitwiseXor", seed, builder.constant(words.SEED_SALT)))
        length = words.round_length(passes, masks)
        number_of_round = builder.add("Div", number, builder.constant(length))
        next_number = builder.add("Add", number_of_round, builder.constant(1))
        mixed_number = self.mix(builder.add("Mul", next_number, builder.constant(words.GOLDEN)))
        self.round_word = self.mix(builder.add("Add", seed_word, mixed_number))
        self._strides = words.strides(length)
        balanced = length > 1
        self.shifts = self._shifts(number, length) if balanced else ""
        self.strides = builder.constant(self._strides) if balanced else ""

    def mix(self, word: str) -> str:
        """``masks.mix``."""
        builder = self._builder
        for multiplier in words.MULTIPLIERS:
            word = builder.add("BitwiseXor", word, self._shift_right(word, 15))
            word = builder.add("Mul", word, builder.constant(multiplier))
        return builder.add("BitwiseXor", word, self._shift_right(word, 16))

    def choose(self, word: str, table: str) -> str:
        """The entry of a table of strides that a word chooses."""
        builder = self._builder
        choice = self._shift_right(word, 31 - words.CHOICE_BITS)
        index = self._shift_right(builder.add("Mul", choice, builder.constant(len(self._strides))), words.CHOICE_BITS)
        return builder.add("Gather", table, index)

    def coordinates(self, size: int) -> str:
        """``masks.coordinate_words`` of an axis whose size is known."""
        return self._builder.constant(words.coordinate_words(size).numpy())

    def coordinates_along(self, source: str, axis: int) -> str:
        """``masks.coordinate_words`` of an axis whose size is read off a value at run time."""
        builder = self._builder
        shape = builder.add("Shape", source, start=axis, end=axis + 1)
        size = builder.add("Squeeze", shape, builder.constant([0], np.int64))
        end = builder.add("Add", builder.add("Cast", size, to=TensorProto.INT32), builder.constant(1))
        numbers = builder.add("Range", builder.constant(1), end, builder.constant(1))
        return self.mix(builder.add("Mul", numbers, builder.constant(words.GOLDEN)))

    def _shifts(self, number: str, length: int) -> str:
        """How far each stride has moved by this pass of its round."""
        builder = self._builder
        turn = builder.add("Mod", number, builder.constant(length))
        product = builder.add("Mul", builder.constant(self._strides), turn)
        moved = builder.add("Mod", product, builder.constant(length))
        return builder.add("Mul", moved, builder.constant(words.step(length)))

    def _shift_right(self, word: str, bits: int) -> str:
        """A word without its sign bit, shifted right.

        The bits that fall out are cleared first, so that the quotient is exact where a runtime divides in float32.
        """
        builder = self._builder
        kept = builder.add("BitwiseAnd", word, builder.constant(words.POSITIVE & -(1 << bits)))
        return builder.add("Div", kept, builder.constant(1 << bits))


class _MaskNodes:
    """The dropout masks of all sites as nodes, computed together as far as their shapes allow.

    Args:
        builder: Takes the nodes.
        sites: All sites of the graph.
        probabilities: The dropout probability p of each site, by its number.
        sizes: Where a size known only at run time can be read: a value and its axis. Sizes that lack are read off the
            values of the sites.
        passes: K, the length of a round.
        masks: ``systematic`` or ``independent``.
    """

    def __init__(
        self,
        builder: NodeBuilder,
        sites: Sequence[_MarkedSite],
        probabilities: Mapping[int, float],
        sizes: dict[int | str, tuple[str, int]],
        passes: int,
        masks: Masks,
    ) -> None:
        self._builder = builder
        self._words = _WordNodes(builder, passes, masks)
        self._sites = sites
        self._probabilities = probabilities
        self._sizes = sizes
        self._coordinates: dict[int | str, str] = {}
        self._drawn: dict[int, tuple[_DrawnWords, _DrawnWords]] = {}  # of rows and columns, by the site's number
        self._masks: dict[int, str] = {}  # by the site's number

    def apply(self, site: _MarkedSite) -> None:
        """Multiply a site's values with its mask."""
        builder = self._builder
        for axis, size in enumerate(site.shape):
            self._sizes.setdefault(size, (site.source, axis + site.batched))
        if not self._is_drawn(site):
            self._draw([other for other in self._sites if not self._is_drawn(other) and self._can_be_drawn(other)])
        mask = self._masks.get(site.number) or self._mask([site], *self._drawn[site.number])
        if not site.batched:
            mask = builder.add("Squeeze", mask, builder.constant([0], np.int64))
        builder.add("Mul", site.source, mask, output=site.target)

    def _is_drawn(self, site: _MarkedSite) -> bool:
        return site.number in self._drawn or site.number in self._masks

    def _can_be_drawn(self, site: _MarkedSite) -> bool:
        """Whether all sizes of a site's mask can be read at this point of the graph."""
        return all(isinstance(size, int) or size in self._sizes for size in site.shape)

    def _draw(self, sites: Sequence[_MarkedSite]) -> None:
        """``masks.unit_hashes`` of some sites, as far as rows and columns are hashed apart."""
        builder, shapes = self._builder, list(dict.fromkeys(site.shape for site in sites))
        sites = sorted(sites, key=lambda site: shapes.index(site.shape))
        offsets = builder.constant([words.site_offset(site.number) for site in sites])
        site_words = self._words.mix(builder.add("Add", self._words.round_word, offsets))
        row_shapes = {shape: _widest(shape[:-1], [other[:-1] for other in shapes]) for shape in shapes}
        column_shapes = {shape: shape[-1:] for shape in shapes}
        rows_of = self._draw_by_shape(sites, site_words, row_shapes, self._rows)
        columns_of = self._draw_by_shape(sites, site_words, column_shapes, self._columns)
        for shape in shapes:
            sizes = zip(shape, row_shapes[shape], strict=False)
            wider = [axis + 1 for axis, (size, drawn_size) in enumerate(sizes) if size != drawn_size]
            rows = rows_of[shape].map(partial(builder.first_entries, axes=wider))
            columns = columns_of[shape].map(partial(builder.unsqueeze, axes=list(range(1, len(shape)))))
            self._keep([site for site in sites if site.shape == shape], rows, columns)

    def _keep(self, sites: Sequence[_MarkedSite], rows: _DrawnWords, columns: _DrawnWords) -> None:
        """Keep what was drawn for sites of one shape: their masks, or their words if masks would grow too large."""
        one_each = [1] * len(sites)
        numbers = [site.number for site in sites]
        n_growing_axes = sum(isinstance(size, str) for size in sites[0].shape)
        if n_growing_axes < 2:
            masks = self._builder.split(self._mask(sites, rows, columns), one_each)
            self._masks |= zip(numbers, masks, strict=True)
        else:
            pairs = zip(self._split(rows, one_each), self._split(columns, one_each), strict=True)
            self._drawn |= zip(numbers, pairs, strict=True)

    def _draw_by_shape(
        self,
        sites: Sequence[_MarkedSite],
        site_words: str,
        drawn_shapes: Mapping[_Shape, _Shape],
        draw: Callable[[str, _Shape], _DrawnWords],
    ) -> dict[_Shape, _DrawnWords]:
        """Draw together for all sites whose rows, or columns, have one shape.

        Args:
            sites: The sites, ordered by shape.
            site_words: The name of the words of the sites, ``(n_sites,)``.
            drawn_shapes: The shape of the rows, or columns, that are drawn for each shape of sites.
            draw: Draws for sites of one such shape.

        Returns:
            What was drawn for each shape of sites.
        """
        found: dict[_Shape, _DrawnWords] = {}
        for drawn_shape in dict.fromkeys(drawn_shapes.values()):
            chosen = [place for place, site in enumerate(sites) if drawn_shapes[site.shape] == drawn_shape]
            word = site_words
            if len(chosen) < len(sites):
                word = self._builder.add("Gather", site_words, self._builder.constant(chosen, np.int64))
            counts = Counter(sites[place].shape for place in chosen)
            found |= zip(counts, self._split(draw(word, drawn_shape), list(counts.values())), strict=True)
        return found

    def _rows(self, word: str, shape: _Shape) -> _DrawnWords:
        """What is drawn for rows of this shape, ``(n_sites, *shape, 1)``."""
        builder = self._builder
        rows = builder.unsqueeze(word, list(range(1, len(shape) + 2)))
        for axis, size in enumerate(shape):
            coordinates = builder.unsqueeze(self._coordinates_of(size), list(range(1, len(shape) + 1 - axis)))
            rows = self._words.mix(builder.add("Add", rows, coordinates))
        return self._drawn_words(builder.add("BitwiseOr", rows, builder.constant(1)), rows, self._words.shifts)

    def _columns(self, word: str, shape: _Shape) -> _DrawnWords:
        """What is drawn for columns of this number, ``(n_sites, n_columns)``."""
        builder = self._builder
        salted = builder.add("BitwiseXor", builder.unsqueeze(word, [1]), builder.constant(words.COLUMN_SALT))
        columns = self._words.mix(builder.add("Add", salted, self._coordinates_of(shape[0])))
        return self._drawn_words(builder.add("BitwiseAnd", columns, builder.constant(-2)), columns, self._words.strides)

    def _drawn_words(self, base: str, word: str, table: str) -> _DrawnWords:
        builder = self._builder
        factor = self._words.mix(builder.add("BitwiseXor", word, builder.constant(words.FACTOR_SALT)))
        return _DrawnWords(base, factor, self._words.choose(factor, table) if table else "")

    def _mask(self, sites: Sequence[_MarkedSite], rows: _DrawnWords, columns: _DrawnWords) -> str:
        """``masks.DropoutPass.mask`` of sites of one shape, ``(n_sites, *shape)``."""
        builder = self._builder
        sums = builder.add("Add", rows.base, columns.base), builder.add("Add", rows.factor, columns.factor)
        hashes = builder.add("Mul", *sums)
        if rows.shift:
            hashes = builder.add("Add", hashes, builder.add("Mul", rows.shift, columns.shift))
        rates = [self._probabilities[site.number] for site in sites]
        shape = [len(sites)] + [1] * len(sites[0].shape) if len(set(rates)) > 1 else []
        rates = rates[: math.prod(shape)]
        thresholds = np.array([words.threshold(p) for p in rates], np.int32).reshape(shape)
        scales = np.array([words.scale(p) for p in rates], np.float32).reshape(shape)
        threshold = self._if_live(builder.constant(thresholds), builder.constant(words.LOWEST))
        scale = self._if_live(builder.constant(scales, np.float32), builder.constant(1.0, np.float32))
        kept = builder.add("GreaterOrEqual", hashes, threshold)
        return builder.add("Where", kept, scale, builder.constant(0.0, np.float32))

    def _if_live(self, value: str, without_dropout: str) -> str:
        return self._builder.add_once("Where", self._words.live, value, without_dropout)

    def _split(self, drawn: _DrawnWords, sizes: Sequence[int]) -> list[_DrawnWords]:
        parts = (self._builder.split(name, sizes) if name else [""] * len(sizes) for name in drawn)
        return [_DrawnWords(*names) for names in zip(*parts, strict=True)]

    def _coordinates_of(self, size: int | str) -> str:
        """``masks.coordinate_words`` of an axis."""
        if size not in self._coordinates:
            if isinstance(size, int):
                self._coordinates[size] = self._words.coordinates(size)
            else:
                self._coordinates[size] = self._words.coordinates_along(*self._sizes[size])
        return self._coordinates[size]


def _marked_site(mark: NodeProto, shapes: Mapping[str, _Shape]) -> _MarkedSite:
    number, batched = (next(a.i for a in mark.attribute if a.name == name) for name in ("site", "batched"))
    return _MarkedSite(number, mark.input[0], mark.output[0], shapes[mark.output[0]][batched:], bool(batched))


def _shape(info: ValueInfoProto) -> _Shape:
    return tuple(dim.dim_param or dim.dim_value for dim in info.type.tensor_type.shape.dim)


def _widest(shape: _Shape, others: Sequence[_Shape]) -> _Shape:
    """The widest shape of rows that begins with these: a size of one gives way to a larger one of another shape."""
    for other in others:
        if len(other) == len(shape) and all(size in (1, wide) for size, wide in zip(shape, other, strict=True)):
            shape = other
    return shape
