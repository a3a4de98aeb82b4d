import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fqonnx.config import METHODS, Method
from fqonnx.frames import (
    Frame,
    FrameSpec,
    FusionFrame,
    HadamardFrame,
    HarmonicFrame,
    IdentityFrame,
    fusion_size,
    hadamard_size,
)
from fqonnx.packing import pack_codes, pack_signs, pack_tiles
from fqonnx.quant import quantize_weight
from fqonnx.reference import (
    analysis_operator,
    dequantized_coeffs,
    frame_dequant,
    frame_matmul,
)
from support import described, frame_for, fusion_frame, packed, random_weight

KINDS = ("fusion", "hadamard", "harmonic", "identity")
FRAMES = pytest.mark.parametrize("frame_in", KINDS)


def draw_frame(kind: str, dim: int, redundancy: float = 1.3) -> Frame:
    if kind == "identity":
        return IdentityFrame(dim)
    if kind == "harmonic":
        return HarmonicFrame.create(dim, redundancy)
    frame = HadamardFrame if kind == "hadamard" else FusionFrame
    return frame.create(dim, redundancy, seed=dim)


def random_signs(dim: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return pack_signs(rng.choice(np.array([-1, 1], np.int8), dim))


@settings(deadline=None, max_examples=60)
@given(
    frames=st.tuples(st.sampled_from(KINDS), st.sampled_from(KINDS)),
    dim_in=st.integers(1, 100),
    dim_out=st.integers(1, 9),
    bits=st.integers(1, 4),
    batch=st.sampled_from([(), (1,), (5,), (2, 3), (0,)]),
    with_bias=st.booleans(),
    zero_points=st.booleans(),
    group_size=st.sampled_from([None, 32, 128]),
    seed=st.integers(0, 2**31),
)
def test_matmul_is_the_product_with_the_dequantized_weight(
    frames: tuple[str, str],
    dim_in: int,
    dim_out: int,
    bits: int,
    batch: tuple[int, ...],
    with_bias: bool,
    zero_points: bool,
    group_size: int | None,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    frame_in, frame_out = draw_frame(frames[0], dim_in), draw_frame(frames[1], dim_out)
    node = random_weight(
        frame_in, frame_out, bits, zero_points=zero_points, group_size=group_size, seed=seed
    )
    x = rng.standard_normal((*batch, dim_in)).astype(np.float32)
    bias = rng.standard_normal(dim_out).astype(np.float32) if with_bias else None
    weight = frame_dequant(**packed(node), **described(node))
    assert weight.shape == (dim_in, dim_out)
    assert np.allclose(weight, node.dequantize().numpy(), atol=1e-4)
    expected = x.astype(np.float64) @ weight + (0 if bias is None else bias)
    y = frame_matmul(x, **packed(node), bias=bias, **described(node))
    assert y.shape == (*batch, dim_out)
    assert np.allclose(y, expected, rtol=1e-9, atol=1e-9)


@settings(deadline=None, max_examples=40)
@given(
    frames=st.tuples(st.sampled_from(KINDS), st.sampled_from(KINDS)),
    dim_in=st.integers(1, 100),
    dim_out=st.integers(1, 80),
    bits=st.integers(1, 4),
    seed=st.integers(0, 2**31),
)
def test_trellis_is_the_one_of_the_quantizer(
    frames: tuple[str, str], dim_in: int, dim_out: int, bits: int, seed: int
) -> None:
    frame_in, frame_out = draw_frame(frames[0], dim_in), draw_frame(frames[1], dim_out)
    node = random_weight(frame_in, frame_out, bits, trellis=True, seed=seed)
    weight = frame_dequant(**packed(node), **described(node))
    assert weight.shape == (dim_in, dim_out)
    assert np.allclose(weight, node.dequantize().numpy(), atol=1e-4)
    x = np.random.default_rng(seed).standard_normal((5, dim_in))
    assert np.allclose(frame_matmul(x, **packed(node), **described(node)), x @ weight)


def test_trellis_by_hand() -> None:
    codes = np.zeros((64, 4), np.uint8)
    codes[63, 2:], codes[0, :2] = (3, 1), (2, 0)
    levels = np.arange(-32, 32, dtype=np.int8)
    scales = np.full((64, 1), 2.0, np.float16)
    # The window 0…0 1101 1000 times 2^8: its first 6 bits of 16 are those of 1101 1000.
    arguments = {"bits": 2, "num_vectors": 4, "multiplier": 1 << 8}
    found = dequantized_coeffs(pack_tiles(codes, 2), scales, levels=levels, **arguments)
    assert found[1, 0] == 2 * levels[0b110110] / 64
    assert found[0, 0] == 2 * levels[0b001101] / 64
    assert found[2, 63] == 2 * levels[0b000000] / 64
    assert found[3, 63] == 2 * levels[0b000011] / 64


@settings(deadline=None, max_examples=40)
@given(dim_in=st.integers(1, 200), sixteenths=st.integers(16, 48), seed=st.integers(0, 2**31))
def test_hadamard_operator_is_parseval(dim_in: int, sixteenths: int, seed: int) -> None:
    frame = FrameSpec("hadamard", dim_in, hadamard_size(dim_in, sixteenths / 16))
    assert_parseval(frame, seed)


@settings(deadline=None, max_examples=40)
@given(dim_in=st.integers(1, 200), sixteenths=st.integers(16, 48), seed=st.integers(0, 2**31))
def test_fusion_operator_is_parseval(dim_in: int, sixteenths: int, seed: int) -> None:
    subspaces = fusion_size(dim_in, sixteenths / 16)
    assert_parseval(FrameSpec("fusion", dim_in, subspaces[0] * subspaces[1], subspaces), seed)


@settings(deadline=None, max_examples=40)
@given(dim_in=st.integers(1, 200), more=st.integers(1, 300))
def test_harmonic_operator_is_parseval(dim_in: int, more: int) -> None:
    assert_parseval(FrameSpec("harmonic", dim_in, dim_in + more), None)


def assert_parseval(frame: FrameSpec, seed: int | None) -> None:
    signs = None if seed is None else random_signs(frame.dim, seed)
    operator = analysis_operator(frame, signs)
    assert operator.shape == (frame.num_vectors, frame.dim)
    assert np.allclose(operator.T @ operator, np.eye(frame.dim), rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    "frame",
    [
        HadamardFrame.create(60, 1.3),
        FusionFrame.create(48, 1.1),
        FusionFrame.create(41),
        FusionFrame.create(100, 1.2),
        fusion_frame(17, (7, 4, 18)),
        fusion_frame(15, (4, 4, 16)),
    ],
    ids=lambda frame: str(frame.spec),
)
def test_operator_is_that_of_the_fast_transform(frame: HadamardFrame | FusionFrame) -> None:
    operator = analysis_operator(frame.spec, pack_signs(frame.signs.numpy()))
    assert np.allclose(operator, frame.matrix().numpy(), rtol=0, atol=1e-12)


def test_hadamard_operator_by_hand() -> None:
    signs = pack_signs(np.array([1, -1, -1], np.int8))
    expected = np.array([[1, 1, 1], [1, -1, 1], [1, -1, -1], [1, 1, -1]]) / 2 * [1, -1, -1]
    assert np.allclose(analysis_operator(FrameSpec("hadamard", 3, 4), signs), expected)


def test_dct_operator_by_hand() -> None:
    signs = pack_signs(np.ones(3, np.int8))
    half, root6 = math.sqrt(1 / 2), math.sqrt(1 / 6)
    expected = [[math.sqrt(1 / 3)] * 3, [half, 0, -half], [root6, -2 * root6, root6]]
    assert np.allclose(analysis_operator(FrameSpec("hadamard", 3, 3), signs), expected)


def test_the_odd_index_is_the_slow_one() -> None:
    operator = analysis_operator(FrameSpec("hadamard", 6, 6), pack_signs(np.ones(6, np.int8)))
    assert np.allclose(operator[0], math.sqrt(1 / 6))
    assert np.allclose(operator[1], math.sqrt(1 / 6) * np.array([1, -1, 1, -1, 1, -1]))
    assert np.allclose(operator[2], [0.5, 0.5, 0, 0, -0.5, -0.5])


def fusion_operator(num_subspaces: int, subspace_dim: int, dim: int) -> np.ndarray:
    """Return the operator without its block Hadamard transform; ``dim`` is twice an odd number."""
    spec = FrameSpec(
        "fusion", dim, num_subspaces * subspace_dim, (num_subspaces, subspace_dim, dim)
    )
    operator = analysis_operator(spec, pack_signs(np.ones(dim, np.int8)))
    runs = np.kron(np.eye(dim // 2), np.array([[1, 1], [1, -1]]) / np.sqrt(2))
    assert dim % 4 == 2
    return operator @ runs


def test_fusion_operator_of_one_row_by_hand() -> None:
    # The Fourier matrix of order 3 as real 2 × 2 blocks: every row one subspace.
    turn = np.array([[-0.5, -math.sqrt(0.75)], [math.sqrt(0.75), -0.5]])
    powers = [np.linalg.matrix_power(turn, k) for k in range(3)]
    expected = np.block([[powers[j * c % 3] for c in range(3)] for j in range(3)]) / math.sqrt(3)
    assert np.allclose(fusion_operator(3, 2, 6), expected)


def test_fusion_operator_of_a_spectral_tetris_by_hand() -> None:
    half, more = 0.5, math.sqrt(0.75)
    rows = [[1, 1, half, half, 0], [0, 0, more, -more, 1]]  # columns of norm 1, rows of norm² 2½
    operator = fusion_operator(4, 4, 10).reshape(2, 4, 2, 5, 2)  # row, subspace, part, column, part
    for row, start in zip((0, 1), (0, 2), strict=True):
        for subspace in range(4):
            turns = 1j ** (subspace * (np.arange(5) - start))  # fourth roots of unity
            vector = np.array(rows[row]) * turns / 2
            found = operator[row, subspace]
            assert np.allclose(found[0], np.stack([vector.real, -vector.imag], axis=1))
            assert np.allclose(found[1], np.stack([vector.imag, vector.real], axis=1))


def test_subspaces_of_a_fusion_frame_are_of_one_dimension() -> None:
    operator = analysis_operator(FrameSpec("fusion", 18, 28, (7, 4, 18)), random_signs(18, 0))
    for subspace in range(7):
        vectors = operator.reshape(2, 7, 2, 18)[:, subspace].reshape(4, 18)
        assert np.allclose(vectors @ vectors.T, np.eye(4) * 18 / 28)


def test_harmonic_operators_by_hand() -> None:
    root2, root3, root6 = (math.sqrt(1 / n) for n in (2, 3, 6))
    odd = [[root3, 2 * root6, 0], [root3, -root6, root2], [root3, -root6, -root2]]
    assert np.allclose(analysis_operator(FrameSpec("harmonic", 3, 3), None), odd)
    assert np.allclose(analysis_operator(FrameSpec("harmonic", 2, 3), None), np.array(odd)[:, 1:])
    even = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]]) * root2
    assert np.allclose(analysis_operator(FrameSpec("harmonic", 2, 4), None), even)


def test_identity_operator_is_the_identity() -> None:
    assert np.array_equal(analysis_operator(FrameSpec("identity", 7, 7), None), np.eye(7))


@pytest.mark.parametrize("kind", ["hadamard", "fusion"])
def test_a_frame_without_signs_is_refused(kind: str) -> None:
    weight = random_weight(draw_frame(kind, 16), draw_frame(kind, 24))
    for side in ("in", "out"):
        inputs = packed(weight) | {f"signs_{side}": None}
        with pytest.raises(ValueError, match=f"unknown frame .{kind}."):
            frame_dequant(**inputs, **described(weight))
        with pytest.raises(ValueError, match=f"unknown frame .{kind}."):
            frame_matmul(np.ones((1, 16)), **inputs, **described(weight))


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
    scales = np.array([[2.0]], np.float16)
    coeffs = dequantized_coeffs(codes, scales, bits=bits, num_vectors=2**bits)
    assert coeffs.dtype == np.float64
    assert coeffs.tolist() == [[2 * value] for value in values]


def test_zero_points_are_taken_from_the_codes_of_their_channel() -> None:
    codes = pack_codes(np.array([[0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3]], np.uint8), 2, 16)
    scales = np.array([[1.0], [0.5], [2.0]], np.float16)
    zero_points = np.array([[0], [2], [3]], np.uint8)
    coeffs = dequantized_coeffs(codes, scales, zero_points, bits=2, num_vectors=4)
    assert coeffs.T.tolist() == [[0, 1, 2, 3], [-1, -0.5, 0, 0.5], [-6, -4, -2, 0]]


def test_each_group_has_its_scale_and_zero_point() -> None:
    codes = pack_codes(np.array([[0, 1, 2, 3, 0], [3, 2, 1, 0, 3]], np.uint8), 2, 16)
    scales = np.array([[1.0, 0.5, 4.0], [2.0, 1.0, 0.25]], np.float16)
    zero_points = np.array([[0, 2, 1], [3, 0, 1]], np.uint8)
    sizes = {"bits": 2, "num_vectors": 5, "group_size": 2}
    coeffs = dequantized_coeffs(codes, scales, zero_points, **sizes)
    assert coeffs.T.tolist() == [[0, 1, 0, 0.5, -4], [0, -2, 1, 0, 0.5]]
    coeffs = dequantized_coeffs(codes, scales, **sizes)
    assert coeffs.T.tolist() == [[-1.5, -0.5, 0.25, 0.75, -6], [3, 1, -0.5, -1.5, 0.375]]


@FRAMES
def test_codes_in_the_padding_are_ignored(frame_in: str) -> None:
    weight = random_weight(draw_frame(frame_in, 20), 3)
    inputs, num_vectors = packed(weight), weight.frame_in.num_vectors
    before = frame_dequant(**inputs, **described(weight))
    codes = inputs["codes"]
    assert codes is not None
    padding = codes.shape[1] * codes.shape[2] * 4 - num_vectors
    assert padding >= 4
    codes[:, -1, -(padding // 4) :] = 255
    assert np.array_equal(frame_dequant(**inputs, **described(weight)), before)


@FRAMES
def test_computes_in_float64_whatever_the_activation(frame_in: str) -> None:
    weight = random_weight(draw_frame(frame_in, 50), 4)
    inputs = packed(weight) | described(weight)
    x = np.random.default_rng(2).standard_normal((3, 50)).astype(np.float16)
    y = frame_matmul(x, **inputs)
    assert y.dtype == np.float64
    assert np.array_equal(y, frame_matmul(x.astype(np.float64), **inputs))


@pytest.mark.parametrize("method", METHODS.values(), ids=list(METHODS))
@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_the_packed_weight_is_the_one_that_was_quantized(method: Method, bits: int) -> None:
    weight = torch.randn(150, 6, generator=torch.Generator().manual_seed(0))
    frame_in = frame_for(method, 150, 1.25)
    frame_out = frame_for(method, 6, 1.25) if method.sides == "both" else IdentityFrame(6)
    result = quantize_weight(weight, frame_in, frame_out, method, bits)
    rebuilt = frame_dequant(**packed(result), **described(result))
    assert np.allclose(rebuilt, result.dequantize().numpy(), atol=1e-5)
