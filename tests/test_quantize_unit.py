"""Quantized biases, from the numbers to what ONNX Runtime makes of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch

from fqonnx import CompileConfig, ModelError, compile_model
from fqonnx.config import METHODS
from fqonnx.passes import NormalizeLinearPass, SelectWeightsPass, normalize
from fqonnx.quant import Moments
from fqonnx.quant_job import JobResult, run_job
from fqonnx.quantize_unit import UnitTask
from fqonnx.session import Session
from support import conv_model, model_from_text

HEADER = '<ir_version: 10, opset_import: ["": 20]>'
EVERY_METHOD = pytest.mark.parametrize("method", METHODS)
PACKED = (".codes", ".scales", ".zero_points", ".signs_in", ".signs_out")


def draw(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def linear(nodes: str, bias: np.ndarray | None, weight: np.ndarray | None = None) -> ir.Model:
    arrays = {"w": draw(32, 40) if weight is None else weight} | (
        {} if bias is None else {"b": bias}
    )
    return model_from_text(
        f"{HEADER} g (float[N, 32] x) => (float[N, 40] y) {{ {nodes} }}", **arrays
    )


def layers_with(bias: np.ndarray | None) -> dict[str, ir.Model]:
    """Return models of one layer, by how it is written."""
    plain = bias is None
    product = "[layer] y = MatMul(x, w)" if plain else "[layer] h = MatMul(x, w) y = Add(h, b)"
    gemm = "[layer] y = Gemm <transB = 1> (x, w)" if plain else "[layer] y = Gemm(x, w, b)"
    return {
        "MatMul": linear(product, bias),
        "Gemm": linear(gemm, bias, draw(40, 32) if plain else draw(32, 40)),
        "Conv": conv_model(draw(40, 4, 3, 3), "6, 6", "pads = [1, 1, 1, 1]", bias),
        "Conv of rows": conv_model(draw(40, 32, 1, 1), "6, 6", "", bias),
    }


LAYERS = pytest.mark.parametrize("layer", layers_with(None))


def compiled(model: ir.Model, folder: Path, **options: object) -> tuple[Path, int]:
    """Return the compiled model (which `VerifyPass` has seen) and its bytes by the report."""
    ir.save(model, folder / "m.onnx")
    config = CompileConfig(**options)
    report = compile_model(folder / "m.onnx", folder / "out.onnx", config, calibration="none")
    onnx.checker.check_model(str(folder / "out.onnx"), full_check=True)
    return folder / "out.onnx", sum(layer.stored_bytes or 0 for layer in report.layers)


def bias_of(path: Path) -> np.ndarray:
    """Return what a layer answers to zeros."""
    session = Session(path, str(path))
    shape = [2, *(int(size) for size in session.inputs[0].shape[1:])]
    y = session.run({session.inputs[0].name: np.zeros(shape, np.float32)})[0]
    rows = np.moveaxis(y, 1, -1).reshape(-1, y.shape[1])
    np.testing.assert_allclose(rows, np.tile(rows[0], (len(rows), 1)), rtol=1e-6)
    return rows[0]


@EVERY_METHOD
@LAYERS
def test_bias_is_quantized_as_a_weight_is(layer: str, method: str, tmp_path: Path) -> None:
    bias = draw(40, seed=5)
    options = {"method": method, "bits": 4, "lowering": "onnx"}
    path, stored = compiled(layers_with(bias)[layer], tmp_path, **options)
    np.testing.assert_array_equal(bias_of(path), bias)
    path, more = compiled(layers_with(bias)[layer], tmp_path, **options, quantize_bias=True)
    found = bias_of(path)
    assert 0 < np.linalg.norm(found - bias) <= 0.25 * np.linalg.norm(bias)
    initializers = ir.load(path).graph.initializers
    assert "b" not in initializers
    sizes = {n: v.const_value.nbytes for n, v in initializers.items() if n.endswith(PACKED)}
    assert sum(sizes.values()) == more
    assert sum(size for name, size in sizes.items() if name.startswith("b.")) == more - stored > 0
    model = onnx.load(path)
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)


@pytest.mark.parametrize("lowering", ["fused", "stock", "onnx"])
@LAYERS
def test_every_lowering_has_the_same_bias(layer: str, lowering: str, tmp_path: Path) -> None:
    bias = draw(40, seed=5)
    found = []
    for chosen in (lowering, "onnx"):
        path, _ = compiled(layers_with(bias)[layer], tmp_path, lowering=chosen, quantize_bias=True)
        found.append(bias_of(path))
    np.testing.assert_allclose(*found, rtol=1e-5, atol=1e-6)


@LAYERS
def test_layer_without_a_bias_gets_none(layer: str, tmp_path: Path) -> None:
    files = []
    for quantize_bias in (True, False):
        path, _ = compiled(layers_with(None)[layer], tmp_path, quantize_bias=quantize_bias)
        model = onnx.load(path)
        del model.metadata_props[:]  # the options
        files.append(model.SerializeToString(deterministic=True))
    assert files[0] == files[1]


def test_bias_that_two_layers_read_is_stored_for_each(tmp_path: Path) -> None:
    nodes = "[a] h = Gemm(x, w, b) [c] k = MatMul(x, v) i = Add(k, b) y = Sub(h, i)"
    bias = draw(40, seed=5)
    model = linear(nodes, bias)
    value = ir.Value(name="v", const_value=ir.tensor(draw(32, 40, seed=2), name="v"))
    model.graph.initializers.add(value)
    for node in model.graph:
        for index, read in enumerate(node.inputs):
            if read is not None and read.name == "v":
                node.replace_input_with(index, value)
    path, stored = compiled(model, tmp_path, method="sigma-delta", quantize_bias=True)
    np.testing.assert_allclose(bias_of(path), 0, atol=1e-6)  # one is the other
    initializers = ir.load(path).graph.initializers
    assert "b" not in initializers
    assert sum(1 for name in initializers if name.startswith("b.codes")) == 2
    packed = [v.const_value.nbytes for n, v in initializers.items() if n.split(".")[0] in "wvb"]
    assert sum(packed) == stored


def test_bias_that_is_an_activation_stays_one(tmp_path: Path) -> None:
    model = model_from_text(
        f"""{HEADER} g (float[1, 32, 6] x) => (float[1, 40, P] y) {{
            z = Conv(x, k) b = ReduceMean <keepdims = 0> (z, axes)
            [layer] y = Conv <pads = [1, 1]> (x, w, b)
        }}""",
        axes=np.array([0, 2]),
        k=draw(40, 32, 1),
        w=draw(40, 32, 3),
    )
    path, stored = compiled(model, tmp_path, quantize_bias=True, include=("layer",))
    assert [node.input[2] for node in onnx.load(path).graph.node if node.name == "layer"] == ["b"]
    assert stored == 40 * 96 * 2 // 8 + 40 * 2 + 96 // 8


def unit_of(model: ir.Model, moments: Moments | None, **options: object) -> JobResult:
    NormalizeLinearPass()(model)
    selected = SelectWeightsPass()
    selected(model)
    config = CompileConfig(quantize_bias=True, **options)
    unit = tuple(selected.layers)
    parts = None if moments is None else {layer.name: moments for layer in unit}
    return run_job(UnitTask(unit, parts, config, seed=0).job())


@pytest.mark.parametrize("layer", ["MatMul", "Gemm", "Conv of rows"])
def test_shift_of_the_mean_is_inside_the_quantized_bias(layer: str) -> None:
    x = torch.from_numpy(draw(300, 32)).double() + 2.0
    moments = Moments(x.T @ x / 300, x.mean(0), 300, 0.1, trust_mean=True)
    bias = 0.01 * draw(40, seed=5)
    result = unit_of(layers_with(bias)[layer], moments)
    assert result.weight is not None
    shift = result.weight.bias_shift
    assert shift is not None
    found = result.biases["layer"].dequantize()[:, 0].numpy()
    wanted = bias + shift
    assert np.linalg.norm(wanted) > 10 * np.linalg.norm(bias)
    assert np.linalg.norm(found - wanted) <= 0.5 * np.linalg.norm(wanted)


@pytest.mark.parametrize("scale", [1e-9, 1e9])
def test_bias_that_no_scale_fits_leaves_the_layer_quantized(scale: float) -> None:
    result = unit_of(layers_with(scale * draw(40))["Gemm"], None)
    assert result.biases == {}
    assert result.weight is not None


def test_bias_of_zeros_is_zeros() -> None:
    for method in METHODS:
        result = unit_of(layers_with(np.zeros(40, np.float32))["Gemm"], None, method=method)
        assert not result.biases["layer"].dequantize().any()


def test_bias_that_is_not_finite_is_named(tmp_path: Path) -> None:
    bias = draw(40)
    bias[3] = np.inf
    with pytest.raises(ModelError, match=r"bias 'b' of 'layer'.*infinite.*--exclude 'layer'"):
        compiled(layers_with(bias)["Gemm"], tmp_path, quantize_bias=True)


@EVERY_METHOD
@pytest.mark.parametrize("quantize_bias", [True, False])
def test_runtime_folds_the_weight_at_load(method: str, quantize_bias: bool, tmp_path: Path) -> None:
    model = layers_with(draw(40, seed=5))["Conv"]
    path, _ = compiled(model, tmp_path, method=method, quantize_bias=quantize_bias)
    assert "FrameDequant" in {node.op_type for node in onnx.load(path).graph.node}
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    graph = onnx.load(tmp_path / "optimized.onnx").graph
    assert [node.op_type for node in graph.node] == ["Conv"]
    constants = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    assert [constants.get(name) for name in graph.node[0].input[1:]] == [(40, 4, 3, 3), (40,)]
    assert session.run(None, {"x": draw(2, 4, 6, 6)})[0].shape == (2, 40, 6, 6)


@pytest.mark.parametrize(
    ("dim_out", "codebook"), [(64, "trellis"), (57, "trellis"), (56, "scalar"), (40, "scalar")]
)
def test_tiles_are_not_filled_with_padding(dim_out: int, codebook: str) -> None:
    model = model_from_text(
        f"{HEADER} g (float[N, 32] x) => (float[N, {dim_out}] y) {{ [layer] y = MatMul(x, w) }}",
        w=draw(32, dim_out),
    )
    normalize(model)
    selected = SelectWeightsPass()
    selected(model)
    config = CompileConfig(codebook="trellis")
    quantized = run_job(UnitTask((selected.layers[0],), None, config, 0).job()).weight
    assert quantized is not None
    assert quantized.is_trellis == (codebook == "trellis")
    assert "zero_points" not in quantized.arrays
    assert quantized.stored_bytes * 8 < (2 * 9 / 8 + 32 / dim_out) * 32 * dim_out + 16 * dim_out


def test_bias_of_a_trellis_layer_has_scalar_codes() -> None:
    model = model_from_text(
        f"{HEADER} g (float[N, 32] x) => (float[N, 64] y) {{ [layer] y = Gemm(x, w, b) }}",
        w=draw(32, 64),
        b=draw(64, seed=2),
    )
    normalize(model)
    selected = SelectWeightsPass()
    selected(model)
    config = CompileConfig(codebook="trellis", quantize_bias=True)
    result = run_job(UnitTask((selected.layers[0],), None, config, 0).job())
    assert result.weight is not None
    assert result.weight.is_trellis
    assert not result.biases["layer"].is_trellis
