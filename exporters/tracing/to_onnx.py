"""Trace a torch classifier and translate it to ONNX; students and teachers take the same way."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path

import onnx
import torch
from transformers import PreTrainedModel

from amalgam_edge.errors import AmalgamError, first_line
from amalgam_edge.exporters.rewrites.constant_embeddings import fold_constant_embeddings
from amalgam_edge.exporters.rewrites.kernel_patterns import reorder_gelu
from amalgam_edge.exporters.rewrites.padding_mask import simplify_padding_mask
from amalgam_edge.exporters.tracing.dropout_marks import MARK, MarkDropout, mark_to_onnx
from amalgam_edge.exporters.tracing.first_token import can_be_narrowed, narrow_to_first_token

OPSET = 18
INPUT_NAMES = ("input_ids", "attention_mask")
OUTPUT_NAME = "logits"

_MAX_FILE_BYTES = 2_000_000_000  # of weights in one file; protobuf ends at 2 GiB


class LogitsModule(torch.nn.Module):
    """A classifier as a function of two tensors, which the exporter can trace."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Logits ``(n_texts, n_classes)`` of token ids and attention mask, both ``(n_texts, n_tokens)``."""
        return self.model(input_ids=input_ids, attention_mask=attention_mask).logits


def to_onnx(model: PreTrainedModel, unbatched_sites: Collection[int] = ()) -> onnx.ModelProto:
    """Trace a classifier with any batch size and length, narrow its last layer, and translate it to ONNX.

    The result holds weights and the graph, but no source lines and no names of folders.

    Args:
        model: A classifier on the CPU, with eager attention. In training mode each of its dropouts becomes a mark.
        unbatched_sites: The numbers of the dropout sites whose first axis is not the batch.

    Raises:
        AmalgamError: The model cannot be exported.
    """
    try:
        with quiet_exporter(), torch.no_grad():
            traced = trace(LogitsModule(model), probe_inputs(model, 2, 12, 5), unbatched_sites)
            narrow_to_first_token(traced.graph_module)
            program = torch.onnx.export(
                traced,
                dynamo=True,
                opset_version=OPSET,
                input_names=list(INPUT_NAMES),
                output_names=[OUTPUT_NAME],
                custom_translation_table={MARK: mark_to_onnx},
                verbose=False,
            )
    except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
        raise AmalgamError(f"a {model.config.model_type} cannot be exported ({first_line(error)})") from error
    assert program is not None  # noqa: S101  (None only without dynamo)
    proto = _without_metadata(program.model_proto)
    reorder_gelu(proto.graph)
    fold_constant_embeddings(proto.graph)
    simplify_padding_mask(proto.graph, OPSET)
    return proto


def trace(
    module: torch.nn.Module, example: tuple[torch.Tensor, ...], unbatched_sites: Collection[int] = ()
) -> torch.export.ExportedProgram:
    """Trace a module for any number of texts and tokens, in operations that :mod:`first_token` knows.

    Args:
        module: The module; each of its dropouts that is in training mode becomes a mark.
        example: Its inputs, whose first two axes are texts and tokens.
        unbatched_sites: The numbers of the dropout sites whose first axis is not the batch.
    """
    dynamic = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    with MarkDropout(unbatched_sites):
        traced = torch.export.export(module, example, dynamic_shapes=(dynamic,) * len(example), strict=False)
        if not can_be_narrowed(traced.graph):
            traced = traced.run_decompositions({})  # takes as long as tracing, and few models need it
    _drop_assertions(traced.graph)
    traced.graph.eliminate_dead_code()
    return traced


def probe_inputs(
    model: PreTrainedModel, n_texts: int, n_tokens: int, padding: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids spread over the vocabulary and their attention mask, both ``(n_texts, n_tokens)``.

    Args:
        model: The model, for the size of its vocabulary and its padding token.
        n_texts: The number of texts.
        n_tokens: The number of tokens in each text.
        padding: How many tokens at the end of the first text are padding.
    """
    pad = model.config.pad_token_id or 0
    vocabulary = int(model.config.vocab_size)
    ids = (torch.arange(n_texts * n_tokens).reshape(n_texts, n_tokens) * 7919 + 11) % vocabulary
    ids[ids == pad] = (pad + 1) % vocabulary
    mask = torch.ones_like(ids)
    if padding:
        ids[0, -padding:] = pad
        mask[0, -padding:] = 0
    return ids, mask


def save_onnx(proto: onnx.ModelProto, path: Path) -> None:
    """Write a model; if its weights do not fit into one file, they go beside it, into ``NAME.data``.

    In that case the weights are moved out of ``proto``.

    Raises:
        OSError: The file cannot be written, for lack of room or permission.
    """
    beside = path.with_name(f"{path.name}.data")
    weights = sum(len(tensor.raw_data) for tensor in proto.graph.initializer)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside.unlink(missing_ok=True)  # onnx would append to it
    if weights < _MAX_FILE_BYTES:
        onnx.save(proto, path)
    else:
        onnx.save(proto, path, save_as_external_data=True, location=beside.name)


@contextmanager
def eager_attention(model: PreTrainedModel) -> Iterator[None]:
    """Let a model compute attention by plain operations, which can be traced, and restore its way afterwards."""
    implementation = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(implementation)


def _drop_assertions(graph: torch.fx.Graph) -> None:
    """Remove the checks of tensor types that tracing leaves behind: they read whole tensors, and hinder narrowing."""
    for node in list(graph.nodes):
        if node.target is torch.ops.aten._assert_tensor_metadata.default:
            graph.erase_node(node)


def _without_metadata(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Delete the exporter's notes on source lines and modules, in place."""
    graph = proto.graph
    for holder in (proto, graph, *graph.node, *graph.initializer, *graph.input, *graph.output, *graph.value_info):
        del holder.metadata_props[:]
    for node in graph.node:
        node.ClearField("doc_string")
    return proto


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """Keep the exporter's messages about its own internals from users; where it fails, it also prints the graph."""
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
