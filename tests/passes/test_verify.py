from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch

from fqonnx.errors import ModelError
from fqonnx.frames import HadamardFrame
from fqonnx.passes import QuantizeWeightsPass, Replacement, SelectWeightsPass, VerifyPass
from fqonnx.passes.verify import Signature, graph_signature
from fqonnx.quant import QuantizedWeight
from support import model_from_text


def float_model() -> ir.Model:
    return model_from_text(
        """<ir_version: 10, opset_import: ["": 20]>
        g (float[N, 48] x) => (float[N, 40] y) { [layer] h = MatMul(x, w) y = Add(h, b) }""",
        w=np.ones((48, 40), np.float32),
        b=np.ones(40, np.float32),
    )


def compiled() -> tuple[ir.Model, Signature]:
    """Return a compiled model and the signature of the float one."""
    model = float_model()
    signature = graph_signature(model)
    selected = SelectWeightsPass()
    selected(model)
    weight = QuantizedWeight(
        HadamardFrame.create(48, 1.25),
        3,
        torch.zeros(40, 60, dtype=torch.uint8),
        torch.ones(40, dtype=torch.float16),
        None,
        0.0,
        None,
    )
    QuantizeWeightsPass([Replacement((selected.layers[0],), weight)], contrib=True)(model)
    return model, signature


def rejected(model: ir.Model, signature: Signature) -> str:
    """Return the message of the error, which says that the defect is ours."""
    with pytest.raises(ModelError) as info:
        VerifyPass(signature)(model)
    assert "defect of fqonnx" in str(info.value)
    assert "\n" not in str(info.value)
    return str(info.value)


def replace_tensor(model: ir.Model, name: str, array: np.ndarray) -> None:
    value = model.graph.initializers[name]
    value.const_value = ir.tensor(array, name=name)
    value.shape = ir.Shape(array.shape)


def test_compiled_model_passes_unchanged() -> None:
    model, signature = compiled()
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    assert not VerifyPass(signature)(model).modified
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_float_model_passes() -> None:
    model = float_model()
    assert not VerifyPass(graph_signature(model))(model).modified


def test_signature_names_types_and_shapes_of_inputs_and_outputs() -> None:
    signature = graph_signature(float_model())
    assert [name for name, _, _ in signature] == ["x", "y"]
    assert "FLOAT" in signature[0][1]
    assert "48" in signature[0][2]
    assert "N" in signature[0][2]


@pytest.mark.parametrize("end", ["inputs", "outputs"])
def test_renamed_value_is_found(end: str) -> None:
    model, signature = compiled()
    getattr(model.graph, end)[0].name = "other"
    assert "inputs or outputs" in rejected(model, signature)


@pytest.mark.parametrize("end", ["inputs", "outputs"])
@pytest.mark.parametrize("shape", [["N", 41], ["M", 40], [3, 40], ["N", 40, 1]])
def test_changed_shape_is_found(end: str, shape: list[int | str]) -> None:
    model, signature = compiled()
    getattr(model.graph, end)[0].shape = ir.Shape(shape)
    assert "inputs or outputs" in rejected(model, signature)


@pytest.mark.parametrize("end", ["inputs", "outputs"])
def test_changed_type_is_found(end: str) -> None:
    model, signature = compiled()
    getattr(model.graph, end)[0].type = ir.TensorType(ir.DataType.FLOAT16)
    assert "inputs or outputs" in rejected(model, signature)


def test_lost_output_is_found() -> None:
    model, signature = compiled()
    model.graph.outputs.clear()
    assert "inputs or outputs" in rejected(model, signature)


def test_missing_function_is_found() -> None:
    model, signature = compiled()
    model.functions.clear()
    message = rejected(model, signature)
    assert "layer" in message
    assert "no function body" in message


def test_function_of_another_overload_is_found() -> None:
    model, signature = compiled()
    model.graph[0].overload = "another"
    assert "'another'" in rejected(model, signature)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("codes", (40, 1, 23)),
        ("codes", (39, 1, 24)),
        ("codes", (40, 24)),
        ("scales", (41,)),
        ("scales", (40, 1)),
        ("signs_in", (7,)),
    ],
)
def test_packed_input_of_another_shape_is_found(name: str, shape: tuple[int, ...]) -> None:
    model, signature = compiled()
    dtype = np.float16 if name == "scales" else np.uint8
    replace_tensor(model, f"w.{name}", np.zeros(shape, dtype))
    message = rejected(model, signature)
    assert "layer" in message
    assert name in message
    assert str(shape) in message


@pytest.mark.parametrize("name", ["codes", "scales"])
def test_packed_input_that_is_missing_is_found(name: str) -> None:
    model, signature = compiled()
    index = [value.name for value in model.graph[0].inputs if value].index(f"w.{name}")
    model.graph[0].replace_input_with(index, None)
    assert name in rejected(model, signature)


@pytest.mark.parametrize("name", ["dim_out", "num_vectors", "bits", "block_size"])
def test_attribute_that_is_missing_or_wrong_is_found(name: str) -> None:
    model, signature = compiled()
    del model.graph[0].attributes[name]
    assert "layer" in rejected(model, signature)
    model.graph[0].attributes.add(ir.AttrInt64(name, 1000))
    assert "layer" in rejected(model, signature)
