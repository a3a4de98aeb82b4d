"""Multiply by all weights of one input in one node, which transforms the input once."""

from __future__ import annotations

import json
from collections.abc import Hashable, Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from fqonnx.frames import FrameSpec
from fqonnx.packing import TILE_ROWS
from fqonnx.passes.constants import (
    Names,
    add_initializer,
    constant,
    remove_if_unused,
    replace_nodes,
)
from fqonnx.passes.frame_functions import add_function, remove_unused_functions
from fqonnx.passes.select_weights import layer_name
from fqonnx.runtime_ops import DOMAIN, FrameOpSpec

_MOST = 64  # layers of one node, as docs/format.md allows
_LAYERS = "fqonnx.layers"  # metadata of a merged node


class MergeFrameMatMulsPass(ir.passes.InPlacePass):
    """Merge FrameMatMul nodes whose inputs, frames and kinds of codes are the same.

    Their rows of codes stand behind one another in the merged node, which has an output for each.
    A node with a frame on its output side, with a bias that is computed, or with codes that another
    node reads too, is left alone; so is one of a trellis code whose last tiles are padded, with
    which the next node would begin in the midst of a tile.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Merge nodes of the main graph."""
        groups: dict[Hashable, list[ir.Node]] = {}
        for node in model.graph:
            if node.domain == DOMAIN and node.op_type == "FrameMatMul" and _is_mergeable(node):
                groups.setdefault(_key(node), []).append(node)
        merged = [
            group[first : first + _MOST]
            for group in groups.values()
            for first in range(0, len(group), _MOST)
            if len(group) - first > 1
        ]
        names, layers = Names(model.graph), _layer_names(model)
        for group in merged:
            _merge(model, group, names, [layers[node] for node in group])
        remove_unused_functions(model)
        return ir.passes.PassResult(model, modified=bool(merged))


def merged_layers(node: ir.Node) -> list[str]:
    """Return the names of the layers that a node was merged from; none for any other node."""
    names: list[str] = json.loads(node.metadata_props.get(_LAYERS, "[]"))
    return names


def _is_mergeable(node: ir.Node) -> bool:
    spec, codes = FrameOpSpec.of_node(node), node.inputs[1]
    constants = [value for value in node.inputs[1:] if value is not None]
    return (
        spec.frame_out.kind == "identity"
        and not spec.splits
        and codes is not None
        and len(codes.uses()) == 1
        and not (spec.codebook == "trellis" and spec.frame_out.dim % TILE_ROWS)
        and all(constant(value) is not None for value in constants)
    )


def _key(node: ir.Node) -> Hashable:
    """Return what nodes of one input must share: all but their outputs and biases."""
    spec = FrameOpSpec.of_node(node)
    given = (constant(_inputs(node).get(name)) for name in ("signs_in", "levels"))
    shared = replace(spec, frame_out=FrameSpec("identity", 1, 1), has_bias=False)
    return node.inputs[0], shared, *(None if one is None else one.tobytes() for one in given)


def _inputs(node: ir.Node) -> dict[str, ir.Value | None]:
    return dict(zip(FrameOpSpec.of_node(node).input_names(), node.inputs, strict=False))


def _layer_names(model: ir.Model) -> dict[ir.Node, str]:
    names: dict[ir.Node, str] = {}
    for node in model.graph:
        if node.domain == DOMAIN:
            names[node] = layer_name(node, names.values())
    return names


def _merge(model: ir.Model, group: Sequence[ir.Node], names: Names, layers: Sequence[str]) -> None:
    specs, inputs = [FrameOpSpec.of_node(node) for node in group], [_inputs(n) for n in group]
    splits = tuple(spec.frame_out.dim for spec in specs)
    spec = replace(
        specs[0],
        frame_out=FrameSpec("identity", sum(splits), sum(splits)),
        has_bias=any(spec.has_bias for spec in specs),
        splits=splits,
    )
    name = "+".join(str(node.name) for node in group)
    stacked = {
        "codes": True,
        "scales": True,
        "zero_points": spec.has_zero_points,
        "bias": spec.has_bias,
    }
    values = dict(inputs[0])
    for key in (key for key, present in stacked.items() if present):
        parts = [constant(i.get(key)) or _zeros(s) for i, s in zip(inputs, specs, strict=True)]
        values[key] = _stacked(model.graph, names.fresh(f"{name}.{key}"), parts)
    arguments = [values.get(key) for key in spec.input_names()]
    while arguments[-1] is None:
        arguments.pop()
    merged = ir.Node(
        DOMAIN,
        "FrameMatMul",
        arguments,
        ir.convenience.convert_attributes(spec.attributes()),
        overload=spec.overload,
        num_outputs=len(group),
        name=name,
        metadata_props={_LAYERS: json.dumps(layers)},
    )
    add_function(model, spec)
    replace_nodes(
        model.graph,
        group[0],
        group,
        [merged],
        [node.outputs[0] for node in group],
        merged.outputs,
    )
    for value in (value for given in inputs for value in given.values() if value is not None):
        remove_if_unused(value)


def _zeros(spec: FrameOpSpec) -> ir.TensorProtocol:
    """Return the bias of a layer that has none."""
    return ir.tensor(np.zeros(spec.frame_out.dim, spec.dtype.numpy()))


def _stacked(graph: ir.Graph, name: str, parts: Sequence[ir.TensorProtocol]) -> ir.Value:
    """Add an initializer that is put together each time it is read."""
    shapes = [part.shape.numpy() for part in parts]
    lazy = ir.LazyTensor(
        lambda: ir.tensor(np.concatenate([part.numpy() for part in parts]), name=name),
        dtype=parts[0].dtype,
        shape=ir.Shape([sum(rows for rows, *_ in shapes), *shapes[0][1:]]),
        name=name,
    )
    return add_initializer(graph, name, lazy)
