from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import onnx_ir as ir
import pytest

from fqonnx.packing import LAYOUT_VERSION
from fqonnx.runtime_ops import DOMAIN, OPSET_VERSION, FrameOpSpec, build_function

SPEC = FrameOpSpec("FrameMatMul", dim_in=48, dim_out=32, num_vectors=64, bits=2, block_size=64)

CHANGES: dict[str, list[Any]] = {
    "dim_in": [47, 60],
    "dim_out": [33, 64],
    "num_vectors": [48, 80],
    "bits": [1, 3, 4],
    "block_size": [16, 32],
    "frame_in": ["identity"],
    "dtype": [ir.DataType.FLOAT16],
    "has_bias": [True],
    "has_zero_points": [True],
    "contrib": [False],
}


def changed_specs() -> list[FrameOpSpec]:
    """Return the spec with one or two of its fields changed, in every way of `CHANGES`."""
    single = [(name, value) for name, values in CHANGES.items() for value in values]
    pairs = [pair for pair in itertools.combinations(single, 2) if pair[0][0] != pair[1][0]]
    return [
        SPEC,
        *(dataclasses.replace(SPEC, **{name: value}) for name, value in single),
        *(dataclasses.replace(SPEC, **dict(pair)) for pair in pairs),
    ]


def test_domain_and_version_are_those_of_the_format() -> None:
    assert (DOMAIN, OPSET_VERSION, LAYOUT_VERSION) == ("fqonnx", 1, 1)


def test_every_field_but_the_operator_is_in_the_list_of_changes() -> None:
    assert {field.name for field in dataclasses.fields(FrameOpSpec)} == {"op_type", *CHANGES}


def test_different_specs_have_different_overloads() -> None:
    specs = changed_specs()
    assert len(set(specs)) == len(specs)
    assert len({spec.overload for spec in specs}) == len(specs)


def test_equal_specs_have_equal_overloads() -> None:
    assert dataclasses.replace(SPEC).overload == SPEC.overload


def test_digits_of_neighbouring_numbers_are_not_mixed_up() -> None:
    first = dataclasses.replace(SPEC, num_vectors=1, dim_in=12)
    second = dataclasses.replace(SPEC, num_vectors=11, dim_in=2)
    assert first.overload != second.overload


@pytest.mark.parametrize("op_type", ["FrameMatMul", "FrameDequant"])
def test_overload_is_an_identifier(op_type: Any) -> None:
    assert dataclasses.replace(SPEC, op_type=op_type).overload.isidentifier()


def test_attributes_are_those_of_the_format() -> None:
    assert SPEC.attributes() == {
        "dim_in": 48,
        "dim_out": 32,
        "num_vectors": 64,
        "bits": 2,
        "block_size": 64,
        "frame_in": "hadamard",
        "codebook": "scalar",
        "layout": 1,
    }


def test_attributes_of_dequant_name_its_type() -> None:
    for dtype, number in ((ir.DataType.FLOAT, 1), (ir.DataType.FLOAT16, 10)):
        spec = dataclasses.replace(SPEC, op_type="FrameDequant", dtype=dtype)
        assert spec.attributes() == SPEC.attributes() | {"dtype": number}


def test_inputs_are_in_the_order_of_the_format() -> None:
    packed = ("codes", "scales", "zero_points", "signs_in", "signs_out")
    assert SPEC.input_names() == ("X", *packed, "bias")
    assert dataclasses.replace(SPEC, op_type="FrameDequant").input_names() == packed


@pytest.mark.parametrize("op_type", ["FrameMatMul", "FrameDequant"])
@pytest.mark.parametrize("contrib", [True, False])
def test_function_has_the_name_inputs_and_attributes_of_its_spec(
    op_type: Any, contrib: bool
) -> None:
    spec = dataclasses.replace(SPEC, op_type=op_type, contrib=contrib)
    function = build_function(spec, 17)
    assert function.identifier() == ("fqonnx", op_type, spec.overload)
    assert tuple(value.name for value in function.inputs) == spec.input_names()
    assert len(function.outputs) == 1
    assert set(function.attributes) == set(spec.attributes())
    assert function.opset_imports[""] == 17
    uses_contrib = any(node.domain == "com.microsoft" for node in function.graph)
    assert uses_contrib == (contrib and op_type == "FrameMatMul")
    assert ("com.microsoft" in function.opset_imports) == uses_contrib
