import dataclasses
import math

from fqonnx.diff import OutputDiff
from fqonnx.diff.classes import ClassDiff
from fqonnx.diff.rows import Row, rows
from fqonnx.diff.tokens import TokenDiff

NUMBERS = OutputDiff("y", 0.98765, 12.345, 1.23456, 4.0, 8, 0.0123456, 0.5)
TITLES = [
    *("cosine", "SQNR, dB", "max abs difference", "mean abs difference"),
    "99% of differences below",
]


def test_numbers() -> None:
    shown = rows(NUMBERS)
    assert [row.title for row in shown] == TITLES
    assert [row.compiled for row in shown] == ["0.9877", "12.35", "1.23", "0.0123", "0.5"]
    assert {row.float_value for row in shown} == {row.noise for row in shown} == {""}


def test_the_noise_floor_stands_beside() -> None:
    noise = dataclasses.replace(NUMBERS, cosine=0.99999, sqnr_db=60.0)
    shown = rows(NUMBERS, noise)
    assert [row.noise for row in shown] == ["1.0000", "60.00", "1.23", "0.0123", "0.5"]


def test_classes_with_and_without_labels() -> None:
    unlabelled = dataclasses.replace(NUMBERS, classes=ClassDiff(0.95, 1.0))
    assert rows(unlabelled)[5:] == [
        Row("top-1 agreement", "", "95.00%"),
        Row("among the float model's top 5", "", "100.00%"),
    ]
    labelled = dataclasses.replace(NUMBERS, classes=ClassDiff(0.95, 1.0, 0.9, 0.85))
    noise = dataclasses.replace(NUMBERS, classes=ClassDiff(1.0, 1.0, 0.9, 0.89))
    assert rows(labelled, noise)[7:] == [Row("accuracy", "90.00%", "85.00%", "89.00%")]


def test_tokens() -> None:
    tokens = TokenDiff(0.1, 0.05, 0.25, 0.99, 0.125, 10.0, 12.3456, 128, 1000)
    shown = rows(dataclasses.replace(NUMBERS, tokens=tokens))[5:]
    assert [row.compiled for row in shown] == [
        *("0.1000", "0.0500", "0.2500", "0.9900", "12.50%", "12.346")
    ]
    assert shown[-1] == Row("perplexity, up to 128 tokens", "10.000", "12.346")


def test_a_floor_of_fewer_measures() -> None:
    classes = dataclasses.replace(NUMBERS, classes=ClassDiff(0.95, 1.0))
    assert [row.noise for row in rows(classes, NUMBERS)][4:] == ["0.5", "", ""]


def test_what_is_no_number_is_shown_as_such() -> None:
    shown = rows(OutputDiff("y", math.nan, math.inf, math.nan, math.nan, 0))
    assert [row.compiled for row in shown] == ["nan", "inf", "nan", "nan", "nan"]
