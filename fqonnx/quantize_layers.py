"""The numerical half of a compilation: layers in, quantized weights out."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from fqonnx.calibrate import Calibration
from fqonnx.config import CompileConfig
from fqonnx.passes import (
    LinearLayer,
    QuantizeWeightsPass,
    Replacement,
    Unit,
    Unquantized,
    stages,
)
from fqonnx.progress import timed
from fqonnx.workshop import Round, Workshop


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
    workshop: Workshop,
) -> QuantizedLayers:
    """Calibrate, quantize and rewrite layers, stage by stage if the configuration is sequential.

    Args:
        model: The model that the layers belong to; their nodes become FrameMatMul, or read
            their weights from FrameDequant.
        layers: What to quantize.
        calibration: What to calibrate on.
        config: Options.
        warnings: Gets what a user should know.
        workshop: Quantizes.

    Raises:
        ModelError: A weight is not finite, the model does not run, or memory runs out.
        DataError: An activation is not finite.
    """
    result = QuantizedLayers()
    scarce: dict[str, tuple[int, int]] = {}
    units = by_weight(layers)
    seeds = seeds_of(units)
    staged = config.sequential and calibration.samples is not None
    before: list[object] = ["float"]
    for stage in stages(model, units) if staged else [units]:
        done: list[Replacement] = []
        for group, moments in calibration.rounds(model, stage):
            wanted = [(unit, config.for_layer(unit[0].names)) for unit in group]
            of = Round(group, moments, seeds, calibration, str(before) if staged else "")
            results = workshop.quantize(of, wanted, "Quantizing", "quantize_s")
            for unit, found in zip(group, results, strict=True):
                scarce |= _scarce(unit, found.rows)
                if found.weight is None:
                    result.failed.extend(_kept(layer, found.reason) for layer in unit)
                else:
                    done.append(Replacement(unit, found.weight, found.biases))
        with timed(calibration.timing, "rewrite_s"):
            rewrite = QuantizeWeightsPass(done, contrib=config.recipe.lowering != "onnx")
            rewrite(model)
        result.replacements.extend(done)
        result.stored_bytes.update(rewrite.stored_bytes)
        result.nodes.update(rewrite.nodes)
        before += [(unit[0].name, config.for_layer(unit[0].names)) for unit in stage]
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


def _scarce(unit: Unit, rows: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """Return rows and inputs of layers with fewer calibration rows than inputs."""
    return {
        layer.name: (rows[layer.name], layer.dim_in)
        for layer in unit
        if rows.get(layer.name, layer.dim_in) < layer.dim_in
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
