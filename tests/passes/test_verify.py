from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from fqonnx.errors import ModelError
from fqonnx.frames import Frame, FusionFrame, HadamardFrame, HarmonicFrame, IdentityFrame
from fqonnx.passes import QuantizeWeightsPass, Replacement, SelectWeightsPass, VerifyPass
from fqonnx.passes.verify import Signature, graph_signature
from fqonnx.quant import PackedWeight
from support import conv_model, model_from_text, random_weight


def float_model() -> ir.Model:
    return model_from_text(
        """<ir_version: 10, opset_import: ["": 20]>
        g (float[N, 48] x) => (float[N, 40] y) { [layer] h = MatMul(x, w) y = Add(h, b) }""",
        w=np.ones((48, 40), np.float32),
        b=np.ones(40, np.float32),
    )


def compiled(
    frame_in: Frame | None = None, frame_out: Frame | int = 40, **arguments: Any
) -> tuple[ir.Model, Signature]:
    """Return a compiled model and the signature of the float one."""
    model = float_model()
    signature = graph_signature(model)
    selected = SelectWeightsPass()
    selected(model)
    weight = random_weight(frame_in or HadamardFrame.create(48, 1.25), frame_out, 3, **arguments)
    QuantizeWeightsPass(
        [Replacement((selected.layers[0],), PackedWeight.of(weight))], contrib=False
    )(model)
    return model, signature


def compiled_with_all() -> tuple[ir.Model, Signature]:
    """Return one with zero points, groups and a frame on both sides."""
    frame = HadamardFrame.create(48, 3.0)
    return compiled(frame, FusionFrame.create(40, 1.1), zero_points=True, group_size=128)


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


@pytest.mark.parametrize("all_parts", [False, True])
def test_compiled_model_passes_unchanged(all_parts: bool) -> None:
    model, signature = compiled_with_all() if all_parts else compiled()
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    assert not VerifyPass(signature)(model).modified
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_trellis_passes() -> None:
    model, signature = compiled(trellis=True)
    assert not VerifyPass(signature)(model).modified


@pytest.mark.parametrize(
    ("name", "shape"), [("codes", (40, 1, 24)), ("codes", (1, 16, 96)), ("levels", (63,))]
)
def test_shape_that_does_not_fit_a_trellis_is_found(name: str, shape: tuple[int, ...]) -> None:
    model, signature = compiled(HadamardFrame.create(48, 1.25), trellis=True)
    found = next(full for full in model.graph.initializers if full.endswith(name))
    replace_tensor(model, found, np.zeros(shape, np.uint8))
    assert f"{name} has shape {shape}" in rejected(model, signature)


@pytest.mark.parametrize("attribute", ["block_size", "multiplier"])
def test_trellis_without_its_attributes_is_found(attribute: str) -> None:
    model, signature = compiled(trellis=True)
    wrong = {"block_size": 64, "multiplier": 0}[attribute]
    model.graph[0].attributes[attribute] = ir.AttrInt64(attribute, wrong)
    assert "of a trellis, or no multiplier" in rejected(model, signature)


@pytest.mark.parametrize("frame_out", [40, HarmonicFrame.create(40, 2.0)], ids=["in", "both"])
def test_frames_without_signs_pass(frame_out: Frame | int) -> None:
    model, signature = compiled(HarmonicFrame.create(48, 3.0), frame_out)
    assert not VerifyPass(signature)(model).modified
    assert not any("signs" in name for name in model.graph.initializers)


@pytest.mark.parametrize("name", ["codes", "scales"])
def test_shape_that_does_not_fit_a_harmonic_frame_is_found(name: str) -> None:
    model, signature = compiled(HarmonicFrame.create(48, 3.0), HarmonicFrame.create(40, 2.0))
    assert_shape_is_found(model, signature, name, (81, 1))


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


@pytest.mark.parametrize("splits", [(39,), (20, 20)])
def test_splits_that_do_not_fit_are_found(splits: tuple[int, ...]) -> None:
    model, signature = compiled()
    model.graph[0].attributes["splits"] = ir.AttrInt64s("splits", splits)
    assert "of 40, 1 outputs" in rejected(model, signature)


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
        ("scales", (41, 1)),
        ("scales", (40,)),
        ("scales", (40, 2)),
        ("signs_in", (7,)),
    ],
)
def test_packed_input_of_another_shape_is_found(name: str, shape: tuple[int, ...]) -> None:
    assert_shape_is_found(*compiled(), name, shape)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("codes", (40, 1, 24)),
        ("scales", (45, 1)),
        ("zero_points", (45, 1)),
        ("zero_points", (40, 2)),
        ("signs_in", (5,)),
        ("signs_out", (6,)),
    ],
)
def test_packed_input_of_another_shape_is_found_among_all(
    name: str, shape: tuple[int, ...]
) -> None:
    assert_shape_is_found(*compiled_with_all(), name, shape)


def assert_shape_is_found(
    model: ir.Model, signature: Signature, name: str, shape: tuple[int, ...]
) -> None:
    dtype = np.float16 if name == "scales" else np.uint8
    replace_tensor(model, f"w.{name}", np.zeros(shape, dtype))
    message = rejected(model, signature)
    assert "layer" in message
    assert name in message
    assert str(shape) in message


@pytest.mark.parametrize("name", ["codes", "scales", "signs_in", "signs_out"])
def test_packed_input_that_is_missing_is_found(name: str) -> None:
    model, signature = compiled_with_all()
    names = [value.name if value else None for value in model.graph[0].inputs]
    model.graph[0].replace_input_with(names.index(f"w.{name}"), None)
    assert name in rejected(model, signature)


@pytest.mark.parametrize(
    "name", ["dim_in", "dim_out", "num_vectors_in", "num_vectors_out", "bits", "block_size"]
)
@pytest.mark.parametrize(
    "frame_in",
    [HadamardFrame.create(48, 1.25), HarmonicFrame.create(48, 3.0), IdentityFrame(48)],
)
def test_attribute_that_is_missing_or_wrong_is_found(name: str, frame_in: Frame) -> None:
    model, signature = compiled(frame_in)
    del model.graph[0].attributes[name]
    assert "layer" in rejected(model, signature)
    model.graph[0].attributes.add(ir.AttrInt64(name, 1000))
    assert "layer" in rejected(model, signature)


def test_unknown_codebook_is_found() -> None:
    model, signature = compiled()
    (node,) = [node for node in model.graph if node.domain == "fqonnx"]
    node.attributes["codebook"] = ir.AttrString("codebook", "other")
    assert "codebook 'other', expected one of scalar, trellis" in rejected(model, signature)


def test_attribute_of_another_type_is_found() -> None:
    model, signature = compiled()
    (node,) = [node for node in model.graph if node.domain == "fqonnx"]
    node.attributes["bits"] = ir.AttrFloat32("bits", 2.0)
    assert "'bits' is not of type INT" in rejected(model, signature)


def test_group_size_that_does_not_fit_is_found() -> None:
    model, signature = compiled_with_all()
    model.graph[0].attributes.add(ir.AttrInt64("group_size", 16))
    assert "scales" in rejected(model, signature)


@pytest.mark.parametrize(("name", "shape"), [("codes", (40, 1, 23)), ("signs_in", (5,))])
def test_weight_of_a_convolution_is_checked(name: str, shape: tuple[int, ...]) -> None:
    model = conv_model(np.ones((40, 16, 3), np.float32), "9")
    signature = graph_signature(model)
    selected = SelectWeightsPass()
    selected(model)
    weight = random_weight(HadamardFrame.create(48, 1.25), 40, 3)
    QuantizeWeightsPass(
        [Replacement((selected.layers[0],), PackedWeight.of(weight))], contrib=False
    )(model)
    assert model.graph[0].op_type == "FrameDequant"
    VerifyPass(signature)(model)
    assert_shape_is_found(model, signature, name, shape)
