"""Time of one linear layer: float32 MatMul against FrameMatMul, by its body and by our library.

python tools/bench/matmul.py [--markdown docs/speed.md]
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import time
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from onnx_ir.tape import Tape

from fqonnx.frames import HadamardFrame, IdentityFrame
from fqonnx.packing import choose_block_size, pack_signs
from fqonnx.runtime_ops import FrameOpSpec, build_function, register

PAGE = """\
# Speed of one layer

One linear layer in ONNX Runtime: float32 `MatMul` against `FrameMatMul`, frame transform included,
by its function body (no library of ours: `MatMulNBits` with int8 activations and a half-step term)
and by our native library, fast (activations rounded to int8) and exact (24 bits). The models of a
row run in one process, in turns; times are medians in µs, and in brackets stands how many times
faster than float32 that is.

The last two columns are ONNX Runtime's own `MatMulNBits` without a frame. At few rows float32 waits
for memory, and its time is the memory bandwidth that the machine has at that moment: on a shared
one the ratio at one row moves by a third from run to run, while the times of the packed layers
hardly do. The packed weights of this benchmark fit into the last-level cache, the float32 ones of
the larger shapes do not.

    make bench

"""
SHAPES = ((4096, 4096), (4096, 11008), (11008, 4096), (768, 3072))
BATCHES = (1, 4, 16, 64, 256)
BITS = (2, 3, 4)
OPSET = 20
WARM_UP, RUNS = 5, 12


def float_model(dim_in: int, dim_out: int) -> ir.Model:
    weight = np.random.default_rng(0).standard_normal((dim_in, dim_out), np.float32)
    tape = Tape()
    x = activation("x", dim_in)
    y = tape.op("MatMul", [x, tape.initializer(ir.tensor(weight, name="weight"))])
    return model(tape, x, y, dim_out, {"": OPSET}, [])


def frame_model(dim_in: int, dim_out: int, bits: int, *, contrib: bool = True) -> ir.Model:
    """One FrameMatMul with random codes: time does not depend on their values."""
    frame = HadamardFrame.create(dim_in)
    block_size = choose_block_size(frame.num_vectors)
    frame_out = IdentityFrame(dim_out).spec
    spec = FrameOpSpec("FrameMatMul", frame.spec, frame_out, bits, block_size, contrib=contrib)
    blocks = -(-frame.num_vectors // block_size)
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 256, (dim_out, blocks, block_size * bits // 8), np.uint8)
    packed = {
        "codes": codes,
        "scales": np.ones((dim_out, 1), np.float16),
        "signs_in": pack_signs(frame.signs.numpy()),
    }
    tape = Tape()
    x = activation("x", dim_in)
    values = {n: tape.initializer(ir.tensor(a, name=n)) for n, a in packed.items()}
    inputs = [x, values["codes"], values["scales"], None, values["signs_in"]]
    y = tape.op("FrameMatMul", inputs, spec.attributes(), domain="fqonnx", overload=spec.overload)
    opsets = {"": OPSET, "fqonnx": 1, "com.microsoft": 1}
    return model(tape, x, y, dim_out, opsets, [build_function(spec, OPSET)])


def product_model(dim_in: int, dim_out: int, bits: int) -> ir.Model:
    """ONNX Runtime's own product alone, which no body around it can beat."""
    blocks = -(-dim_in // 128)
    codes = np.random.default_rng(0).integers(0, 256, (dim_out, blocks, 16 * bits), np.uint8)
    tape = Tape()
    x = activation("x", dim_in)
    packed = tape.initializer(ir.tensor(codes, name="codes"))
    scales = tape.initializer(ir.tensor(np.ones((dim_out, blocks), np.float32), name="scales"))
    attributes = {"K": dim_in, "N": dim_out, "bits": bits, "block_size": 128, "accuracy_level": 4}
    y = tape.op("MatMulNBits", [x, packed, scales], attributes, domain="com.microsoft")
    return model(tape, x, y, dim_out, {"": OPSET, "com.microsoft": 1}, [])


def activation(name: str, dim: int) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["m", dim]))


def model(tape, x, y, dim_out, opsets, functions) -> ir.Model:
    y.name, y.dtype, y.shape = "y", ir.DataType.FLOAT, ir.Shape(["m", dim_out])
    graph = ir.Graph(
        [x],
        [y],
        nodes=tape.nodes,
        initializers=tape.initializers,
        opset_imports=opsets,
        name="layer",
    )
    return ir.Model(graph, ir_version=10, functions=functions)


def session(content: ir.Model, threads: int, *, library: bool = False) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    if library:
        register(options)
    return ort.InferenceSession(
        ir.to_proto(content).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def median_us(sessions: dict[str, ort.InferenceSession], x: np.ndarray) -> dict[str, float]:
    """Return the median time of each model, measured in turns."""
    times: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(5):
        for name, candidate in sessions.items():
            time.sleep(0.05)  # the other model's threads stop spinning
            for run in range(RUNS + WARM_UP):
                start = time.perf_counter()
                candidate.run(None, {"x": x})
                if run >= WARM_UP:
                    times[name].append(time.perf_counter() - start)
    return {name: float(np.median(values)) * 1e6 for name, values in times.items()}


def table(threads: int) -> str:
    lines = [
        f"{processor()}, {threads} threads, ONNX Runtime {ort.__version__}, "
        f"{datetime.date.today()}:",
        "",
    ]
    for dim_in, dim_out in SHAPES:
        sessions = candidates(dim_in, dim_out, threads)
        names = list(sessions)[1:]
        if len(lines) == 2:
            lines.append("| dim_in × dim_out | rows of x | float32 | " + " | ".join(names) + " |")
            lines.append("|---|---|---|" + "---|" * len(names))
        for rows in BATCHES:
            x = np.random.default_rng(1).standard_normal((rows, dim_in), np.float32)
            times = median_us(sessions, x)
            cells = [f"{times[n]:.0f} ({times['float32'] / times[n]:.1f}×)" for n in names]
            row = [f"{dim_in} × {dim_out}", str(rows), f"{times['float32']:.0f}", *cells]
            lines.append("| " + " | ".join(row) + " |")
            print(lines[-1], flush=True)
    return "\n".join(lines) + "\n"


def candidates(dim_in: int, dim_out: int, threads: int) -> dict[str, ort.InferenceSession]:
    """Return the sessions to compare, float32 first."""
    found = {
        "float32": session(float_model(dim_in, dim_out), threads),
        "body, 2-bit": session(frame_model(dim_in, dim_out, 2), threads),
    }
    for bits in BITS:
        layer = frame_model(dim_in, dim_out, bits)
        found[f"library, {bits}-bit"] = session(layer, threads, library=True)
    exact = frame_model(dim_in, dim_out, 2, contrib=False)
    found["library, 2-bit exact"] = session(exact, threads, library=True)
    for bits in (2, 4):
        product = product_model(dim_in, dim_out, bits)
        found[f"MatMulNBits, {bits}-bit"] = session(product, threads)
    return found


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--markdown", type=Path, help="write the table here")
    arguments = parser.parse_args()
    text = table(arguments.threads)
    if arguments.markdown is not None:
        arguments.markdown.write_text(PAGE + text, encoding="utf-8")


if __name__ == "__main__":
    main()
