from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fqonnx import CompileConfig, compile_model
from fqonnx.allocate import Option, allocate
from fqonnx.config import Override
from fqonnx.errors import ConfigError
from support import mlp_model

OPTIONS = st.lists(
    st.lists(
        st.builds(Option, st.just(Override("")), st.integers(1, 20), st.floats(0.0, 1.0)),
        min_size=1,
        max_size=4,
    ),
    min_size=1,
    max_size=4,
)


def size(chosen: list[Option]) -> int:
    return sum(option.stored_bytes for option in chosen)


def noise(chosen: list[Option]) -> float:
    return sum(option.noise for option in chosen)


@given(OPTIONS, st.integers(0, 80))
def test_choice_is_the_best_of_its_size(options: list[list[Option]], budget: int) -> None:
    chosen = allocate(options, budget)
    assert all(option in of_layer for option, of_layer in zip(chosen, options, strict=True))
    smallest = sum(min(option.stored_bytes for option in of_layer) for of_layer in options)
    assert size(chosen) <= max(budget, smallest)
    # What is left over is less than the step of one layer.
    largest = max(option.stored_bytes for of_layer in options for option in of_layer)
    within = [
        noise(list(found))
        for found in itertools.product(*options)
        if size(list(found)) <= size(chosen) - largest
    ]
    assert noise(chosen) <= min(within, default=np.inf) + 1e-9


def test_budget_goes_where_it_helps_most() -> None:
    options = [
        [Option(Override(name, bits), 10 * bits, harm / 4**bits) for bits in (1, 2, 3)]
        for name, harm in (("little", 1.0), ("much", 100.0))
    ]
    chosen = [[option.override.bits for option in allocate(options, b)] for b in (0, 30, 40, 60)]
    assert chosen == [[1, 1], [1, 2], [1, 3], [3, 3]]


@pytest.mark.parametrize(("method", "target"), [("auto", 2.6), ("auto", 1.6), ("gptq", 3.0)])
def test_model_of_target_bits(tmp_path: Path, method: str, target: float) -> None:
    ir.save(mlp_model(), tmp_path / "mlp.onnx")
    x = np.random.default_rng(0).standard_normal((512, 64)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x * np.linspace(0.1, 2.0, 64, dtype=np.float32))

    def compiled(config: CompileConfig) -> tuple[float, float, list[int]]:
        out, data = tmp_path / "out.onnx", tmp_path / "data.npz"
        report = compile_model(tmp_path / "mlp.onnx", out, config, calibration=data)
        bits = [layer.bits or 0 for layer in report.layers if layer.status == "quantized"]
        assert report.model.bits_per_weight is not None
        return report.model.bits_per_weight, report.outputs[0].cosine, bits

    stored, cosine, bits = compiled(CompileConfig(method=method, target_bits=target))
    assert 0.8 * target <= stored <= target
    assert cosine >= compiled(CompileConfig(method=method, bits=min(bits)))[1] - 1e-3


def test_layer_with_options_of_its_own_keeps_them(tmp_path: Path) -> None:
    ir.save(mlp_model(), tmp_path / "mlp.onnx")
    name = next(str(node.name) for node in mlp_model().graph if node.op_type == "MatMul")
    config = CompileConfig(target_bits=2.2, overrides=(Override(name, bits=4),))
    report = compile_model(tmp_path / "mlp.onnx", tmp_path / "out.onnx", config, calibration="none")
    assert next(layer.bits for layer in report.layers if layer.name == name) == 4


def test_target_that_is_too_low_is_warned_of(tmp_path: Path) -> None:
    ir.save(mlp_model(), tmp_path / "mlp.onnx")
    config = CompileConfig(target_bits=1.01)
    report = compile_model(tmp_path / "mlp.onnx", tmp_path / "out.onnx", config, calibration="none")
    assert {layer.bits for layer in report.layers if layer.status == "quantized"} == {1}
    assert any("target_bits 1.01 is less than" in warning for warning in report.warnings)


def test_redundancy_is_not_asked_for_twice() -> None:
    with pytest.raises(ConfigError, match="target_bits chooses"):
        CompileConfig(target_bits=2.5, redundancy=1.25)


@pytest.mark.parametrize("target", [1.0, 0.5, 9.0, float("nan")])
def test_impossible_targets_are_refused(target: float) -> None:
    with pytest.raises(ConfigError, match="target_bits"):
        CompileConfig(target_bits=target)
