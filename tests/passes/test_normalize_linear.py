from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from fqonnx.passes import NormalizeLinearPass, SelectWeightsPass
from fqonnx.passes.constants import constant
from fqonnx.session import Session
from support import model_from_text

HEADER = '<ir_version: 10, opset_import: ["": 20]>'
ROWS, DIM_IN, DIM_OUT = 3, 40, 32


def draw(*shape: int, dtype: type = np.float32) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(dtype)


def op_types(graph: ir.Graph) -> list[str]:
    """Return the operators of a graph, but for those that make constants."""
    return [node.op_type for node in graph if constant(node.outputs[0]) is None]


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
    assert op_types(model.graph) == expected
    (product,) = (node for node in model.graph if node.op_type == "MatMul")
    assert constant(product.inputs[1]).shape == (DIM_IN, DIM_OUT)


@pytest.mark.parametrize(
    "attributes", ["", "<transB = 1>", "<transB = 1, alpha = 0.5, beta = 0.25>"]
)
def test_float16_stays_float16(attributes: str) -> None:
    model = linear(attributes, np.float16)
    assert normalize(model, 5e-3, x=draw(ROWS, DIM_IN, dtype=np.float16))
    (product,) = (node for node in model.graph if node.op_type == "MatMul")
    assert constant(product.inputs[1]).dtype == ir.DataType.FLOAT16


def test_gemm_of_doubles_stays() -> None:
    model = linear("<transB = 1>", np.float64)
    assert not normalize(model, 1e-6, x=draw(ROWS, DIM_IN, dtype=np.float64))


@pytest.mark.parametrize("c", ["vector", "row"])
def test_constant_c_for_all_rows_is_the_bias_of_a_layer(c: str) -> None:
    model = linear("<beta = 0.5>")
    bias = draw(*SHAPES_OF_C[c])
    model.graph.initializers["b"].const_value = ir.tensor(bias)
    model.graph.initializers["b"].shape = ir.Shape(bias.shape)
    assert normalize(model)
    select = SelectWeightsPass()
    select(model)
    (layer,) = select.layers
    np.testing.assert_array_equal(layer.bias.const_value.numpy(), bias.ravel() * 0.5)


def test_missing_optional_c_is_absent() -> None:
    model = linear()
    model.graph[0].replace_input_with(2, None)
    assert normalize(model)
    assert op_types(model.graph) == ["MatMul"]


def test_matmul_keeps_name_metadata_and_what_it_was() -> None:
    model = linear("<transB = 1>")
    model.graph[0].metadata_props["origin"] = "layer"
    normalize(model)
    (node,) = (node for node in model.graph if node.op_type == "MatMul")
    assert (node.name, node.metadata_props["origin"]) == ("gemm", "layer")
    select = SelectWeightsPass()
    select(model)
    assert [(layer.name, layer.op_type) for layer in select.layers] == [("gemm", "Gemm")]


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
        g (float[N, 32] x) => (float[N, 32] y) {{
            h = Gemm {attributes} (x, w, b)
            y = Relu(h)
        }}""",
        w=draw(32, 32),
        b=draw(32),
    )
    assert normalize(model, x=draw(3, 32))


def test_c_that_is_an_activation_needs_no_declared_type() -> None:
    model = model_from_text(
        f"""{HEADER}
        g (float[N, 32] x) => (float[N, 32] y) {{
            c = Relu(x)
            h = Gemm <transB = 1, alpha = 2.0, beta = 0.5> (x, w, c)
            y = Neg(h)
        }}""",
        w=draw(32, 32),
    )
    assert normalize(model, x=draw(3, 32))
    found = op_types(model.graph)
    assert found == ["Relu", "MatMul", "Mul", "Add", "Neg"]


@pytest.mark.parametrize(
    ("second", "weights"),
    [
        ("Gemm <transB = 1> (x, w)", 1),
        ("Gemm <transB = 1, alpha = 0.5> (x, w)", 2),
        ("Gemm(x, w)", 2),
        ("MatMul(x, w)", 2),
    ],
    ids=["the same", "scaled", "not transposed", "of a MatMul"],
)
def test_gemms_share_what_is_made_of_a_weight_in_the_same_way(second: str, weights: int) -> None:
    model = model_from_text(
        f"""{HEADER}
        g (float[N, 32] x) => (float[N, 32] y, float[N, 32] z) {{
            y = Gemm <transB = 1> (x, w, b) z = {second}
        }}""",
        w=draw(32, 32),
        b=draw(32),
    )
    assert normalize(model, x=draw(3, 32))
    assert len(model.graph.initializers) == 2
    select = SelectWeightsPass()
    select(model)
    assert len({layer.weight_key for layer in select.layers}) == weights


def test_bias_that_two_gemms_scale_differently_is_kept_apart() -> None:
    model = model_from_text(
        f"""{HEADER}
        g (float[N, 32] x) => (float[N, 32] y, float[N, 32] z, float[N, 32] u) {{
            y = Gemm <beta = 0.5> (x, w, b)
            z = Gemm <beta = 2.0> (x, w, b)
            u = Gemm(x, w, b)
        }}""",
        w=draw(32, 32),
        b=draw(32),
    )
    assert normalize(model, x=draw(3, 32))


def test_weight_that_is_an_output_is_kept() -> None:
    model = model_from_text(
        f"""{HEADER}
        g (float[N, 32] x) => (float[N, 32] y, float[32, 32] w) {{
            y = Gemm <transB = 1> (x, w) }}""",
        w=draw(32, 32),
    )
    normalize(model, x=draw(3, 32))
    assert "w" in model.graph.initializers


@pytest.mark.parametrize(
    ("inputs", "nodes"),
    [
        ("float[N, 32] x, float[32, 32] v", "y = Gemm <transB = 1> (x, v)"),
        ("float[N, 32] x, float[32, 32] w", "y = Gemm <transB = 1> (x, w)"),
        ("float[N, 32] x", "s = Gemm <transB = 1> (x, small) y = Concat <axis = 1> (s, s)"),
        ("float[N, 32] x", "r = Relu(w) y = Gemm <transB = 1> (x, r)"),
        ("float[N, 32] x", "y = MatMul(x, w)"),
    ],
    ids=["activation", "graph input too", "small", "not constant", "no Gemm"],
)
def test_what_does_not_match_stays(inputs: str, nodes: str) -> None:
    model = model_from_text(
        f"{HEADER} g ({inputs}) => (float[N, 32] y) {{ {nodes} }}",
        w=draw(32, 32),
        small=draw(16, 32),
    )
    feed = {
        "x": draw(3, 32),
        "v": draw(32, 32),
        "w": draw(32, 32),
        "i": np.arange(3),
    }
    names = {value.name for value in model.graph.inputs}
    assert not normalize(model, **{name: feed[name] for name in names})


def test_gemm_of_another_domain_stays() -> None:
    model = model_from_text(
        """<ir_version: 10, opset_import: ["": 20, "other": 1]>
        g (float[N, 32] x) => (float[N, 32] y) { y = other.Gemm(x, w) }""",
        w=draw(32, 32),
    )
    assert not NormalizeLinearPass()(model).modified
    assert (model.graph[0].domain, model.graph[0].op_type) == ("other", "Gemm")


def branching_model(outer: str, inner: str = "r") -> ir.Model:
    return model_from_text(
        f"""{HEADER}
        g (float[N, 32] x, bool c) => (float[N, 32] y) {{
            {outer}
            y = If (c) <
                then_branch = a () => (float[N, 32] p) {{
                    {inner} = Gemm <transB = 1> (x, w, b)
                    s = Relu({inner})
                    p = Add(s, h)
                }},
                else_branch = e () => (float[N, 32] q) {{ q = Identity(h) }}
            >
        }}""",
        w=draw(32, 32),
        b=draw(32),
    )


@pytest.mark.parametrize("choice", [True, False])
def test_gemm_of_a_subgraph_is_rewritten_there(choice: bool) -> None:
    model = branching_model("h = Gemm <transB = 1> (x, w, b)")
    model.graph[0].outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    assert normalize(model, x=draw(3, 32), c=np.array(choice))
    assert op_types(model.graph) == ["MatMul", "Add", "If"]
    branch = model.graph[-1].attributes["then_branch"].as_graph()
    assert op_types(branch) == ["MatMul", "Add", "Relu", "Add"]


def test_new_values_take_no_name_of_a_value_in_a_subgraph() -> None:
    model = branching_model("h = Gemm <transB = 1> (x, w, b)", inner="val_0")
    model.graph[0].outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    assert normalize(model, x=draw(3, 32), c=np.array(True))


@pytest.mark.parametrize("taken", ["y_transpose", "z_mul", "y_product", "z_constant"])
def test_new_initializers_take_no_name_of_another_value(taken: str) -> None:
    model = model_from_text(
        f"""{HEADER}
        g (float[N, 32] x, float[32] {taken}) => (float[N, 32] y, float[N, 32] z, float[N, 32] u) {{
            y = Gemm <transB = 1> (x, w, b)
            z = Gemm <alpha = 0.5, beta = 0.5> (y, w, b)
            s = Add(z, {taken})
            u = Gemm <beta = 0.5> (s, w, {taken})
        }}""",
        w=draw(32, 32),
        b=draw(32),
    )
    model.graph[2].outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    model.graph[2].outputs[0].shape = ir.Shape(["N", 32])
    assert normalize(model, x=draw(3, 32), **{taken: draw(32)})


@pytest.mark.parametrize(
    ("attributes", "shape", "factor"),
    [
        ("transA = 1", (3, 64, 5), 1.0),
        ("transB = 1", (3, 5, 40), 1.0),
        ("alpha = 0.25", (3, 5, 32), 0.25),
    ],
)
def test_fused_matmul_is_a_matmul(attributes: str, shape: tuple[int, ...], factor: float) -> None:
    transposed = "transB" in attributes
    rows = shape[1] if "transA" in attributes else shape[2]
    weight = draw(48, rows) if transposed else draw(rows, 48)
    sizes = ", ".join(map(str, shape))
    model = model_from_text(
        f"""<ir_version: 10, opset_import: ["": 20, "com.microsoft": 1]>
        g (float[{sizes}] x) => (float[3, 5, 48] y) {{
            y = com.microsoft.FusedMatMul <{attributes}> (x, w) }}""",
        w=weight,
    )
    x = draw(*shape)
    assert normalize(model, x=x)
    (product,) = (node for node in model.graph if node.op_type == "MatMul")
    expected = (weight.T if transposed else weight) * factor
    np.testing.assert_array_equal(constant(product.inputs[1]).numpy(), expected)


@pytest.mark.parametrize("attributes", ["transBatchA = 1", "transBatchB = 1, transB = 1"])
def test_fused_matmul_of_other_batches_stays(attributes: str) -> None:
    model = model_from_text(
        f"""<ir_version: 10, opset_import: ["": 20, "com.microsoft": 1]>
        g (float[3, 4, 32] x) => (float y) {{
            y = com.microsoft.FusedMatMul <{attributes}> (x, w) }}""",
        w=draw(32, 32),
    )
    assert not NormalizeLinearPass()(model).modified


def test_second_run_changes_nothing() -> None:
    model = linear("<transB = 1>")
    assert normalize(model)
    assert not normalize(model)
