"""The layers that must stay float for a compiled model to meet its thresholds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fqonnx.diff.compare import Labels, measure
from fqonnx.diff.kinds import OutputKind
from fqonnx.diff.metrics import OutputDiff
from fqonnx.diff.switched_model import SwitchedModel
from fqonnx.diff.thresholds import Threshold, judge
from fqonnx.progress import Track, silent
from fqonnx.session import Feed, Runnable


@dataclass(frozen=True)
class Bisection:
    """What `bisect_layers` found.

    Attributes:
        restored: Numbers of the layers to restore, the worst first; none where the thresholds are
            met without. None where they are missed even with all of them restored.
        ranking: Numbers of all layers, the worst first.
        outputs: Float against compiled with those layers restored.
    """

    restored: list[int] | None
    ranking: list[int]
    outputs: list[OutputDiff]


def bisect_layers(
    expected: Runnable,
    switched: SwitchedModel,
    errors: Sequence[float],
    thresholds: Sequence[Threshold],
    feeds: tuple[Feed, ...],
    *,
    kinds: Mapping[str, OutputKind],
    labels: Labels | None = None,
    mask_input: str | None = None,
    track: Track = silent,
) -> Bisection:
    """Find a smallest set of layers whose restoration to float meets all thresholds.

    First the shortest beginning of the ranking that does, by halving; then each of its layers that
    the rest can do without is left out, the least first. None of what remains can be: a smaller set
    of other layers is not ruled out, which would take all subsets to see.

    Args:
        expected: The float model.
        switched: The float model with any of its layers compiled.
        errors: What each layer alone does to the outputs: the ranking.
        thresholds: What the outputs must meet.
        feeds: Batches.
        kinds: What the outputs are, by name.
        labels: The right classes of all samples (samples,).
        mask_input: The input whose zeros mark padding.
        track: Progress.

    Raises:
        ConfigError: No output has the measure of a threshold.
    """
    ranking = sorted(range(switched.num_layers), key=lambda i: errors[i], reverse=True)

    def compare(restored: Sequence[int]) -> list[OutputDiff]:
        compiled = np.ones(switched.num_layers, np.bool_)
        compiled[list(restored)] = False
        (found,) = measure(
            switched.output_names,
            [(expected.run_all, lambda feeds, _: switched.run_all(feeds, [compiled] * len(feeds)))],
            feeds,
            kinds=kinds,
            labels=labels,
            mask_input=mask_input,
            track=track,
            description=f"Restoring {len(restored)} of {switched.num_layers} layers",
        )
        return found

    def meets(outputs: Sequence[OutputDiff]) -> bool:
        return all(verdict.met for verdict in judge(outputs, thresholds))

    too_few, enough, best = -1, len(ranking), None
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        outputs = compare(ranking[:middle])
        if meets(outputs):
            enough, best = middle, outputs
        else:
            too_few = middle
    restored = ranking[:enough]
    if best is None:
        best = compare(restored)
        if not meets(best):
            return Bisection(None, ranking, best)
    for layer in reversed(restored[:-1]):  # without the last, the others were too few
        rest = [other for other in restored if other != layer]
        outputs = compare(rest)
        if meets(outputs):
            restored, best = rest, outputs
    return Bisection(restored, ranking, best)
