"""The third job: which layers of a compiled model must stay float."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from fqonnx.diff import (
    OutputDiff,
    SwitchedModel,
    Threshold,
    Verdict,
    bisect_layers,
    judge,
    stored_bytes,
)
from fqonnx.errors import ConfigError, ModelError
from fqonnx.model_pair import ModelPair
from fqonnx.progress import Track, silent
from fqonnx.report import to_json
from fqonnx.segments import WHOLE_BYTES, open_model


@dataclass(frozen=True)
class RankedLayer:
    """A compiled layer, and what it alone does to the outputs.

    Attributes:
        name: Module path or node name.
        model_rel_error: As in `fqonnx.diff.LayerDiff`.
        added_bytes: What the file grows by where it is restored.
        restored: Whether it has to be.
    """

    name: str
    model_rel_error: float
    added_bytes: int
    restored: bool


@dataclass(frozen=True)
class BisectReport:
    """What ``fqonnx bisect`` found.

    Attributes:
        layers: All compiled layers, the worst first.
        verdicts: Of each threshold on each output with the layers restored that have to be.
        outputs: Float against compiled with those restored.
    """

    layers: list[RankedLayer]
    verdicts: list[Verdict]
    outputs: list[OutputDiff]

    @property
    def restored(self) -> list[str]:
        """The names of the layers to restore, the worst first."""
        return [layer.name for layer in self.layers if layer.restored]

    def to_json(self) -> str:
        """Return the report as JSON; what is not a finite number becomes null."""
        return to_json(dataclasses.asdict(self))


def bisect_models(
    pair: ModelPair, thresholds: Sequence[Threshold], track: Track = silent
) -> BisectReport:
    """Find a smallest set of layers whose restoration meets the thresholds (see `bisect_layers`).

    Args:
        pair: The models, and what they run on.
        thresholds: What the outputs must meet.
        track: Progress.

    Raises:
        ConfigError: There is no threshold, or the float model misses one itself.
        ModelError: The compiled model has no layers that are known from the float one.
    """
    if not thresholds:
        raise ConfigError(
            "--fail-under", "there is no threshold to meet", "Give one: --fail-under cosine=0.95"
        )
    if not pair.layers:
        raise ModelError(
            str(pair.compiled_path),
            f"no FrameMatMul or FrameDequant in it holds a layer of {pair.float_path}",
            "Give the model that it was compiled from, and compile without --lowering stock",
        )
    switched = SwitchedModel(pair.model, pair.compiled, pair.layers, track)
    errors = switched.errors_alone(pair.samples.feeds[0], pair.mask_input, track)
    found = bisect_layers(
        open_model(pair.float_path, str(pair.float_path), whole_bytes=WHOLE_BYTES, track=track),
        switched,
        errors,
        thresholds,
        pair.samples.feeds,
        kinds=pair.kinds,
        labels=pair.labels,
        mask_input=pair.mask_input,
        track=track,
    )
    verdicts = judge(found.outputs, thresholds)
    if found.restored is None:
        missed = next(verdict for verdict in verdicts if not verdict.met)
        raise ConfigError(
            f"{missed.metric}={missed.threshold:g}",
            f"the float model itself misses it: {missed.output} has {missed.found:.4g}",
            "Ask for less",
        )
    layers = [
        RankedLayer(
            pair.layers[i].source.name,
            errors[i],
            pair.layers[i].source.weight_bytes - stored_bytes(pair.layers[i]),
            i in found.restored,
        )
        for i in found.ranking
    ]
    return BisectReport(layers, verdicts, found.outputs)
