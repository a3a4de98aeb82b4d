"""Sums out of the bodies of If, Loop and Scan, added up over all of their runs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape

from fqonnx.passes.constants import (
    Names,
    record_constant,
    record_ints,
    replace_nodes,
)

# Whose graphs a sum comes out of.
CARRIES = {("", "If"), ("", "Loop"), ("", "Scan")}


def owners(graph: ir.Graph) -> dict[ir.Graph, ir.Node]:
    """Return the nodes that the graphs inside a graph belong to."""
    return {inner: node for node in graph.all_nodes() for inner in subgraphs(node)}


def subgraphs(node: ir.Node) -> Sequence[ir.Graph]:
    """Return the graphs among the attributes of a node."""
    found: list[ir.Graph] = []
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH and not attribute.is_ref():
            found.append(attribute.as_graph())
        elif attribute.type == ir.AttributeType.GRAPHS and not attribute.is_ref():
            found.extend(attribute.as_graphs())
    return found


def carry_out(graph: ir.Graph, total: ir.Value, names: Names) -> ir.Value:
    """Return a value of the main graph: the sum of another one over the runs of its own graph.

    A branch that is not taken counts as zeros. Loops and Scans get a state variable.

    Args:
        graph: The main graph.
        total: What a node makes, in a graph inside the main one's If, Loop and Scan nodes or in the
            main graph itself; of a known type and shape.
        names: Gives the names.
    """
    nodes = owners(graph)
    while True:
        producer = total.producer()
        assert producer is not None
        body = producer.graph
        if body is graph:
            return total
        assert isinstance(body, ir.Graph)
        step = _out_of_if if nodes[body].op_type == "If" else _out_of_loop
        total = step(nodes[body], body, total, names)


def _out_of_if(node: ir.Node, body: ir.Graph, total: ir.Value, names: Names) -> ir.Value:
    for branch in subgraphs(node):
        branch.outputs.append(total if branch is body else _zeros(branch, None, total, names))
    node.resize_outputs(len(node.outputs) + 1)
    return _like(node.outputs[-1], total, names)


def _out_of_loop(node: ir.Node, body: ir.Graph, total: ir.Value, names: Names) -> ir.Value:
    """Add a state variable behind those that there are."""
    is_scan = node.op_type == "Scan"
    first = 0 if is_scan else 2  # a Loop has its count and its condition in front of them
    scanned = node.attributes.get_int("num_scan_inputs", 0)
    states = len(node.inputs) - first - scanned
    outer = node.graph
    assert isinstance(outer, ir.Graph)

    before = _like(ir.Value(), total, names)
    tape = Tape(body)
    after = _like(tape.op("Add", [before, total]), total, names)
    body.inputs.insert(first + states, before)
    body.outputs.insert(states if is_scan else 1 + states, after)

    inputs = list(node.inputs)
    inputs.insert(first + states, _zeros(outer, node, total, names))
    new = ir.Node(
        node.domain,
        node.op_type,
        inputs,
        list(node.attributes.values()),
        num_outputs=len(node.outputs) + 1,
        name=node.name,
        doc_string=node.doc_string,
        metadata_props=dict(node.metadata_props),
    )
    result = _like(new.outputs[states], total, names)
    kept = [output for output in new.outputs if output is not result]
    replace_nodes(outer, node, [node], [new], node.outputs, kept)
    return result


def _zeros(graph: ir.Graph, before: ir.Node | None, like: ir.Value, names: Names) -> ir.Value:
    """Add zeros of the type and shape of a value, in front of a node or at the end."""
    assert like.dtype is not None
    assert like.shape is not None
    tape = Tape()
    zero = record_constant(tape, np.zeros((), like.dtype.numpy()))
    shape = record_ints(tape, *like.shape.numpy())
    zeros = _like(tape.op("Expand", [zero, shape]), like, names)
    for value in (zero, shape):
        value.name = names.fresh("fqonnx_zeros")
    if before is None:
        graph.extend(tape.nodes)
    else:
        graph.insert_before(before, tape.nodes)
    return zeros


def _like(value: ir.Value, other: ir.Value, names: Names) -> ir.Value:
    value.name = names.fresh(f"{other.name}_total")
    value.type, value.shape = other.type, other.shape
    return value
