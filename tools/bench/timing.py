"""Times of models in ONNX Runtime, measured in turns."""

from __future__ import annotations

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
