"""Peak memory and time of a compilation, by the largest layer: see docs/compiling.md.

    python tools/memory.py

Each row is a process of its own that compiles a generated model with external data, without
calibration, and compares the two. Its peak is `VmHWM`, which counts the pages of mapped files that
are resident, and unlike `ru_maxrss` nothing of the process that started it.
"""

from __future__ import annotations

import argparse
import datetime
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from fqonnx.machine import processor
from page import write_part

MARKS = "<!-- table by tools/memory.py -->", "<!-- end of table -->"
WORKERS = 2
MODELS = ((24, 2048, 2048), (1, 4096, 16_384), (1, 4096, 32_000))  # layers, dim_in, dim_out


def write_model(path: Path, layers: int, dim_in: int, dim_out: int) -> None:
    """Write layers behind one another, Gaussian weights in an external file."""
    rng = np.random.default_rng(0)
    nodes, weights = [], []
    with path.with_suffix(".data").open("wb") as file:
        for i in range(layers):
            tensor = TensorProto(
                name=f"w{i}",
                data_type=TensorProto.FLOAT,
                dims=[dim_in, dim_out],
                data_location=TensorProto.EXTERNAL,
            )
            entries = {"location": f"{path.stem}.data", "offset": str(file.tell())}
            for key, value in entries.items():
                tensor.external_data.add(key=key, value=value)
            for _ in range(dim_in // 256):
                file.write(rng.standard_normal((256, dim_out), np.float32).tobytes())
            weights.append(tensor)
            nodes.append(helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"y{i}"], f"layer{i}"))
            nodes.append(helper.make_node("LayerNormalization", [f"y{i}", "one"], [f"x{i + 1}"]))
    weights.append(numpy_helper.from_array(np.ones(dim_out, np.float32), "one"))
    x = helper.make_tensor_value_info("x0", TensorProto.FLOAT, ["n", dim_in])
    y = helper.make_tensor_value_info(f"x{layers}", TensorProto.FLOAT, ["n", dim_out])
    graph = helper.make_graph(nodes, "g", [x], [y], weights)
    opset = helper.make_opsetid("", 20)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=10), path)


def compile_here(path: Path, workers: int) -> None:
    """Compile a model in this process and print its peak in bytes, and seconds."""
    from fqonnx import CompileConfig, compile_model
    from fqonnx.executor import LocalExecutor

    start, output = time.perf_counter(), path.with_name("compiled.onnx")
    config, executor = CompileConfig(bits=2), LocalExecutor(workers)
    compile_model(path, output, config, calibration="none", executor=executor)
    status = Path("/proc/self/status").read_text().split()
    peak = int(status[status.index("VmHWM:") + 1]) * 1024
    print(peak, time.perf_counter() - start)


def measured(path: Path) -> tuple[float, float]:
    """Compile a model in a process of its own; return its peak in bytes, and seconds."""
    command = [sys.executable, __file__, "--child", str(path)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    peak, seconds = map(float, output.split())
    return peak, seconds


def table() -> str:
    """Return the table of all models."""
    lines = [
        f"{WORKERS} workers, 2 bits, no calibration. {processor()}, torch {version('torch')}, "
        f"ONNX Runtime {version('onnxruntime')}, {datetime.date.today()}.",
        "",
        "| layers | float32, all | the largest | peak | 12 × the largest + 500 MB | time |",
        "|---|---|---|---|---|---|",
    ]
    for layers, dim_in, dim_out in MODELS:
        with tempfile.TemporaryDirectory(prefix="fqonnx-") as folder:
            path = Path(folder) / "model.onnx"
            write_model(path, layers, dim_in, dim_out)
            peak, seconds = measured(path)
        largest = 4 * dim_in * dim_out
        sizes = [layers * largest, largest, peak, bound(dim_in, dim_out)]
        cells = [f"{layers} × ({dim_in} × {dim_out})", *(f"{b / 1e6:.0f} MB" for b in sizes)]
        lines.append(f"| {' | '.join([*cells, f'{seconds:.0f} s'])} |")
    return "\n".join(lines)


def bound(dim_in: int, dim_out: int) -> float:
    """Return the bytes that a compilation may take whose largest weight has these dimensions."""
    return 12 * 4 * dim_in * dim_out + 500e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--markdown", type=Path, help="put the table into this page, in its place")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child is not None:
        compile_here(arguments.child, WORKERS)
        return
    text = table()
    print(text)
    if arguments.markdown is not None:
        write_part(arguments.markdown, *MARKS, text)


if __name__ == "__main__":
    main()
