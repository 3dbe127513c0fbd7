"""Models that name weights outside of themselves, made by the ``onnx`` library."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from amalgam_edge.errors import AmalgamError
from amalgam_edge.runtime.external_data import has_external_data
from amalgam_edge.runtime.session import open_session
from amalgam_edge.storage.own_files import FileContent


def tensor(*, external=False, address=False):
    made = numpy_helper.from_array(np.ones(3, dtype=np.float32), "w")
    if external:
        made.ClearField("raw_data")
        made.data_location = TensorProto.EXTERNAL
        where = "*/_ORT_MEM_ADDR_/*" if address else "../../secret.bin"
        for key, value in (("location", where), ("offset", "0"), ("length", "12")):
            made.external_data.add(key=key, value=value)
    return made


def graph(*, initializer=None, nodes=()):
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [3]) for name in ("x", "logits")]
    nodes = [*nodes, helper.make_node("Add", ["x", "w"], ["logits"])]
    return helper.make_graph(nodes, "g", values[:1], values[1:], [initializer] if initializer else [])


def attribute(**content):
    made = AttributeProto(name="a")
    for name, value in content.items():
        field = getattr(made, name)
        if hasattr(field, "append"):
            field.append(value)
        else:
            field.CopyFrom(value)
    return made


def sparse(part):
    made = onnx.SparseTensorProto(dims=[9])
    getattr(made, part).CopyFrom(tensor(external=True))
    return made


def node_with(**content):
    node = helper.make_node("Constant", [], ["c"])
    node.attribute.append(attribute(**content))
    return node


def in_model(made_graph, **fields):
    model = helper.make_model(made_graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    for name, value in fields.items():
        getattr(model, name).append(value)
    return model


INSIDE = graph(initializer=tensor(external=True))
PLACES = {
    "a weight": in_model(graph(initializer=tensor(external=True))),
    "an address in memory": in_model(graph(initializer=tensor(external=True, address=True))),
    "a constant": in_model(graph(nodes=[node_with(t=tensor(external=True))])),
    "constants": in_model(graph(nodes=[node_with(tensors=tensor(external=True))])),
    "a branch": in_model(graph(nodes=[node_with(g=INSIDE)])),
    "branches": in_model(graph(nodes=[node_with(graphs=INSIDE)])),
    "a branch within a branch": in_model(graph(nodes=[node_with(g=graph(nodes=[node_with(g=INSIDE)]))])),
    "sparse values": in_model(graph(nodes=[node_with(sparse_tensor=sparse("values"))])),
    "sparse indices": in_model(graph(nodes=[node_with(sparse_tensors=sparse("indices"))])),
    "a function": in_model(
        graph(initializer=tensor()),
        functions=onnx.FunctionProto(name="f", domain="d", node=[node_with(t=tensor(external=True))]),
    ),
    "an attribute of a function": in_model(
        graph(initializer=tensor()),
        functions=onnx.FunctionProto(name="f", attribute_proto=[attribute(t=tensor(external=True))]),
    ),
    "training": in_model(
        graph(initializer=tensor()),
        training_info=onnx.TrainingInfoProto(algorithm=INSIDE),
    ),
    "a place without its mark": in_model(graph(initializer=tensor())),
}
PLACES["a place without its mark"].graph.initializer[0].external_data.add(key="location", value="x")
PLACES["sparse weights"] = in_model(graph(initializer=tensor()))
PLACES["sparse weights"].graph.sparse_initializer.append(sparse("values"))


@pytest.mark.parametrize("place", PLACES)
def test_weights_elsewhere_are_found_wherever_the_model_names_them(tmp_path, monkeypatch, place):
    content = PLACES[place].SerializeToString()
    assert has_external_data(content)
    monkeypatch.setattr("onnxruntime.InferenceSession", lambda *a, **k: pytest.fail("the runtime saw it"))
    with pytest.raises(AmalgamError, match=r"model\.onnx: keeps weights outside of the file"):
        open_session(FileContent(tmp_path / "model.onnx", content))


def test_models_that_hold_their_weights_are_let_be(bundle_folder):
    models = [graph(initializer=tensor(), nodes=[node_with(t=tensor()), node_with(g=graph(initializer=tensor()))])]
    assert not any(has_external_data(in_model(one).SerializeToString()) for one in models)
    for file in (bundle_folder / "onnx").glob("*.onnx"):
        assert not has_external_data(file.read_bytes())
        open_session(FileContent.read(file))


def test_every_field_of_onnx_that_leads_to_a_tensor_is_followed():
    """Compared with the description of ONNX' messages that the library carries."""
    from amalgam_edge.runtime.external_data import _FIELDS

    names = {
        "ModelProto": "model", "GraphProto": "graph", "TrainingInfoProto": "training", "FunctionProto": "function",
        "NodeProto": "node", "AttributeProto": "attribute", "SparseTensorProto": "sparse tensor",
        "TensorProto": "tensor",
    }  # fmt: skip
    found = {"ModelProto": onnx.ModelProto.DESCRIPTOR}
    waiting = list(found.values())
    while waiting:
        for field in waiting.pop().fields:
            if field.message_type is not None and field.message_type.name not in found:
                found[field.message_type.name] = field.message_type
                waiting.append(field.message_type)
    inside = {
        name: {field.number: field.message_type.name for field in message.fields if field.message_type is not None}
        for name, message in found.items()
    }
    leading = {"TensorProto"}
    while more := {name for name, fields in inside.items() if leading & {*fields.values()}} - leading:
        leading |= more
    assert leading == set(names)
    assert {
        names[message]: {number: names[kind] for number, kind in inside[message].items() if kind in names}
        for message in leading - {"TensorProto"}
    } == _FIELDS


@settings(max_examples=200, deadline=None)
@given(content=st.binary(max_size=200))
def test_any_bytes_are_answered_or_refused(content):
    try:
        assert has_external_data(content) in (True, False)
    except ValueError:
        return


@pytest.mark.parametrize(
    "content",
    [
        b"\x3a",  # a graph without its length
        b"\x3a\x05ab",  # cut off
        b"\x38\x01",  # a number in the graph's place
        b"\x3b\x3c",  # a group
        b"\x80" * 11,
        b"\x3a" + b"\xff" * 9 + b"\x01",
    ],
)
def test_what_is_no_model_is_refused_in_one_line(tmp_path, content):
    with pytest.raises(ValueError):
        has_external_data(content)
    with pytest.raises(AmalgamError, match=r"m\.onnx: onnxruntime cannot load it") as refused:
        open_session(FileContent(tmp_path / "m.onnx", content))
    assert "\n" not in str(refused.value)


def test_messages_nested_too_deeply_are_refused():
    inner = b""
    for _ in range(200):
        inner = b"\x32" + _varint(len(inner)) + inner  # a graph in an attribute
        inner = b"\x2a" + _varint(len(inner)) + inner  # an attribute of a node
        inner = b"\x0a" + _varint(len(inner)) + inner  # a node of a graph
    with pytest.raises(ValueError, match="nested too deeply"):
        has_external_data(b"\x3a" + _varint(len(inner)) + inner)


def _varint(number):
    encoded = bytearray()
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])
