"""Dropout as plain ONNX arithmetic, which no optimiser removes.

ONNX's own Dropout is deleted from graphs that are run for inference. Here each mark that tracing left becomes the
arithmetic of :mod:`amalgam_edge.masks`, word for word: integers that wrap around, a comparison, and a product with the
values. The small part of it, the hashes of rows and columns, is computed at once for all the sites of one shape.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from amalgam_edge import masks as words
from amalgam_edge.exporters.marks import DOMAIN
from amalgam_edge.masks import Masks

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


@dataclass(frozen=True)
class _Drawn:
    """Names of one site's words, each broadcast over the other's axes; see :class:`amalgam_edge.masks.UnitHashes`."""

    odd: tuple[str, str]
    factor: tuple[str, str]
    shift: tuple[str, str] | None = None


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
    builder = _Builder()
    masker = _Masker(builder, passes, masks)
    drawn: dict[int, _Drawn] = {}
    for node in graph.node:
        site = sites.get(node.output[0])
        if site is None:
            builder.nodes.append(node)
            continue
        if site.number not in drawn:
            alike = [other for other in sites.values() if (other.dims, other.batched) == (site.dims, site.batched)]
            drawn |= masker.draw(alike)
        masker.drop(site, drawn[site.number], probabilities[site.number])
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

    def split(self, stacked: str, n: int) -> list[str]:
        """The ``n`` entries of the first axis, that axis kept."""
        if n == 1:
            return [stacked]
        outputs = [f"{stacked}_{part}" for part in range(n)]
        self.nodes.append(helper.make_node("Split", [stacked], outputs, f"{stacked}_split", axis=0, num_outputs=n))
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
    """The arithmetic of :mod:`amalgam_edge.masks` as nodes; each method says which part of it."""

    def __init__(self, builder: _Builder, passes: int, masks: Masks) -> None:
        self._to = builder
        number = builder.add("Cast", MC_PASS, to=TensorProto.INT32)
        self._live = builder.add("GreaterOrEqual", number, builder.constant(0))
        seed = builder.add("Cast", MC_SEED, to=TensorProto.INT32)
        seed_word = self._mix(builder.add("BitwiseXor", seed, builder.constant(words.SEED_SALT)))
        length = words.round_length(passes, masks)
        number_of_round = builder.add("Div", number, builder.constant(length))
        after = builder.add("Add", number_of_round, builder.constant(1))
        round_word = self._mix(builder.add("Mul", after, builder.constant(words.GOLDEN)))
        self._word = self._mix(builder.add("Add", seed_word, round_word))
        self._strides = words.strides(length)
        self._tables = (self._shifts(number, length), builder.constant(self._strides)) if length > 1 else ()
        self._coordinates: dict[int | str, str] = {}
        self._levels: dict[float, tuple[str, str]] = {}

    def draw(self, sites: Sequence[_Site]) -> dict[int, _Drawn]:
        """``unit_hashes`` of sites whose masks have one shape, stacked along a first axis."""
        to, dims, n = self._to, sites[0].dims, len(sites)
        offsets = to.constant([words.site_offset(site.number) for site in sites])
        stacked = self._mix(to.add("Add", self._word, offsets))
        apart = to.add("Reshape", stacked, to.constant([n] + [1] * len(dims), np.int64))
        *row_axes, last = range(len(dims))
        rows = apart
        for axis in row_axes:
            rows = self._mix(to.add("Add", rows, self._coordinate(sites[0], axis)))
        columns = to.add("BitwiseXor", apart, to.constant(words.COLUMN_SALT))
        columns = self._mix(to.add("Add", columns, self._coordinate(sites[0], last)))
        factors = [self._mix(to.add("BitwiseXor", axis, to.constant(words.FACTOR_SALT))) for axis in (rows, columns)]
        odd = [to.add("BitwiseOr", rows, to.constant(1)), to.add("BitwiseAnd", columns, to.constant(-2))]
        parts = [odd, factors]
        if self._tables:
            parts.append([self._choose(*pair) for pair in zip(factors, self._tables, strict=True)])
        split = [list(zip(*(to.split(name, n) for name in pair), strict=True)) for pair in parts]
        return {site.number: _Drawn(*pairs) for site, *pairs in zip(sites, *split, strict=True)}

    def drop(self, site: _Site, drawn: _Drawn, p: float) -> None:
        """``DropoutPass.mask`` and the product with the values."""
        to = self._to
        moved = to.add("Mul", to.add("Add", *drawn.odd), to.add("Add", *drawn.factor))
        if drawn.shift:
            moved = to.add("Add", moved, to.add("Mul", *drawn.shift))
        threshold, scale = self._level(p)
        kept = to.add("Cast", to.add("GreaterOrEqual", moved, threshold), to=TensorProto.FLOAT)
        mask = to.add("Mul", kept, scale)
        if not site.batched:
            mask = to.add("Squeeze", mask, to.constant([0], np.int64))
        to.add("Mul", site.source, mask, output=site.target)

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

    def _coordinate(self, site: _Site, axis: int) -> str:
        """``coordinate_words`` of one axis of the mask, all other axes at one."""
        to, size = self._to, site.dims[axis]
        if size not in self._coordinates:
            self._coordinates[size] = (
                to.constant(words.coordinate_words(size).numpy())
                if isinstance(size, int)
                else self._coordinates_of(site.source, axis + site.batched)
            )
        shape = [-1 if other == axis else 1 for other in range(len(site.dims))]
        return to.add("Reshape", self._coordinates[size], to.constant(shape, np.int64))

    def _coordinates_of(self, source: str, axis: int) -> str:
        to = self._to
        size = to.add("Squeeze", to.add("Shape", source, start=axis, end=axis + 1), to.constant([0], np.int64))
        after = to.add("Add", to.add("Cast", size, to=TensorProto.INT32), to.constant(1))
        numbers = to.add("Range", to.constant(1), after, to.constant(1))
        return self._mix(to.add("Mul", numbers, to.constant(words.GOLDEN)))

    def _level(self, p: float) -> tuple[str, str]:
        """The word from which units stay, and what they are multiplied with."""
        to = self._to
        if p not in self._levels:
            self._levels[p] = (
                to.add("Where", self._live, to.constant(words.threshold(p)), to.constant(words.LOWEST)),
                to.add("Where", self._live, to.constant(words.scale(p), np.float32), to.constant(1.0, np.float32)),
            )
        return self._levels[p]


def _site(mark: NodeProto, dims: Mapping[str, _Dims]) -> _Site:
    number, batched = (next(a.i for a in mark.attribute if a.name == name) for name in ("site", "batched"))
    return _Site(number, mark.input[0], mark.output[0], dims[mark.output[0]][batched:], bool(batched))


def _dims(info: ValueInfoProto) -> _Dims:
    return tuple(dim.dim_param or dim.dim_value for dim in info.type.tensor_type.shape.dim)
