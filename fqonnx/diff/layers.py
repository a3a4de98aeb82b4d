"""What each compiled layer does to its own output, and to those of the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import torch

from fqonnx.config import Codebook
from fqonnx.diff.stored_weight import Histogram, stored_bytes, stored_weight
from fqonnx.diff.switched_model import SwitchedModel
from fqonnx.passes import AddErrorOutputsPass, CompiledLayer
from fqonnx.progress import Track, silent
from fqonnx.session import Feed, Session


@dataclass(frozen=True)
class LayerDiff:
    """A compiled layer against the float one. Errors are ‖difference‖/‖float‖ over all samples.

    Attributes:
        name: Module path or node name, as when it was compiled.
        output: The value that is compared, of the same name in both models.
        dim_in: Rows of the weight.
        dim_out: Columns of the weight.
        bits: Bits a coefficient.
        codebook: ``scalar`` or ``trellis``.
        frames: Kinds of the frames on the reduction and, where there is one, the output axis.
        redundancy: Codes over weights.
        float_bytes: Bytes of the float weight.
        stored_bytes: Bytes of codes, scales, zero points and signs; none for a weight that
            another layer holds.
        weight_rel_error: That of the weight.
        local_rel_error: That of the layer's output where both read the float model's activations.
        accumulated_rel_error: That of the layer's output in the compiled model.
        model_rel_error: That of the model's outputs where this layer alone is compiled, on the
            first batch: the square root of the sum of their squared errors.
        histogram: Of its coefficients.
    """

    name: str
    output: str
    dim_in: int
    dim_out: int
    bits: int
    codebook: Codebook
    frames: list[str]
    redundancy: float
    float_bytes: int
    stored_bytes: int
    weight_rel_error: float
    local_rel_error: float
    accumulated_rel_error: float
    model_rel_error: float
    histogram: Histogram


def diff_layers(
    model: ir.Model,
    compiled: ir.Model,
    layers: Sequence[CompiledLayer],
    feeds: tuple[Feed, ...],
    *,
    mask_input: str | None = None,
    track: Track = silent,
) -> list[LayerDiff]:
    """Compare layers of two models; no activation leaves the runtime.

    Args:
        model: The float model, normalized as for compiling.
        compiled: The compiled model.
        layers: Its layers (see `fqonnx.passes.compiled_layers`).
        feeds: Batches for both.
        mask_input: The input whose zeros mark padding, which does not count.
        track: Progress.

    Raises:
        ModelError: The models do not run side by side.
    """
    if not layers:
        return []
    local, accumulated = _output_errors(model, compiled, layers, feeds, mask_input, track)
    alone = SwitchedModel(model, compiled, layers, track).errors_alone(feeds[0], mask_input, track)
    seen: set[tuple[ir.Value | None, int]] = set()
    found = []
    for i, layer in enumerate(track(layers, "Comparing weights")):
        spec, source = layer.spec, layer.source
        place = layer.node.inputs[spec.input_names().index("codes")], layer.rows.start
        weight, stored = torch.from_numpy(source.matrix().copy()), stored_weight(layer)
        error = torch.linalg.norm(stored.dequantize() - weight) / torch.linalg.norm(weight)
        found.append(
            LayerDiff(
                name=source.name,
                output=str(layer.output.name),
                dim_in=source.dim_in,
                dim_out=source.dim_out,
                bits=spec.bits,
                codebook=spec.codebook,
                frames=[f.kind for f in (spec.frame_in, spec.frame_out) if f.kind != "identity"],
                redundancy=stored.indices.numel() / weight.numel(),
                float_bytes=source.weight_bytes,
                stored_bytes=0 if place in seen else stored_bytes(layer),
                weight_rel_error=float(error),
                local_rel_error=local[i],
                accumulated_rel_error=accumulated[i],
                model_rel_error=alone[i],
                histogram=stored.histogram(weight),
            )
        )
        seen.add(place)
    return found


def _output_errors(
    model: ir.Model,
    compiled: ir.Model,
    layers: Sequence[CompiledLayer],
    feeds: tuple[Feed, ...],
    mask_input: str | None,
    track: Track,
) -> tuple[list[float], list[float]]:
    """Return the relative errors of the layers' outputs on float and on compiled activations."""
    measured = model.clone()
    errors = AddErrorOutputsPass(compiled, [layer.source for layer in layers], mask_input)
    errors(measured)
    session = Session(measured, "the float model beside the compiled one")
    sums = np.zeros((len(layers), 3))
    for feed in track(feeds, "Comparing layers"):
        sums += np.stack(session.run(feed, errors.output_names))
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios = np.sqrt(sums[:, 1:] / sums[:, :1])
    ratios[sums[:, 1:] == 0] = 0.0
    return ratios[:, 0].tolist(), ratios[:, 1].tolist()
