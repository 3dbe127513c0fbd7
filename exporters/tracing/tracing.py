"""torch → traced program → ONNX, for students and teachers alike."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import onnx
import torch
from transformers import PreTrainedModel

from amalgam_edge.errors import AmalgamError, first_line
from amalgam_edge.exporters.rewrites.constant_rows import fold_constant_rows
from amalgam_edge.exporters.rewrites.fusible import order_gelu
from amalgam_edge.exporters.rewrites.plain_mask import make_mask_plain
from amalgam_edge.exporters.tracing.first_token import first_token_only
from amalgam_edge.exporters.tracing.marks import MARK, MarkDropout, translate

OPSET = 18
INPUTS = ("input_ids", "attention_mask")
OUTPUT = "logits"

_LARGEST_FILE = 2_000_000_000  # bytes; protobuf ends at 2 GiB


class Logits(torch.nn.Module):
    """A classifier seen as a function of two tensors."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Logits ``(n_texts, n_labels)`` of token ids and attention mask, both ``(n_texts, n_tokens)``."""
        return self.model(input_ids=input_ids, attention_mask=attention_mask).logits


def to_onnx(model: PreTrainedModel, unbatched_sites: Collection[int] = ()) -> onnx.ModelProto:
    """Trace a classifier with dynamic batch and sequence, narrow its last layer, and translate it.

    The result holds weights and graph alone: no source lines and no folder names.

    Args:
        model: on the CPU, with eager attention. In training mode each of its dropouts becomes a mark.
        unbatched_sites: numbers of the dropouts whose first axis is not the batch.

    Raises:
        AmalgamError: the model cannot be exported.
    """
    example = probe_inputs(model, 2, 12, 5)
    dynamic = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    options: dict[str, Any] = {"args": example, "dynamic_shapes": (dynamic, dynamic), "strict": False}
    try:
        with quiet(), torch.no_grad():
            with MarkDropout(unbatched_sites):
                traced = torch.export.export(Logits(model), **options).run_decompositions({})
            _drop_assertions(traced.graph_module)
            first_token_only(traced.graph_module)
            program = torch.onnx.export(
                traced,
                dynamo=True,
                opset_version=OPSET,
                input_names=list(INPUTS),
                output_names=[OUTPUT],
                custom_translation_table={MARK: translate},
                verbose=False,
            )
    except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
        raise AmalgamError(f"a {model.config.model_type} cannot be exported ({first_line(error)})") from error
    assert program is not None  # noqa: S101  (None only without dynamo)
    proto = _stripped(program.model_proto)
    order_gelu(proto.graph)
    fold_constant_rows(proto.graph)
    make_mask_plain(proto.graph, OPSET)
    return proto


def probe_inputs(model: PreTrainedModel, texts: int, tokens: int, padding: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids spread over the vocabulary, the first text padded at its end, and the attention mask."""
    pad = model.config.pad_token_id or 0
    vocabulary = int(model.config.vocab_size)
    ids = (torch.arange(texts * tokens).reshape(texts, tokens) * 7919 + 11) % vocabulary
    ids[ids == pad] = (pad + 1) % vocabulary
    mask = torch.ones_like(ids)
    if padding:
        ids[0, -padding:] = pad
        mask[0, -padding:] = 0
    return ids, mask


def save(proto: onnx.ModelProto, path: Path) -> None:
    """Write a model; weights beyond what one file of the format can hold go beside it, into ``NAME.data``.

    They then leave ``proto``.

    Raises:
        AmalgamError: there is no room, or no right, to write it.
    """
    beside = path.with_name(f"{path.name}.data")
    weights = sum(len(tensor.raw_data) for tensor in proto.graph.initializer)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.unlink(missing_ok=True)  # onnx would append to it
        if weights < _LARGEST_FILE:
            onnx.save(proto, path)
        else:
            onnx.save(proto, path, save_as_external_data=True, location=beside.name)
    except OSError as error:
        raise AmalgamError(f"{path}: cannot be written ({error.strerror or first_line(error)})") from error


@contextmanager
def eager_attention(model: PreTrainedModel) -> Iterator[None]:
    """Keep a model on the attention that is made of plain operations."""
    implementation = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(implementation)


def _drop_assertions(module: torch.fx.GraphModule) -> None:
    """Remove checks of types that tracing left behind: they read whole tensors."""
    for node in list(module.graph.nodes):
        if node.target is torch.ops.aten._assert_tensor_metadata.default:
            module.graph.erase_node(node)


def _stripped(proto: onnx.ModelProto) -> onnx.ModelProto:
    graph = proto.graph
    for holder in (proto, graph, *graph.node, *graph.initializer, *graph.input, *graph.output, *graph.value_info):
        del holder.metadata_props[:]
    for node in graph.node:
        node.ClearField("doc_string")
    return proto


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the exporter's remarks on its own internals from users; where it fails, it also prints the whole graph."""
    loggers = [logging.getLogger(name) for name in ("torch", "torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
