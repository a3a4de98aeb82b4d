"""Run two models on the same feeds."""

from __future__ import annotations

from pathlib import Path

from fqonnx.diff.metrics import OutputDiff, OutputMetrics
from fqonnx.errors import ModelError
from fqonnx.progress import Track, silent
from fqonnx.session import Feed, Session


def compare_models(
    expected: Session,
    actual: Session,
    feeds: tuple[Feed, ...],
    *,
    compiled_path: Path,
    mask_input: str | None = None,
    track: Track = silent,
) -> list[OutputDiff]:
    """Return the differences of every numeric output of two models over all feeds.

    Args:
        expected: The float model.
        actual: The compiled model.
        feeds: Batches for both.
        compiled_path: What error messages call the compiled model.
        mask_input: The input whose zeros mark padding, which does not count.
        track: Progress.

    Raises:
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
    metrics = [OutputMetrics(name) for name in names]
    for feed in track(feeds, "Comparing"):
        mask = feed[mask_input] if mask_input is not None else None
        pairs = zip(metrics, expected.run(feed, names), actual.run(feed, names), strict=True)
        for metric, reference, output in pairs:
            try:
                metric.update(reference, output, mask)
            except ValueError as error:
                raise ModelError(
                    str(compiled_path), str(error), "Compare models of the same graph"
                ) from error
    return [metric.result() for metric in metrics]
