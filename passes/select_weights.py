"""Decide for every node with a weight whether it is quantized, and if not, why."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count

import onnx_ir as ir

from fqonnx.config import matches
from fqonnx.passes.constants import DERIVED_FROM, constant
from fqonnx.passes.convolution import Convolution
from fqonnx.passes.fold_weights import FOLDED
from fqonnx.passes.linear_layer import LinearLayer
from fqonnx.passes.normalize_linear import ORIGINAL_OP_TYPE
from fqonnx.runtime_ops import DOMAIN

MIN_WEIGHTS = 1024
MIN_DIM_IN = 16  # of a convolution: codes come in blocks of 16, and each channel has a scale
_DTYPES = (ir.DataType.FLOAT, ir.DataType.FLOAT16)
_PRODUCTS = ("MatMul", "Gemm")
_LINEAR = (*_PRODUCTS, "Conv")
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
    """

    def __init__(
        self,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        others: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.include = tuple(include)
        self.exclude = tuple(exclude)
        self.others = tuple(others)
        self.layers: list[LinearLayer] = []
        self.kept: list[Unquantized] = []
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
            reason = place or self._reason(node, name) or not_wanted
            if reason is None:
                self.layers.append(_layer(node, name))
            else:
                tensor = _weight_tensor(node)
                shape = None if tensor is None else tuple(int(d) for d in tensor.shape.numpy())
                self.kept.append(Unquantized(name, _op_type(node), shape, reason))
        return ir.passes.PassResult(model, modified=False)

    def _reason(self, node: ir.Node, name: str) -> str | None:
        """Return why a node of the main graph is kept, or None if it is to be quantized."""
        if node.domain != "" or node.op_type not in _LINEAR:
            return f"{node.op_type} is not a linear layer; MatMul, Gemm and Conv are quantized"
        x, weight = node.inputs[0], node.inputs[1]
        tensor = constant(weight)
        if weight is None or tensor is None:
            if weight is not None and weight.is_initializer():
                return "the weight is a graph input too, so a caller may replace it"
            if constant(x) is not None:
                return "the constant is the left operand"
            source = _folded_source(weight)
            if source is not None:
                return f"the weight is made from {source.name!r}, which other nodes read too"
            return "both operands are activations"
        rank, is_product = len(tensor.shape), node.op_type in _PRODUCTS
        if is_product and rank != 2:
            return f"the weight has {rank} dimensions, expected 2"
        if tensor.dtype not in _DTYPES:
            return f"the weight is {tensor.dtype.name}, expected FLOAT or FLOAT16"
        alike = _PRODUCTS if is_product else ("Conv",)
        other = next((u.node for u in weight.uses() if u.node.op_type not in alike), None)
        if other is not None:
            return (
                f"the weight is shared with {other.op_type} node {other.name!r}, which stays float"
            )
        if len({use.node.attributes.get_int("group", 1) for use in weight.uses()}) > 1:
            return "the weight is shared with a Conv of another number of groups"
        if node.op_type == "Gemm":
            return "the Gemm could not be rewritten as MatMul"
        if tensor.size < MIN_WEIGHTS:
            return f"{tensor.size} weights, fewer than {MIN_WEIGHTS}: the bytes are not worth it"
        channels, groups = tensor.shape.numpy()[0], node.attributes.get_int("group", 1)
        if not is_product and (groups < 1 or channels % groups):
            return f"its {channels} channels are not {groups} groups"
        dim_in = tensor.size // channels
        if not is_product and dim_in < MIN_DIM_IN:
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
    names = {name, node.name or ""}
    for value in node.inputs:
        if value is not None and value.is_initializer():
            names |= {str(value.name), str(value.meta.get(DERIVED_FROM, value.name))}
    return frozenset(names)


def _all_nodes(model: ir.Model) -> Iterator[tuple[ir.Node, str | None]]:
    """Yield every node and, outside the main graph, why it is not looked at."""
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if node.graph is model.graph:
            yield node, None
        else:
            yield node, "inside a subgraph (If, Loop or Scan): not supported yet"
    for function in model.functions.values():
        if function.domain == DOMAIN:
            continue
        for node in ir.traversal.RecursiveGraphIterator(function.graph):
            yield node, f"inside the function {function.domain}::{function.name}: not supported yet"


def _is_weighted(node: ir.Node) -> bool:
    """Whether the node is linear, or reads a float constant of two or more dimensions."""
    if node.domain == "" and node.op_type in _LINEAR:
        return not _is_quantized(node)
    return _weight_tensor(node) is not None


def _is_quantized(node: ir.Node) -> bool:
    """Whether the weight comes from a FrameDequant, maybe in another shape."""
    value = node.inputs[1]
    while value is not None and (source := value.producer()) is not None:
        if (source.domain, source.op_type) == (DOMAIN, "FrameDequant"):
            return True
        value = source.inputs[0] if source.op_type in ("Transpose", "Reshape") else None
    return False


def _weight_tensor(node: ir.Node) -> ir.TensorProtocol | None:
    for value in node.inputs:
        tensor = ir.convenience.get_const_tensor(value) if value is not None else None
        if (
            tensor is not None
            and len(tensor.shape) >= 2
            and tensor.dtype.is_floating_point()
            and (tensor.size >= MIN_WEIGHTS or node.op_type in _LINEAR)
        ):
            return tensor
    return None


def _layer(node: ir.Node, name: str) -> LinearLayer:
    weight = node.inputs[1]
    assert weight is not None
    assert weight.const_value is not None
    if node.op_type == "Conv":
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        convolution = Convolution.of(node, weight.const_value.shape.numpy())
        return LinearLayer(
            name, _names(node, name), _op_type(node), node, None, weight, bias, convolution
        )
    add, bias = _bias(node)
    return LinearLayer(name, _names(node, name), _op_type(node), node, add, weight, bias)


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
    tensor = constant(bias)
    weight = constant(node.inputs[1])
    if tensor is None or weight is None or tensor.dtype != weight.dtype:
        return None, None
    if tuple(tensor.shape.numpy()) != (weight.shape[1],):
        return None, None
    return add, bias


def _folded_source(value: ir.Value | None) -> ir.Value | None:
    """Return the constant that a value is made from by nodes that `FoldWeightsPass` folds."""
    while value is not None and (node := value.producer()) is not None:
        if node.op_type not in FOLDED or not node.inputs:
            return None
        value = node.inputs[0]
    return value if constant(value) is not None else None


def _op_type(node: ir.Node) -> str:
    return str(node.meta.get(ORIGINAL_OP_TYPE, node.op_type))


def layer_name(node: ir.Node, taken: Collection[str] = ()) -> str:
    """Return the module path that PyTorch's exporter left, or the node's name; not one taken."""
    candidates = [node.name or str(node.outputs[0].name)]
    if _op_type(node) in _LINEAR or node.domain == DOMAIN:
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
