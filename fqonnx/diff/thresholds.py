"""What a user asks of a compiled model, and whether it holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fqonnx.diff.metrics import OutputDiff
from fqonnx.errors import ConfigError

# Measures that are better the larger they are, and those that are better the smaller.
FLOORS = ("cosine", "sqnr_db", "top1_agreement", "top5_agreement", "compiled_accuracy")
CEILINGS = (
    *("max_abs_diff", "mean_abs_diff", "p99_abs_diff", "max_sample_error", "flip_rate"),
    *("kl_mean", "kl_median", "kl_p90", "kl_p99", "compiled_perplexity"),
)


@dataclass(frozen=True)
class Threshold:
    """A measure and the least or most that it may be.

    Attributes:
        metric: One of `FLOORS`, which may not be below the value, or of `CEILINGS`, not above.
        value: The value.
    """

    metric: str
    value: float

    def admits(self, found: float) -> bool:
        """Return whether a measure may be so; what is not a number never is."""
        return found >= self.value if self.metric in FLOORS else found <= self.value


@dataclass(frozen=True)
class Verdict:
    """Whether an output keeps a threshold.

    Attributes:
        output: Name of the output.
        metric: The measure.
        threshold: What it may be.
        found: What it is.
        met: Whether that is enough; what is not a number never is.
    """

    output: str
    metric: str
    threshold: float
    found: float
    met: bool


def judge(outputs: Sequence[OutputDiff], thresholds: Sequence[Threshold]) -> list[Verdict]:
    """Return the verdict of each threshold on each output that has the measure.

    Raises:
        ConfigError: No output has it.
    """
    verdicts = []
    for threshold in thresholds:
        judged = [output for output in outputs if threshold.metric in output.measures()]
        if not judged:
            kinds = ", ".join(f"{output.name!r} is {output.kind}" for output in outputs)
            raise ConfigError(
                threshold.metric,
                f"no output has this measure: {kinds or 'there is no output'}",
                "accuracy needs --labels, agreement an output of classes, and divergence one of "
                "tokens: --kind OUTPUT=classes or OUTPUT=tokens says so",
            )
        for output in judged:
            found = output.measures()[threshold.metric]
            met = threshold.admits(found)
            verdicts.append(Verdict(output.name, threshold.metric, threshold.value, found, met))
    return verdicts
