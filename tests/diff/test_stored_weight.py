from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fqonnx.config import METHODS
from fqonnx.diff.stored_weight import StoredWeight, stored_bytes, stored_weight
from fqonnx.frames import HadamardFrame, IdentityFrame
from fqonnx.passes import (
    CompiledLayer,
    MergeFrameMatMulsPass,
    QuantizeWeightsPass,
    Replacement,
    SelectWeightsPass,
    compiled_layers,
)
from fqonnx.quant import PackedWeight, QuantizedWeight, UniformAlphabet
from fqonnx.reference import frame_dequant
from layer_models import LAYERS, draw, layer_feed, layer_model
from support import (
    described,
    frame_for,
    model_from_text,
    model_pair,
    packed,
    random_weight,
)

HADAMARD = HadamardFrame.create(48, 1.25, seed=3)
WEIGHTS = {
    "redundant": random_weight(HADAMARD, 40),
    "both sides": random_weight(HADAMARD, HadamardFrame.create(40, 1.3, seed=5)),
    "output side": random_weight(IdentityFrame(48), HadamardFrame.create(40, 1.3, seed=5)),
    "zero points": random_weight(IdentityFrame(48), 40, zero_points=True),
    **{method: random_weight(frame_for(METHODS[method], 48, 1.5), 40) for method in METHODS},
}


def compiled(*weights: QuantizedWeight, merged: bool = False) -> list[CompiledLayer]:
    """Return the layers of a model that multiplies one input by each of the weights."""
    dim_in, dims = weights[0].frame_in.dim, [weight.frame_out.dim for weight in weights]
    outputs = ", ".join(f"float[N, {dim}] y{i}" for i, dim in enumerate(dims))
    nodes = " ".join(f"y{i} = MatMul(x, w{i})" for i in range(len(dims)))
    text = f"""<ir_version: 10, opset_import: ["": 20]>
        g (float[N, {dim_in}] x) => ({outputs}) {{ {nodes} }}"""
    arrays = {f"w{i}": draw(dim_in, dim) for i, dim in enumerate(dims)}
    model, source = model_from_text(text, **arrays), model_from_text(text, **arrays)
    layers = []
    for graph in (model, source):
        select = SelectWeightsPass()
        select(graph)
        layers.append(select.layers)
    pairs = zip(layers[0], weights, strict=True)
    replacements = [Replacement((layer,), PackedWeight.of(weight)) for layer, weight in pairs]
    QuantizeWeightsPass(replacements, contrib=True)(model)
    if merged:
        assert MergeFrameMatMulsPass()(model).modified
    return compiled_layers(model, layers[1])


def reference(weight: QuantizedWeight) -> np.ndarray:
    return frame_dequant(**packed(weight), **described(weight))


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_weight_is_that_of_the_reference(name: str, bits: int) -> None:
    base = WEIGHTS[name]
    weight = random_weight(
        base.frame_in, base.frame_out, bits, zero_points=base.zero_points is not None
    )
    (layer,) = compiled(weight)
    stored = stored_weight(layer)
    assert torch.equal(stored.indices, weight.codes.T)
    assert torch.equal(stored.alphabet.values(stored.indices), weight.coeffs())
    np.testing.assert_allclose(stored.dequantize(), reference(weight), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(stored.dequantize(), weight.dequantize(), rtol=1e-4, atol=1e-6)
    assert stored_bytes(layer) == PackedWeight.of(weight).stored_bytes


@pytest.mark.parametrize("dim_in", [100, 256, 300])
def test_groups_with_zero_points(dim_in: int) -> None:
    weight = random_weight(IdentityFrame(dim_in), 40, zero_points=True, group_size=128)
    (layer,) = compiled(weight)
    found = stored_weight(layer).dequantize()
    np.testing.assert_allclose(found, reference(weight), rtol=1e-5)
    assert stored_bytes(layer) == PackedWeight.of(weight).stored_bytes


def test_each_layer_of_a_node_has_its_own() -> None:
    weights = [random_weight(HADAMARD, dim, seed=dim) for dim in (40, 24, 56)]
    layers = compiled(*weights, merged=True)
    assert len({layer.node for layer in layers}) == 1
    for layer, weight in zip(layers, weights, strict=True):
        found = stored_weight(layer).dequantize()
        np.testing.assert_allclose(found, reference(weight), rtol=1e-4, atol=1e-6)
        assert stored_bytes(layer) == PackedWeight.of(weight).stored_bytes


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("method", ["auto", "rtn"])
def test_error_of_a_compiled_weight(name: str, method: str, tmp_path: Path) -> None:
    pair = model_pair(layer_model(name), tmp_path, layer_feed(name), method=method)
    for layer in pair.layers:
        stored, weight = stored_weight(layer).dequantize().numpy(), layer.source.matrix()
        assert stored.shape == weight.shape
        assert 0.05 < np.linalg.norm(stored - weight) / np.linalg.norm(weight) < 0.7


# Histograms


def histogram_of(coeffs: np.ndarray, bits: int, step: float, zero_point: float | None = None):
    alphabet = UniformAlphabet(
        bits,
        torch.full((1, coeffs.shape[1]), step),
        None if zero_point is None else torch.full((1, coeffs.shape[1]), zero_point),
    )
    values = torch.from_numpy(coeffs)
    frames = IdentityFrame(len(coeffs)), IdentityFrame(coeffs.shape[1])
    return StoredWeight(*frames, alphabet, alphabet.codes(values)).histogram(values)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 4), st.floats(0.1, 4.0), st.none() | st.integers(0, 3), st.integers(0, 99))
def test_codes_are_of_the_nearest_level(
    bits: int, step: float, zero_point: int | None, seed: int
) -> None:
    coeffs = draw(64, 8, seed=seed)
    found = histogram_of(coeffs, bits, step, zero_point)
    assert len(found.edges) == len(found.counts) + 1
    assert len(found.levels) == len(found.level_counts) == 1 << bits
    assert sum(found.counts) == sum(found.level_counts) == coeffs.size
    # Bins do not cross the middle between two levels: those around a level are its codes.
    edges, counts = np.array(found.edges), np.array(found.counts)
    middles = (np.array(found.levels)[:-1] + np.array(found.levels)[1:]) / 2
    nearest = np.searchsorted(middles, (edges[:-1] + edges[1:]) / 2)
    wanted = np.bincount(nearest, weights=counts, minlength=1 << bits)
    assert np.abs(wanted - found.level_counts).max() <= 1  # one on a border may be rounded


def test_coefficients_beyond_the_edges_are_in_the_outer_bins() -> None:
    found = histogram_of(np.array([[-100.0], [100.0], [0.1]], np.float32), 2, 1.0)
    assert (found.edges[0], found.edges[-1]) == (-3.5, 3.5)
    assert found.levels == [-1.5, -0.5, 0.5, 1.5]
    assert (found.counts[0], found.counts[-1], sum(found.counts)) == (1, 1, 3)
    assert found.level_counts == [1, 0, 1, 1]


def test_columns_without_a_step_have_no_place() -> None:
    found = histogram_of(np.zeros((4, 3), np.float32), 2, 0.0)
    assert (sum(found.counts), sum(found.level_counts)) == (0, 12)
