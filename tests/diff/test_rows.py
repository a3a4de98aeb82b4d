import dataclasses
import math

from fqonnx.diff import OutputDiff
from fqonnx.diff.advice import Advice
from fqonnx.diff.classes import ClassDiff
from fqonnx.diff.layers import LayerDiff
from fqonnx.diff.rows import LAYER_HEAD, Row, advice_line, layer_rows, rows, split_line
from fqonnx.diff.stored_weight import Histogram
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


def test_the_worst_layers_come_first() -> None:
    layers = [a_layer(f"layer{i}", error) for i, error in enumerate((0.1, 0.3, 0.2))]
    shown = layer_rows(layers, most=2)
    assert [cells[0] for cells in shown] == ["layer1", "layer2"]
    assert shown[0] == ("layer1", "2", "40.0%", "20.0%", "25.0%", "30.0%")
    assert len(shown[0]) == len(LAYER_HEAD)


def test_advice_and_split_are_sentences() -> None:
    assert advice_line(Advice("a.b", 3, 300_000, -0.18)) == (
        "raise a.b to 3 bits: +0.30 MB, predicted squared error of the outputs -18%"
    )
    weights, kernels = (OutputDiff("y", cosine, 1.0, 1.0, 1.0, 4) for cosine in (0.9, 0.9999))
    assert split_line("y", weights, kernels) == (
        "y: cosine 0.9000 by the weights alone, 0.999900 by products with activations in int8"
    )


def a_layer(name: str, error: float) -> LayerDiff:
    return LayerDiff(
        name=name,
        output=f"{name}.y",
        dim_in=4,
        dim_out=4,
        bits=2,
        codebook="scalar",
        frames=["hadamard"],
        redundancy=1.0,
        float_bytes=64,
        stored_bytes=12,
        weight_rel_error=0.4,
        local_rel_error=0.2,
        accumulated_rel_error=0.25,
        model_rel_error=error,
        histogram=Histogram([0.0, 1.0], [16], [-0.5, 0.5], [8, 8]),
    )
