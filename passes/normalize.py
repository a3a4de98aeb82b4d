"""What a float model goes through before its layers are looked for."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from fqonnx.passes.fold_weights import FoldWeightsPass
from fqonnx.passes.normalize_linear import NormalizeLinearPass

_SMALL_BYTES = 1024  # of initializers whose numbers may be shapes; a message ends at 2 GiB


def normalize(model: ir.Model) -> None:
    """Infer types, fold constant weights and write Gemm as MatMul and Add, in place."""
    _infer_types(model)
    FoldWeightsPass()(model)
    NormalizeLinearPass()(model)


def _infer_types(model: ir.Model) -> None:
    """Infer types of inner values; those that the graph declares for its outputs stay.

    ShapeInferencePass of onnx-ir makes a tensor of what is a sequence.
    """
    bare = model.clone()
    for name, value in list(bare.graph.initializers.items()):
        if value.const_value is not None and value.const_value.nbytes > _SMALL_BYTES:
            del bare.graph.initializers[name]
            if value not in bare.graph.inputs:
                bare.graph.inputs.append(value)
    try:
        inferred = onnx.shape_inference.infer_shapes(
            ir.to_proto(bare), check_type=True, strict_mode=True, data_prop=True
        )
    except (onnx.shape_inference.InferenceError, ir.serde.SerdeError, ValueError):
        return  # the types that the file has must do
    declared = set(model.graph.outputs)
    for graph, typed in zip(model.graphs(), ir.from_proto(inferred).graphs(), strict=True):
        values = ir.convenience.create_value_mapping(typed)
        for name, value in ir.convenience.create_value_mapping(graph).items():
            if value not in declared and name in values and values[name].type is not None:
                value.type, value.shape = values[name].type, values[name].shape
