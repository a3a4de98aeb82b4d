from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fqonnx.config import METHODS
from fqonnx.frames import HadamardFrame, IdentityFrame
from fqonnx.quant import Moments, PackedWeight, hessian_error, quantize_weight
from fqonnx.quant.trellis import trellis_code
from fqonnx.quant.trellis_rounding import (
    TrellisAlphabet,
    gaussian_trellis,
    refitted,
    streams_of,
    tile_feedback,
    trellis_ldlq,
)

BITS = pytest.mark.parametrize("bits", [1, 2, 3, 4])
METHOD = replace(METHODS["auto"], alphabet="trellis")


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def hessian_of(dim: int) -> torch.Tensor:
    x = normal(4 * dim, dim, seed=1).double() @ normal(dim, dim, seed=2).double()
    return x.T @ x / len(x) + 0.1 * torch.eye(dim, dtype=torch.float64)


@settings(deadline=None, max_examples=20)
@given(rows=st.integers(1, 70), columns=st.integers(1, 130), bits=st.integers(1, 4))
def test_codes_and_values_have_the_shapes_of_whole_tiles(
    rows: int, columns: int, bits: int
) -> None:
    coeffs = normal(rows, columns)
    alphabet = gaussian_trellis(coeffs, trellis_code(bits, 10))
    for feedback in (None, torch.eye(rows)):
        codes = trellis_ldlq(coeffs, feedback, alphabet)
        assert codes.shape == (rows + -rows % 4, columns + -columns % 64)
        assert codes.dtype == torch.uint8
        assert codes.max() < 2**bits
        assert alphabet.values(codes).shape == (rows + -rows % 4, columns)


def test_streams_are_the_columns_of_a_tile_one_after_the_other() -> None:
    coeffs = torch.arange(8 * 128).reshape(8, 128)
    streams = streams_of(coeffs)
    assert streams.shape == (4, 256)
    assert streams[0, :5].tolist() == [0, 128, 256, 384, 1]
    assert streams[1, 0] == 4 * 128
    assert streams[2, 0] == 64


@BITS
def test_feedback_lowers_the_objective_and_so_does_a_fitted_step(bits: int) -> None:
    coeffs, hessian = normal(96, 64), hessian_of(96)
    alphabet = gaussian_trellis(coeffs, trellis_code(bits, 10))

    def loss(codes: torch.Tensor, alphabet: TrellisAlphabet = alphabet) -> float:
        error = alphabet.values(codes)[:96] - coeffs
        return float(hessian_error(error.double(), hessian).sum())

    fed_back = trellis_ldlq(coeffs, tile_feedback(hessian), alphabet)
    assert loss(fed_back) < 0.85 * loss(trellis_ldlq(coeffs, None, alphabet))
    fitted = refitted(alphabet, fed_back, coeffs, hessian)
    assert loss(fed_back, fitted) < 1.001 * loss(fed_back)


@BITS
def test_a_quantized_weight_rebuilds_itself(bits: int) -> None:
    weight = normal(48, 70)
    x = normal(200, 48, seed=3).double()
    moments = Moments(x.T @ x / len(x), x.mean(0), len(x), 0.1, True)
    result = quantize_weight(
        weight, HadamardFrame.create(48), IdentityFrame(70), METHOD, bits, moments
    )
    error = float((result.dequantize() - weight).norm() / weight.norm())
    assert error == pytest.approx(result.errors.weight_rel_error, abs=1e-3)
    assert error < {1: 0.65, 2: 0.36, 3: 0.2, 4: 0.12}[bits]
    assert result.codes.shape == (128, 48)
    assert result.scales.shape == (70, 1)
    assert PackedWeight.of(result).stored_bytes == 128 * 48 * bits // 8 + 64 + 2 * 70 + 6


def test_the_error_is_below_that_of_the_mid_rise_alphabet() -> None:
    weight, frames = normal(128, 128), (HadamardFrame.create(128), IdentityFrame(128))
    trellis, scalar = (
        quantize_weight(weight, *frames, method, 2).errors.weight_rel_error ** 2
        for method in (METHOD, METHODS["auto"])
    )
    assert trellis < 0.66 * scalar


def test_steps_are_wider_at_1_bit_where_errors_cancel() -> None:
    frames = HadamardFrame.create(128, 3.0), IdentityFrame(64)
    found = quantize_weight(normal(128, 64), *frames, METHOD, 1)
    assert found.errors.weight_rel_error**2 < 0.065


def test_columns_of_zeros_stay_zero() -> None:
    weight = normal(32, 64)
    weight[:, 5] = 0
    result = quantize_weight(weight, HadamardFrame.create(32), IdentityFrame(64), METHOD, 2)
    assert result.scales[5] == 0
    assert (result.dequantize()[:, 5] == 0).all()


@pytest.mark.parametrize("scale", [1e-9, 1e9])
def test_steps_beyond_float16_are_refused(scale: float) -> None:
    with pytest.raises(OverflowError, match="float16"):
        gaussian_trellis(normal(32, 64) * scale, trellis_code(2))
