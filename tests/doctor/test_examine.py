"""Faults that break deployments, each found and named."""

from __future__ import annotations

import dataclasses
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from deployed import accept, change_manifest, compiled_mlp
from fqonnx import CompileConfig, compile_model, probe
from fqonnx.bundle import MANIFEST, read_manifest
from fqonnx.deploy import DeployOptions, deploy
from fqonnx.doctor import Finding, examine, examine_bundle
from fqonnx.golden import Golden
from fqonnx.runtime_ops import library_path
from support import conv_model

pytestmark = pytest.mark.skipif(library_path() is None, reason="the native library was not built")

LIBRARY = "libfqonnx_ops.so"


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deployed")
    model = compiled_mlp(folder)
    options = DeployOptions(float_path=folder / "mlp.onnx", inputs=folder / "data.npz")
    deploy(model, folder / "bundle", options)
    return folder / "bundle"


@pytest.fixture(scope="module")
def deployed_conv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose one compiled layer is a FrameDequant."""
    folder = tmp_path_factory.mktemp("conv")
    weight = np.random.default_rng(0).standard_normal((64, 16, 3, 3)).astype(np.float32)
    ir.save(conv_model(weight, "8, 8"), folder / "conv.onnx")
    config = CompileConfig(codebook="scalar")
    compile_model(folder / "conv.onnx", folder / "out.onnx", config, calibration="none")
    deploy(folder / "out.onnx", folder / "bundle", DeployOptions())
    return folder / "bundle"


@pytest.fixture
def bundle(deployed: Path, tmp_path: Path) -> Path:
    shutil.copytree(deployed, tmp_path / "bundle")
    return tmp_path / "bundle"


def failures(bundle: Path) -> list[Finding]:
    return [finding for finding in examine_bundle(bundle) if not finding.holds]


def test_a_sound_bundle_holds(bundle: Path) -> None:
    found = list(examine_bundle(bundle))
    assert all(finding.holds for finding in found), found
    said = {finding.what: finding.said for finding in found}
    assert said["CPUExecutionProvider, kernels"].startswith("3 compiled layers by the library")
    assert "error 0.00e+00 against the golden output" in said["CPUExecutionProvider, y"]
    assert "against float" in said["CPUExecutionProvider, y"]
    assert "first run" in said["CPUExecutionProvider, cost"]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


def other_machine(bundle: Path) -> None:
    path = bundle / LIBRARY
    content = bytearray(path.read_bytes())
    struct.pack_into("<H", content, 18, 183)  # aarch64
    path.write_bytes(content)
    accept(bundle)


def newer_api(bundle: Path) -> None:
    library = read_manifest(bundle).library
    assert library is not None
    needs = dataclasses.replace(library.needs, ort_api=99)
    change_manifest(bundle, library=dataclasses.replace(library, needs=needs))


def other_golden(bundle: Path) -> None:
    golden = Golden.read(bundle / "golden.npz")
    changed = {name: array + 1 for name, array in golden.compiled.items()}
    golden = dataclasses.replace(golden, compiled=changed)
    (bundle / "golden.npz").write_bytes(golden.to_npz())


def providers(*names: str) -> Callable[[Path], None]:
    return lambda bundle: change_manifest(bundle, providers=(*names, "CPUExecutionProvider"))


@pytest.mark.parametrize(
    ("fault", "what", "said"),
    [
        (lambda b: (b / LIBRARY).unlink(), LIBRARY, "missing"),
        (other_machine, LIBRARY, "it is for aarch64"),
        (newer_api, LIBRARY, "asks for version 99 of ONNX Runtime's C API"),
        (lambda b: flip(b / "model.onnx.data"), "model.onnx.data", "changed: its SHA-256"),
        (lambda b: flip(b / "model.onnx"), "model.onnx", "changed: its SHA-256"),
        (lambda b: (b / "model.onnx").unlink(), "model.onnx", "missing"),
        (
            lambda b: (b / "model.onnx.data").write_bytes(b"short"),
            "model.onnx.data",
            "5 bytes, expected",
        ),
        (other_golden, "golden.npz", ""),
        (providers("CUDAExecutionProvider"), "CUDAExecutionProvider", "built without it"),
        (providers("TensorrtExecutionProvider"), "TensorrtExecutionProvider", "knows neither"),
        (
            lambda b: change_manifest(b, onnxruntime_lowest="1.99"),
            "ONNX Runtime",
            "the bundle needs 1.99 or later",
        ),
        (lambda b: (b / MANIFEST).write_text("{"), MANIFEST, "broken"),
        (lambda b: (b / MANIFEST).unlink(), MANIFEST, "not readable"),
    ],
)
def test_faults_are_found(
    fault: Callable[[Path], object], what: str, said: str, bundle: Path
) -> None:
    fault(bundle)
    found = {finding.what: finding for finding in failures(bundle)}
    assert said in found[what].said
    assert found[what].mend


def test_the_package_that_is_installed_is_upgraded(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_manifest(bundle, onnxruntime_lowest="1.99")
    owners = {"onnxruntime": ["onnxruntime-gpu"]}
    monkeypatch.setattr("fqonnx.doctor.runtime.packages_distributions", lambda: owners)
    found = {finding.what: finding.mend for finding in failures(bundle)}
    assert found["ONNX Runtime"] == 'Install a later one: pip install "onnxruntime-gpu>=1.99"'


def test_golden_outputs_that_were_changed_with_their_hash_are_found(bundle: Path) -> None:
    other_golden(bundle)
    accept(bundle)
    (finding,) = failures(bundle)
    assert finding.what == "CPUExecutionProvider, y"
    assert "tolerance" in finding.said
    (bundle / "golden.npz").write_bytes(b"nothing")
    accept(bundle)
    assert [finding.what for finding in failures(bundle)] == ["golden.npz"]


LIBRARIES = {
    # What a library does whose API ONNX Runtime lacks.
    "register": """
        typedef struct Api Api;
        struct Api { void* (*CreateStatus)(int, const char*); };
        struct Base { const Api* (*GetApi)(unsigned); const char* (*version)(void); };
        void* RegisterCustomOps(void* options, const struct Base* base) {
          return base->GetApi(99) ? 0 : base->GetApi(1)->CreateStatus(1, "needs 1.99 or later");
        }""",
    "crash": "void* RegisterCustomOps(void) { return *(void* volatile*)0; }",
    "nothing": "void* RegisterCustomOps(void) { return 0; }",
    "hang": 'void* RegisterCustomOps(void) { for (;;) __asm__ volatile(""); }',
}


def build(kind: str, library: Path, *options: str) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    source = library.parent.parent / "library.c"
    source.write_text(LIBRARIES[kind])
    command = [compiler, "-shared", "-fPIC", source, "-o", library, *options]
    subprocess.run(command, check=True)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("register", "the library of operators does not register: "),
        ("crash", "ended by SIGSEGV"),
        ("nothing", "0 of 3 compiled layers run by the library"),
    ],
)
def test_libraries_that_are_none_are_found(kind: str, said: str, bundle: Path) -> None:
    build(kind, bundle / LIBRARY)
    accept(bundle)
    assert any(said in finding.said for finding in failures(bundle))


def test_libraries_without_a_kernel_for_weights_are_found(
    deployed_conv: Path, tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(deployed_conv, bundle)
    said = {finding.what: finding.said for finding in examine_bundle(bundle) if finding.holds}
    assert said["CPUExecutionProvider, kernels"].startswith("1 compiled layers by the library")
    build("nothing", bundle / LIBRARY)
    accept(bundle)
    (finding,) = failures(bundle)
    assert finding.said.startswith("0 of 1 compiled layers run by the library")


def test_libraries_that_hang_are_stopped(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build("hang", bundle / LIBRARY)
    accept(bundle)
    monkeypatch.setattr(probe, "LIMIT_SECONDS", 2.0)
    (finding,) = failures(bundle)
    assert "does not register: it did not end within 2 s" in finding.said


def test_libraries_that_lack_another_name_it(bundle: Path) -> None:
    other = bundle.parent / "lib/libgone.so.1"
    other.parent.mkdir()
    build("nothing", other, "-Wl,-soname,libgone.so.1")
    build("nothing", bundle / LIBRARY, "-Wl,--no-as-needed", str(other))
    accept(bundle)
    other.unlink()
    (finding,) = failures(bundle)
    assert "libgone.so.1: cannot open shared object file" in finding.said
    assert "Install the package that has libgone.so.1" in (finding.mend or "")


def test_without_a_driver_a_gpu_is_missing(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("CUDAExecutionProvider", "CPUExecutionProvider")
    change_manifest(bundle, providers=names)
    monkeypatch.setattr(examine, "available_providers", lambda: list(names))
    monkeypatch.setattr("fqonnx.doctor.gpu.LIBRARY", "libno-such-driver.so.1")
    (gpu, last) = failures(bundle)
    assert "no NVIDIA driver" in gpu.said
    assert last.said == "not run, because of GPU"
