"""Bits and redundancy of each layer, for a budget or for thresholds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import onnx_ir as ir

from fqonnx.allocate import least_bits, measure_options
from fqonnx.calibrate import Calibration
from fqonnx.config import CompileConfig, Override
from fqonnx.diff import OutputDiff, Threshold, judge
from fqonnx.passes import LinearLayer, SelectWeightsPass
from fqonnx.quantize_layers import quantize_layers
from fqonnx.segments import open_model
from fqonnx.session import Feed, Runnable
from fqonnx.workshop import Workshop


def choose_bits(
    model: ir.Model,
    layers: Sequence[LinearLayer],
    calibration: Calibration,
    config: CompileConfig,
    session: Runnable,
    feed: Feed,
    *,
    meet: Sequence[Threshold],
    compare: Callable[[Runnable], list[OutputDiff]],
    warnings: list[str],
    workshop: Workshop,
) -> tuple[Override, ...]:
    """Return overrides that spend ``target_bits``, or as few as meet thresholds, and those given.

    Args:
        model: The float model, normalized; it stays as it is.
        layers: What is to be quantized.
        calibration: What to calibrate on.
        config: Options. ``target_bits`` is not used where there are thresholds.
        session: Of the float model.
        feed: The batch that layers are weighed on.
        meet: Thresholds; none of them take ``target_bits``.
        compare: Gives the differences between the float model and a session of another.
        warnings: Gets what a user should know.
        workshop: Quantizes.

    Raises:
        ConfigError: No output has the measure of a threshold.
        ModelError: A weight is not finite, the model does not run, or memory runs out.
    """
    options = measure_options(model, layers, calibration, config, feed, session, workshop)

    def overrides(bits: float) -> tuple[Override, ...]:
        return (*options.best(bits), *config.overrides)

    def meets(bits: float) -> bool:
        trial, tried = model.clone(), replace(config, overrides=overrides(bits), target_bits=None)
        selected = SelectWeightsPass(config.include, config.exclude)
        selected(trial)
        quantize_layers(trial, selected.layers, calibration, tried, [], workshop)
        outputs = compare(open_model(trial, calibration.where, folder=calibration.folder))
        return all(verdict.met for verdict in judge(outputs, meet))

    if not meet:
        return overrides(config.target_bits or 0.0)
    bits = least_bits(options, meets)
    if bits is None:
        warnings.append("thresholds are missed even with the most bits that a layer can have")
    return overrides(options.range()[1] if bits is None else bits)
