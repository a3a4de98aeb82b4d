"""What it costs an embedding to read the quantized weight of the layer that shares its table.

    python tools/tied_embedding.py MODEL SAMPLES.npz

compiles a language model with tied weights at 2, 3 and 4 bits, once with the table stored once and
once with a float copy of it, and prints the table of docs/graph-forms.md. Of a model that has its
table twice, transposed for its last layer, both are tied first.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from unittest.mock import patch

import click
import numpy as np
import onnx_ir as ir

from fqonnx import CompileConfig, compile_model
from fqonnx.passes import lookups

_BITS = (2, 3, 4)


def tie(model: ir.Model) -> None:
    """Let layers read the transpose of the embedding table that their weight is equal to."""
    graph = model.graph
    tables = [node.inputs[0] for node in graph if node.op_type == "Gather"]
    for node in [node for node in graph if node.op_type == "MatMul"]:
        weight = node.inputs[1]
        for table in tables:
            if _is_transpose(weight, table):
                transpose = ir.node("Transpose", [table], {"perm": [1, 0]})
                transpose.outputs[0].name = f"{weight.name}_tied"
                graph.insert_before(node, transpose)
                node.replace_input_with(1, transpose.outputs[0])
                graph.initializers.pop(weight.name)
                break


def _is_transpose(weight: ir.Value | None, table: ir.Value | None) -> bool:
    tensors = [None if value is None else value.const_value for value in (weight, table)]
    if None in tensors or any(len(tensor.shape) != 2 for tensor in tensors):
        return False
    return np.array_equal(tensors[0].numpy().T, tensors[1].numpy())


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("samples", type=click.Path(path_type=Path))
def main(model: Path, samples: Path) -> None:
    """Print the table."""
    print("| bits | table | compiled | cosine of logits | KL in nats | perplexity (float) |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        tied, compiled = Path(name) / "tied.onnx", Path(name) / "compiled.onnx"
        float_model = ir.load(model)
        tie(float_model)
        ir.save(float_model, tied)
        for bits in _BITS:
            for what, most in (("once", 0.0), ("and a float copy", 1.0)):
                with patch.object(lookups, "MOST_COPIED", most):
                    report = compile_model(
                        tied, compiled, CompileConfig(bits=bits), calibration=samples
                    )
                output = report.outputs[0]
                tokens = output.tokens
                assert tokens is not None, "the output is not known to be logits of tokens"
                print(
                    f"| {bits} | {what} | {compiled.stat().st_size / 1e6:.2f} MB "
                    f"| {output.cosine:.4f} | {tokens.kl_mean:.4f} "
                    f"| {tokens.compiled_perplexity:.3f} ({tokens.float_perplexity:.3f}) |"
                )


if __name__ == "__main__":
    main()
