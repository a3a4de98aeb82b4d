import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fqonnx.config import METHODS, Method
from fqonnx.frames import Frame, FusionFrame, HadamardFrame, IdentityFrame
from fqonnx.quant import (
    Moments,
    QuantizedWeight,
    damped,
    ldlq,
    ldlq_feedback,
    quantize_weight,
    two_sigma_alphabet,
)
from support import frame_for

DIM_IN, DIM_OUT = 24, 20
CASES = [
    (name, sides)
    for name, method in METHODS.items()
    for sides in ("in", "out", "both")
    if method.frame != "identity" or sides == "in"
]
EVERY_METHOD = pytest.mark.parametrize("method", METHODS)
EVERY_CASE = pytest.mark.parametrize(("method", "sides"), CASES)
BITS = pytest.mark.parametrize("bits", [1, 2, 3, 4])


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def activations(dim: int = DIM_IN, rows: int = 300, seed: int = 0) -> torch.Tensor:
    mixing = normal(dim // 3 + 1, dim, seed=seed)
    offset = normal(dim, seed=seed + 1)
    return normal(rows, dim // 3 + 1, seed=seed + 2) @ mixing + offset + 0.2 * normal(rows, dim)


def moments_of(x: torch.Tensor, *, trust_mean: bool = True, damping: float = 0.1) -> Moments:
    x = x.double()
    return Moments(x.T @ x / len(x), x.mean(0), len(x), damping, trust_mean)


def quantized(
    weight: torch.Tensor,
    method: str | Method,
    bits: int,
    moments: Moments | None = None,
    *,
    sides: str = "in",
    redundancy: float | None = None,
    **options: Any,
) -> QuantizedWeight:
    method = METHODS[method] if isinstance(method, str) else method
    dim_in, dim_out = weight.shape
    redundancy = method.redundancy if redundancy is None else redundancy
    frame_in: Frame = IdentityFrame(dim_in)
    frame_out: Frame = IdentityFrame(dim_out)
    if sides != "out":
        frame_in = frame_for(method, dim_in, redundancy)
    if sides != "in":
        frame_out = frame_for(method, dim_out, redundancy, seed=1)
    return quantize_weight(weight, frame_in, frame_out, method, bits, moments, **options)


def rel_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return ((actual.double() - expected.double()).norm() / expected.double().norm()).item()


def true_output_error(weight: torch.Tensor, result: QuantizedWeight, x: torch.Tensor) -> float:
    y = x.double() @ result.dequantize().double()
    if result.bias_shift is not None:
        y = y + result.bias_shift.double()
    return rel_error(y, x.double() @ weight.double())


def by_the_format(result: QuantizedWeight) -> torch.Tensor:
    """Return the synthesis of what is stored, entry by entry and with dense operators."""
    num_out, num_in = result.codes.shape
    coeffs = torch.empty(num_in, num_out, dtype=torch.float64)
    for i in range(num_in):
        group = i // result.group_size if result.group_size else 0
        offset = torch.full((num_out,), (2**result.bits - 1) / 2)
        if result.zero_points is not None:
            offset = result.zero_points[:, group].float()
        coeffs[i] = (result.codes[:, i] - offset) * result.scales[:, group].double()
    return result.frame_in.matrix().T @ coeffs @ result.frame_out.matrix()


@EVERY_CASE
@BITS
def test_shapes_and_types_are_those_of_the_format(method: str, sides: str, bits: int) -> None:
    result = quantized(
        normal(DIM_IN, DIM_OUT), method, bits, moments_of(activations()), sides=sides
    )
    assert result.codes.shape == (result.frame_out.num_vectors, result.frame_in.num_vectors)
    assert result.codes.dtype == torch.uint8
    assert result.codes.is_contiguous()
    assert result.codes.max() < 2**bits
    if method != "sigma-delta":  # whose state may stay away from the ends
        assert result.codes.max() == 2**bits - 1
        assert result.codes.min() == 0
    assert result.scales.shape == (result.frame_out.num_vectors, 1)
    assert result.scales.dtype == torch.float16
    assert result.scales.is_contiguous()
    assert (result.scales > 0).all()
    if METHODS[method].alphabet in ("mid-rise", "range"):
        assert result.zero_points is None
    else:
        assert result.zero_points is not None
        assert result.zero_points.shape == result.scales.shape
        assert result.zero_points.dtype == torch.uint8
        assert result.zero_points.is_contiguous()
        assert result.zero_points.max() < 2**bits
    assert result.group_size == (128 if METHODS[method].alphabet == "min-max" else None)
    assert result.bits == bits


def test_the_frames_are_those_that_were_given() -> None:
    frame_in, frame_out = FusionFrame.create(DIM_IN, 1.5), HadamardFrame.create(DIM_OUT)
    result = quantize_weight(normal(DIM_IN, DIM_OUT), frame_in, frame_out, METHODS["framequant"], 2)
    assert result.frame_in is frame_in
    assert result.frame_out is frame_out


@EVERY_CASE
@BITS
def test_dequantize_is_the_synthesis_of_the_values_of_the_codes(
    method: str, sides: str, bits: int
) -> None:
    result = quantized(
        normal(DIM_IN, DIM_OUT),
        replace(METHODS[method], group_size=10),
        bits,
        moments_of(activations()),
        sides=sides,
        redundancy=1.25,
    )
    dequantized = result.dequantize()
    assert dequantized.shape == (DIM_IN, DIM_OUT)
    assert dequantized.dtype == torch.float32
    assert torch.allclose(dequantized.double(), by_the_format(result), atol=1e-5)


@settings(deadline=None, max_examples=20)
@given(
    dim_in=st.integers(1, 70),
    dim_out=st.integers(1, 20),
    bits=st.integers(1, 4),
    case=st.sampled_from(CASES),
    correct_mean=st.booleans(),
    group_size=st.integers(1, 80),
    seed=st.integers(0, 2**31),
)
def test_reported_errors_are_the_true_ones(
    dim_in: int,
    dim_out: int,
    bits: int,
    case: tuple[str, str],
    correct_mean: bool,
    group_size: int,
    seed: int,
) -> None:
    weight, x = normal(dim_in, dim_out, seed=seed), activations(dim_in, seed=seed)
    moments = moments_of(x)
    result = quantized(
        weight,
        replace(METHODS[case[0]], group_size=group_size),
        bits,
        moments,
        sides=case[1],
        redundancy=1.3,
        correct_mean=correct_mean,
    )
    assert (result.bias_shift is not None) == correct_mean
    assert result.errors.weight_rel_error == pytest.approx(
        rel_error(result.dequantize(), weight), rel=1e-3, abs=1e-6
    )
    assert result.errors.output_rel_error == pytest.approx(
        true_output_error(weight, result, x), rel=1e-3, abs=1e-5
    )
    error = weight.double() - result.dequantize().double()
    signal = torch.trace(weight.double().T @ moments.hessian @ weight.double())
    assert result.errors.proxy_loss == pytest.approx(
        torch.trace(error.T @ moments.hessian @ error).item(), rel=1e-3, abs=1e-9 * signal.item()
    )
    assert result.errors.proxy_loss == pytest.approx(
        (x.double() @ error).square().sum(1).mean().item(), rel=1e-3, abs=1e-9 * signal.item()
    )


@EVERY_CASE
def test_bias_shift_makes_the_mean_output_exact(method: str, sides: str) -> None:
    weight, x = normal(DIM_IN, DIM_OUT), activations() + 3.0
    result = quantized(weight, method, 2, moments_of(x), sides=sides, correct_mean=True)
    assert result.bias_shift is not None
    assert result.bias_shift.shape == (DIM_OUT,)
    wanted = (x @ weight).mean(0)
    without = (x @ result.dequantize()).mean(0)
    assert torch.allclose(without + result.bias_shift, wanted, atol=2e-4 * wanted.abs().max())
    assert not torch.allclose(without, wanted, atol=1e-2 * wanted.abs().max())


def test_correcting_the_mean_lowers_the_output_error() -> None:
    weight, x = normal(DIM_IN, DIM_OUT), activations() + 3.0
    errors = [
        true_output_error(
            weight,
            quantized(weight, "auto", 2, moments_of(x), correct_mean=correct_mean),
            x,
        )
        for correct_mean in (True, False)
    ]
    assert errors[0] < errors[1]


def test_no_bias_shift_from_a_mean_that_is_not_real() -> None:
    weight, x = normal(DIM_IN, DIM_OUT), activations()
    untrusted = moments_of(x, trust_mean=False)
    asked = quantized(weight, "auto", 2, untrusted, correct_mean=True)
    plain = quantized(weight, "auto", 2, untrusted)
    assert asked.bias_shift is None
    assert torch.equal(asked.codes, plain.codes)
    assert quantized(weight, "auto", 2, None, correct_mean=True).bias_shift is None
    assert quantized(weight, "auto", 2, moments_of(x)).bias_shift is None


@EVERY_CASE
def test_no_data_means_no_output_error(method: str, sides: str) -> None:
    weight = normal(DIM_IN, DIM_OUT)
    result = quantized(weight, method, 2, sides=sides)
    assert result.errors.output_rel_error is None
    assert result.errors.proxy_loss is None
    assert result.errors.weight_rel_error == pytest.approx(rel_error(result.dequantize(), weight))


def test_without_data_a_gaussian_weight_is_as_good_as_theory() -> None:
    # Relative mean squared errors of the best uniform quantizers of a Gaussian (J. Max, 1960).
    weight = normal(128, 400)
    for bits, error in {1: 0.3634, 2: 0.1188, 3: 0.03744, 4: 0.01154}.items():
        result = quantized(weight, "auto", bits)
        assert result.errors.weight_rel_error == pytest.approx(math.sqrt(error), rel=0.05)


@EVERY_CASE
def test_more_bits_are_better(method: str, sides: str) -> None:
    weight, moments = normal(DIM_IN, DIM_OUT), moments_of(activations())
    results = [quantized(weight, method, bits, moments, sides=sides) for bits in (1, 2, 3, 4)]
    output_errors = [result.errors.output_rel_error for result in results]
    assert output_errors == sorted(output_errors, reverse=True)
    clipped = method == "framequant"  # what is beyond 2σ is lost at any number of bits
    assert output_errors[3] < (0.8 if clipped else 0.5) * output_errors[1] < output_errors[0]


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("seed", [0, 10])
def test_feedback_beats_round_to_nearest_on_correlated_activations(bits: int, seed: int) -> None:
    weight, x = normal(DIM_IN, DIM_OUT, seed=seed), activations(seed=seed)
    errors = {
        name: true_output_error(weight, quantized(weight, name, bits, moments_of(x)), x)
        for name in ("gptq", "rtn")
    }
    assert errors["gptq"] < 0.75 * errors["rtn"]


def test_a_frame_mends_outliers() -> None:
    weight = normal(DIM_IN, DIM_OUT)
    weight[::8] *= 20
    moments = moments_of(activations())
    errors = {
        case: quantized(weight, case[0], 2, moments, sides=case[1]).errors.output_rel_error
        for case in CASES
    }
    for sides in ("in", "both"):
        assert errors["auto", sides] < errors["gptq", "in"]
        assert errors["auto", sides] < errors["rtn", "in"]


@BITS
@pytest.mark.parametrize("sides", ["in", "both"])
def test_redundancy_two_beats_one(bits: int, sides: str) -> None:
    weight, x = normal(DIM_IN, DIM_OUT), activations()
    one, two = (
        quantized(weight, "auto", bits, moments_of(x), sides=sides, redundancy=r)
        for r in (1.0, 2.0)
    )
    assert two.codes.shape[1] == 2 * one.codes.shape[1]
    assert true_output_error(weight, two, x) < 0.8 * true_output_error(weight, one, x)
    assert two.errors.weight_rel_error < one.errors.weight_rel_error


def test_redundancy_two_beats_one_without_data() -> None:
    weight = normal(DIM_IN, DIM_OUT)
    one, two = (quantized(weight, "auto", 2, redundancy=r) for r in (1.0, 2.0))
    assert two.errors.weight_rel_error < 0.8 * one.errors.weight_rel_error


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("sides", ["in", "both"])
def test_framequant_gets_better_with_redundancy(bits: int, sides: str) -> None:
    weight = normal(64, 64)
    errors = [
        quantized(weight, "framequant", bits, sides=sides, redundancy=r).errors.weight_rel_error
        for r in (1.0, 1.5, 2.0)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[2] < (0.8 if sides == "in" else 0.65) * errors[0]


# Sides


@pytest.mark.parametrize("method", ["auto", "framequant"])
def test_a_frame_on_the_output_side_adds_its_redundancy(method: str) -> None:
    weight = normal(64, 48)
    one, two = (quantized(weight, method, 2, sides=s, redundancy=1.5) for s in ("in", "both"))
    assert one.codes.shape == (48, 96)
    assert two.codes.shape == (72, 96)
    assert one.scales.shape == (48, 1)
    assert two.scales.shape == (72, 1)
    assert two.errors.weight_rel_error < one.errors.weight_rel_error


def test_a_frame_on_the_output_side_mixes_the_channels() -> None:
    weight = normal(DIM_IN, DIM_OUT)
    weight[:, 5] *= 30
    one, two = (quantized(weight, "auto", 2, sides=sides) for sides in ("in", "both"))
    assert one.scales.amax() > 10 * one.scales.median()
    assert two.scales.amax() < 10 * two.scales.median()


@EVERY_METHOD
def test_without_a_frame_on_it_the_output_side_is_channel_by_channel(method: str) -> None:
    weight, moments = normal(DIM_IN, DIM_OUT), moments_of(activations())
    together = quantized(weight, method, 2, moments)
    for j in (0, 7, 19):
        alone = quantized(weight[:, [j]], method, 2, moments)
        assert torch.equal(alone.scales[0], together.scales[j])
        assert (alone.codes[0] != together.codes[j]).sum() <= 2  # ties


@EVERY_CASE
def test_the_coefficients_are_those_of_both_frames(method: str, sides: str) -> None:
    weight = normal(DIM_IN, DIM_OUT)
    nearest = replace(METHODS[method], feedback="none")
    result = quantized(weight, nearest, 4, sides=sides, redundancy=1.25)
    coeffs = result.frame_in.matrix() @ weight.double() @ result.frame_out.matrix().T
    step = result.scales.T.double()
    zero_point = 7.5 if result.zero_points is None else result.zero_points.T.double()
    codes = torch.floor(coeffs / step + zero_point + 0.5).clamp(0, 15)
    assert (result.codes != codes.T).sum() <= 2  # ties


@pytest.mark.parametrize(("redundancy", "most"), [(1.0, 0.40), (2.0, 0.12), (3.0, 0.08)], ids=str)
def test_two_levels_are_further_apart_where_errors_cancel(redundancy: float, most: float) -> None:
    weight = normal(128, 64)
    result = quantized(weight, "auto", 1, redundancy=redundancy)
    assert result.errors.weight_rel_error**2 < most
    narrow = replace(
        METHODS["auto"],
        step_multipliers=tuple(
            multiplier / (2.1 - 1.1 / redundancy) for multiplier in METHODS["auto"].step_multipliers
        ),
    )
    other = quantized(weight, narrow, 1, redundancy=redundancy)
    if redundancy == 1.0:
        assert torch.equal(other.codes, result.codes)
    else:  # the best steps for lone coefficients
        assert result.errors.weight_rel_error**2 < 0.75 * other.errors.weight_rel_error**2


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_more_levels_need_no_other_step(bits: int) -> None:
    # Steps are chosen per column: none of them is at the end of a wider choice.
    weight = normal(96, 64)
    wide = replace(METHODS["auto"], step_multipliers=(0.75, 0.85, 0.95, 1.05, 1.15, 1.3))
    errors = [
        quantized(weight, method, bits, redundancy=2.0).errors.weight_rel_error
        for method in (METHODS["auto"], wide)
    ]
    assert errors[0] < 1.05 * errors[1]


# Groups


@pytest.mark.parametrize("method", ["gptq", "rtn"])
@pytest.mark.parametrize(("group_size", "groups"), [(1, 24), (5, 5), (8, 3), (24, 1), (25, 1)])
def test_every_group_has_a_scale(method: str, group_size: int, groups: int) -> None:
    grouped = replace(METHODS[method], group_size=group_size)
    result = quantized(normal(DIM_IN, DIM_OUT), grouped, 2, moments_of(activations()))
    assert result.group_size == group_size
    assert result.scales.shape == (DIM_OUT, groups)
    assert result.zero_points is not None
    assert result.zero_points.shape == (DIM_OUT, groups)
    assert torch.allclose(result.dequantize().double(), by_the_format(result), atol=1e-5)


def test_groups_are_rounded_as_weights_of_their_own() -> None:
    weight = normal(DIM_IN, DIM_OUT)
    result = quantized(weight, replace(METHODS["rtn"], group_size=10), 2)
    parts = [quantized(part, "rtn", 2) for part in weight.split(10)]
    assert torch.equal(result.codes, torch.cat([part.codes for part in parts], 1))
    assert torch.equal(result.scales, torch.cat([part.scales for part in parts], 1))
    assert torch.equal(result.dequantize(), torch.cat([part.dequantize() for part in parts]))


@pytest.mark.parametrize("method", ["gptq", "rtn"])
def test_smaller_groups_are_better(method: str) -> None:
    weight, moments = normal(96, 40), moments_of(activations(96))
    errors = [
        quantized(
            weight, replace(METHODS[method], group_size=size), 2, moments
        ).errors.output_rel_error
        for size in (8, 32, 96)
    ]
    assert errors == sorted(errors)


def test_the_groups_of_a_method_are_of_128_codes() -> None:
    result = quantized(normal(300, 3), "gptq", 2)
    assert result.group_size == 128
    assert result.scales.shape == (3, 3)


# Damping


def test_a_method_may_say_how_far_to_damp() -> None:
    weight, x = normal(DIM_IN, DIM_OUT), activations()
    free = replace(METHODS["gptq"], damping=None)
    trusting, wary = (quantized(weight, free, 2, moments_of(x, damping=d)) for d in (0.01, 1e6))
    assert not torch.equal(trusting.codes, wary.codes)
    # With so much damping the Hessian is a multiple of the identity.
    assert torch.equal(wary.codes, quantized(weight, "rtn", 2).codes)
    same = [quantized(weight, "gptq", 2, moments_of(x, damping=d)) for d in (0.01, 1e6)]
    assert torch.equal(same[0].codes, same[1].codes)


def test_a_method_may_say_how_far_to_damp_without_data() -> None:
    weight = normal(DIM_IN, DIM_OUT)
    little, much, default = (
        quantized(weight, replace(METHODS["framequant"], damping=d), 2, redundancy=1.5).codes
        for d in (0.01, 1.0, None)
    )
    assert torch.equal(little, quantized(weight, "framequant", 2, redundancy=1.5).codes)
    assert not torch.equal(little, much)
    assert not torch.equal(default, much)


def test_framequant_feeds_errors_back_from_the_clipped_coefficients() -> None:
    weight, moments = normal(DIM_IN, DIM_OUT) ** 3, moments_of(activations())
    result = quantized(weight, "framequant", 3, moments)
    coeffs = result.frame_in.analysis(weight.T.contiguous()).T.contiguous()
    alphabet, clipped = two_sigma_alphabet(coeffs, 3)
    hessian = damped(result.frame_in.transform_hessian(moments.hessian), 0.01)
    from_clipped, from_all = (
        alphabet.codes(ldlq(start, ldlq_feedback(hessian), alphabet)).T
        for start in (clipped, coeffs)
    )
    assert torch.equal(result.codes, from_clipped)
    assert not torch.equal(result.codes, from_all)


# Sizes and types that are out of the ordinary


@EVERY_METHOD
def test_channels_of_any_size_are_quantized_alike(method: str) -> None:
    column = normal(DIM_IN, 1)
    sizes = torch.tensor([1.0, 1 / 16, 64.0])
    result = quantized(column * sizes, method, 2)
    assert torch.equal(result.codes[0], result.codes[1])
    assert torch.equal(result.codes[0], result.codes[2])
    assert torch.equal(result.scales[:, 0].float(), result.scales[0].float() * sizes)


@EVERY_METHOD
@pytest.mark.parametrize("with_data", [False, True])
@pytest.mark.parametrize("correct_mean", [False, True])
def test_zero_columns_come_back_as_zeros(method: str, with_data: bool, correct_mean: bool) -> None:
    weight, x = normal(DIM_IN, DIM_OUT), activations()
    weight[:, [0, 7]] = 0
    moments = moments_of(x) if with_data else None
    result = quantized(weight, method, 2, moments, correct_mean=correct_mean)
    assert torch.equal(result.dequantize()[:, [0, 7]], torch.zeros(DIM_IN, 2))
    assert (result.scales[[0, 7]] == 0).all()
    assert 0 < result.errors.weight_rel_error < 1
    if result.bias_shift is not None:
        assert torch.equal(result.bias_shift[[0, 7]], torch.zeros(2))


@EVERY_CASE
@pytest.mark.parametrize("with_data", [False, True])
def test_zero_weight_has_no_error(method: str, sides: str, with_data: bool) -> None:
    moments = moments_of(activations()) if with_data else None
    result = quantized(torch.zeros(DIM_IN, DIM_OUT), method, 2, moments, sides=sides)
    assert torch.equal(result.dequantize(), torch.zeros(DIM_IN, DIM_OUT))
    assert result.errors.weight_rel_error == 0.0
    assert result.errors.output_rel_error == (0.0 if with_data else None)
    assert result.errors.proxy_loss == (0.0 if with_data else None)


@EVERY_CASE
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 1), (1, 2)])
@pytest.mark.parametrize("with_data", [False, True])
def test_tiny_weights(method: str, sides: str, shape: tuple[int, int], with_data: bool) -> None:
    weight, x = normal(*shape, seed=4), activations(shape[0])
    moments = moments_of(x) if with_data else None
    result = quantized(weight, method, 4, moments, sides=sides)
    assert result.dequantize().shape == shape
    if (method, sides, shape[0]) != ("framequant", "out", 1):  # one row has no σ: all is lost
        assert result.errors.weight_rel_error < 0.5
    true_error = rel_error(result.dequantize(), weight)
    assert result.errors.weight_rel_error == pytest.approx(true_error, abs=1e-6)


@EVERY_CASE
def test_a_step_beyond_float16_is_an_overflow(method: str, sides: str) -> None:
    weight = normal(DIM_IN, DIM_OUT)
    weight[:, 3] *= 1e5 if sides == "in" else 1e6  # a frame on the output side spreads it
    with pytest.raises(OverflowError, match="float16"):
        quantized(weight, method, 2, sides=sides)


@EVERY_CASE
def test_a_weight_below_float16_is_an_overflow_too(method: str, sides: str) -> None:
    weight = normal(DIM_IN, DIM_OUT) * 1e-9
    with pytest.raises(OverflowError, match="too small"):
        quantized(weight, method, 2, sides=sides)


@EVERY_CASE
def test_large_steps_that_fit_are_finite(method: str, sides: str) -> None:
    weight = normal(DIM_IN, DIM_OUT) * 1e4
    result = quantized(weight, method, 2, sides=sides)
    assert torch.isfinite(result.scales).all()
    assert result.errors.weight_rel_error < 0.6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_float_type_is_computed_in_float32(dtype: torch.dtype) -> None:
    weight = normal(DIM_IN, DIM_OUT).to(dtype)
    result = quantized(weight, "auto", 2)
    expected = quantized(weight.float(), "auto", 2)
    assert torch.equal(result.codes, expected.codes)
    assert result.dequantize().dtype == torch.float32
    assert weight.dtype == dtype


@EVERY_CASE
def test_arguments_are_left_as_they_were(method: str, sides: str) -> None:
    weight, moments = normal(DIM_IN, DIM_OUT), moments_of(activations())
    before = [t.clone() for t in (weight, moments.hessian, moments.mean)]
    quantized(weight, method, 2, moments, sides=sides, correct_mean=True)
    after = (weight, moments.hessian, moments.mean)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@EVERY_CASE
def test_the_same_call_gives_the_same_codes(method: str, sides: str) -> None:
    weight, moments = normal(DIM_IN, DIM_OUT), moments_of(activations())
    first, again = (quantized(weight, method, 2, moments, sides=sides) for _ in range(2))
    assert torch.equal(first.codes, again.codes)
    assert torch.equal(first.scales, again.scales)


@EVERY_CASE
def test_dead_activations_are_quantized_as_without_data(method: str, sides: str) -> None:
    weight = normal(DIM_IN, DIM_OUT)
    moments = moments_of(torch.zeros(10, DIM_IN))
    result = quantized(weight, method, 2, moments, sides=sides)
    assert result.errors.output_rel_error == 0.0
    assert result.errors.proxy_loss == 0.0
    assert result.errors.weight_rel_error < 0.5


def test_an_input_that_is_always_zero_does_not_spoil_the_rest() -> None:
    x = activations()
    x[:, [3, 20]] = 0
    weight = normal(DIM_IN, DIM_OUT)
    result = quantized(weight, "gptq", 4, moments_of(x))
    assert result.errors.output_rel_error == pytest.approx(
        true_output_error(weight, result, x), rel=1e-3
    )
    assert result.errors.output_rel_error < 0.1


@EVERY_METHOD
@pytest.mark.parametrize("rows", [1, 20])
@pytest.mark.parametrize("summed_in", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", range(4))
def test_activations_that_never_change_leave_all_of_the_error_to_the_bias(
    method: str, rows: int, summed_in: torch.dtype, seed: int
) -> None:
    # One calibration row, or a constant input: the covariance is zero but for rounding.
    x = normal(1, DIM_IN, seed=seed).expand(rows, DIM_IN).to(summed_in)
    hessian, mean = (x.T @ x).double() / rows, x.sum(0).double() / rows
    weight = normal(DIM_IN, DIM_OUT)
    moments = Moments(hessian, mean, rows, damping=0.1, trust_mean=True)
    result = quantized(weight, method, 2, moments, correct_mean=True)
    assert true_output_error(weight, result, x) < 1e-5
    assert result.errors.output_rel_error is not None
    assert result.errors.output_rel_error < 1e-3
    assert result.errors.weight_rel_error < 0.6
