"""Spoiled nodes in the native library: each is an error or what the format says, never a crash.

A crash would be the end of pytest, so the cases run in a child process, which says what each is
before it runs it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx.helper import (
    make_attribute,
    make_graph,
    make_model,
    make_node,
    make_opsetid,
    make_tensor_value_info,
    np_dtype_to_tensor_dtype,
)

from fqonnx.frames import FrameSpec
from fqonnx.reference import (
    analysis_operator,
    dequantized_coeffs,
    frame_dequant,
    frame_matmul,
)
from fqonnx.runtime_ops import DOMAIN, library_path
from operator_cases import CASES, INT8_ACTIVATIONS, Case, joined, make_session
from trellis_cases import CASES as TRELLISES
from trellis_cases import INPUTS, Trellis, trellis_coeffs

EXAMPLES = 400
BATCHES = ((), (1,), (3,), (2, 5), (40,), (0,), (0, 3))
SCALES = (0.0, 0.1, -0.2, 6e-8, 65504.0, np.nan, np.inf, -np.inf)
DTYPES = (np.float32, np.float16, np.float64, np.uint8, np.int8, np.int32, np.bool_)
ATTRIBUTES = (
    *(f"{name}_{side}" for side in ("in", "out") for name in ("dim", "num_vectors", "subspaces")),
    *("frame_in", "frame_out", "bits", "block_size", "group_size", "codebook", "layout"),
    *("dtype", "accuracy", "splits", "multiplier", "unheard_of"),
)
INTEGERS = st.integers(-2, 150) | st.sampled_from(
    [sign * (1 << power) + d for sign in (-1, 1) for power in (16, 20, 31, 62) for d in (-1, 0, 1)]
)
CASE = count()
WORDS = (
    "",
    "hadamard",
    "fusion",
    "harmonic",
    "identity",
    "scalar",
    "trellis",
    "exact",
    "fast",
    "é" * 60,
)


@dataclass
class Node:
    """A node, and what it reads; an input that is None is absent."""

    op_type: str
    attributes: dict[str, Any]
    inputs: list[np.ndarray | None]
    outputs: int
    legal: bool = True  # the format allows it: no excuse for an error

    def run(self, *, fed: bool) -> Any:
        """Return the outputs side by side; packed inputs are constants or ``fed``."""
        names = [f"y{i}" for i in range(self.outputs)]
        node = make_node(self.op_type, [], names, name="spoiled", domain=DOMAIN)
        for name, value in self.attributes.items():
            kind = onnx.AttributeProto.INTS if isinstance(value, tuple) else None
            node.attribute.append(make_attribute(name, value, attr_type=kind))
        feeds, constants = {}, {}
        for i, array in enumerate(self.inputs):
            node.input.append("" if array is None else f"i{i}")
            if array is not None:
                is_fed = fed or (i == 0 and self.op_type == "FrameMatMul")
                (feeds if is_fed else constants)[f"i{i}"] = array
        graph = make_graph(
            [node],
            "spoiled",
            [
                make_tensor_value_info(name, np_dtype_to_tensor_dtype(array.dtype), None)
                for name, array in feeds.items()
            ],
            [onnx.ValueInfoProto(name=name) for name in names],
            [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()],
        )
        opsets = [make_opsetid("", 20), make_opsetid(DOMAIN, 1)]
        model = make_model(graph, opset_imports=opsets, ir_version=10)
        return joined(make_session(model, native=True).run(None, feeds))

    def check(self, found: np.ndarray) -> None:
        """Compare a result with the reference, which reads the same node."""
        described = {name: self.attributes[name] for name in ("bits", "group_size")}
        for side in ("in", "out"):
            kind, dim, num_vectors = (
                self.attributes[f"{name}_{side}"] for name in ("frame", "dim", "num_vectors")
            )
            subspaces = self.attributes[f"subspaces_{side}"] if kind == "fusion" else None
            described[f"frame_{side}"] = FrameSpec(kind, dim, num_vectors, subspaces)
        takes_x = self.op_type == "FrameMatMul"
        packed = self.inputs[1:6] if takes_x else self.inputs[:5]
        with np.errstate(invalid="ignore"):
            if self.attributes["codebook"] == "trellis":
                coeffs, wanted = self.trellis_reference(described)
            else:
                coeffs = dequantized_coeffs(
                    *packed[:3],
                    bits=described["bits"],
                    num_vectors=described["frame_in"].num_vectors,
                    group_size=described["group_size"],
                )
                reference = frame_matmul if takes_x else frame_dequant
                wanted = reference(*self.inputs, **described)
        assert found.shape == wanted.shape
        # Errors are made in the coefficients, of which a frame may add up nothing.
        size = np.linalg.norm(coeffs)
        if takes_x:
            size = size * np.linalg.norm(self.inputs[0]) + np.abs(wanted).max(initial=0)
        if not np.isfinite(size):
            return
        limit = 2e-3 if found.dtype == np.float16 else 1e-5
        if self.attributes.get("accuracy") == "fast":
            limit += INT8_ACTIVATIONS
        error = limit * size + 1e-7
        fits = np.abs(wanted) + error < np.finfo(found.dtype).max
        np.testing.assert_allclose(found[fits], wanted[fits], rtol=0, atol=error)

    def trellis_reference(self, described: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """Return Ĉ and what a node of trellis codes gives."""
        given = dict(zip(INPUTS[self.op_type], self.inputs, strict=False))
        coeffs = trellis_coeffs(
            *(given[name] for name in ("codes", "scales", "levels")),
            bits=described["bits"],
            num_vectors=described["frame_in"].num_vectors,
            multiplier=self.attributes["multiplier"],
        )
        operators = [
            analysis_operator(described[f"frame_{side}"], given[f"signs_{side}"])
            for side in ("in", "out")
        ]
        wanted = operators[0].T @ coeffs @ operators[1]
        if self.op_type == "FrameMatMul":
            bias = given["bias"]
            wanted = given["X"].astype(np.float64) @ wanted + (0 if bias is None else bias)
        return coeffs, wanted


def other_bytes(draw: Any, node: Node) -> None:
    """Any codes, signs and zero points are data."""
    i = draw(st.sampled_from([i for i, a in enumerate(node.inputs) if is_bytes(a)]))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    node.inputs[i] = rng.integers(0, 256, node.inputs[i].shape, np.uint8)


def is_bytes(array: np.ndarray | None) -> bool:
    return array is not None and array.dtype == np.uint8


def other_scales(draw: Any, node: Node) -> None:
    i = 2 if node.op_type == "FrameMatMul" else 1
    values = draw(st.lists(st.sampled_from(SCALES), min_size=1))
    node.inputs[i] = np.resize(np.array(values, np.float16), node.inputs[i].shape)


def other_x(draw: Any, node: Node) -> None:
    if node.op_type == "FrameMatMul" and node.inputs[0].size:
        with np.errstate(over="ignore"):
            node.inputs[0].flat[0] = draw(st.sampled_from((np.nan, np.inf, -np.inf, 1e30, 1e-42)))


def spoil_shape(draw: Any, node: Node) -> None:
    i = draw(present(node))
    array = node.inputs[i]
    shape = draw(
        st.lists(st.integers(0, 5), max_size=4)
        | st.lists(st.integers(0, 5), max_size=3).map(lambda sizes: (*sizes, *array.shape[-1:]))
        | st.permutations(array.shape)
        | st.sampled_from([(array.size,), (1, *array.shape), (*array.shape, 1)])
        | st.sampled_from([-1, 0, 1]).map(lambda more: [max(0, n + more) for n in array.shape])
    )
    node.inputs[i] = np.resize(array, shape) if array.size else np.zeros(shape, array.dtype)


def spoil_dtype(draw: Any, node: Node) -> None:
    i = draw(present(node))
    with np.errstate(all="ignore"):
        node.inputs[i] = node.inputs[i].astype(draw(st.sampled_from(DTYPES)))


def spoil_inputs(draw: Any, node: Node) -> None:
    """Too few inputs, too many, one that is absent, or two in each other's place."""
    i, j = draw(present(node)), draw(present(node))
    how = draw(st.sampled_from(("cut", "absent", "more", "swap")))
    if how == "cut":
        del node.inputs[i:]
    elif how == "absent":
        node.inputs[i] = None
    elif how == "more":
        node.inputs += [node.inputs[i]] * draw(st.integers(1, 4))
    else:
        node.inputs[i], node.inputs[j] = node.inputs[j], node.inputs[i]


def present(node: Node) -> st.SearchStrategy[int]:
    return st.sampled_from([i for i, array in enumerate(node.inputs) if array is not None])


def spoil_attribute(draw: Any, node: Node) -> None:
    name = draw(st.sampled_from(ATTRIBUTES))
    value = draw(
        INTEGERS
        | st.sampled_from(WORDS)
        | st.sampled_from((None, 1.5))
        | st.lists(INTEGERS, max_size=4).map(tuple)
    )
    if value is None:
        node.attributes.pop(name, None)
    else:
        node.attributes[name] = value


@st.composite
def nodes(draw: Any) -> Node:
    cases = draw(st.sampled_from((CASES, TRELLISES)))
    case: Case | Trellis = replace(
        draw(st.sampled_from(cases)), batch=draw(st.sampled_from(BATCHES))
    )
    op_type = draw(st.sampled_from(("FrameMatMul", "FrameMatMul", "FrameDequant")))
    if isinstance(case, Trellis):
        names, attributes = INPUTS[op_type], case.node_attributes(op_type)
    else:
        spec = case.spec(op_type, contrib=draw(st.booleans()))
        names, attributes = spec.input_names(), spec.attributes()
    arrays = case.arrays() | {"X": case.x()}
    inputs = [arrays.get(name) for name in names]
    node = Node(op_type, attributes, inputs, outputs=len(attributes.get("splits", ())) or 1)
    for change in draw(st.lists(st.sampled_from((other_bytes, other_scales, other_x)), max_size=2)):
        change(draw, node)
    spoilers = (spoil_attribute, spoil_attribute, spoil_shape, spoil_dtype, spoil_inputs)
    for spoil in draw(st.lists(st.sampled_from(spoilers), max_size=2)):
        node.legal = False
        if any(array is not None for array in node.inputs):
            spoil(draw, node)
    return node


@settings(
    max_examples=EXAMPLES,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(nodes(), st.booleans())
def run_cases(node: Node, fed: bool) -> None:
    shapes = [None if a is None else f"{a.dtype}{list(a.shape)}" for a in node.inputs]
    print(next(CASE), node.op_type, node.attributes, shapes, f"fed={fed}", flush=True)
    try:
        found = node.run(fed=fed)
    except Exception as error:
        is_status = type(error).__module__.startswith("onnxruntime") and "spoiled" in str(error)
        if node.legal or not is_status:
            raise
    else:
        node.check(found)


@pytest.mark.skipif(library_path() is None, reason="the native library was not built")
@pytest.mark.parametrize(
    "name", ["portable", "avx2", "avx512", "avx512vbmi"]
)  # or the best that there is
def test_spoiled_nodes_are_errors_or_results(name: str) -> None:
    tests = str(Path(__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": tests, "FQONNX_INSTRUCTION_SET": name}
    run = subprocess.run(
        [sys.executable, "-P", __file__],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-1000:] + run.stderr[-4000:]


if __name__ == "__main__":
    run_cases()
