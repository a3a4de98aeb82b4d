"""Operators with packed data, models of one node, and what they should give."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from onnx_ir.tape import Tape

from fqonnx.frames import Frame, FusionFrame, HadamardFrame, HarmonicFrame, IdentityFrame
from fqonnx.packing import TILE, choose_block_size
from fqonnx.quant import QuantizedWeight
from fqonnx.quant.trellis import trellis_code
from fqonnx.reference import frame_dequant, frame_matmul
from fqonnx.runtime_ops import DOMAIN, FrameOpSpec, build_function, register
from support import described, fusion_frame, packed, random_weight

INT8_ACTIVATIONS = 1.5e-2  # relative error that MatMulNBits may make at accuracy level 4

Arrays = dict[str, np.ndarray | None]


@dataclass(frozen=True)
class Case:
    """One operator with packed data, and the x that it is tried on."""

    frame_in: Frame
    frame_out: Frame
    bits: int
    dtype: ir.DataType = ir.DataType.FLOAT
    bias: bool = False
    zero_points: bool = False
    group_size: int | None = None
    splits: tuple[int, ...] = ()
    trellis: bool = False
    batch: tuple[int, ...] = (3, 5)

    def __str__(self) -> str:
        frames = [self.frame_in.spec, self.frame_out.spec]
        parts = [f"{frame.kind}{frame.num_vectors}of{frame.dim}" for frame in frames]
        parts += [f"{self.bits}bit", self.dtype.name]
        parts += [f"group{self.group_size}"] * (self.group_size is not None)
        parts += ["split" + "x".join(map(str, self.splits))] * bool(self.splits)
        parts += ["trellis"] * self.trellis
        parts += ["bias"] * self.bias + ["zp"] * self.zero_points
        return "-".join([*parts, "batch" + "x".join(map(str, self.batch))])

    def weight(self) -> QuantizedWeight:
        return random_weight(
            self.frame_in,
            self.frame_out,
            self.bits,
            zero_points=self.zero_points,
            group_size=self.group_size,
            trellis=self.trellis,
            seed=self.frame_in.dim * 5 + self.bits,
        )

    def spec(self, op_type: Any, *, contrib: bool) -> FrameOpSpec:
        num_vectors = self.frame_in.num_vectors
        return FrameOpSpec(
            op_type=op_type,
            frame_in=self.frame_in.spec,
            frame_out=self.frame_out.spec,
            bits=self.bits,
            block_size=TILE if self.trellis else choose_block_size(num_vectors),
            group_size=self.group_size,
            dtype=self.dtype,
            has_bias=self.bias and op_type == "FrameMatMul",
            has_zero_points=self.zero_points,
            splits=self.splits if op_type == "FrameMatMul" else (),
            codebook="trellis" if self.trellis else "scalar",
            multiplier=trellis_code(self.bits).multiplier if self.trellis else 0,
            contrib=contrib,
        )

    def arrays(self) -> Arrays:
        rng = np.random.default_rng(self.frame_in.dim + self.bits)
        bias = rng.standard_normal(self.frame_out.dim).astype(self.dtype.numpy())
        return packed(self.weight()) | {"bias": bias if self.bias else None}

    def x(self) -> np.ndarray:
        rng = np.random.default_rng(1)
        return rng.standard_normal((*self.batch, self.frame_in.dim)).astype(self.dtype.numpy())


def hadamard(dim: int, redundancy: float | None = 1.0) -> Frame:
    """Return a Hadamard frame, or none."""
    if redundancy is None:
        return IdentityFrame(dim)
    return HadamardFrame.create(dim, redundancy, seed=dim)


def _cases() -> list[Case]:
    """Return every dim with every frame, and every pair of frames, in every bits; the rest is
    drawn."""
    rng = random.Random(0)

    def drawn(frame_in: Frame, frame_out: Frame, bits: int, **arguments: Any) -> Case:
        return Case(
            frame_in,
            frame_out,
            bits,
            dtype=rng.choice((ir.DataType.FLOAT, ir.DataType.FLOAT, ir.DataType.FLOAT16)),
            bias=rng.random() < 0.5,
            zero_points=rng.random() < 0.5,
            batch=rng.choice(((8,), (4, 6), (2, 3, 4))),
            **arguments,
        )

    one_side = [
        drawn(hadamard(dim_in, redundancy), IdentityFrame(rng.choice((1, 7, 24, 33, 40))), bits)
        for dim_in in (1, 7, 33, 100, 131, 384)
        for redundancy in (None, 1.0, 1.3)
        for bits in (1, 2, 3, 4)
    ]
    pairs = [drawn(*pair, bits) for pair in PAIRS for bits in (1, 2, 3, 4)]
    grouped = [
        drawn(frame_in, frame_out, bits, group_size=128)
        for frame_in, frame_out in (
            (IdentityFrame(100), IdentityFrame(24)),  # one group that is not full
            (IdentityFrame(128), IdentityFrame(1)),
            (IdentityFrame(200), IdentityFrame(33)),
            (IdentityFrame(384), IdentityFrame(7)),
            (hadamard(300), UNIFORM),
        )
        for bits in (1, 2, 3, 4)
    ]
    split = [
        drawn(frame_in, IdentityFrame(sum(splits)), bits, splits=splits)
        for frame_in, splits in (
            (hadamard(100), (33, 1, 7)),
            (IdentityFrame(33), (24,)),
            (WIDE_TETRIS, (16, 16, 130)),
        )
        for bits in (1, 2, 3, 4)
    ]
    return one_side + pairs + grouped + split


def _trellis_cases() -> list[Case]:
    """Return every bits with sizes about those of a tile, all frames, types and splits."""
    whole, half = ir.DataType.FLOAT, ir.DataType.FLOAT16
    sizes = ((1, 1), (4, 64), (7, 65), (100, 63), (131, 192), (384, 130))
    return [
        Case(frame_in, frame_out, bits, dtype, bias, splits=splits, trellis=True, batch=batch)
        for bits in (1, 2, 3, 4)
        for frame_in, frame_out, dtype, bias, splits, batch in (
            *((hadamard(n), IdentityFrame(m), whole, False, (), (6,)) for n, m in sizes),
            (IdentityFrame(33), IdentityFrame(70), half, True, (), (2, 3)),
            (hadamard(100, 1.3), hadamard(33), whole, True, (), (5,)),
            (WIDE_TETRIS, TETRIS, half, False, (), (5,)),
            (HarmonicFrame(100, 101), IdentityFrame(64), whole, False, (), (5,)),
            (hadamard(100), IdentityFrame(256), half, True, (64, 192), (2, 3, 4)),
        )
    ]


UNIFORM = FusionFrame.create(48, 1.1)  # its blocks are equal
PADDED = FusionFrame.create(41, 1.1)
TETRIS = fusion_frame(17, (7, 4, 18))  # blocks that overlap
WIDE_TETRIS = FusionFrame.create(100, 1.2)
PAIRS = (
    (FusionFrame.create(64), IdentityFrame(24)),
    (IdentityFrame(33), FusionFrame.create(64)),
    (FusionFrame.create(64), UNIFORM),
    (TETRIS, IdentityFrame(7)),
    (IdentityFrame(24), TETRIS),
    (WIDE_TETRIS, TETRIS),
    (PADDED, WIDE_TETRIS),
    (hadamard(100, 1.3), hadamard(33)),
    (IdentityFrame(40), hadamard(7)),
    (UNIFORM, hadamard(24, 1.3)),
    (FusionFrame.create(5), FusionFrame.create(1)),
    (HarmonicFrame(1, 1), IdentityFrame(7)),
    (HarmonicFrame(2, 3), IdentityFrame(7)),
    (HarmonicFrame(131, 400), IdentityFrame(24)),
    (HarmonicFrame(100, 101), IdentityFrame(24)),  # a prime number of vectors
    (HarmonicFrame.create(384, 3.0), IdentityFrame(33)),
    (IdentityFrame(40), HarmonicFrame(33, 99)),
    (HarmonicFrame(24, 48), HarmonicFrame(7, 16)),
)
CASES = _cases()
TRELLIS_CASES = _trellis_cases()


def build_model(spec: FrameOpSpec, arrays: Arrays, rank: int, opset: int = 20) -> onnx.ModelProto:
    """Return a model of one node of ``spec``, with its function."""
    x = ir.Value(name="x", type=ir.TensorType(spec.dtype))
    x.shape = ir.Shape([*(f"batch{i}" for i in range(rank - 1)), spec.frame_in.dim])
    tape = Tape()
    inputs: list[ir.Value | None] = []
    for name in spec.input_names():
        array = arrays.get(name)
        if name == "X":
            inputs.append(x)
        elif array is None or (name == "bias" and not spec.has_bias):
            inputs.append(None)
        else:
            inputs.append(tape.initializer(ir.tensor(array, name=name)))
    sizes = spec.splits or (spec.frame_out.dim,)
    # A node may end in absent inputs, and ONNX's evaluator wants to see them.
    outputs = tape.op_multi_out(
        spec.op_type,
        inputs,
        spec.attributes(),
        num_outputs=len(sizes),
        domain=DOMAIN,
        overload=spec.overload,
    )
    batch = x.shape[:-1] if spec.op_type == "FrameMatMul" else (spec.frame_in.dim,)
    for i, (y, size) in enumerate(zip(outputs, sizes, strict=True)):
        y.name, y.type = f"y{i}", ir.TensorType(spec.dtype)
        y.shape = ir.Shape([*batch, size])
    graph = ir.Graph(
        [x] if spec.op_type == "FrameMatMul" else [],
        outputs,
        nodes=tape.nodes,
        initializers=tape.initializers,
        opset_imports={"": opset, DOMAIN: 1, "com.microsoft": 1},
        name="main",
    )
    functions = [build_function(spec, opset)]
    return ir.to_proto(ir.Model(graph, ir_version=10, functions=functions))


def run_onnxruntime(
    model: onnx.ModelProto, *, save_as: Path | None = None, native: bool = False, **x: Any
) -> Any:
    """Return the output; ``native`` registers the library of operators."""
    return joined(make_session(model, save_as=save_as, native=native).run(None, x))


def joined(outputs: Any) -> Any:
    """Return the outputs of a node side by side."""
    return outputs[0] if len(outputs) == 1 else np.concatenate(outputs, axis=-1)


def make_session(
    model: onnx.ModelProto,
    *,
    save_as: Path | None = None,
    native: bool = False,
    threads: int = 0,
) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    if save_as is not None:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(save_as)
    if native:
        register(options)
    return ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def relative_error(found: np.ndarray, wanted: np.ndarray) -> float:
    """Return ‖found − wanted‖/‖wanted‖, or ‖found‖ where nothing is wanted."""
    error = np.linalg.norm(found.astype(np.float64) - wanted)
    return float(error / (np.linalg.norm(wanted) or 1.0))


def matmul_reference(case: Case, arrays: Arrays, x: np.ndarray) -> np.ndarray:
    return frame_matmul(x, **arrays, **described(case.weight()))


def dequant_reference(case: Case, arrays: Arrays) -> np.ndarray:
    inputs = {name: array for name, array in arrays.items() if name != "bias"}
    return frame_dequant(**inputs, **described(case.weight()))


def allowed(naive: np.ndarray, wanted: np.ndarray) -> float:
    """Return twice the error of the naive path in the same precision, and two last places."""
    return 2 * relative_error(naive, wanted) + 2 * float(np.finfo(naive.dtype).eps)


@cache
def naive_model(dtype: ir.DataType) -> onnx.ModelProto:
    name = dtype.name.lower()
    return onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["": 20]>
        naive ({name}[] x, {name}[K, N] w, {name}[N] b) => ({name}[] y) {{
            h = MatMul(x, w)
            y = Add(h, b)
        }}"""
    )
