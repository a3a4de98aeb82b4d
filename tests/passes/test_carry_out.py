from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from fqonnx.passes.carry_out import carry_out
from fqonnx.passes.constants import Names
from fqonnx.session import Session
from support import model_from_text

HEADER = '<ir_version: 10, opset_import: ["": 20]>'


def total_of(model: ir.Model, name: str, **feed: np.ndarray) -> np.ndarray:
    """Return the sum of a value (4,) over the runs of its graph; check that the outputs stay."""
    before = Session(model, "before").run(feed)
    value = ir.convenience.create_value_mapping(model.graph)[name]
    value.type, value.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([4])
    total = carry_out(model.graph, value, Names(model.graph))
    model.graph.outputs.append(total)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    *after, found = Session(model, "after").run(feed)
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old, new)
    return found


X = np.float32([1, 2, 3, 4])


def test_value_of_the_main_graph_is_its_own_sum() -> None:
    model = model_from_text(f"{HEADER} g (float[4] x) => (float[4] y) {{ h = Neg(x) y = Abs(h) }}")
    np.testing.assert_array_equal(total_of(model, "h", x=X), -X)


@pytest.mark.parametrize("choice", [True, False])
@pytest.mark.parametrize(("name", "branch"), [("h", True), ("k", False)])
def test_branch_that_is_not_taken_is_zeros(choice: bool, name: str, branch: bool) -> None:
    model = model_from_text(f"""{HEADER} g (float[4] x, bool c) => (float[4] y) {{
        y = If (c) <
            then_branch = t () => (float[4] p) {{ h = Neg(x) p = Abs(h) }},
            else_branch = e () => (float[4] q) {{ k = Neg(x) q = Exp(k) }}
        >
    }}""")
    expected = -X if choice is branch else 0 * X
    np.testing.assert_array_equal(total_of(model, name, x=X, c=np.array(choice)), expected)


LOOP = """
    y, scanned = Loop (m, go, x) <body = b (int64 i, bool c, float[4] s)
        => (bool d, float[4] n, float[4] out) {
        d = Identity(c) h = Neg(s) n = Add(s, one) out = Abs(n) }>
"""


@pytest.mark.parametrize("count", [0, 1, 3])
def test_runs_of_a_loop_add_up(count: int) -> None:
    model = model_from_text(
        f"{HEADER} g (float[4] x, int64 m) => (float[4] y, float[K, 4] scanned) {{ {LOOP} }}",
        go=np.array(True),
        one=np.ones(4, np.float32),
    )
    expected = -sum((X + i for i in range(count)), np.zeros(4))
    np.testing.assert_array_equal(total_of(model, "h", x=X, m=np.array(count)), expected)


def test_loop_without_a_state_of_its_own_gets_one() -> None:
    model = model_from_text(
        f"""{HEADER} g (float[4] x, int64 m) => (float[K, 4] y) {{
            y = Loop (m, go) <body = b (int64 i, bool c) => (bool d, float[4] out) {{
                d = Identity(c) h = Neg(x) out = Abs(h) }}>
        }}""",
        go=np.array(True),
    )
    np.testing.assert_array_equal(total_of(model, "h", x=X, m=np.array(3)), -3 * X)


def test_runs_of_a_scan_add_up() -> None:
    model = model_from_text(
        f"""{HEADER} g (float[4] x, float[K, 4] rows) => (float[4] y, float[K, 4] z) {{
            y, z = Scan <num_scan_inputs = 1, body = b (float[4] s, float[4] row)
                => (float[4] n, float[4] out) {{
                n = Add(s, row) h = Neg(n) out = Abs(h) }}> (x, rows)
        }}"""
    )
    rows = np.arange(12, dtype=np.float32).reshape(3, 4)
    expected = -(X + np.cumsum(rows, axis=0)).sum(0)
    np.testing.assert_array_equal(total_of(model, "h", x=X, rows=rows), expected)


def test_branch_in_a_loop_adds_up_where_it_is_taken() -> None:
    model = model_from_text(
        f"""{HEADER} g (float[4] x, int64 m) => (float[4] y) {{
            y = Loop (m, go, x) <body = b (int64 i, bool c, float[4] s) => (bool d, float[4] n) {{
                d = Identity(c) early = Less(i, two)
                n = If (early) <
                    then_branch = t () => (float[4] p) {{ h = Neg(s) p = Add(s, one) }},
                    else_branch = e () => (float[4] q) {{ q = Add(s, one) }}
                > }}>
        }}""",
        go=np.array(True),
        two=np.array(2),
        one=np.ones(4, np.float32),
    )
    np.testing.assert_array_equal(total_of(model, "h", x=X, m=np.array(5)), -(2 * X + 1))


def test_two_values_of_a_loop_each_get_a_sum() -> None:
    model = model_from_text(
        f"{HEADER} g (float[4] x, int64 m) => (float[4] y, float[K, 4] scanned) {{ {LOOP} }}",
        go=np.array(True),
        one=np.ones(4, np.float32),
    )
    first = total_of(model, "h", x=X, m=np.array(2))
    second = total_of(model, "out", x=X, m=np.array(2))
    np.testing.assert_array_equal(first, -(2 * X + 1))
    np.testing.assert_array_equal(second, 2 * X + 3)
