"""One weight and the layers that share it, as a job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fqonnx.calibrate import merge_moments
from fqonnx.config import CompileConfig
from fqonnx.passes import Unit
from fqonnx.passes.constants import constant, detached
from fqonnx.quant import Moments
from fqonnx.quant_job import JobShape, QuantJob

# At 1 bit the layers before have changed the inputs so much that the mean measured on the float
# model is no longer theirs, and correcting for it does harm.
_LEAST_BITS_FOR_MEAN = 2


@dataclass(frozen=True, eq=False)
class UnitTask:
    """A weight to be quantized, which is read when it is worked on.

    Attributes:
        unit: The layers that share the weight.
        moments: Of the inputs of the layers, by layer name; of those that have rows. None takes
            H = I.
        config: Options of the layers.
        seed: Of the frames' signs, beside that of the options.
        place: Which of several tasks this is.
    """

    unit: Unit
    moments: Mapping[str, Moments] | None
    config: CompileConfig
    seed: int
    place: int = 0

    @cached_property
    def shape(self) -> JobShape:
        """What is known of the job before the weight is read."""
        layer = self.unit[0]
        seed = self.seed + self.config.seed * 1_000_003
        return JobShape(layer.dim_in, layer.dim_out, self.config, seed, self.moments is not None)

    def job(self) -> QuantJob:
        """Read the weight."""
        layer = self.unit[0]
        correct_mean = (
            self.config.recipe.corrects_mean
            and self.config.bits >= _LEAST_BITS_FOR_MEAN
            and len(self.unit) == 1
            and constant(layer.bias) is not None
            and not layer.has_groups  # whose rows are pooled: no output has their mean
        )
        return QuantJob(
            self.shape,
            layer.name,
            str(layer.weight.name),
            layer.matrix(),
            self._biases() if self.config.quantize_bias else {},
            merge_moments(list(self.moments.values())) if self.moments else None,
            {name: found.count for name, found in (self.moments or {}).items()},
            correct_mean,
        )

    def _biases(self) -> Mapping[str, tuple[str, NDArray[np.float32]]]:
        found = {layer.name: constant(layer.bias) for layer in self.unit}
        return {
            name: (str(tensor.name), detached(tensor).astype(np.float32))
            for name, tensor in found.items()
            if tensor is not None
        }
