"""From what was quantized to what is reported of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fqonnx.config import CompileConfig
from fqonnx.model_file import file_bytes
from fqonnx.passes import LinearLayer, Replacement, Unquantized
from fqonnx.quantize_layers import QuantizedLayers
from fqonnx.report import LayerReport, ModelReport


def layer_reports(
    quantized: QuantizedLayers, kept: Sequence[Unquantized], config: CompileConfig
) -> list[LayerReport]:
    """Return the reports of all nodes with a weight, those of quantized ones first."""
    return [
        _quantized(layer, replacement, quantized.stored_bytes[layer.name], config)
        for replacement in quantized.replacements
        for layer in replacement.layers
    ] + [_kept(node) for node in kept]


def model_report(model_path: Path, output_path: Path, quantized: QuantizedLayers) -> ModelReport:
    """Return the sizes of both files, and what a weight takes."""
    sizes = file_bytes(model_path), file_bytes(output_path)
    weights = sum(r.layers[0].dim_in * r.layers[0].dim_out for r in quantized.replacements)
    if not weights:
        return ModelReport(*sizes)
    codes = sum(r.quantized.num_codes for r in quantized.replacements)
    code_bits = sum(r.quantized.num_codes * r.quantized.bits for r in quantized.replacements)
    return ModelReport(
        *sizes,
        redundancy_stored=codes / weights,
        code_bits_per_weight=code_bits / weights,
        bits_per_weight=sum(quantized.stored_bytes.values()) * 8 / weights,
    )


def _quantized(
    layer: LinearLayer, replacement: Replacement, stored_bytes: int, config: CompileConfig
) -> LayerReport:
    weights, quantized = layer.dim_in * layer.dim_out, replacement.quantized
    report = LayerReport(
        name=layer.name,
        op_type=layer.op_type,
        dim_in=layer.dim_in,
        dim_out=layer.dim_out,
        status="quantized",
        method=config.method,
        bits=quantized.bits,
        codebook="trellis" if quantized.is_trellis else "scalar",
        frame_in=quantized.frame_in.kind,
        frame_out=quantized.frame_out.kind,
        redundancy_asked=config.for_layer(replacement.layers[0].names).recipe.redundancy,
        redundancy_in=quantized.frame_in.redundancy,
        redundancy_out=quantized.frame_out.redundancy,
        redundancy_stored=quantized.num_codes / weights,
        float_bytes=layer.weight_bytes,
        stored_bytes=stored_bytes,
        bits_per_weight=stored_bytes * 8 / weights,
        weight_rel_error=quantized.errors.weight_rel_error,
        output_rel_error=quantized.errors.output_rel_error,
        proxy_loss=quantized.errors.proxy_loss,
    )
    bias = replacement.biases.get(layer.name)
    tensor = None if layer.bias is None else layer.bias.const_value
    if bias is not None and tensor is not None:
        report = replace(
            report,
            float_bytes=layer.weight_bytes + tensor.nbytes,
            bias_rel_error=bias.errors.weight_rel_error,
        )
    if quantized.guarantee is not None:
        norm = math.sqrt(quantized.errors.weight) or 1.0
        report = replace(
            report,
            weight_rel_bound=quantized.guarantee.error_bound / norm,
            variation_rel_bound=quantized.guarantee.variation_bound / norm,
            largest_state=quantized.guarantee.largest_state,
        )
    return report


def _kept(kept: Unquantized) -> LayerReport:
    dim_in, dim_out = kept.shape if kept.shape and len(kept.shape) == 2 else (None, None)
    return LayerReport(kept.name, kept.op_type, dim_in, dim_out, "float", kept.reason)
