"""Configurations are read by Triton's own protobuf; no Triton runs here."""

from __future__ import annotations

import importlib.util
import py_compile
import runpy
import sys
import types
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from google.protobuf import text_format

from deployed import accept, change_manifest, compiled_mlp
from fqonnx import CompileConfig, compile_model
from fqonnx.bundle import BundleError, Manifest
from fqonnx.deploy import DeployOptions, deploy
from fqonnx.doctor import examine_bundle
from fqonnx.golden import Golden
from support import mlp_model, model_from_text


def triton_config(path: Path) -> Any:
    """Parse a configuration; the module of the client's package is loaded without gRPC."""
    spec = importlib.util.find_spec("tritonclient")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    file = Path(spec.submodule_search_locations[0]) / "grpc" / "model_config_pb2.py"
    loaded = importlib.util.spec_from_file_location("model_config_pb2", file)
    assert loaded is not None
    assert loaded.loader is not None
    module = importlib.util.module_from_spec(loaded)
    loaded.loader.exec_module(module)
    return text_format.Parse(path.read_text(), module.ModelConfig())


def deployed(model: Path, out: Path, **options: Any) -> tuple[Manifest, Any]:
    given: dict[str, Any] = {"library": False} | options
    manifest = deploy(model, out, DeployOptions(target="triton", **given))
    folder = out / PurePosixPath(manifest.model).parents[1]
    return manifest, triton_config(folder / "config.pbtxt")


class FakeTriton:
    """Stands in for ``tritonclient.http``; its server holds requests to a configuration."""

    def __init__(self, config: Any, model: Path) -> None:
        self.config, self.session = config, ort.InferenceSession(model)

    def shape(self, port: Any) -> list[int]:
        return [-1] * (self.config.max_batch_size > 0) + list(port.dims)

    def connect(self, url: str) -> FakeTriton:
        return self

    def get_model_metadata(self, name: str) -> dict[str, Any]:
        assert name == self.config.name
        ports = self.config.input
        return {"inputs": [{"name": p.name, "shape": self.shape(p), "datatype": ""} for p in ports]}

    def ask(self, name: str, shape: tuple[int, ...], datatype: str) -> Any:
        (wanted,) = (self.shape(port) for port in self.config.input if port.name == name)
        assert len(shape) == len(wanted)
        assert all(dim in (-1, size) for dim, size in zip(wanted, shape, strict=True))
        given = types.SimpleNamespace(name=name)
        given.set_data_from_numpy = lambda array: vars(given).update(array=array)
        return given

    def infer(self, name: str, inputs: list[Any], model_version: str) -> Any:
        ranks = {value.name: len(value.shape) for value in self.session.get_inputs()}
        feed = {v.name: v.array.reshape(v.array.shape[: ranks[v.name]]) for v in inputs}
        found = zip(self.config.output, self.session.run(None, feed), strict=True)
        arrays = {
            port.name: array if array.ndim == len(self.shape(port)) else array[..., None]
            for port, array in found
        }
        return types.SimpleNamespace(as_numpy=arrays.__getitem__)

    InferenceServerClient, InferInput = connect, ask


def run_client(out: Path, manifest: Manifest, config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the client of a bundle against a server of its configuration."""
    fake = FakeTriton(config, out / manifest.model)
    monkeypatch.setitem(sys.modules, "tritonclient.http", fake)
    monkeypatch.setattr(sys, "argv", ["client.py", "localhost:8000"])
    runpy.run_path(str(out / "client.py"), run_name="__main__")
    monkeypatch.setattr(sys, "argv", ["client.py"])
    with pytest.raises(SystemExit, match=r"usage: python client\.py"):
        runpy.run_path(str(out / "client.py"), run_name="__main__")


def test_a_repository_is_what_triton_reads(tmp_path: Path) -> None:
    model = compiled_mlp(tmp_path)
    out = tmp_path / "out"
    mount = PurePosixPath("/bundles/mlp")
    manifest, config = deployed(model, out, library=True, mount=mount)
    assert manifest.model == "models/mlp-compiled/1/model.onnx"
    assert config.name == "mlp-compiled"
    assert (config.input[0].name, config.output[0].name) == ("x", "y")
    assert (list(config.input[0].dims), list(config.output[0].dims)) == ([64], [48])
    assert config.input[0].data_type == 11  # TYPE_FP32
    assert config.max_batch_size == 64
    assert config.HasField("dynamic_batching")
    assert manifest.library is not None
    (library,) = config.model_operations.op_library_filename
    assert library == f"/bundles/mlp/{manifest.library.path}"
    assert (out / PurePosixPath(library).relative_to(mount)).is_file()
    warmup = config.model_warmup[0].inputs["x"]
    data = (out / "models/mlp-compiled/warmup" / warmup.input_data_file).read_bytes()
    golden = Golden.read(out / "golden.npz")
    sample = np.frombuffer(data, np.float32).reshape(list(warmup.dims))
    assert np.array_equal(sample, golden.inputs["x"][0])
    py_compile.compile(str(out / "client.py"), str(tmp_path / "x.pyc"), doraise=True)
    assert "No Triton ran" in (out / "README.md").read_text()
    path = out / "models/mlp-compiled/config.pbtxt"
    accelerated = "optimization { execution_accelerators { gpu_execution_accelerator : [ {\n"
    path.write_text(path.read_text() + accelerated + 'name : "tensorrt" } ] } }\n')
    found = {finding.what: finding for finding in examine_bundle(out) if not finding.holds}
    assert "asks for TensorRT" in found["config.pbtxt"].said


def test_versions_are_served_side_by_side(tmp_path: Path) -> None:
    model = compiled_mlp(tmp_path)
    deployed(model, tmp_path / "first")
    better = tmp_path / "better.onnx"
    compile_model(tmp_path / "mlp.onnx", better, CompileConfig(bits=4), calibration="none")
    change_manifest(tmp_path / "first", onnxruntime_lowest="1.30")
    manifest, config = deployed(better, tmp_path / "second", previous=tmp_path / "first")
    assert manifest.onnxruntime_lowest == "1.30"
    assert manifest.model == "models/mlp-compiled/2/model.onnx"
    assert config.version_policy.HasField("all")
    assert config.max_batch_size == 64
    folder = tmp_path / "second/models/mlp-compiled"
    first = (tmp_path / "first/models/mlp-compiled/1/model.onnx").read_bytes()
    assert (folder / "1/model.onnx").read_bytes() == first
    assert (folder / "1/model.onnx.data").is_file()
    assert (folder / "2/model.onnx").read_bytes() != first
    text = (folder / "config.pbtxt").read_text()
    (folder / "config.pbtxt").write_text(text.replace("max_batch_size: 64", "max_batch_size: 0"))
    accept(tmp_path / "second")
    manifest, config = deployed(model, tmp_path / "third", previous=tmp_path / "second")
    assert manifest.model == "models/mlp-compiled/3/model.onnx"
    assert config.max_batch_size == 0  # as it must be for version 2
    assert (tmp_path / "third/models/mlp-compiled/1/model.onnx").is_file()


def test_versions_of_other_models_are_refused(tmp_path: Path) -> None:
    model = compiled_mlp(tmp_path)
    deployed(model, tmp_path / "first")
    other = model_from_text(
        """<ir_version: 10, opset_import: ["": 20]>
        g (float[n, 64] x) => (float[n, 48] z) { z = MatMul(x, w) }""",
        w=np.ones((64, 48), np.float32),
    )
    ir.save(other, tmp_path / "other.onnx")
    with pytest.raises(BundleError, match="its inputs and outputs are others"):
        deployed(tmp_path / "other.onnx", tmp_path / "second", previous=tmp_path / "first")
    deploy(model, tmp_path / "ort", DeployOptions(library=False))
    (tmp_path / "first/models/mlp-compiled/1/model.onnx.data").write_bytes(b"short")
    with pytest.raises(BundleError, match=r"1/model\.onnx\.data: 5 bytes, expected"):
        deployed(model, tmp_path / "second", previous=tmp_path / "first")
    with pytest.raises(BundleError, match="it is for ort, expected one for triton"):
        deployed(model, tmp_path / "second", previous=tmp_path / "ort")


ATTENTION = """<ir_version: 10, opset_import: ["": 20]>
g (float[s, 64] x) => (float[s, 64] y) {
  t = Transpose(x)
  l = MatMul(x, t)
  a = Softmax <axis = 1> (l)
  y = MatMul(a, x)
}"""

FOUR = """<ir_version: 10, opset_import: ["": 20]>
g (float[n, 64] x) => (float[n, 64] y) {
  s = Constant <value_ints = [4, 64]> ()
  y = Reshape(x, s)
}"""


@pytest.mark.parametrize("text", [ATTENTION, FOUR])
def test_requests_that_do_not_come_out_alike_are_not_joined(text: str, tmp_path: Path) -> None:
    ir.save(model_from_text(text), tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).normal(0, 0.1, (4, 64)).astype("f4"))
    _, config = deployed(tmp_path / "m.onnx", tmp_path / "out", inputs=tmp_path / "x.npz")
    assert (config.max_batch_size, list(config.input[0].dims)) == (0, [-1, 64])
    assert "Requests are not joined" in (tmp_path / "out/README.md").read_text()


def test_one_sample_shows_not_whether_requests_can_be_joined(tmp_path: Path) -> None:
    ir.save(mlp_model(), tmp_path / "mlp.onnx")
    np.savez(tmp_path / "x.npz", x=np.ones((1, 64), np.float32))
    _, config = deployed(tmp_path / "mlp.onnx", tmp_path / "out", inputs=tmp_path / "x.npz")
    assert config.max_batch_size == 0


def test_scalars_are_what_triton_takes_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_from_text(
        """<ir_version: 10, opset_import: ["": 20]>
        g (float[n, 64] x, float k) => (float[n, 64] y, float z) {
          y = Mul(x, k)
          z = ReduceSum <keepdims = 0> (x)
        }"""
    )
    ir.save(model, tmp_path / "scalar.onnx")
    manifest, config = deployed(tmp_path / "scalar.onnx", tmp_path / "out")
    assert (config.max_batch_size, list(config.input[1].dims)) == (0, [1])
    assert not any(port.HasField("reshape") for port in (*config.input, *config.output))
    run_client(tmp_path / "out", manifest, config, monkeypatch)


def test_odd_inputs_have_a_configuration_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_from_text(
        """<ir_version: 10, opset_import: ["": 20]>
        g (float16[n, 64] x, int64[n] k) => (float16[n, 48] y) {
          p = MatMul(x, w)
          c = Cast <to = 10> (k)
          u = Unsqueeze(c, one)
          y = Add(p, u)
        }""",
        w=np.ones((64, 48), np.float16),
        one=np.array([1], np.int64),
    )
    ir.save(model, tmp_path / "odd.onnx")
    manifest, config = deployed(tmp_path / "odd.onnx", tmp_path / "out")
    assert config.max_batch_size == 64
    run_client(tmp_path / "out", manifest, config, monkeypatch)
    assert [value.data_type for value in config.input] == [10, 9]  # FP16, INT64
    assert list(config.input[1].dims) == [1]
    assert config.input[1].HasField("reshape")
    assert not config.input[1].reshape.shape
    assert list(config.model_warmup[0].inputs["k"].dims) == [1]
    fixed = model_from_text(
        """<ir_version: 10, opset_import: ["": 20]>
        g (float[2, 64] x) => (float[2, 48] y) { y = MatMul(x, w) }""",
        w=np.ones((64, 48), np.float32),
    )
    ir.save(fixed, tmp_path / "fixed.onnx")
    _, config = deployed(tmp_path / "fixed.onnx", tmp_path / "second")
    assert config.max_batch_size == 0
    assert list(config.input[0].dims) == [2, 64]
    assert not config.HasField("dynamic_batching")
