"""Bounds of compiled files: measured errors are within them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from fqonnx import CompileConfig, CompileReport, compile_model
from fqonnx.report import LayerReport, OutputBound
from support import mlp_model, model_from_text

HEADER = '<ir_version: 10, opset_import: ["": 20]>'


def draw(*shape: int, seed: int = 1) -> np.ndarray:
    fan_in = np.prod(shape[1:]) if len(shape) > 1 else 4.0
    values = np.random.default_rng(seed).standard_normal(shape) / np.sqrt(fan_in)
    return values.astype(np.float32)


def residual_model() -> ir.Model:
    """Return pixels (N, 4, 8, 8) → a 3 × 3 stem → a block with a 1 × 1 shortcut → logits."""
    return model_from_text(
        f"""{HEADER} g (float[N, 4, 8, 8] x) => (float[N, 40] y, float[N, 32, 4, 4] h) {{
            [stem] a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
            r = Clip(a, zero, six)
            [inner] b = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (r, w2, b2)
            [shortcut] s = Conv <strides = [2, 2]> (r, w3, b3)
            h = Add(b, s)
            t = Relu(h)
            m = GlobalAveragePool(t)
            f = Flatten(m)
            [head] y = Gemm <transB = 1> (f, w4, b4)
        }}""",
        **{"w1": draw(32, 4, 3, 3), "w2": draw(32, 32, 3, 3), "w3": draw(32, 32, 1, 1)},
        **{
            "w4": draw(40, 32),
            **{f"b{i}": draw(size) for i, size in enumerate((32, 32, 32, 40), 1)},
        },
        zero=np.float32(0),
        six=np.float32(6),
    )


MODELS = {"mlp": mlp_model, "residual": residual_model}


def compiled(
    model: ir.Model, folder: Path, config: CompileConfig, calibration: Path | str = "none"
) -> CompileReport:
    ir.save(model, folder / "m.onnx")
    return compile_model(folder / "m.onnx", folder / "out.onnx", config, calibration=calibration)


def quantized_layers(report: CompileReport) -> list[LayerReport]:
    return [layer for layer in report.layers if layer.status == "quantized"]


def assert_bounded(bound: OutputBound, *, by_frame: bool) -> None:
    assert bound.reason is None
    assert bound.input_norm is not None
    assert bound.bound is not None
    assert 0 < bound.error <= bound.bound < np.inf
    if by_frame:
        assert bound.bound_by_frame is not None
        assert bound.bound <= bound.bound_by_frame < np.inf
    else:
        assert bound.bound_by_frame is None


@pytest.mark.parametrize("network", MODELS)
@pytest.mark.parametrize(("bits", "order"), [(1, 1), (2, 1), (1, 2), (2, 2)])
@pytest.mark.parametrize("quantize_bias", [True, False])
def test_sigma_delta_is_within_its_bounds(
    network: str, bits: int, order: int, quantize_bias: bool, tmp_path: Path
) -> None:
    config = CompileConfig(
        method="sigma-delta", bits=bits, order=order, quantize_bias=quantize_bias
    )
    report = compiled(MODELS[network](), tmp_path, config)
    assert [bound.name for bound in report.bounds] == [out.name for out in report.outputs]
    for bound, output in zip(report.bounds, report.outputs, strict=True):
        assert_bounded(bound, by_frame=True)
        assert bound.error == output.max_sample_error
    assert len(quantized_layers(report)) == (3 if network == "mlp" else 4)
    for layer in quantized_layers(report):
        values = layer.weight_rel_error, layer.weight_rel_bound, layer.variation_rel_bound
        assert 0 < values[0] <= values[1] <= values[2]


@pytest.mark.parametrize("network", MODELS)
@pytest.mark.parametrize("calibration", ["none", "data"])
@pytest.mark.parametrize("quantize_bias", [True, False])
def test_auto_is_within_its_bounds(
    network: str, calibration: str, quantize_bias: bool, tmp_path: Path
) -> None:
    # Of data, so that the biases take the mean of the error away.
    shape = (64,) if network == "mlp" else (4, 8, 8)
    np.savez(tmp_path / "data.npz", x=np.random.default_rng(0).random((300, *shape), np.float32))
    config = CompileConfig(lowering="onnx", quantize_bias=quantize_bias)
    data = tmp_path / "data.npz" if calibration == "data" else calibration
    report = compiled(MODELS[network](), tmp_path, config, data)
    for bound in report.bounds:
        assert_bounded(bound, by_frame=False)
    for layer in quantized_layers(report):
        assert (layer.weight_rel_bound, layer.variation_rel_bound) == (None, None)


def test_bound_counts_the_bias_that_is_quantized_or_shifted(tmp_path: Path) -> None:
    # A layer without input: all that there is of it is its bias.
    x = 1e-3 * np.random.default_rng(0).standard_normal((300, 64)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x)
    bounds = {}
    for quantize_bias in (True, False):
        config = CompileConfig(method="sigma-delta", quantize_bias=quantize_bias)
        (bound,) = compiled(mlp_model(), tmp_path, config, tmp_path / "data.npz").bounds
        assert_bounded(bound, by_frame=True)
        bounds[quantize_bias] = bound
    assert bounds[True].input_norm == bounds[False].input_norm < 0.02
    assert bounds[True].bound_by_frame > bounds[False].bound_by_frame
    # Behind the first layer values are as large as its bias, and so are errors.
    assert bounds[False].error > 10 * bounds[False].input_norm


def test_bounds_are_those_of_the_longest_sample(tmp_path: Path) -> None:
    bounds = []
    for scale in (1.0, 10.0):
        x = scale * np.random.default_rng(0).standard_normal((40, 4, 8, 8)).astype(np.float32)
        np.savez(tmp_path / "data.npz", x=x)
        config = CompileConfig(method="sigma-delta")
        bound = compiled(residual_model(), tmp_path, config, tmp_path / "data.npz").bounds[0]
        norms = np.linalg.norm(x.reshape(40, -1).astype(np.float64), axis=1)
        assert np.isclose(norms, bound.input_norm, rtol=1e-9).any()  # of a held-back sample
        bounds.append(bound.bound)
    assert bounds[1] > 5 * bounds[0]


@pytest.mark.parametrize("lowering", ["fused", "stock"])
def test_rounded_activations_have_no_bound(lowering: str, tmp_path: Path) -> None:
    config = CompileConfig(method="sigma-delta", lowering=lowering)
    assert compiled(mlp_model(), tmp_path, config).bounds == []


def test_model_without_layers_has_no_error(tmp_path: Path) -> None:
    text = f"{HEADER} g (float[N, 4] x) => (float[N, 4] y) {{ y = Relu(x) }}"
    (bound,) = compiled(
        ir.from_onnx_text(text), tmp_path, CompileConfig(method="sigma-delta")
    ).bounds
    assert (bound.error, bound.bound, bound.bound_by_frame) == (0.0, 0.0, 0.0)


UNBOUNDED = {
    "attention": (
        """float[N, 8, 32] x) => (float[N, 8, 32] y) {
            q = MatMul(x, w) k = MatMul(x, v) t = Transpose <perm = [0, 2, 1]> (k)
            [scores] a = MatMul(q, t) p = Softmax(a) y = MatMul(p, x)""",
        "no Lipschitz constant is known for MatMul node 'scores' of these inputs",
    ),
    "normalized": (
        "float[N, 32] x) => (float[N, 32] y) { [n] h = LayerNormalization(x, s) y = MatMul(h, w)",
        "no Lipschitz constant is known for LayerNormalization node 'n' of these inputs",
    ),
    "scalar": (
        "float[N, 32] x, float c) => (float[N, 32] y) { h = MatMul(x, w) y = Mul(h, c)",
        "the inputs have no named first axis in common, the one of samples",
    ),
    "fixed batch": (
        "float[4, 32] x) => (float[4, 32] y) { y = MatMul(x, w)",
        "the inputs have no named first axis in common, the one of samples",
    ),
    "tokens": (
        "int64[N, 8] x) => (float[N, 8, 32] y) { [e] h = Gather(w, x) y = MatMul(h, v)",
        "input 'x' is not of a float type",
    ),
}


@pytest.mark.parametrize("case", UNBOUNDED)
def test_graph_without_a_bound_says_why_and_costs_no_norms(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fqonnx.bounds.operator_norm", None)
    text, reason = UNBOUNDED[case]
    model = model_from_text(
        f"{HEADER} g ({text} }}", w=draw(32, 32), v=draw(32, 32, seed=2), s=np.ones(32, np.float32)
    )
    report = compiled(model, tmp_path, CompileConfig(method="sigma-delta"))
    (bound,) = report.bounds
    assert quantized_layers(report)
    assert bound == OutputBound("y", error=report.outputs[0].max_sample_error, reason=reason)


def test_bounds_are_in_the_json(tmp_path: Path) -> None:
    report = compiled(mlp_model(), tmp_path, CompileConfig(method="sigma-delta"))
    content = json.loads(report.to_json())
    (bound,) = content["bounds"]
    assert set(bound) == {"name", "input_norm", "error", "bound", "bound_by_frame", "reason"}
    assert (bound["name"], bound["reason"]) == ("y", None)
    assert 0 < bound["error"] <= bound["bound"] <= bound["bound_by_frame"]
    assert content["outputs"][0]["max_sample_error"] == bound["error"]
    assert content["options"]["quantize_bias"] is False
    for layer in content["layers"]:
        assert 0 < layer["weight_rel_bound"] <= layer["variation_rel_bound"]


def test_bounded_and_unbounded_outputs_are_told_apart(tmp_path: Path) -> None:
    model = model_from_text(
        f"""{HEADER} g (float[N, 32] x) => (float[N, 32] y, float[N, 32] z) {{
            y = MatMul(x, w) [e] z = Exp(y)
        }}""",
        w=draw(32, 32),
    )
    bounded, unbounded = compiled(model, tmp_path, CompileConfig(method="sigma-delta")).bounds
    assert_bounded(bounded, by_frame=True)
    assert (unbounded.bound, unbounded.input_norm) == (None, None)
    assert "Exp node 'e'" in (unbounded.reason or "")
