"""What a float model goes through before its layers are looked for."""

from __future__ import annotations

import logging

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from fqonnx.passes.fold_weights import FoldWeightsPass
from fqonnx.passes.normalize_linear import NormalizeLinearPass


def normalize(model: ir.Model) -> None:
    """Infer types, fold constant weights and write Gemm as MatMul and Add, in place."""
    _infer_types(model)
    FoldWeightsPass()(model)
    NormalizeLinearPass()(model)


def _infer_types(model: ir.Model) -> None:
    """Infer types of inner values; those that the graph declares for its outputs stay."""
    declared = [(value, value.type, value.shape) for value in model.graph.outputs]
    logger = logging.getLogger("onnx_ir")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # it logs a traceback where inference fails and goes on
    try:
        ShapeInferencePass()(model)
    finally:
        logger.setLevel(level)
    for value, type_, shape in declared:
        value.type, value.shape = type_, shape
