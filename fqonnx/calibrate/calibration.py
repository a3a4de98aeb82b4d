"""The moments of many layers, as many at a time as fit into memory."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import onnx_ir as ir

from fqonnx.calibrate.moments import collect_moments
from fqonnx.calibrate.samples import Samples
from fqonnx.passes import LayerInput, Unit
from fqonnx.progress import Track, silent, timed
from fqonnx.quant import Moments
from fqonnx.segments import Relay

FindMoments: TypeAlias = Callable[[], dict[LayerInput, Moments]]

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
    ) -> Iterator[tuple[list[Unit], FindMoments]]:
        """Yield units in rounds, each with what finds the moments of its layers' inputs.

        The model runs once, as far as moments are asked for, where all Hessians of a segment fit
        into memory; where they do not, that segment runs once a round. A model that fits is one
        segment. Without samples there are no moments.

        Raises:
            ModelError: The model does not run on the samples.
            DataError: An activation is not finite.
        """
        if self.samples is None:
            yield list(units), dict
            return
        relay = Relay(
            model,
            self.samples.feeds,
            where=self.where,
            folder=self.folder,
            track=self.track,
        )
        with relay:
            yield from _Pass(self, self.samples, relay, units).rounds()

    def parts(self, unit: Unit, moments: Mapping[LayerInput, Moments]) -> dict[str, Moments] | None:
        """Return the moments of a unit's layers that have rows, by name; None without samples."""
        if self.samples is None:
            return None
        return {layer.name: moments[layer.input] for layer in unit if layer.input in moments}


class _Pass:
    """A run of a model over the samples, which goes on when moments are asked for.

    Args:
        calibration: How to calibrate.
        samples: What on.
        relay: The run.
        units: The weights whose layers' inputs count.
    """

    def __init__(
        self, calibration: Calibration, samples: Samples, relay: Relay, units: Sequence[Unit]
    ) -> None:
        self._calibration = calibration
        self._is_real = samples.is_real
        self._relay = relay
        self._place = {
            name: number for number, segment in enumerate(relay.segments) for name in segment.values
        }
        own: list[list[Unit]] = [[] for _ in relay.segments]  # by their last input
        self._owed: list[list[LayerInput]] = [[] for _ in relay.segments]  # to later segments
        for unit in units:
            places = [self._segment(layer.input) for layer in unit]
            own[max(places)].append(unit)
            for layer, place in zip(unit, places, strict=True):
                if place < max(places):
                    self._owed[place].append(layer.input)
        self._groups = [list(_rounds(units)) for units in own]
        self._last = max((i for i, groups in enumerate(self._groups) if groups), default=0)
        self._handed_on = 0  # segments
        self._kept: dict[LayerInput, Moments] = {}

    def rounds(self) -> Iterator[tuple[list[Unit], FindMoments]]:
        for number, groups in enumerate(self._groups):
            for group in groups:
                yield group, functools.partial(self._moments, number, group)

    def _moments(self, number: int, group: Sequence[Unit]) -> dict[LayerInput, Moments]:
        with timed(self._calibration.timing, "calibrate_s"):
            # What else a segment gives decides what the runtime fuses, and so the last digits: it
            # hands on what it does in the first of its rounds, even where that was not asked for.
            first = group is self._groups[number][0]
            for earlier in range(self._handed_on, number if first else min(number + 1, self._last)):
                self._collect(earlier, self._own(earlier, self._groups[earlier][:1]))
            found = self._collect(number, self._own(number, [group]))
            wanted = dict.fromkeys(layer.input for unit in group for layer in unit)
            return {value: self._kept[value] for value in wanted if value in self._kept} | found

    def _own(self, number: int, groups: Sequence[Sequence[Unit]]) -> list[LayerInput]:
        """Return the layers' inputs that are in a segment."""
        inputs = dict.fromkeys(layer.input for group in groups for unit in group for layer in unit)
        return [value for value in inputs if self._segment(value) == number]

    def _collect(self, number: int, values: Sequence[LayerInput]) -> dict[LayerInput, Moments]:
        hands_on = self._handed_on == number < self._last
        owed = self._owed[number] if hands_on else []
        found = collect_moments(
            self._relay,
            self._relay.segments[number],
            list(dict.fromkeys([*values, *owed])),
            mask_input=self._calibration.mask_input,
            is_real=self._is_real,
            device=self._calibration.device,
            hand_on=hands_on,
        )
        if hands_on:
            self._handed_on += 1
            self._kept |= {value: found[value] for value in owed if value in found}
        return found

    def _segment(self, value: LayerInput) -> int:
        return self._place.get(value.name, 0)  # an input or a constant: any segment will do


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
