"""How fast are the CUDA kernels? Times of one layer by CUDA events, beside cuBLAS through PyTorch.

Calls are captured into a CUDA graph, so that neither Python nor launches are in the time. Cold:
the graph goes through copies of the weight that together are larger than the cache. Warm: it uses
one of them.
"""

from __future__ import annotations

import ctypes
import itertools
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from cuda_kernels import Kernel, TorchMemory
from fqonnx.config import Codebook
from fqonnx.frames import HadamardFrame, IdentityFrame
from fqonnx.packing import TILE, choose_block_size, pack_signs, tile_bytes
from fqonnx.quant.trellis import trellis_code
from fqonnx.runtime_ops import FrameOpSpec

SHAPES = ((4096, 4096), (4096, 14336), (14336, 4096), (8192, 28672))
DEQUANT_SHAPES = ((576, 64), (4608, 512), *SHAPES)
ROWS = (1, 4, 8, 16, 64, 128, 256, 512, 1024, 4096)
BITS = (2, 3, 4)
CODES = tuple(itertools.product(BITS, ("scalar", "trellis")))
PATHS = ("fused", "cuBLAS")
WARM_UP, RUNS = 3, 15


def median_us(calls: Sequence[Callable[[], object]]) -> float:
    """Return the median time of one of ``calls``, which go into one graph in this order."""
    stream = torch.cuda.Stream()
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        for call in calls:
            call()
        with torch.cuda.graph(graph, stream=stream):
            for call in calls:
                call()
        times = []
        for _ in range(WARM_UP + RUNS):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record(stream)
            graph.replay()
            end.record(stream)
            end.synchronize()
            times.append(begin.elapsed_time(end) * 1000 / len(calls))
    return statistics.median(times[WARM_UP:])


def copies_beyond_cache(num_bytes: int) -> int:
    """Return how many copies of a weight no cache holds, and enough to time together."""
    cache = torch.cuda.get_device_properties(0).L2_cache_size
    return max(4, -(-3 * cache // num_bytes))


def copy_bandwidth() -> float:
    """Return bytes a microsecond that a copy within the memory reads and writes."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / median_us([lambda: target.copy_(source)])


def frame_kernel(
    library: ctypes.CDLL,
    shape: tuple[int, int],
    bits: int,
    codebook: Codebook = "scalar",
    *,
    fast: bool = True,
) -> Kernel:
    """Return a layer with random codes: time does not depend on their values."""
    frame, code = HadamardFrame.create(shape[0]), trellis_code(bits)
    trellis = codebook == "trellis"
    spec = FrameOpSpec(
        "FrameMatMul",
        frame.spec,
        IdentityFrame(shape[1]).spec,
        bits,
        TILE if trellis else choose_block_size(frame.num_vectors),
        codebook=codebook,
        multiplier=code.multiplier if trellis else 0,
        contrib=fast,
    )
    row_bytes = -(-frame.num_vectors // spec.block_size) * spec.block_size * bits // 8
    size = tile_bytes(shape[1], frame.num_vectors, bits) if trellis else shape[1] * row_bytes
    arrays = {
        "codes": np.random.default_rng(0).integers(0, 256, size, np.uint8),
        "scales": np.full((shape[1], 1), 0.01, np.float16),
        "signs_in": pack_signs(frame.signs.numpy()),
        "levels": code.levels if trellis else None,
    }
    return Kernel(library, TorchMemory(), spec, arrays)


def frame_calls(
    kernels: Sequence[Kernel], shape: tuple[int, int], rows: int, path: str
) -> list[Callable[[], None]]:
    for kernel in kernels:
        kernel.force(path)
    x = torch.randn(rows, shape[0], dtype=torch.float16, device="cuda")
    y = torch.empty(rows, shape[1], dtype=torch.float16, device="cuda")
    scratch = kernels[0].matmul_scratch(rows, "float16")

    def call(kernel: Kernel) -> None:
        kernel.matmul(x, "float16", rows, None, [(y, shape[1])], scratch)

    return [lambda kernel=kernel: call(kernel) for kernel in kernels]


def measure(
    library: ctypes.CDLL, shapes: Sequence[tuple[int, int]] = SHAPES, all_rows: Sequence[int] = ROWS
) -> list[dict[str, Any]]:
    """Return the times of each shape and number of rows, in float16."""
    results = []
    for shape in shapes:
        num_bytes = 2 * shape[0] * shape[1]
        copies = min(copies_beyond_cache(num_bytes), 16)
        weights = [torch.randn(shape, dtype=torch.float16, device="cuda") for _ in range(copies)]
        kernels = {}
        for bits, codebook in CODES:
            count = min(copies_beyond_cache(num_bytes * bits // 16), 64)
            kernels[bits, codebook] = [
                frame_kernel(library, shape, bits, codebook) for _ in range(count)
            ]
        for rows in all_rows:
            x = torch.randn(rows, shape[0], dtype=torch.float16, device="cuda")
            result: dict[str, Any] = {"shape": shape, "rows": rows}
            calls = [lambda w=w, x=x: x @ w for w in weights]
            result["cublas"] = {"cold": median_us(calls), "warm": median_us(calls[:1] * 8)}
            for ((bits, codebook), some), path in itertools.product(kernels.items(), PATHS):
                ours = frame_calls(some, shape, rows, path)
                cold, warm = median_us(ours), median_us(ours[:1] * 8)
                result[f"{bits} bits, {codebook}, {path}"] = {
                    "cold": cold,
                    "warm": warm,
                    "code_bytes_per_us": num_bytes * bits / 16 / cold,
                }
            results.append(result)
        del weights, kernels
    return results


def measure_dequantize(
    library: ctypes.CDLL, shapes: Sequence[tuple[int, int]] = DEQUANT_SHAPES
) -> list[dict[str, Any]]:
    """Return the time of each weight in float16, and the bytes of codes and weight in a µs."""
    results = []
    for shape, (bits, codebook) in itertools.product(shapes, CODES):
        num_bytes = 2 * shape[0] * shape[1]
        count = min(copies_beyond_cache(num_bytes), 64)
        weights = torch.empty(count, *shape, dtype=torch.float16, device="cuda")
        kernel = frame_kernel(library, shape, bits, codebook)
        scratch = kernel.dequantize_scratch()

        def call(weight: torch.Tensor, kernel: Kernel = kernel, scratch: Any = scratch) -> None:
            kernel.dequantize(weight, "float16", scratch)

        us = median_us([lambda weight=weight, call=call: call(weight) for weight in weights])
        moved = num_bytes + num_bytes * bits / 16
        codes = f"{bits} bits, {codebook}"
        results.append({"shape": shape, "codes": codes, "us": us, "bytes_per_us": moved / us})
    return results
