from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from fqonnx import (
    CompileConfig,
    CompileReport,
    ConfigError,
    DataError,
    ModelError,
    compile_model,
)
from fqonnx.config import Override, Sides
from fqonnx.report import LayerReport
from support import mlp_by_the_reference, mlp_model, model_from_text

MLP_LAYERS = 3


@pytest.fixture
def mlp(tmp_path: Path) -> Path:
    path = tmp_path / "mlp.onnx"
    ir.save(mlp_model(), path)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((64, 64)).astype(np.float32)
    x = rng.standard_normal((256, 64)).astype(np.float32) @ mixing / 8 + 0.5
    path = tmp_path / "data.npz"
    np.savez(path, x=x)
    return path


def run(path: Path, data: Path) -> np.ndarray:
    model = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return model.run(None, dict(np.load(data)))[0]


def test_compiled_file_is_valid_and_close(mlp: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    report = compile_model(mlp, out, CompileConfig(bits=4), calibration=data)
    onnx.checker.check_model(str(out), full_check=True)
    onnx.shape_inference.infer_shapes(onnx.load(out), check_type=True, strict_mode=True)
    expected, found = run(mlp, data), run(out, data)
    assert np.linalg.norm(found - expected) <= 0.1 * np.linalg.norm(expected)
    quantized = [layer for layer in report.layers if layer.status == "quantized"]
    assert len(quantized) == MLP_LAYERS
    assert report.outputs[0].cosine > 0.99
    assert report.calibration.compared_on == "held-back"
    assert report.calibration.num_samples + report.calibration.num_compared == 256


def test_predicted_output_error_is_the_measured_one(mlp: Path, data: Path, tmp_path: Path) -> None:
    # One layer: its error over held-back samples is what the calibration samples predict.
    report = compile_model(
        mlp, tmp_path / "out.onnx", CompileConfig(include=("first",)), calibration=data
    )
    layer = next(layer for layer in report.layers if layer.status == "quantized")
    assert layer.name == "first"
    assert layer.output_rel_error is not None
    model = onnx.load(mlp)
    hidden = next(node.output[0] for node in model.graph.node if node.name == "first")
    for path in (mlp, tmp_path / "out.onnx"):
        extended = onnx.load(path)
        del extended.graph.output[:]
        extended.graph.output.append(onnx.helper.make_empty_tensor_value_info(hidden))
        onnx.save(extended, path)
    expected, found = run(mlp, data), run(tmp_path / "out.onnx", data)
    measured = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert measured == pytest.approx(layer.output_rel_error, rel=0.15)


def test_lowerings_agree(mlp: Path, data: Path, tmp_path: Path) -> None:
    results = {}
    for lowering in ("fused", "stock", "onnx"):
        out = tmp_path / f"{lowering}.onnx"
        compile_model(mlp, out, CompileConfig(lowering=lowering), calibration=data)
        results[lowering] = run(out, data)
        domains = {opset.domain for opset in onnx.load(out).opset_import}
        assert ("fqonnx" in domains) == (lowering != "stock")
        assert ("com.microsoft" in domains) == (lowering != "onnx")
    np.testing.assert_array_equal(results["fused"], results["stock"])
    scale = np.abs(results["onnx"]).max()
    np.testing.assert_allclose(results["fused"], results["onnx"], atol=0.02 * scale)


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    """Return a model whose layers fill their tiles, or nearly."""
    rng = np.random.default_rng(3)
    model = model_from_text(
        """<ir_version: 10, opset_import: ["": 20]>
        g (float[n, 64] x) => (float[n, 60] y) {
          h = Gemm(x, w, b)
          r = Relu(h)
          y = MatMul(r, v)
        }""",
        w=rng.standard_normal((64, 128)).astype(np.float32) / 8,
        b=rng.standard_normal(128).astype(np.float32),
        v=rng.standard_normal((128, 60)).astype(np.float32) / 11,
    )
    ir.save(model, tmp_path / "wide.onnx")
    return tmp_path / "wide.onnx"


@pytest.mark.parametrize(
    ("bits", "options"),
    [
        *((bits, {}) for bits in (1, 2, 3, 4)),
        (2, {"redundancy": 1.25}),
        (2, {"sides": "both"}),
        (2, {"method": "framequant"}),
        (2, {"method": "gptq", "target": "ort-stock"}),
        (2, {"sides": "out", "quantize_bias": True}),
    ],
    ids=str,
)
def test_trellis_is_better_than_scalar_codes_in_every_lowering(
    bits: int, options: dict[str, Any], wide: Path, data: Path, tmp_path: Path
) -> None:
    results, out = {}, tmp_path / "out.onnx"
    for lowering in ("fused", "stock", "onnx"):
        config = CompileConfig(bits=bits, codebook="trellis", lowering=lowering, **options)
        report = compile_model(wide, out, config, calibration=data)
        onnx.checker.check_model(str(out), full_check=True)
        results[lowering] = run(out, data)
        layers = quantized_layers(report)
        assert [layer.codebook for layer in layers] == ["trellis"] * 2
        assert any("8 bits a weight" in warning for warning in report.warnings)
    np.testing.assert_array_equal(results["fused"], results["stock"])
    scale = np.abs(results["onnx"]).max()
    np.testing.assert_allclose(results["fused"], results["onnx"], atol=0.02 * scale)
    scalar = CompileConfig(bits=bits, codebook="scalar", **options)
    before = quantized_layers(compile_model(wide, out, scalar, calibration=data))
    for layer, other in zip(layers, before, strict=True):  # which has descent at 1 bit
        assert layer.output_rel_error < (0.95 if bits > 1 else 1.05) * other.output_rel_error


def test_codebook_is_chosen_by_bits_and_target(wide: Path, data: Path, tmp_path: Path) -> None:
    def codebooks(**options: Any) -> set[str | None]:
        config = CompileConfig(**options)
        report = compile_model(wide, tmp_path / "out.onnx", config, calibration=data)
        return {layer.codebook for layer in quantized_layers(report)}

    assert codebooks() == codebooks(redundancy=3.0) == {"trellis"}
    assert codebooks(target="ort-stock") == codebooks(lowering="stock") == {"scalar"}
    assert codebooks(target_bits=2.6) <= {"scalar", "trellis"}
    mixed = codebooks(overrides=(Override("*", bits=4), Override("w", bits=2)))
    assert mixed == {"scalar", "trellis"}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"codebook": "scalar"}, None),
        ({"method": "gptq"}, None),
        ({"target": "ort-stock"}, "target 'ort-stock' has no library of operators"),
        ({"lowering": "onnx"}, "target 'ort-stock' has no library of operators"),
        ({"bits": 4}, "above 3 bits"),
        ({"bits": 1, "redundancy": 2.0}, "from redundancy 2 on they err less at 1 bit"),
        ({"redundancy": 3.0}, "from redundancy 3 on they err less without data"),
        ({"include": ("w2",)}, "whole tiles of a trellis"),
        ({"include": ("w2",), "codebook": "trellis"}, "whole tiles of a trellis"),
    ],
    ids=str,
)
def test_scalar_codes_have_a_reason(
    options: dict[str, Any], reason: str | None, tmp_path: Path
) -> None:
    rng, out = np.random.default_rng(0), tmp_path / "out.onnx"
    arrays = {
        name: rng.standard_normal((64, width)).astype(np.float32)
        for name, width in (("w", 64), ("w2", 96))
    }
    text = """<ir_version: 10, opset_import: ["": 20]> g (float[N,64] x) => (float[N,96] y) {
        h = MatMul (x, w)
        y = MatMul (h, w2)
    }"""
    ir.save(model_from_text(text, **arrays), tmp_path / "model.onnx")
    config = CompileConfig(**({"include": ("w",)} | options))
    report = compile_model(tmp_path / "model.onnx", out, config, calibration="none")
    notes = [note for note in report.warnings if "have scalar codes" in note]
    assert len(notes) == (reason is not None)
    assert notes == [] or f"1 layers have scalar codes: {reason}" in notes[0]


def test_stock_lowering_leaves_no_trace_of_the_domain(
    mlp: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.onnx"
    compile_model(mlp, out, CompileConfig(lowering="stock"), calibration=data)
    model = onnx.load(out)
    assert not model.functions
    assert {node.domain for node in model.graph.node} == {"", "com.microsoft"}


def test_same_seed_same_bytes(mlp: Path, data: Path, tmp_path: Path) -> None:
    first, second, other = (tmp_path / f"{i}.onnx" for i in range(3))
    compile_model(mlp, first, calibration=data)
    compile_model(mlp, second, calibration=data)
    compile_model(mlp, other, CompileConfig(seed=1), calibration=data)
    assert first.read_bytes() == second.read_bytes()
    assert first.read_bytes() != other.read_bytes()


@pytest.mark.parametrize("method", ["auto", "framequant", "sigma-delta", "gptq"])
def test_bits_per_weight_counts_every_stored_byte(
    method: str, mlp: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.onnx"
    report = compile_model(mlp, out, CompileConfig(method=method), calibration=data)
    stored = {
        name: value.const_value.nbytes
        for name, value in ir.load(out).graph.initializers.items()
        if name.endswith((".codes", ".scales", ".zero_points", ".signs_in", ".signs_out"))
    }
    parts = {"auto": 3, "framequant": 5, "sigma-delta": 2, "gptq": 3}
    assert len(stored) == parts[method] * MLP_LAYERS
    quantized = quantized_layers(report)
    assert sum(stored.values()) == sum(layer.stored_bytes or 0 for layer in quantized)
    weights = sum((layer.dim_in or 0) * (layer.dim_out or 0) for layer in quantized)
    assert report.model.bits_per_weight == pytest.approx(sum(stored.values()) * 8 / weights)


def quantized_layers(report: CompileReport) -> list[LayerReport]:
    return [layer for layer in report.layers if layer.status == "quantized"]


def test_report_is_json_with_the_documented_keys(mlp: Path, data: Path, tmp_path: Path) -> None:
    report = json.loads(compile_model(mlp, tmp_path / "out.onnx", calibration=data).to_json())
    assert set(report) >= {
        *("layers", "model", "outputs", "bounds", "calibration", "timing", "versions"),
    }
    assert set(report["layers"][0]) >= {
        *("name", "op_type", "dim_in", "dim_out", "status", "reason", "method", "bits"),
        *("redundancy_asked", "redundancy_in", "redundancy_out", "redundancy_stored"),
        *("stored_bytes", "bits_per_weight", "weight_rel_error"),
        *("weight_rel_bound", "variation_rel_bound", "largest_state"),
        *("output_rel_error", "proxy_loss"),
    }
    assert set(report["model"]) == {
        *("float_bytes", "compiled_bytes"),
        *("redundancy_stored", "code_bits_per_weight", "bits_per_weight"),
    }
    assert set(report["outputs"][0]) >= {
        *("name", "cosine", "sqnr_db", "max_abs_diff", "max_sample_error"),
    }
    assert report["bounds"] == []


# FrameQuant, and frames on both sides.


@pytest.mark.parametrize("calibrated", [True, False])
def test_framequant_counts_its_redundancy(
    calibrated: bool, mlp: Path, data: Path, tmp_path: Path
) -> None:
    # 1.1 asks for 8.8 subspaces of an eighth of the dimension: 9 it is.
    config = CompileConfig(method="framequant", redundancy=1.1)
    calibration = data if calibrated else "none"
    report = compile_model(mlp, tmp_path / "out.onnx", config, calibration=calibration)
    assert len(quantized_layers(report)) == MLP_LAYERS
    for layer in quantized_layers(report):
        assert (layer.method, layer.redundancy_asked) == ("framequant", 1.1)
        assert (layer.redundancy_in, layer.redundancy_out) == (1.125, 1.125)
        assert layer.redundancy_stored == 1.125**2
        assert layer.bits_per_weight is not None
        assert layer.bits_per_weight > 2 * 1.125**2
        if calibrated:
            assert layer.proxy_loss is not None
            assert 0 < layer.proxy_loss < np.inf
        else:
            assert (layer.proxy_loss, layer.output_rel_error) == (None, None)
    assert report.model.redundancy_stored == 1.125**2
    assert report.model.code_bits_per_weight == 2 * 1.125**2
    assert report.model.bits_per_weight is not None
    assert report.model.bits_per_weight > report.model.code_bits_per_weight


@pytest.mark.parametrize(
    ("config", "redundancy"),
    [
        (CompileConfig(method="framequant", sides="in", redundancy=1.1), (1.125, 1.0)),
        (CompileConfig(sides="both", redundancy=1.25), (1.25, 1.25)),
        (CompileConfig(redundancy=1.25), (1.25, 1.0)),
        (CompileConfig(sides="out", redundancy=1.25), (1.0, 1.25)),
        (CompileConfig(method="sigma-delta"), (3.0, 1.0)),
        (CompileConfig(method="sigma-delta", sides="out", redundancy=2.0), (1.0, 2.0)),
        (CompileConfig(method="gptq", bits=3), (1.0, 1.0)),
    ],
    ids=[
        *("fusion in", "hadamard both", "hadamard in", "hadamard out"),
        *("harmonic in", "harmonic out", "none"),
    ],
)
def test_report_tells_the_sides_apart(
    config: CompileConfig, redundancy: tuple[float, float], mlp: Path, data: Path, tmp_path: Path
) -> None:
    report = compile_model(mlp, tmp_path / "out.onnx", config, calibration=data)
    for layer in quantized_layers(report):
        assert (layer.redundancy_in, layer.redundancy_out) == redundancy
        assert layer.redundancy_stored == redundancy[0] * redundancy[1]
    assert report.model.code_bits_per_weight == config.bits * redundancy[0] * redundancy[1]


def test_report_of_padded_layers_counts_the_padding(data: Path, tmp_path: Path) -> None:
    path = linear_model("float[n, 33] y", tmp_path, dim_out=33)
    config = CompileConfig(method="framequant")
    report = compile_model(path, tmp_path / "out.onnx", config, calibration=data)
    (layer,) = quantized_layers(report)
    assert (layer.redundancy_asked, layer.redundancy_in) == (1.0, 1.0)
    assert layer.redundancy_out == layer.redundancy_stored
    assert layer.redundancy_out is not None
    rows = ir.load(tmp_path / "out.onnx").graph.initializers["w.codes"].shape[0]
    assert layer.redundancy_out == rows / 33 > 1.0


@pytest.mark.parametrize("sides", ["in", "out", "both"])
@pytest.mark.parametrize("method", ["auto", "framequant", "sigma-delta"])
def test_four_bits_are_close_whatever_the_frames(
    method: str, sides: Sides, mlp: Path, data: Path, tmp_path: Path
) -> None:
    results = {}
    for lowering in ("fused", "stock", "onnx"):
        out = tmp_path / f"{lowering}.onnx"
        config = CompileConfig(method=method, sides=sides, bits=4, lowering=lowering)
        report = compile_model(mlp, out, config, calibration=data)
        assert report.outputs[0].cosine > 0.98
        onnx.checker.check_model(str(out), full_check=True)
        results[lowering] = run(out, data)
    np.testing.assert_array_equal(results["fused"], results["stock"])
    scale = np.abs(results["onnx"]).max()
    np.testing.assert_allclose(results["fused"], results["onnx"], atol=0.02 * scale)


# Layer after layer.


def test_sequential_differs_in_all_but_the_first_layer(
    mlp: Path, data: Path, tmp_path: Path
) -> None:
    paths, reports = {}, {}
    for sequential in (True, False):
        paths[sequential] = tmp_path / f"{sequential}.onnx"
        config = CompileConfig(sequential=sequential)
        reports[sequential] = compile_model(mlp, paths[sequential], config, calibration=data)
    losses = {
        name: [layer.proxy_loss for layer in quantized_layers(report)]
        for name, report in reports.items()
    }
    assert losses[True][0] == losses[False][0]
    assert all(a != b for a, b in zip(losses[True][1:], losses[False][1:], strict=True))
    assert [layer.name for layer in reports[True].layers] == ["first", "second", "third"]
    assert reports[True].options["sequential"] is True
    steps = {f"{step}_s" for step in ("load", "calibrate", "quantize", "rewrite", "write")}
    for report in reports.values():
        assert set(report.timing) == {*steps, "bound_s", "compare_s", "total_s"}
        parts = sum(seconds for name, seconds in report.timing.items() if name != "total_s")
        assert parts <= report.timing["total_s"] + 0.01


@pytest.mark.parametrize("method", ["auto", "framequant"])
def test_sequential_with_frames_on_both_sides_in_standard_operators(
    method: str, mlp: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.onnx"
    config = CompileConfig(bits=4, method=method, sides="both", sequential=True, lowering="onnx")
    report = compile_model(mlp, out, config, calibration=data)
    assert report.outputs[0].cosine > 0.98
    onnx.checker.check_model(str(out), full_check=True)
    onnx.shape_inference.infer_shapes(onnx.load(out), check_type=True, strict_mode=True)
    assert {opset.domain for opset in onnx.load(out).opset_import} == {"", "fqonnx"}


@pytest.mark.parametrize("calibration", ["synthetic", "none"])
def test_sequential_without_data(calibration: str, mlp: Path, tmp_path: Path) -> None:
    config = CompileConfig(bits=4, sequential=True, lowering="stock")
    report = compile_model(mlp, tmp_path / "out.onnx", config, calibration=calibration)
    assert len(quantized_layers(report)) == MLP_LAYERS
    assert report.outputs[0].cosine > 0.98


def test_sequential_float16_model(data: Path, tmp_path: Path) -> None:
    path, out, half = tmp_path / "half.onnx", tmp_path / "out.onnx", tmp_path / "half.npz"
    ir.save(mlp_model(np.float16), path)
    np.savez(half, x=np.load(data)["x"].astype(np.float16))
    config = CompileConfig(bits=4, method="framequant", sequential=True)
    report = compile_model(path, out, config, calibration=half)
    assert report.outputs[0].cosine > 0.98
    assert run(out, half).dtype == np.float16


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        (CompileConfig(bits=3), CompileConfig(bits=2)),
        (CompileConfig(redundancy=2.0), CompileConfig()),
        (CompileConfig(), CompileConfig(method="rtn")),
    ],
)
def test_what_costs_more_is_better(
    better: CompileConfig, worse: CompileConfig, mlp: Path, data: Path, tmp_path: Path
) -> None:
    cosines = [
        compile_model(mlp, tmp_path / "out.onnx", config, calibration=data).outputs[0].cosine
        for config in (better, worse)
    ]
    assert cosines[0] > cosines[1]


def test_calibration_helps(mlp: Path, data: Path, tmp_path: Path) -> None:
    # Judged on the real data, whatever the compilation was calibrated on.
    errors = []
    for calibration in (data, "none"):
        out = tmp_path / "out.onnx"
        compile_model(mlp, out, calibration=calibration)
        errors.append(float(np.linalg.norm(run(out, data) - run(mlp, data))))
    assert errors[0] < 0.9 * errors[1]


def test_synthetic_and_no_calibration_warn(mlp: Path, tmp_path: Path) -> None:
    for calibration in ("synthetic", "none"):
        report = compile_model(mlp, tmp_path / "out.onnx", calibration=calibration)
        assert report.calibration.source == calibration
        assert any(f"{calibration[:2]}" in warning for warning in report.warnings)
        assert report.calibration.compared_on == "synthetic"


def test_every_weighted_node_is_in_the_report(mlp: Path, data: Path, tmp_path: Path) -> None:
    report = compile_model(
        mlp, tmp_path / "out.onnx", CompileConfig(exclude=("second",)), calibration=data
    )
    status = {layer.name: (layer.status, layer.reason) for layer in report.layers}
    assert status["second"] == ("float", "an --exclude pattern matches")
    assert sum(status == "quantized" for status, _ in status.values()) == MLP_LAYERS - 1


def test_model_without_linear_layers_stays_as_it_is(tmp_path: Path) -> None:
    path, out = tmp_path / "relu.onnx", tmp_path / "out.onnx"
    text = """
    <ir_version: 8, opset_import: ["": 17]>
    g (float[n, 4] x) => (float[n, 4] y) { y = Relu(x) }
    """
    ir.save(ir.from_onnx_text(text), path)
    report = compile_model(path, out)
    assert report.model.bits_per_weight is None
    assert report.outputs[0].max_abs_diff == 0
    assert any("no layer was quantized" in warning for warning in report.warnings)


def test_errors_leave_no_output(mlp: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "folder" / "out.onnx"
    with pytest.raises(ConfigError, match="no layer that matches nothing"):
        compile_model(mlp, out, CompileConfig(include=("nothing",)), calibration=data)
    with pytest.raises(DataError, match="no such file"):
        compile_model(mlp, out, calibration=tmp_path / "absent.npz")
    assert not out.exists()
    assert not out.parent.exists()


def test_nan_weight_is_named(data: Path, tmp_path: Path) -> None:
    model = mlp_model()
    weight = next(v for k, v in model.graph.initializers.items() if k == "w2")
    array = weight.const_value.numpy().copy()
    array[3, 4] = np.nan
    weight.const_value = ir.tensor(array, name="w2")
    path = tmp_path / "nan.onnx"
    ir.save(model, path)
    with pytest.raises(ModelError, match=r"'w2' of 'second'.*NaN.*--exclude 'second'"):
        compile_model(path, tmp_path / "out.onnx", calibration="none")
    for config in (CompileConfig(), CompileConfig(exclude=("second",))):
        with pytest.raises(ModelError, match=r"weight 'w2'.*NaN.*activation 'r2' behind it"):
            compile_model(path, tmp_path / "out.onnx", config, calibration=data)
    both = CompileConfig(exclude=("second", "third"))
    assert compile_model(path, tmp_path / "out.onnx", both, calibration=data).layers


def test_output_must_not_be_the_input(mlp: Path) -> None:
    before = mlp.read_bytes()
    with pytest.raises(ConfigError, match="would destroy"):
        compile_model(mlp, mlp)
    assert mlp.read_bytes() == before


def test_weight_beyond_float16_stays_float_with_a_reason(data: Path, tmp_path: Path) -> None:
    model = mlp_model()
    weight = model.graph.initializers["w2"]
    weight.const_value = ir.tensor(weight.const_value.numpy() * 1e7, name="w2")
    path = tmp_path / "large.onnx"
    ir.save(model, path)
    report = compile_model(path, tmp_path / "out.onnx", calibration=data)
    layer = next(layer for layer in report.layers if layer.name == "second")
    assert layer.status == "float"
    assert "float16" in (layer.reason or "")


def test_external_data_model_compiles(mlp: Path, data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "external"
    folder.mkdir()
    ir.save(ir.load(mlp), folder / "m.onnx", external_data="m.data", size_threshold_bytes=0)
    report = compile_model(folder / "m.onnx", tmp_path / "out.onnx", calibration=data)
    direct = compile_model(mlp, tmp_path / "direct.onnx", calibration=data)
    assert (tmp_path / "out.onnx").read_bytes() == (tmp_path / "direct.onnx").read_bytes()
    assert report.model.float_bytes == pytest.approx(direct.model.float_bytes, rel=0.05)


def test_float16_model(data: Path, tmp_path: Path) -> None:
    path, out = tmp_path / "half.onnx", tmp_path / "out.onnx"
    ir.save(mlp_model(np.float16), path)
    half = tmp_path / "half.npz"
    np.savez(half, x=np.load(data)["x"].astype(np.float16))
    report = compile_model(path, out, CompileConfig(bits=4), calibration=half)
    assert report.outputs[0].cosine > 0.99
    assert run(out, half).dtype == np.float16


def linear_model(
    declared: str, tmp_path: Path, *, output: str = "y = MatMul(x, w)", dim_out: int = 96
) -> Path:
    text = f"""
    <ir_version: 10, opset_import: ["": 20]>
    g (float[n, 64] x) => ({declared}) {{ {output} }}
    """
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((64, dim_out)).astype(np.float32)
    path = tmp_path / "linear.onnx"
    ir.save(model_from_text(text, w=weight), path)
    return path


@pytest.mark.parametrize("declared", ["float[a, c] y", "float[n, 96] y", "float[?, ?] y"])
def test_declared_outputs_stay_as_they_are(declared: str, data: Path, tmp_path: Path) -> None:
    path, out = linear_model(declared, tmp_path), tmp_path / "out.onnx"
    compile_model(path, out, calibration=data)
    first, second = (onnx.load(p).graph.output[0] for p in (path, out))
    assert first == second


def test_nothing_that_is_read_is_written_over(mlp: Path, data: Path, tmp_path: Path) -> None:
    ir.save(ir.load(mlp), tmp_path / "e.onnx", external_data="e.onnx.data", size_threshold_bytes=0)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for model, output in (
        (mlp, data),
        (tmp_path / "e.onnx", tmp_path / "e.onnx.data"),
        (tmp_path / "e.onnx", tmp_path / "e.onnx"),
    ):
        with pytest.raises(ConfigError, match="would destroy"):
            compile_model(model, output, calibration=data)
    with pytest.raises(ConfigError, match="it is a folder"):
        compile_model(mlp, tmp_path, calibration=data)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_output_that_is_no_number_is_not_compared(data: Path, tmp_path: Path) -> None:
    path = linear_model(
        "float[n, 96] y, string[n, 96] s", tmp_path, output="y = MatMul(x, w) s = Cast<to = 8>(y)"
    )
    report = compile_model(path, tmp_path / "out.onnx", calibration=data)
    assert [output.name for output in report.outputs] == ["y"]
    assert any("'s' is not a tensor of numbers" in warning for warning in report.warnings)


def test_failure_of_the_comparison_leaves_the_old_file(
    mlp: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.onnx"
    out.write_text("old")

    def fail(*_: object, **__: object) -> None:
        raise ModelError("model", "fails", "Try")

    monkeypatch.setattr("fqonnx.pipeline.compare_models", fail)
    with pytest.raises(ModelError, match="fails"):
        compile_model(mlp, out, calibration=data)
    assert out.read_text() == "old"


def test_tiny_weight_stays_float_with_a_reason(data: Path, tmp_path: Path) -> None:
    model = mlp_model()
    weight = model.graph.initializers["w2"]
    weight.const_value = ir.tensor(weight.const_value.numpy() * np.float32(1e-9), name="w2")
    path = tmp_path / "tiny.onnx"
    ir.save(model, path)
    report = compile_model(path, tmp_path / "out.onnx", calibration=data)
    layer = next(layer for layer in report.layers if layer.name == "second")
    assert layer.status == "float"
    assert "too small" in (layer.reason or "")


def test_few_samples_are_no_worse_than_none_and_warn(tmp_path: Path) -> None:
    # White inputs: a second moment of 40 rows says nothing of the next row.
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((512, 64)).astype(np.float32)
    text = """
    <ir_version: 10, opset_import: ["": 20]>
    g (float[n, 512] x) => (float[n, 64] y) { y = MatMul(x, w) }
    """
    path = tmp_path / "m.onnx"
    ir.save(model_from_text(text, w=weight), path)
    few, fresh = tmp_path / "few.npz", tmp_path / "fresh.npz"
    np.savez(few, x=rng.standard_normal((40, 512)).astype(np.float32))
    np.savez(fresh, x=rng.standard_normal((400, 512)).astype(np.float32))
    errors = {}
    for calibration in (few, "none"):
        out = tmp_path / "out.onnx"
        report = compile_model(path, out, CompileConfig(lowering="onnx"), calibration=calibration)
        errors[calibration] = np.linalg.norm(run(out, fresh) - run(path, fresh))
        warned = any("few calibration rows" in warning for warning in report.warnings)
        assert warned == (calibration == few)
    assert errors[few] <= 1.02 * errors["none"]


def test_names_with_brackets_and_patterns_that_match_nothing(data: Path, tmp_path: Path) -> None:
    model = mlp_model()
    next(node for node in model.graph if node.name == "second").name = "blocks[0].lin"
    path, out = tmp_path / "m.onnx", tmp_path / "out.onnx"
    ir.save(model, path)
    report = compile_model(path, out, CompileConfig(include=("blocks[0].lin",)), calibration=data)
    assert [x.name for x in report.layers if x.status == "quantized"] == ["blocks[0].lin"]
    report = compile_model(path, out, CompileConfig(include=("w1",)), calibration=data)
    assert [x.name for x in report.layers if x.status == "quantized"] == ["first"]
    report = compile_model(path, out, CompileConfig(exclude=("tpyo*",)), calibration=data)
    assert any("'tpyo*' matches no layer" in warning for warning in report.warnings)


# Sigma-Delta


@pytest.mark.parametrize(
    ("bits", "order", "sides"),
    [(1, 1, "in"), (2, 1, "in"), (1, 2, "in"), (2, 2, "out"), (2, 1, "out"), (2, 1, "both")],
)
@pytest.mark.parametrize("quantize_bias", [True, False])
def test_sigma_delta_is_exact_and_within_its_bounds(
    bits: int,
    order: int,
    sides: Sides,
    quantize_bias: bool,
    mlp: Path,
    data: Path,
    tmp_path: Path,
) -> None:
    out = tmp_path / "out.onnx"
    config = CompileConfig(
        method="sigma-delta", bits=bits, order=order, sides=sides, quantize_bias=quantize_bias
    )
    report = compile_model(mlp, out, config, calibration="none")
    layers = quantized_layers(report)
    assert len(layers) == MLP_LAYERS
    for layer in layers:
        assert layer.weight_rel_error is not None
        assert layer.weight_rel_bound is not None
        assert layer.largest_state is not None
        assert 0 < layer.weight_rel_error <= layer.weight_rel_bound
        assert 0 < layer.largest_state <= (0.501 if order == 1 else 2.0)
    expected, found = mlp_by_the_reference(out, np.load(data)["x"]), run(out, data)
    assert np.linalg.norm(found - expected) <= 1e-5 * np.linalg.norm(expected)


def test_other_methods_promise_nothing(mlp: Path, tmp_path: Path) -> None:
    report = compile_model(mlp, tmp_path / "out.onnx", calibration="none")
    for layer in quantized_layers(report):
        assert (layer.weight_rel_bound, layer.largest_state) == (None, None)


def test_sigma_delta_needs_no_data(mlp: Path, data: Path, tmp_path: Path) -> None:
    config = CompileConfig(method="sigma-delta")
    for name, calibration in (("with", data), ("without", "none")):
        compile_model(mlp, tmp_path / name, config, calibration=calibration)
    first, second = (ir.load(tmp_path / n).graph.initializers for n in ("with", "without"))
    assert first.keys() == second.keys()
    for name, value in first.items():
        np.testing.assert_array_equal(value.const_value.numpy(), second[name].const_value.numpy())


def test_weights_that_zeros_would_be_nearer_to_are_warned_of(mlp: Path, tmp_path: Path) -> None:
    warned = {}
    for redundancy in (1.0, 8.0):
        config = CompileConfig(method="sigma-delta", bits=1, redundancy=redundancy)
        report = compile_model(mlp, tmp_path / "out.onnx", config, calibration="none")
        warned[redundancy] = [w for w in report.warnings if "as large as the weight" in w]
    assert warned[1.0] == [
        "the error of 'first' and 2 other layers is as large as the weight: raise the redundancy "
        "or the bits"
    ]
    assert warned[8.0] == []


def test_quantized_biases_count_on_both_sides(mlp: Path, tmp_path: Path) -> None:
    plain, quantized = (
        quantized_layers(
            compile_model(
                mlp,
                tmp_path / "out.onnx",
                CompileConfig(method="sigma-delta", quantize_bias=quantize_bias),
                calibration="none",
            )
        )
        for quantize_bias in (False, True)
    )
    assert [layer.bias_rel_error for layer in plain] == [None] * MLP_LAYERS
    for before, after in zip(plain, quantized, strict=True):
        has_bias = after.bias_rel_error is not None
        assert has_bias == (after.name != "third")
        assert after.float_bytes - before.float_bytes == 4 * after.dim_out * has_bias
        assert (after.stored_bytes > before.stored_bytes) == has_bias


def test_model_that_does_not_run_is_refused_before_the_work(tmp_path: Path) -> None:
    model = model_from_text(
        """<ir_version: 10, opset_import: ["": 20]>
        g (float[N, 64] x) => (float[N, 64] y) { y = Gemm(x, w, c) }""",
        w=np.eye(64, dtype=np.float32),
        c=np.zeros(63, np.float32),  # no checker and no loading finds it
    )
    ir.save(model, tmp_path / "model.onnx")
    with pytest.raises(ModelError, match=r"model.onnx: ONNX Runtime failed on inputs x"):
        compile_model(tmp_path / "model.onnx", tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()
