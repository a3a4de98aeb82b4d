"""The numerical half of a compilation: layers in, quantized weights out."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from fqonnx.calibrate import Calibration
from fqonnx.config import CompileConfig
from fqonnx.passes import (
    LayerInput,
    LinearLayer,
    QuantizeWeightsPass,
    Replacement,
    Unit,
    Unquantized,
    stages,
)
from fqonnx.progress import timed
from fqonnx.quant import Moments
from fqonnx.quantize_unit import quantize_unit


@dataclass(frozen=True)
class QuantizedLayers:
    """What became of the layers that were to be quantized.

    Attributes:
        replacements: The quantized weights with their layers.
        stored_bytes: Bytes of each layer by name; those of a shared weight are its first layer's.
        nodes: What multiplies by each weight now, by layer name.
        failed: The layers that could not be quantized.
    """

    replacements: list[Replacement] = field(default_factory=list)
    stored_bytes: dict[str, int] = field(default_factory=dict)
    nodes: dict[str, ir.Node] = field(default_factory=dict)
    failed: list[Unquantized] = field(default_factory=list)


def quantize_layers(
    model: ir.Model,
    layers: Sequence[LinearLayer],
    calibration: Calibration,
    config: CompileConfig,
    warnings: list[str],
) -> QuantizedLayers:
    """Calibrate, quantize and rewrite layers, stage by stage if the configuration is sequential.

    Args:
        model: The model that the layers belong to; their nodes become FrameMatMul, or read
            their weights from FrameDequant.
        layers: What to quantize.
        calibration: What to calibrate on.
        config: Options.
        warnings: Gets what a user should know.

    Raises:
        ModelError: A weight is not finite, the model does not run, or memory runs out.
        DataError: An activation is not finite.
    """
    result = QuantizedLayers()
    scarce: dict[str, tuple[int, int]] = {}
    units, timing = by_weight(layers), calibration.timing
    seeds = seeds_of(units)
    staged = config.sequential and calibration.samples is not None
    for stage in stages(model, units) if staged else [units]:
        done: list[Replacement] = []
        for group, moments in calibration.rounds(model, stage):
            scarce |= _scarce(group, moments)
            with timed(timing, "quantize_s"):
                for unit in calibration.track(group, "Quantizing"):
                    own = config.for_layer(unit[0].names)
                    parts = calibration.parts(unit, moments)
                    outcome = quantize_unit(unit, parts, own, seeds[unit])
                    if isinstance(outcome, str):
                        result.failed.extend(_kept(layer, outcome) for layer in unit)
                    else:
                        done.append(outcome)
        with timed(timing, "rewrite_s"):
            rewrite = QuantizeWeightsPass(done, contrib=config.recipe.lowering != "onnx")
            rewrite(model)
        result.replacements.extend(done)
        result.stored_bytes.update(rewrite.stored_bytes)
        result.nodes.update(rewrite.nodes)
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


def by_weight(layers: Sequence[LinearLayer]) -> list[Unit]:
    """Group layers that share a weight: it is quantized once."""
    units: dict[Hashable, list[LinearLayer]] = {}
    for layer in layers:
        units.setdefault(layer.weight_key, []).append(layer)
    return [tuple(unit) for unit in units.values()]


def seeds_of(units: Sequence[Unit]) -> dict[Unit, int]:
    """Return a seed for each unit: those of one input share their signs, and can be merged."""
    inputs = {unit: unit[0].input for unit in units}
    numbers = {value: number for number, value in enumerate(dict.fromkeys(inputs.values()))}
    return {unit: 2 * numbers[value] for unit, value in inputs.items()}
