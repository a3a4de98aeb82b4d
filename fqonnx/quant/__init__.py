"""Quantizers: alphabets, rounding with and without feedback, whole weights. No ONNX here."""

from fqonnx.quant.alphabet import MidRise
from fqonnx.quant.rounding import coordinate_descent, damped, hessian_error, ldlq
from fqonnx.quant.weight import Moments, QuantizedWeight, quantize_weight

__all__ = [
    "MidRise",
    "Moments",
    "QuantizedWeight",
    "coordinate_descent",
    "damped",
    "hessian_error",
    "ldlq",
    "quantize_weight",
]
