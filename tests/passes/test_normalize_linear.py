from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from fqonnx.passes import NormalizeLinearPass, SelectWeightsPass
from fqonnx.session import Session
from support import model_from_text

HEADER = '<ir_version: 10, opset_import: ["": 20]>'
ROWS, DIM_IN, DIM_OUT = 3, 6, 5


def draw(*shape: int, dtype: type = np.float32) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(dtype)


def op_types(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def normalize(model: ir.Model, rtol: float = 1e-5, **feed: np.ndarray) -> bool:
    """Rewrite, check that outputs stay and the model is valid; return ``modified``."""
    feed = feed or {"x": draw(ROWS, DIM_IN)}
    before = Session(model, "before").run(feed)
    nodes = list(model.graph)
    signature = [(v.name, v.type, v.shape) for v in (*model.graph.inputs, *model.graph.outputs)]
    modified = NormalizeLinearPass()(model).modified
    assert modified == (list(model.graph) != nodes)
    assert signature == [
        (v.name, v.type, v.shape) for v in (*model.graph.inputs, *model.graph.outputs)
    ]
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    after = Session(model, "after").run(feed)
    for old, new in zip(before, after, strict=True):
        assert new.dtype == old.dtype
        np.testing.assert_allclose(new, old, rtol=rtol, atol=rtol)
    return modified


def linear(attributes: str = "", dtype: type = np.float32) -> ir.Model:
    """Return a model of one Gemm with a vector C."""
    name = ir.DataType.from_numpy(np.dtype(dtype)).name.lower()
    return model_from_text(
        f"""{HEADER}
        g ({name}[N, {DIM_IN}] x) => ({name}[N, {DIM_OUT}] y) {{
            [gemm] y = Gemm {attributes} (x, w, b)
        }}""",
        w=draw(DIM_OUT, DIM_IN, dtype=dtype)
        if "transB" in attributes
        else draw(DIM_IN, DIM_OUT, dtype=dtype),
        b=draw(DIM_OUT, dtype=dtype),
    )


SHAPES_OF_C = {
    "vector": (DIM_OUT,),
    "scalar": (),
    "one element": (1,),
    "row": (1, DIM_OUT),
    "column": (ROWS, 1),
    "matrix": (ROWS, DIM_OUT),
}


@pytest.mark.parametrize("c", ["absent", "input", *SHAPES_OF_C])
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (0.5, 1.0), (1.0, 0.25), (-2.0, 0.0)])
@pytest.mark.parametrize(("trans_a", "trans_b"), [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_every_form_of_gemm_computes_the_same(
    trans_a: int, trans_b: int, alpha: float, beta: float, c: str
) -> None:
    x = draw(DIM_IN, ROWS) if trans_a else draw(ROWS, DIM_IN)
    feed, constants = {"x": x}, {"w": draw(DIM_OUT, DIM_IN) if trans_b else draw(DIM_IN, DIM_OUT)}
    inputs = f"float[{x.shape[0]}, {x.shape[1]}] x"
    if c == "input":
        feed["c"] = draw(ROWS, DIM_OUT)
        inputs += f", float[{ROWS}, {DIM_OUT}] c"
    elif c != "absent":
        constants["c"] = draw(*SHAPES_OF_C[c])
    model = model_from_text(
        f"""{HEADER}
        g ({inputs}) => (float[{ROWS}, {DIM_OUT}] y) {{
            y = Gemm <transA = {trans_a}, transB = {trans_b}, alpha = {alpha}, beta = {beta}>
                (x, w{"" if c == "absent" else ", c"})
        }}""",
        **constants,
    )

    assert normalize(model, **feed)

    added = c != "absent" and beta != 0.0
    scaled = ["Mul"] * (c == "input" and beta not in (0.0, 1.0))
    expected = ["Transpose"] * trans_a + ["MatMul"] + [*scaled, "Add"] * added
    assert op_types(model) == expected
    weight = model.graph[trans_a].inputs[1]
    assert weight is not None
    assert tuple(weight.const_value.shape) == (DIM_IN, DIM_OUT)
    read = {value.name for node in model.graph for value in node.inputs}
    assert set(model.graph.initializers) <= read


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
@pytest.mark.parametrize(
    "attributes", ["", "<transB = 1>", "<transB = 1, alpha = 0.5, beta = 0.25>"]
)
def test_other_float_types_keep_their_type(dtype: type, attributes: str) -> None:
    model = linear(attributes, dtype)
    rtol = 5e-3 if dtype == np.float16 else 1e-6
    assert normalize(model, rtol, x=draw(ROWS, DIM_IN, dtype=dtype))
    assert {value.dtype for value in model.graph.initializers.values()} == {
        ir.DataType.from_numpy(np.dtype(dtype))
    }


def test_missing_optional_c_is_absent() -> None:
    model = linear()
    model.graph[0].replace_input_with(2, None)
    assert normalize(model)
    assert op_types(model) == ["MatMul"]


def test_matmul_keeps_name_metadata_and_what_it_was() -> None:
    model = linear("<transB = 1>")
    model.graph[0].metadata_props["origin"] = "layer"
    normalize(model)
    node = model.graph[0]
    assert (node.op_type, node.name, node.metadata_props["origin"]) == ("MatMul", "gemm", "layer")
    select = SelectWeightsPass()
    select(model)
    assert [kept.op_type for kept in select.kept] == ["Gemm"]


def test_output_of_gemm_may_be_read_twice() -> None:
    model = model_from_text(
        f"""{HEADER}
        g (float[N, {DIM_IN}] x) => (float[N, {DIM_OUT}] h, float[N, {DIM_OUT}] y) {{
            h = Gemm <transB = 1> (x, w, b)
            r = Relu(h)
            y = Add(h, r)
        }}""",
        w=draw(DIM_OUT, DIM_IN),
        b=draw(DIM_OUT),
    )
    assert normalize(model)


@pytest.mark.parametrize("attributes", ["", "<transB = 1, beta = 0.5>"])
def test_values_between_nodes_need_no_declared_type(attributes: str) -> None:
    model = model_from_text(
        f"""{HEADER}
        g (float[N, 4] x) => (float[N, 4] y) {{
            h = Gemm {attributes} (x, w, b)
            y = Relu(h)
        }}""",
        w=draw(4, 4),
        b=draw(4),
    )
    assert normalize(model, x=draw(3, 4))


def test_c_that_is_an_activation_needs_no_declared_type() -> None:
    model = model_from_text(
        f"""{HEADER}
        g (float[N, 4] x) => (float[N, 4] y) {{
            c = Relu(x)
            y = Gemm <beta = 0.5> (x, w, c)
        }}""",
        w=draw(4, 4),
    )
    assert normalize(model, x=draw(3, 4))
    assert op_types(model) == ["Relu", "MatMul", "Mul", "Add"]


def test_gemms_that_share_a_weight_share_the_transformed_one() -> None:
    model = model_from_text(
        f"""{HEADER}
        g (float[N, 4] x) => (float[N, 4] y, float[N, 4] z) {{
            y = Gemm <transB = 1> (x, w, b)
            z = Gemm <transB = 1> (x, w)
        }}""",
        w=draw(4, 4),
        b=draw(4),
    )
    assert normalize(model, x=draw(3, 4))
    assert op_types(model) == ["MatMul", "Add", "MatMul"]
    first, second = (node for node in model.graph if node.op_type == "MatMul")
    assert first.inputs[1] is second.inputs[1]
    assert len(model.graph.initializers) == 2


def test_gemms_that_scale_a_weight_differently_do_not_share_it() -> None:
    model = model_from_text(
        f"""{HEADER}
        g (float[N, 4] x) => (float[N, 4] y, float[N, 4] z, float[N, 4] u) {{
            y = Gemm <transB = 1, alpha = 0.5> (x, w)
            z = Gemm <transB = 1, alpha = 2.0> (x, w)
            u = Gemm <alpha = 2.0> (x, w)
        }}""",
        w=draw(4, 4),
    )
    assert normalize(model, x=draw(3, 4))
    assert len({node.inputs[1].name for node in model.graph}) == 3
    assert len(model.graph.initializers) == 3


def test_weight_that_a_matmul_reads_too_is_kept_for_it() -> None:
    model = model_from_text(
        f"""{HEADER}
        g (float[N, 4] x) => (float[N, 4] y, float[N, 4] z) {{
            y = Gemm <transB = 1> (x, w)
            z = MatMul(x, w)
        }}""",
        w=draw(4, 4),
    )
    assert normalize(model, x=draw(3, 4))
    assert op_types(model) == ["MatMul", "MatMul"]
    assert len(model.graph.initializers) == 2


def test_bias_that_two_gemms_scale_differently_is_kept_apart() -> None:
    model = model_from_text(
        f"""{HEADER}
        g (float[N, 4] x) => (float[N, 4] y, float[N, 4] z, float[N, 4] u) {{
            y = Gemm <beta = 0.5> (x, w, b)
            z = Gemm <beta = 2.0> (x, w, b)
            u = Gemm(x, w, b)
        }}""",
        w=draw(4, 4),
        b=draw(4),
    )
    assert normalize(model, x=draw(3, 4))


def test_weight_that_is_an_output_is_kept() -> None:
    model = model_from_text(
        f"""{HEADER}
        g (float[N, 4] x) => (float[N, 4] y, float[4, 4] w) {{ y = Gemm <transB = 1> (x, w) }}""",
        w=draw(4, 4),
    )
    normalize(model, x=draw(3, 4))
    assert "w" in model.graph.initializers


@pytest.mark.parametrize(
    ("inputs", "nodes"),
    [
        ("float[N, 4] x, float[4, 4] v", "y = Gemm <transB = 1> (x, v)"),
        ("float[N, 4] x, float[4, 4] w", "y = Gemm <transB = 1> (x, w)"),
        ("float[N, 4] x", "r = Relu(w) y = Gemm <transB = 1> (x, r)"),
        ("float[N, 4] x, int64[N] i", "y = Gemm <transB = 1> (x, w) t = Gather(w, i)"),
        ("float[N, 4] x", "y = MatMul(x, w)"),
    ],
    ids=["activation", "graph input too", "not an initializer", "shared with Gather", "no Gemm"],
)
def test_what_does_not_match_stays(inputs: str, nodes: str) -> None:
    model = model_from_text(f"{HEADER} g ({inputs}) => (float[N, 4] y) {{ {nodes} }}", w=draw(4, 4))
    feed = {
        "x": draw(3, 4),
        "v": draw(4, 4),
        "w": draw(4, 4),
        "i": np.arange(3),
    }
    names = {value.name for value in model.graph.inputs}
    assert not normalize(model, **{name: feed[name] for name in names})


def test_gemm_of_another_domain_stays() -> None:
    model = model_from_text(
        """<ir_version: 10, opset_import: ["": 20, "other": 1]>
        g (float[N, 4] x) => (float[N, 4] y) { y = other.Gemm(x, w) }""",
        w=draw(4, 4),
    )
    assert not NormalizeLinearPass()(model).modified
    assert (model.graph[0].domain, model.graph[0].op_type) == ("other", "Gemm")


def branching_model(outer: str, inner: str = "r") -> ir.Model:
    return model_from_text(
        f"""{HEADER}
        g (float[N, 4] x, bool c) => (float[N, 4] y) {{
            {outer}
            y = If (c) <
                then_branch = a () => (float[N, 4] p) {{
                    {inner} = Gemm <transB = 1> (x, w, b)
                    s = Relu({inner})
                    p = Add(s, h)
                }},
                else_branch = e () => (float[N, 4] q) {{ q = Identity(h) }}
            >
        }}""",
        w=draw(4, 4),
        b=draw(4),
    )


def branch_op_types(model: ir.Model) -> list[str]:
    branch = model.graph[-1].attributes["then_branch"].as_graph()
    return [node.op_type for node in branch]


@pytest.mark.parametrize("choice", [True, False])
def test_subgraph_is_left_alone(choice: bool) -> None:
    model = branching_model("t = Add(x, b) h = MatMul(t, w)")
    assert not normalize(model, x=draw(3, 4), c=np.array(choice))
    assert branch_op_types(model) == ["Gemm", "Relu", "Add"]


@pytest.mark.parametrize("choice", [True, False])
def test_weight_is_kept_for_a_subgraph(choice: bool) -> None:
    model = branching_model("h = Gemm <transB = 1> (x, w, b)")
    model.graph[0].outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    assert normalize(model, x=draw(3, 4), c=np.array(choice))
    assert op_types(model) == ["MatMul", "Add", "If"]
    assert branch_op_types(model) == ["Gemm", "Relu", "Add"]


def test_new_values_take_no_name_of_a_value_in_a_subgraph() -> None:
    model = branching_model("h = Gemm <transB = 1> (x, w, b)", inner="val_0")
    model.graph[0].outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    assert normalize(model, x=draw(3, 4), c=np.array(True))


@pytest.mark.parametrize("taken", ["w_t", "w_scaled", "b_scaled", "beta"])
def test_new_initializers_take_no_name_of_another_value(taken: str) -> None:
    model = model_from_text(
        f"""{HEADER}
        g (float[N, 4] x, float[4] {taken}) => (float[N, 4] y, float[N, 4] z, float[N, 4] u) {{
            y = Gemm <transB = 1> (x, w, b)
            z = Gemm <alpha = 0.5, beta = 0.5> (y, w, b)
            s = Add(z, {taken})
            u = Gemm <beta = 0.5> (s, w, {taken})
        }}""",
        w=draw(4, 4),
        b=draw(4),
    )
    model.graph[2].outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    assert normalize(model, x=draw(3, 4), **{taken: draw(4)})


def test_no_bytes_are_read_before_somebody_asks() -> None:
    model = linear("<transB = 1, alpha = 0.5, beta = 0.25>")
    reads: list[str] = []

    def lazy(value: ir.Value) -> ir.LazyTensor:
        tensor = value.const_value

        def read() -> ir.TensorProtocol:
            reads.append(str(value.name))
            return tensor

        return ir.LazyTensor(read, dtype=tensor.dtype, shape=tensor.shape, name=value.name)

    for value in model.graph.initializers.values():
        value.const_value = lazy(value)
    assert NormalizeLinearPass()(model).modified
    weight, bias = model.graph[0].inputs[1], model.graph[1].inputs[1]
    assert tuple(weight.const_value.shape) == (DIM_IN, DIM_OUT)
    assert not reads
    np.testing.assert_array_equal(weight.const_value.numpy(), draw(DIM_OUT, DIM_IN).T * 0.5)
    np.testing.assert_array_equal(bias.const_value.numpy(), draw(DIM_OUT) * 0.25)
    assert sorted(reads) == ["b", "w"]


def test_second_run_changes_nothing() -> None:
    model = linear("<transB = 1>")
    assert normalize(model)
    assert not normalize(model)
