"""Bits and redundancy of each layer, so that a budget of bytes gives the least output error.

The error of the outputs is taken to be the sum of what each layer alone causes. What a layer causes
is measured once, with only that layer quantized; with other bits it changes as the layer's own
output error on the calibration rows does, which is measured for each choice.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import onnx_ir as ir

from fqonnx.calibrate import Calibration
from fqonnx.config import CompileConfig, Override
from fqonnx.diff import squared_error
from fqonnx.passes import LinearLayer, Unit
from fqonnx.passes.constants import Names, add_initializer, constant, remove_if_unused
from fqonnx.progress import timed
from fqonnx.quant import PackedWeight
from fqonnx.quantize_layers import by_weight, seeds_of
from fqonnx.segments import open_model
from fqonnx.session import Feed, Runnable
from fqonnx.workshop import Round, Workshop

# Bits and redundancies that a layer may have, cheapest first, and which of them is measured.
CHOICES = ((1, 1.0), (2, 1.0), (2, 1.25), (3, 1.0), (4, 1.0))
_BASE = 1


@dataclass(frozen=True)
class Option:
    """A layer with one choice of bits and redundancy.

    Attributes:
        override: The choice.
        stored_bytes: What it takes.
        noise: The part of the outputs' squared error that it is predicted to cause.
    """

    override: Override
    stored_bytes: int
    noise: float


@dataclass(frozen=True)
class LayerOptions:
    """What can be chosen for each layer.

    Attributes:
        options: Of each layer, one or more.
        num_weights: Weights of all layers.
    """

    options: list[list[Option]]
    num_weights: int

    def best(self, bits_per_weight: float) -> tuple[Override, ...]:
        """Return the choice of least noise that takes no more stored bits a weight, if any does."""
        chosen = allocate(self.options, bits_per_weight * self.num_weights / 8)
        return tuple(option.override for option in chosen)

    def range(self) -> tuple[float, float]:
        """Return the least and the most stored bits a weight that can be chosen."""
        sizes = [[option.stored_bytes for option in of_layer] for of_layer in self.options]
        bits = 8 / (self.num_weights or 1)
        return sum(map(min, sizes)) * bits, sum(map(max, sizes)) * bits


def measure_options(
    model: ir.Model,
    layers: Sequence[LinearLayer],
    calibration: Calibration,
    config: CompileConfig,
    feed: Feed,
    session: Runnable,
    workshop: Workshop,
) -> LayerOptions:
    """Measure what each layer would do to the outputs with each choice of bits and redundancy.

    Args:
        model: The float model; it stays as it is.
        layers: What is to be quantized. Those that have an override have no other choice.
        calibration: What to calibrate on.
        config: Options.
        feed: The batch that output errors are measured on.
        session: Of the float model.
        workshop: Quantizes.

    Raises:
        ModelError: A weight is not finite, the model does not run, or memory runs out.
    """
    units = by_weight(layers)
    seeds = seeds_of(units)
    names = session.numeric_outputs
    (reference,) = session.run_all([feed], names)
    mask = None if calibration.mask_input is None else feed[calibration.mask_input]
    options: list[list[Option]] = []
    weights = 0
    for group, moments in calibration.rounds(model, units):
        choices = {unit: _choices(unit, config) for unit in group}
        wanted = [
            (unit, replace(config.for_layer(unit[0].names), **choice.given()))
            for unit in group
            for choice in choices[unit]
        ]
        of = Round(group, moments, seeds, calibration)
        done = iter(workshop.quantize(of, wanted, "Trying bits", "allocate_s"))
        with timed(calibration.timing, "allocate_s"):
            for unit in calibration.track(group, "Weighing layers"):
                results = [(choice, next(done).weight) for choice in choices[unit]]
                found = [(choice, weight) for choice, weight in results if weight is not None]
                if not found:
                    continue
                base = found[min(len(found) - 1, _BASE)][1]
                with _replaced(model.graph, unit, base):
                    trial = open_model(model, calibration.where, folder=calibration.folder)
                    (outputs,) = trial.run_all([feed], names)
                noise = squared_error(reference, outputs, mask)
                noise = (noise if math.isfinite(noise) else 1.0) / (_loss(base) or 1.0)
                options.append(
                    [
                        Option(override, weight.stored_bytes, noise * _loss(weight))
                        for override, weight in found
                    ]
                )
                weights += unit[0].dim_in * unit[0].dim_out
    return LayerOptions(options, weights)


def least_bits(options: LayerOptions, meets: Callable[[float], bool]) -> float | None:
    """Return the least stored bits a weight, in sixteenths, that are enough.

    Args:
        options: What can be chosen.
        meets: Whether a number of bits is enough; more of them are taken to be no worse.

    Returns:
        The bits; None if the most that can be chosen are too few.
    """
    least, most = options.range()
    budgets = [most - i / 16 for i in range(int((most - least) * 16) + 1)][::-1]
    first = bisect.bisect_left(budgets, True, key=meets)
    return budgets[first] if first < len(budgets) else None


def _choices(unit: Unit, config: CompileConfig) -> list[Override]:
    """Return the choices that the method allows for a unit, cheapest first."""
    name, own = unit[0].name, config.for_layer(unit[0].names)
    if own != config.for_layer(()):  # by an override
        return [Override(name, own.bits, own.redundancy)]
    least, frame = config.recipe.least_bits, config.recipe.frame
    return [
        Override(name, bits, redundancy)
        for bits, redundancy in CHOICES
        if bits >= least and (frame != "identity" or redundancy == 1.0)
    ]


@contextmanager
def _replaced(graph: ir.Graph, unit: Unit, quantized: PackedWeight) -> Iterator[None]:
    """Give the layers of a unit the weight, and the bias, that quantization leaves them."""
    names, dtype = Names(graph), unit[0].dtype.numpy()
    weight = unit[0].stored(quantized.dequantize().numpy())
    uses = [((layer.node, 1), weight) for layer in unit]
    tensor, shift = constant(unit[0].bias), quantized.bias_shift
    if tensor is not None and shift is not None:
        uses.append((unit[0].bias_use, tensor.numpy() + shift))
    before = [node.inputs[index] for (node, index), _ in uses]
    try:
        for (node, index), array in uses:
            name = names.fresh("fqonnx_trial")
            value = add_initializer(graph, name, ir.tensor(array.astype(dtype), name=name))
            node.replace_input_with(index, value)
        yield
    finally:
        for ((node, index), _), own in zip(uses, before, strict=True):
            trial = node.inputs[index]
            node.replace_input_with(index, own)
            if trial is not None and trial is not own:
                remove_if_unused(trial)


def _loss(quantized: PackedWeight) -> float:
    """Return what the layer's own output error is, or without data that of its weight."""
    errors = quantized.errors
    return errors.weight_rel_error**2 if errors.proxy_loss is None else errors.proxy_loss


def allocate(options: Sequence[Sequence[Option]], budget_bytes: float) -> list[Option]:
    """Choose an option for each layer: the least noise whose bytes fit into the budget.

    Greedy along the lower convex hull of each layer's options, the largest fall of noise a byte
    first: no choice of as many bytes or fewer has less noise, but for the last layer that did not
    fit whole.

    Args:
        options: Of each layer, one or more.
        budget_bytes: What all chosen ones may take; what the smallest take where that is more.
    """
    hulls = [_hull(of_layer) for of_layer in options]
    places = [0] * len(hulls)
    left = budget_bytes - sum(hull[0].stored_bytes for hull in hulls)
    steps = sorted(
        (_slope(hull[i], hull[i + 1]), layer, i)
        for layer, hull in enumerate(hulls)
        for i in range(len(hull) - 1)
    )
    for _, layer, i in steps:
        more = hulls[layer][i + 1].stored_bytes - hulls[layer][places[layer]].stored_bytes
        if more <= left:
            places[layer] = i + 1
            left -= more
    return [hull[place] for hull, place in zip(hulls, places, strict=True)]


def _hull(options: Sequence[Option]) -> list[Option]:
    """Return the options on the lower convex hull of noise over bytes, from the smallest on."""
    hull: list[Option] = []
    for option in sorted(options, key=lambda option: (option.stored_bytes, option.noise)):
        if hull and option.noise >= hull[-1].noise:
            continue
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) >= _slope(hull[-1], option):
            hull.pop()
        hull.append(option)
    return hull


def _slope(cheaper: Option, better: Option) -> float:
    """Return the change of noise a byte, at most 0."""
    return (better.noise - cheaper.noise) / (better.stored_bytes - cheaper.stored_bytes)
