"""Configurations are read by Triton's own protobuf; no Triton runs here."""

from __future__ import annotations

import importlib.util
import py_compile
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from google.protobuf import text_format

from deployed import compiled_mlp
from fqonnx import CompileConfig, compile_model
from fqonnx.bundle import BundleError, Manifest
from fqonnx.deploy import DeployOptions, deploy
from fqonnx.doctor import examine_bundle
from fqonnx.golden import Golden
from support import model_from_text


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
    manifest, config = deployed(better, tmp_path / "second", previous=tmp_path / "first")
    assert manifest.model == "models/mlp-compiled/2/model.onnx"
    assert config.version_policy.HasField("all")
    folder = tmp_path / "second/models/mlp-compiled"
    first = (tmp_path / "first/models/mlp-compiled/1/model.onnx").read_bytes()
    assert (folder / "1/model.onnx").read_bytes() == first
    assert (folder / "1/model.onnx.data").is_file()
    assert (folder / "2/model.onnx").read_bytes() != first
    manifest, _ = deployed(model, tmp_path / "third", previous=tmp_path / "second")
    assert manifest.model == "models/mlp-compiled/3/model.onnx"
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
    with pytest.raises(BundleError, match="it is for ort, expected one for triton"):
        deployed(model, tmp_path / "second", previous=tmp_path / "ort")


def test_odd_inputs_have_a_configuration_too(tmp_path: Path) -> None:
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
    _, config = deployed(tmp_path / "odd.onnx", tmp_path / "out")
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
