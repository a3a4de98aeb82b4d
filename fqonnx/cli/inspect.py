"""``fqonnx inspect``."""

from __future__ import annotations

import functools
from pathlib import Path

import click
import onnx_ir as ir
from rich.markup import escape
from rich.table import Column, Table

from fqonnx.cli.console import megabytes, print_kept
from fqonnx.cli.terminal import console
from fqonnx.errors import ModelError
from fqonnx.model_file import file_bytes
from fqonnx.model_pair import load_compiled
from fqonnx.passes import SelectWeightsPass, normalize
from fqonnx.passes.merge_frame_matmuls import merged_layers
from fqonnx.passes.select_weights import layer_name
from fqonnx.report import Compilation, LayerReport
from fqonnx.runtime_ops import DOMAIN, FrameOpSpec

# Not a Column: it would keep the cells of each table that it is in.
_name_column = functools.partial(Column, "layer", overflow="fold")


@click.command("inspect")
@click.argument("path", metavar="MODEL", type=click.Path(path_type=Path))
def inspect_command(path: Path) -> None:
    """Show what is quantized in MODEL, what would be, and why the rest would not."""
    model = load_compiled(path)
    console.print(
        f"{escape(str(path))}: {megabytes(file_bytes(path))}, "
        f"opset {model.graph.opset_imports['']}, IR {model.ir_version}"
    )
    version, compilation = model.metadata_props.get("fqonnx.version"), Compilation.of_model(model)
    if version is not None:
        console.print(f"compiled by fqonnx {escape(version)}")
    if compilation is not None:
        options = ", ".join(f"{key}={value}" for key, value in compilation.options.items())
        console.print(f"options: {escape(options)}", soft_wrap=True)
    packed = [node for node in model.graph.all_nodes() if node.domain == DOMAIN]
    compiled = [node for node in packed if not _is_bias(node)]
    if compiled:
        try:
            console.print(_compiled_table(compiled))
        except ValueError as error:  # of another version
            raise ModelError(str(path), str(error), "Inspect it with the fqonnx of it") from error
    normalize(model)
    selected = SelectWeightsPass()
    selected(model)
    if selected.layers:
        table = Table(_name_column(), "op", "dim_in", "dim_out", "bytes")
        for layer in selected.layers:
            table.add_row(
                escape(layer.name),
                layer.op_type,
                str(layer.dim_in),
                str(layer.dim_out),
                megabytes(layer.weight_bytes),
            )
        table.title = f"{len(selected.layers)} layers can be quantized"
        console.print(table)
    print_kept(
        LayerReport(kept.name, kept.op_type, None, None, "float", kept.reason)
        for kept in selected.kept
    )


def _is_bias(node: ir.Node) -> bool:
    """Whether a FrameDequant holds a bias, which goes through a Reshape alone."""
    readers = (use.node.op_type for use in node.outputs[0].uses())
    return node.op_type == "FrameDequant" and next(readers, "") == "Reshape"


def _compiled_table(nodes: list[ir.Node]) -> Table:
    columns = ("frames", "in × out", "codebook", "bits", "redundancy", "bits/weight")
    table = Table(_name_column(), *columns)
    taken: set[str] = set()
    for node in nodes:
        names = merged_layers(node) or [layer_name(node, taken)]
        taken.update(names)
        dim_in, dim_out, vectors_in, vectors_out = (
            node.attributes.get_int(name, 0)
            for name in ("dim_in", "dim_out", "num_vectors_in", "num_vectors_out")
        )
        frames = [node.attributes.get_string(f"frame_{side}", "") for side in ("in", "out")]
        # The activation and the bias are the model's own.
        named = zip(FrameOpSpec.of_node(node).input_names(), node.inputs, strict=False)
        packed = [v.const_value for name, v in named if v is not None and name not in ("X", "bias")]
        stored = sum(tensor.nbytes for tensor in packed if tensor is not None)
        splits = node.attributes.get_ints("splits", ()) or (dim_out,)
        for name, size in zip(names, splits, strict=True):
            table.add_row(
                escape(name),
                " × ".join(frames) if frames[1] != "identity" else frames[0],
                f"{dim_in} × {size}",
                node.attributes.get_string("codebook", ""),
                str(node.attributes.get_int("bits", 0)),
                f"{vectors_in * vectors_out / (dim_in * dim_out):.3f}",
                f"{stored * 8 / (dim_in * dim_out):.3f}",
            )
    table.title = f"{len(taken)} quantized layers in {len(nodes)} operators"
    return table
