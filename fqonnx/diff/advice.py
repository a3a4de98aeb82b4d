"""What to change for less error, from what each layer was measured to cause."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fqonnx.choose_codebook import MOST_TRELLIS_BITS
from fqonnx.diff.layers import LayerDiff
from fqonnx.packing import SUPPORTED_BITS

_MOST_LAYERS = 10
# Least mean squared error of a unit Gaussian on levels a step apart: J. Max, "Quantizing for
# minimum distortion", IRE Trans. Inf. Theory 6 (1960), table II; that of trellis codes is from
# docs/trellis.md. Feedback and redundancy take all of them down alike, near enough.
_DISTORTION = {
    "scalar": {1: 0.3634, 2: 0.1188, 3: 0.03744, 4: 0.01154},
    "trellis": {1: 0.2776, 2: 0.0710, 3: 0.0186, 4: 0.0052},
}


@dataclass(frozen=True)
class Advice:
    """What a layer would gain by other bits.

    Attributes:
        layer: Its name.
        bits: The bits that it would have.
        added_bytes: What it would take more.
        predicted_change: Of the outputs' squared error, as a part of it: -0.18 is 18% less. It
            takes that error to be the sum of what each layer causes alone.
    """

    layer: str
    bits: int
    added_bytes: int
    predicted_change: float


def advise(layers: Sequence[LayerDiff]) -> list[Advice]:
    """Return what more bits would do for the layers that cause most, the worst layer first.

    Args:
        layers: All compiled layers of a model. One whose weight another layer holds goes with it.
            Where the error of one is not finite there is nothing to weigh it against: no advice.
    """
    total = sum(layer.model_rel_error**2 for layer in layers)
    if not 0.0 < total < math.inf:
        return []
    worst = sorted(
        (layer for layer in layers if layer.stored_bytes), key=lambda x: -x.model_rel_error
    )
    return [
        Advice(
            layer.name,
            bits,
            round(layer.dim_in * layer.dim_out * layer.redundancy * (bits - layer.bits) / 8),
            -(layer.model_rel_error**2) / total * (1 - _ratio(layer, bits)),
        )
        for layer in worst[:_MOST_LAYERS]
        for bits in SUPPORTED_BITS
        if bits > layer.bits
    ]


def _ratio(layer: LayerDiff, bits: int) -> float:
    """Return the squared error of a layer at other bits, relative to what it is."""
    codebook = layer.codebook if bits <= MOST_TRELLIS_BITS else "scalar"
    return _DISTORTION[codebook][bits] / _DISTORTION[layer.codebook][layer.bits]
