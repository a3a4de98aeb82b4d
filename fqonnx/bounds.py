"""Guaranteed errors of a compiled model beside the measured ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from fqonnx.diff import OutputDiff
from fqonnx.passes import BoundOutputsPass, LayerNorms, LinearLayer, operator_norm
from fqonnx.passes.norms import Affine
from fqonnx.quant import PackedWeight
from fqonnx.quantize_layers import QuantizedLayers
from fqonnx.report import OutputBound
from fqonnx.session import Feed


def output_bounds(
    model: ir.Model,
    quantized: QuantizedLayers,
    feeds: Sequence[Feed],
    outputs: Sequence[OutputDiff],
) -> list[OutputBound]:
    """Bound the error of each output for inputs as long as the longest of the samples.

    Args:
        model: The compiled model, whose operators compute exactly (``onnx`` lowering).
        quantized: What its layers hold.
        feeds: The samples that the models were compared on.
        outputs: What was measured on them.
    """
    found: dict[ir.Node, LayerNorms] = {}
    promised: dict[ir.Node, LayerNorms] = {}
    reasons = _why_unbounded(model, quantized)
    # The norms of large weights take minutes: not where nothing comes of them.
    wanted = any(output.name not in reasons for output in outputs)
    for replacement in quantized.replacements if wanted else []:
        for layer in replacement.layers:
            node, weight = quantized.nodes[layer.name], replacement.quantized
            bias = replacement.biases.get(layer.name)
            found[node] = _norms(layer, weight, bias)
            if weight.guarantee is not None:
                promised[node] = replace(
                    found[node],
                    weight_error=weight.guarantee.error_bound,
                    bias_error=bias.guarantee.error_bound if bias and bias.guarantee else 0.0,
                )
    by_weights, by_frame = BoundOutputsPass(found), BoundOutputsPass(promised)
    if wanted:
        by_weights(model)
        if found.keys() == promised.keys():
            by_frame(model)

    # No bounded output depends on an input of another type.
    names = [str(v.name) for v in model.graph.inputs if v.dtype and v.dtype.is_floating_point()]
    bounds, norm = [], None
    for output in outputs:
        weights = reasons.get(output.name) or by_weights.bounds[output.name]
        frame = by_frame.bounds.get(output.name)
        if isinstance(weights, str):
            bounds.append(OutputBound(output.name, output.max_sample_error, reason=weights))
            continue
        if norm is None:
            norm = max((_longest([feed[name] for name in names]) for feed in feeds), default=0.0)
        bounds.append(
            OutputBound(
                name=output.name,
                error=output.max_sample_error,
                input_norm=norm,
                bound=weights.at(norm),
                bound_by_frame=frame.at(norm) if isinstance(frame, Affine) else None,
            )
        )
    return bounds


def _why_unbounded(model: ir.Model, quantized: QuantizedLayers) -> dict[str, str]:
    """Return why outputs have no bound, by name, whatever the norms of the layers are."""
    result = BoundOutputsPass(
        {
            quantized.nodes[layer.name]: LayerNorms(1.0, bias=float(layer.bias is not None))
            for replacement in quantized.replacements
            for layer in replacement.layers
        }
    )
    result(model)
    return {name: found for name, found in result.bounds.items() if isinstance(found, str)}


def _norms(
    layer: LinearLayer, quantized: PackedWeight, quantized_bias: PackedWeight | None
) -> LayerNorms:
    """Return the norms of a layer and of its errors as they are."""
    weight = layer.matrix()
    # The float bias, which may have left the graph. That of a Conv is no constant if it has none.
    tensor = None if layer.bias is None else layer.bias.const_value
    bias = np.zeros(1) if tensor is None else tensor.numpy().astype(np.float64)
    if quantized_bias is not None:
        bias_error = quantized_bias.dequantize()[:, 0].double().numpy() - bias
    elif quantized.bias_shift is not None:
        bias_error = quantized.bias_shift.astype(np.float64)
    else:
        bias_error = np.zeros(1)
    return LayerNorms(
        weight=operator_norm(weight),
        weight_error=operator_norm(quantized.dequantize().numpy() - weight),
        bias=float(np.linalg.norm(bias)),
        bias_error=float(np.linalg.norm(bias_error)),
    )


def _longest(inputs: Sequence[NDArray[np.generic]]) -> float:
    """Return the largest norm of a sample of a batch, over all inputs together."""
    squares = sum(
        np.square(array.astype(np.float64)).reshape(len(array), -1).sum(1) for array in inputs
    )
    return float(np.sqrt(np.max(squares)))
