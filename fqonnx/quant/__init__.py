"""Quantizers: alphabets, rounding with and without feedback, whole weights. No ONNX here."""

from fqonnx.quant.alphabet import (
    UniformAlphabet,
    gaussian_alphabet,
    min_max_alphabet,
    range_alphabet,
    two_sigma_alphabet,
)
from fqonnx.quant.moments import Moments
from fqonnx.quant.rounding import coordinate_descent, damped, hessian_error, ldlq
from fqonnx.quant.sigma_delta import error_bounds, sigma_delta
from fqonnx.quant.weight import QuantizedWeight, quantize_weight

__all__ = [
    "Moments",
    "QuantizedWeight",
    "UniformAlphabet",
    "coordinate_descent",
    "damped",
    "error_bounds",
    "gaussian_alphabet",
    "hessian_error",
    "ldlq",
    "min_max_alphabet",
    "quantize_weight",
    "range_alphabet",
    "sigma_delta",
    "two_sigma_alphabet",
]
