"""Trellis codes in the native library, against NumPy."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.helper import (
    make_attribute,
    make_graph,
    make_model,
    make_node,
    make_opsetid,
    make_tensor_value_info,
    np_dtype_to_tensor_dtype,
)

from fqonnx.frames import Frame, IdentityFrame
from fqonnx.packing import LEVELS, TILE, TILE_COLUMNS, TILE_ROWS, pack_tiles
from fqonnx.quant.trellis import trellis_code
from fqonnx.runtime_ops import DOMAIN, instruction_set, library_path
from operator_cases import INT8_ACTIVATIONS, hadamard, joined, make_session, relative_error
from trellis_cases import CASES, INPUTS, Arrays, Trellis

pytestmark = pytest.mark.skipif(library_path() is None, reason="the native library was not built")

INSTRUCTION_SETS = ("portable", "avx2", "avx512", "avx512vbmi")


def run(
    case: Trellis,
    op_type: str,
    arrays: Arrays,
    x: np.ndarray | None = None,
    *,
    attributes: dict[str, Any] | None = None,
    absent: Sequence[str] = (),
) -> np.ndarray:
    """Return what a node gives, its outputs side by side; an attribute of None is absent."""
    described = case.node_attributes(op_type) | (attributes or {})
    feeds = {} if x is None else {"X": x}
    given = (arrays.keys() | feeds.keys()) - set(absent)
    names = [name if name in given else "" for name in INPUTS[op_type]]
    outputs = [f"y{i}" for i in range(len(described.get("splits", ())) or 1)]
    node = make_node(op_type, names, outputs, name="trellis", domain=DOMAIN)
    for name, value in described.items():
        if value is not None:
            node.attribute.append(make_attribute(name, value))
    graph = make_graph(
        [node],
        "trellis",
        [
            make_tensor_value_info(name, np_dtype_to_tensor_dtype(array.dtype), None)
            for name, array in feeds.items()
        ],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    opsets = [make_opsetid("", 20), make_opsetid(DOMAIN, 1)]
    model = make_model(graph, opset_imports=opsets, ir_version=10)
    return joined(make_session(model, native=True).run(None, feeds))


def matmul(case: Trellis, arrays: Arrays, **options: Any) -> np.ndarray:
    return run(case, "FrameMatMul", arrays, case.x(), **options)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_operators_compute_what_the_format_says(case: Trellis) -> None:
    arrays, x = case.arrays(), case.x()
    weight = case.weight(arrays)
    last_places = 4 * float(np.finfo(case.dtype).eps)
    whole = {name: array for name, array in arrays.items() if name != "bias"}
    dequantized = run(case, "FrameDequant", whole)
    assert (dequantized.shape, dequantized.dtype) == (weight.shape, x.dtype)
    assert relative_error(dequantized, weight) <= last_places
    wanted = x.astype(np.float64) @ weight + arrays.get("bias", 0)
    found = matmul(case, arrays)
    assert (found.shape, found.dtype) == (wanted.shape, x.dtype)
    size = np.linalg.norm(x.astype(np.float64)) * np.linalg.norm(weight) / np.sqrt(weight.shape[0])
    limit = last_places + (INT8_ACTIVATIONS if case.accuracy == "fast" else 0)
    assert np.linalg.norm(found - wanted) <= limit * (size + np.linalg.norm(wanted))


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 8, 9, 17, 130])
@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("frame", [hadamard(640), IdentityFrame(300)], ids=["hadamard", "plain"])
@pytest.mark.parametrize("accuracy", ["exact", "fast"])
def test_any_number_of_rows(rows: int, bits: int, frame: Frame, accuracy: str) -> None:
    case = Trellis(frame, IdentityFrame(150), bits, accuracy, bias=True, batch=(rows,))
    arrays = case.arrays()
    wanted = case.x() @ case.weight(arrays) + arrays["bias"]
    limit = INT8_ACTIVATIONS if accuracy == "fast" else 1e-6
    assert relative_error(matmul(case, arrays), wanted) <= limit


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_codes_of_the_compiler(bits: int) -> None:
    """A kernel and `TrellisCode.decode` agree, exactly."""
    code = trellis_code(bits)
    codes = np.random.default_rng(0).integers(0, 1 << bits, (2, 3, TILE), np.uint8)
    rows = codes.reshape(2, 3, TILE_ROWS, TILE_COLUMNS).swapaxes(1, 2).reshape(128, 12)
    arrays = {
        "codes": pack_tiles(rows, bits),
        "scales": np.ones((128, 1), np.float16),
        "levels": code.levels,
    }
    case = Trellis(IdentityFrame(12), IdentityFrame(128), bits)
    found = run(case, "FrameDequant", arrays, attributes={"multiplier": code.multiplier})
    tiles = code.decode(codes).reshape(2, 3, TILE_ROWS, TILE_COLUMNS)
    wanted = tiles.transpose(1, 3, 0, 2).reshape(12, 128) / 64
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("rows", [1, 20])
def test_sums_of_many_columns_do_not_overflow(rows: int) -> None:
    columns = 1 << 17
    case = Trellis(hadamard(columns), IdentityFrame(3), 2, "fast", batch=(rows,))
    arrays = case.arrays() | {"levels": np.full(LEVELS, 127, np.int8)}
    x = np.zeros((rows, columns), np.float32)
    x[:, 0] = 1  # all coefficients are equal: integers of 127
    found = np.abs(run(case, "FrameMatMul", arrays, x))
    wanted = np.sqrt(columns) * 127 / 64 * arrays["scales"][:, 0].astype(np.float64)
    np.testing.assert_allclose(found, np.broadcast_to(wanted, found.shape), rtol=2e-5)


SPOILED: list[tuple[str, Any, str]] = [
    ("codebook", "lattice", "unknown codebook"),
    ("codebook", "scalar", "block_size 256"),
    ("bits", 5, "bits 5"),
    ("bits", 3, "codes"),
    ("block_size", 128, "block_size 128 of a trellis code"),
    ("group_size", 128, "group_size 128, expected 0"),
    ("multiplier", -1, "multiplier -1"),
    ("multiplier", 1 << 16, "multiplier 65536"),
    ("multiplier", None, "multiplier"),
    ("layout", 2, "layout 2"),
    ("num_vectors_in", 512, "codes"),
    ("splits", (65, 64), "multiples of 64"),
    ("splits", (64, 64), "splits"),
]


@pytest.mark.parametrize(("name", "value", "message"), SPOILED)
def test_spoiled_attribute_is_an_error_that_names_the_node(
    name: str, value: Any, message: str
) -> None:
    case = Trellis(hadamard(200), IdentityFrame(129), 2, batch=(2,))
    with pytest.raises(Exception, match=f"trellis: .*{message}"):
        matmul(case, case.arrays(), attributes={name: value})


@pytest.mark.parametrize("op_type", ["FrameMatMul", "FrameDequant"])
@pytest.mark.parametrize("name", ["codes", "scales", "levels", "signs_in"])
def test_input_of_another_shape_or_type_or_none_is_an_error(op_type: str, name: str) -> None:
    case = Trellis(hadamard(200), IdentityFrame(129), 2, batch=(2,))
    arrays = case.arrays()
    x = case.x() if op_type == "FrameMatMul" else None
    for spoiled, message in (
        (arrays[name][:-1], f"input {name} has the shape"),
        (arrays[name][None], f"input {name} has the shape"),
        (arrays[name].astype(np.int32), "nvalid"),
    ):
        with pytest.raises(Exception, match=message):
            run(case, op_type, arrays | {name: spoiled}, x)
    with pytest.raises(Exception, match=f"no input {name}|trellis"):
        run(case, op_type, arrays, x, absent=[name])


def test_inputs_that_other_codes_have_are_an_error() -> None:
    case = Trellis(hadamard(200), IdentityFrame(129), 2, batch=(2,))
    zero_points = {"zero_points": np.zeros((129, 1), np.uint8)}
    with pytest.raises(Exception, match="a trellis code has no zero_points"):
        matmul(case, case.arrays() | zero_points)
    scalar = {"codebook": "scalar", "block_size": 16}
    codes = {"codes": np.zeros((129, 13, 4), np.uint8)}
    with pytest.raises(Exception, match="scalar codes have no levels"):
        matmul(case, case.arrays() | codes, attributes=scalar)


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
def test_every_instruction_set_gives_the_same(name: str) -> None:
    if os.environ.get("FQONNX_INSTRUCTION_SET") or name == instruction_set():
        pytest.skip("these tests run with it already, or with one that was chosen")
    environment = os.environ | {"FQONNX_INSTRUCTION_SET": name}
    command = [sys.executable, "-P", "-m", "pytest", "-q", "-x", __file__]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-2000:]
