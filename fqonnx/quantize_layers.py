"""The numerical half of a compilation: layers in, quantized weights out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir
import torch

from fqonnx.calibrate import Samples, collect_moments, merge_moments
from fqonnx.config import METHODS, CompileConfig, Method
from fqonnx.errors import ModelError
from fqonnx.frames import Frame, HadamardFrame, IdentityFrame
from fqonnx.passes import LinearLayer, Replacement, Unquantized
from fqonnx.progress import Track, timed
from fqonnx.quant import Moments, QuantizedWeight, quantize_weight

# Hessians that are held at one time; more layers than this holds are calibrated in rounds.
_HESSIAN_BYTES = 1 << 29

# At 1 bit the layers before have changed the inputs so much that the mean measured on the float
# model is no longer theirs, and correcting for it does harm.
_LEAST_BITS_FOR_MEAN = 2


def quantize_layers(
    model: ir.Model,
    layers: Sequence[LinearLayer],
    samples: Samples | None,
    mask_input: str | None,
    config: CompileConfig,
    timing: dict[str, float],
    warnings: list[str],
    track: Track,
    where: str,
) -> tuple[list[Replacement], list[Unquantized]]:
    """Calibrate and quantize, in rounds that bound the Hessians held at one time.

    Args:
        model: The model that the layers belong to.
        layers: What to quantize.
        samples: What to calibrate on; None for no calibration.
        mask_input: The input whose zeros mark padding.
        config: Options.
        timing: Gets the seconds of both steps.
        warnings: Gets what a user should know.
        track: Progress.
        where: What error messages call the model.

    Returns:
        The quantized weights with their layers, and the layers that could not be quantized.

    Raises:
        ModelError: A weight is not finite, or the model does not run.
        DataError: An activation is not finite.
    """
    done: list[Replacement] = []
    failed: list[Unquantized] = []
    method = METHODS[config.method]
    for group in _rounds(_by_weight(layers)):
        moments: dict[str, Moments] = {}
        with timed(timing, "calibrate_s"):
            if samples is not None:
                values = {str(layer.x.name): layer.dim_in for unit in group for layer in unit}
                moments = collect_moments(
                    model,
                    list(values.items()),
                    samples,
                    mask_input=mask_input,
                    device=config.device,
                    track=track,
                    where=where,
                )
                warnings += _scarce(group, moments)
        with timed(timing, "quantize_s"):
            for unit in track(group, "Quantizing"):
                parts = [moments[n] for n in (str(x.x.name) for x in unit) if n in moments]
                if samples is not None and not parts:
                    failed += [
                        _kept(layer, "no calibration sample has a row for it") for layer in unit
                    ]
                    continue
                try:
                    quantized = _quantize_unit(unit, parts, method, config, seed=len(done))
                    done.append(Replacement(unit, quantized))
                except OverflowError as error:
                    failed += [_kept(layer, str(error)) for layer in unit]
    return done, failed


def _kept(layer: LinearLayer, reason: str) -> Unquantized:
    return Unquantized(layer.name, layer.op_type, (layer.dim_in, layer.dim_out), reason)


def _scarce(units: Sequence[tuple[LinearLayer, ...]], moments: dict[str, Moments]) -> Iterator[str]:
    """Warn where calibration rows are fewer than the dimensions that they are to describe."""
    scarce = {
        layer.name: (found.count, layer.dim_in)
        for unit in units
        for layer in unit
        if (found := moments.get(str(layer.x.name))) and found.count < layer.dim_in
    }
    if scarce:
        name, (count, dim_in) = next(iter(scarce.items()))
        yield (
            f"few calibration rows for {len(scarce)} layers, {count} for the {dim_in} inputs of "
            f"{name!r} for one: their output_rel_error is too low, and more samples would help"
        )


def _by_weight(layers: Sequence[LinearLayer]) -> list[tuple[LinearLayer, ...]]:
    """Group layers that share a weight: it is quantized once."""
    units: dict[str, list[LinearLayer]] = {}
    for layer in layers:
        units.setdefault(str(layer.weight.name), []).append(layer)
    return [tuple(unit) for unit in units.values()]


def _rounds(
    units: Sequence[tuple[LinearLayer, ...]],
) -> Iterator[list[tuple[LinearLayer, ...]]]:
    """Split units into rounds whose Hessians fit into memory, one for each distinct input."""
    group: list[tuple[LinearLayer, ...]] = []
    dims: dict[str, int] = {}
    for unit in units:
        new = {str(layer.x.name): layer.dim_in for layer in unit} | dims
        if group and sum(8 * dim**2 for dim in new.values()) > _HESSIAN_BYTES and new != dims:
            yield group
            group, new = [], {str(layer.x.name): layer.dim_in for layer in unit}
        group.append(unit)
        dims = new
    if group:
        yield group


def _quantize_unit(
    unit: tuple[LinearLayer, ...],
    moments: list[Moments],
    method: Method,
    config: CompileConfig,
    seed: int,
) -> QuantizedWeight:
    layer = unit[0]
    tensor = layer.weight.const_value
    assert tensor is not None
    weight = torch.from_numpy(tensor.numpy().astype(np.float32)).to(config.device)
    if not bool(weight.isfinite().all()):
        raise ModelError(
            f"weight {layer.weight.name!r} of {layer.name!r}",
            "it has NaN or infinite entries",
            f"Mend the model, or keep the layer float with --exclude '{layer.name}'",
        )
    return quantize_weight(
        weight,
        _frame(method, layer.dim_in, config.redundancy, config.seed * 1_000_003 + seed),
        method,
        config.bits,
        merge_moments(moments) if moments else None,
        correct_mean=(
            method.corrects_mean
            and config.bits >= _LEAST_BITS_FOR_MEAN
            and len(unit) == 1
            and layer.bias is not None
        ),
    )


def _frame(method: Method, dim: int, redundancy: float, seed: int) -> Frame:
    if method.frame == "identity":
        return IdentityFrame(dim)
    return HadamardFrame.create(dim, redundancy, seed)
