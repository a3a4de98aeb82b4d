"""Check and time the CUDA kernels on this machine's GPU: one JSON file, one table.

python tools/gpu_check.py --json gpu.json --markdown docs/gpu.md

It needs a build of the native library with FQONNX_CUDA=ON and a PyTorch that sees the GPU, and no
network. Where onnxruntime-gpu is installed the operators run in it, too.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import json
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import gpu_benchmark
import gpu_matrix
from cuda_kernels import HostMemory, Memory, TorchMemory, load_kernels
from fqonnx.runtime_ops import library_path

PARTS = ("matrix", "graph", "onnxruntime", "sanitizer", "benchmark", "dequantize")
MOST_NUMBERS = 1 << 25  # of X: NumPy is slow
QUICK_ROWS = (1, 3, 8, 9, 17, 65)


def check_matrix(library: ctypes.CDLL, memory: Memory, *, quick: bool) -> dict[str, Any]:
    """Run every layer in every type, and say which results are too far off."""
    rows = QUICK_ROWS if quick else gpu_matrix.ROWS
    results = [
        result
        for layer in gpu_matrix.layers(quick=quick)
        for result in gpu_matrix.check_layer(
            library, memory, layer, tuple(r for r in rows if r * layer.frame_in.dim <= MOST_NUMBERS)
        )
    ]
    worst = {
        dtype: max(r["error"] for r in results if r["dtype"] == dtype)
        for dtype in gpu_matrix.LIMITS
    }
    failed = [result for result in results if not result["ok"]]
    return {"ok": not failed, "cases": len(results), "worst_error": worst, "failed": failed}


def check_graph(library: ctypes.CDLL) -> dict[str, Any]:
    """Capture a product into a CUDA graph and replay it with another x."""
    wrong = []
    for codebook, rows in itertools.product(("scalar", "trellis"), (1, 8, 33, 300, 1024, 4100)):
        shape = 4096, 1024
        kernel = gpu_benchmark.frame_kernel(library, shape, 2, codebook)
        x, other = torch.randn(2, rows, shape[0], dtype=torch.float16, device="cuda")
        y = torch.empty(rows, shape[1], dtype=torch.float16, device="cuda")
        scratch = kernel.matmul_scratch(rows, "float16")
        given = x.clone()

        def call(kernel=kernel, given=given, rows=rows, y=y, scratch=scratch) -> None:
            kernel.matmul(given, "float16", rows, None, [(y, y.shape[1])], scratch)

        given.copy_(other)
        call()
        wanted = y.clone()
        given.copy_(x)
        graph = torch.cuda.CUDAGraph()
        stream = torch.cuda.Stream()
        torch.cuda.synchronize()
        with torch.cuda.stream(stream), torch.cuda.graph(graph, stream=stream):
            call()
        given.copy_(other)
        torch.cuda.synchronize()
        graph.replay()
        torch.cuda.synchronize()
        if not torch.equal(y, wanted):
            wrong.append((codebook, rows))
    return {"ok": not wrong, "codes_and_rows_that_differ": wrong}


def check_sanitizer(path: Path) -> dict[str, Any]:
    """Run the quick matrix under compute-sanitizer."""
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        return {"skipped": "there is no compute-sanitizer"}
    command = [tool, "--error-exitcode", "9", sys.executable, __file__]
    command += ["--library", str(path), "--quick", "--parts", "matrix"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return {"ok": done.returncode == 0, "output": (done.stdout + done.stderr)[-3000:]}


def check_onnxruntime(path: Path) -> dict[str, Any]:
    """Run layers through onnxruntime-gpu: our kernels, the stock body and MatMulNBits."""
    try:
        import onnxruntime as ort
    except ImportError:
        return {"skipped": "onnxruntime is not installed"}
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        return {"skipped": "this onnxruntime has no CUDA"}
    import gpu_sessions

    return gpu_sessions.run(path)


def run_parts(checks: dict[str, Callable[[], Any]], parts: list[str]) -> dict[str, Any]:
    """Return what each part found. One that breaks does not take the others with it."""
    found: dict[str, Any] = {}
    for part in parts:
        begin = time.perf_counter()
        try:
            result = checks[part]()
        except Exception as error:
            result = {"ok": False, "error": f"{type(error).__name__}: {error}"}
        found[part] = {"result": result, "seconds": time.perf_counter() - begin}
        print(f"{part}: {verdict(result)}, {found[part]['seconds']:.0f} s", flush=True)
    return found


def verdict(result: Any) -> str:
    if isinstance(result, list):
        return "measured"
    if "skipped" in result:
        return f"skipped, {result['skipped']}"
    return "ok" if result["ok"] else f"FAILED {result.get('error', '')}".strip()


def markdown(report: dict[str, Any]) -> str:
    """Return the page: what was checked, then times."""
    lines = [f"# CUDA kernels on {report['device']}", "", f"{report['host']}, {report['date']}", ""]
    parts = {name: part["result"] for name, part in report["parts"].items()}
    lines += table(["check", ""], [[name, verdict(result)] for name, result in parts.items()])
    if isinstance(rows := parts.get("benchmark"), list):
        names = [name for name in rows[0] if name not in ("shape", "rows")]
        cells = [
            [*size(row), *(f"{row[n]['cold']:.1f} / {row[n]['warm']:.1f}" for n in names)]
            for row in rows
        ]
        lines += ["", "Times in µs, weights cold / warm in the cache, float16 activations.", ""]
        lines += table(["layer", "rows", *names], cells)
    if isinstance(rows := parts.get("dequantize"), list):
        cells = [
            [" × ".join(map(str, r["shape"])), r["codes"], f"{r['us']:.1f}", gigabytes(r)]
            for r in rows
        ]
        lines += ["", "FrameDequant to float16, each time to another place.", ""]
        lines += table(["weight", "codes", "µs", "GB/s of codes and weight"], cells)
    if rows := parts.get("onnxruntime", {}).get("times"):
        names = [name for name in rows[0] if name not in ("shape", "rows", "bits")]
        cells = [
            [*size(row), str(row["bits"]), *(f"{row[n]:.1f}" if row[n] else "–" for n in names)]
            for row in rows
        ]
        lines += ["", "One run of a session of ONNX Runtime, tensors on the GPU, in µs.", ""]
        lines += table(["layer", "rows", "bits", *names], cells)
    return "\n".join(lines) + "\n"


def gigabytes(row: dict[str, Any]) -> str:
    return f"{row['bytes_per_us'] / 1e3:.0f}"


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def size(row: dict[str, Any]) -> tuple[str, str]:
    return " × ".join(map(str, row["shape"])), str(row["rows"])


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--library", type=Path, default=library_path(), help="the native library")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--quick", action="store_true", help="a tenth of the matrix")
    parser.add_argument("--emulated", action="store_true", help="the library runs on the host")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args(arguments)
    if options.library is None:
        parser.error("the native library was not built; --library names one")
    if options.emulated and options.parts != ["matrix"]:
        parser.error("without a GPU there is only --parts matrix")
    return options


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    library = load_kernels(options.library)
    memory: Memory = HostMemory() if options.emulated else TorchMemory()
    checks: dict[str, Callable[[], Any]] = {
        "matrix": lambda: check_matrix(library, memory, quick=options.quick),
        "graph": lambda: check_graph(library),
        "onnxruntime": lambda: check_onnxruntime(options.library),
        "sanitizer": lambda: check_sanitizer(options.library),
        "benchmark": lambda: gpu_benchmark.measure(library),
        "dequantize": lambda: gpu_benchmark.measure_dequantize(library),
    }
    report = {
        "device": "the emulator" if options.emulated else torch.cuda.get_device_name(),
        "host": f"{platform.machine()}, torch {torch.__version__}, NumPy {np.__version__}",
        "date": time.strftime("%Y-%m-%d"),
    }
    if "benchmark" in options.parts:
        report["copy_bytes_per_us"] = gpu_benchmark.copy_bandwidth()
    report["parts"] = run_parts(checks, options.parts)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    if options.markdown:
        options.markdown.write_text(markdown(report))
    results = [part["result"] for part in report["parts"].values()]
    return int(any(isinstance(r, dict) and not r.get("ok", True) for r in results))


if __name__ == "__main__":
    sys.exit(main())
