"""Function bodies of the operators in stock ONNX (and, where allowed, ``com.microsoft``) nodes.

A body holds its dimensions as constants; nodes of equal spec share it. What FrameMatMul makes of
packed bytes alone stays small when a runtime folds it at load: the fast body hands packed codes to
MatMulNBits, the standard one leaves int8 behind a DequantizeLinear, which ORT does not fold, and
both decode a trellis code to 8 bits. A FrameDequant folds into its weight, so that a convolution is
as fast as the float one.
All operators used exist since opset 13 with unchanged meaning, so a body takes the opset of the
model that it goes into.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from fqonnx.runtime_ops.code_nodes import dequantized, packed_matmul
from fqonnx.runtime_ops.frame_nodes import analysis, synthesis
from fqonnx.runtime_ops.recorder import Recorder
from fqonnx.runtime_ops.spec import DOMAIN, FrameOpSpec
from fqonnx.runtime_ops.trellis_nodes import trellis_coeffs, trellis_matmul


def build_function(spec: FrameOpSpec, opset_version: int) -> ir.Function:
    """Return the function of a spec, for a model of the given ai.onnx opset (13 or later)."""
    recorder = Recorder(spec.dtype, opset_version)
    inputs = [ir.Value(name=name) for name in spec.input_names()]
    values = dict(zip(spec.input_names(), inputs, strict=True))
    build = _frame_matmul if spec.op_type == "FrameMatMul" else _frame_dequant
    outputs = build(recorder, values, spec)
    opsets = {"": opset_version}
    if spec.contrib and spec.op_type == "FrameMatMul":
        opsets["com.microsoft"] = 1
    nodes = recorder.tape.nodes
    for i, node in enumerate(nodes):  # inlined names must not meet those of a model
        node.name = f"fqonnx_{spec.op_type}_{i}"
        for k, output in enumerate(node.outputs):
            output.name = f"{node.name}_{k}" if k else node.name
    graph = ir.Graph(inputs, outputs, nodes=nodes, opset_imports=opsets, name=spec.op_type)
    return ir.Function(
        DOMAIN,
        spec.op_type,
        overload=spec.overload,
        graph=graph,
        attributes=ir.convenience.convert_attributes(spec.attributes()),
    )


def _frame_matmul(
    tape: Recorder, values: dict[str, ir.Value], spec: FrameOpSpec
) -> Sequence[ir.Value]:
    x = analysis(tape, values["X"], spec.frame_in, values["signs_in"])
    if not spec.contrib:
        y = tape.op("MatMul", x, tape.op("Transpose", _coeffs(tape, values, spec)))
    elif spec.codebook == "trellis":
        y = trellis_matmul(tape, x, values, spec)
    else:
        y = packed_matmul(tape, x, values, spec)
    y = synthesis(tape, y, spec.frame_out, values["signs_out"])
    if spec.has_bias:
        y = tape.op("Add", y, values["bias"])
    return tape.split(y, spec.splits) if spec.splits else [y]


def _frame_dequant(
    tape: Recorder, values: dict[str, ir.Value], spec: FrameOpSpec
) -> Sequence[ir.Value]:
    coeffs = _coeffs(tape, values, spec)
    columns = synthesis(tape, coeffs, spec.frame_in, values["signs_in"])
    weight = tape.op("Transpose", columns)
    return [synthesis(tape, weight, spec.frame_out, values["signs_out"])]


def _coeffs(tape: Recorder, values: dict[str, ir.Value], spec: FrameOpSpec) -> ir.Value:
    build = trellis_coeffs if spec.codebook == "trellis" else dequantized
    return build(tape, values, spec)
