from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fqonnx.passes import LayerNorms, operator_norm
from fqonnx.passes.norms import Affine, Bounds


def norm(array: np.ndarray) -> float:
    return float(np.linalg.norm(array))


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (7, 7), (5, 40), (40, 5), (33, 64)])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_operator_norm_is_the_largest_singular_value(shape: tuple[int, int], dtype: type) -> None:
    matrix = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    expected = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)[0]
    for view in (matrix, np.asfortranarray(matrix), np.tile(matrix, 2)[:, : shape[1]]):
        assert operator_norm(view) == pytest.approx(expected, rel=1e-12)
    assert operator_norm(matrix.T) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e30])
def test_operator_norm_of_a_matrix_of_one_direction(scale: float) -> None:
    u, v = np.arange(1.0, 8.0), np.arange(-3.0, 2.0)
    expected = scale * norm(u) * norm(v)
    assert operator_norm(scale * np.outer(u, v)) == pytest.approx(expected, rel=1e-9)


def test_arithmetic_of_bounds() -> None:
    a, b = Affine(2.0, 3.0), Affine(0.5)
    assert a.at(10.0) == 23.0
    assert (a + b, a * 4.0) == (Affine(2.5, 3.0), Affine(8.0, 12.0))
    bounds = Bounds(a, b)
    assert bounds + bounds == bounds * 2.0 == Bounds(Affine(4.0, 6.0), Affine(1.0))
    assert bounds.plus_constant(1.0, 0.25) == Bounds(Affine(2.0, 4.0), Affine(0.5, 0.25))
    assert bounds.limited(7.0) == Bounds(Affine(0.0, 7.0), b)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**31),
    sizes=st.tuples(*[st.integers(1, 6)] * 3),
    scales=st.tuples(*[st.sampled_from([0.0, 1e-3, 1.0, 30.0])] * 4),
    aligned=st.booleans(),
)
def test_layer_is_within_its_bounds(
    seed: int,
    sizes: tuple[int, int, int],
    scales: tuple[float, float, float, float],
    aligned: bool,
) -> None:
    rng = np.random.default_rng(seed)
    rows, dim_in, dim_out = sizes
    weight, bias = rng.standard_normal((dim_in, dim_out)), scales[0] * rng.standard_normal(dim_out)
    x = rng.standard_normal((rows, dim_in))
    weight_error, x_error, bias_error = (
        scale * rng.standard_normal(array.shape)
        for scale, array in zip(scales[1:], (weight, x, bias), strict=True)
    )
    if aligned:  # all errors add up, in the direction that the weight stretches most
        left, stretch, right = np.linalg.svd(weight, full_matrices=False)
        weight_error = -scales[1] * stretch[0] * np.outer(left[:, 0], right[0])
        x, x_error = (scale * np.tile(left[:, 0], (rows, 1)) for scale in (1.0, -scales[2]))
        bias_error = -scales[3] * right[0]
    y = x @ weight + bias
    estimate = (x + x_error) @ (weight + weight_error) + bias + bias_error
    layer = LayerNorms(*map(operator_norm, (weight, weight_error)), norm(bias), norm(bias_error))
    size, error = norm(x), norm(x_error)
    for unit in (Affine(1.0), Affine(0.0, size)):  # of inputs, or of a value that is bounded
        before = Bounds(unit, Affine(error / size))
        bounds = layer.apply(before, 1.0, rows)
        assert norm(y) <= bounds.norm.at(size) * (1 + 1e-9)
        assert norm(y - estimate) <= bounds.error.at(size) * (1 + 1e-9) + 1e-9
    if aligned and scales[2:] == (0.0, 0.0):  # then nothing smaller would do
        assert norm(y - estimate) == pytest.approx(bounds.error.at(size), rel=1e-9)
