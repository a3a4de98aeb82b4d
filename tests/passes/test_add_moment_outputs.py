from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from fqonnx.passes import AddMomentOutputsPass, LayerInput
from fqonnx.session import Session
from support import model_from_text

HEADER = '<ir_version: 10, opset_import: ["": 20]>'


def draw(*shape: int, dtype: type = np.float32) -> np.ndarray:
    return np.random.default_rng(3).standard_normal(shape).astype(dtype)


def expected(x: np.ndarray, counts: np.ndarray | None = None) -> np.ndarray:
    """Return the sum of [x, 1]ᵀ[x, 1] over the rows that count."""
    rows = x.reshape(-1, x.shape[-1]).astype(np.float64)
    if counts is not None:
        rows = rows[counts.ravel() != 0]
    augmented = np.concatenate([rows, np.ones((len(rows), 1))], axis=1)
    return augmented.T @ augmented


def moments(
    model: ir.Model,
    values: list[tuple[str, int]],
    feed: dict[str, np.ndarray],
    mask_input: str | None = None,
) -> list[np.ndarray]:
    """Apply the pass, check the result's form, and run it."""
    adder = AddMomentOutputsPass([LayerInput(*value) for value in values], mask_input)
    inputs = list(model.graph.inputs)
    assert adder(model).modified
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert list(model.graph.inputs) == inputs
    session = Session(model, "model")
    assert session.output_names == list(adder.output_names)
    sums = session.run(feed, adder.output_names)
    assert [(s.shape, s.dtype) for s in sums] == [((d + 1, d + 1), np.float32) for _, d in values]
    return sums


def model_of(nodes: str, inputs: str = "float[A, B, 4] x") -> ir.Model:
    return model_from_text(f"{HEADER} g ({inputs}) => (float[C, D, 4] y) {{ {nodes} }}")


@pytest.mark.parametrize("shape", [(4,), (5, 4), (2, 5, 4), (2, 3, 5, 4)])
def test_sums_of_any_rank(shape: tuple[int, ...]) -> None:
    dims = ", ".join(map(str, shape))
    x = draw(*shape)
    model = model_from_text(
        f"{HEADER} g (float[{dims}] x) => (float[{dims}] y) {{ h = Mul(x, x) y = Relu(h) }}"
    )
    (total,) = moments(model, [("h", 4)], {"x": x})
    np.testing.assert_allclose(total, expected(x * x), rtol=1e-5)


def test_several_activations_in_the_order_asked_for() -> None:
    model = model_from_text(
        f"""{HEADER} g (float[A, 4] x) => (float[A, 3] y, float[A, 4] z) {{
            h = Mul(x, x)
            i = MatMul(h, w)
            y = Relu(i)
            z = Sub(x, h)
        }}""",
        w=draw(4, 3),
    )
    x = draw(6, 4)
    sums = moments(model, [("i", 3), ("x", 4), ("h", 4)], {"x": x})
    for total, value in zip(sums, (x * x @ draw(4, 3), x, x * x), strict=True):
        np.testing.assert_allclose(total, expected(value), rtol=1e-4, atol=1e-5)


def test_graph_output_may_be_asked_for() -> None:
    x = draw(2, 5, 4)
    (total,) = moments(model_of("y = Mul(x, x)"), [("y", 4)], {"x": x})
    np.testing.assert_allclose(total, expected(x * x), rtol=1e-5)


def test_no_activation_gives_no_output() -> None:
    model = model_of("y = Relu(x)")
    AddMomentOutputsPass([])(model)
    assert not model.graph.outputs


def test_what_only_the_old_outputs_needed_is_not_run() -> None:
    model = model_of("h = Mul(x, x) r = Reshape(h, s) y = Relu(r)", "float[A, B, 4] x, int64[3] s")
    impossible = np.array([7, 7, 7])
    (total,) = moments(model, [("h", 4)], {"x": draw(1, 2, 4), "s": impossible})
    np.testing.assert_allclose(total, expected(draw(1, 2, 4) ** 2), rtol=1e-5)


def test_float16_is_summed_in_float32() -> None:
    model = model_from_text(
        f"{HEADER} g (float16[A, B, 4] x) => (float16[A, B, 4] y) {{ h = Add(x, x) y = Relu(h) }}"
    )
    x = 100 * draw(20, 50, 4, dtype=np.float16)
    (total,) = moments(model, [("h", 4)], {"x": x})
    assert total.max() > np.finfo(np.float16).max
    np.testing.assert_allclose(total, expected(x + x), rtol=1e-4, atol=1e-4 * total.max())


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.float32, np.bool_])
def test_mask_of_any_type_is_respected(dtype: type) -> None:
    mask = np.array([[1, 1, 0], [1, 0, 0]]).astype(dtype)
    name = ir.DataType.from_numpy(np.dtype(dtype)).name.lower()
    model = model_of("y = Mul(x, x)", f"float[A, B, 4] x, {name}[A, B] mask")
    x = draw(2, 3, 4)
    (total,) = moments(model, [("y", 4)], {"x": x, "mask": mask}, "mask")
    np.testing.assert_allclose(total, expected(x * x, mask), rtol=1e-5)
    assert total[-1, -1] == 3


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_padding_may_hold_anything(bad: float) -> None:
    mask = np.array([[1, 1, 0], [1, 0, 0]])
    x = draw(2, 3, 4)
    x[mask == 0] = bad
    model = model_of("y = Identity(x)", "float[A, B, 4] x, int64[A, B] mask")
    (total,) = moments(model, [("y", 4)], {"x": x, "mask": mask}, "mask")
    np.testing.assert_allclose(total, expected(x, mask), rtol=1e-5)


@pytest.mark.parametrize("shape", [(6, 4), (2, 3, 4), (1, 2, 3, 4)])
def test_mask_fits_activations_with_as_many_rows(shape: tuple[int, ...]) -> None:
    mask = np.array([[1, 1, 0], [1, 0, 0]])
    dims = ", ".join(map(str, shape))
    model = model_from_text(
        f"{HEADER} g (float[{dims}] x, int64[A, B] mask) => (float[{dims}] y) {{ y = Relu(x) }}"
    )
    x = draw(*shape)
    (total,) = moments(model, [("x", 4)], {"x": x, "mask": mask}, "mask")
    np.testing.assert_allclose(total, expected(x, mask), rtol=1e-5)


@pytest.mark.parametrize("axes", ["T, B", "3, 2"])
def test_mask_is_turned_for_activations_with_the_sequence_first(axes: str) -> None:
    mask = np.array([[1, 1, 0], [1, 0, 0]])
    names = "B, T" if axes == "T, B" else "2, 3"
    model = model_from_text(
        f"{HEADER} g (float[{axes}, 4] x, int64[{names}] mask) => (float[{axes}, 4] y)"
        " { y = Relu(x) }"
    )
    x = draw(3, 2, 4)
    (total,) = moments(model, [("x", 4)], {"x": x, "mask": mask}, "mask")
    np.testing.assert_allclose(total, expected(x, mask.T), rtol=1e-5)


def test_equal_numbers_of_rows_in_other_shapes_do_not_fit() -> None:
    mask = np.array([[1, 1, 0], [1, 0, 0]])
    model = model_from_text(
        f"{HEADER} g (float[P, Q, 4] x, int64[A, B] mask) => (float[P, Q, 4] y) {{ y = Relu(x) }}"
    )
    x = draw(3, 2, 4)
    (total,) = moments(model, [("x", 4)], {"x": x, "mask": mask}, "mask")
    np.testing.assert_allclose(total, expected(x), rtol=1e-5)


def test_all_rows_count_where_their_number_is_not_that_of_the_mask() -> None:
    mask = np.array([[1, 1, 0], [1, 0, 0]])
    model = model_from_text(
        f"""{HEADER} g (float[A, B, 4] x, int64[A, B] mask) => (float[A, 4] y) {{
            axes = Constant <value = int64[1] {{1}}> ()
            m = ReduceMean <keepdims = 0> (x, axes)
            y = Relu(m)
        }}"""
    )
    x = draw(2, 3, 4)
    sums = moments(model, [("m", 4), ("x", 4)], {"x": x, "mask": mask}, "mask")
    np.testing.assert_allclose(sums[0], expected(x.mean(1)), rtol=1e-5)
    np.testing.assert_allclose(sums[1], expected(x, mask), rtol=1e-5)


def test_mask_that_keeps_nothing_gives_zeros() -> None:
    model = model_of("y = Relu(x)", "float[A, B, 4] x, int64[A, B] mask")
    feed = {"x": draw(2, 3, 4), "mask": np.zeros((2, 3), np.int64)}
    (total,) = moments(model, [("x", 4)], feed, "mask")
    np.testing.assert_array_equal(total, np.zeros((5, 5)))


def test_batch_without_rows_gives_zeros() -> None:
    model = model_of("y = Relu(x)", "float[A, B, 4] x, int64[A, B] mask")
    feed = {"x": draw(0, 3, 4), "mask": np.zeros((0, 3), np.int64)}
    (total,) = moments(model, [("x", 4)], feed, "mask")
    np.testing.assert_array_equal(total, np.zeros((5, 5)))


@pytest.mark.parametrize("opset", [13, 17, 21])
@pytest.mark.parametrize("mask_input", [None, "mask"])
def test_any_supported_opset(opset: int, mask_input: str | None) -> None:
    model = model_from_text(
        f"""<ir_version: 8, opset_import: ["": {opset}]>
        g (float[A, B, 4] x, int64[A, B] mask) => (float[A, B, 4] y) {{ y = Relu(x) }}"""
    )
    mask = np.array([[1, 0, 1]])
    x = draw(1, 3, 4)
    (total,) = moments(model, [("x", 4)], {"x": x, "mask": mask}, mask_input)
    counts = mask if mask_input else None
    np.testing.assert_allclose(total, expected(x, counts), rtol=1e-5)


LOOP = """{y} = Loop (two, yes, {x}) <body = b{x} (int64 i{x}, bool go{x}, float[A, 4] h{x})
    => (bool on{x}, float[A, 4] n{x}) {{ on{x} = Identity(go{x}) n{x} = Add(h{x}, h{x}) }}>"""


@pytest.mark.parametrize("inside", [True, False])
def test_what_a_loop_gives_is_summed_and_handed_on(inside: bool) -> None:
    loop = LOOP.format(x="x", y="l")
    if inside:
        loop = f"""l = If (yes) <then_branch = t () => (float[A, 4] q) {{
            {LOOP.format(x="x", y="p")} q = Neg(p) }},
            else_branch = e () => (float[A, 4] r) {{ r = Identity(x) }}>"""
    model = model_from_text(
        f"""{HEADER} g (float[A, 4] x) => (float[A, 4] l, float[A, 4] y) {{
            two = Constant <value = int64 {{2}}> () yes = Constant <value = bool {{1}}> ()
            {loop} y = Relu(l) }}"""
    )
    values = {"hx": (1, 2), "p": (4,)} if inside else {"hx": (1, 2), "l": (4,)}
    adder = AddMomentOutputsPass([LayerInput(name, 4) for name in values], keep=["l"])
    adder(model)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    x = draw(3, 4)
    *sums, handed_on = Session(model.clone(), "model").run({"x": x})
    for total, factors in zip(sums, values.values(), strict=True):
        np.testing.assert_allclose(total, sum(expected(f * x) for f in factors), rtol=1e-5)
    np.testing.assert_allclose(handed_on, -4 * x if inside else 4 * x)


def test_new_values_take_no_name_of_a_value_in_a_subgraph() -> None:
    model = model_of(
        """h = Relu(x)
        y = If (c) <
            then_branch = t () => (float[A, B, 4] p) { val_0 = Relu(h) p = Relu(val_0) },
            else_branch = e () => (float[A, B, 4] q) { q = Identity(h) }
        >""",
        "float[A, B, 4] x, bool c",
    )
    x = draw(2, 3, 4)
    (total,) = moments(model, [("x", 4)], {"x": x, "c": np.array(True)})
    np.testing.assert_allclose(total, expected(x), rtol=1e-5)
