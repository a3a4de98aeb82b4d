"""Embedding tables that are the weight of a layer too, as that of a language model's last one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from fqonnx.passes.constants import constant, made_from, readers, steps
from fqonnx.passes.linear_layer import LinearLayer

# Bytes of a float copy over those of all float layers, which take 1/16 of theirs at 2 bits: above
# this it would be more than a quarter of the compiled file.
MOST_COPIED = 1 / 64
_INVERTIBLE = {"Identity", "Transpose", "Constant"}


@dataclass(frozen=True)
class SharedTable:
    """A table that Gather nodes read, and that quantized layers multiply by.

    Attributes:
        name: The table.
        layer: The first of the layers.
        lookups: The Gather nodes.
        num_bytes: Bytes of the float table.
        is_copied: Whether it stays in the file for them; else they read the quantized one.
    """

    name: str
    layer: str
    lookups: tuple[ir.Node, ...]
    num_bytes: int
    is_copied: bool

    def __str__(self) -> str:
        names = ", ".join(repr(node.name or node.outputs[0].name) for node in self.lookups)
        what = (
            f"its float copy of {self.num_bytes} bytes, which stays in the file"
            if self.is_copied
            else "the quantized weight, which ONNX Runtime unpacks when it loads the file"
        )
        table = f"table {self.name!r} is the weight of {self.layer!r} too"
        return f"{table}: Gather nodes {names} read {what}"


def is_turned(weight: ir.Value) -> bool:
    """Whether a weight that Transpose and Identity make of a matrix is its transpose."""
    nodes = (value.producer() for value in made_from(weight))
    perms = [
        tuple(node.attributes.get_ints("perm", (1, 0)))
        for node in nodes
        if node is not None and node.op_type == "Transpose"
    ]
    return perms.count((1, 0)) % 2 == 1


def share_tables(layers: Sequence[LinearLayer]) -> tuple[list[LinearLayer], list[SharedTable]]:
    """Give layers the lookups that are to read their quantized weight; return them and the tables.

    A float table that other nodes read anyway, or that is small, is left to its lookups.
    """
    total = sum({layer.weight_key: layer.weight_bytes for layer in layers}.values())
    nodes = {layer.node for layer in layers}
    tables: dict[ir.Value, SharedTable] = {}
    result = []
    for layer in layers:
        *_, source = made_from(layer.weight)
        lookups = tuple(node for node in readers(source) if node.op_type == "Gather")
        if not lookups or source in tables:
            result.append(layer)
            continue
        tensor = constant(source)
        assert tensor is not None
        is_copied = (
            tensor.nbytes <= MOST_COPIED * total
            or source.is_graph_output()
            or not nodes.union(lookups).issuperset(readers(source))
            or not _INVERTIBLE.issuperset(steps(layer.weight))
            or len(tensor.shape) != 2  # experts, and kernels: stored as another matrix
            or any(node.inputs[0] is not source for node in lookups)
        )
        name = str(source.name)
        tables[source] = SharedTable(name, layer.name, lookups, tensor.nbytes, is_copied)
        result.append(layer if is_copied else replace(layer, lookups=lookups))
    return result, list(tables.values())
