"""Everything between a float model and the one that was compiled from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from fqonnx.diff.compare import squared_error
from fqonnx.passes import AddSwitchesPass, CompiledLayer
from fqonnx.passes.add_switches import SWITCHES
from fqonnx.progress import Track, silent
from fqonnx.session import Feed, Session


class SwitchedModel:
    """The float model with any of its layers compiled.

    Args:
        model: The float model, normalized as for compiling.
        compiled: The compiled model.
        layers: Its layers.

    Attributes:
        num_layers: How many there are.
        output_names: Of the outputs that are numbers.
    """

    def __init__(
        self, model: ir.Model, compiled: ir.Model, layers: Sequence[CompiledLayer]
    ) -> None:
        switched = model.clone()
        AddSwitchesPass(compiled, [layer.source for layer in layers])(switched)
        self._session = Session(switched, "the float model with compiled layers")
        self.num_layers = len(layers)
        self.output_names = self._session.numeric_outputs

    def run(self, feed: Feed, compiled: NDArray[np.bool_]) -> list[NDArray[Any]]:
        """Return the numeric outputs; ``compiled`` (layers,) tells which layers are."""
        return self._session.run({**feed, SWITCHES: compiled}, self.output_names)

    def errors_alone(
        self, feed: Feed, mask_input: str | None = None, track: Track = silent
    ) -> list[float]:
        """Return the error of the outputs with each layer alone compiled, on one batch.

        Outputs that are not finite are infinitely wrong. Padding does not count, which the zeros of
        the mask mark.
        """
        mask = None if mask_input is None else feed[mask_input]
        only = np.eye(self.num_layers, dtype=np.bool_)
        reference = self.run(feed, np.zeros(self.num_layers, np.bool_))
        squares = [
            squared_error(reference, self.run(feed, row), mask)
            for row in track(list(only), "Comparing layers one by one")
        ]
        return [math.inf if math.isnan(square) else math.sqrt(square) for square in squares]
