"""Everything between a float model and the one that was compiled from it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from fqonnx.diff.compare import squared_error
from fqonnx.passes import AddSwitchesPass, CompiledLayer
from fqonnx.passes.add_switches import SWITCHES
from fqonnx.progress import Track, silent
from fqonnx.segments import WHOLE_BYTES, open_model
from fqonnx.session import Feed


class SwitchedModel:
    """The float model with any of its layers compiled.

    Args:
        model: The float model, normalized as for compiling.
        compiled: The compiled model.
        layers: Its layers.
        track: Progress, where it runs in segments.

    Attributes:
        num_layers: How many there are.
        output_names: Of the outputs that are numbers.
    """

    def __init__(
        self,
        model: ir.Model,
        compiled: ir.Model,
        layers: Sequence[CompiledLayer],
        track: Track = silent,
    ) -> None:
        switched = model.clone()
        AddSwitchesPass(compiled, [layer.source for layer in layers])(switched)
        self._model = open_model(
            switched,
            "the float model with compiled layers",
            whole_bytes=WHOLE_BYTES,
            track=track,
        )
        self.num_layers = len(layers)
        self.output_names = self._model.numeric_outputs

    def run_all(
        self, feeds: Sequence[Feed], compiled: Sequence[NDArray[np.bool_]]
    ) -> Iterator[list[NDArray[Any]]]:
        """Yield the numeric outputs for each feed and its ``compiled`` layers (layers,)."""
        pairs = zip(feeds, compiled, strict=True)
        switched = [{**feed, SWITCHES: switches} for feed, switches in pairs]
        return self._model.run_all(switched, self.output_names)

    def errors_alone(
        self, feed: Feed, mask_input: str | None = None, track: Track = silent
    ) -> list[float]:
        """Return the error of the outputs with each layer alone compiled, on one batch.

        Outputs that are not finite are infinitely wrong. Padding does not count, which the zeros of
        the mask mark.
        """
        mask = None if mask_input is None else feed[mask_input]
        only = np.eye(self.num_layers, dtype=np.bool_)
        switches = [np.zeros(self.num_layers, np.bool_), *only]
        outputs = self.run_all([feed] * len(switches), switches)
        reference = next(outputs)
        shown = track(list(only), "Comparing layers one by one")
        squares = [
            squared_error(reference, found, mask) for found, _ in zip(outputs, shown, strict=True)
        ]
        return [math.inf if math.isnan(square) else math.sqrt(square) for square in squares]
