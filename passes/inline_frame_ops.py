"""Lower FrameMatMul and FrameDequant to plain nodes: the ``stock`` lowering."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from fqonnx.passes.frame_functions import remove_unused_functions
from fqonnx.runtime_ops import DOMAIN


class InlineFrameOpsPass(ir.passes.InPlacePass):
    """Replace the operators of our domain by their bodies; no trace of the domain is left."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Inline our functions and no others."""
        result = InlinePass(criteria=lambda function: function.domain == DOMAIN)(model)
        unused = remove_unused_functions(model)
        imported = model.graph.opset_imports.pop(DOMAIN, None) is not None
        return ir.passes.PassResult(model, result.modified or unused or imported)
