"""Calibration behind quantized layers, told apart from calibration on the float model."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch

from fqonnx.calibrate import Calibration, Samples
from fqonnx.config import METHODS, CompileConfig
from fqonnx.errors import ModelError
from fqonnx.passes import NormalizeLinearPass, Replacement, SelectWeightsPass
from fqonnx.quantize_layers import QuantizedLayers, quantize_layers
from fqonnx.session import Session
from fqonnx.workshop import Workshop
from support import mlp_model, model_from_text

HEADER = '<ir_version: 10, opset_import: ["": 20]>'


def draw(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def inputs(rows: int = 512, dim: int = 64) -> np.ndarray:
    return draw(rows, dim, seed=3) @ draw(dim, dim, seed=4) / 8 + 0.3


def samples(x: np.ndarray) -> Samples:
    return Samples.from_feeds("file", [{"x": part} for part in np.split(x, 4)], len(x))


def quantize(
    model: ir.Model,
    config: CompileConfig,
    data: Samples | None,
    timing: dict[str, float] | None = None,
    warnings: list[str] | None = None,
) -> QuantizedLayers:
    NormalizeLinearPass()(model)
    selected = SelectWeightsPass(exclude=config.exclude)
    selected(model)
    calibration = Calibration(data, timing={} if timing is None else timing)
    warnings = [] if warnings is None else warnings
    return quantize_layers(model, selected.layers, calibration, config, warnings, Workshop())


def same_codes(a: Replacement, b: Replacement) -> bool:
    return np.array_equal(a.quantized.arrays["codes"], b.quantized.arrays["codes"])


def two_layers() -> ir.Model:
    """Return x (N, 64) → 80 → ReLU → 48."""
    return model_from_text(
        f"""{HEADER} g (float[N, 64] x) => (float[N, 48] y)
        <float[N, 80] h, float[N, 80] i> {{
            [first] h = MatMul(x, w) i = Relu(h) [second] y = MatMul(i, v)
        }}""",
        w=draw(64, 80) / 8,
        v=draw(80, 48, seed=2) / 9,
    )


def proxy_loss(rows: np.ndarray, weight: np.ndarray, quantized: np.ndarray) -> float:
    """Return the mean squared output error of a row."""
    error = rows.astype(np.float64) @ (weight.astype(np.float64) - quantized)
    return float((error**2).sum(axis=1).mean())


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("sequential", [True, False])
def test_second_layer_is_calibrated_behind_the_first(method: str, sequential: bool) -> None:
    x, weights = inputs(), [draw(64, 80) / 8, draw(80, 48, seed=2) / 9]
    config = CompileConfig(method=method, sequential=sequential, lowering="onnx")
    result = quantize(two_layers(), config, samples(x))
    first, second = (replacement.quantized for replacement in result.replacements)
    found = [part.dequantize().double().numpy() for part in (first, second)]
    behind = {
        True: np.maximum(x @ found[0], 0),
        False: np.maximum(x.astype(np.float64) @ weights[0], 0),
    }
    losses = {key: proxy_loss(rows, weights[1], found[1]) for key, rows in behind.items()}
    assert second.errors.proxy_loss == pytest.approx(losses[sequential], rel=1e-4)
    assert second.errors.proxy_loss != pytest.approx(losses[not sequential], rel=1e-2)
    assert first.errors.proxy_loss == pytest.approx(proxy_loss(x, weights[0], found[0]), rel=1e-4)


def test_first_layer_does_not_change_and_the_second_does() -> None:
    data = samples(inputs())
    first, second = (
        quantize(two_layers(), CompileConfig(sequential=sequential), data).replacements
        for sequential in (True, False)
    )
    assert same_codes(first[0], second[0])
    assert not same_codes(first[1], second[1])


def test_layers_beside_each_other_are_the_same_either_way() -> None:
    data = samples(inputs())
    codes = []
    for sequential in (True, False):
        model = model_from_text(
            f"""{HEADER} g (float[N, 64] x) => (float[N, 48] y, float[N, 48] z) {{
                y = MatMul(x, w) z = MatMul(x, v)
            }}""",
            w=draw(64, 48),
            v=draw(64, 48, seed=2),
        )
        result = quantize(model, CompileConfig(sequential=sequential), data)
        codes.append(result.replacements)
    assert all(same_codes(a, b) for a, b in zip(*codes, strict=True))


def test_without_data_order_does_not_matter() -> None:
    results = [
        quantize(mlp_model(), CompileConfig(sequential=sequential), None)
        for sequential in (True, False)
    ]
    for a, b in zip(*(result.replacements for result in results), strict=True):
        assert same_codes(a, b)
        assert a.quantized.errors.proxy_loss is None


@pytest.mark.parametrize("sequential", [True, False])
def test_shared_weight_is_calibrated_on_all_its_layers(sequential: bool) -> None:
    model = model_from_text(
        f"""{HEADER} g (float[N, 64] x) => (float[N, 64] y)
        <float[N, 64] h, float[N, 64] i, float[N, 64] j> {{
            [a] h = MatMul(x, w) [b] i = MatMul(h, v) [c] j = Relu(i) [d] y = MatMul(j, w)
        }}""",
        w=draw(64, 64) / 8,
        v=draw(64, 64, seed=2) / 8,
    )
    x = inputs()
    config = CompileConfig(sequential=sequential, lowering="onnx")
    result = quantize(model, config, samples(x))
    shared = result.replacements[0]
    assert [layer.name for layer in shared.layers] == ["a", "d"]
    # Its stage is the first, when the layers between its own are float yet.
    weight, between = draw(64, 64) / 8, draw(64, 64, seed=2) / 8
    rows = np.concatenate([x, np.maximum(x @ weight @ between, 0)])
    found = shared.quantized.dequantize().double().numpy()
    loss = proxy_loss(rows, weight, found)
    assert shared.quantized.errors.proxy_loss == pytest.approx(loss, rel=1e-4)
    assert sorted(result.stored_bytes) == ["a", "b", "d"]
    assert result.stored_bytes["d"] == 0


def test_layer_behind_one_that_stays_float() -> None:
    model = two_layers()
    weight = model.graph.initializers["w"]
    weight.const_value = ir.tensor(draw(64, 80) * np.float32(1e7), name="w")
    result = quantize(model, CompileConfig(sequential=True), samples(inputs()))
    assert [kept.name for kept in result.failed] == ["first"]
    assert "float16" in result.failed[0].reason
    assert [r.layers[0].name for r in result.replacements] == ["second"]
    assert set(result.stored_bytes) == {"second"}
    assert [node.op_type for node in model.graph] == ["MatMul", "Relu", "FrameMatMul"]


@pytest.mark.parametrize("sequential", [True, False])
def test_few_rows_are_warned_of_once(sequential: bool) -> None:
    warnings: list[str] = []
    config = CompileConfig(sequential=sequential)
    quantize(two_layers(), config, samples(inputs(40)), warnings=warnings)
    named = [warning for warning in warnings if "few calibration rows" in warning]
    assert len(named) == 1
    assert "and 1 other layers" in named[0]


def test_time_goes_to_its_step() -> None:
    timing = {"rewrite_s": 1000.0}
    quantize(two_layers(), CompileConfig(sequential=True), samples(inputs()), timing=timing)
    assert set(timing) == {"calibrate_s", "quantize_s", "rewrite_s"}
    assert timing["rewrite_s"] > 1000.0


FRAMES = {
    ("auto", None): ("hadamard", "identity"),
    ("auto", "both"): ("hadamard", "hadamard"),
    ("framequant", None): ("fusion", "fusion"),
    ("framequant", "in"): ("fusion", "identity"),
    ("gptq", None): ("identity", "identity"),
    ("rtn", "in"): ("identity", "identity"),
}


@pytest.mark.parametrize(("method", "sides"), FRAMES, ids=str)
def test_method_and_sides_decide_the_frames(method: str, sides: str | None) -> None:
    frames = FRAMES[method, sides]
    redundancy = 1.0 if frames[0] == "identity" else 1.25
    config = CompileConfig(method=method, sides=sides, redundancy=redundancy)
    for replacement in quantize(mlp_model(), config, None).replacements:
        quantized, layer = replacement.quantized, replacement.layers[0]
        assert (quantized.frame_in.kind, quantized.frame_out.kind) == frames
        assert (quantized.frame_in.dim, quantized.frame_out.dim) == (layer.dim_in, layer.dim_out)
        asked = [1.0 if frame == "identity" else 1.25 for frame in frames]
        found = [quantized.frame_in.redundancy, quantized.frame_out.redundancy]
        assert found == pytest.approx(asked, rel=0.07)


def test_every_frame_has_its_own_signs_and_the_seed_decides_them() -> None:
    config = CompileConfig(method="framequant")
    signs = []
    for seed in (0, 0, 1):
        result = quantize(mlp_model(), dataclasses.replace(config, seed=seed), None)
        signs.append(
            [
                np.asarray(replacement.quantized.arrays[side]).tobytes()
                for replacement in result.replacements
                for side in ("signs_in", "signs_out")
            ]
        )
    assert signs[0] == signs[1]
    assert all(a != b for a, b in zip(signs[0], signs[2], strict=True))
    assert len({frame[:4] for frame in signs[0]}) == len(signs[0])


def test_layers_of_one_input_share_their_signs() -> None:
    model = model_from_text(
        f"""{HEADER} g (float[N, 64] x) => (float[N, 48] y, float[N, 32] z, float[N, 64] u) {{
            y = MatMul(x, w) z = MatMul(x, v) a = Relu(x) u = MatMul(a, t)
        }}""",
        w=draw(64, 48),
        v=draw(64, 32, seed=2),
        t=draw(64, 64, seed=3),
    )
    result = quantize(model, CompileConfig(), None)
    y, z, u = (
        np.asarray(replacement.quantized.arrays["signs_in"]).tobytes()
        for replacement in result.replacements
    )
    assert y == z
    assert y != u


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 1 bytes")]
)
def test_memory_that_runs_out_is_said_of_a_layer(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(*arguments: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr("fqonnx.quant_job.quantize_weight", exhausted)
    with pytest.raises(ModelError, match=r"layer 'second': memory ran out on its 80 × 48 weights"):
        quantize(two_layers(), CompileConfig(exclude=("first",)), None)


def test_other_errors_stay_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr("fqonnx.quant_job.quantize_weight", broken)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        quantize(two_layers(), CompileConfig(), None)


# Convolutions.


def image_model() -> ir.Model:
    """Return x (N, 4, 8, 8), three convolutions: padded and strided, pointwise, in two groups."""
    return model_from_text(
        f"""{HEADER} g (float[N, 4, 8, 8] x) => (float[N, 32, 2, 2] y)
        <float[N, 32, 4, 4] h, float[N, 32, 4, 4] i, float[N, 32, 4, 4] j> {{
            [first] h = Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (x, u, b) i = Relu(h)
            [second] j = Conv (i, v, b) [third] y = Conv <group = 2> (j, w, b)
        }}""",
        u=draw(32, 4, 3, 3) / 6,
        v=draw(32, 32, 1, 1, seed=2) / 6,
        w=draw(32, 16, 3, 3, seed=3) / 12,
        b=draw(32, seed=4),
    )


IMAGES = Samples.from_feeds("file", [{"x": draw(24, 4, 8, 8, seed=i) + 0.3} for i in (5, 6)], 48)


@pytest.mark.parametrize("sequential", [True, False])
@pytest.mark.parametrize(
    ("method", "bits"),
    [(name, bits) for name in sorted(METHODS) for bits in range(METHODS[name].least_bits, 5)],
)
def test_convolutions_compute_with_the_weights_that_they_report(
    method: str, bits: int, sequential: bool
) -> None:
    model, wanted = image_model(), image_model()
    config = CompileConfig(method=method, bits=bits, sequential=sequential, lowering="onnx")
    result = quantize(model, config, IMAGES)
    assert [r.layers[0].name for r in result.replacements] == ["first", "second", "third"]
    nodes = [node.op_type for node in model.graph if node.domain]
    assert nodes == ["FrameDequant", "FrameMatMul", "FrameDequant"]
    for node, replacement in zip(
        (n for n in wanted.graph if n.op_type == "Conv"), result.replacements, strict=True
    ):
        quantized, layer = replacement.quantized, replacement.layers[0]
        array = quantized.dequantize().numpy().T.reshape(layer.weight_shape)
        node.inputs[1].const_value = ir.tensor(array)
        corrected = METHODS[method].corrects_mean and bits > 1 and not layer.has_groups
        assert (quantized.bias_shift is not None) == corrected
        shift = quantized.bias_shift if corrected else np.float32(0)
        bias = ir.Value(
            name=f"bias_of_{node.name}", const_value=ir.tensor(draw(32, seed=4) + shift)
        )
        wanted.graph.register_initializer(bias)
        node.replace_input_with(2, bias)
    feed = {"x": draw(5, 4, 8, 8)}
    found, expected = (Session(m, "model").run(feed)[0] for m in (model, wanted))
    assert np.linalg.norm(found - expected) <= 1e-5 * np.linalg.norm(expected)


def test_convolution_is_calibrated_on_its_patches() -> None:
    x = np.concatenate([feed["x"] for feed in IMAGES.feeds])
    patches = torch.nn.functional.unfold(torch.from_numpy(x), 3, padding=1, stride=2)
    rows = patches.permute(0, 2, 1).reshape(-1, 36).numpy()
    result = quantize(image_model(), CompileConfig(), IMAGES)
    first = result.replacements[0].quantized
    loss = proxy_loss(rows, draw(32, 4, 3, 3).reshape(32, 36).T / 6, first.dequantize().numpy())
    assert first.errors.proxy_loss == pytest.approx(loss, rel=1e-4)


def test_rows_of_a_convolution_are_enough_where_its_samples_are_few() -> None:
    few = Samples.from_feeds("file", [{"x": draw(2, 4, 8, 8)}], 2)
    warnings: list[str] = []
    quantize(image_model(), CompileConfig(), few, warnings=warnings)
    (warning,) = warnings
    # 2·4·4 patches of 36 and of 32 inputs, 2·2·2·2 of 144
    assert "few calibration rows for 'first', 32 for its 36 inputs, and 1 other" in warning
