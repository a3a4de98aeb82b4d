"""The CUDA kernels, compiled for the host against an emulator, against the reference."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cuda_kernels import ELEMENTS, PATHS, HostMemory, Kernel, from_bits, load_kernels, to_bits
from emulated import emulated_library
from fqonnx.frames import Frame, FusionFrame, HadamardFrame, HarmonicFrame, IdentityFrame
from fqonnx.packing import TILE, TILE_COLUMNS, TILE_ROWS, choose_block_size, pack_codes, pack_tiles
from fqonnx.quant.trellis import trellis_code
from fqonnx.reference import dequantized_coeffs
from operator_cases import (
    CASES,
    TRELLIS_CASES,
    Arrays,
    Case,
    build_model,
    dequant_reference,
    hadamard,
    matmul_reference,
    relative_error,
    run_onnxruntime,
)

EPS = {"float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
KERNELS = Path(__file__).parents[2] / "runtime_ops" / "kernels"
SHORT = ("float16", "bfloat16")
ROWS = (0, 1, 2, 3, 8, 9, 16, 17, 64, 65, 130)


@pytest.fixture(scope="session")
def library() -> ctypes.CDLL:
    return load_kernels(emulated_library())


def rounded(array: np.ndarray, dtype: str) -> np.ndarray:
    return from_bits(to_bits(array, dtype).tobytes(), dtype).reshape(array.shape)


def check_matmul(
    library: ctypes.CDLL,
    case: Case,
    dtype: str,
    *,
    arrays: Arrays | None = None,
    path: str = "faster",
) -> None:
    """Compare with the reference; half a dozen of roundings of ``dtype`` are allowed for, or twice
    those of a product with the weight in ``dtype``."""
    arrays = arrays or case.arrays()
    x = rounded(case.x().reshape(-1, case.frame_in.dim), dtype)
    bias = None if arrays["bias"] is None else rounded(arrays["bias"], dtype)
    wanted = matmul_reference(case, case.arrays() | {"bias": bias}, x)
    kernel = Kernel(library, HostMemory(), case.spec("FrameMatMul", contrib=False), arrays)
    kernel.force(path)
    (found,) = kernel.run_matmul(x, dtype, bias)
    weight = rounded(dequant_reference(case, case.arrays()), dtype).astype(np.float32)
    naive = rounded(x @ weight + (0 if bias is None else bias), dtype)
    assert found.shape == wanted.shape
    assert relative_error(found, wanted) <= 2 * relative_error(naive, wanted) + 2 * EPS[dtype]


@pytest.mark.parametrize(
    ("case", "dtype"),
    [
        (case, dtype)
        for i, case in enumerate(CASES + TRELLIS_CASES)
        for dtype in ("float32", SHORT[i % 2])
    ],
    ids=str,
)
def test_operators_compute_what_the_format_says(
    library: ctypes.CDLL, case: Case, dtype: str
) -> None:
    check_matmul(library, case, dtype)
    if dtype in SHORT:
        check_matmul(library, case, dtype, path="cuBLAS")
    check_dequantize(library, case, dtype, case.arrays())


def check_dequantize(library: ctypes.CDLL, case: Case, dtype: str, arrays: Arrays) -> None:
    kernel = Kernel(library, HostMemory(), case.spec("FrameDequant", contrib=False), arrays)
    wanted = dequant_reference(case, case.arrays())
    error = np.linalg.norm(kernel.run_dequantize(dtype) - wanted)
    assert error <= max(2 * EPS[dtype], 1e-6) * max(float(np.linalg.norm(wanted)), 1e-9)


@pytest.mark.parametrize("dtype", ELEMENTS)
@pytest.mark.parametrize("dim", [640, 4096, 8192, 16384], ids=["8", "4", "2", "1"])
@pytest.mark.parametrize("dim_out", [1, 2, 33, 52, 88])
def test_strips_of_any_width(library: ctypes.CDLL, dim: int, dim_out: int, dtype: str) -> None:
    case = Case(HadamardFrame.create(dim), IdentityFrame(dim_out), 1 + dim_out % 4)
    arrays = case.arrays()
    kernel = Kernel(library, HostMemory(), case.spec("FrameDequant", contrib=False), arrays)
    wanted = synthesized(case.frame_in, weight_coeffs(case, arrays))
    assert relative_error(kernel.run_dequantize(dtype), wanted) <= max(EPS[dtype], 1e-6)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("group_size", [None, 128])
@pytest.mark.parametrize(
    "frame",
    [IdentityFrame(3000), HadamardFrame.create(2000, 1.3)],
    ids=lambda frame: frame.spec.kind,
)
def test_strips_of_any_codes(
    library: ctypes.CDLL, frame: Frame, bits: int, group_size: int | None
) -> None:
    zeros = bits % 2 == 0
    case = Case(frame, IdentityFrame(20), bits, zero_points=zeros, group_size=group_size)
    check_dequantize(library, case, "float32", case.arrays())


@pytest.mark.parametrize("dtype", SHORT)
@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("group_size", [None, 128])
def test_cublas_multiplies_unpacked_codes(
    library: ctypes.CDLL, bits: int, group_size: int | None, dtype: str
) -> None:
    case = Case(
        hadamard(1100),
        IdentityFrame(150),
        bits,
        bias=True,
        zero_points=bits % 2 == 1,
        group_size=group_size,
        batch=(21,),
    )
    check_matmul(library, case, dtype, path="cuBLAS")


def test_the_number_of_rows_chooses_the_path(library: ctypes.CDLL) -> None:
    case = Case(hadamard(16), IdentityFrame(8), 2, bias=True, batch=(4096 + 9,))
    kernel = Kernel(library, HostMemory(), case.spec("FrameMatMul", contrib=False), case.arrays())
    sizes = {}
    for path in PATHS:
        kernel.force(path)
        sizes[path] = [len(kernel.matmul_scratch(rows, "float16")) for rows in (511, 512)]
    assert sizes["faster"] == [sizes["fused"][0], sizes["cuBLAS"][1]]
    assert sizes["fused"] != sizes["cuBLAS"]
    check_matmul(library, case, "float16")  # 9 rows are left over for the other path
    check_matmul(library, case, "float32")


def test_without_cublas_the_fused_kernel_multiplies(tmp_path: Path) -> None:
    script = f"""
import numpy as np
from cuda_kernels import HostMemory, Kernel, load_kernels
from gpu_matrix import layers
from pathlib import Path
library = load_kernels(Path({str(shutil.copy(emulated_library(), tmp_path))!r}))
layer = layers(quick=True)[0]
kernel = Kernel(library, HostMemory(), layer.spec, layer.packed()[0])
try:
    kernel.force("cuBLAS")
except RuntimeError as refused:
    print(refused)
x = np.ones((512, layer.frame_in.dim), np.float32)
print(np.isfinite(kernel.run_matmul(x, "float16")).all())
"""
    tools = str(KERNELS.parents[1] / "tools")
    environment = os.environ | {"PYTHONPATH": tools, "LD_LIBRARY_PATH": ""}
    run = subprocess.run(
        [sys.executable, "-P", "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.splitlines() == ["there is no cuBLAS", "True"]


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("group_size", [None, 128])
def test_any_number_of_rows(
    library: ctypes.CDLL, rows: int, bits: int, group_size: int | None
) -> None:
    dtype = list(ELEMENTS)[rows % 3]
    case = Case(
        hadamard(640),
        IdentityFrame(150),
        bits,
        bias=True,
        zero_points=bits % 2 == 1,
        group_size=group_size,
        batch=(rows,),
    )
    check_matmul(library, case, dtype)


def any_trellis(case: Case) -> tuple[Arrays, np.ndarray]:
    """Return packed inputs whose codes are any, padding too, and all 16 bits of a window count; and
    Ĉ."""
    rng = np.random.default_rng(case.frame_in.dim)
    rows, columns = case.frame_out.num_vectors, case.frame_in.num_vectors
    strips, tiles = -(-rows // TILE_ROWS), -(-columns // TILE_COLUMNS)
    code = trellis_code(case.bits, window=16)
    streams = rng.integers(0, 1 << case.bits, (strips, tiles, TILE), np.uint8)

    def placed(numbers: np.ndarray) -> np.ndarray:
        blocks = numbers.reshape(strips, tiles, TILE_ROWS, TILE_COLUMNS).swapaxes(1, 2)
        return blocks.reshape(strips * TILE_ROWS, tiles * TILE_COLUMNS)

    scales = rng.uniform(0.5, 1.5, (rows, 1)).astype(np.float16)
    coeffs = placed(code.decode(streams))[:rows, :columns] / 64 * scales.astype(float)
    packed = {"codes": pack_tiles(placed(streams), case.bits), "levels": code.levels}
    return case.arrays() | packed | {"scales": scales}, coeffs.T


@pytest.mark.parametrize("dtype", ELEMENTS)
@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize(
    ("dim", "dim_out", "rows"),
    [
        (3, 1, 4),
        (1, 63, 2),
        (5, 65, 3),
        (64, 64, 8),
        (257, 130, 9),
        (600, 65, 16),
        (66, 65, 17),
        (130, 1, 64),
        (68, 129, 130),
        (2100, 33, 1),
        (5000, 64, 5),
    ],
)
def test_trellis_of_any_codes(
    library: ctypes.CDLL, dim: int, dim_out: int, rows: int, bits: int, dtype: str
) -> None:
    case = Case(
        IdentityFrame(dim), IdentityFrame(dim_out), bits, bias=True, trellis=True, batch=(rows,)
    )
    arrays, coeffs = any_trellis(case)
    multiplier = trellis_code(bits, window=16).multiplier
    spec = replace(case.spec("FrameMatMul", contrib=False), multiplier=multiplier)
    kernel = Kernel(library, HostMemory(), spec, arrays)
    x, bias = rounded(case.x(), dtype), rounded(arrays["bias"], dtype)
    wanted = x.astype(float) @ coeffs + bias
    naive = rounded(x @ rounded(coeffs, dtype).astype(np.float32) + bias, dtype)
    limit = 2 * relative_error(naive, wanted) + EPS[dtype]
    for path in ("faster", "fused"):
        kernel.force(path)
        (found,) = kernel.run_matmul(x, dtype, bias)
        assert relative_error(found, wanted) <= limit
    np.testing.assert_array_equal(kernel.run_matmul(x, dtype, bias)[0], found)
    assert relative_error(kernel.run_dequantize(dtype), coeffs) <= EPS[dtype]


def test_trellis_codes_go_to_cublas_from_nine_rows_on(library: ctypes.CDLL) -> None:
    case = Case(hadamard(64), IdentityFrame(64), 2, trellis=True)
    kernel = Kernel(library, HostMemory(), case.spec("FrameMatMul", contrib=False), case.arrays())
    for dtype in ELEMENTS:
        sizes = {}
        for path in ("faster", "fused", "cuBLAS"):
            kernel.force(path)
            sizes[path] = [len(kernel.matmul_scratch(rows, dtype)) for rows in (8, 9)]
        assert sizes["faster"] == [sizes["fused"][0], sizes["cuBLAS"][1]]
        assert (sizes["fused"] != sizes["cuBLAS"]) == (dtype in SHORT)


def test_trellis_fast_is_as_exact_as_eight_bits(library: ctypes.CDLL) -> None:
    for rows in (3, 20):
        case = Case(hadamard(384), IdentityFrame(40), 2, trellis=True, batch=(rows,))
        spec = case.spec("FrameMatMul", contrib=True)
        found = Kernel(library, HostMemory(), spec, case.arrays()).run_matmul(case.x(), "float32")
        wanted = matmul_reference(case, case.arrays(), case.x())
        assert 1e-4 < relative_error(found[0], wanted) < 5e-3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bits": 5}, "bits 5"),
        ({"block_size": 128}, "block_size 128"),
        ({"group_size": 128}, "group_size 128"),
        ({"multiplier": 65536}, "multiplier 65536"),
    ],
)
def test_trellis_refuses_what_layout_1_does_not_have(
    library: ctypes.CDLL, change: dict[str, int], message: str
) -> None:
    spec = Case(hadamard(200), IdentityFrame(24), 2, trellis=True).spec("FrameMatMul", contrib=True)
    for name, value in change.items():
        object.__setattr__(spec, name, value)  # what a spec itself refuses
    with pytest.raises(RuntimeError, match=message):
        Kernel(library, HostMemory(), spec, {})


def test_trellis_codes_that_are_not_aligned_are_refused(library: ctypes.CDLL) -> None:
    class Shifted(HostMemory):
        def pointer(self, tensor: np.ndarray) -> int:
            return super().pointer(tensor) + 4

    case = Case(hadamard(64), IdentityFrame(64), 2, trellis=True)
    spec = case.spec("FrameMatMul", contrib=False)
    with pytest.raises(RuntimeError, match="16 bytes"):
        Kernel(library, Shifted(), spec, case.arrays()).run_dequantize("float32")


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("dim", [131, 200, 1000])
@pytest.mark.parametrize("rows", [1, 20])
def test_codes_beyond_the_last_vector_are_ignored(
    library: ctypes.CDLL, bits: int, dim: int, rows: int
) -> None:
    case = Case(IdentityFrame(dim), IdentityFrame(24), bits, batch=(rows,))
    arrays = case.arrays()
    full = np.zeros((24, -(-dim // 16) * 16), np.uint8)
    full[:, dim:] = (1 << bits) - 1
    codes = arrays["codes"]
    assert codes is not None
    arrays["codes"] = codes | pack_codes(full, bits, choose_block_size(dim))
    check_matmul(library, case, "float32", arrays=arrays)
    check_matmul(library, case, "float16", arrays=arrays, path="cuBLAS")
    check_dequantize(library, case, "float32", arrays)


@pytest.mark.parametrize("dtype", ELEMENTS)
@pytest.mark.parametrize(
    ("dim", "rows"),
    [(8192, 1), (8192, 7), (8192, 9), (11008, 8), (16, 1030)],
    ids=["split", "split-7", "split-many", "more-than-fits", "in-parts"],
)
def test_work_is_cut(library: ctypes.CDLL, dim: int, rows: int, dtype: str) -> None:
    case = Case(hadamard(dim), IdentityFrame(40), 2, bias=True, batch=(rows,))
    arrays, x = case.arrays(), rounded(case.x(), dtype)
    kernel = Kernel(library, HostMemory(), case.spec("FrameMatMul", contrib=False), arrays)
    coeffs = case.frame_in.analysis(torch.from_numpy(x.astype(np.float64))).numpy()
    bias = rounded(arrays["bias"], dtype)
    wanted = coeffs @ weight_coeffs(case, arrays) + bias
    first = kernel.run_matmul(x, dtype, bias)[0]
    assert relative_error(first, wanted) <= 3 * EPS[dtype]
    np.testing.assert_array_equal(kernel.run_matmul(x, dtype, bias)[0], first)


def weight_coeffs(case: Case, arrays: Arrays) -> np.ndarray:
    codes, scales = arrays["codes"], arrays["scales"]
    assert codes is not None
    assert scales is not None
    return dequantized_coeffs(codes, scales, bits=case.bits, num_vectors=case.frame_in.num_vectors)


def synthesized(frame: Frame, coeffs: np.ndarray) -> np.ndarray:
    return frame.synthesis(torch.from_numpy(coeffs.T.copy())).numpy().T


@pytest.mark.parametrize(
    ("frame", "rows", "columns"),
    [
        (HadamardFrame.create(32768), 7, 28),  # more than there are blocks
        (HadamardFrame.create(20000, 1.4), 2, 3),
        (FusionFrame.create(28000), 2, 3),
        (HarmonicFrame(9000, 14400), 2, 3),
    ],
    ids=["in-turns", "hadamard", "fusion", "harmonic"],
)
def test_transforms_that_shared_memory_does_not_hold(
    library: ctypes.CDLL, frame: Frame, rows: int, columns: int
) -> None:
    case = Case(frame, IdentityFrame(columns), 2, batch=(rows,))
    arrays, x = case.arrays(), case.x()
    kernel = Kernel(library, HostMemory(), case.spec("FrameMatMul", contrib=False), arrays)
    coeffs = weight_coeffs(case, arrays)
    wanted = frame.analysis(torch.from_numpy(x.astype(np.float64))).numpy() @ coeffs
    assert relative_error(kernel.run_matmul(x, "float32")[0], wanted) <= 2e-6
    assert relative_error(kernel.run_dequantize("float32"), synthesized(frame, coeffs)) <= 2e-6


def test_fast_is_as_exact_as_eight_bits(library: ctypes.CDLL) -> None:
    case = Case(hadamard(384), IdentityFrame(40), 2, batch=(3,))
    kernel = Kernel(library, HostMemory(), case.spec("FrameMatMul", contrib=True), case.arrays())
    wanted = matmul_reference(case, case.arrays(), case.x())
    assert 1e-4 < relative_error(kernel.run_matmul(case.x(), "float32")[0], wanted) < 5e-3


@pytest.mark.parametrize("trellis", [False, True], ids=["scalar", "trellis"])
@pytest.mark.parametrize(
    ("rows", "path"), [(1, "fused"), (5, "fused"), (20, "fused"), (3, "cuBLAS")]
)
def test_several_outputs_share_one_transform(
    library: ctypes.CDLL, rows: int, path: str, trellis: bool
) -> None:
    case = Case(hadamard(200), IdentityFrame(200), 2, bias=True, trellis=trellis, batch=(rows,))
    arrays, x = case.arrays(), case.x()
    kernel = Kernel(library, HostMemory(), case.spec("FrameMatMul", contrib=False), arrays)
    kernel.force(path)
    for dtype in ELEMENTS:
        (whole,) = kernel.run_matmul(x, dtype, arrays["bias"])
        pieces = kernel.run_matmul(x, dtype, arrays["bias"], widths=(100, 1, 99))
        np.testing.assert_array_equal(np.concatenate(pieces, axis=1), whole)
    with pytest.raises(RuntimeError, match="columns"):
        kernel.run_matmul(x, "float32", widths=(40, 40))


def test_onnxruntime_without_cuda_runs_the_cpu_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FQONNX_LIBRARY", str(emulated_library()))
    case = Case(hadamard(200), IdentityFrame(24), 2, bias=True, batch=(3,))
    arrays, x = case.arrays(), case.x()
    model = build_model(case.spec("FrameMatMul", contrib=False), arrays, 2)
    found = run_onnxruntime(model, native=True, x=x)
    assert relative_error(found, matmul_reference(case, arrays, x)) <= 1e-6


def test_emulator_sees_what_hardware_would_punish(tmp_path: Path) -> None:
    emulated_library()  # or skip
    program = tmp_path / "faults"
    sources = [Path(__file__).parent / "emulator_faults.cpp", KERNELS / "cuda" / "emulator.cpp"]
    folders = [f"-I{KERNELS / name}" for name in ("cpu", "cuda")]
    command = [os.environ.get("CXX", "c++"), "-std=c++17", "-DFQONNX_CUDA_EMULATED", *folders]
    subprocess.run([*command, *sources, "-o", program], check=True)
    run = subprocess.run([program], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == [
        "half a barrier: a barrier or a warp instruction that not all threads reach",
        "half a warp: a barrier or a warp instruction that not all threads reach",
        "misaligned: a misaligned access",
        "a copy: nothing, then 1",
        "half a barrier: a barrier or a warp instruction that not all threads reach",
    ]


def test_what_layout_1_does_not_have_is_an_error(library: ctypes.CDLL) -> None:
    case = Case(hadamard(200), IdentityFrame(24), 5)
    with pytest.raises(RuntimeError, match="bits 5"):
        Kernel(library, HostMemory(), case.spec("FrameMatMul", contrib=False), {})
