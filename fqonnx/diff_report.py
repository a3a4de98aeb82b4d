"""What ``fqonnx diff`` found, as data: its JSON, and what the HTML and Markdown show."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from fqonnx.diff import Advice, LayerDiff, OutputDiff, Verdict
from fqonnx.report import Compilation, ModelReport, to_json


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
