from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from fqonnx.bundle import LibraryEntry, Manifest
from fqonnx.doctor.gpu import Driver, DriverError, Gpu, check_gpu, read_driver
from fqonnx.doctor.replay import check_kernels
from fqonnx.native_file import LibraryNeeds

DRIVER = """
#include <string.h>
int cuInit(unsigned flags) { return CODE; }
int cuDriverGetVersion(int* version) { return *version = 12040, 0; }
int cuDeviceGetCount(int* count) { return *count = 1, 0; }
int cuDeviceGetName(char* name, int size, int device) { return strcpy(name, "A GPU"), 0; }
int cuDeviceTotalMem_v2(unsigned long* bytes, int device) { return *bytes = 80UL << 30, 0; }
int cuDeviceGetAttribute(int* value, int which, int device) {
  return *value = which == 75 ? 9 : which == 76 ? 0 : -1, 0;
}
"""


@pytest.mark.parametrize("code", [0, 100])
def test_the_driver_is_asked(code: int, tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    source, library = tmp_path / "cuda.c", tmp_path / "libcuda.so"
    source.write_text(DRIVER.replace("CODE", str(code)))
    subprocess.run([compiler, "-shared", "-fPIC", source, "-o", library], check=True)
    if code:
        with pytest.raises(DriverError, match="cuInit of the NVIDIA driver fails with code 100"):
            read_driver(str(library))
        return
    found = read_driver(str(library))
    assert found == Driver((12, 4), (Gpu("A GPU", 90, 80 << 30),))
    (finding,) = check_gpu(None, found)
    assert finding.said == "A GPU, sm_90, 80 GiB, driver for CUDA 12.4"


def library(*architectures: str, toolkit: str = "12.8") -> LibraryEntry:
    return LibraryEntry("lib.so", LibraryNeeds("x86_64", 17, architectures, toolkit))


def test_gpus_that_the_library_was_not_compiled_for_are_found() -> None:
    h100 = Driver((12, 4), (Gpu("H100", 90, 80 << 30),))
    assert all(finding.holds for finding in check_gpu(library("80-real", "90"), h100))
    (_, wrong) = check_gpu(library("80-real"), h100)
    assert "compiled for 80-real, and the GPU is sm_90" in wrong.said
    (_, old) = check_gpu(library("90", toolkit="13.1"), h100)
    assert "of CUDA 13.1, and the driver goes up to 12.4" in old.said
    (none,) = check_gpu(library("90"), Driver((12, 4), ()))
    assert not none.holds


def manifest(library: LibraryEntry | None) -> Manifest:
    names = ("CUDAExecutionProvider", "CPUExecutionProvider")
    operators = {"FrameMatMul": 5, "FrameDequant": 1}
    main = {"FrameMatMul": 2, "FrameDequant": 1}
    return Manifest(
        *(1, "ort", "0", "m", library, "1.31.1", "1.18", names, {}, operators, main),
        *("g", "file", (), ()),
    )


def test_compiled_layers_on_the_processor_are_a_silent_fallback() -> None:
    cuda = "CUDAExecutionProvider"
    there = {
        f"FrameMatMul {cuda}": 2,
        f"FrameDequant {cuda}": 1,
        f"Add {cuda}": 2,
        "Shape CPUExecutionProvider": 1,
    }
    (fine,) = check_kernels(manifest(library("90")), cuda, there)
    assert fine.holds
    assert fine.said.endswith("of 5 nodes; elsewhere 1 Shape CPUExecutionProvider")
    fallen = {"FrameMatMul CPUExecutionProvider": 3, f"Add {cuda}": 2}
    (found,) = check_kernels(manifest(library("90")), cuda, fallen)
    assert "0 of 3 compiled layers" in found.said
    assert "3 FrameMatMul CPUExecutionProvider" in found.said
    assert "FQONNX_CUDA=ON" in (found.mend or "")
    unpacked = {f"FrameMatMul {cuda}": 2, "FrameDequant CPUExecutionProvider": 1}
    (found,) = check_kernels(manifest(library("90")), cuda, unpacked)
    assert "2 of 3 compiled layers" in found.said
    (bodies,) = check_kernels(manifest(None), cuda, {f"MatMulNBits {cuda}": 3})
    assert bodies.holds
    (found,) = check_kernels(manifest(None), cuda, {"MatMulNBits CPUExecutionProvider": 3})
    assert found.said.startswith("3 compiled layers run elsewhere")
    assert "or later, or deploy it with the library" in (found.mend or "")
