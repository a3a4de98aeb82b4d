"""Quantizers: alphabets, rounding with and without feedback, whole weights. No ONNX here."""

from fqonnx.quant.alphabet import (
    UniformAlphabet,
    gaussian_alphabet,
    min_max_alphabet,
    range_alphabet,
    two_sigma_alphabet,
)
from fqonnx.quant.moments import Moments
from fqonnx.quant.packed_weight import PackedArray, PackedWeight
from fqonnx.quant.quantized_weight import QuantizedWeight, SquaredErrors
from fqonnx.quant.rounding import coordinate_descent, damped, hessian_error, ldlq, ldlq_feedback
from fqonnx.quant.sigma_delta import Guarantee, sigma_delta, spectral_bounds, variation_bounds
from fqonnx.quant.trellis import TrellisCode, trellis_code
from fqonnx.quant.trellis_rounding import LevelTable
from fqonnx.quant.weight import output_slices, quantize_weight, working_bytes

__all__ = [
    "Guarantee",
    "LevelTable",
    "Moments",
    "PackedArray",
    "PackedWeight",
    "QuantizedWeight",
    "SquaredErrors",
    "TrellisCode",
    "UniformAlphabet",
    "coordinate_descent",
    "damped",
    "gaussian_alphabet",
    "hessian_error",
    "ldlq",
    "ldlq_feedback",
    "min_max_alphabet",
    "output_slices",
    "quantize_weight",
    "range_alphabet",
    "sigma_delta",
    "spectral_bounds",
    "trellis_code",
    "two_sigma_alphabet",
    "variation_bounds",
    "working_bytes",
]
