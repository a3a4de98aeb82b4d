"""Every rule against the operator itself, on pairs of inputs that are as bad as they get."""

from __future__ import annotations

import re
from math import prod

import numpy as np
import onnx_ir as ir
import pytest
from onnx_ir.passes.common import ShapeInferencePass

from fqonnx.passes import BoundOutputsPass
from fqonnx.passes.lipschitz import _FACTORS, _RULES, Rules, UnboundedError
from fqonnx.passes.norms import Affine, Bounds
from fqonnx.session import Session
from support import model_from_text

HEADER = '<ir_version: 10, opset_import: ["": 20]>'


def draw(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def floats(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


Case = tuple[str, tuple[int, ...], dict[str, np.ndarray]]
C34, K2 = (3, 4), (2, 7, 6)

# The expression, the shape of a sample of x, and constants.
ELEMENTWISE: dict[str, Case] = {
    name: (f"{name} (x)", (5,), {})
    for name in ("Relu", "Tanh", "Softsign", "Abs", "Neg", "HardSwish", "Gelu", "Erf", "Sigmoid")
} | {
    "Gelu by tanh": ('Gelu <approximate = "tanh"> (x)', (5,), {}),
    "LeakyRelu": ("LeakyRelu (x)", (5,), {}),
    "LeakyRelu steep": ("LeakyRelu <alpha = 3.0> (x)", (5,), {}),
    "Elu": ("Elu <alpha = 2.5> (x)", (5,), {}),
    "Celu": ("Celu <alpha = 0.5> (x)", (5,), {}),
    "Clip": ("Clip (x, low, high)", (5,), {"low": np.float32(-1), "high": np.float32(2)}),
    "Clip above": ("Clip (x, , high)", (5,), {"high": np.float32(0)}),
    "Clip below": ("Clip (x, low)", (5,), {"low": np.float32(-0.5)}),
}
AFFINE: dict[str, Case] = {
    "Identity": ("Identity (x)", C34, {}),
    "Dropout": ("Dropout (x)", C34, {}),
    "Flatten": ("Flatten (x)", C34, {}),
    "Reshape": ("Reshape (x, s)", C34, {"s": ints(0, 6, 2)}),
    "Transpose": ("Transpose <perm = [0, 2, 1]> (x)", C34, {}),
    "Squeeze": ("Squeeze (x, a)", (1, 4), {"a": ints(1)}),
    "Unsqueeze": ("Unsqueeze (x, a)", C34, {"a": ints(2)}),
    "Slice": (
        "Slice (x, s, e, a, k)",
        (9,),
        {"s": ints(1), "e": ints(8), "a": ints(1), "k": ints(3)},
    ),
    "Add constant": ("Add (x, c)", C34, {"c": draw(3, 4)}),
    "Add constant row": ("Add (c, x)", C34, {"c": draw(4)}),
    "Add wide constant": ("Add (x, c)", (1, 4), {"c": draw(6, 4)}),
    "Add outer": ("Add (x, c)", (3, 1), {"c": draw(1, 5)}),
    "Sub constant": ("Sub (x, c)", C34, {"c": draw(3, 1)}),
    "Sub from constant": ("Sub (c, x)", C34, {"c": draw(4)}),
    "Mul": ("Mul (x, c)", C34, {"c": draw(3, 4)}),
    "Mul from the left": ("Mul (c, x)", C34, {"c": draw(4)}),
    "Mul outer": ("Mul (x, c)", (3, 1), {"c": draw(1, 5)}),
    "Div": ("Div (x, c)", C34, {"c": draw(3, 4)}),
    "Div outer": ("Div (x, c)", (3, 1), {"c": draw(1, 5)}),
    "MatMul": ("MatMul (x, w)", (6,), {"w": draw(6, 9)}),
    "Gemm": ("Gemm (x, w)", (6,), {"w": draw(6, 9)}),
    "Gemm with all": (
        "Gemm <alpha = -0.5, beta = 2.0, transB = 1> (x, w, c)",
        (6,),
        {"w": draw(9, 6), "c": draw(1, 9)},
    ),
    "MatMul of rows": ("MatMul (x, w)", (5, 8), {"w": draw(8, 3)}),
    "Conv": ("Conv <pads = [1, 1, 1, 1]> (x, w, b)", K2, {"w": draw(3, 2, 3, 3), "b": draw(3)}),
    "Conv 1-D": ("Conv <strides = [2]> (x, w)", (2, 13), {"w": draw(4, 2, 5)}),
    "Conv strided": (
        "Conv <strides = [2, 3], pads = [0, 1, 2, 1]> (x, w, b)",
        K2,
        {"w": draw(3, 2, 3, 4), "b": draw(3)},
    ),
    "Conv dilated": (
        "Conv <strides = [2, 1], dilations = [2, 3]> (x, w)",
        K2,
        {"w": draw(3, 2, 3, 2)},
    ),
    "Conv skew": ("Conv <strides = [2], dilations = [3]> (x, w)", (1, 15), {"w": draw(1, 1, 4)}),
    "Conv with gaps": ("Conv <strides = [4]> (x, w)", (1, 15), {"w": draw(2, 1, 3)}),
    "Conv of groups": (
        'Conv <group = 2, auto_pad = "SAME_UPPER", kernel_shape = [3]> (x, w, b)',
        (4, 9),
        {"w": draw(6, 2, 3), "b": draw(6)},
    ),
    "Conv of ones": ("Conv (x, w)", (1, 9, 9), {"w": np.ones((1, 1, 3, 3), np.float32)}),
    "BatchNormalization": (
        "BatchNormalization <epsilon = 0.01> (x, s, b, m, v)",
        K2,
        {name: draw(2, seed=i) for i, name in enumerate("sbm")} | {"v": floats(0.5, 1e-3)},
    ),
    "ReduceMean": ("ReduceMean (x, a)", C34, {"a": ints(1)}),
    "ReduceMean without an axis": ("ReduceMean <keepdims = 0> (x, a)", C34, {"a": ints(1, 2)}),
    "ReduceMean of nothing": ("ReduceMean <noop_with_empty_axes = 1> (x)", C34, {}),
    "GlobalAveragePool": ("GlobalAveragePool (x)", K2, {}),
    "AveragePool": ("AveragePool <kernel_shape = [3, 2]> (x)", K2, {}),
    "AveragePool padded": (
        "AveragePool <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]> (x)",
        K2,
        {},
    ),
}
OTHERS: dict[str, Case] = {
    "Softmax": ("Softmax (x)", C34, {}),
    "Softmax of an axis": ("Softmax <axis = 1> (x)", C34, {}),
    "GlobalMaxPool": ("GlobalMaxPool (x)", K2, {}),
    "MaxPool": ("MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (x)", K2, {}),
    "MaxPool that overlaps": ("MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x)", K2, {}),
    "MaxPool dilated": (
        "MaxPool <kernel_shape = [3], strides = [2], dilations = [2]> (x)",
        (2, 13),
        {},
    ),
}
CASES = ELEMENTWISE | AFFINE | OTHERS


def inferred(text: str, **arrays: np.ndarray) -> ir.Model:
    model = model_from_text(f"{HEADER} {text}", **arrays)
    for output in model.graph.outputs:
        output.shape = output.shape or None  # a type without a shape is read as a scalar's
    ShapeInferencePass()(model)
    return model


def model_of(case: str) -> ir.Model:
    expression, shape, arrays = CASES[case]
    sizes = ", ".join(map(str, shape))
    return inferred(
        f"g (float[N, {sizes}] x) => (float y) {{ z = {expression} y = Identity(z) }}", **arrays
    )


def rule(model: ir.Model, *inputs: Bounds) -> Bounds:
    """Return the bounds of the first node's output, given those of what are no constants."""
    (node, *_), (x, *_) = model.graph, model.graph.inputs
    assert x.shape is not None
    assert isinstance(x.shape[0], ir.SymbolicDim)
    given = dict(zip(model.graph.inputs, inputs, strict=True))
    return Rules({}, x.shape[0]).apply(node, [v and given.get(v) for v in node.inputs])


def by_sample(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float64).reshape(len(array), -1)


def norms(array: np.ndarray) -> np.ndarray:
    return np.linalg.norm(by_sample(array), axis=1)


def pairs(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return inputs and inputs to compare them with, of all sizes and differences."""
    x = np.concatenate([draw(20, *shape) * scale for scale in (1e-3, 1.0, 3.0, 1e3)])
    others = [x + 0.01 * np.abs(x).mean() * draw(*x.shape, seed=2), -x, draw(*x.shape, seed=3)]
    others.append(np.zeros_like(x))
    one = np.eye(prod(shape), dtype=np.float32).reshape(-1, *shape)
    x = np.concatenate([x] * len(others) + [0 * one, 5 * one, np.ones_like(one), -np.ones_like(x)])
    return x, np.concatenate([*others, one, -one, 1 + one, draw(*others[0].shape, seed=4)])


@pytest.mark.parametrize("case", CASES)
def test_operator_is_within_its_bounds(case: str) -> None:
    model = model_of(case)
    run = Session(model, "model").run
    x, other = pairs(CASES[case][1])
    y, estimate = (run({"x": array})[0] for array in (x, other))
    unit = Bounds(Affine(1.0), Affine(1.0))
    bounds = rule(model, unit)
    slack = 1 + 1e-5
    sizes = np.array([bounds.norm.at(size) for size in norms(x)])
    errors = bounds.error.slope * norms(x - other)
    assert bounds.error.offset == 0.0
    assert (norms(y) <= sizes * slack).all()
    rounding = 1e-6 * np.maximum(norms(y), norms(estimate))
    assert (norms(y.astype(np.float64) - estimate) <= errors * slack + rounding).all()


@pytest.mark.parametrize("case", AFFINE)
def test_bound_holds_in_the_worst_direction_and_is_not_far_from_it(case: str) -> None:
    model, size = model_of(case), prod(CASES[case][1])
    run = Session(model, "model").run
    x = np.concatenate([np.zeros((1, size)), np.eye(size)]).astype(np.float32)
    y = by_sample(run({"x": x.reshape(-1, *CASES[case][1])})[0])
    worst = np.linalg.norm(y[1:] - y[0], 2)
    bounds = rule(model, Bounds(Affine(1.0), Affine(1.0)))
    assert worst <= bounds.error.slope * (1 + 1e-5)
    assert bounds.error.slope == bounds.norm.slope
    # Patches overlap, and not all of a constant, or of a pool, is as large as its largest part.
    far = {"Conv": 3.5, "AveragePool": 3.5, "Mul": 1.6, "Div": 1.6}.get(case.split()[0], 1.0)
    assert bounds.error.slope <= far * worst * (1 + 1e-5)
    assert bounds.norm.offset == pytest.approx(np.linalg.norm(y[0]), rel=1e-5)


@pytest.mark.parametrize("case", ELEMENTWISE)
def test_constant_is_the_steepest_slope(case: str) -> None:
    model = model_of(case)
    grid = np.linspace(-8, 8, 4001, dtype=np.float32)
    y = Session(model, "model").run({"x": np.repeat(grid[:, None], 5, axis=1)})[0][:, 0]
    steepest = np.abs(np.diff(y.astype(np.float64)) / np.diff(grid.astype(np.float64))).max()
    slope = rule(model, Bounds(Affine(1.0), Affine(1.0))).error.slope
    assert steepest <= slope * (1 + 1e-3)
    assert slope <= 1.01 * steepest


def test_convolution_of_ones_meets_its_bound() -> None:
    # A wide constant is what a kernel of ones stretches most: by its sum, 9 at any one place.
    model = inferred(
        "g (float[N, 1, 60, 60] x) => (float y) { z = Conv(x, w) y = Identity(z) }",
        w=np.ones((1, 1, 3, 3), np.float32),
    )
    y = Session(model, "model").run({"x": np.ones((1, 1, 60, 60), np.float32)})[0]
    slope = rule(model, Bounds(Affine(1.0), Affine(0.0))).norm.slope
    assert slope == pytest.approx(9.0)
    assert 0.95 * slope <= np.linalg.norm(y) / 60 <= slope


def test_every_rule_is_tested() -> None:
    tested = {re.split(r"\W", expression)[0] for expression, _, _ in CASES.values()}
    assert tested == {*_FACTORS, *_RULES, "Add", "Sub", "Mul"}


@pytest.mark.parametrize("op", ["Add", "Sub"])
@pytest.mark.parametrize("shape", ["3, 4", "1, 4", "3, 1", "4"])
@pytest.mark.parametrize("swapped", [False, True])
def test_sum_of_two_activations(op: str, shape: str, swapped: bool) -> None:
    shape = f"1, {shape}" if shape == "4" else shape
    operands = "z, x" if swapped else "x, z"
    model = inferred(
        f"g (float[N, 3, 4] x, float[N, {shape}] z) => (float y) {{ y = {op}({operands}) }}"
    )
    small = tuple(int(size) for size in shape.split(","))
    ones = np.ones((1, *small), np.float32)
    x = [draw(30, 3, 4), draw(1, 3, 4), np.ones((1, 3, 4), np.float32)]
    z = [draw(30, *small, seed=2), 100 * draw(1, *small), -ones if op == "Sub" else ones]
    first = np.concatenate(x), np.concatenate(z)
    second = np.concatenate(x[::-1]), np.concatenate(z[::-1])
    run = Session(model, "model").run
    y, estimate = (run({"x": a, "z": b})[0] for a, b in (first, second))
    for i in range(len(y)):
        bounds = rule(
            model,
            *(
                Bounds(Affine(0.0, norms(a)[i]), Affine(0.0, norms(a - b)[i]))
                for a, b in zip(first, second, strict=True)
            ),
        )
        assert norms(y)[i] <= bounds.norm.at(0.0) * (1 + 1e-5)
        assert norms(y - estimate)[i] <= bounds.error.at(0.0) * (1 + 1e-5)
    assert norms(y)[-1] == pytest.approx(bounds.norm.at(0.0))  # ones and ones


def test_value_may_be_both_operands() -> None:
    model = inferred("g (float[N, 4] x) => (float y) { y = Add(x, x) }")
    assert rule(model, Bounds(Affine(1.0), Affine(0.5))) == Bounds(Affine(2.0), Affine(1.0))


def test_constants_may_come_from_nodes() -> None:
    model = inferred(
        """g (float[N, 4] x) => (float y) {
            y = Clip(x, l, h) l = Constant <value_float = 0.0> () h = Constant <value_float = 6.> ()
        }"""
    )
    bounds = Bounds(Affine(1.0), Affine(1.0))
    assert rule(model, bounds) == bounds


def test_constants_of_float16_are_measured_in_more_than_that() -> None:
    model = inferred(
        "g (float16[N, 4] x) => (float16 y) { y = Add(x, c) }", c=np.full(4, 6e4, np.float16)
    )
    bounds = rule(model, Bounds(Affine(1.0), Affine(1.0)))
    assert bounds.norm.offset == 2 * np.float16(6e4).astype(float)


REFUSED = {
    "product of activations": ("Mul (x, x)", {}, "for Mul node 'n'"),
    "MatMul of activations": ("MatMul (x, x)", {}, "for MatMul node 'n'"),
    "constant on the left": ("MatMul (w, x)", {"w": draw(4, 4)}, "for MatMul node 'n'"),
    "division by an activation": ("Div (c, x)", {"c": draw(4)}, "for Div node 'n'"),
    "unknown operator": ("Exp (x)", {}, "for Exp node 'n'"),
    "batched weight": (
        "MatMul (x, w)",
        {"w": draw(2, 4, 4)},
        "weight of MatMul node 'n' has 3 dim",
    ),
    "Clip above zero": ("Clip (x, c)", {"c": np.float32(0.5)}, "Clip node 'n' does not keep zero"),
    "Clip below zero": ("Clip (x, , c)", {"c": np.float32(-1)}, "Clip node 'n' does not keep zero"),
    "Softmax of samples": ("Softmax <axis = 0> (x)", {}, "Softmax node 'n' mixes samples"),
    "division by zero": ("Div (x, c)", {"c": floats(1, 0, 1, 1)}, "Div node 'n' divides by zero"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_bound_says_why(case: str) -> None:
    expression, arrays, reason = REFUSED[case]
    model = inferred(f"g (float[N, 4, 4] x) => (float y) {{ [n] y = {expression} }}", **arrays)
    with pytest.raises(UnboundedError, match=re.escape(reason)):
        rule(model, Bounds(Affine(1.0), Affine(1.0)))


def reason_of(text: str, **arrays: np.ndarray) -> str:
    model = inferred(text, **arrays)
    result = BoundOutputsPass({})
    result(model)
    (reason,) = result.bounds.values()
    assert isinstance(reason, str)
    return reason


def test_weight_that_nodes_compute_is_not_known() -> None:
    text = "g (float[N, 4] x) => (float[N, 4] y) { v = Neg(w) [n] y = MatMul(x, v) }"
    assert reason_of(text, w=draw(4, 4)) == "'v' of MatMul node 'n' is not constant"


def test_operator_of_another_domain_is_not_known() -> None:
    model = model_from_text(
        """<ir_version: 10, opset_import: ["": 20, "com.microsoft": 1]>
        g (float[N, 4] x) => (float[N, 4] y) { [n] y = com.microsoft.Relu(x) }"""
    )
    result = BoundOutputsPass({})
    result(model)
    (reason,) = result.bounds.values()
    assert "for Relu node 'n'" in str(reason)


@pytest.mark.parametrize(("shape", "value"), [("N, T, 4", "y"), ("N, N, 4", "y"), ("N, ?, 4", "y")])
def test_constant_that_is_added_any_number_of_times_has_no_bound(shape: str, value: str) -> None:
    text = f"g (float[N, 2] k, float[{shape}] x) => (float[{shape}] y) {{ y = Add(x, c) }}"
    assert reason_of(text, c=draw(4)) == f"the size of {value!r} is not known"


def test_axes_without_names_may_differ() -> None:
    # One of them may be 1, and the other not.
    text = "g (float[N, ?] x, float[N, ?] z) => (float[N, ?] y) { y = Add(x, z) }"
    assert reason_of(text) == "the size of 'y' is not known"
