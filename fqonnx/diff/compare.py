"""Run models on the same feeds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fqonnx.diff.kinds import OutputKind
from fqonnx.diff.metrics import OutputDiff, OutputMetrics
from fqonnx.errors import ConfigError, ModelError
from fqonnx.progress import Track, silent
from fqonnx.session import Feed, Runnable, num_samples

Labels: TypeAlias = NDArray[np.integer[Any]]
Run: TypeAlias = Callable[[Sequence[Feed], Sequence[str]], Iterable[list[NDArray[Any]]]]


def compare_models(
    expected: Runnable,
    actual: Runnable,
    feeds: tuple[Feed, ...],
    *,
    compiled_path: Path,
    kinds: Mapping[str, OutputKind],
    labels: Labels | None = None,
    mask_input: str | None = None,
    track: Track = silent,
) -> list[OutputDiff]:
    """Return the differences of every numeric output of two models (see `compare_pairs`)."""
    (found,) = compare_pairs(
        [(expected, actual)],
        feeds,
        compiled_path=compiled_path,
        kinds=kinds,
        labels=labels,
        mask_input=mask_input,
        track=track,
    )
    return found


def compare_pairs(
    pairs: Sequence[tuple[Runnable, Runnable]],
    feeds: tuple[Feed, ...],
    *,
    compiled_path: Path,
    kinds: Mapping[str, OutputKind],
    labels: Labels | None = None,
    mask_input: str | None = None,
    track: Track = silent,
) -> list[list[OutputDiff]]:
    """Return the differences of every numeric output of pairs of models over all feeds.

    A model that is in several pairs runs once.

    Args:
        pairs: The float model, or what takes its place, and the other.
        feeds: Batches for all.
        compiled_path: What error messages call the compiled model.
        kinds: What the outputs are, by name.
        labels: The right classes of all samples (samples,), for the outputs of classes.
        mask_input: The input whose zeros mark padding, which does not count.
        track: Progress.

    Raises:
        ConfigError: There are labels, and no output of classes.
        DataError: The labels or the token ids do not fit an output.
        ModelError: The models have different inputs, outputs or output shapes.
    """
    for expected, actual in pairs:
        _check_alike(expected, actual, compiled_path)
    numeric = [session.numeric_outputs for pair in pairs for session in pair]
    names = [name for name in numeric[0] if all(name in others for others in numeric)]
    if labels is not None and all(kinds[name].kind != "classes" for name in names):
        raise ConfigError("--labels", "no output is of classes", "Name one: --kind OUTPUT=classes")
    try:
        return measure(
            names,
            [(expected.run_all, actual.run_all) for expected, actual in pairs],
            feeds,
            kinds=kinds,
            labels=labels,
            mask_input=mask_input,
            track=track,
        )
    except ValueError as error:
        raise ModelError(
            str(compiled_path), str(error), "Compare models of the same graph"
        ) from error


def _check_alike(expected: Runnable, actual: Runnable, compiled_path: Path) -> None:
    for kind, first, second in (
        ("inputs", [v.name for v in expected.inputs], [v.name for v in actual.inputs]),
        ("outputs", expected.output_names, actual.output_names),
    ):
        if first != second:
            raise ModelError(
                str(compiled_path),
                f"its {kind} are {', '.join(second)}; the float model's are {', '.join(first)}",
                "Compare a model with the one that it was compiled from",
            )


def measure(
    names: Sequence[str],
    pairs: Sequence[tuple[Run, Run]],
    feeds: Sequence[Feed],
    *,
    kinds: Mapping[str, OutputKind],
    labels: Labels | None = None,
    mask_input: str | None = None,
    track: Track = silent,
    description: str = "Comparing",
) -> list[list[OutputDiff]]:
    """Return the differences of outputs between pairs of functions of all feeds and their names.

    Raises:
        DataError: The labels or the token ids do not fit an output.
        ValueError: An output has two shapes.
    """
    metrics = [[OutputMetrics(name, kinds[name].kind) for name in names] for _ in pairs]
    runs = dict.fromkeys(run for pair in pairs for run in pair)
    found = zip(*(run(feeds, names) for run in runs), strict=True)
    start = 0
    # What runs in segments has run before the first of its outputs, and shows its own progress.
    for of_runs, feed in zip(found, track(feeds, description), strict=True):
        mask = feed[mask_input] if mask_input is not None else None
        stop = start + num_samples(feed)
        right = None if labels is None else labels[start:stop]
        start = stop
        outputs = dict(zip(runs, of_runs, strict=True))
        for (expected, actual), of_pair in zip(pairs, metrics, strict=True):
            compared = zip(of_pair, outputs[expected], outputs[actual], strict=True)
            for metric, reference, output in compared:
                ids = kinds[metric.name].ids
                own = None if ids is None else feed[ids]
                metric.update(reference, output, mask, labels=right, ids=own)
    return [[metric.result() for metric in of_pair] for of_pair in metrics]


def squared_error(
    expected: Sequence[NDArray[Any]],
    found: Sequence[NDArray[Any]],
    mask: NDArray[Any] | None = None,
) -> float:
    """Return the squared errors of all outputs, each relative to its own square, added up.

    Args:
        expected: The outputs of the float model.
        found: Those of another.
        mask: (batch, length); positions where it is zero do not count, in an output that has the
            same two axes in front.
    """
    total = 0.0
    for reference, output in zip(expected, found, strict=True):
        if mask is not None and reference.shape[:2] == mask.shape:
            reference, output = reference[mask != 0], output[mask != 0]
        reference = reference.astype(np.float64)
        signal = float(np.square(reference).sum())
        total += float(np.square(output - reference).sum()) / (signal or 1.0)
    return total
