from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fqonnx import CompileConfig, compile_model
from fqonnx.allocate import LayerOptions, Option, least_bits
from fqonnx.config import Override
from fqonnx.diff import Threshold
from support import mlp_model


def some_options(num_layers: int) -> LayerOptions:
    """Return layers of 64 weights at 1 to 4 bits."""
    return LayerOptions(
        [
            [Option(Override(f"layer{i}", bits), 8 * bits, 4.0**-bits) for bits in (1, 2, 3, 4)]
            for i in range(num_layers)
        ],
        64 * num_layers,
    )


@given(st.integers(1, 5), st.floats(0.5, 4.5))
def test_the_least_bits_are_the_first_that_are_enough(num_layers: int, enough: float) -> None:
    options = some_options(num_layers)
    assert options.range() == (1.0, 4.0)
    found = least_bits(options, lambda bits: bits >= enough)
    if enough > 4.0:
        assert found is None
    else:
        assert found is not None
        assert found >= enough
        assert found - 1 / 16 < enough or found == 1.0


@given(st.integers(1, 5), st.floats(1.0, 4.0))
def test_the_best_choice_keeps_within_its_bits(num_layers: int, bits: float) -> None:
    chosen = some_options(num_layers).best(bits)
    assert sum(override.bits or 0 for override in chosen) <= bits * num_layers
    assert [override.pattern for override in chosen] == [f"layer{i}" for i in range(num_layers)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("auto")
    ir.save(mlp_model(), folder / "float.onnx")
    x = np.random.default_rng(0).standard_normal((128, 64)).astype(np.float32)
    np.savez(folder / "data.npz", x=x)
    return folder


def test_thresholds_are_met_with_fewer_bits_than_a_uniform_choice(folder: Path) -> None:
    def cosine(config: CompileConfig, *meet: Threshold) -> tuple[float, float]:
        paths = folder / "float.onnx", folder / "out.onnx"
        report = compile_model(*paths, config, calibration=folder / "data.npz", meet=meet)
        assert all("layers have scalar codes: " in warning for warning in report.warnings)
        return report.outputs[0].cosine, report.model.bits_per_weight or 0.0

    uniform = [cosine(CompileConfig(bits=bits)) for bits in (1, 2, 3, 4)]
    for (worse, _), (better, stored) in itertools.pairwise(uniform):
        wanted = (worse + better) / 2
        found, bits = cosine(CompileConfig(), Threshold("cosine", wanted))
        assert found >= wanted
        assert bits < stored


def test_what_cannot_be_met_is_compiled_as_well_as_can_be(folder: Path) -> None:
    paths = folder / "float.onnx", folder / "out.onnx"
    meet = [Threshold("cosine", 1.1)]
    report = compile_model(*paths, calibration=folder / "data.npz", meet=meet)
    assert "missed even with the most bits" in report.warnings[0]
    assert {layer.bits for layer in report.layers} == {4}
