"""Hessians and means of layer inputs, summed by the model itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
import torch

from fqonnx.calibrate.samples import Samples
from fqonnx.errors import DataError
from fqonnx.passes import AddMomentOutputsPass, LayerInput
from fqonnx.progress import Track
from fqonnx.quant import Moments
from fqonnx.session import Session

# Best on transformers of five kinds: real data can be followed closely, synthetic ones cannot.
_DAMPING_REAL = 0.1
_DAMPING_SYNTHETIC = 0.5


def collect_moments(
    model: ir.Model,
    values: Sequence[LayerInput],
    samples: Samples,
    *,
    mask_input: str | None,
    device: str,
    track: Track,
    where: str,
) -> dict[LayerInput, Moments]:
    """Run the model over the samples and return the moments of layer inputs.

    Each batch is summed in float32 by the runtime, batches in float64 here.

    Args:
        model: The model; it stays as it is.
        values: What to sum the rows of.
        samples: What to run.
        mask_input: See `AddMomentOutputsPass`.
        device: Torch device of the result.
        track: Progress.
        where: What error messages call the model.

    Returns:
        Moments by layer input; one that has no rows at all is left out.

    Raises:
        ModelError: The model does not run on the samples.
        DataError: An activation is not finite, or the mask leaves no row of it.
    """
    clone = model.clone()
    always = ir.convenience.create_value_mapping(clone.graph, include_subgraphs=False)
    adder = AddMomentOutputsPass(values, mask_input)
    adder(clone)
    session = Session(clone, where)
    del clone
    sums = [np.zeros((value.dim + 1,) * 2) for value in values]
    for feed in track(samples.feeds, "Calibrating"):
        for total, batch in zip(sums, session.run(feed, adder.output_names), strict=True):
            with np.errstate(invalid="ignore"):
                total += batch
    return {
        value: _moments(value.name, total, samples.is_real, device)
        for value, total in zip(values, sums, strict=True)
        if total[-1, -1] != 0 or (mask_input is not None and value.name in always)
    }


def _moments(name: str, total: np.ndarray, is_real: bool, device: str) -> Moments:
    count = float(total[-1, -1])
    if not np.isfinite(total).all():
        raise DataError(
            f"activation {name!r}",
            "it is not finite on the calibration samples, or its squares are beyond float32",
            "Check the float model on them, or keep the layer float with --exclude",
        )
    if count == 0:
        raise DataError(
            f"activation {name!r}", "the mask marks all of its rows as padding", "Check the mask"
        )
    mean = torch.from_numpy(total / count).to(device)
    return Moments(
        hessian=mean[:-1, :-1],
        mean=mean[:-1, -1],
        count=round(count),
        damping=_DAMPING_REAL if is_real else _DAMPING_SYNTHETIC,
        trust_mean=is_real,
    )


def merge_moments(parts: Sequence[Moments]) -> Moments:
    """Return the moments over the rows of all parts, which are of one dimension and origin."""
    first, count = parts[0], sum(part.count for part in parts)
    if len(parts) == 1:
        return first
    return Moments(
        hessian=sum(
            (p.hessian * (p.count / count) for p in parts), torch.zeros_like(first.hessian)
        ),
        mean=sum((p.mean * (p.count / count) for p in parts), torch.zeros_like(first.mean)),
        count=count,
        damping=first.damping,
        trust_mean=first.trust_mean,
    )
