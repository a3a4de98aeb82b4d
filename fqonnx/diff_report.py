"""What ``fqonnx diff`` found, as data: its JSON, and what the HTML and Markdown show."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from fqonnx.diff import OutputDiff, Verdict
from fqonnx.report import CalibrationReport, LayerReport, ModelReport, to_json


@dataclass(frozen=True)
class SamplesReport:
    """What two models were compared on.

    Attributes:
        source: ``file``, ``directory`` or ``synthetic``.
        num_samples: Samples.
        digest: SHA-256 of the arrays.
    """

    source: str
    num_samples: int
    digest: str


@dataclass(frozen=True)
class ErrorSplit:
    """Where the difference of the outputs comes from.

    Attributes:
        algorithm: Float model against the compiled one with exact products: the weights alone.
        kernel: Exact products against those that the model asks for, with activations in int8.
        provider: CPU against CUDA; empty where there is no CUDA.
    """

    algorithm: list[OutputDiff]
    kernel: list[OutputDiff]
    provider: list[OutputDiff]


@dataclass(frozen=True)
class Histogram:
    """Frame coefficients of a weight against the alphabet, all in units of their scales.

    Attributes:
        edges: Of the bins, ascending; one more than there are counts. Coefficients beyond the
            outer edges are in the outer bins.
        counts: Coefficients in each bin.
        levels: The values of the alphabet, ascending; of a layer with zero points, which move
            them, the values around zero.
        level_counts: Codes of each.
    """

    edges: list[float]
    counts: list[int]
    levels: list[float]
    level_counts: list[int]


@dataclass(frozen=True)
class LayerDiff:
    """A compiled layer against the float one. Errors are ‖difference‖/‖float‖ over all samples.

    Attributes:
        name: Module path or node name, as when it was compiled.
        output: The value that is compared, of the same name in both models.
        dim_in: Rows of the weight.
        dim_out: Columns of the weight.
        bits: Bits a coefficient.
        frames: Kinds of the frames on the reduction and, where there is one, the output axis.
        redundancy: Codes over weights.
        float_bytes: Bytes of the float weight.
        stored_bytes: Bytes of codes, scales, zero points and signs; none for a weight that
            another layer holds.
        weight_rel_error: That of the weight.
        local_rel_error: That of the layer's output where both read the float model's activations.
        accumulated_rel_error: That of the layer's output in the compiled model.
        model_rel_error: That of the model's outputs where this layer alone is compiled: the square
            root of the mean of their squared errors.
        histogram: Of its coefficients.
    """

    name: str
    output: str
    dim_in: int
    dim_out: int
    bits: int
    frames: list[str]
    redundancy: float
    float_bytes: int
    stored_bytes: int
    weight_rel_error: float
    local_rel_error: float
    accumulated_rel_error: float
    model_rel_error: float
    histogram: Histogram


@dataclass(frozen=True)
class Advice:
    """What a layer would gain by other bits.

    Attributes:
        layer: Its name.
        bits: The bits that it would have.
        added_bytes: What it would take more.
        predicted_change: Of the outputs' squared error, as a part of it: -0.18 is 18% less.
    """

    layer: str
    bits: int
    added_bytes: int
    predicted_change: float


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


@dataclass(frozen=True)
class DiffReport:
    """What ``fqonnx diff`` found.

    Attributes:
        verdicts: Of each threshold on each output.
        model: Sizes of both files.
        outputs: Float against compiled, for each output.
        noise: The float model against itself in float16; empty where that was not measured.
        samples: The data.
        files: SHA-256 of each file, by its path.
        versions: Versions of what took part.
        machine: The processor, and the GPU where there is one.
        split: Where the error comes from; None where the model has no operators of ours.
        layers: Compiled layers in graph order.
        advice: What to change, what helps most first.
        slow: Layers that take a slow path, and why, a line each.
        compilation: What the compiled file says of itself; None where it says nothing.
        warnings: What could not be measured, and why.
    """

    verdicts: list[Verdict]
    model: ModelReport
    outputs: list[OutputDiff]
    noise: list[OutputDiff]
    samples: SamplesReport
    files: dict[str, str]
    versions: dict[str, str]
    machine: str = ""
    split: ErrorSplit | None = None
    layers: list[LayerDiff] = field(default_factory=list)
    advice: list[Advice] = field(default_factory=list)
    slow: list[str] = field(default_factory=list)
    compilation: Compilation | None = None
    warnings: list[str] = field(default_factory=list)

    def to_json(self) -> str:
        """Return the report as JSON; what is not a finite number becomes null."""
        return to_json(dataclasses.asdict(self))
