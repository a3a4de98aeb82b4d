"""The functions that FrameMatMul and FrameDequant nodes bring along."""

from __future__ import annotations

import onnx_ir as ir

from fqonnx.runtime_ops import DOMAIN, OPSET_VERSION, FrameOpSpec, build_function

_OVERLOADS_IR_VERSION = 10  # the first whose functions have overloads


def add_function(model: ir.Model, spec: FrameOpSpec) -> None:
    """Give a model the function of an operator, and what the function imports."""
    key = (DOMAIN, spec.op_type, spec.overload)
    if key in model.functions:
        return
    opsets = model.graph.opset_imports
    function = build_function(spec, opsets[""])
    model.functions[key] = function
    model.ir_version = max(model.ir_version, _OVERLOADS_IR_VERSION)
    opsets[DOMAIN] = OPSET_VERSION
    for domain, version in function.opset_imports.items():
        opsets.setdefault(domain, version)


def remove_unused_functions(model: ir.Model) -> bool:
    """Drop functions of our domain that no node calls; say if there were any."""
    used = {node.op_identifier() for node in model.graph.all_nodes()}
    unused = [key for key in model.functions if key[0] == DOMAIN and key not in used]
    for key in unused:
        del model.functions[key]
    return bool(unused)
