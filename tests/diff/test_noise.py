import math
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from fqonnx.diff import compare_models, half_precision_session, output_kinds
from fqonnx.errors import ModelError
from fqonnx.session import Session
from support import mlp_model

CONVERTER = "onnxruntime.transformers.float16.convert_float_to_float16"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    ir.save(mlp_model(), tmp_path / "mlp.onnx")
    return tmp_path / "mlp.onnx"


def test_a_float_model_has_a_finite_floor(path: Path) -> None:
    exact, rounded = Session(path, "mlp"), half_precision_session(path)
    assert rounded.inputs == exact.inputs
    assert rounded.output_names == exact.output_names
    x = np.random.default_rng(0).standard_normal((8, 64)).astype(np.float32)
    kinds = output_kinds(ir.load(path))
    (found,) = compare_models(exact, rounded, ({"x": x},), compiled_path=path, kinds=kinds)
    assert 0.9999 < found.cosine < 1.0
    assert 40.0 < found.sqnr_db < 90.0
    assert 0.0 < found.mean_abs_diff < found.max_abs_diff < 0.02


def test_the_file_stays_as_it_is(path: Path) -> None:
    before = path.read_bytes()
    half_precision_session(path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_external_data_are_read(path: Path, tmp_path: Path) -> None:
    apart = tmp_path / "apart.onnx"
    ir.save(ir.load(path), apart, external_data="apart.data")
    x = np.ones((2, 64), np.float32)
    expected = half_precision_session(path).run({"x": x})[0]
    assert np.array_equal(half_precision_session(apart).run({"x": x})[0], expected)
    assert np.isfinite(expected).all()


def test_a_large_model_is_not_converted(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fqonnx.diff.noise._MOST_BYTES", 1000)
    monkeypatch.setattr(CONVERTER, None)
    with pytest.raises(ModelError, match=r"mlp.onnx in float16: not converted: 0\.0 GB"):
        half_precision_session(path)


@pytest.mark.parametrize("error", [ValueError("no such type\nmore"), KeyError("x"), RuntimeError()])
def test_what_the_converter_stumbles_over(
    error: Exception, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stumble(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(CONVERTER, stumble)
    with pytest.raises(ModelError, match="in float16: not converted") as caught:
        half_precision_session(path)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is error


def test_a_converted_model_that_does_not_load(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(model: onnx.ModelProto, **options: object) -> onnx.ModelProto:
        model.graph.node[0].op_type = "NoSuchOperator"
        return model

    monkeypatch.setattr(CONVERTER, broken)
    with pytest.raises(ModelError, match=r"in float16: ONNX Runtime .* does not load it"):
        half_precision_session(path)


def test_weights_beyond_half_precision(path: Path) -> None:
    model = onnx.load(path)
    tensor = next(t for t in model.graph.initializer if t.name == "b1")
    values = onnx.numpy_helper.to_array(tensor).copy()
    values[:2] = 1e-20, -1e6
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, "b1"))
    onnx.save(model, path)
    y = half_precision_session(path).run({"x": np.ones((1, 64), np.float32)})[0]
    assert y.dtype == np.float32
    assert not any(math.isnan(value) for value in y[0])
