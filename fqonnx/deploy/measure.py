"""Golden outputs of a model that is deployed, and what it costs to load and run: measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from fqonnx.bundle import MAX_TOLERANCE, BundleError, GoldenOutput
from fqonnx.calibrate import Samples, load_samples, synthetic_samples
from fqonnx.deploy.options import DeployOptions
from fqonnx.deploy.source import Source
from fqonnx.golden import Golden, rel_error
from fqonnx.probe import UNFOLDED, Outcome, ProbeError, Request, probe
from fqonnx.session import InputInfo

_LIBRARY, _PACKED = "library of operators", "packed, unpacked at each run"  # ways to run it
_SAMPLES = 4
# Kernels of another processor, provider or version round elsewhere: as far off as kernels and
# bodies are from each other, times this, and at least the second.
_MARGIN, _LEAST_TOLERANCE = 4.0, 1e-3
# Of activations in int8, where only one way to run the model is there to measure.
_USUAL_TOLERANCE = 0.05


@dataclass(frozen=True)
class Cost:
    """What a way to run the model costs, measured where it was deployed from.

    Attributes:
        name: Of the way.
        outcome: What it took.
        chosen: Whether the bundle runs that way.
    """

    name: str
    outcome: Outcome
    chosen: bool


@dataclass(frozen=True)
class Measured:
    """Golden inputs and outputs, and costs.

    Attributes:
        golden: The arrays.
        source: Where the inputs came from.
        outputs: Tolerances.
        costs: The float model, if there is one, and ways to run the compiled one.
        joinable: Whether samples came out alone as they do together; False where Triton, which
            joins requests, is not the target.
    """

    golden: Golden
    source: str
    outputs: tuple[GoldenOutput, ...]
    costs: tuple[Cost, ...]
    joinable: bool


def measure(source: Source, model: Path, library: Path | None, options: DeployOptions) -> Measured:
    """Run a model on golden inputs, on this machine's processor, in all ways that it can run.

    Args:
        source: The compiled model.
        model: Its file in the bundle.
        library: The library of operators; None where it was not built.
        options: Of the bundle.

    Raises:
        BundleError: A model does not run, or its outputs cannot be compared.
        DataError: The samples do not fit the model.
    """
    samples = _samples(source, options)
    feed = _first(samples.feeds[0], source.inputs)
    plain = Request(str(model))
    bodies = "unpacked when loaded" if source.unpacked_at_load else "function bodies"
    ways = {bodies: plain}
    if source.unpacked_at_load:
        ways[_PACKED] = replace(plain, session_config=UNFOLDED)
    if library is not None and source.specs:
        ways[_LIBRARY] = replace(plain, library=str(library))
    chosen = _LIBRARY if options.library else _PACKED if options.keep_packed else bodies
    costs = {name: _run(source.path, way, feed) for name, way in ways.items()}
    float_run = None
    if options.float_path is not None:
        float_run = _run(options.float_path, Request(str(options.float_path)), feed)
    compiled = costs[chosen].outputs
    floats = {} if float_run is None else _same(options, float_run.outputs, compiled)
    others = {name: cost.outputs for name, cost in costs.items() if name != chosen}
    outputs = []
    for name, array in compiled.items():
        where = f"{source.path}, output {name!r}"
        errors = [output_error(where, way, found[name], array) for way, found in others.items()]
        against = None
        if floats:
            against = output_error(where, str(options.float_path), array, floats[name])
        outputs.append(GoldenOutput(name, tolerance(array, errors), against))
    rows = [Cost(name, cost, name == chosen) for name, cost in costs.items()]
    if float_run is not None:
        rows.insert(0, Cost("float", float_run, False))
    golden = Golden(feed, compiled, floats)
    joinable = (
        options.target == "triton"
        and source.has_sample_axis
        and _is_joinable(ways[chosen], golden, outputs)
    )
    return Measured(golden, samples.source, tuple(outputs), tuple(rows), joinable)


def _samples(source: Source, options: DeployOptions) -> Samples:
    if str(options.inputs) == "synthetic":
        inputs = list(source.inputs)
        return synthetic_samples(source.model, inputs, num_samples=_SAMPLES, seed=1)
    return load_samples(Path(options.inputs), source.inputs)


def _first(feed: Mapping[str, NDArray[Any]], inputs: tuple[InputInfo, ...]) -> dict[str, Any]:
    """Return the first few samples of a feed, where all inputs have one open first axis."""
    first = {value.shape[0] if value.shape else None for value in inputs}
    if len(first) > 1 or isinstance(next(iter(first)), int | None):
        return dict(feed)
    return {name: array[:_SAMPLES] for name, array in feed.items()}


def _run(where: Path, request: Request, feed: Mapping[str, NDArray[Any]]) -> Outcome:
    try:
        return probe(request, feed)
    except ProbeError as error:
        found = f"it does not run here ({error.stage}): {error}"
        raise BundleError(str(where), found, "Try fqonnx diff with the same inputs") from error


def _same(
    options: DeployOptions, floats: dict[str, NDArray[Any]], compiled: dict[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """Return the float model's outputs, which must be those of the compiled one."""
    missing = sorted(compiled.keys() - floats.keys())
    if missing:
        found = f"it has no output {missing[0]!r}, which the compiled model has"
        raise BundleError(str(options.float_path), found, "Give the model that was compiled")
    return {name: floats[name] for name in compiled}


def _is_joinable(request: Request, golden: Golden, outputs: Sequence[GoldenOutput]) -> bool:
    """Return whether the first sample comes out alone, and the others without it, as together.

    An axis that is open in all inputs and outputs may be that of a sequence too.
    """
    parts = (slice(0, 1), slice(1, None))
    feeds = [{name: array[part] for name, array in golden.inputs.items()} for part in parts]
    if any(not len(array) for feed in feeds for array in feed.values()):
        return False
    try:
        apart = [probe(request, feed).outputs for feed in feeds]
    except ProbeError:
        return False  # it asks for as many samples as there are
    return all(
        rel_error(found[output.name], golden.compiled[output.name][part]) <= output.tolerance
        for part, found in zip(parts, apart, strict=True)
        for output in outputs
    )


def output_error(where: str, other: str, found: NDArray[Any], wanted: NDArray[Any]) -> float:
    """Return the error of an output, as `fqonnx.golden.rel_error` has it.

    Args:
        where: The model and the output, for a message.
        other: Where one of the two came from instead.
        found: The output.
        wanted: What it should be.

    Raises:
        BundleError: The error is not finite.
    """
    error = rel_error(found, wanted)
    if math.isfinite(error):
        return error
    why = "NaN, infinity or nothing but zeros in one of them alone"
    if found.shape != wanted.shape:
        why = f"shapes {list(found.shape)} and {list(wanted.shape)}"
    hint = "Check that --float is its float model; try other --inputs"
    raise BundleError(where, f"it cannot be compared with that of {other}: {why}", hint)


def tolerance(golden: NDArray[Any], errors: Sequence[float]) -> float:
    """Return the largest error that a replay of an output may have.

    Args:
        golden: The output.
        errors: How far off the other ways to run the model are.
    """
    least = _LEAST_TOLERANCE
    if golden.dtype.kind in "biu" and golden.size:
        least = max(least, 1 / golden.size)  # one of them, a label say, may flip
    usual = _MARGIN * max(errors) if errors else _USUAL_TOLERANCE
    return min(max(least, usual), MAX_TOLERANCE)
