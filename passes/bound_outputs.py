"""How far quantized weights can move the outputs of a network, whatever the input."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from fqonnx.passes.lipschitz import Rules, UnboundedError
from fqonnx.passes.norms import Affine, Bounds, LayerNorms


class BoundOutputsPass(ir.passes.InPlacePass):
    """Bound the error of each graph output. Changes nothing; the answer is in ``bounds``.

    Norms are Euclidean, of one sample. With ‖x‖ the norm of the inputs, each value v of the graph
    has ‖v‖ ≤ a·‖x‖ + b, and its error has ‖v − v̂‖ ≤ c·‖x‖ + d. Both follow from those of the inputs
    of its node: a layer multiplies them by operator norms, a Lipschitz function by its constant, a
    residual sum adds them (arXiv 2404.08131, for feed-forward and residual networks). The network
    must treat samples one by one, and rounding to the runtime's float type is not counted.

    Args:
        layers: Norms of the quantized layers, by the node that multiplies by the weight.
    """

    def __init__(self, layers: Mapping[ir.Node, LayerNorms]) -> None:
        super().__init__()
        self.layers = layers
        self.bounds: dict[str, Affine | str] = {}  # by output: that of its error, or why none

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Fill ``bounds``."""
        found = _inputs(model.graph)
        rules = Rules(self.layers, {v.shape[0] for v in model.graph.inputs if v.shape})
        for node in model.graph:
            before = [found.get(value) if value is not None else None for value in node.inputs]
            failed = next((bounds for bounds in before if isinstance(bounds, str)), None)
            known = [bounds for bounds in before if isinstance(bounds, Bounds)]
            if node.op_type in ("Shape", "Size") or (failed is None and not known):
                continue  # it makes constants
            try:
                after = failed or rules.apply(node, before)
            except UnboundedError as error:
                after = str(error)
            found.update(dict.fromkeys(node.outputs, after))
        for output in model.graph.outputs:
            bounds = found.get(output, Bounds(Affine(0.0), Affine(0.0)))
            self.bounds[str(output.name)] = bounds if isinstance(bounds, str) else bounds.error
        return ir.passes.PassResult(model, modified=False)


def _inputs(graph: ir.Graph) -> dict[ir.Value, Bounds | str]:
    """Return the bounds of the inputs, or why there are none."""
    sizes = {value.shape[0] if value.shape else None for value in graph.inputs}
    if len(sizes) != 1 or any(size is None or isinstance(size, int) for size in sizes - {1}):
        reason = "the inputs have no open first axis in common, the one of samples"
        return dict.fromkeys(graph.inputs, reason)
    return {
        value: Bounds(Affine(1.0), Affine(0.0))
        if value.dtype is not None and value.dtype.is_floating_point()
        else f"input {value.name!r} is not of a float type"
        for value in graph.inputs
    }
