"""Quantizers: alphabets, rounding with and without feedback, whole weights. No ONNX here."""

from fqonnx.quant.alphabet import (
    UniformAlphabet,
    gaussian_alphabet,
    min_max_alphabet,
    range_alphabet,
    two_sigma_alphabet,
)
from fqonnx.quant.moments import Moments
from fqonnx.quant.quantized_weight import QuantizedWeight
from fqonnx.quant.rounding import coordinate_descent, damped, hessian_error, ldlq
from fqonnx.quant.sigma_delta import Guarantee, sigma_delta, spectral_bounds, variation_bounds
from fqonnx.quant.trellis import TrellisCode, trellis_code
from fqonnx.quant.trellis_rounding import LevelTable
from fqonnx.quant.weight import quantize_weight

__all__ = [
    "Guarantee",
    "LevelTable",
    "Moments",
    "QuantizedWeight",
    "TrellisCode",
    "UniformAlphabet",
    "coordinate_descent",
    "damped",
    "gaussian_alphabet",
    "hessian_error",
    "ldlq",
    "min_max_alphabet",
    "quantize_weight",
    "range_alphabet",
    "sigma_delta",
    "spectral_bounds",
    "trellis_code",
    "two_sigma_alphabet",
    "variation_bounds",
]
