from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from fqonnx import CompileConfig, compile_model
from fqonnx.bisect_models import bisect_models
from fqonnx.diff import SwitchedModel, Threshold
from fqonnx.errors import ConfigError, ModelError
from fqonnx.extract_layer import extract_layer
from fqonnx.model_pair import ModelPair
from support import mlp_model


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> ModelPair:
    """Return an MLP of three layers at 1 bit."""
    folder = tmp_path_factory.mktemp("bisect")
    ir.save(mlp_model(), folder / "float.onnx")
    x = np.random.default_rng(0).standard_normal((40, 64)).astype(np.float32)
    np.savez(folder / "data.npz", x=x)
    config = CompileConfig(bits=1)
    compile_model(
        folder / "float.onnx", folder / "1bit.onnx", config, calibration=folder / "data.npz"
    )
    return ModelPair.load(folder / "float.onnx", folder / "1bit.onnx", folder / "data.npz")


def cosine_with(pair: ModelPair, restored: tuple[int, ...]) -> float:
    """Return the mean cosine with layers restored, without the code under test."""
    switched = SwitchedModel(pair.model, pair.compiled, pair.layers)
    compiled = np.array([i not in restored for i in range(3)])
    session = ort.InferenceSession(pair.float_path, providers=["CPUExecutionProvider"])
    cosines = []
    for feed in pair.samples.feeds:
        a = session.run(None, feed)[0]
        ((b,),) = switched.run_all([feed], [compiled])
        norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        cosines += ((a * b).sum(axis=1) / norms).tolist()
    return float(np.mean(cosines))


@pytest.mark.parametrize("size", [0, 1, 2, 3])
def test_what_remains_is_needed(pair: ModelPair, size: int) -> None:
    best = max(cosine_with(pair, subset) for subset in itertools.combinations(range(3), size))
    report = bisect_models(pair, [Threshold("cosine", best - 1e-4)])
    numbers = [i for i, layer in enumerate(pair.layers) if layer.source.name in report.restored]
    assert report.outputs[0].cosine == pytest.approx(cosine_with(pair, tuple(numbers)), abs=1e-6)
    assert all(verdict.met for verdict in report.verdicts)
    for left_out in numbers:
        rest = tuple(i for i in numbers if i != left_out)
        assert cosine_with(pair, rest) < best - 1e-4
    errors = [layer.model_rel_error for layer in report.layers]
    assert errors == sorted(errors, reverse=True)
    assert json.loads(report.to_json())["layers"][0]["name"] == report.layers[0].name


def test_what_the_float_model_misses_cannot_be_met(pair: ModelPair) -> None:
    with pytest.raises(ConfigError, match="the float model itself misses it: y has 1"):
        bisect_models(pair, [Threshold("cosine", 1.5)])


def test_without_thresholds_there_is_nothing_to_look_for(pair: ModelPair) -> None:
    with pytest.raises(ConfigError, match="no threshold"):
        bisect_models(pair, [])


def test_models_that_have_nothing_to_do_with_one_another(pair: ModelPair) -> None:
    same = ModelPair.load(pair.float_path, pair.float_path)
    with pytest.raises(ModelError, match="no FrameMatMul or FrameDequant"):
        bisect_models(same, [Threshold("cosine", 0.9)])


def test_an_extracted_layer_is_the_layer(pair: ModelPair, tmp_path: Path) -> None:
    layer, folder = pair.layers[1], tmp_path / "layer"
    extract_layer(pair, layer, folder)
    alone = ModelPair.load(folder / "float.onnx", folder / "compiled.onnx", folder / "inputs")
    assert [found.source.dim_out for found in alone.layers] == [80]
    name = str(layer.source.x.name)
    full = pair.model.clone()
    values = ir.convenience.create_value_mapping(full.graph)
    full.graph.outputs[:] = [values[name], values[str(layer.output.name)]]
    content = ir.to_proto(full).SerializeToString()
    session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    x, y = session.run(None, pair.samples.feeds[0])
    np.testing.assert_array_equal(alone.samples.feeds[0][name], x)
    part = ort.InferenceSession(folder / "float.onnx", providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(part.run(None, {name: x})[0], y, rtol=1e-5, atol=1e-6)
    with pytest.raises(ConfigError, match="not empty"):
        extract_layer(pair, layer, folder)
