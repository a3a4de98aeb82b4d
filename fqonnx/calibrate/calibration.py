"""The moments of many layers, as many at a time as fit into memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import onnx_ir as ir

from fqonnx.calibrate.moments import collect_moments
from fqonnx.calibrate.samples import Samples
from fqonnx.passes import LayerInput, Unit
from fqonnx.progress import Track, silent, timed
from fqonnx.quant import Moments
from fqonnx.segments import Relay

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
        folder: Gets a folder for activations of a model of several segments; None for the system's.
    """

    samples: Samples | None
    mask_input: str | None = None
    device: str = "cpu"
    timing: dict[str, float] = field(default_factory=dict)
    track: Track = silent
    where: str = "model"
    folder: Path | None = None

    def rounds(
        self, model: ir.Model, units: Sequence[Unit]
    ) -> Iterator[tuple[list[Unit], dict[LayerInput, Moments]]]:
        """Yield units with the moments of their layers' inputs, none of them without samples.

        A model of several segments runs once: the units of a segment are yielded before the next.

        Raises:
            ModelError: The model does not run on the samples.
            DataError: An activation is not finite.
        """
        if self.samples is None:
            for group in _rounds(units):
                yield group, {}
            return
        relay = Relay(
            model,
            self.samples.feeds,
            where=self.where,
            folder=self.folder,
            track=self.track,
        )
        with relay:
            yield from self._relayed(relay, self.samples, units)

    def _relayed(
        self, relay: Relay, samples: Samples, units: Sequence[Unit]
    ) -> Iterator[tuple[list[Unit], dict[LayerInput, Moments]]]:
        place = {name: i for i, segment in enumerate(relay.segments) for name in segment.values}
        inputs = {unit: dict.fromkeys(layer.input for layer in unit) for unit in units}
        ready = {unit: max(place.get(i.name, 0) for i in own) for unit, own in inputs.items()}
        last = max(ready.values(), default=-1)
        early: dict[LayerInput, Moments] = {}  # of weights that later segments use too
        for number, segment in enumerate(relay.segments[: last + 1]):
            later = dict.fromkeys(i for u, at in ready.items() if at > number for i in inputs[u])
            groups = list(_rounds([unit for unit in units if ready[unit] == number])) or [[]]
            for group in groups:
                wanted = dict.fromkeys(i for unit in group for i in inputs[unit]) | later
                values = [i for i in wanted if place.get(i.name, 0) == number and i not in early]
                with timed(self.timing, "calibrate_s"):
                    early |= collect_moments(
                        relay,
                        segment,
                        values,
                        mask_input=self.mask_input,
                        is_real=samples.is_real,
                        device=self.device,
                        hand_on=number < last and group is groups[0],
                    )
                if group:
                    yield group, early
                early = {i: moments for i, moments in early.items() if i in later}
            relay.drop(segment)

    def parts(self, unit: Unit, moments: Mapping[LayerInput, Moments]) -> list[Moments] | None:
        """Return the moments of the layers of a unit that have rows; None without samples."""
        if self.samples is None:
            return None
        return [moments[layer.input] for layer in unit if layer.input in moments]


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
