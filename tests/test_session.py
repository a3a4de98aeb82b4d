from __future__ import annotations

import builtins
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

import fqonnx.session
from fqonnx.errors import ModelError
from fqonnx.model_file import load_model
from fqonnx.model_message import model_bytes
from fqonnx.segments import SegmentedModel
from fqonnx.session import InputInfo, Session, num_samples, runtime_version
from support import mlp_model, model_from_text, model_pair

HEADER = '<ir_version: 10, opset_import: ["": 20]>'


def linear() -> ir.Model:
    return model_from_text(
        f"{HEADER} g (float[N, 32] x) => (float[N, 32] y) {{ h = MatMul(x, w) y = Add(h, b) }}",
        w=np.eye(32, dtype=np.float32),
        b=np.ones(32, np.float32),
    )


def assert_one_line(error: BaseException, *, where: str = "the model") -> None:
    assert str(error).startswith(f"{where}: ")
    assert "\n" not in str(error)


@pytest.fixture(params=["memory", "file", "external", "above the limit"])
def session(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Session:
    """A session of `linear`, from each place that a model can be in."""
    if request.param == "memory":
        return Session(linear(), "the model")
    if request.param == "above the limit":
        monkeypatch.setattr(fqonnx.session, "_IN_MEMORY_BYTES", 100)
        return Session(linear(), "the model")
    external = "model.data" if request.param == "external" else None
    ir.save(linear(), tmp_path / "model.onnx", external_data=external)
    return Session(tmp_path / "model.onnx", "the model")


def test_model_runs_from_anywhere(session: Session) -> None:
    x = np.random.default_rng(0).standard_normal((3, 32)).astype(np.float32)
    (y,) = session.run({"x": x})
    np.testing.assert_array_equal(y, x + 1)
    assert session.inputs == [InputInfo("x", np.dtype(np.float32), ("N", 32))]
    assert session.output_names == ["y"]
    assert "CPUExecutionProvider" in session.providers


def test_model_in_memory_whose_weights_are_in_an_external_file(tmp_path: Path) -> None:
    ir.save(linear(), tmp_path / "model.onnx", external_data="model.data")
    model = ir.load(tmp_path / "model.onnx")
    assert isinstance(model.graph.initializers["w"].const_value, ir.ExternalTensor)
    x = np.ones((3, 32), np.float32)
    np.testing.assert_array_equal(Session(model, "the model").run({"x": x})[0], x + 1)


def test_running_leaves_the_model_as_it_is() -> None:
    model = linear()
    tensors = [value.const_value for value in model.graph.initializers.values()]
    Session(model, "the model")
    assert tensors == [value.const_value for value in model.graph.initializers.values()]


def test_outputs_may_be_chosen() -> None:
    model = model_from_text(
        f"{HEADER} g (float[N] x) => (float[N] y, float[N] z) {{ y = Relu(x) z = Neg(x) }}"
    )
    x = np.array([1, -2], np.float32)
    (z,) = Session(model, "the model").run({"x": x}, ["z"])
    np.testing.assert_array_equal(z, -x)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("float", np.float32),
        ("float16", np.float16),
        ("double", np.float64),
        ("int8", np.int8),
        ("int16", np.int16),
        ("int32", np.int32),
        ("int64", np.int64),
        ("uint8", np.uint8),
        ("uint16", np.uint16),
        ("uint32", np.uint32),
        ("uint64", np.uint64),
        ("bool", np.bool_),
    ],
)
def test_inputs_have_numpy_types(name: str, dtype: type) -> None:
    model = model_from_text(
        f"{HEADER} g ({name}[2, N] x) => ({name}[2, N] y) {{ y = Identity(x) }}"
    )
    (info,) = Session(model, "the model").inputs
    assert info == InputInfo("x", np.dtype(dtype), (2, "N"))


def test_input_without_numpy_type_is_an_error_of_the_model() -> None:
    model = model_from_text(f"{HEADER} g (string[N] x) => (string[N] y) {{ y = Identity(x) }}")
    session = Session(model, "the model")
    with pytest.raises(ModelError) as info:
        _ = session.inputs
    assert_one_line(info.value)
    assert "string" in str(info.value)


def test_scalar_input_has_an_empty_shape() -> None:
    model = model_from_text(f"{HEADER} g (float x) => (float y) {{ y = Relu(x) }}")
    assert Session(model, "the model").inputs[0].shape == ()


def test_input_without_a_shape_has_no_rank(tmp_path: Path) -> None:
    model = model_from_text(f"{HEADER} g (float[] x, float s) => (float y) {{ y = Add(x, s) }}")
    ir.save(model, tmp_path / "model.onnx")
    sessions = [Session(m, "the model") for m in (model, tmp_path / "model.onnx")]
    for session in (*sessions, SegmentedModel(model, "the model")):
        assert [value.has_rank for value in session.inputs] == [False, True]
        assert [value.shape for value in session.inputs] == [(), ()]


def test_unknown_operator_is_an_error_of_the_model() -> None:
    model = model_from_text(
        """<ir_version: 10, opset_import: ["": 20, "other": 1]>
        g (float[N] x) => (float[N] y) { y = other.Unheard(x) }"""
    )
    with pytest.raises(ModelError) as info:
        Session(model, "the model")
    assert_one_line(info.value)
    assert "does not load it" in str(info.value)
    assert onnxruntime.__version__ in str(info.value)
    assert "Unheard" in str(info.value)


def test_model_that_cannot_be_serialized_is_an_error_of_the_model() -> None:
    model = linear()
    model.graph.initializers["w"].const_value = ir.LazyTensor(
        lambda: (_ for _ in ()).throw(OSError("gone")),
        dtype=ir.DataType.FLOAT,
        shape=ir.Shape((32, 32)),
    )
    with pytest.raises(ModelError) as info:
        Session(model, "the model")
    assert_one_line(info.value)


@pytest.mark.parametrize("content", [b"", b"not a model\nat all", b"\x00" * 100])
def test_file_that_is_no_model_is_an_error(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError) as info:
        Session(path, str(path))
    assert_one_line(info.value, where=str(path))


def test_file_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as info:
        Session(tmp_path / "none.onnx", "the model")
    assert_one_line(info.value)


@pytest.mark.parametrize(
    "feed",
    [
        {},
        {"x": np.ones((3, 31), np.float32)},
        {"x": np.ones((3, 32), np.float64)},
        {"x": np.ones(32, np.float32)},
        {"z": np.ones((3, 32), np.float32)},
        {"x": np.ones((3, 32), np.float32), "z": np.ones(1, np.float32)},
    ],
    ids=["nothing", "shape", "type", "rank", "name", "too many"],
)
def test_feed_that_does_not_fit_is_an_error(feed: dict[str, np.ndarray]) -> None:
    session = Session(linear(), "the model")
    with pytest.raises(ModelError) as info:
        session.run(feed)
    assert_one_line(info.value)
    for name, array in feed.items():
        assert f"{name} {array.dtype}{array.shape}" in str(info.value)


def test_failure_inside_the_graph_is_an_error() -> None:
    model = model_from_text(
        f"{HEADER} g (float[N] x, int64[K] s) => (float[A, B] y) {{ y = Reshape(x, s) }}"
    )
    session = Session(model, "the model")
    with pytest.raises(ModelError) as info:
        session.run({"x": np.ones(6, np.float32), "s": np.array([4, 4])})
    assert_one_line(info.value)


def test_unknown_output_is_an_error() -> None:
    session = Session(linear(), "the model")
    with pytest.raises(ModelError):
        session.run({"x": np.ones((3, 32), np.float32)}, ["none"])


def test_missing_runtime_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without_onnxruntime(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "onnxruntime":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_onnxruntime)
    with pytest.raises(ModelError, match=re.escape("fqonnx[cpu] or fqonnx[gpu]")):
        Session(linear(), "the model")


def test_model_bytes_are_those_of_the_initializers() -> None:
    assert model_bytes(linear()) == 32 * 32 * 4 + 32 * 4


def test_runtime_version() -> None:
    assert runtime_version() == onnxruntime.__version__


def test_samples_of_a_batch_are_its_longest_first_axis() -> None:
    assert num_samples({"a": np.zeros((3, 9)), "b": np.zeros(5), "c": np.array(1.0)}) == 5
    assert num_samples({"c": np.array(1.0)}) == num_samples({}) == 1
    assert num_samples({"a": np.zeros((0, 9))}) == 0


def test_a_frugal_session_computes_the_same() -> None:
    x = np.random.default_rng(0).standard_normal((5, 64)).astype(np.float32)
    first, second = (Session(mlp_model(), "mlp", frugal=frugal) for frugal in (False, True))
    assert second.inputs == first.inputs
    np.testing.assert_allclose(second.run({"x": x})[0], first.run({"x": x})[0], rtol=1e-5)


def test_place_in_the_sources_of_the_runtime_is_left_out() -> None:
    text = '<ir_version: 99, opset_import: ["": 20]> g (float[2] x) => (float[2] y) { y = Relu(x) }'
    with pytest.raises(ModelError, match="FAIL : Unsupported model IR version: 99, max"):
        Session(ir.from_onnx_text(text), "model")


def test_no_outputs_are_asked_for(tmp_path: Path) -> None:
    text = '<ir_version: 10, opset_import: ["": 20]> g (float[2] x) => (float[2] y) { y = Relu(x) }'
    session = Session(ir.from_onnx_text(text), "model")
    assert session.run({"x": np.ones(2, np.float32)}, []) == []


def test_a_frugal_session_computes_packed_layers_too(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((40, 64)).astype(np.float32)
    compiled = model_pair(mlp_model(), tmp_path, {"x": x}, codebook="scalar").compiled
    first, second = (
        Session(compiled.clone(), "mlp", frugal=frugal).run({"x": x})[0] for frugal in (False, True)
    )
    assert np.linalg.norm(second - first) < 0.03 * np.linalg.norm(first)  # int8 activations or not


def test_weights_in_files_stay_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fqonnx.session._IN_MEMORY_BYTES", 0)
    ir.save(mlp_model(), tmp_path / "mlp.onnx", external_data="weights")
    model = load_model(tmp_path / "mlp.onnx")
    first, second, third = (model.graph.initializers[name] for name in ("w1", "w2", "w3"))
    third.const_value = ir.LazyTensor(
        lambda: ir.tensor(w3), dtype=ir.DataType.FLOAT, shape=ir.Shape((80, 48)), name="w3"
    )
    w3 = dict(mlp_model().graph.initializers)["w3"].const_value.numpy()
    second.const_value = ir.tensor(second.const_value.numpy().copy(), name="w2")
    before = [value.const_value for value in (first, second, third)]
    folder = tmp_path / "folder"
    folder.mkdir()
    x = np.random.default_rng(0).standard_normal((5, 64)).astype(np.float32)
    found = Session(model, "mlp", folder=folder).run({"x": x})[0]
    monkeypatch.undo()
    np.testing.assert_array_equal(found, Session(mlp_model(), "mlp").run({"x": x})[0])
    assert [value.const_value for value in (first, second, third)] == before
    assert not list(folder.iterdir())
