"""Decide for every node with a weight whether it is quantized, and if not, why."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count

import onnx_ir as ir

from fqonnx.config import matches
from fqonnx.passes.carry_out import CARRIES, owners
from fqonnx.passes.constants import constant, made_from, readers, steps
from fqonnx.passes.convolution import Convolution
from fqonnx.passes.linear_layer import DTYPES, LINEAR, MIN_WEIGHTS, LinearLayer
from fqonnx.passes.lookups import SharedTable, share_tables
from fqonnx.passes.normalize_linear import ORIGINAL_OP_TYPE
from fqonnx.runtime_ops import DOMAIN

MIN_DIM_IN = 16  # of a convolution: codes come in blocks of 16, and each channel has a scale
# Operators of integers, whose weights are constants of 8 bits.
_OF_INTEGERS = {("", op) for op in ("MatMulInteger", "QLinearMatMul", "ConvInteger", "QLinearConv")}
_OF_INTEGERS |= {
    ("com.microsoft", op)
    for op in ("QAttention", "QGemm", "MatMulIntegerToFloat", "DynamicQuantizeMatMul")
}
_READERS = LINEAR | {("", "Gather")}  # an embedding table may be the weight of the last layer too
NOT_INCLUDED = "no --include pattern matches"


@dataclass(frozen=True)
class Unquantized:
    """A node that stays as it is.

    Attributes:
        name: As in `LinearLayer`.
        op_type: The operator.
        shape: Shape of its weight, or None where it has no constant one.
        reason: Why.
    """

    name: str
    op_type: str
    shape: tuple[int, ...] | None
    reason: str


class SelectWeightsPass(ir.passes.InPlacePass):
    """Find the layers to quantize. Changes nothing; the answer is in ``layers`` and ``kept``.

    Args:
        include: Globs; a layer is taken if its name, node or weight matches one. Empty takes all.
        exclude: Globs of what is not taken.
        others: Globs that mean something later on.
        requantize: Whether weights behind a DequantizeLinear are taken.
    """

    def __init__(
        self,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        others: Sequence[str] = (),
        *,
        requantize: bool = False,
    ) -> None:
        super().__init__()
        self.include = tuple(include)
        self.exclude = tuple(exclude)
        self.others = tuple(others)
        self.requantize = requantize
        self.layers: list[LinearLayer] = []
        self.kept: list[Unquantized] = []
        self.tables: list[SharedTable] = []  # of layers, that Gather nodes read too
        self.unmatched: list[str] = []  # patterns that match no node with a weight

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Fill ``layers`` and ``kept``, both in graph order."""
        self.layers, self.kept = [], []
        self.unmatched = [*self.include, *self.exclude, *self.others]
        taken_names: set[str] = set()
        for node, place in _all_nodes(model):
            if not _is_weighted(node):
                continue
            name = layer_name(node, taken_names)
            taken_names.add(name)
            not_wanted = self._not_wanted(node, name)
            reason = place or self._reason(node) or not_wanted
            if reason is None:
                self.layers.append(_layer(node, name))
            else:
                tensor = _weight_tensor(node)
                shape = None if tensor is None else tuple(int(d) for d in tensor.shape.numpy())
                self.kept.append(Unquantized(name, _op_type(node), shape, reason))
        self.layers, self.tables = share_tables(self.layers)
        return ir.passes.PassResult(model, modified=False)

    def _reason(self, node: ir.Node) -> str | None:
        """Return why a node is kept, or None if it is to be quantized."""
        kind = node.domain, node.op_type
        if kind in _OF_INTEGERS:
            return f"the weight of {node.op_type} is of integers already"
        if kind not in LINEAR:
            return f"{node.op_type} is not a linear layer; MatMul, Gemm and Conv are quantized"
        x, weight = node.inputs[0], node.inputs[1]
        tensor = constant(weight)
        if weight is None or tensor is None:
            if weight is not None and weight.is_initializer():
                return "the weight is a graph input too, so a caller may replace it"
            if constant(x) is not None:
                return "the constant is the left operand"
            return "both operands are activations"
        rank = len(tensor.shape)
        if rank < 2:
            return f"the weight has {rank} dimensions, expected 2 or more"
        if tensor.dtype not in DTYPES:
            return f"the weight is {tensor.dtype.name}, expected FLOAT or FLOAT16"
        if not self.requantize and "DequantizeLinear" in steps(weight):
            return (
                "the weight is quantized already, behind a DequantizeLinear; --requantize "
                "quantizes what that gives"
            )
        *_, source = made_from(weight)
        for other in readers(source):
            if (other.domain, other.op_type) not in _READERS:
                return (
                    f"the weight is shared with {other.op_type} node {other.name!r}, "
                    "which stays float"
                )
        if len({use.node.attributes.get_int("group", 1) for use in weight.uses()}) > 1:
            return "the weight is shared with a Conv of another number of groups"
        if tensor.size < MIN_WEIGHTS:
            return f"{tensor.size} weights, fewer than {MIN_WEIGHTS}: the bytes are not worth it"
        if node.op_type in ("Gemm", "FusedMatMul"):
            return f"the {node.op_type} could not be rewritten as MatMul"
        if node.op_type != "Conv":
            return None
        channels, groups = tensor.shape.numpy()[0], node.attributes.get_int("group", 1)
        if groups < 1 or channels % groups:
            return f"its {channels} channels are not {groups} groups"
        dim_in = tensor.size // channels
        if dim_in < MIN_DIM_IN:
            return (
                f"{dim_in} weights a channel, fewer than {MIN_DIM_IN}: padding would eat the gain"
            )
        return None

    def _not_wanted(self, node: ir.Node, name: str) -> str | None:
        """Return why a user does not want a node quantized, and note the patterns that match."""
        names = _names(node, name)
        self.unmatched = [p for p in self.unmatched if not matches(names, p)]
        if self.include and not _matches_any(names, self.include):
            return NOT_INCLUDED
        return "an --exclude pattern matches" if _matches_any(names, self.exclude) else None


def _names(node: ir.Node, name: str) -> frozenset[str]:
    """Return all that a pattern may call a layer by."""
    constants = [value for value in node.inputs if value is not None and constant(value)]
    sources = [str(source.name) for value in constants for source in made_from(value)]
    return frozenset((name, node.name or "", *sources))


def _all_nodes(model: ir.Model) -> Iterator[tuple[ir.Node, str | None]]:
    """Yield every node and, where it cannot be calibrated, why it is not looked at."""
    inside = owners(model.graph)
    for node in model.graph.all_nodes():
        graph, place = node.graph, None
        while isinstance(graph, ir.Graph) and graph in inside:
            owner = inside[graph]
            if (owner.domain, owner.op_type) not in CARRIES:
                place = f"inside a graph of {owner.op_type}, which is no If, Loop or Scan"
            graph = owner.graph
        yield node, place
    for function in model.functions.values():
        if function.domain == DOMAIN:
            continue
        for node in function.all_nodes():
            name = f"{function.domain}::{function.name}"
            yield node, f"inside the function {name}, whose opset is not that of the model"


def _is_weighted(node: ir.Node) -> bool:
    """Whether the node is linear, or reads a float constant of two or more dimensions."""
    kind = node.domain, node.op_type
    if kind in LINEAR:
        return not _is_quantized(node)
    return kind in _OF_INTEGERS or _weight_tensor(node) is not None


def _is_quantized(node: ir.Node) -> bool:
    """Whether the weight comes from a FrameDequant, maybe in another shape."""
    value = node.inputs[1]
    while value is not None and (source := value.producer()) is not None:
        if (source.domain, source.op_type) == (DOMAIN, "FrameDequant"):
            return True
        value = source.inputs[0] if source.op_type in ("Transpose", "Reshape") else None
    return False


def _weight_tensor(node: ir.Node) -> ir.TensorProtocol | None:
    if constant(node.outputs[0] if node.outputs else None) is not None:
        return None  # it is not run, but folded: what reads it has the weight
    for value in node.inputs:
        tensor = constant(value)
        if (
            tensor is not None
            and len(tensor.shape) >= 2
            and tensor.dtype.is_floating_point()
            and (tensor.size >= MIN_WEIGHTS or (node.domain, node.op_type) in LINEAR)
        ):
            return tensor
    return None


def _layer(node: ir.Node, name: str) -> LinearLayer:
    weight = node.inputs[1]
    assert weight is not None
    weight.const_value = constant(weight)
    assert weight.const_value is not None
    convolution = None
    if node.op_type == "Conv":
        convolution = Convolution.of(node, weight.const_value.shape.numpy())
    if node.op_type == "MatMul":
        add, bias = _bias(node)
    else:
        add, bias = None, node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None:
        bias.const_value = constant(bias)
    return LinearLayer(
        name, _names(node, name), _op_type(node), node, add, weight, bias, convolution
    )


def _bias(node: ir.Node) -> tuple[ir.Node | None, ir.Value | None]:
    """Return the Add behind a MatMul and its constant vector, if that is all that reads it."""
    output = node.outputs[0]
    uses = output.uses()
    if output.is_graph_output() or len(uses) != 1:
        return None, None
    add, index = next(iter(uses))
    if (add.domain, add.op_type) != ("", "Add") or add.graph is not node.graph:
        return None, None
    bias = add.inputs[1 - index]
    tensor, weight = constant(bias), constant(node.inputs[1])
    if tensor is None or weight is None or tensor.dtype != weight.dtype:
        return None, None
    if len(weight.shape) != 2 or tensor.shape.numpy() != weight.shape.numpy()[1:]:
        return None, None
    return add, bias


def _op_type(node: ir.Node) -> str:
    return str(node.meta.get(ORIGINAL_OP_TYPE, node.op_type))


def layer_name(node: ir.Node, taken: Collection[str] = ()) -> str:
    """Return the module path that PyTorch's exporter left, or the node's name; not one taken."""
    candidates = [node.name or str(node.outputs[0].name)]
    if (node.domain, node.op_type) in LINEAR or node.domain == DOMAIN:
        candidates[:0] = _module_path(node)
    fallback = candidates[-1]
    numbered = (f"{fallback}_{number}" for number in count(2))
    return next(name for name in chain(candidates, numbered) if name not in taken)


def _module_path(node: ir.Node) -> list[str]:
    try:
        path = ast.literal_eval(node.metadata_props["pkg.torch.onnx.name_scopes"])[-2]
    except (KeyError, ValueError, SyntaxError, IndexError, TypeError):
        return []
    return [path] if isinstance(path, str) and path else []


def _matches_any(names: Collection[str], patterns: Sequence[str]) -> bool:
    return any(matches(names, pattern) for pattern in patterns)
