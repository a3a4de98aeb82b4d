"""The moments of many layers, as many at a time as fit into memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from fqonnx.calibrate.moments import collect_moments
from fqonnx.calibrate.samples import Samples
from fqonnx.passes import LayerInput, Unit
from fqonnx.progress import Track, silent, timed
from fqonnx.quant import Moments

# Hessians that are held at one time; more layers than this holds are calibrated in rounds.
_HESSIAN_BYTES = 1 << 29


@dataclass(frozen=True)
class Calibration:
    """What to calibrate on, and how.

    Attributes:
        samples: What to run; None for no calibration.
        mask_input: The input whose zeros mark padding.
        device: Torch device of the moments.
        timing: Gets the seconds of each step.
        track: Progress.
        where: What error messages call the model.
    """

    samples: Samples | None
    mask_input: str | None = None
    device: str = "cpu"
    timing: dict[str, float] = field(default_factory=dict)
    track: Track = silent
    where: str = "model"

    def rounds(self, units: Sequence[Unit]) -> list[list[Unit]]:
        """Split units into rounds whose Hessians fit into memory; one round without samples."""
        return [list(units)] if self.samples is None else list(_rounds(units))

    def moments(self, model: ir.Model, group: Sequence[Unit]) -> dict[LayerInput, Moments]:
        """Return the moments of the inputs of a round's layers, none of them without samples.

        Raises:
            ModelError: The model does not run on the samples.
            DataError: An activation is not finite.
        """
        if self.samples is None:
            return {}
        with timed(self.timing, "calibrate_s"):
            return collect_moments(
                model,
                list(dict.fromkeys(layer.input for unit in group for layer in unit)),
                self.samples,
                mask_input=self.mask_input,
                device=self.device,
                track=self.track,
                where=self.where,
            )

    def parts(self, unit: Unit, moments: Mapping[LayerInput, Moments]) -> dict[str, Moments] | None:
        """Return the moments of a unit's layers that have rows, by name; None without samples."""
        if self.samples is None:
            return None
        return {layer.name: moments[layer.input] for layer in unit if layer.input in moments}


def _rounds(units: Sequence[Unit]) -> Iterator[list[Unit]]:
    """Split units into rounds whose Hessians fit into memory, one for each distinct input."""
    group: list[Unit] = []
    inputs: set[LayerInput] = set()
    for unit in units:
        new = {layer.input for layer in unit} | inputs
        if group and sum(8 * i.dim**2 for i in new) > _HESSIAN_BYTES and new != inputs:
            yield group
            group, new = [], {layer.input for layer in unit}
        group.append(unit)
        inputs = new
    if group:
        yield group
