from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import onnx_ir as ir
import pytest

from fqonnx.frames import FrameSpec
from fqonnx.packing import LAYOUT_VERSION
from fqonnx.runtime_ops import DOMAIN, OPSET_VERSION, FrameOpSpec, build_function

SPEC = FrameOpSpec(
    "FrameMatMul",
    frame_in=FrameSpec("hadamard", 48, 64),
    frame_out=FrameSpec("identity", 32, 32),
    bits=2,
    block_size=64,
)
FUSION = dataclasses.replace(
    SPEC,
    frame_in=FrameSpec("fusion", 47, 56, (7, 8, 48)),
    frame_out=FrameSpec("fusion", 32, 36, (9, 4, 32)),
)
TRELLIS = dataclasses.replace(SPEC, block_size=256, codebook="trellis", multiplier=16816)

CHANGES: dict[str, list[Any]] = {
    "frame_in": [
        FrameSpec("hadamard", 47, 64),
        FrameSpec("hadamard", 60, 64),
        FrameSpec("hadamard", 48, 48),
        FrameSpec("hadamard", 48, 80),
        FrameSpec("identity", 48, 48),
        FrameSpec("identity", 64, 64),
        FrameSpec("fusion", 48, 64, (8, 8, 48)),
        FrameSpec("fusion", 48, 64, (16, 4, 48)),
        FrameSpec("fusion", 48, 64, (16, 4, 64)),
        FrameSpec("fusion", 48, 72, (9, 8, 48)),
    ],
    "frame_out": [
        FrameSpec("identity", 33, 33),
        FrameSpec("identity", 64, 64),
        FrameSpec("hadamard", 32, 32),
        FrameSpec("hadamard", 32, 48),
        FrameSpec("hadamard", 33, 48),
        FrameSpec("fusion", 32, 32, (8, 4, 32)),
        FrameSpec("fusion", 32, 36, (9, 4, 32)),
        FrameSpec("fusion", 31, 36, (9, 4, 32)),
    ],
    "bits": [1, 3, 4],
    "block_size": [16, 32],
    "group_size": [128],
    "dtype": [ir.DataType.FLOAT16],
    "has_bias": [True],
    "has_zero_points": [True],
    "contrib": [False],
    "splits": [(32,), (16, 16), (8, 24), (24, 8), (8, 8, 16)],
}
# What a trellis code leaves open.
FREE = CHANGES.keys() - {"block_size", "group_size", "has_zero_points"}


def changed_specs() -> list[FrameOpSpec]:
    """Return the spec with one or two of its fields changed, in every way of `CHANGES`."""
    single = [(name, value) for name, values in CHANGES.items() for value in values]
    pairs = [pair for pair in itertools.combinations(single, 2) if pair[0][0] != pair[1][0]]
    # Splits cut the outputs of just one frame.
    pairs = [pair for pair in pairs if {name for name, _ in pair} != {"frame_out", "splits"}]
    return [
        SPEC,
        *(dataclasses.replace(SPEC, **{name: value}) for name, value in single),
        *(dataclasses.replace(SPEC, **dict(pair)) for pair in pairs),
        TRELLIS,
        *(dataclasses.replace(TRELLIS, **{name: value}) for name, value in single if name in FREE),
        dataclasses.replace(TRELLIS, multiplier=1),
    ]


def test_domain_and_version_are_those_of_the_format() -> None:
    assert (DOMAIN, OPSET_VERSION, LAYOUT_VERSION) == ("fqonnx", 1, 1)


def test_every_field_but_the_operator_is_in_the_list_of_changes() -> None:
    assert {field.name for field in dataclasses.fields(FrameOpSpec)} == {
        *("op_type", "codebook", "multiplier"),
        *CHANGES,
    }


def test_different_specs_have_different_overloads() -> None:
    specs = changed_specs()
    assert len(set(specs)) == len(specs)
    assert len({spec.overload for spec in specs}) == len(specs)


@pytest.mark.parametrize("op_type", ["FrameMatMul", "FrameDequant"])
def test_node_tells_its_spec(op_type: Any) -> None:
    specs = changed_specs() if op_type == "FrameMatMul" else [SPEC, FUSION, TRELLIS]
    for spec in (dataclasses.replace(spec, op_type=op_type) for spec in specs):
        absent = {"bias": spec.has_bias, "zero_points": spec.has_zero_points}
        inputs = [ir.Value(name=n) if absent.get(n, True) else None for n in spec.input_names()]
        node = ir.node(op_type, inputs, spec.attributes(), domain=DOMAIN)
        node.outputs[0].dtype = spec.dtype
        assert FrameOpSpec.of_node(node) == spec


def test_node_of_another_domain_has_no_spec() -> None:
    with pytest.raises(ValueError, match="no node of the domain fqonnx"):
        FrameOpSpec.of_node(ir.node("MatMul", [], name="layer"))


@pytest.mark.parametrize("splits", [(31,), (16, 17)])
def test_splits_cut_all_outputs(splits: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="of 32 outputs"):
        dataclasses.replace(SPEC, splits=splits)


@pytest.mark.parametrize(
    "change",
    [
        {"multiplier": 0},
        {"multiplier": 1 << 16},
        {"codebook": "scalar"},
        {"block_size": 128},
        {"has_zero_points": True},
        {"group_size": 128, "frame_in": FrameSpec("identity", 257, 257)},
    ],
    ids=str,
)
def test_what_no_trellis_code_has_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"no (trellis|scalar) code"):
        dataclasses.replace(TRELLIS, **change)


def test_equal_specs_have_equal_overloads() -> None:
    assert dataclasses.replace(SPEC).overload == SPEC.overload


def test_digits_of_neighbouring_numbers_are_not_mixed_up() -> None:
    frames = [("identity", 12, 1), ("identity", 2, 11)]
    frames += [("fusion", 2, 2, (1, 12, 2)), ("fusion", 2, 2, (11, 2, 2))]
    for side in ("frame_in", "frame_out"):
        specs = [dataclasses.replace(SPEC, **{side: FrameSpec(*frame)}) for frame in frames]
        assert len({spec.overload for spec in specs}) == len(specs)


def test_sides_are_not_mixed_up() -> None:
    first, second = FrameSpec("hadamard", 32, 64), FrameSpec("hadamard", 32, 48)
    identity = FrameSpec("identity", 32, 32)
    pairs = [(first, second), (second, first), (first, identity), (identity, first)]
    specs = [dataclasses.replace(SPEC, frame_in=i, frame_out=o) for i, o in pairs]
    assert len({spec.overload for spec in specs}) == len(specs)


@pytest.mark.parametrize("op_type", ["FrameMatMul", "FrameDequant"])
def test_overload_is_an_identifier(op_type: Any) -> None:
    for spec in (SPEC, FUSION):
        assert dataclasses.replace(spec, op_type=op_type).overload.isidentifier()


def test_groups_of_a_row() -> None:
    assert SPEC.groups == 1
    assert dataclasses.replace(SPEC, group_size=128).groups == 1
    frame = FrameSpec("identity", 257, 257)
    assert dataclasses.replace(SPEC, frame_in=frame, group_size=128).groups == 3


def test_attributes_are_those_of_the_format() -> None:
    attributes = {
        "dim_in": 48,
        "dim_out": 32,
        "frame_in": "hadamard",
        "frame_out": "identity",
        "num_vectors_in": 64,
        "num_vectors_out": 32,
        "bits": 2,
        "block_size": 64,
        "group_size": 0,
        "codebook": "scalar",
        "layout": 1,
        "accuracy": "fast",
    }
    assert SPEC.attributes() == attributes
    assert TRELLIS.attributes() == attributes | {
        "block_size": 256,
        "codebook": "trellis",
        "multiplier": 16816,
    }
    grouped = dataclasses.replace(SPEC, group_size=128)
    assert grouped.attributes() == attributes | {"group_size": 128}
    assert FUSION.attributes() == attributes | {
        "dim_in": 47,
        "frame_in": "fusion",
        "frame_out": "fusion",
        "num_vectors_in": 56,
        "num_vectors_out": 36,
        "subspaces_in": (7, 8, 48),
        "subspaces_out": (9, 4, 32),
    }


def test_attributes_of_dequant_name_its_type() -> None:
    for dtype, number in ((ir.DataType.FLOAT, 1), (ir.DataType.FLOAT16, 10)):
        spec = dataclasses.replace(SPEC, op_type="FrameDequant", dtype=dtype)
        attributes = {k: v for k, v in SPEC.attributes().items() if k != "accuracy"}
        assert spec.attributes() == attributes | {"dtype": number}


def test_what_runs_on_standard_operators_alone_is_exact() -> None:
    exact = dataclasses.replace(SPEC, contrib=False)
    assert exact.attributes() == SPEC.attributes() | {"accuracy": "exact"}


def test_inputs_are_in_the_order_of_the_format() -> None:
    packed = ("codes", "scales", "zero_points", "signs_in", "signs_out")
    assert SPEC.input_names() == ("X", *packed, "bias")
    assert dataclasses.replace(SPEC, op_type="FrameDequant").input_names() == packed


@pytest.mark.parametrize("op_type", ["FrameMatMul", "FrameDequant"])
@pytest.mark.parametrize("contrib", [True, False])
@pytest.mark.parametrize("base", [SPEC, FUSION], ids=["hadamard", "fusion"])
def test_function_has_the_name_inputs_and_attributes_of_its_spec(
    op_type: Any, contrib: bool, base: FrameOpSpec
) -> None:
    spec = dataclasses.replace(base, op_type=op_type, contrib=contrib)
    function = build_function(spec, 17)
    assert function.identifier() == ("fqonnx", op_type, spec.overload)
    assert tuple(value.name for value in function.inputs) == spec.input_names()
    assert len(function.outputs) == 1
    attributes = {a.name: a.value for a in function.attributes.values()}
    assert attributes == spec.attributes()
    assert function.opset_imports[""] == 17
    uses_contrib = any(node.domain == "com.microsoft" for node in function.graph)
    assert uses_contrib == (contrib and op_type == "FrameMatMul")
    assert ("com.microsoft" in function.opset_imports) == uses_contrib
