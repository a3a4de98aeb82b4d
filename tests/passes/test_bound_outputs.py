"""Bounds of whole networks, beside errors that were measured."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx_ir.passes.common import ShapeInferencePass

from fqonnx.frames import HadamardFrame
from fqonnx.passes import (
    BoundOutputsPass,
    LayerNorms,
    LinearLayer,
    NormalizeLinearPass,
    QuantizeWeightsPass,
    Replacement,
    SelectWeightsPass,
    operator_norm,
)
from fqonnx.passes.constants import made_from
from fqonnx.passes.norms import Affine
from fqonnx.quant import PackedWeight, QuantizedWeight
from fqonnx.session import Session
from support import model_from_text, random_weight

HEADER = '<ir_version: 10, opset_import: ["": 20]>'


def draw(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def bounds_of(text: str, **arrays: np.ndarray) -> dict[str, Affine | str]:
    model = model_from_text(f"{HEADER} {text}", **arrays)
    for output in model.graph.outputs:
        output.shape = output.shape or None
    ShapeInferencePass()(model)
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    result = BoundOutputsPass({})
    assert not result(model).modified
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before
    return result.bounds


def norm(array: np.ndarray) -> float:
    return float(np.linalg.norm(array.astype(np.float64)))


def norms_of(layer: LinearLayer, quantized: QuantizedWeight) -> LayerNorms:
    """Return the norms of a layer; its bias is shifted."""
    weight, shift = layer.matrix(), quantized.bias_shift
    bias = None if layer.bias is None else layer.bias.const_value
    return LayerNorms(
        operator_norm(weight),
        operator_norm(quantized.dequantize().numpy() - weight),
        0.0 if bias is None else norm(bias.numpy()),
        0.0 if shift is None else norm(shift.numpy()),
    )


MLP = """g (float[N, 32] x) => (float[N, 40] y) {
    h = Gemm <transB = 1> (x, w1, b1) r = Relu(h) p = MatMul(r, w2) y = Add(p, b2)
}"""
RESIDUAL = """g (float[N, 32, 6, 6] x) => (float[N, 40] y, float[N, 32, P, Q] h) {
    a = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (x, w1, b1)
    r = Relu(a)
    b = Conv <pads = [1, 1, 1, 1]> (r, w3)
    s = Conv <strides = [2, 2]> (x, w4, b1)
    h = Add(b, s)
    m = ReduceMean <keepdims = 0> (h, axes)
    y = Gemm(m, w2, b2)
}"""
RESHAPED = """g (float[N, 4, 16] x) => (float[N, 160] y) {
    d = Shape(x) n = Gather(d, zero) s = Concat <axis = 0> (n, two, minus)
    v = Reshape(x, s) h = MatMul(v, w1) i = Add(h, b1) t = Transpose <perm = [0, 2, 1]> (i)
    f = Flatten(t) j = MatMul(f, w2) y = Add(j, b2)
}"""
TWO = """g (float[N, 32] x, float[N, 32] z) => (float[N, 40] y, float[N, 40] k) {
    h = MatMul(x, w1) i = Add(h, b1) j = Sub(i, z) t = Tanh(j) y = MatMul(t, w2) k = Neg(t)
}"""
NETWORKS: dict[str, tuple[str, dict[str, np.ndarray], dict[str, tuple[int, ...]]]] = {
    "feed-forward": (
        MLP,
        {"w1": draw(40, 32), "b1": draw(40), "w2": draw(40, 40), "b2": draw(40)},
        {"x": (32,)},
    ),
    "residual": (
        RESIDUAL,
        {
            **{"w1": draw(32, 32, 3, 3), "b1": draw(32), "w3": draw(32, 32, 3, 3)},
            **{"w4": draw(32, 32, 1, 1), "w2": draw(32, 40), "b2": draw(40)},
            "axes": np.array([2, 3]),
        },
        {"x": (32, 6, 6)},
    ),
    "reshaped": (
        RESHAPED,
        {
            **{"w1": draw(32, 40), "b1": draw(40), "w2": draw(80, 160), "b2": draw(160)},
            **{"zero": np.array([0]), "two": np.array([2]), "minus": np.array([-1])},
        },
        {"x": (4, 16)},
    ),
    "two inputs": (
        TWO.replace("40]", "32]"),
        {"w1": draw(32, 32), "b1": draw(32), "w2": draw(32, 32)},
        {"x": (32,), "z": (32,)},
    ),
}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("noise", [1e-3, 1.0])
@pytest.mark.parametrize("batch", ["N", "1"])
def test_error_of_a_network_is_within_its_bound(network: str, noise: float, batch: str) -> None:
    text, arrays, inputs = NETWORKS[network]
    text = f"{HEADER} {text}".replace("[N,", f"[{batch},")
    if batch == "1":
        text = text.replace("P, Q", "3, 3")
    model, original = (model_from_text(text, **arrays) for _ in range(2))
    ShapeInferencePass()(model)
    NormalizeLinearPass()(model)
    selected = SelectWeightsPass()
    selected(model)
    replacements, known = [], {}
    for number, layer in enumerate(selected.layers):
        shift = noise * draw(layer.dim_out, seed=number) if layer.bias is not None else None
        quantized = random_weight(
            HadamardFrame.create(layer.dim_in), layer.dim_out, bias_shift=shift, seed=number
        )
        # The weight becomes what it is quantized to, but for some noise.
        close = quantized.dequantize().numpy() + noise / 10 * draw(layer.dim_in, layer.dim_out)
        shaped = layer.stored(close)
        layer.weight.const_value = ir.tensor(np.ascontiguousarray(shaped))
        *_, root = made_from(layer.weight)
        source = original.graph.initializers[root.name]
        same = source.const_value.shape == layer.weight_shape
        source.const_value = ir.tensor(np.ascontiguousarray(shaped if same else shaped.T))
        replacements.append(Replacement((layer,), PackedWeight.of(quantized)))
        known[layer.name] = norms_of(layer, quantized)
    assert len(known) == len([name for name in arrays if name.startswith("w")])
    rewrite = QuantizeWeightsPass(replacements, contrib=False)
    rewrite(model)
    result = BoundOutputsPass({rewrite.nodes[name]: norms for name, norms in known.items()})
    result(model)

    before, after = Session(original, "before"), Session(model, "after")
    for number, scale in enumerate([1e-2, 1.0, 1.0, 1e2]):
        feed = {n: scale * draw(1, *shape, seed=number) for n, shape in inputs.items()}
        size = norm(np.concatenate([array.ravel() for array in feed.values()]))
        for y, estimate, name in zip(
            before.run(feed), after.run(feed), before.output_names, strict=True
        ):
            bound = result.bounds[name]
            assert isinstance(bound, Affine), bound
            assert 0 < norm(y.astype(np.float64) - estimate) <= bound.at(size)


def test_bound_of_one_layer_is_met() -> None:
    model = model_from_text(
        f"{HEADER} g (float[N, 32] x) => (float[N, 32] y) {{ y = MatMul(x, w) }}", w=draw(32, 32)
    )
    selected = SelectWeightsPass()
    selected(model)
    (layer,) = selected.layers
    quantized = random_weight(HadamardFrame.create(32), 32)
    error = quantized.dequantize().double().numpy() - layer.matrix()
    norms = norms_of(layer, quantized)
    rewrite = QuantizeWeightsPass(
        [Replacement((layer,), PackedWeight.of(quantized))], contrib=False
    )
    rewrite(model)
    result = BoundOutputsPass({rewrite.nodes["y"]: norms})
    result(model)
    left, stretch, _ = np.linalg.svd(error)
    worst = left[:, :1].T.astype(np.float32)
    y = Session(model, "model").run({"x": worst})[0]
    assert result.bounds == {"y": Affine(pytest.approx(stretch[0], rel=1e-6))}
    assert norm(y - worst @ layer.matrix()) == pytest.approx(stretch[0], rel=1e-4)


def test_networks_without_quantized_layers_have_no_error() -> None:
    for network in ("reshaped", "two inputs"):
        text, arrays, _ = NETWORKS[network]
        assert set(bounds_of(text, **arrays).values()) == {Affine(0.0)}


def test_outputs_that_no_layer_changes_have_no_error() -> None:
    bounds = bounds_of(
        """g (float[N, 4] x) => (float[N, 4] x, float[2] c, int64[2] s, float[N, 4] z) {
            s = Shape(x) z = Neg(x)
        }""",
        c=np.zeros(2, np.float32),
    )
    nothing = Affine(0.0)
    assert bounds == {"x": nothing, "c": nothing, "s": nothing, "z": nothing}


NO_SAMPLES = "the inputs have no named first axis in common, the one of samples"


@pytest.mark.parametrize(
    "inputs",
    [
        "float[N, 4] x, float[M, 4] z",
        "float[N, 4] x, float s",
        "float[N, 4] x, float[1, 4] z",
        "float[7, 4] x",
        "float[?, 4] x",
    ],
)
def test_inputs_must_be_by_sample(inputs: str) -> None:
    bounds = bounds_of(f"g ({inputs}) => (float y, float c) {{ y = Neg(x) }}", c=draw(2))
    assert bounds == {"y": NO_SAMPLES, "c": NO_SAMPLES}


def test_integers_have_no_norm_and_hurt_only_what_reads_them() -> None:
    bounds = bounds_of(
        """g (int64[N, 4] ids, float[N, 4] x) => (float[N, 4] y, float[N, 4] z) {
            y = Relu(x) f = Cast <to = 1> (ids) g = Neg(f) z = Add(x, g)
        }"""
    )
    assert bounds == {"y": Affine(0.0), "z": "input 'ids' is not of a float type"}


@pytest.mark.parametrize("condition", ["c = Constant <value = bool {1}> ()", "c = Not(b)"])
def test_subgraph_may_read_what_it_is_not_given(condition: str) -> None:
    (reason,) = bounds_of(
        f"""g (float[N, 4] x) => (float[N, 4] y) {{
            {condition}
            [choice] i = If (c) <
                then_branch = t () => (float[N, 4] p) {{ p = Neg(x) }},
                else_branch = e () => (float[N, 4] q) {{ q = Abs(x) }}
            >
            y = Relu(i)
        }}""",
        b=np.array(False),
    ).values()
    assert reason == "If node 'choice' has a subgraph"


def test_the_first_reason_is_told() -> None:
    (reason,) = bounds_of(
        "g (float[N, 4] x) => (float y) { [a] h = Exp(x) [b] i = Log(h) y = Add(i, x) }"
    ).values()
    assert reason == "no Lipschitz constant is known for Exp node 'a' of these inputs"


def test_indices_have_no_bound() -> None:
    bounds = bounds_of(
        """g (float[N, 2, 8] x) => (float[N, 2, 4] y, int64[N, 2, 4] i) {
            y, i = MaxPool <kernel_shape = [2], strides = [2]> (x)
        }"""
    )
    assert bounds == {"y": Affine(0.0), "i": "no bound is known for MaxPool's others"}


@pytest.mark.parametrize(
    ("node", "shape"),
    [
        ("Transpose <perm = [1, 0, 2]> (x)", "3, N, 4"),
        ("ReduceMean <keepdims = 0> (x)", ""),
        ("Reshape (x, s)", "1, M, 4"),
    ],
)
def test_outputs_must_be_by_sample(node: str, shape: str) -> None:
    # Their errors would be measured by rows that are not samples.
    declared = f"float[{shape}] y" if shape else "float y"
    model = model_from_text(
        f"{HEADER} g (float[N, 3, 4] x) => ({declared}) {{ y = {node} }}", s=np.array([1, -1, 4])
    )
    result = BoundOutputsPass({})
    result(model)
    assert result.bounds == {"y": "the first axis of 'y' is not that of samples"}


@pytest.mark.parametrize(
    ("shape", "is_bounded"), [("M, 4", True), ("?, 4", True), ("12, N", False)]
)
def test_samples_may_have_another_name_in_the_end(shape: str, is_bounded: bool) -> None:
    text = f"{HEADER} g (float[N, 3, 4] x) => (float[{shape}] y) {{ y = Reshape (x, s) }}"
    result = BoundOutputsPass({})
    result(model_from_text(text, s=np.array([-1, 4])))
    assert isinstance(result.bounds["y"], Affine) == is_bounded


def test_bias_that_is_an_activation_has_no_bound() -> None:
    model = model_from_text(
        f"""{HEADER} g (float[1, 32, 6] x) => (float[1, 40, 6] y) {{
            m = ReduceMean <keepdims = 0> (x, axes) b = MatMul(m, w) [layer] y = Conv(x, k, b)
        }}""",
        axes=np.array([0, 2]),
        w=draw(32, 40),
        k=draw(40, 32, 1),
    )
    ShapeInferencePass()(model)
    selected = SelectWeightsPass(include=("layer",))
    selected(model)
    (layer,) = selected.layers
    quantized = random_weight(HadamardFrame.create(32), 40)
    rewrite = QuantizeWeightsPass(
        [Replacement((layer,), PackedWeight.of(quantized))], contrib=False
    )
    rewrite(model)
    result = BoundOutputsPass({rewrite.nodes["layer"]: LayerNorms(1.0, 1.0)})
    result(model)
    assert "for FrameMatMul node 'layer'" in str(result.bounds["y"])
