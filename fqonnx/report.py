"""What a compilation did, as data: the JSON of ``fqonnx compile --json``."""

from __future__ import annotations

import dataclasses
import json
import math
import platform
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import onnx_ir as ir

from fqonnx.diff import OutputDiff
from fqonnx.session import runtime_version

_METADATA = "fqonnx.compilation"  # of a compiled model


@dataclass(frozen=True)
class LayerReport:
    """One node with a weight.

    Attributes:
        name: Module path or node name.
        op_type: The operator in the float model.
        dim_in: Rows of the weight, for a convolution the weights of an output channel; None where a
            node that stays float has no constant 2-D one.
        dim_out: Columns of the weight.
        status: ``quantized`` or ``float``.
        reason: Why it stayed float.
        method: Name of the method.
        bits: Bits a coefficient.
        codebook: ``scalar`` or ``trellis``.
        frame_in: Kind of the frame on the reduction axis.
        frame_out: Kind of the frame on the output axis, ``identity`` for none.
        redundancy_asked: As in the options.
        redundancy_in: num_vectors / dim_in of the frame, what the one asked for rounds to, padding
            included.
        redundancy_out: num_vectors / dim_out; 1 without a frame on the output axis.
        redundancy_stored: Codes over weights, the product of the two.
        float_bytes: Bytes of the float weight, and of the bias where that is quantized.
        stored_bytes: Bytes of codes, scales, zero points and signs, those of a quantized bias
            included; none for a weight that another layer holds.
        bits_per_weight: stored_bytes·8 / (dim_in·dim_out).
        weight_rel_error: ‖W − Ŵ‖/‖W‖.
        weight_rel_bound: What it can be at most, by the theory of the frame; None without one.
        variation_rel_bound: The same by the published bound alone.
        largest_state: The largest state of Sigma-Delta in steps; None for other feedback.
        bias_rel_error: The error of the bias; None where it stays float.
        output_rel_error: That of the outputs over the calibration rows; None without any.
        proxy_loss: tr((W − Ŵ)ᵀH(W − Ŵ)) with the calibration's H; None without.
    """

    name: str
    op_type: str
    dim_in: int | None
    dim_out: int | None
    status: str
    reason: str | None = None
    method: str | None = None
    bits: int | None = None
    codebook: str | None = None
    frame_in: str | None = None
    frame_out: str | None = None
    redundancy_asked: float | None = None
    redundancy_in: float | None = None
    redundancy_out: float | None = None
    redundancy_stored: float | None = None
    float_bytes: int | None = None
    stored_bytes: int | None = None
    bits_per_weight: float | None = None
    weight_rel_error: float | None = None
    weight_rel_bound: float | None = None
    variation_rel_bound: float | None = None
    largest_state: float | None = None
    bias_rel_error: float | None = None
    output_rel_error: float | None = None
    proxy_loss: float | None = None


@dataclass(frozen=True)
class ModelReport:
    """The whole file.

    Attributes:
        float_bytes: Size of the float model, external data included.
        compiled_bytes: Size of the compiled model.
        redundancy_stored: Codes of all quantized layers over their weights; None without any.
        code_bits_per_weight: Their bits.
        bits_per_weight: Those and the bits of scales, zero points and signs.
    """

    float_bytes: int
    compiled_bytes: int
    redundancy_stored: float | None = None
    code_bits_per_weight: float | None = None
    bits_per_weight: float | None = None


@dataclass(frozen=True)
class OutputBound:
    """What the error of an output can be at most, where the operators compute exactly.

    Errors are ‖y − ŷ‖ of a sample, Euclidean. The bounds hold for every input whose norm is at most
    ``input_norm``, but for the rounding of the runtime's float type.

    Attributes:
        name: Name of the output.
        error: The largest error of a compared sample.
        input_norm: The largest norm of a compared sample; None where there is no bound.
        bound: By the operator norms of the weights and of their errors; None where the graph has no
            bound.
        bound_by_frame: By those of the weights and what the theory of the frame says of their
            errors (for order 2 with the states that were met); None for methods without.
        reason: Why there is no bound.
    """

    name: str
    error: float
    input_norm: float | None = None
    bound: float | None = None
    bound_by_frame: float | None = None
    reason: str | None = None


@dataclass(frozen=True)
class CalibrationReport:
    """What the layers were calibrated and the models compared on.

    Attributes:
        source: ``file``, ``directory``, ``synthetic`` or ``none``.
        num_samples: Samples that the Hessians are made of.
        num_compared: Samples that both models ran on at the end.
        compared_on: ``held-back``, ``synthetic``, or ``calibration`` where there was but one.
        mask_input: The input whose zeros marked padding.
        digest: SHA-256 of the calibration arrays.
    """

    source: str
    num_samples: int
    num_compared: int
    compared_on: str
    mask_input: str | None
    digest: str | None


@dataclass(frozen=True)
class Compilation:
    """What ``fqonnx compile`` wrote into the model about itself.

    Attributes:
        layers: One entry for each node with a weight, those that stayed float with the reason.
        calibration: The data.
        versions: Versions of what took part.
        options: Those of `fqonnx.CompileConfig`.
        warnings: What it told the user.
    """

    layers: list[LayerReport]
    calibration: CalibrationReport
    versions: dict[str, str]
    options: dict[str, Any]
    warnings: list[str]

    @classmethod
    def of_model(cls, model: ir.Model) -> Compilation | None:
        """Return what a model says; None if it says nothing, or what another version wrote."""
        try:
            said = json.loads(model.metadata_props[_METADATA])
            absent = {field.name: None for field in dataclasses.fields(LayerReport)}
            return cls(
                [LayerReport(**{**absent, **layer}) for layer in said["layers"]],
                CalibrationReport(**said["calibration"]),
                said["versions"],
                said["options"],
                said["warnings"],
            )
        except (KeyError, TypeError, ValueError):
            return None

    def write(self, model: ir.Model) -> None:
        """Put this into a model's metadata."""
        said = dataclasses.asdict(self)
        said["layers"] = [
            {key: value for key, value in layer.items() if value is not None}
            for layer in said["layers"]
        ]
        model.metadata_props[_METADATA] = json.dumps(_finite(said))


@dataclass(frozen=True)
class CompileReport:
    """What `fqonnx.compile_model` did.

    Attributes:
        layers: One entry for each node with a weight, quantized ones first.
        model: The file.
        outputs: Float against compiled, for each output.
        bounds: Guaranteed against measured errors; empty where operators do not compute exactly.
        calibration: The data.
        timing: Seconds of each step.
        versions: Versions of what took part.
        options: Those of `fqonnx.CompileConfig`, as it resolved them.
        warnings: What a user should know.
    """

    layers: list[LayerReport]
    model: ModelReport
    outputs: list[OutputDiff]
    bounds: list[OutputBound]
    calibration: CalibrationReport
    timing: dict[str, float]
    versions: dict[str, str]
    options: dict[str, Any]
    warnings: list[str]

    def to_json(self) -> str:
        """Return the report as JSON; what is not a finite number becomes null."""
        return to_json(dataclasses.asdict(self))


def to_json(value: Any) -> str:
    """Return indented JSON; NaN and infinities, which JSON lacks, become null."""
    return json.dumps(_finite(value), indent=2, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def collect_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide the result."""
    packages = ("fqonnx", "onnx", "onnx-ir", "onnxscript", "torch", "numpy")
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
        "onnxruntime": runtime_version(),
    }
