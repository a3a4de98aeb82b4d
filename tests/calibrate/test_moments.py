from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch

from fqonnx.calibrate import Samples, collect_moments, merge_moments
from fqonnx.errors import DataError, ModelError
from fqonnx.model_file import load_model
from fqonnx.passes import LayerInput
from fqonnx.passes.convolution import Convolution
from fqonnx.quant import Moments
from fqonnx.segments import Relay
from support import conv_model, model_from_text

HEADER = '<ir_version: 10, opset_import: ["": 20]>'
INPUTS = "float[B, T, 4] x, int64[B, T] attention_mask"


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def samples(*feeds: dict[str, np.ndarray], source: str = "file") -> Samples:
    return Samples.from_feeds(source, feeds, sum(len(feed["x"]) for feed in feeds))


def squaring_model() -> ir.Model:
    return model_from_text(
        f"""{HEADER} g ({INPUTS}) => (float[B, T, 3] y) {{ h = Mul(x, x) y = MatMul(h, w) }}""",
        w=draw(4, 3),
    )


def collect(
    model: ir.Model,
    values: list[tuple[Any, ...]],
    data: Samples,
    mask_input: str | None = "attention_mask",
    **options: Any,
) -> dict[str, Moments]:
    inputs = [LayerInput(*value) for value in values]
    with Relay(model, data.feeds, where="model.onnx", **options) as relay:
        (segment,) = relay.segments
        found = collect_moments(
            relay, segment, inputs, mask_input=mask_input, is_real=data.is_real, device="cpu"
        )
    return {value.name: moments for value, moments in found.items()}


def assert_moments_of(moments: Moments, rows: np.ndarray) -> None:
    rows = rows.astype(np.float64)
    assert moments.count == len(rows)
    assert moments.hessian.dtype == moments.mean.dtype == torch.float64
    np.testing.assert_allclose(moments.hessian, rows.T @ rows / len(rows), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(moments.mean, rows.mean(0), rtol=1e-5, atol=1e-6)


def batches() -> tuple[list[dict[str, np.ndarray]], np.ndarray]:
    """Return three batches of different sizes, and the rows of x that count."""
    feeds, rows = [], []
    for i, (size, length) in enumerate([(2, 3), (1, 5), (4, 2)]):
        x = draw(size, length, 4, seed=i)
        mask = np.random.default_rng(10 + i).integers(0, 2, (size, length))
        mask[0, 0] = 1
        feeds.append({"x": x, "attention_mask": mask})
        rows.append(x[mask != 0])
    return feeds, np.concatenate(rows)


def test_moments_over_several_batches() -> None:
    feeds, _ = batches()
    moments = collect(squaring_model(), [("h", 4), ("x", 4)], samples(*feeds), None)
    rows = np.concatenate([feed["x"].reshape(-1, 4) for feed in feeds])
    assert list(moments) == ["h", "x"]
    assert_moments_of(moments["h"], rows**2)
    assert_moments_of(moments["x"], rows)


def test_rows_that_the_mask_marks_as_padding_do_not_count() -> None:
    feeds, rows = batches()
    moments = collect(squaring_model(), [("h", 4)], samples(*feeds))
    assert_moments_of(moments["h"], rows**2)


def test_padding_may_be_nan() -> None:
    feeds, rows = batches()
    for feed in feeds:
        feed["x"][feed["attention_mask"] == 0] = np.nan
    moments = collect(squaring_model(), [("h", 4)], samples(*feeds))
    assert_moments_of(moments["h"], rows**2)


def test_batch_that_is_all_padding_does_not_count() -> None:
    feeds, rows = batches()
    padding = {"x": draw(2, 3, 4), "attention_mask": np.zeros((2, 3), np.int64)}
    moments = collect(squaring_model(), [("h", 4)], samples(*feeds, padding))
    assert_moments_of(moments["h"], rows**2)


def test_batches_are_summed_in_float64() -> None:
    large = {"x": np.full((1, 1, 4), 1e4, np.float32)}
    small = {"x": np.full((1, 1, 4), 1.0, np.float32)}
    model = model_from_text(
        f"{HEADER} g (float[B, T, 4] x) => (float[B, T, 4] y) {{ y = Relu(x) }}"
    )
    moments = collect(model, [("x", 4)], samples(large, *[small] * 9), None)
    assert float(moments["x"].hessian[0, 0]) == (1e8 + 9) / 10


def test_real_samples_are_trusted_more_than_synthetic_ones() -> None:
    feeds, _ = batches()
    real, synthetic = (
        collect(squaring_model(), [("h", 4)], samples(*feeds, source=source))["h"]
        for source in ("file", "synthetic")
    )
    assert (real.trust_mean, synthetic.trust_mean) == (True, False)
    assert real.damping < synthetic.damping


def test_model_stays_as_it_is() -> None:
    model = squaring_model()
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    collect(model, [("h", 4)], samples(*batches()[0]))
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_progress_is_told_for_each_batch() -> None:
    seen: list[Any] = []

    def track(items: Sequence[Any], description: str, /) -> Iterable[Any]:
        seen.append((len(items), description))
        return items

    feeds, _ = batches()
    collect(squaring_model(), [("h", 4)], samples(*feeds), track=track)
    assert seen == [(3, "Calibrating")]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_activation_that_is_not_finite_is_an_error(bad: float) -> None:
    feeds, _ = batches()
    feeds[1]["x"][0, 0, 2] = bad
    with pytest.raises(DataError, match="activation 'h': it is not finite"):
        collect(squaring_model(), [("h", 4)], samples(*feeds))


def test_mask_that_leaves_no_row_is_an_error() -> None:
    feed = {"x": draw(2, 3, 4), "attention_mask": np.zeros((2, 3), np.int64)}
    with pytest.raises(DataError, match="activation 'h': the mask marks all of its rows"):
        collect(squaring_model(), [("h", 4)], samples(feed))


def test_activation_without_rows_is_left_out_whatever_the_mask() -> None:
    model = model_from_text(
        f"""{HEADER} g ({INPUTS}) => (float[B, T, 4] y) {{
            zero = Constant <value = int64[1] {{0}}> () none = Slice(x, zero, zero)
            y = Mul(x, x) }}"""
    )
    feeds, _ = batches()
    assert list(collect(model, [("none", 4), ("y", 4)], samples(*feeds))) == ["y"]


def test_weight_that_is_not_finite_is_named() -> None:
    model = squaring_model()
    with_nan = draw(4, 3)
    with_nan[0, 0] = np.nan
    model.graph.initializers["w"].const_value = ir.tensor(with_nan, name="w")
    with pytest.raises(ModelError, match=r"weight 'w': it has NaN .* activation 'y' behind"):
        collect(model, [("y", 3)], samples(*batches()[0]))


def test_samples_that_do_not_fit_are_an_error_that_names_the_model() -> None:
    with pytest.raises(ModelError, match=r"^model\.onnx: "):
        collect(squaring_model(), [("h", 4)], samples({"x": draw(2, 3, 5)}))


def test_weights_may_lie_in_an_external_file(tmp_path: Path) -> None:
    model = model_from_text(
        f"""{HEADER} g (float[B, 32] x) => (float[B, 32] y) {{
            h = MatMul(x, w) y = MatMul(h, w)
        }}""",
        w=draw(32, 32),
    )
    ir.save(model, tmp_path / "model.onnx", external_data="model.data")
    x = draw(6, 32, seed=1)
    loaded = load_model(tmp_path / "model.onnx")
    moments = collect(loaded, [("h", 32)], samples({"x": x}), None)
    np.testing.assert_allclose(moments["h"].mean, (x @ draw(32, 32)).mean(0), rtol=1e-4, atol=1e-5)


def test_merged_moments_are_those_of_all_rows() -> None:
    x, z = draw(2, 3, 4), draw(5, 4, 4, seed=3)
    model = model_from_text(
        f"{HEADER} g (float[B, T, 4] x) => (float[B, T, 4] y) {{ y = Relu(x) }}"
    )
    parts = [collect(model, [("x", 4)], samples({"x": a}), None)["x"] for a in (x, z)]
    merged = merge_moments(parts)
    assert_moments_of(merged, np.concatenate([x.reshape(-1, 4), z.reshape(-1, 4)]))
    assert (merged.damping, merged.trust_mean) == (parts[0].damping, True)


def test_merging_weighs_by_counts() -> None:
    def part(value: float, count: int) -> Moments:
        full = torch.full((2, 2), value, dtype=torch.float64)
        return Moments(full, full[0], count, 0.1, True)

    merged = merge_moments([part(1.0, 1), part(4.0, 2), part(0.0, 3)])
    assert merged.count == 6
    np.testing.assert_allclose(merged.hessian, np.full((2, 2), 1.5))
    np.testing.assert_allclose(merged.mean, np.full(2, 1.5))


def test_merging_one_part_gives_it_back() -> None:
    moments = Moments(torch.eye(2), torch.ones(2), 3, 0.5, False)
    assert merge_moments([moments]) is moments


def test_rows_of_a_convolution_are_its_patches() -> None:
    x = draw(3, 6, 8, 7)
    model = conv_model(draw(4, 3, 3, 2), "8, 7", "group = 2, strides = [2, 1]")
    convolution = Convolution.of(model.graph[0], (4, 3, 3, 2))
    found = collect(model, [("x", 18, convolution)], samples({"x": x}), None)
    patches = torch.nn.functional.unfold(torch.from_numpy(x), (3, 2), stride=(2, 1))
    rows = patches.reshape(3, 2, 18, -1).permute(0, 1, 3, 2).reshape(-1, 18)
    assert_moments_of(found["x"], rows.numpy())


@pytest.mark.parametrize(("group", "padded"), [(1, True), (2, False)])
def test_mask_marks_the_places_of_a_convolution(group: int, padded: bool) -> None:
    x, mask = draw(2, 4, 5), np.array([[1, 1, 1, 0, 0], [1, 1, 0, 1, 0]])
    model = model_from_text(
        f"""{HEADER} g (float[B, 4, T] x, int64[B, T] attention_mask) => (float[B, 2, T] y) {{
            y = Conv <pads = [1, 1], group = {group}> (x, w)
        }}""",
        w=draw(2, 4 // group, 3),
    )
    convolution = Convolution.of(model.graph[0], (2, 4 // group, 3))
    data = samples({"x": x, "attention_mask": mask})
    found = collect(model, [("x", convolution.dim_in, convolution)], data)["x"]
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(x, ((0, 0), (0, 0), (1, 1))), 3, 2)
    rows = windows.transpose(0, 2, 1, 3).reshape(2, 5, group, -1)
    assert_moments_of(found, (rows[mask != 0] if padded else rows).reshape(-1, convolution.dim_in))
