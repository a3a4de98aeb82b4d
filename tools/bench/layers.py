"""Models of single layers, to be timed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape

from fqonnx.frames import HadamardFrame, IdentityFrame
from fqonnx.packing import TILE, TILE_COLUMNS, TILE_ROWS, choose_block_size, pack_signs
from fqonnx.passes import MergeFrameMatMulsPass
from fqonnx.quant.trellis import trellis_code
from fqonnx.runtime_ops import FrameOpSpec, build_function

OPSET = 20


def float_model(dim_in: int, dim_out: int) -> ir.Model:
    weight = np.random.default_rng(0).standard_normal((dim_in, dim_out), np.float32)
    tape = Tape()
    x = activation("x", dim_in)
    y = tape.op("MatMul", [x, tape.initializer(ir.tensor(weight, name="weight"))])
    return model(tape, x, [y], dim_out, {"": OPSET}, [])


def frame_model(
    dim_in: int, dim_out: int, bits: int, *, contrib: bool = True, layers: int = 1
) -> ir.Model:
    """FrameMatMuls of one input with random codes: time does not depend on their values."""
    frame = HadamardFrame.create(dim_in)
    block_size = choose_block_size(frame.num_vectors)
    frame_out = IdentityFrame(dim_out).spec
    spec = FrameOpSpec("FrameMatMul", frame.spec, frame_out, bits, block_size, contrib=contrib)
    blocks = -(-frame.num_vectors // block_size)
    rng = np.random.default_rng(0)
    tape = Tape()
    x = activation("x", dim_in)
    signs = tape.initializer(ir.tensor(pack_signs(frame.signs.numpy()), name="signs"))
    outputs = []
    for i in range(layers):
        codes = rng.integers(0, 256, (dim_out, blocks, block_size * bits // 8), np.uint8)
        scales = np.ones((dim_out, 1), np.float16)
        packed = {f"codes_{i}": codes, f"scales_{i}": scales}
        values = [tape.initializer(ir.tensor(a, name=name)) for name, a in packed.items()]
        y = tape.op(
            "FrameMatMul",
            [x, *values, None, signs],
            spec.attributes(),
            domain="fqonnx",
            overload=spec.overload,
            name=f"layer_{i}",
        )
        outputs.append(y)
    opsets = {"": OPSET, "fqonnx": 1, "com.microsoft": 1}
    return model(tape, x, outputs, dim_out, opsets, [build_function(spec, OPSET)])


def trellis_model(dim_in: int, dim_out: int, bits: int) -> ir.Model:
    """A FrameMatMul of random trellis codes."""
    frame, code = HadamardFrame.create(dim_in), trellis_code(bits)
    spec = FrameOpSpec(
        "FrameMatMul",
        frame.spec,
        IdentityFrame(dim_out).spec,
        bits,
        TILE,
        codebook="trellis",
        multiplier=code.multiplier,
    )
    tiles = (-(-dim_out // TILE_ROWS), -(-frame.num_vectors // TILE_COLUMNS))
    packed = {
        "codes": np.random.default_rng(0).integers(0, 256, (*tiles, TILE * bits // 8), np.uint8),
        "scales": np.ones((dim_out, 1), np.float16),
        "signs": pack_signs(frame.signs.numpy()),
        "levels": code.levels,
    }
    tape = Tape()
    x = activation("x", dim_in)
    codes, scales, signs, levels = (
        tape.initializer(ir.tensor(array, name=name)) for name, array in packed.items()
    )
    y = tape.op(
        "FrameMatMul",
        [x, codes, scales, None, signs, None, None, levels],
        spec.attributes(),
        domain="fqonnx",
        overload=spec.overload,
    )
    opsets = {"": OPSET, "fqonnx": 1, "com.microsoft": 1}
    return model(tape, x, [y], dim_out, opsets, [build_function(spec, OPSET)])


def merged_model(dim_in: int, dim_out: int, bits: int, layers: int) -> ir.Model:
    content = frame_model(dim_in, dim_out, bits, layers=layers)
    MergeFrameMatMulsPass()(content)
    return content


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
    return model(tape, x, [y], dim_out, {"": OPSET, "com.microsoft": 1}, [])


def trivial_model(dim_in: int) -> ir.Model:
    """What a runtime takes to run anything at all: a few numbers are copied."""
    tape = Tape()
    x = activation("x", dim_in)
    bounds = (np.zeros(2, np.int64), np.array([1, 16]))
    ends = [tape.op("Constant", [], {"value": ir.tensor(bound)}) for bound in bounds]
    return model(tape, x, [tape.op("Slice", [x, *ends])], 16, {"": OPSET}, [])


def activation(name: str, dim: int) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["m", dim]))


def model(
    tape: Tape,
    x: ir.Value,
    outputs: Sequence[ir.Value],
    dim_out: int,
    opsets: dict[str, int],
    functions: Sequence[ir.Function],
) -> ir.Model:
    for i, y in enumerate(outputs):
        y.name, y.dtype, y.shape = f"y_{i}", ir.DataType.FLOAT, ir.Shape(["m", dim_out])
    graph = ir.Graph(
        [x],
        outputs,
        nodes=tape.nodes,
        initializers=tape.initializers,
        opset_imports=opsets,
        name="layer",
    )
    return ir.Model(graph, ir_version=10, functions=functions)
