from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fqonnx.diff import LayerDiff, advise
from fqonnx.diff.stored_weight import Histogram

LAYER = LayerDiff(
    name="layer",
    output="y",
    dim_in=64,
    dim_out=48,
    bits=2,
    codebook="scalar",
    frames=["hadamard"],
    redundancy=1.25,
    float_bytes=64 * 48 * 4,
    stored_bytes=1000,
    weight_rel_error=0.3,
    local_rel_error=0.3,
    accumulated_rel_error=0.3,
    model_rel_error=0.1,
    histogram=Histogram([], [], [], []),
)


def layers(*errors: float, bits: int = 2) -> list[LayerDiff]:
    return [
        dataclasses.replace(LAYER, name=str(i), bits=bits, model_rel_error=error)
        for i, error in enumerate(errors)
    ]


def test_the_worst_layer_is_first() -> None:
    found = advise(layers(0.1, 0.3, 0.2))
    assert [(advice.layer, advice.bits) for advice in found] == [
        (layer, bits) for layer in ("1", "2", "0") for bits in (3, 4)
    ]


def test_what_a_bit_does() -> None:
    (three, four) = advise(layers(0.1))
    # Max's table II: 0.1188, 0.03744 and 0.01154 at 2, 3 and 4 bits.
    assert three.predicted_change == pytest.approx(-0.685, abs=1e-3)
    assert four.predicted_change == pytest.approx(-0.903, abs=1e-3)
    assert (three.added_bytes, four.added_bytes) == (480, 960)  # 64·48·1.25 bits each


def test_four_bits_have_scalar_codes() -> None:
    (three, four) = advise([dataclasses.replace(LAYER, codebook="trellis")])
    assert three.predicted_change == pytest.approx(0.0186 / 0.0710 - 1, abs=1e-3)
    assert four.predicted_change == pytest.approx(0.01154 / 0.0710 - 1, abs=1e-3)


@given(st.lists(st.floats(0.001, 10.0), min_size=1, max_size=10), st.integers(1, 3))
def test_changes_are_parts_of_the_whole(errors: list[float], bits: int) -> None:
    found = advise(layers(*errors, bits=bits))
    best = [advice.predicted_change for advice in found if advice.bits == 4]
    assert all(-1.0 <= change <= 0.0 for change in best)
    assert -1.0 <= sum(best) <= 0.0
    assert best == sorted(best)


def test_only_the_ten_worst() -> None:
    found = advise(layers(*[0.01 * i for i in range(1, 20)]))
    assert len({advice.layer for advice in found}) == 10
    assert found[0].layer == "18"


def test_no_more_than_four_bits() -> None:
    assert advise(layers(0.1, bits=4)) == []
    assert [advice.bits for advice in advise(layers(0.1, bits=3))] == [4]


def test_a_weight_that_another_layer_holds_goes_with_it() -> None:
    shared = dataclasses.replace(LAYER, name="shared", stored_bytes=0, model_rel_error=9.0)
    found = advise([LAYER, shared])
    assert {advice.layer for advice in found} == {"layer"}


@pytest.mark.parametrize("error", [0.0, float("nan"), float("inf")])
def test_no_advice_without_errors_to_compare(error: float) -> None:
    assert advise([]) == []
    assert advise(layers(error, error)) == []
