"""Products without the rounding of activations: what the stored weights alone give."""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir

from fqonnx.passes.frame_functions import add_function, remove_unused_functions
from fqonnx.runtime_ops import DOMAIN, FrameOpSpec


class ExactProductsPass(ir.passes.InPlacePass):
    """Give each FrameMatMul of accuracy ``fast`` the accuracy ``exact``."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Change attributes and bodies of nodes, those of subgraphs included."""
        modified = False
        for node in model.graph.all_nodes():
            if node.domain != DOMAIN or node.op_type != "FrameMatMul":
                continue
            spec = FrameOpSpec.of_node(node)
            if spec.contrib:
                spec = replace(spec, contrib=False)
                node.attributes["accuracy"] = ir.AttrString("accuracy", "exact")
                node.overload = spec.overload
                add_function(model, spec)
                modified = True
        remove_unused_functions(model)
        return ir.passes.PassResult(model, modified)
