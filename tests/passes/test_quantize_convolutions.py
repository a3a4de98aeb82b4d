"""Both ways in which a convolution reads a packed weight, beside the float one it stands for."""

from __future__ import annotations

from math import prod

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from fqonnx.frames import FusionFrame, HadamardFrame, IdentityFrame
from fqonnx.passes import (
    InlineFrameOpsPass,
    LinearLayer,
    QuantizeWeightsPass,
    Replacement,
    SelectWeightsPass,
    VerifyPass,
)
from fqonnx.passes.verify import graph_signature
from fqonnx.quant import PackedWeight, QuantizedWeight
from fqonnx.session import Session
from support import conv_model, model_from_text, random_weight

HEADER = '<ir_version: 10, opset_import: ["": 20]>'
TOLERANCE = {True: 1.5e-2, False: 1e-5}  # of contrib: int8 activations, and exact


def draw(*shape: int, dtype: type = np.float32, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def select(model: ir.Model) -> dict[str, LinearLayer]:
    selected = SelectWeightsPass()
    selected(model)
    return {layer.name: layer for layer in selected.layers}


def quantize(
    model: ir.Model, *replacements: Replacement, contrib: bool = False
) -> QuantizeWeightsPass:
    """Apply the pass and check what must hold of any result."""
    signature = graph_signature(model)
    result = QuantizeWeightsPass(replacements, contrib=contrib)
    result(model)
    VerifyPass(signature)(model)
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True)
    assert all(value.dtype for node in model.graph if node.domain for value in node.outputs)
    names = [value.name for node in model.graph for value in node.outputs]
    assert len(set(names)) == len(names)
    return result


def dequantized(quantized: QuantizedWeight, shape: tuple[int, ...]) -> np.ndarray:
    return quantized.dequantize().numpy().T.reshape(shape)


def run(model: ir.Model, **feed: np.ndarray) -> list[np.ndarray]:
    return Session(model, "model").run(feed)


def assert_close(found: np.ndarray, wanted: np.ndarray, tolerance: float = 1e-5) -> None:
    assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
    error = np.linalg.norm(found.astype(np.float64) - wanted) / np.linalg.norm(wanted)
    assert error <= tolerance


def op_types(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph if node.op_type != "Constant"]


DEQUANT = ["FrameDequant", "Transpose", "Reshape", "Conv"]
POINTWISE = ["Transpose", "FrameMatMul", "Transpose"]
PATCHES = ["Reshape", "Transpose", "Reshape", "FrameMatMul", "Transpose"]

CASES = {
    "1-D": ((40, 32, 3), (9,), "strides = [2], pads = [2, 0]", DEQUANT),
    "2-D": ((40, 16, 3, 3), (8, 7), "auto_pad = 'SAME_UPPER', strides = [2, 1]", DEQUANT),
    "3-D": ((40, 8, 2, 2, 2), (4, 5, 6), "dilations = [1, 2, 1]", DEQUANT),
    "groups": ((40, 16, 3, 3), (6, 6), "group = 2", DEQUANT),
    "grouped 1×1": ((40, 32, 1, 1), (6, 6), "group = 2", DEQUANT),
    "padded 1×1": ((40, 32, 1, 1), (6, 6), "pads = [1, 1, 0, 0]", DEQUANT),
    "indivisible": ((40, 3, 4, 4), (8, 10), "strides = [4, 4]", DEQUANT),
    "1×1": ((40, 32, 1, 1), (6, 5), "", POINTWISE),
    "1×1 strided": ((40, 32, 1, 1), (7, 4), "strides = [2, 3]", ["Slice", *POINTWISE]),
    "1 in 1-D": ((40, 32, 1), (7,), "auto_pad = 'SAME_LOWER'", POINTWISE),
    "patches": ((40, 3, 4, 4), (8, 12), "strides = [4, 4]", PATCHES),
    "wide patches": ((40, 3, 2, 6), (8, 12), "strides = [2, 6], auto_pad = 'VALID'", PATCHES),
    "patches in 3-D": ((40, 4, 2, 2, 2), (4, 2, 6), "strides = [2, 2, 2]", PATCHES),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("contrib", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_convolution_with_packed_weight(case: str, contrib: bool, bias: bool) -> None:
    shape, sizes, attributes, nodes = CASES[case]
    arrays = (draw(*shape), ", ".join(map(str, sizes)), attributes, draw(40) if bias else None)
    model = conv_model(*arrays)
    shift = draw(40, seed=9) if bias else None
    quantized = random_weight(HadamardFrame.create(prod(shape[1:]), 1.2), 40, bias_shift=shift)
    layers = select(model)
    quantize(model, Replacement((layers["layer"],), PackedWeight.of(quantized)), contrib=contrib)
    assert op_types(model) == nodes
    assert not {"w", "b"} & set(model.graph.initializers)

    wanted = conv_model(
        dequantized(quantized, shape), *arrays[1:3], draw(40) + shift if bias else None
    )
    (channels,) = (value.shape[1] for value in wanted.graph.inputs)
    tolerance = TOLERANCE[contrib and nodes is not DEQUANT]
    for batch in (3, 1):
        x = draw(batch, channels, *sizes, seed=batch)
        assert_close(run(model, x=x)[0], run(wanted, x=x)[0], tolerance)
    x = draw(2, channels, *sizes)
    before = run(model, x=x)[0]
    InlineFrameOpsPass()(model)
    np.testing.assert_array_equal(run(model, x=x)[0], before)


def test_pointwise_convolution_takes_any_size() -> None:
    model = conv_model(draw(40, 32, 1, 1), "H, W", "strides = [2, 2]")
    quantized = random_weight(IdentityFrame(32), 40)
    quantize(model, Replacement((select(model)["layer"],), PackedWeight.of(quantized)))
    assert "FrameMatMul" in op_types(model)
    weight = dequantized(quantized, (40, 32))
    for height, width in ((5, 8), (2, 1)):
        x = draw(2, 32, height, width)
        wanted = np.einsum("oc,nchw->nohw", weight, x[:, :, ::2, ::2])
        assert_close(run(model, x=x)[0], wanted)


def test_patches_of_unknown_size_are_dequantized() -> None:
    model = conv_model(draw(40, 3, 4, 4), "8, W", "strides = [4, 4]")
    quantized = random_weight(IdentityFrame(48), 40)
    quantize(model, Replacement((select(model)["layer"],), PackedWeight.of(quantized)))
    assert op_types(model) == DEQUANT


@pytest.mark.parametrize("case", ["2-D", "1×1"])
def test_float16(case: str) -> None:
    shape, sizes, attributes, nodes = CASES[case]
    dims = ", ".join(map(str, sizes))
    half = np.float16
    model = conv_model(draw(*shape, dtype=half), dims, attributes, draw(40, dtype=half))
    quantized = random_weight(FusionFrame.create(prod(shape[1:])), 40, zero_points=True)
    quantize(model, Replacement((select(model)["layer"],), PackedWeight.of(quantized)))
    assert op_types(model) == nodes
    weight = dequantized(quantized, shape).astype(half)
    wanted = conv_model(weight, dims, attributes, draw(40, dtype=half))
    x = draw(2, shape[1], *sizes, dtype=half)
    assert_close(run(model, x=x)[0], run(wanted, x=x)[0], 5e-3)


def shared(sizes: str) -> ir.Model:
    return model_from_text(
        f"""{HEADER} g (float[N, 32, {sizes}] x) => (float[N, 32, P, Q] y, float[N, 32, R, S] z) {{
            [first] y = Conv (x, w, b) r = Relu(y) [second] z = Conv <PADS> (r, w, b)
        }}""".replace("PADS", "strides = [2, 2]" if sizes == "6, 6" else "pads = [1, 1, 1, 1]"),
        w=draw(32, 32, 1, 1),
        b=draw(32),
    )


@pytest.mark.parametrize(("sizes", "packed"), [("6, 6", "FrameMatMul"), ("5, 5", "FrameDequant")])
def test_shared_weight_is_read_in_one_way(sizes: str, packed: str) -> None:
    model = shared(sizes)
    quantized = random_weight(HadamardFrame.create(32), 32)
    result = quantize(model, Replacement(tuple(select(model).values()), PackedWeight.of(quantized)))
    ours = [node.op_type for node in model.graph if node.domain == "fqonnx"]
    assert ours == [packed] * (2 if packed == "FrameMatMul" else 1)
    assert result.stored_bytes == {"first": 32 * 32 * 2 // 8 + 32 * 2 + 4, "second": 0}
    wanted = shared(sizes)
    wanted.graph.initializers["w"].const_value = ir.tensor(dequantized(quantized, (32, 32, 1, 1)))
    x = draw(2, 32, *map(int, sizes.split(",")))
    for found, value in zip(run(model, x=x), run(wanted, x=x), strict=True):
        assert_close(found, value)


def test_bias_that_is_an_activation_is_read_as_it_is() -> None:
    for nodes, text in ((DEQUANT, "pads = [1, 1, 1, 1]"), (POINTWISE, "pads = [0, 0, 0, 0]")):
        model = model_from_text(
            f"""{HEADER} g (float[N, 32, 6, 6] x, float[40] b) => (float[N, 40, P, Q] y) {{
                [layer] y = Conv <{text}> (x, w, b)
            }}""",
            w=draw(40, 32, 1, 1),
        )
        quantized = random_weight(HadamardFrame.create(32), 40)
        quantize(model, Replacement((select(model)["layer"],), PackedWeight.of(quantized)))
        assert op_types(model) == nodes
        wanted = conv_model(dequantized(quantized, (40, 32, 1, 1)), "6, 6", text, draw(40))
        x = draw(2, 32, 6, 6)
        assert_close(run(model, x=x, b=draw(40))[0], run(wanted, x=x)[0])


def test_weight_that_a_subgraph_reads_too_stays() -> None:
    model = model_from_text(
        f"""{HEADER} g (float[N, 32, 6] x, bool c) => (float[N, 40, P] y) {{
            [layer] h = Conv (x, w)
            y = If (c) <
                then_branch = t () => (float[N, 40, P] p) {{ p = Conv(x, w) }},
                else_branch = e () => (float[N, 40, P] q) {{ q = Identity(h) }}
            >
        }}""",
        w=draw(40, 32, 3),
    )
    model.graph[0].outputs[0].dtype = ir.DataType.FLOAT
    quantized = random_weight(HadamardFrame.create(96), 40)
    quantize(model, Replacement((select(model)["layer"],), PackedWeight.of(quantized)))
    x = draw(2, 32, 6)
    for choice, weight in ((True, draw(40, 32, 3)), (False, dequantized(quantized, (40, 32, 3)))):
        wanted = run(conv_model(weight, "6"), x=x)[0]
        assert_close(run(model, x=x, c=np.array(choice))[0], wanted)


def test_convolutions_that_stay_float_are_not_touched() -> None:
    model = conv_model(draw(40, 32, 1, 1), "6, 6")
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    quantize(model)
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before
