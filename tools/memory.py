"""Peak memory and time of quantization, by the largest layer: see docs/compiling.md.

    python tools/memory.py

Each row is a process of its own that reads a generated model with external data, quantizes it
without calibration and writes the compiled file: what `fqonnx compile` does but for running models.
Its peak is `VmHWM`, which counts the pages of mapped files that are resident, and unlike
`ru_maxrss` nothing of the process that started it.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np
import onnx
from onnx import TensorProto, helper

MODELS = ((24, 2048, 2048), (1, 4096, 16_384), (1, 4096, 32_000))  # layers, dim_in, dim_out


def write_model(path: Path, layers: int, dim_in: int, dim_out: int) -> None:
    """Write MatMul nodes beside one another, Gaussian weights in an external file."""
    rng = np.random.default_rng(0)
    nodes, weights, outputs = [], [], []
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
            nodes.append(helper.make_node("MatMul", ["x", f"w{i}"], [f"y{i}"], name=f"layer{i}"))
            outputs.append(
                helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, ["n", dim_out])
            )
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", dim_in])
    graph = helper.make_graph(nodes, "g", [x], outputs, weights)
    opset = helper.make_opsetid("", 20)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=10), path)


def quantize(path: Path, workers: int) -> None:
    """Quantize a model in this process and print its peak in bytes, and seconds."""
    from fqonnx.calibrate import Calibration
    from fqonnx.config import CompileConfig
    from fqonnx.executor import LocalExecutor
    from fqonnx.layer_store import kept_layers
    from fqonnx.model_file import load_model
    from fqonnx.passes import MergeFrameMatMulsPass, SelectWeightsPass, normalize
    from fqonnx.quantize_layers import quantize_layers
    from fqonnx.workshop import Workshop
    from fqonnx.written_model import written_model

    start = time.perf_counter()
    model, output = load_model(path), path.with_name("compiled.onnx")
    normalize(model)
    selected = SelectWeightsPass()
    selected(model)
    with kept_layers(output, {}) as store:
        workshop = Workshop(LocalExecutor(workers), store)
        config, calibration = CompileConfig(bits=2), Calibration(None)
        quantize_layers(model, selected.layers, calibration, config, [], workshop)
        MergeFrameMatMulsPass()(model)
        with written_model(model, output):
            pass
    status = Path("/proc/self/status").read_text().split()
    peak = int(status[status.index("VmHWM:") + 1]) * 1024
    print(peak, time.perf_counter() - start)


def measured(path: Path, workers: int) -> tuple[float, float]:
    """Quantize a model in a process of its own; return its peak in bytes, and seconds."""
    command = [sys.executable, "-P", __file__, "--workers", str(workers), "--child", str(path)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    peak, seconds = map(float, output.split())
    return peak, seconds


@click.command()
@click.option("--workers", default=2, show_default=True)
@click.option("--child", type=click.Path(path_type=Path), hidden=True)
def main(workers: int, child: Path | None) -> None:
    """Print the table."""
    if child is not None:
        quantize(child, workers)
        return
    print(
        "| layers | float32, all | float32, the largest | peak | 12 × the largest + 500 MB | time |"
    )
    print("|---|---|---|---|---|---|")
    for layers, dim_in, dim_out in MODELS:
        with tempfile.TemporaryDirectory(prefix="fqonnx-") as folder:
            path = Path(folder) / "model.onnx"
            write_model(path, layers, dim_in, dim_out)
            peak, seconds = measured(path, workers)
        largest = 4 * dim_in * dim_out
        megabytes = [layers * largest, largest, peak, 12 * largest + 500e6]
        cells = [f"{layers} × ({dim_in} × {dim_out})", *(f"{b / 1e6:.0f} MB" for b in megabytes)]
        print("|", " | ".join([*cells, f"{seconds:.0f} s"]), "|", flush=True)


if __name__ == "__main__":
    main()
