import dataclasses
import math

import pytest

from fqonnx.diff import CEILINGS, FLOORS, OutputDiff, Threshold, Verdict, judge
from fqonnx.diff.classes import ClassDiff
from fqonnx.diff.tokens import TokenDiff
from fqonnx.errors import ConfigError

NUMBERS = OutputDiff("y", *[0.5] * 4, 8, mean_abs_diff=0.5, p99_abs_diff=0.5)
EVERYTHING = dataclasses.replace(
    NUMBERS, classes=ClassDiff(0.5, 0.5, 0.5, 0.5), tokens=TokenDiff(*[0.5] * 7, 4, 8)
)


def met(metric: str, value: float, output: OutputDiff = EVERYTHING) -> bool:
    (verdict,) = judge([output], [Threshold(metric, value)])
    assert (verdict.output, verdict.metric, verdict.threshold) == ("y", metric, value)
    return verdict.met


@pytest.mark.parametrize("metric", FLOORS)
def test_floors(metric: str) -> None:
    found = [met(metric, value) for value in (0.49, 0.5, 0.51, -math.inf, math.inf, math.nan)]
    assert found == [True, True, False, True, False, False]


@pytest.mark.parametrize("metric", CEILINGS)
def test_ceilings(metric: str) -> None:
    found = [met(metric, value) for value in (0.51, 0.5, 0.49, math.inf, -math.inf, math.nan)]
    assert found == [True, True, False, True, False, False]


@pytest.mark.parametrize("metric", [*FLOORS, *CEILINGS])
def test_what_is_not_a_number_is_never_met(metric: str) -> None:
    lost = dataclasses.replace(
        OutputDiff("y", *[math.nan] * 4, 8),
        classes=ClassDiff(*[math.nan] * 4),
        tokens=TokenDiff(*[math.nan] * 7, 4, 8),
    )
    assert not met(metric, -math.inf, lost)
    assert not met(metric, math.inf, lost)


def test_equal_models_meet_every_sqnr() -> None:
    same = dataclasses.replace(NUMBERS, sqnr_db=math.inf)
    assert met("sqnr_db", 1e9, same)
    assert not met("sqnr_db", 0.0, dataclasses.replace(NUMBERS, sqnr_db=-math.inf))


def test_every_measure_of_quality_has_a_threshold() -> None:
    counts = {"num_samples", "num_tokens", "context_length"}
    of_the_float_model = {"float_accuracy", "float_perplexity"}
    assert set(EVERYTHING.measures()) - counts - of_the_float_model == {*FLOORS, *CEILINGS}
    assert not set(FLOORS) & set(CEILINGS)


def test_each_output_that_has_the_measure_is_judged() -> None:
    first, second = EVERYTHING, dataclasses.replace(NUMBERS, name="z", cosine=0.9)
    thresholds = [Threshold("cosine", 0.8), Threshold("kl_mean", 1.0)]
    assert judge([first, second], thresholds) == [
        Verdict("y", "cosine", 0.8, 0.5, False),
        Verdict("z", "cosine", 0.8, 0.9, True),
        Verdict("y", "kl_mean", 1.0, 0.5, True),
    ]


def test_no_threshold_no_verdict() -> None:
    assert judge([NUMBERS], []) == []


def test_a_measure_that_no_output_has_is_refused() -> None:
    with pytest.raises(ConfigError, match="flip_rate: no output has this measure: 'y' is numbers"):
        judge([NUMBERS], [Threshold("flip_rate", 0.1)])
    unlabelled = dataclasses.replace(NUMBERS, kind="classes", classes=ClassDiff(1.0, 1.0))
    with pytest.raises(ConfigError, match=r"'y' is classes.*accuracy needs --labels"):
        judge([unlabelled], [Threshold("compiled_accuracy", 0.1)])
    with pytest.raises(ConfigError, match="there is no output"):
        judge([], [Threshold("cosine", 0.1)])
