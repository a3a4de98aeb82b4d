"""Calibration: where inputs come from, and what is measured on them."""

from fqonnx.calibrate.calibration import Calibration, FindMoments
from fqonnx.calibrate.labels import load_labels
from fqonnx.calibrate.masks import find_mask_input
from fqonnx.calibrate.moments import collect_moments, merge_moments
from fqonnx.calibrate.samples import Samples, load_samples
from fqonnx.calibrate.synthetic import synthetic_samples

__all__ = [
    "Calibration",
    "FindMoments",
    "Samples",
    "collect_moments",
    "find_mask_input",
    "load_labels",
    "load_samples",
    "merge_moments",
    "synthetic_samples",
]
