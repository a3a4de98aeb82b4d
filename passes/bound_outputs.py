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
        batch = _batch(model.graph)
        if batch is None:
            reason = "the inputs have no named first axis in common, the one of samples"
            self.bounds = {str(output.name): reason for output in model.graph.outputs}
            return ir.passes.PassResult(model, modified=False)
        found = {value: _input(value) for value in model.graph.inputs}
        rules = Rules(self.layers, batch)
        for node in model.graph:
            before = [found.get(value) if value is not None else None for value in node.inputs]
            failed = next((bounds for bounds in before if isinstance(bounds, str)), None)
            known = [bounds if isinstance(bounds, Bounds) else None for bounds in before]
            if _has_subgraph(node):  # which may read any value
                failed = failed or f"{node.op_type} node {node.name!r} has a subgraph"
            elif node.op_type in ("Shape", "Size") or (failed is None and not any(known)):
                continue  # it makes constants
            try:
                after = failed or rules.apply(node, known)
            except UnboundedError as error:
                after = str(error)
            first, *others = node.outputs
            found[first] = after
            # indices or a mask: the rules are of the first output
            found.update(dict.fromkeys(others, f"no bound is known for {node.op_type}'s others"))
        for output in model.graph.outputs:
            bounds = found.get(output)
            if isinstance(bounds, Bounds) and not _is_by_sample(output, batch):
                bounds = f"the first axis of {output.name!r} is not that of samples"
            found_error = bounds.error if isinstance(bounds, Bounds) else bounds
            self.bounds[str(output.name)] = found_error or Affine(0.0)  # of a constant
        return ir.passes.PassResult(model, modified=False)


def _batch(graph: ir.Graph) -> int | ir.SymbolicDim | None:
    """Return the number of samples, a name or 1, if it is the first axis of all inputs."""
    sizes = {value.shape[0] if value.shape else None for value in graph.inputs}
    size = sizes.pop() if len(sizes) == 1 else None
    return size if size == 1 or (isinstance(size, ir.SymbolicDim) and size.value) else None


def _input(value: ir.Value) -> Bounds | str:
    if value.dtype is not None and value.dtype.is_floating_point():
        return Bounds(Affine(1.0), Affine(0.0))
    return f"input {value.name!r} is not of a float type"


def _has_subgraph(node: ir.Node) -> bool:
    graphs = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    return any(attribute.type in graphs for attribute in node.attributes.values())


def _is_by_sample(output: ir.Value, batch: int | ir.SymbolicDim) -> bool:
    """Whether the rows of an output may be the samples: other names of that axis are allowed."""
    if batch == 1 or output.shape is None:
        return True
    first, *others = output.shape or (1,)
    return first == batch or (not isinstance(first, int) and batch not in others)
