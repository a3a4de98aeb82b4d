"""The operators in onnxruntime-gpu: are they right there, and how fast beside its own?"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from onnx_ir.tape import Tape

from fqonnx.frames import HadamardFrame, IdentityFrame
from fqonnx.packing import TILE, TILE_ROWS, choose_block_size, pack_codes, pack_signs, pack_tiles
from fqonnx.quant.trellis import trellis_code
from fqonnx.reference import frame_matmul
from fqonnx.runtime_ops import DOMAIN, FrameOpSpec, build_function, register

OPSET = 20
SHAPES = ((4096, 4096), (4096, 14336))
ROWS = (1, 8, 64)
WARM_UP, RUNS = 5, 30
FPA_INTB = {"ep.cuda.fpa_intb_gemm": "1"}  # another of ONNX Runtime's kernels for it
PROVIDERS = ["CUDAExecutionProvider"]


def run(library: Path) -> dict[str, Any]:
    """Return whether small layers are right, and times of large ones in µs."""
    os.environ["FQONNX_LIBRARY"] = str(library)
    errors = {
        f"{bits} bits{', trellis codes' * trellis}, {rows} rows": error(bits, rows, trellis=trellis)
        for bits in (2, 3)
        for trellis in (False, True)
        for rows in (1, 9)
    }
    times = []
    for shape in SHAPES:
        for bits in (2, 4):
            sessions = candidates(shape, bits)
            for rows in ROWS:
                row: dict[str, Any] = {"shape": shape, "bits": bits, "rows": rows}
                row |= {n: s and median_us(s, rows, shape) for n, s in sessions.items()}
                times.append(row)
    return {"ok": all(e < 2e-3 for e in errors.values()), "errors": errors, "times": times}


def frame_model(
    shape: tuple[int, int], bits: int, scale: float, *, trellis: bool = False
) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """Return a layer of random codes in float16, and what the reference needs of it."""
    frame, frame_out = HadamardFrame.create(shape[0]), IdentityFrame(shape[1])
    block_size = TILE if trellis else choose_block_size(frame.num_vectors)
    spec = FrameOpSpec(
        "FrameMatMul",
        frame.spec,
        frame_out.spec,
        bits,
        block_size,
        dtype=ir.DataType.FLOAT16,
        codebook="trellis" if trellis else "scalar",
        multiplier=trellis_code(bits).multiplier if trellis else 0,
    )
    rows = shape[1] + -shape[1] % TILE_ROWS if trellis else shape[1]
    codes = np.random.default_rng(0).integers(0, 1 << bits, (rows, frame.num_vectors), np.uint8)
    packed = {
        "codes": pack_tiles(codes, bits) if trellis else pack_codes(codes, bits, block_size),
        "scales": np.full((shape[1], 1), scale, np.float16),
        "signs_in": pack_signs(frame.signs.numpy()),
    }
    if trellis:
        packed["levels"] = trellis_code(bits).levels
    tape = Tape()
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT16), shape=ir.Shape(["m", shape[0]]))
    values = {n: tape.initializer(ir.tensor(a, name=n)) for n, a in packed.items()}
    inputs = [{"X": x, **values}.get(name) for name in spec.input_names()]
    y = tape.op("FrameMatMul", inputs, spec.attributes(), domain=DOMAIN, overload=spec.overload)
    functions = [build_function(spec, OPSET)]
    frames = {"frame_in": frame.spec, "frame_out": frame_out.spec}
    facts = frames | {"bits": bits, "multiplier": spec.multiplier} | packed
    return model(tape, x, y, shape[1], functions), facts


def plain_model(shape: tuple[int, int], bits: int | None) -> onnx.ModelProto:
    """Return MatMul, or MatMulNBits of some bits."""
    rng, tape = np.random.default_rng(0), Tape()
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT16), shape=ir.Shape(["m", shape[0]]))
    if bits is None:
        weight = (rng.standard_normal(shape) / 100).astype(np.float16)
        y = tape.op("MatMul", [x, tape.initializer(ir.tensor(weight, name="w"))])
    else:
        blocks = shape[0] // 128
        codes = rng.integers(0, 256, (shape[1], blocks, 16 * bits), np.uint8)
        scales = np.full((shape[1], blocks), 0.01, np.float16)
        inputs = [
            x,
            *(tape.initializer(ir.tensor(a, name=n)) for n, a in (("c", codes), ("s", scales))),
        ]
        attributes = {"K": shape[0], "N": shape[1], "bits": bits, "block_size": 128}
        y = tape.op("MatMulNBits", inputs, attributes, domain="com.microsoft")
    return model(tape, x, y, shape[1], [])


def model(
    tape: Tape, x: ir.Value, y: ir.Value, dim_out: int, functions: list[ir.Function]
) -> onnx.ModelProto:
    y.name, y.dtype, y.shape = "y", ir.DataType.FLOAT16, ir.Shape(["m", dim_out])
    opsets = {"": OPSET, DOMAIN: 1, "com.microsoft": 1}
    graph = ir.Graph(
        [x], [y], nodes=tape.nodes, initializers=tape.initializers, opset_imports=opsets, name="g"
    )
    return ir.to_proto(ir.Model(graph, ir_version=10, functions=functions))


def session(
    content: onnx.ModelProto, *, native: bool = False, entries: Mapping[str, str] | None = None
) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    for key, value in (entries or {}).items():
        options.add_session_config_entry(key, value)
    if native:
        register(options)
    return ort.InferenceSession(content.SerializeToString(), options, providers=PROVIDERS)


def candidates(shape: tuple[int, int], bits: int) -> dict[str, ort.InferenceSession | None]:
    layer, _ = frame_model(shape, bits, 0.01)
    trellis, _ = frame_model(shape, bits, 0.01, trellis=True)
    makers: dict[str, Callable[[], ort.InferenceSession]] = {
        "MatMul": lambda: session(plain_model(shape, None)),
        "MatMulNBits": lambda: session(plain_model(shape, bits)),
        "MatMulNBits, fpA_intB": lambda: session(plain_model(shape, bits), entries=FPA_INTB),
        "our body": lambda: session(layer),
        "our kernels": lambda: session(layer, native=True),
        "our kernels, trellis codes": lambda: session(trellis, native=True),
    }
    return {name: attempt(make) for name, make in makers.items()}


def attempt(make: Callable[[], ort.InferenceSession]) -> ort.InferenceSession | None:
    """Return what is made, or None where this ONNX Runtime has no such kernel."""
    try:
        return make()
    except Exception as refused:
        print(f"left out: {refused}", flush=True)
        return None


def error(bits: int, rows: int, *, trellis: bool = False) -> float:
    shape = 384, 200
    layer, facts = frame_model(shape, bits, 0.05, trellis=trellis)
    x = np.random.default_rng(1).standard_normal((rows, shape[0])).astype(np.float16)
    wanted = frame_matmul(x, **facts)
    (found,) = session(layer, native=True).run(None, {"x": x})
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def median_us(candidate: ort.InferenceSession, rows: int, shape: tuple[int, int]) -> float:
    """Return the median time of a run with tensors on the GPU."""
    x = np.random.default_rng(0).standard_normal((rows, shape[0])).astype(np.float16)
    binding = candidate.io_binding()
    binding.bind_ortvalue_input("x", ort.OrtValue.ortvalue_from_numpy(x, "cuda", 0))
    binding.bind_output("y", "cuda", 0)
    times = []
    for _ in range(WARM_UP + RUNS):
        binding.synchronize_inputs()
        begin = time.perf_counter()
        candidate.run_with_iobinding(binding)
        binding.synchronize_outputs()
        times.append(time.perf_counter() - begin)
    return statistics.median(times[WARM_UP:]) * 1e6
