import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fqonnx.config import METHODS
from fqonnx.frames import Frame, HadamardFrame, IdentityFrame
from fqonnx.quant import Moments, QuantizedWeight, quantize_weight

DIM_IN, DIM_OUT = 24, 20
EVERY_METHOD = pytest.mark.parametrize("method", sorted(METHODS))
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


def frame_of(method: str, dim: int = DIM_IN, redundancy: float = 1.0) -> Frame:
    if METHODS[method].frame == "identity":
        return IdentityFrame(dim)
    return HadamardFrame.create(dim, redundancy)


def rel_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return ((actual.double() - expected.double()).norm() / expected.double().norm()).item()


def true_output_error(weight: torch.Tensor, result: QuantizedWeight, x: torch.Tensor) -> float:
    y = x.double() @ result.dequantize().double()
    if result.bias_shift is not None:
        y = y + result.bias_shift.double()
    return rel_error(y, x.double() @ weight.double())


@EVERY_METHOD
@BITS
def test_shapes_and_types_are_those_of_the_format(method: str, bits: int) -> None:
    frame = frame_of(method)
    result = quantize_weight(
        normal(DIM_IN, DIM_OUT), frame, METHODS[method], bits, moments_of(activations())
    )
    assert result.codes.shape == (DIM_OUT, frame.num_vectors)
    assert result.codes.dtype == torch.uint8
    assert result.codes.is_contiguous()
    assert result.codes.max() == 2**bits - 1
    assert result.codes.min() == 0
    assert result.scales.shape == (DIM_OUT,)
    assert result.scales.dtype == torch.float16
    assert (result.scales > 0).all()
    assert result.bits == bits
    assert result.frame is frame


@EVERY_METHOD
@BITS
def test_dequantize_is_the_synthesis_of_the_values_of_the_codes(method: str, bits: int) -> None:
    result = quantize_weight(
        normal(DIM_IN, DIM_OUT), frame_of(method), METHODS[method], bits, moments_of(activations())
    )
    values = result.codes.double() - (2**bits - 1) / 2
    coeffs = (values * result.scales.double()[:, None]).T
    expected = result.frame.matrix().T @ coeffs
    dequantized = result.dequantize()
    assert dequantized.shape == (DIM_IN, DIM_OUT)
    assert dequantized.dtype == torch.float32
    assert torch.allclose(dequantized.double(), expected, atol=1e-5)


@settings(deadline=None, max_examples=12)
@given(
    dim_in=st.integers(1, 70),
    dim_out=st.integers(1, 20),
    bits=st.integers(1, 4),
    method=st.sampled_from(sorted(METHODS)),
    correct_mean=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_reported_errors_are_the_true_ones(
    dim_in: int, dim_out: int, bits: int, method: str, correct_mean: bool, seed: int
) -> None:
    weight, x = normal(dim_in, dim_out, seed=seed), activations(dim_in, seed=seed)
    result = quantize_weight(
        weight,
        frame_of(method, dim_in, 1.3),
        METHODS[method],
        bits,
        moments_of(x),
        correct_mean=correct_mean,
    )
    assert (result.bias_shift is not None) == correct_mean
    assert result.weight_rel_error == pytest.approx(
        rel_error(result.dequantize(), weight), rel=1e-3, abs=1e-6
    )
    assert result.output_rel_error == pytest.approx(
        true_output_error(weight, result, x), rel=1e-3, abs=1e-5
    )


@EVERY_METHOD
def test_bias_shift_makes_the_mean_output_exact(method: str) -> None:
    weight, x = normal(DIM_IN, DIM_OUT), activations() + 3.0
    result = quantize_weight(
        weight, frame_of(method), METHODS[method], 2, moments_of(x), correct_mean=True
    )
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
            quantize_weight(
                weight,
                frame_of("auto"),
                METHODS["auto"],
                2,
                moments_of(x),
                correct_mean=correct_mean,
            ),
            x,
        )
        for correct_mean in (True, False)
    ]
    assert errors[0] < errors[1]


def test_no_bias_shift_from_a_mean_that_is_not_real() -> None:
    weight, x = normal(DIM_IN, DIM_OUT), activations()
    method, frame = METHODS["auto"], frame_of("auto")
    untrusted = moments_of(x, trust_mean=False)
    asked = quantize_weight(weight, frame, method, 2, untrusted, correct_mean=True)
    plain = quantize_weight(weight, frame, method, 2, untrusted)
    assert asked.bias_shift is None
    assert torch.equal(asked.codes, plain.codes)
    assert quantize_weight(weight, frame, method, 2, None, correct_mean=True).bias_shift is None
    assert quantize_weight(weight, frame, method, 2, moments_of(x)).bias_shift is None


@EVERY_METHOD
def test_no_data_means_no_output_error(method: str) -> None:
    weight = normal(DIM_IN, DIM_OUT)
    result = quantize_weight(weight, frame_of(method), METHODS[method], 2)
    assert result.output_rel_error is None
    assert result.weight_rel_error == pytest.approx(rel_error(result.dequantize(), weight))


def test_without_data_a_gaussian_weight_is_as_good_as_theory() -> None:
    # Relative mean squared errors of the best uniform quantizers of a Gaussian (J. Max, 1960).
    weight = normal(128, 400)
    for bits, error in {1: 0.3634, 2: 0.1188, 3: 0.03744, 4: 0.01154}.items():
        result = quantize_weight(weight, frame_of("auto", 128), METHODS["auto"], bits)
        assert result.weight_rel_error == pytest.approx(math.sqrt(error), rel=0.05)


@EVERY_METHOD
def test_more_bits_are_better(method: str) -> None:
    weight, moments = normal(DIM_IN, DIM_OUT), moments_of(activations())
    results = [
        quantize_weight(weight, frame_of(method), METHODS[method], bits, moments)
        for bits in (1, 2, 3, 4)
    ]
    output_errors = [result.output_rel_error for result in results]
    assert output_errors == sorted(output_errors, reverse=True)
    assert output_errors[3] < 0.5 * output_errors[1] < output_errors[0]


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("seed", [0, 10])
def test_feedback_beats_round_to_nearest_on_correlated_activations(bits: int, seed: int) -> None:
    weight, x = normal(DIM_IN, DIM_OUT, seed=seed), activations(seed=seed)
    frame, moments = IdentityFrame(DIM_IN), moments_of(x)
    errors = {
        name: true_output_error(
            weight, quantize_weight(weight, frame, METHODS[name], bits, moments), x
        )
        for name in ("gptq", "rtn")
    }
    assert errors["gptq"] < 0.75 * errors["rtn"]


def test_a_frame_mends_outliers() -> None:
    weight = normal(DIM_IN, DIM_OUT)
    weight[::8] *= 20
    moments = moments_of(activations())
    errors = {
        name: quantize_weight(weight, frame_of(name), METHODS[name], 2, moments).output_rel_error
        for name in METHODS
    }
    assert errors["auto"] < errors["gptq"]
    assert errors["auto"] < errors["rtn"]


@BITS
def test_redundancy_two_beats_one(bits: int) -> None:
    weight, x = normal(DIM_IN, DIM_OUT), activations()
    one, two = (
        quantize_weight(weight, frame_of("auto", DIM_IN, r), METHODS["auto"], bits, moments_of(x))
        for r in (1.0, 2.0)
    )
    assert two.codes.shape[1] == 2 * one.codes.shape[1]
    assert true_output_error(weight, two, x) < 0.8 * true_output_error(weight, one, x)
    assert two.weight_rel_error < one.weight_rel_error


def test_redundancy_two_beats_one_without_data() -> None:
    weight = normal(DIM_IN, DIM_OUT)
    one, two = (
        quantize_weight(weight, frame_of("auto", DIM_IN, r), METHODS["auto"], 2) for r in (1.0, 2.0)
    )
    assert two.weight_rel_error < 0.8 * one.weight_rel_error


@EVERY_METHOD
def test_channels_of_any_size_are_quantized_alike(method: str) -> None:
    column = normal(DIM_IN, 1)
    sizes = torch.tensor([1.0, 1 / 16, 64.0])
    result = quantize_weight(column * sizes, frame_of(method), METHODS[method], 2)
    assert torch.equal(result.codes[0], result.codes[1])
    assert torch.equal(result.codes[0], result.codes[2])
    assert torch.equal(result.scales.float(), result.scales[0].float() * sizes)


@EVERY_METHOD
@pytest.mark.parametrize("with_data", [False, True])
@pytest.mark.parametrize("correct_mean", [False, True])
def test_zero_columns_come_back_as_zeros(method: str, with_data: bool, correct_mean: bool) -> None:
    weight, x = normal(DIM_IN, DIM_OUT), activations()
    weight[:, [0, 7]] = 0
    moments = moments_of(x) if with_data else None
    result = quantize_weight(
        weight, frame_of(method), METHODS[method], 2, moments, correct_mean=correct_mean
    )
    assert torch.equal(result.dequantize()[:, [0, 7]], torch.zeros(DIM_IN, 2))
    assert (result.scales[[0, 7]] == 0).all()
    assert 0 < result.weight_rel_error < 1
    if result.bias_shift is not None:
        assert torch.equal(result.bias_shift[[0, 7]], torch.zeros(2))


@EVERY_METHOD
@pytest.mark.parametrize("with_data", [False, True])
def test_zero_weight_has_no_error(method: str, with_data: bool) -> None:
    moments = moments_of(activations()) if with_data else None
    result = quantize_weight(
        torch.zeros(DIM_IN, DIM_OUT), frame_of(method), METHODS[method], 2, moments
    )
    assert torch.equal(result.dequantize(), torch.zeros(DIM_IN, DIM_OUT))
    assert result.weight_rel_error == 0.0
    assert result.output_rel_error == (0.0 if with_data else None)


@EVERY_METHOD
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 1), (1, 2)])
@pytest.mark.parametrize("with_data", [False, True])
def test_tiny_weights(method: str, shape: tuple[int, int], with_data: bool) -> None:
    weight, x = normal(*shape, seed=4), activations(shape[0])
    moments = moments_of(x) if with_data else None
    result = quantize_weight(weight, frame_of(method, shape[0]), METHODS[method], 4, moments)
    assert result.dequantize().shape == shape
    assert result.weight_rel_error < 0.5
    true_error = rel_error(result.dequantize(), weight)
    assert result.weight_rel_error == pytest.approx(true_error, abs=1e-6)


@EVERY_METHOD
def test_a_step_beyond_float16_is_an_overflow(method: str) -> None:
    weight = normal(DIM_IN, DIM_OUT)
    weight[:, 3] *= 1e5
    with pytest.raises(OverflowError, match="float16"):
        quantize_weight(weight, frame_of(method), METHODS[method], 2)


@EVERY_METHOD
def test_large_steps_that_fit_are_finite(method: str) -> None:
    weight = normal(DIM_IN, DIM_OUT) * 1e4
    result = quantize_weight(weight, frame_of(method), METHODS[method], 2)
    assert torch.isfinite(result.scales).all()
    assert result.weight_rel_error < 0.6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_float_type_is_computed_in_float32(dtype: torch.dtype) -> None:
    weight = normal(DIM_IN, DIM_OUT).to(dtype)
    result = quantize_weight(weight, frame_of("auto"), METHODS["auto"], 2)
    expected = quantize_weight(weight.float(), frame_of("auto"), METHODS["auto"], 2)
    assert torch.equal(result.codes, expected.codes)
    assert result.dequantize().dtype == torch.float32
    assert weight.dtype == dtype


def test_arguments_are_left_as_they_were() -> None:
    weight, moments = normal(DIM_IN, DIM_OUT), moments_of(activations())
    before = [t.clone() for t in (weight, moments.hessian, moments.mean)]
    quantize_weight(weight, frame_of("auto"), METHODS["auto"], 2, moments, correct_mean=True)
    after = (weight, moments.hessian, moments.mean)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_the_same_call_gives_the_same_codes() -> None:
    weight, moments = normal(DIM_IN, DIM_OUT), moments_of(activations())
    first, again = (
        quantize_weight(weight, frame_of("auto"), METHODS["auto"], 2, moments) for _ in range(2)
    )
    assert torch.equal(first.codes, again.codes)
    assert torch.equal(first.scales, again.scales)


@EVERY_METHOD
def test_dead_activations_are_quantized_as_without_data(method: str) -> None:
    weight = normal(DIM_IN, DIM_OUT)
    result = quantize_weight(
        weight, frame_of(method), METHODS[method], 2, moments_of(torch.zeros(10, DIM_IN))
    )
    assert result.output_rel_error == 0.0
    assert result.weight_rel_error < 0.5


def test_an_input_that_is_always_zero_does_not_spoil_the_rest() -> None:
    x = activations()
    x[:, [3, 20]] = 0
    weight = normal(DIM_IN, DIM_OUT)
    result = quantize_weight(weight, IdentityFrame(DIM_IN), METHODS["gptq"], 4, moments_of(x))
    assert result.output_rel_error == pytest.approx(true_output_error(weight, result, x), rel=1e-3)
    assert result.output_rel_error < 0.1


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
    result = quantize_weight(
        weight,
        frame_of(method),
        METHODS[method],
        2,
        Moments(hessian, mean, rows, damping=0.1, trust_mean=True),
        correct_mean=True,
    )
    assert true_output_error(weight, result, x) < 1e-5
    assert result.output_rel_error is not None
    assert result.output_rel_error < 1e-3
    assert result.weight_rel_error < 0.6
