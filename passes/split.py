"""A model cut into segments, which run one after the other, each with its part of the weights.

A cut is where few and small activations are on their way. What depends on constants alone is no
activation: each segment that reads it computes it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import prod
from typing import TypeAlias

import onnx
import onnx_ir as ir

from fqonnx.passes.carry_out import subgraphs
from fqonnx.passes.graft import with_subgraphs
from fqonnx.runtime_ops import DOMAIN
from fqonnx.session import NUMERIC

# Drawn again by another segment, their numbers would be others.
_RANDOM = {
    "Bernoulli",
    "Dropout",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
}
_OPEN_DIM = 64  # entries of a dimension without a number, where activations are compared
_OPEN_SHAPE = 1 << 24  # entries of an activation whose shape is not known
# Bytes a weight that an operator of ours takes while ONNX Runtime unpacks it.
_UNPACKED = {"scalar": 4, "trellis": 24}


_Weights: TypeAlias = dict[ir.Value | ir.Node, int]  # bytes by initializer, or packed operator


@dataclass(frozen=True)
class Segment:
    """Nodes that run together, by the names of their values.

    Attributes:
        inputs: The graph inputs, and the outputs of earlier segments that it reads.
        outputs: Those of its values that later segments read, or that are asked for.
        values: What it computes but for constants, subgraphs included: the value of the main graph
            that is to be asked for so that it is computed.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    values: Mapping[str, str]

    def extract(self, model: ir.Model, outputs: Sequence[str]) -> ir.Model:
        """Return the segment as a model of its own, which shares its tensors with the whole.

        Args:
            model: What was split. Its nodes may have been replaced, if names stayed.
            outputs: Names of what it is to return.
        """
        return ir.Model(
            ir.convenience.extract(model.graph, self.inputs, outputs),
            ir_version=model.ir_version,
            functions=[function.clone() for function in model.functions.values()],
        )


def split(model: ir.Model, most_bytes: int, outputs: Collection[str]) -> list[Segment]:
    """Cut the main graph where it is narrow, so that no segment has more weights than asked for.

    A node that has more is a segment of its own. There is no cut where something else than tensors
    of numbers would be on its way.

    Args:
        model: The model, its main graph in topological order. Types help where they are known.
        most_bytes: Of the weights of a segment, unpacked: those in float16 count as float32.
        outputs: Names of the values that are asked for.

    Returns:
        The segments in their order, one or more.
    """
    graph = model.graph
    weights = _weights(graph)
    nodes = list(weights)
    made_by = {value: i for i, node in enumerate(nodes) for value in node.outputs}
    last_reader = dict(made_by)
    for i, node in enumerate(nodes):
        last_reader.update((value, i) for value in _reads(node) if value in made_by)
    widths = _widths(made_by, last_reader, len(nodes))
    bounds = list(_cuts([weights[node] for node in nodes], widths, most_bytes))

    given = tuple(str(value.name) for value in graph.inputs if not value.is_initializer())
    elsewhere = set(outputs) - {str(value.name) for value in made_by}  # inputs, constants
    segments = []
    for start, end in zip([0, *bounds], [*bounds, len(nodes)], strict=True):
        read = dict.fromkeys(v for node in nodes[start:end] for v in _reads(node) if v in made_by)
        made = [value for node in nodes[start:end] for value in node.outputs if value.name]
        passed = [str(v.name) for v in made if last_reader[v] >= end or v.name in outputs]
        segments.append(
            Segment(
                (*given, *(str(value.name) for value in read if made_by[value] < start)),
                (*passed, *(sorted(elsewhere - set(given)) if end == len(nodes) else ())),
                {name: top for node in nodes[start:end] for name, top in _computed(node)},
            )
        )
    return segments


def _reads(node: ir.Node) -> Iterator[ir.Value]:
    """Yield what a node reads, subgraphs included."""
    for inner in with_subgraphs([node]):
        yield from (value for value in inner.inputs if value is not None)


def _computed(node: ir.Node) -> Iterator[tuple[str, str]]:
    """Yield the names of what a node computes, each with that of an output of the node."""
    for inner in with_subgraphs([node]):
        for value in inner.outputs:
            top = value if inner is node else node.outputs[0]
            yield str(value.name), str(top.name)
        for graph in subgraphs(inner):
            yield from ((str(value.name), str(node.outputs[0].name)) for value in graph.inputs)


def _weights(graph: ir.Graph) -> dict[ir.Node, _Weights]:
    """Return the nodes that depend on an input, in order, with the bytes of what they read."""
    activations = {value for value in graph.inputs if not value.is_initializer()}
    behind: dict[ir.Value, _Weights] = {}  # constants, and what made them
    found = {}
    for node in graph:
        read = set(_reads(node))
        own: _Weights = {}
        for value in sorted(read, key=lambda value: str(value.name)):
            own |= behind[value] if value in behind else _initializer(value)
        if node.domain == DOMAIN:
            own[node] = _unpacked_bytes(node)
        if node.op_type in _RANDOM or not activations.isdisjoint(read):
            activations.update(node.outputs)
            found[node] = own
        else:
            behind.update(dict.fromkeys(node.outputs, own))
    return found


def _initializer(value: ir.Value) -> _Weights:
    tensor = value.const_value if value.is_initializer() else None
    if tensor is None:
        return {}
    return {value: tensor.nbytes * (2 if tensor.dtype == ir.DataType.FLOAT16 else 1)}


def _unpacked_bytes(node: ir.Node) -> int:
    vectors = (node.attributes.get_int(f"num_vectors_{side}", 0) for side in ("in", "out"))
    return prod(vectors) * _UNPACKED[node.attributes.get_string("codebook", "scalar")]


def _widths(
    made_by: dict[ir.Value, int], last_reader: dict[ir.Value, int], num_nodes: int
) -> list[int | None]:
    """Return the entries on their way before each node; None where some cannot be handed on."""
    changes, barred = [0] * (num_nodes + 1), [0] * (num_nodes + 1)
    for value, made in made_by.items():
        start, end = made + 1, last_reader[value] + 1
        for counts, amount in ((changes, _entries(value)), (barred, not is_numeric(value))):
            counts[start] += amount
            counts[end] -= amount
    crossing = zip(accumulate(changes), accumulate(barred), strict=True)
    return [None if bad else entries for entries, bad in crossing]


def _entries(value: ir.Value) -> int:
    if value.shape is None:
        return _OPEN_SHAPE
    return prod(dim if isinstance(dim, int) else _OPEN_DIM for dim in value.shape)


def is_numeric(value: ir.Value) -> bool:
    """Whether NumPy holds the value; of one whose type is not known, whether it may be a tensor."""
    if value.type is None:
        return _may_be_tensor(value)
    return isinstance(value.type, ir.TensorType) and value.dtype in NUMERIC


def _may_be_tensor(value: ir.Value) -> bool:
    """Whether the operator that makes the value gives tensors, or is not of the standard."""
    node, index = value.producer(), value.index()
    if node is None or index is None:
        return True
    try:
        outputs = onnx.defs.get_schema(node.op_type, node.domain).outputs
    except onnx.defs.SchemaError:
        return True
    types = outputs[min(index, len(outputs) - 1)].types
    return any(str(name).startswith("tensor(") for name in types)


def _cuts(
    weights: Sequence[_Weights], widths: Sequence[int | None], most_bytes: int
) -> Iterator[int]:
    """Yield the numbers of the nodes before which to cut.

    Of the places that leave a segment its bytes, and at least half of them where that can be, the
    narrowest is taken, and of those the last.
    """
    start = 0
    while (cut := _next_cut(weights, widths, most_bytes, start)) is not None:
        yield cut
        start = cut


def _next_cut(
    weights: Sequence[_Weights], widths: Sequence[int | None], most_bytes: int, start: int
) -> int | None:
    held: _Weights = {}
    total = 0
    places: list[tuple[bool, int, int]] = []
    for i, own in enumerate(weights[start:], start):
        added = sum(own[key] for key in own.keys() - held.keys())
        held |= own
        total += added
        if added and total > most_bytes and places:
            return -min(places)[-1]
        width = widths[i + 1]
        if width is not None and i + 1 < len(weights):
            places.append((2 * total < most_bytes, width, -(i + 1)))
    return None
