"""Hessians and means of layer inputs, summed by the model itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
import torch

from fqonnx.errors import DataError, FqonnxError, ModelError
from fqonnx.passes import AddMomentOutputsPass, LayerInput
from fqonnx.passes.faulty_constant import faulty_constant
from fqonnx.passes.split import Segment
from fqonnx.quant import Moments
from fqonnx.segments import Relay
from fqonnx.session import Feed

# Best on transformers of five kinds: real data can be followed closely, synthetic ones cannot.
_DAMPING_REAL = 0.1
_DAMPING_SYNTHETIC = 0.5


def collect_moments(
    relay: Relay,
    segment: Segment,
    values: Sequence[LayerInput],
    *,
    mask_input: str | None,
    is_real: bool,
    device: str,
    hand_on: bool = False,
) -> dict[LayerInput, Moments]:
    """Run a segment over the samples and return the moments of layer inputs in it.

    Each batch is summed in float32 by the runtime, batches in float64 here.

    Args:
        relay: The run of the model over the samples.
        segment: The segment that computes the values.
        values: What to sum the rows of.
        mask_input: See `AddMomentOutputsPass`.
        is_real: Whether somebody gave the samples.
        device: Torch device of the result.
        hand_on: Whether later segments will run.

    Returns:
        Moments by layer input; one that has no rows at all is left out.

    Raises:
        ModelError: The model does not run on the samples, or a weight is not finite, hence an
            activation.
        DataError: An activation is not finite, or the mask leaves no row of it.
    """
    kept = segment.outputs if hand_on else ()
    needed = (segment.values.get(value.name, value.name) for value in values)
    if not (outputs := list(dict.fromkeys([*kept, *needed]))):
        return {}
    part = segment.extract(relay.model, outputs)
    adder = AddMomentOutputsPass(values, mask_input, kept)
    adder(part)

    def always(value: LayerInput) -> bool:
        """Whether the value is computed in every run: it is not inside another node."""
        return segment.values.get(value.name, value.name) == value.name

    sums = [np.zeros((value.dim + 1,) * 2) for value in values]
    for batches in relay.run(segment, part, adder.output_names, "Calibrating"):
        for total, batch in zip(sums, batches, strict=True):
            with np.errstate(invalid="ignore"):
                total += batch
    found = {}
    for value, total in zip(values, sums, strict=True):
        if not np.isfinite(total).all():
            raise _not_finite(relay.model, value.name)
        if total[-1, -1] != 0:
            found[value] = _moments(total, is_real, device)
        elif mask_input is not None and always(value) and _is_padding(relay.feeds, mask_input):
            raise DataError(
                f"activation {value.name!r}",
                "the mask marks all of its rows as padding",
                "Check the mask",
            )
    return found


def _is_padding(feeds: Sequence[Feed], mask_input: str) -> bool:
    """Whether the mask is zero everywhere; else what has no rows has none without it either."""
    return not any(feed[mask_input].any() for feed in feeds)


def _not_finite(model: ir.Model, name: str) -> FqonnxError:
    if (weight := faulty_constant(model, name)) is not None:
        return ModelError(
            f"weight {weight!r}",
            f"it has NaN or infinite entries, and so has activation {name!r} behind it",
            "Mend the model, or keep its layer and those behind it float with --exclude",
        )
    return DataError(
        f"activation {name!r}",
        "it is not finite on the calibration samples, or its squares are beyond float32",
        "Check the float model on them, or keep the layer float with --exclude",
    )


def _moments(total: np.ndarray, is_real: bool, device: str) -> Moments:
    count = float(total[-1, -1])
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
