from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from fqonnx.frames import FusionFrame, HadamardFrame, IdentityFrame
from fqonnx.passes import (
    LinearLayer,
    NormalizeLinearPass,
    QuantizeWeightsPass,
    Replacement,
    SelectWeightsPass,
)
from fqonnx.quant import PackedWeight, QuantizedWeight
from fqonnx.reference import frame_matmul
from fqonnx.runtime_ops import DOMAIN
from fqonnx.session import Session
from support import described, fusion_frame, model_from_text, packed, random_weight

HEADER = '<ir_version: 10, opset_import: ["": 20]>'
NEWEST_OPSET = min(onnx.defs.onnx_opset_version(), 26)  # ONNX Runtime 1.31 loads up to 26
TOLERANCE = {True: 1.5e-2, False: 1e-5}  # of contrib: int8 activations, and exact


def draw(*shape: int, dtype: type = np.float32, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def reference(
    x: np.ndarray, quantized: QuantizedWeight, bias: np.ndarray | None = None
) -> np.ndarray:
    return frame_matmul(x, **packed(quantized), bias=bias, **described(quantized))


def relative_error(found: np.ndarray, wanted: np.ndarray) -> float:
    assert found.shape == wanted.shape
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def select(model: ir.Model) -> dict[str, LinearLayer]:
    NormalizeLinearPass()(model)
    selected = SelectWeightsPass()
    selected(model)
    return {layer.name: layer for layer in selected.layers}


def quantize(
    model: ir.Model, replacements: list[Replacement], *, contrib: bool = True
) -> QuantizeWeightsPass:
    """Apply the pass and check what must hold of any result."""
    inputs, outputs = list(model.graph.inputs), [v.name for v in model.graph.outputs]
    quantize_weights = QuantizeWeightsPass(replacements, contrib=contrib)
    assert quantize_weights(model).modified == bool(replacements)
    assert list(model.graph.inputs) == inputs
    assert [v.name for v in model.graph.outputs] == outputs
    assert_values_are_defined(model)
    check(model)
    return quantize_weights


def assert_values_are_defined(model: ir.Model) -> None:
    """Check that nodes read what the graph holds, as objects and not just by name."""
    defined = {*model.graph.inputs, *model.graph.initializers.values()}
    for node in model.graph:
        assert all(value is None or value in defined for value in node.inputs), node
        defined.update(node.outputs)
    assert all(value in defined for value in model.graph.outputs)


def check(model: ir.Model) -> None:
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True)


def run(model: ir.Model, **feed: np.ndarray) -> list[np.ndarray]:
    return Session(model, "model").run(feed)


def linear(
    dim_in: int = 48,
    dim_out: int = 40,
    *,
    dtype: type = np.float32,
    bias: bool = True,
    opset: int = 20,
    ir_version: int = 10,
) -> ir.Model:
    name = ir.DataType.from_numpy(np.dtype(dtype)).name.lower()
    tail = "h = MatMul(x, w) y = Add(b, h)" if bias else "y = MatMul(x, w)"
    return model_from_text(
        f"""<ir_version: {ir_version}, opset_import: ["": {opset}]>
        g ({name}[A, B, {dim_in}] x) => ({name}[A, B, {dim_out}] y) {{ [layer] {tail} }}""",
        w=draw(dim_in, dim_out, dtype=dtype),
        **({"b": draw(dim_out, dtype=dtype)} if bias else {}),
    )


FRAMES = {
    "identity": IdentityFrame(48),
    "hadamard": HadamardFrame.create(48, 1.0, seed=2),
    "redundant": HadamardFrame.create(48, 1.25, seed=3),
    "fusion": FusionFrame.create(48, 1.1, seed=4),
}
BOTH_SIDES = {
    "hadamard": random_weight(FRAMES["redundant"], HadamardFrame.create(40, 1.3, seed=5)),
    "fusion": random_weight(FRAMES["fusion"], FusionFrame.create(40, seed=6), zero_points=True),
    "tetris": random_weight(
        fusion_frame(48, (7, 12, 54)), fusion_frame(40, (7, 10, 44)), 3, zero_points=True
    ),
}


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("contrib", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_layer_computes_what_the_reference_says(
    frame: str, bits: int, contrib: bool, bias: bool
) -> None:
    model = linear(bias=bias)
    quantized = random_weight(FRAMES[frame], 40, bits)
    quantize(
        model, [Replacement((select(model)["layer"],), PackedWeight.of(quantized))], contrib=contrib
    )

    (node,) = model.graph
    assert (node.domain, node.op_type, node.name) == (DOMAIN, "FrameMatMul", "layer")
    x = draw(3, 7, 48, seed=11)
    wanted = reference(x, quantized, draw(40) if bias else None)
    (found,) = run(model, x=x)
    assert relative_error(found, wanted) <= TOLERANCE[contrib]


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("contrib", [True, False])
def test_layer_of_a_trellis_computes_what_the_reference_says(
    frame: str, bits: int, contrib: bool
) -> None:
    model = linear()
    quantized = random_weight(FRAMES[frame], 40, bits, trellis=True)
    done = quantize(
        model, [Replacement((select(model)["layer"],), PackedWeight.of(quantized))], contrib=contrib
    )

    (node,) = model.graph
    attributes = {name: node.attributes[name].value for name in ("codebook", "block_size")}
    assert attributes == {"codebook": "trellis", "block_size": 256}
    assert done.stored_bytes == {"layer": PackedWeight.of(quantized).stored_bytes}
    x = draw(3, 7, 48, seed=11)
    (found,) = run(model, x=x)
    assert relative_error(found, reference(x, quantized, draw(40))) <= TOLERANCE[contrib]


@pytest.mark.parametrize("frames", BOTH_SIDES)
@pytest.mark.parametrize("contrib", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_layer_with_a_frame_on_both_sides(frames: str, contrib: bool, bias: bool) -> None:
    model, quantized = linear(bias=bias), BOTH_SIDES[frames]
    quantize(
        model, [Replacement((select(model)["layer"],), PackedWeight.of(quantized))], contrib=contrib
    )
    x = draw(3, 7, 48, seed=11)
    (found,) = run(model, x=x)
    wanted = reference(x, quantized, draw(40) if bias else None)
    assert relative_error(found, wanted) <= TOLERANCE[contrib]


@pytest.mark.parametrize("dim_in", [100, 200, 256])
@pytest.mark.parametrize("contrib", [True, False])
def test_layer_with_groups_and_zero_points(dim_in: int, contrib: bool) -> None:
    model = linear(dim_in)
    quantized = random_weight(IdentityFrame(dim_in), 40, zero_points=True, group_size=128)
    quantize(
        model, [Replacement((select(model)["layer"],), PackedWeight.of(quantized))], contrib=contrib
    )
    assert model.graph[0].attributes["group_size"].as_int() == 128
    x = draw(3, 7, dim_in, seed=11)
    (found,) = run(model, x=x)
    assert relative_error(found, reference(x, quantized, draw(40))) <= TOLERANCE[contrib]


@pytest.mark.parametrize("contrib", [True, False])
def test_float16_layer_computes_what_the_reference_says(contrib: bool) -> None:
    model = linear(dtype=np.float16)
    quantized = random_weight(FRAMES["redundant"], 40)
    quantize(
        model, [Replacement((select(model)["layer"],), PackedWeight.of(quantized))], contrib=contrib
    )
    x = draw(3, 7, 48, dtype=np.float16)
    (found,) = run(model, x=x)
    assert found.dtype == np.float16
    wanted = reference(x, quantized, draw(40, dtype=np.float16))
    assert relative_error(found, wanted) <= (TOLERANCE[True] if contrib else 3e-3)


@pytest.mark.parametrize("opset", [13, 17, NEWEST_OPSET])
@pytest.mark.parametrize("contrib", [True, False])
def test_oldest_and_newest_opset(opset: int, contrib: bool) -> None:
    model = linear(opset=opset, ir_version=7 if opset < 20 else 11)
    quantized = random_weight(FRAMES["redundant"], 40, bits=3)
    quantize(
        model, [Replacement((select(model)["layer"],), PackedWeight.of(quantized))], contrib=contrib
    )
    assert model.graph.opset_imports[""] == opset
    x = draw(2, 3, 48)
    (found,) = run(model, x=x)
    assert relative_error(found, reference(x, quantized, draw(40))) <= TOLERANCE[contrib]


def test_function_uses_contrib_operators_only_where_allowed() -> None:
    for contrib in (True, False):
        model = linear()
        quantized = random_weight(FRAMES["hadamard"], 40)
        quantize(
            model,
            [Replacement((select(model)["layer"],), PackedWeight.of(quantized))],
            contrib=contrib,
        )
        (function,) = model.functions.values()
        domains = {node.domain for node in function.graph}
        assert domains == ({"", "com.microsoft"} if contrib else {""})
        assert ("com.microsoft" in model.graph.opset_imports) == contrib
        assert model.graph.opset_imports[DOMAIN] == 1


def test_ir_version_rises_to_that_of_overloads_and_never_falls() -> None:
    for before, after in ((7, 10), (11, 11)):
        model = linear(ir_version=before, opset=17)
        quantized = random_weight(FRAMES["hadamard"], 40)
        quantize(model, [Replacement((select(model)["layer"],), PackedWeight.of(quantized))])
        assert model.ir_version == after


def test_no_replacement_changes_nothing() -> None:
    model = linear()
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    assert quantize(model, []).stored_bytes == {}
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_float_weight_goes_and_packed_one_comes() -> None:
    model = linear(48, 40)
    quantized = random_weight(FRAMES["redundant"], 40, bits=3)
    quantize(model, [Replacement((select(model)["layer"],), PackedWeight.of(quantized))])
    found = {
        name: (value.const_value.dtype.name, tuple(value.const_value.shape))
        for name, value in model.graph.initializers.items()
    }
    assert found == {
        "w.codes": ("UINT8", (40, 1, 24)),
        "w.scales": ("FLOAT16", (40, 1)),
        "w.signs_in": ("UINT8", (6,)),
        "b": ("FLOAT", (40,)),
    }


def test_both_sides_bring_zero_points_and_signs() -> None:
    model, quantized = linear(48, 40), BOTH_SIDES["fusion"]
    assert (quantized.frame_in.num_vectors, quantized.frame_out.num_vectors) == (54, 48)
    quantize(model, [Replacement((select(model)["layer"],), PackedWeight.of(quantized))])
    found = {
        name: (value.const_value.dtype.name, tuple(value.const_value.shape))
        for name, value in model.graph.initializers.items()
    }
    assert found == {
        "w.codes": ("UINT8", (48, 1, 16)),
        "w.scales": ("FLOAT16", (48, 1)),
        "w.zero_points": ("UINT8", (48, 1)),
        "w.signs_in": ("UINT8", (6,)),
        "w.signs_out": ("UINT8", (5,)),
        "b": ("FLOAT", (40,)),
    }


@pytest.mark.parametrize(
    ("quantized", "stored"),
    [
        (random_weight(FRAMES["identity"], 40, 2), 40 * 48 * 2 // 8 + 40 * 2),
        (random_weight(FRAMES["hadamard"], 40, 1), 40 * 48 * 1 // 8 + 40 * 2 + 6),
        (random_weight(FRAMES["redundant"], 40, 3), 40 * 64 * 3 // 8 + 40 * 2 + 6),
        (BOTH_SIDES["fusion"], 48 * 64 * 2 // 8 + 48 * 2 + 48 + 6 + 5),
        (
            random_weight(FRAMES["identity"], 40, 4, zero_points=True, group_size=128),
            40 * 48 * 4 // 8 + 40 * (2 + 1),
        ),
    ],
    ids=["identity", "hadamard", "redundant", "both sides", "groups"],
)
def test_stored_bytes_count_all_that_is_packed(quantized: QuantizedWeight, stored: int) -> None:
    model = linear(bias=False)
    result = quantize(
        model, [Replacement((select(model)["layer"],), PackedWeight.of(quantized))], contrib=False
    )
    assert result.stored_bytes == {"layer": stored}
    assert stored == sum(v.const_value.nbytes for v in model.graph.initializers.values())


def test_metadata_stays_with_the_layer() -> None:
    model = linear()
    model.graph[0].metadata_props["origin"] = "torch"
    quantized = random_weight(FRAMES["identity"], 40)
    quantize(model, [Replacement((select(model)["layer"],), PackedWeight.of(quantized))])
    assert model.graph[0].metadata_props["origin"] == "torch"


def test_gemm_is_quantized_as_its_matmul() -> None:
    model = model_from_text(
        f"""{HEADER} g (float[N, 48] x) => (float[N, 40] y) {{
            [layer] y = Gemm <transB = 1, beta = 0.5> (x, w, b)
        }}""",
        w=draw(40, 48),
        b=draw(40),
    )
    quantized = random_weight(FRAMES["hadamard"], 40)
    quantize(model, [Replacement((select(model)["layer"],), PackedWeight.of(quantized))])
    x = draw(6, 48)
    (found,) = run(model, x=x)
    assert relative_error(found, reference(x, quantized, draw(40) / 2)) <= TOLERANCE[True]


# The bias.


def test_bias_shift_is_added() -> None:
    model = linear()
    shift = draw(40, seed=9)
    quantized = random_weight(FRAMES["hadamard"], 40, bias_shift=shift)
    quantize(
        model, [Replacement((select(model)["layer"],), PackedWeight.of(quantized))], contrib=False
    )
    x = draw(2, 3, 48)
    (found,) = run(model, x=x)
    assert relative_error(found, reference(x, quantized, draw(40) + shift)) <= TOLERANCE[False]
    assert "b" not in model.graph.initializers


def test_bias_shift_leaves_a_shared_bias_to_the_others() -> None:
    model = model_from_text(
        f"""{HEADER} g (float[N, 48] x) => (float[N, 48] y)
        <float[N, 48] h, float[N, 48] i, float[N, 48] j> {{
            [first] h = MatMul(x, w) i = Add(h, b) [second] j = MatMul(i, v) y = Add(j, b)
        }}""",
        w=draw(48, 48),
        v=draw(48, 48, seed=8),
        b=draw(48),
    )
    shift = draw(48, seed=9)
    quantized = random_weight(FRAMES["hadamard"], 48, bias_shift=shift)
    quantize(
        model, [Replacement((select(model)["first"],), PackedWeight.of(quantized))], contrib=False
    )
    x = draw(6, 48)
    wanted = reference(x, quantized, draw(48) + shift) @ draw(48, 48, seed=8) + draw(48)
    (found,) = run(model, x=x)
    assert relative_error(found, wanted) <= TOLERANCE[False]


def test_bias_shift_keeps_the_type_of_a_float16_bias() -> None:
    model = linear(dtype=np.float16)
    quantized = random_weight(FRAMES["hadamard"], 40, bias_shift=draw(40, seed=9))
    quantize(model, [Replacement((select(model)["layer"],), PackedWeight.of(quantized))])
    bias = model.graph[0].inputs[-1]
    assert bias is not None
    wanted = (draw(40, dtype=np.float16) + draw(40, seed=9)).astype(np.float16)
    np.testing.assert_array_equal(bias.const_value.numpy(), wanted)


# Several layers.


def test_layers_that_share_a_weight_share_its_packed_form() -> None:
    model = model_from_text(
        f"""{HEADER} g (float[N, 48] x) => (float[N, 48] y) {{
            [first] h = MatMul(x, w) i = Relu(h) [second] j = MatMul(i, w) y = Add(j, b)
        }}""",
        w=draw(48, 48),
        b=draw(48),
    )
    model.graph[0].outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    quantized = random_weight(FRAMES["hadamard"], 48)
    result = quantize(
        model,
        [Replacement(tuple(select(model).values()), PackedWeight.of(quantized))],
        contrib=False,
    )
    first, second = (node for node in model.graph if node.op_type == "FrameMatMul")
    assert first.inputs[1:4] == second.inputs[1:4]
    assert sorted(model.graph.initializers) == ["b", "w.codes", "w.scales", "w.signs_in"]
    assert result.stored_bytes == {"first": 48 * 48 * 2 // 8 + 48 * 2 + 6, "second": 0}
    assert len(model.functions) == 2  # with and without a bias
    x = draw(6, 48)
    wanted = reference(np.maximum(reference(x, quantized), 0), quantized, draw(48))
    (found,) = run(model, x=x)
    assert relative_error(found, wanted) <= TOLERANCE[False]


@pytest.mark.parametrize("bias", [True, False])
def test_layers_in_a_chain_are_replaced_one_after_the_other(bias: bool) -> None:
    tail = "j = MatMul(h, v) y = Add(j, b)" if bias else "y = MatMul(h, v)"
    model = model_from_text(
        f"""{HEADER} g (float[N, 48] x) => (float[N, 40] y)
        <float[N, 48] h, float[N, 40] j> {{
            [first] h = MatMul(x, w) [second] {tail}
        }}""",
        w=draw(48, 48),
        v=draw(48, 40),
        **({"b": draw(40)} if bias else {}),
    )
    layers = select(model)
    parts = [random_weight(FRAMES["hadamard"], 48), random_weight(FRAMES["hadamard"], 40, bits=3)]
    replacements = [
        Replacement((layer,), PackedWeight.of(part))
        for layer, part in zip(layers.values(), parts, strict=True)
    ]
    quantize(model, replacements, contrib=False)
    x = draw(6, 48)
    wanted = reference(reference(x, parts[0]), parts[1], draw(40) if bias else None)
    (found,) = run(model, x=x)
    assert relative_error(found, wanted) <= TOLERANCE[False]
    clone = model.clone()
    np.testing.assert_array_equal(run(clone, x=x)[0], found)


def test_equal_specs_share_a_function_and_different_ones_do_not() -> None:
    model = model_from_text(
        f"""{HEADER} g (float[N, 48] x) => (float[N, 48] y, float[N, 48] z, float[N, 48] u) {{
            [a] y = MatMul(x, w1) [b] z = MatMul(x, w2) [c] u = MatMul(x, w3)
        }}""",
        w1=draw(48, 48),
        w2=draw(48, 48, seed=2),
        w3=draw(48, 48, seed=3),
    )
    layers = select(model)
    parts = {
        "a": random_weight(FRAMES["hadamard"], 48, seed=1),
        "b": random_weight(HadamardFrame.create(48, 1.0, seed=7), 48, seed=2),
        "c": random_weight(FRAMES["hadamard"], 48, bits=3, seed=3),
    }
    quantize(
        model,
        [Replacement((layers[n],), PackedWeight.of(part)) for n, part in parts.items()],
        contrib=False,
    )
    overloads = [node.overload for node in model.graph]
    assert overloads[0] == overloads[1] != overloads[2]
    assert {key[2] for key in model.functions} == set(overloads)
    x = draw(6, 48)
    for found, part in zip(run(model, x=x), parts.values(), strict=True):
        assert relative_error(found, reference(x, part)) <= TOLERANCE[False]


def test_values_between_nodes_need_no_declared_type() -> None:
    model = model_from_text(
        f"""{HEADER} g (float[N, 48] x) => (float[N, 40] y) {{
            [layer] h = MatMul(x, w) y = Relu(h)
        }}""",
        w=draw(48, 40),
    )
    quantized = random_weight(FRAMES["hadamard"], 40)
    quantize(
        model, [Replacement((select(model)["layer"],), PackedWeight.of(quantized))], contrib=False
    )
    x = draw(6, 48)
    (found,) = run(model, x=x)
    assert relative_error(found, np.maximum(reference(x, quantized), 0)) <= TOLERANCE[False]


def test_output_that_is_read_inside_the_graph_too() -> None:
    model = model_from_text(
        f"""{HEADER} g (float[N, 48] x) => (float[N, 40] h, float[N, 40] y) {{
            [layer] h = MatMul(x, w) y = Relu(h)
        }}""",
        w=draw(48, 40),
    )
    quantized = random_weight(FRAMES["hadamard"], 40)
    quantize(
        model, [Replacement((select(model)["layer"],), PackedWeight.of(quantized))], contrib=False
    )
    x = draw(6, 48)
    wanted = reference(x, quantized)
    for found, value in zip(run(model, x=x), (wanted, np.maximum(wanted, 0)), strict=True):
        assert relative_error(found, value) <= TOLERANCE[False]


def test_float_weight_stays_for_a_subgraph() -> None:
    model = model_from_text(
        f"""{HEADER} g (float[N, 48] x, bool c) => (float[N, 40] y) {{
            [layer] h = MatMul(x, w)
            y = If (c) <
                then_branch = t () => (float[N, 40] p) {{ p = MatMul(x, w) }},
                else_branch = e () => (float[N, 40] q) {{ q = Identity(h) }}
            >
        }}""",
        w=draw(48, 40),
    )
    model.graph[0].outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    quantized = random_weight(FRAMES["hadamard"], 40)
    quantize(
        model, [Replacement((select(model)["layer"],), PackedWeight.of(quantized))], contrib=False
    )
    assert "w" in model.graph.initializers
    x = draw(6, 48)
    for choice, wanted in ((True, x @ draw(48, 40)), (False, reference(x, quantized))):
        (found,) = run(model, x=x, c=np.array(choice))
        assert relative_error(found, wanted) <= TOLERANCE[False]


def test_float_weight_stays_where_it_is_an_output() -> None:
    model = model_from_text(
        f"""{HEADER} g (float[N, 48] x) => (float[N, 40] y, float[48, 40] w) {{
            [layer] y = MatMul(x, w)
        }}""",
        w=draw(48, 40),
    )
    quantized = random_weight(FRAMES["hadamard"], 40)
    quantize(model, [Replacement((select(model)["layer"],), PackedWeight.of(quantized))])
    np.testing.assert_array_equal(run(model, x=draw(2, 48))[1], draw(48, 40))


def test_new_initializers_take_no_name_of_another_value() -> None:
    model = model_from_text(
        f"""{HEADER} g (float[N, 48] x, float[N, 48] taken) => (float[N, 40] y) {{
            s = Add(x, taken) [layer] y = MatMul(s, w)
        }}""",
        w=draw(48, 40),
    )
    model.graph.inputs[1].name = "w.codes"
    quantized = random_weight(FRAMES["hadamard"], 40)
    quantize(
        model, [Replacement((select(model)["layer"],), PackedWeight.of(quantized))], contrib=False
    )
    x = draw(6, 48)
    (found,) = run(model, x=x, **{"w.codes": x})
    assert relative_error(found, reference(x + x, quantized)) <= TOLERANCE[False]
