from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from fqonnx.frames import Frame, FusionFrame, HadamardFrame
from fqonnx.passes import (
    InlineFrameOpsPass,
    QuantizeWeightsPass,
    Replacement,
    SelectWeightsPass,
)
from fqonnx.quant import PackedWeight
from fqonnx.runtime_ops import DOMAIN
from fqonnx.session import Session
from support import fusion_frame, model_from_text, random_weight

HEADER = '<ir_version: 10, opset_import: ["": 20]>'
DIM = 48


def draw(*shape: int, dtype: type = np.float32) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape).astype(dtype)


def compiled(
    text: str,
    *,
    frames_out: tuple[Frame, ...] = (),
    contrib: bool = True,
    **initializers: np.ndarray,
) -> ir.Model:
    """Return the model with all its layers quantized, of different bits in turn."""
    model = model_from_text(text, **initializers)
    selected = SelectWeightsPass()
    selected(model)
    for i, layer in enumerate(selected.layers):
        frame = HadamardFrame.create(layer.dim_in, 1.0 + 0.25 * (i % 2), seed=i)
        frame_out = frames_out[i % len(frames_out)] if frames_out else layer.dim_out
        weight = random_weight(frame, frame_out, 2 + i % 3, zero_points=bool(frames_out))
        again = SelectWeightsPass()
        again(model)
        QuantizeWeightsPass(
            [Replacement((again.layers[0],), PackedWeight.of(weight))], contrib=contrib
        )(model)
    return model


def lower(model: ir.Model, **feed: np.ndarray) -> None:
    """Inline, and check that no trace is left and the outputs are bit-identical."""
    before = Session(model, "before").run(feed)
    outputs = [value.name for value in model.graph.outputs]
    assert InlineFrameOpsPass()(model).modified
    assert_no_trace(model)
    assert [value.name for value in model.graph.outputs] == outputs
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    after = Session(model, "after").run(feed)
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old, new)


def assert_no_trace(model: ir.Model) -> None:
    graphs = [model.graph, *(function.graph for function in model.functions.values())]
    for graph in graphs:
        assert DOMAIN not in graph.opset_imports
        for node in ir.traversal.RecursiveGraphIterator(graph):
            assert node.domain != DOMAIN
    assert all(domain != DOMAIN for domain, _, _ in model.functions)


MLP = f"""{HEADER} g (float[N, {DIM}] x) => (float[N, {DIM}] y)
<float[N, {DIM}] h, float[N, {DIM}] i, float[N, {DIM}] j> {{
    [first] h = MatMul(x, w) i = Relu(h) [second] j = MatMul(i, v) y = Add(j, b)
}}"""


@pytest.mark.parametrize("contrib", [True, False])
def test_plain_nodes_compute_the_same_bits(contrib: bool) -> None:
    model = compiled(MLP, contrib=contrib, w=draw(DIM, DIM), v=draw(DIM, DIM), b=draw(DIM))
    assert len(model.functions) == 2
    lower(model, x=draw(6, DIM))
    domains = {node.domain for node in model.graph}
    assert domains == ({"", "com.microsoft"} if contrib else {""})
    assert not model.functions


@pytest.mark.parametrize("contrib", [True, False])
def test_frames_on_the_output_side_compute_the_same_bits(contrib: bool) -> None:
    frames_out = (FusionFrame.create(DIM, 1.1), fusion_frame(DIM, (7, 12, 54)))
    arrays = {"w": draw(DIM, DIM), "v": draw(DIM, DIM), "b": draw(DIM)}
    lower(compiled(MLP, frames_out=frames_out, contrib=contrib, **arrays), x=draw(6, DIM))


def test_float16_computes_the_same_bits() -> None:
    model = compiled(
        MLP.replace("float[", "float16["),
        w=draw(DIM, DIM, dtype=np.float16),
        v=draw(DIM, DIM, dtype=np.float16),
        b=draw(DIM, dtype=np.float16),
    )
    lower(model, x=draw(6, DIM, dtype=np.float16))


def test_nodes_that_share_a_function_are_inlined_apart() -> None:
    text = f"""{HEADER} g (float[N, {DIM}] x) => (float[N, {DIM}] y, float[N, {DIM}] z)
    <float[N, {DIM}] h, float[N, {DIM}] i, float[N, {DIM}] j> {{
        h = MatMul(x, w1) i = Relu(h) j = MatMul(i, w2) y = MatMul(j, w3) z = MatMul(x, w4)
    }}"""
    model = compiled(text, **{f"w{i}": draw(DIM, DIM) for i in range(1, 5)})
    lower(model, x=draw(6, DIM))


def test_layers_in_a_chain_compute_the_same_bits() -> None:
    model = model_from_text(
        f"""{HEADER} g (float[N, {DIM}] x) => (float[N, {DIM}] y) <float[N, {DIM}] h> {{
            h = MatMul(x, w) y = MatMul(h, v)
        }}""",
        w=draw(DIM, DIM),
        v=draw(DIM, DIM),
    )
    selected = SelectWeightsPass()
    selected(model)
    weight = random_weight(HadamardFrame.create(DIM), DIM)
    replacements = [Replacement((layer,), PackedWeight.of(weight)) for layer in selected.layers]
    QuantizeWeightsPass(replacements, contrib=True)(model)
    lower(model, x=draw(6, DIM))
    model.clone()


def test_subgraph_beside_it_is_left_alone() -> None:
    text = f"""{HEADER} g (float[N, {DIM}] x, bool c) => (float[N, {DIM}] y) <float[N, {DIM}] h> {{
        h = MatMul(x, w)
        y = If (c) <
            then_branch = t () => (float[N, {DIM}] p) {{ r = Relu(h) p = Add(r, x) }},
            else_branch = e () => (float[N, {DIM}] q) {{ q = Identity(h) }}
        >
    }}"""
    for choice in (True, False):
        model = compiled(text, w=draw(DIM, DIM))
        lower(model, x=draw(6, DIM), c=np.array(choice))
        branch = model.graph[-1].attributes["then_branch"].as_graph()
        assert [node.op_type for node in branch] == ["Relu", "Add"]


def test_inlined_values_take_no_name_of_a_value_in_a_subgraph() -> None:
    text = f"""{HEADER} g (float[N, {DIM}] x, bool c) => (float[N, {DIM}] y) <float[N, {DIM}] h> {{
        h = MatMul(x, w)
        y = If (c) <
            then_branch = t () => (float[N, {DIM}] p) {{ val_0 = Relu(h) p = Add(val_0, x) }},
            else_branch = e () => (float[N, {DIM}] q) {{ q = Identity(h) }}
        >
    }}"""
    model = compiled(text, w=draw(DIM, DIM))
    lower(model, x=draw(6, DIM), c=np.array(True))


def test_functions_of_others_stay() -> None:
    model = compiled(
        f"""<ir_version: 10, opset_import: ["": 20, "local": 1]>
        g (float[N, {DIM}] x) => (float[N, {DIM}] y) <float[N, {DIM}] h> {{
            h = MatMul(x, w) y = local.Twice(h)
        }}
        <domain: "local", opset_import: ["": 20]>
        Twice (a) => (b) {{ b = Add(a, a) }}""",
        w=draw(DIM, DIM),
    )
    lower(model, x=draw(6, DIM))
    assert list(model.functions) == [("local", "Twice", "")]
    assert model.graph[-1].op_type == "Twice"


def test_model_without_our_operators_is_not_modified() -> None:
    model = model_from_text(MLP, w=draw(DIM, DIM), v=draw(DIM, DIM), b=draw(DIM))
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    assert not InlineFrameOpsPass()(model).modified
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_dropping_a_function_that_nothing_calls_is_a_modification() -> None:
    model = compiled(MLP, w=draw(DIM, DIM), v=draw(DIM, DIM), b=draw(DIM))
    plain = model_from_text(MLP, w=draw(DIM, DIM), v=draw(DIM, DIM), b=draw(DIM))
    plain.graph.opset_imports[DOMAIN] = 1
    plain.functions.update(model.functions)
    assert InlineFrameOpsPass()(plain).modified
    assert_no_trace(plain)
