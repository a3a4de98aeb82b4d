from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto

from fqonnx.errors import ModelError
from fqonnx.model_file import load_model
from fqonnx.passes import SelectWeightsPass, normalize
from support import model_from_text

HEADER = '<ir_version: 10, opset_import: ["": 20, "d": 1]>'


def linear() -> onnx.ModelProto:
    """Return y = x·w of 32 × 32."""
    text = f"{HEADER} g (float[N, 32] x) => (float[N, 32] y) {{ [layer] y = MatMul(x, w) }}"
    return ir.to_proto(model_from_text(text, w=np.eye(32, dtype=np.float32)))


def parsed(body: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(f"{HEADER} g (float[N, 4] x, bool c) => (float[N, 4] y) {body}")


def rejected(proto: onnx.ModelProto, folder: Path) -> str:
    """Return the one line that says why a model is not loaded."""
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError) as info:
        load_model(path)
    assert str(info.value).startswith(f"{path}: ")
    assert "\n" not in str(info.value)
    return str(info.value)


def weight_with(**fields: object) -> Callable[[onnx.ModelProto], None]:
    """Return what changes fields of the weight; None clears one."""

    def change(proto: onnx.ModelProto) -> None:
        weight = proto.graph.initializer[0]
        for name, value in fields.items():
            weight.ClearField(name)
            if name == "dims":
                weight.dims.extend(value)
            elif name.endswith("_data") and name != "raw_data":
                getattr(weight, name).extend(value)
            elif value is not None:
                setattr(weight, name, value)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (weight_with(raw_data=bytes(4092)), "'w' has 4092 bytes, shape [32,32] and type FLOAT ask"),
        (weight_with(raw_data=bytes(4100)), "'w' has 4100 bytes"),
        (weight_with(raw_data=None), "'w' has 0 numbers"),
        (weight_with(raw_data=None, float_data=[0.0] * 1023), "'w' has 1023 numbers"),
        (weight_with(dims=[1 << 40, 32]), "ask for 140737488355328"),
        (weight_with(dims=[-32, 32]), "'w' has shape [-32,32]"),
        (weight_with(data_type=TensorProto.UNDEFINED), "type UNDEFINED"),
        (weight_with(data_type=99), "99 is not a valid DataType"),
        (weight_with(data_type=TensorProto.UINT4), "ask for 512"),
        (
            weight_with(raw_data=None, data_type=TensorProto.INT4, int32_data=[0] * 511),
            "'w' has 511 numbers, shape [32,32] and type INT4 ask for 512",
        ),
    ],
)
def test_tensor_that_is_not_its_data(
    change: Callable[[onnx.ModelProto], None], message: str, tmp_path: Path
) -> None:
    proto = linear()
    change(proto)
    assert message in rejected(proto, tmp_path)


def test_tensor_in_typed_fields_is_loaded(tmp_path: Path) -> None:
    proto = linear()
    weight_with(raw_data=None, float_data=[1.0] * 1024)(proto)
    (tmp_path / "model.onnx").write_bytes(proto.SerializeToString())
    assert load_model(tmp_path / "model.onnx")


@pytest.mark.parametrize("type_", [TensorProto.INT4, TensorProto.UINT4, TensorProto.COMPLEX64])
@pytest.mark.parametrize("size", [8, 9])
def test_typed_fields_of_entries_that_are_not_one_number(
    type_: int, size: int, tmp_path: Path
) -> None:
    proto, numbers = linear(), [1, 0, 1] * 3
    proto.graph.initializer.append(onnx.helper.make_tensor("q", type_, [size], numbers[:size]))
    assert not proto.graph.initializer[-1].raw_data
    (tmp_path / "model.onnx").write_bytes(proto.SerializeToString())
    tensor = load_model(tmp_path / "model.onnx").graph.initializers["q"].const_value
    assert tensor is not None
    assert tensor.numpy().astype(np.complex64).tolist() == numbers[:size]


def test_external_strings_are_refused(tmp_path: Path) -> None:
    proto = linear()
    text = proto.graph.initializer.add(name="s", data_type=TensorProto.STRING, dims=[2])
    text.data_location = TensorProto.EXTERNAL
    text.external_data.add(key="location", value="s.data")
    (tmp_path / "s.data").write_bytes(b"ab")
    assert "tensor 's' is of strings" in rejected(proto, tmp_path)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"offset": "-4"}, "-4"),
        ({"length": "4092"}, "has 4092 bytes, shape [32,32] and type FLOAT ask for 4096"),
        ({"length": "-1"}, "-1"),
        ({"offset": "some"}, "invalid literal"),
        ({"offset": str(1 << 70)}, "ends at byte"),
        ({"location": ""}, "which is not there"),
    ],
)
def test_external_data_that_is_not_there(
    entries: dict[str, str], message: str, tmp_path: Path
) -> None:
    (tmp_path / "w.data").write_bytes(bytes(4096))
    proto = linear()
    weight = proto.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in ({"location": "w.data", "offset": "0", "length": "4096"} | entries).items():
        weight.external_data.add(key=key, value=value)
    assert message in rejected(proto, tmp_path)


@pytest.mark.parametrize("place", ["node", "function"])
def test_external_data_of_a_constant_stays_in_the_folder(place: str, tmp_path: Path) -> None:
    call = "k = d.F() y = Add(x, k)" if place == "function" else "k = Constant() y = Add(x, k)"
    text = f"{HEADER} g (float[N, 4] x) => (float[N, 4] y) {{ {call} }}"
    if place == "function":
        text += '<domain: "d", opset_import: ["": 20]> F () => (k) { k = Constant() }'
    proto = onnx.parser.parse_model(text)
    node = proto.graph.node[0] if place == "node" else proto.functions[0].node[0]
    tensor = TensorProto(dims=[4], data_type=TensorProto.FLOAT)
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret")
    node.attribute.append(onnx.helper.make_attribute("value", tensor))
    assert "outside the model's folder" in rejected(proto, tmp_path)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("{ y = Relu(z) }", "nothing makes the value 'z'; Relu node '' reads it"),
        ("{ z = Relu(x) }", "nothing makes the value 'y'; it is an output of the graph"),
        ("{ a = Add(x, b) b = Relu(a) y = Relu(b) }", "its nodes are in a cycle"),
        ("{ a = Transpose(b) b = Transpose(a) y = MatMul(x, a) }", "its nodes are in a cycle"),
        ("{ [n] y = MatMul(x) }", "MatMul node 'n' has 1 inputs"),
        ('{ [n] y = MatMul(x, "") }', "has an input that may not be left out"),
        ("{ y, z = MatMul(x, x) }", "has 2 outputs"),
        ("{ y = Gemm <alpha = 1> (x, x) }", "has an attribute 'alpha' of type INT"),
        ("{ k = Constant <valeu = 1.0> () y = Add(x, k) }", "has an attribute 'valeu'"),
        ("{ y = Cast(x) }", "has no attribute 'to'"),
        ("{ k = Constant() y = Add(x, k) }", "Constant node '' has 0 attributes"),
        ("{ y = Relu(x) y = Relu(x) }", "'y' is redeclared"),
        ("{ y = If (c) <then_branch = t () => (float[N, 4] p) { p = Relu(z) },"
         " else_branch = e () => (float[N, 4] q) { q = Relu(x) }> }", "the value 'z'"),
    ],
)  # fmt: skip
def test_node_that_does_not_fit(body: str, message: str, tmp_path: Path) -> None:
    assert message in rejected(parsed(body), tmp_path)


@pytest.mark.parametrize("inside", [False, True])
def test_sparse_initializers_are_refused(inside: bool, tmp_path: Path) -> None:
    proto = parsed(
        """{ y = If (c) <then_branch = t () => (float[N, 4] p) { p = MatMul(x, s) },
                        else_branch = e () => (float[N, 4] q) { q = Relu(x) }> }"""
    )
    graph = proto.graph.node[0].attribute[0].g if inside else proto.graph
    sparse = graph.sparse_initializer.add(dims=[4, 4])
    sparse.values.CopyFrom(onnx.numpy_helper.from_array(np.ones(1, np.float32), "s"))
    sparse.indices.CopyFrom(onnx.numpy_helper.from_array(np.array([5]), "i"))
    message = f"graph {graph.name!r} has 1 sparse initializers. Export it with dense weights"
    assert message in rejected(proto, tmp_path)


def test_name_that_is_there_twice(tmp_path: Path) -> None:
    proto = linear()
    proto.graph.initializer.append(proto.graph.initializer[0])
    assert "2 initializers of graph 'g' are called 'w'" in rejected(proto, tmp_path)
    proto = linear()
    proto.graph.input.append(proto.graph.input[0])
    assert "2 inputs of graph 'g' are called 'x'" in rejected(proto, tmp_path)
    proto = linear()
    proto.graph.initializer[0].name = ""
    assert "an initializer of graph 'g' has no name" in rejected(proto, tmp_path)


@pytest.mark.parametrize("what", ["input", "output"])
def test_value_of_the_graph_without_a_type(what: str, tmp_path: Path) -> None:
    proto = linear()
    getattr(proto.graph, what)[0].ClearField("type")
    assert "has no type" in rejected(proto, tmp_path)


def test_functions_that_call_themselves(tmp_path: Path) -> None:
    call = "g (float[N, 4] x) => (float[N, 4] y) { y = d.F(x) }"
    functions = [
        f'<domain: "d", opset_import: ["d": 1]> {name} (a) => (b) {{ b = d.{other}(a) }}'
        for name, other in ("FG", "GF")
    ]
    proto = onnx.parser.parse_model("\n".join([f"{HEADER} {call}", *functions]))
    assert "its functions call themselves: d::" in rejected(proto, tmp_path)


def test_refusals_say_nothing_beside_their_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rejected(parsed("{ y = Relu(z) }"), tmp_path)
    assert capfd.readouterr().err == ""


def test_nodes_are_sorted(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(parsed("{ y = Relu(b) b = Relu(x) }").SerializeToString())
    model = load_model(tmp_path / "model.onnx")
    assert [node.outputs[0].name for node in model.graph] == ["b", "y"]


def test_operators_that_the_standard_does_not_know_are_left_to_the_runtime(tmp_path: Path) -> None:
    body = "{ a = SimplifiedLayerNormalization(x, x) y = d.Unheard() }"
    (tmp_path / "model.onnx").write_bytes(parsed(body).SerializeToString())
    assert load_model(tmp_path / "model.onnx")


def test_inputs_that_ir_version_3_asks_for_are_constants(tmp_path: Path) -> None:
    proto = linear()
    proto.ir_version = 3
    proto.opset_import[0].version = 13
    proto.graph.input.append(onnx.helper.make_tensor_value_info("w", TensorProto.FLOAT, (32, 32)))
    (tmp_path / "model.onnx").write_bytes(proto.SerializeToString())
    model = load_model(tmp_path / "model.onnx")
    assert [value.name for value in model.graph.inputs] == ["x"]
    normalize(model)
    selected = SelectWeightsPass()
    selected(model)
    assert [layer.name for layer in selected.layers] == ["layer"]


@pytest.mark.parametrize("text", [b"MatMul", b"layer", b"FLOAT"])
def test_text_that_is_not_utf_8(text: bytes, tmp_path: Path) -> None:
    proto = linear()
    proto.graph.node[0].doc_string = "FLOAT"
    content = proto.SerializeToString().replace(text, text[:-1] + b"\xff")
    assert "is no UTF-8 text" in rejected(onnx.ModelProto.FromString(content), tmp_path)


@pytest.mark.parametrize("opset", [99, (1 << 63) - 1])
def test_opset_of_the_future_is_left_to_the_runtime(opset: int, tmp_path: Path) -> None:
    proto = linear()
    proto.opset_import[0].version = opset
    (tmp_path / "model.onnx").write_bytes(proto.SerializeToString())
    assert load_model(tmp_path / "model.onnx")
