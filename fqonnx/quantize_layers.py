"""The numerical half of a compilation: layers in, quantized weights out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir
import torch

from fqonnx.calibrate import Samples, collect_moments, merge_moments
from fqonnx.config import CompileConfig, Method, Sides
from fqonnx.errors import ModelError
from fqonnx.frames import Frame, FusionFrame, HadamardFrame, HarmonicFrame, IdentityFrame
from fqonnx.passes import (
    LayerInput,
    LinearLayer,
    QuantizeWeightsPass,
    Replacement,
    Unit,
    Unquantized,
    stages,
)
from fqonnx.passes.constants import constant
from fqonnx.progress import Track, timed
from fqonnx.quant import Moments, QuantizedWeight, quantize_weight

# Hessians that are held at one time; more layers than this holds are calibrated in rounds.
_HESSIAN_BYTES = 1 << 29

# At 1 bit the layers before have changed the inputs so much that the mean measured on the float
# model is no longer theirs, and correcting for it does harm.
_LEAST_BITS_FOR_MEAN = 2


@dataclass(frozen=True)
class QuantizedLayers:
    """What became of the layers that were to be quantized.

    Attributes:
        replacements: The quantized weights with their layers.
        stored_bytes: Bytes of each layer by name; those of a shared weight are its first layer's.
        failed: The layers that could not be quantized.
    """

    replacements: list[Replacement] = field(default_factory=list)
    stored_bytes: dict[str, int] = field(default_factory=dict)
    failed: list[Unquantized] = field(default_factory=list)


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
) -> QuantizedLayers:
    """Calibrate, quantize and rewrite layers, stage by stage if the configuration is sequential.

    Args:
        model: The model that the layers belong to; their nodes become FrameMatMul, or read
            their weights from FrameDequant.
        layers: What to quantize.
        samples: What to calibrate on; None for no calibration.
        mask_input: The input whose zeros mark padding.
        config: Options.
        timing: Gets the seconds of each step.
        warnings: Gets what a user should know.
        track: Progress.
        where: What error messages call the model.

    Raises:
        ModelError: A weight is not finite, the model does not run, or memory runs out.
        DataError: An activation is not finite.
    """
    result = QuantizedLayers()
    scarce: dict[str, tuple[int, int]] = {}
    units = _by_weight(layers)
    seeds = {unit: 2 * number for number, unit in enumerate(units)}
    staged = config.sequential and samples is not None
    for stage in stages(model, units) if staged else [units]:
        done: list[Replacement] = []
        for group in _rounds(stage):
            moments: dict[LayerInput, Moments] = {}
            with timed(timing, "calibrate_s"):
                if samples is not None:
                    values = dict.fromkeys(layer.input for unit in group for layer in unit)
                    moments = collect_moments(
                        model,
                        list(values),
                        samples,
                        mask_input=mask_input,
                        device=config.device,
                        track=track,
                        where=where,
                    )
                    scarce |= _scarce(group, moments)
            with timed(timing, "quantize_s"):
                for unit in track(group, "Quantizing"):
                    inputs = (layer.input for layer in unit)
                    parts = (
                        None if samples is None else [moments[i] for i in inputs if i in moments]
                    )
                    outcome = _quantize_unit(unit, parts, config, seeds[unit])
                    if isinstance(outcome, str):
                        result.failed.extend(_kept(layer, outcome) for layer in unit)
                    else:
                        done.append(Replacement(unit, outcome))
        with timed(timing, "rewrite_s"):
            rewrite = QuantizeWeightsPass(done, contrib=config.recipe.lowering != "onnx")
            rewrite(model)
        result.replacements.extend(done)
        result.stored_bytes.update(rewrite.stored_bytes)
    if scarce:
        name, (count, dim_in) = next(iter(scarce.items()))
        warnings.append(
            f"few calibration rows for {name!r}, {count} for its {dim_in} inputs, and "
            f"{len(scarce) - 1} other layers: their output_rel_error is too low, and more samples "
            "would help"
        )
    return result


def _kept(layer: LinearLayer, reason: str) -> Unquantized:
    return Unquantized(layer.name, layer.op_type, (layer.dim_in, layer.dim_out), reason)


def _scarce(
    units: Sequence[Unit], moments: dict[LayerInput, Moments]
) -> dict[str, tuple[int, int]]:
    """Return rows and inputs of layers with fewer calibration rows than inputs."""
    return {
        layer.name: (found.count, layer.dim_in)
        for unit in units
        for layer in unit
        if (found := moments.get(layer.input)) and found.count < layer.dim_in
    }


def _by_weight(layers: Sequence[LinearLayer]) -> list[Unit]:
    """Group layers that share a weight: it is quantized once."""
    units: dict[str, list[LinearLayer]] = {}
    for layer in layers:
        units.setdefault(str(layer.weight.name), []).append(layer)
    return [tuple(unit) for unit in units.values()]


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


def _quantize_unit(
    unit: Unit, moments: list[Moments] | None, config: CompileConfig, seed: int
) -> QuantizedWeight | str:
    """Return the quantized weight, or why it stays float; no moments at all take H = I."""
    if moments is not None and not moments:
        return "no calibration sample has a row for it"
    layer = unit[0]
    weight = torch.from_numpy(layer.matrix()).to(config.device)
    if not bool(weight.isfinite().all()):
        raise ModelError(
            f"weight {layer.weight.name!r} of {layer.name!r}",
            "it has NaN or infinite entries",
            f"Mend the model, or keep the layer float with --exclude '{layer.name}'",
        )
    method = config.recipe
    seed += config.seed * 1_000_003
    try:
        return quantize_weight(
            weight,
            _frame(method, "in", layer.dim_in, seed),
            _frame(method, "out", layer.dim_out, seed + 1),
            method,
            config.bits,
            merge_moments(moments) if moments else None,
            correct_mean=(
                method.corrects_mean
                and config.bits >= _LEAST_BITS_FOR_MEAN
                and len(unit) == 1
                and constant(layer.bias) is not None
                and not layer.has_groups  # whose rows are pooled: no output has their mean
            ),
        )
    except OverflowError as error:
        return str(error)
    except (MemoryError, RuntimeError) as error:
        # torch's error has a type of its own on CUDA only.
        if isinstance(error, RuntimeError) and "memory" not in str(error):
            raise
        raise ModelError(
            f"layer {layer.name!r}",
            f"memory ran out on its {layer.dim_in} × {layer.dim_out} weights at redundancy "
            f"{method.redundancy:g}",
            "Lower the redundancy, or keep the layer float with --exclude",
        ) from error


def _frame(method: Method, side: Sides, dim: int, seed: int) -> Frame:
    if method.frame == "identity" or method.sides not in (side, "both"):
        return IdentityFrame(dim)
    if method.frame == "harmonic":
        return HarmonicFrame.create(dim, method.redundancy)
    frame = HadamardFrame if method.frame == "hadamard" else FusionFrame
    return frame.create(dim, method.redundancy, seed)
