"""Types and shapes of inner values, which a file need not declare."""

from __future__ import annotations

import onnx
import onnx_ir as ir
from onnx.shape_inference import InferenceError

_SMALL_BYTES = 1024  # of initializers whose numbers may be shapes; a message ends at 2 GiB


def infer_types(model: ir.Model) -> None:
    """Infer types of inner values, in place; those that the graph declares for its outputs stay.

    Where what the file declares contradicts what its nodes make, as where an exporter gave an
    output a wrong shape, all that follows for the other values is taken still.
    ShapeInferencePass of onnx-ir makes a tensor of what is a sequence.
    """
    bare = model.clone()
    for name, value in list(bare.graph.initializers.items()):
        if value.const_value is not None and value.const_value.nbytes > _SMALL_BYTES:
            del bare.graph.initializers[name]
            if value not in bare.graph.inputs:
                bare.graph.inputs.append(value)
    try:
        inferred = _inferred(ir.to_proto(bare))
    except (InferenceError, ir.serde.SerdeError, ValueError):
        return  # the types that the file has must do
    declared = set(model.graph.outputs)
    for graph, typed in zip(model.graphs(), ir.from_proto(inferred).graphs(), strict=True):
        values = ir.convenience.create_value_mapping(typed)
        for name, value in ir.convenience.create_value_mapping(graph).items():
            if value not in declared and name in values and values[name].type is not None:
                value.type, value.shape = values[name].type, values[name].shape


def _inferred(proto: onnx.ModelProto) -> onnx.ModelProto:
    try:
        return onnx.shape_inference.infer_shapes(
            proto, check_type=True, strict_mode=True, data_prop=True
        )
    except InferenceError:
        return onnx.shape_inference.infer_shapes(proto, data_prop=True)
