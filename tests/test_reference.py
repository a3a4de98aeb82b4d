import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fqonnx.config import METHODS
from fqonnx.frames import HadamardFrame, IdentityFrame, hadamard_size
from fqonnx.packing import choose_block_size, pack_codes, pack_signs
from fqonnx.quant import quantize_weight
from fqonnx.reference import (
    analysis_operator,
    dequantized_coeffs,
    frame_dequant,
    frame_matmul,
)


def random_node(
    rng: np.random.Generator, frame_in: str, dim_in: int, dim_out: int, bits: int
) -> tuple[dict[str, np.ndarray | None], dict[str, int | str]]:
    num_vectors = hadamard_size(dim_in, 1.3) if frame_in == "hadamard" else dim_in
    codes = rng.integers(0, 2**bits, (dim_out, num_vectors), np.uint8)
    inputs = {
        "codes": pack_codes(codes, bits, choose_block_size(num_vectors)),
        "scales": rng.random(dim_out).astype(np.float16),
        "signs_in": None,
    }
    if frame_in == "hadamard":
        inputs["signs_in"] = pack_signs(rng.choice(np.array([-1, 1], np.int8), dim_in))
    return inputs, {
        "frame_in": frame_in,
        "dim_in": dim_in,
        "num_vectors": num_vectors,
        "bits": bits,
    }


FRAMES = pytest.mark.parametrize("frame_in", ["hadamard", "identity"])


@settings(deadline=None, max_examples=40)
@given(
    frame_in=st.sampled_from(["hadamard", "identity"]),
    dim_in=st.integers(1, 100),
    dim_out=st.integers(1, 9),
    bits=st.integers(1, 4),
    batch=st.sampled_from([(), (1,), (5,), (2, 3), (0,)]),
    with_bias=st.booleans(),
    with_zero_points=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_matmul_is_the_product_with_the_dequantized_weight(
    frame_in: str,
    dim_in: int,
    dim_out: int,
    bits: int,
    batch: tuple[int, ...],
    with_bias: bool,
    with_zero_points: bool,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    inputs, attributes = random_node(rng, frame_in, dim_in, dim_out, bits)
    if with_zero_points:
        inputs["zero_points"] = rng.integers(0, 2**bits, dim_out, np.uint8)
    x = rng.standard_normal((*batch, dim_in)).astype(np.float32)
    bias = rng.standard_normal(dim_out).astype(np.float32) if with_bias else None
    weight = frame_dequant(**inputs, **attributes)
    assert weight.shape == (dim_in, dim_out)
    expected = x.astype(np.float64) @ weight + (0 if bias is None else bias)
    y = frame_matmul(x, **inputs, bias=bias, **attributes)
    assert y.shape == (*batch, dim_out)
    assert np.allclose(y, expected, rtol=1e-9, atol=1e-9)


@settings(deadline=None, max_examples=40)
@given(dim_in=st.integers(1, 200), sixteenths=st.integers(16, 48), seed=st.integers(0, 2**31))
def test_hadamard_operator_is_parseval(dim_in: int, sixteenths: int, seed: int) -> None:
    num_vectors = hadamard_size(dim_in, sixteenths / 16)
    signs = np.random.default_rng(seed).choice(np.array([-1, 1], np.int8), dim_in)
    operator = analysis_operator("hadamard", pack_signs(signs), dim_in, num_vectors)
    assert operator.shape == (num_vectors, dim_in)
    assert np.allclose(operator.T @ operator, np.eye(dim_in), rtol=0, atol=1e-10)


def test_hadamard_operator_by_hand() -> None:
    signs = pack_signs(np.array([1, -1, -1], np.int8))
    expected = np.array([[1, 1, 1], [1, -1, 1], [1, 1, -1], [1, -1, -1]]) / 2 * [1, -1, -1]
    assert np.allclose(analysis_operator("hadamard", signs, 3, 4), expected)


def test_dct_operator_by_hand() -> None:
    signs = pack_signs(np.ones(3, np.int8))
    half, root6 = math.sqrt(1 / 2), math.sqrt(1 / 6)
    expected = [[math.sqrt(1 / 3)] * 3, [half, 0, -half], [root6, -2 * root6, root6]]
    assert np.allclose(analysis_operator("hadamard", signs, 3, 3), expected)


def test_the_odd_index_is_the_slow_one() -> None:
    operator = analysis_operator("hadamard", pack_signs(np.ones(6, np.int8)), 6, 6)
    assert np.allclose(operator[0], math.sqrt(1 / 6))
    assert np.allclose(operator[1], math.sqrt(1 / 6) * np.array([1, -1, 1, -1, 1, -1]))
    assert np.allclose(operator[2], [0.5, 0.5, 0, 0, -0.5, -0.5])


def test_identity_operator_is_the_identity() -> None:
    assert np.array_equal(analysis_operator("identity", None, 7, 7), np.eye(7))


@pytest.mark.parametrize("frame_in", ["harmonic", "fusion", "", "Hadamard"])
def test_an_unknown_frame_is_refused_by_name(frame_in: str) -> None:
    with pytest.raises(ValueError, match=f"unknown frame '{frame_in}'"):
        analysis_operator(frame_in, np.zeros(1, np.uint8), 4, 4)


def test_an_unknown_frame_is_refused_by_the_operators() -> None:
    inputs, attributes = random_node(np.random.default_rng(0), "identity", 16, 2, 2)
    attributes["frame_in"] = "harmonic"
    with pytest.raises(ValueError, match="harmonic"):
        frame_dequant(**inputs, **attributes)
    with pytest.raises(ValueError, match="harmonic"):
        frame_matmul(np.ones((1, 16)), **inputs, **attributes)


def test_a_hadamard_frame_without_signs_is_refused() -> None:
    with pytest.raises(ValueError, match="signs_in"):
        analysis_operator("hadamard", None, 4, 4)


@pytest.mark.parametrize(
    ("bits", "values"),
    [
        (1, [-0.5, 0.5]),
        (2, [-1.5, -0.5, 0.5, 1.5]),
        (3, [i - 3.5 for i in range(8)]),
        (4, [i - 7.5 for i in range(16)]),
    ],
)
def test_mid_rise_values(bits: int, values: list[float]) -> None:
    codes = pack_codes(np.arange(2**bits, dtype=np.uint8)[None], bits, 16)
    coeffs = dequantized_coeffs(codes, np.array([2.0], np.float16), bits=bits, num_vectors=2**bits)
    assert coeffs.dtype == np.float64
    assert coeffs.tolist() == [[2 * value] for value in values]


def test_zero_points_are_taken_from_the_codes_of_their_channel() -> None:
    codes = pack_codes(np.array([[0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3]], np.uint8), 2, 16)
    scales = np.array([1.0, 0.5, 2.0], np.float16)
    zero_points = np.array([0, 2, 3], np.uint8)
    coeffs = dequantized_coeffs(codes, scales, zero_points, bits=2, num_vectors=4)
    assert coeffs.T.tolist() == [[0, 1, 2, 3], [-1, -0.5, 0, 0.5], [-6, -4, -2, 0]]


@FRAMES
def test_codes_in_the_padding_are_ignored(frame_in: str) -> None:
    rng = np.random.default_rng(3)
    inputs, attributes = random_node(rng, frame_in, 20, 3, 2)
    num_vectors = int(attributes["num_vectors"])
    before = frame_dequant(**inputs, **attributes)
    codes = inputs["codes"]
    assert codes is not None
    padding = codes.shape[1] * codes.shape[2] * 4 - num_vectors
    assert padding >= 4
    codes[:, -1, -(padding // 4) :] = 255
    assert np.array_equal(frame_dequant(**inputs, **attributes), before)


@FRAMES
def test_computes_in_float64_whatever_the_activation(frame_in: str) -> None:
    inputs, attributes = random_node(np.random.default_rng(1), frame_in, 50, 4, 2)
    x = np.random.default_rng(2).standard_normal((3, 50)).astype(np.float16)
    y = frame_matmul(x, **inputs, **attributes)
    assert y.dtype == np.float64
    assert np.array_equal(y, frame_matmul(x.astype(np.float64), **inputs, **attributes))


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_the_packed_weight_is_the_one_that_was_quantized(method: str, bits: int) -> None:
    weight = torch.randn(37, 6, generator=torch.Generator().manual_seed(0))
    hadamard = METHODS[method].frame == "hadamard"
    frame = HadamardFrame.create(37, 1.25) if hadamard else IdentityFrame(37)
    result = quantize_weight(weight, frame, METHODS[method], bits)
    rebuilt = frame_dequant(
        pack_codes(result.codes.numpy(), bits, choose_block_size(frame.num_vectors)),
        result.scales.numpy(),
        signs_in=pack_signs(frame.signs.numpy()) if isinstance(frame, HadamardFrame) else None,
        frame_in=METHODS[method].frame,
        dim_in=37,
        num_vectors=frame.num_vectors,
        bits=bits,
    )
    assert np.allclose(rebuilt, result.dequantize().numpy(), atol=1e-5)
