from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx_ir.passes.common import ShapeInferencePass

from fqonnx.frames import Frame, HadamardFrame, IdentityFrame
from fqonnx.passes import (
    MergeFrameMatMulsPass,
    QuantizeWeightsPass,
    Replacement,
    SelectWeightsPass,
)
from fqonnx.passes.merge_frame_matmuls import merged_layers
from fqonnx.quant import PackedWeight, QuantizedWeight
from fqonnx.session import Session
from support import model_from_text, random_weight

HEADER = '<ir_version: 10, opset_import: ["": 20]>'
DIM = 48
THREE = f"""{HEADER} g (float[N, {DIM}] x) => (float[N, 16] r, float[N, 24] k) {{
    [query] q0 = MatMul(x, wq)
    q = Add(q0, b)
    [key] k = MatMul(x, wk)
    [value] v0 = MatMul(x, wv)
    v = Relu(v0)
    qv = Concat<axis=-1>(q, v)
    [last] r = MatMul(qv, wl)
}}"""
SIZES = {"wq": (DIM, 40), "wk": (DIM, 24), "wv": (DIM, 32), "wl": (72, 16)}


def draw(*shape: int, dtype: type = np.float32) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape).astype(dtype)


def weight_for(dim_in: int, frame_out: Frame | int, **options: Any) -> QuantizedWeight:
    """Return a weight with the signs that all of this input have, unless a seed is given."""
    frame = HadamardFrame.create(dim_in, 1.25, seed=options.pop("signs", 0))
    return random_weight(frame, frame_out, options.pop("bits", 2), **options)


def compiled(text: str = THREE, dtype: type = np.float32, **different: dict[str, Any]) -> ir.Model:
    """Return the model with all its layers quantized, those named here in another way."""
    arrays = {name: draw(*size, dtype=dtype) for name, size in SIZES.items() if name in text}
    bias = {"b": draw(40, dtype=dtype)} if "b)" in text else {}
    return compiled_from(model_from_text(text, **arrays, **bias), **different)


def compiled_from(model: ir.Model, **different: dict[str, Any]) -> ir.Model:
    """Quantize all layers of a model."""
    ShapeInferencePass()(model)
    selected = SelectWeightsPass()
    selected(model)
    replacements = []
    for layer in selected.layers:
        options = dict(different.get(layer.name, {}))
        frame_out = options.pop("frame_out", layer.dim_out)
        weight = weight_for(layer.dim_in, frame_out, **options)
        replacements.append(Replacement((layer,), PackedWeight.of(weight)))
    QuantizeWeightsPass(replacements, contrib=True)(model)
    return model


def merge(model: ir.Model, x: np.ndarray | None = None) -> list[str]:
    """Merge; check that outputs stay as they are; return the names of the nodes."""
    feed = {"x": draw(5, DIM) if x is None else x}
    before = Session(model, "before").run(feed)
    count = len(model.graph)
    modified = MergeFrameMatMulsPass()(model).modified
    assert modified == (len(model.graph) < count)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    for old, new in zip(before, Session(model, "after").run(feed), strict=True):
        np.testing.assert_allclose(old, new, atol=0 if old.dtype == np.float32 else 0.05)
    assert not MergeFrameMatMulsPass()(model).modified
    return [str(node.name) for node in model.graph if node.op_type == "FrameMatMul"]


@pytest.mark.parametrize("options", [{}, {"zero_points": True}, {"bits": 3}], ids=str)
def test_weights_of_one_input_are_in_one_node(options: dict[str, Any]) -> None:
    model = compiled(query=options, key=options, value=options)
    stored = sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value)
    assert merge(model) == ["query+key+value", "last"]
    node = next(node for node in model.graph if node.op_type == "FrameMatMul")
    assert node.attributes.get_ints("splits") == (40, 24, 32)
    assert merged_layers(node) == ["query", "key", "value"]
    assert len(model.functions) == 2
    # Two times the signs are gone; zeros have come for two biases.
    now = sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value)
    assert now == stored - 2 * DIM // 8 + (24 + 32) * 4


def test_merged_values_keep_their_names_and_places() -> None:
    model = compiled()
    merge(model)
    assert [value.name for value in model.graph.outputs] == ["r", "k"]
    assert [node.op_type for node in model.graph] == [
        "FrameMatMul",
        "Relu",
        "Concat",
        "FrameMatMul",
    ]


def test_float16() -> None:
    model = compiled(THREE.replace("float[", "float16["), np.float16)
    assert merge(model, draw(5, DIM, dtype=np.float16)) == ["query+key+value", "last"]


@pytest.mark.parametrize(
    "different",
    [{"signs": 1}, {"bits": 3}, {"zero_points": True}, {"frame_out": HadamardFrame.create(24)}],
    ids=lambda different: next(iter(different)),
)
def test_node_that_differs_stays_alone(different: dict[str, Any]) -> None:
    assert merge(compiled(key=different)) == ["query+value", "key", "last"]


def test_weights_of_different_inputs_stay_alone() -> None:
    text = f"""{HEADER} g (float[N, {DIM}] x) => (float[N, 40] q, float[N, 24] k) {{
        y = Relu(x)
        [query] q = MatMul(x, wq)
        [key] k = MatMul(y, wk)
    }}"""
    model = compiled(text)
    functions = list(model.functions)
    assert merge(model) == ["query", "key"]
    assert list(model.functions) == functions


def test_bias_that_a_caller_can_replace_stays_an_input() -> None:
    model = compiled()
    query = next(node for node in model.graph if node.name == "query")
    bias = query.inputs[-1]
    assert bias is not None
    model.graph.inputs.append(bias)
    MergeFrameMatMulsPass()(model)
    names = [node.name for node in model.graph if node.op_type == "FrameMatMul"]
    assert names == ["query", "key+value", "last"]


def test_inner_graph_reads_a_merged_value() -> None:
    text = f"""{HEADER} g (float[N, {DIM}] x, bool c) => (float[N, 24] z) {{
        [query] q = MatMul(x, wq)
        [key] k = MatMul(x, wk)
        z = If(c) <
            then_branch = t () => (float[N, 24] t0) {{ t0 = Relu(k) }},
            else_branch = e () => (float[N, 24] e0) {{ e0 = Neg(k) }}
        >
        w = Relu(q)
    }}"""
    model = compiled(text)
    feed = {"x": draw(5, DIM), "c": np.array(True)}
    before = Session(model, "before").run(feed)
    assert MergeFrameMatMulsPass()(model).modified
    np.testing.assert_array_equal(Session(model, "after").run(feed)[0], before[0])


def test_float_model_is_left_alone() -> None:
    model = model_from_text(THREE, **{n: draw(*s) for n, s in SIZES.items()}, b=draw(40))
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    assert not MergeFrameMatMulsPass()(model).modified
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_identity_frames_need_no_signs() -> None:
    text = f"""{HEADER} g (float[N, {DIM}] x) => (float[N, 40] q, float[N, 24] k) {{
        [query] q = MatMul(x, wq)
        [key] k = MatMul(x, wk)
    }}"""
    model = model_from_text(text, wq=draw(DIM, 40), wk=draw(DIM, 24))
    selected = SelectWeightsPass()
    selected(model)
    QuantizeWeightsPass(
        [
            Replacement(
                (layer,), PackedWeight.of(random_weight(IdentityFrame(DIM), layer.dim_out, 4))
            )
            for layer in selected.layers
        ],
        contrib=True,
    )(model)
    assert merge(model) == ["query+key"]


def test_node_has_at_most_64_outputs() -> None:
    products = "\n".join(f"[n{i}] y{i} = MatMul(x, w{i})" for i in range(65))
    outputs = ", ".join(f"float[N, 24] y{i}" for i in range(65))
    text = f"{HEADER} g (float[N, {DIM}] x) => ({outputs}) {{ {products} }}"
    model = model_from_text(text, **{f"w{i}": draw(DIM, 24) for i in range(65)})
    selected = SelectWeightsPass()
    selected(model)
    replacements = [
        Replacement((layer,), PackedWeight.of(weight_for(DIM, layer.dim_out)))
        for layer in selected.layers
    ]
    QuantizeWeightsPass(replacements, contrib=True)(model)
    merge(model)
    assert [len(node.outputs) for node in model.graph] == [64, 1]


def test_trellis_layers_of_whole_tiles_merge_and_others_do_not() -> None:
    wide = {"wq": (DIM, 64), "wk": (DIM, 128), "wv": (DIM, 40), "wl": (104, 16)}
    text = THREE.replace("float[N, 24]", "float[N, 128]")
    arrays = {name: draw(*size) for name, size in wide.items()}
    layers = {key: {"trellis": True} for key in ("query", "key", "value")}
    model = compiled_from(model_from_text(text, **arrays, b=draw(64)), **layers)
    names = merge(model)
    assert "query+key" in names
    assert "value" in names
