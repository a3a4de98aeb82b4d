"""Graph passes, one a file, each a subclass of onnx-ir's."""

from fqonnx.passes.add_error_outputs import AddErrorOutputsPass
from fqonnx.passes.add_moment_outputs import AddMomentOutputsPass
from fqonnx.passes.add_switches import AddSwitchesPass
from fqonnx.passes.bound_outputs import BoundOutputsPass
from fqonnx.passes.compiled_layers import CompiledLayer, compiled_layers
from fqonnx.passes.exact_products import ExactProductsPass
from fqonnx.passes.inline_frame_ops import InlineFrameOpsPass
from fqonnx.passes.linear_layer import LayerInput, LinearLayer
from fqonnx.passes.merge_frame_matmuls import MergeFrameMatMulsPass
from fqonnx.passes.normalize import normalize
from fqonnx.passes.normalize_linear import NormalizeLinearPass
from fqonnx.passes.norms import LayerNorms, operator_norm
from fqonnx.passes.quantize_weights import QuantizeWeightsPass, Replacement
from fqonnx.passes.select_weights import SelectWeightsPass, Unquantized
from fqonnx.passes.stages import Unit, stages
from fqonnx.passes.verify import VerifyPass

__all__ = [
    "AddErrorOutputsPass",
    "AddMomentOutputsPass",
    "AddSwitchesPass",
    "BoundOutputsPass",
    "CompiledLayer",
    "ExactProductsPass",
    "InlineFrameOpsPass",
    "LayerInput",
    "LayerNorms",
    "LinearLayer",
    "MergeFrameMatMulsPass",
    "NormalizeLinearPass",
    "QuantizeWeightsPass",
    "Replacement",
    "SelectWeightsPass",
    "Unit",
    "Unquantized",
    "VerifyPass",
    "compiled_layers",
    "normalize",
    "operator_norm",
    "stages",
]
