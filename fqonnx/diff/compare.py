"""Run two models on the same feeds."""

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
from fqonnx.session import Feed, Session, num_samples

Labels: TypeAlias = NDArray[np.integer[Any]]
Run: TypeAlias = Callable[[Feed, Sequence[str]], list[NDArray[Any]]]


def compare_models(
    expected: Session,
    actual: Session,
    feeds: tuple[Feed, ...],
    *,
    compiled_path: Path,
    kinds: Mapping[str, OutputKind],
    labels: Labels | None = None,
    mask_input: str | None = None,
    track: Track = silent,
) -> list[OutputDiff]:
    """Return the differences of every numeric output of two models over all feeds.

    Args:
        expected: The float model.
        actual: The compiled model.
        feeds: Batches for both.
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
    names = [name for name in expected.numeric_outputs if name in actual.numeric_outputs]
    if labels is not None and all(kinds[name].kind != "classes" for name in names):
        raise ConfigError("--labels", "no output is of classes", "Name one: --kind OUTPUT=classes")
    try:
        return measure(
            names,
            expected.run,
            actual.run,
            track(feeds, "Comparing"),
            kinds=kinds,
            labels=labels,
            mask_input=mask_input,
        )
    except ValueError as error:
        raise ModelError(
            str(compiled_path), str(error), "Compare models of the same graph"
        ) from error


def measure(
    names: Sequence[str],
    expected: Run,
    actual: Run,
    feeds: Iterable[Feed],
    *,
    kinds: Mapping[str, OutputKind],
    labels: Labels | None = None,
    mask_input: str | None = None,
) -> list[OutputDiff]:
    """Return the differences of outputs that two functions of a feed and their names give.

    Raises:
        DataError: The labels or the token ids do not fit an output.
        ValueError: An output has two shapes.
    """
    metrics = [OutputMetrics(name, kinds[name].kind) for name in names]
    start = 0
    for feed in feeds:
        mask = feed[mask_input] if mask_input is not None else None
        stop = start + num_samples(feed)
        right = None if labels is None else labels[start:stop]
        start = stop
        pairs = zip(metrics, expected(feed, names), actual(feed, names), strict=True)
        for metric, reference, output in pairs:
            ids = kinds[metric.name].ids
            own = None if ids is None else feed[ids]
            metric.update(reference, output, mask, labels=right, ids=own)
    return [metric.result() for metric in metrics]


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
