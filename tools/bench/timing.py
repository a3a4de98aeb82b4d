"""Times of models in ONNX Runtime, measured in turns."""

from __future__ import annotations

import platform
import time
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from fqonnx.runtime_ops import register

WARM_UP, RUNS, TURNS = 5, 12, 5


def session(model: ir.Model | Path, threads: int, *, library: bool = False) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    if library:
        register(options)
    content = str(model) if isinstance(model, Path) else ir.to_proto(model).SerializeToString()
    return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def median_us(
    sessions: dict[str, ort.InferenceSession], feed: dict[str, np.ndarray]
) -> dict[str, float]:
    """Return the median time of each model, measured in turns."""
    times: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(TURNS):
        for name, candidate in sessions.items():
            time.sleep(0.05)  # the other model's threads stop spinning
            for run in range(RUNS + WARM_UP):
                start = time.perf_counter()
                candidate.run(None, feed)
                if run >= WARM_UP:
                    times[name].append(time.perf_counter() - start)
    return {name: float(np.median(values)) * 1e6 for name, values in times.items()}


def processor() -> str:
    """Return the name of the processor and what of it decides the speed."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.machine()
    lines = info.read_text().splitlines()
    name = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), "")
    flags = next((x.split(":")[1].split() for x in lines if x.startswith("flags")), [])
    found = [flag for flag in ("avx2", "avx512f", "avx512_vnni") if flag in flags]
    return f"{name or platform.machine()} ({', '.join(found)})"
