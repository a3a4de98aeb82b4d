from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from fqonnx.passes import FoldWeightsPass
from fqonnx.session import Session
from support import model_from_text

HEADER = '<ir_version: 10, opset_import: ["": 20]>'


def draw(*shape: int, dtype: type = np.float32) -> np.ndarray:
    return np.random.default_rng(7).standard_normal(shape).astype(dtype)


def op_types(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def fold(model: ir.Model, **feed: np.ndarray) -> bool:
    """Fold, check that the outputs are bit-identical and the model valid; return ``modified``."""
    feed = feed or {"x": draw(3, 4)}
    before = Session(model, "before").run(feed)
    nodes = list(model.graph)
    modified = FoldWeightsPass()(model).modified
    assert modified == (list(model.graph) != nodes)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    after = Session(model, "after").run(feed)
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old, new)
    return modified


def count_reads(value: ir.Value) -> list[None]:
    """Make an initializer's tensor lazy; return a list that grows with each read of it."""
    array, reads = value.const_value.numpy(), []

    def read() -> ir.Tensor:
        reads.append(None)
        return ir.tensor(array)

    value.const_value = ir.LazyTensor(
        read, dtype=value.dtype, shape=ir.Shape(array.shape), name=value.name
    )
    return reads


def test_constant_becomes_an_initializer_of_its_name() -> None:
    model = model_from_text(f"""{HEADER}
    g (float[N, 4] x) => (float[N, 2] y) {{
        w = Constant <value = float[4, 2] {{1, 2, 3, 4, 5, 6, 7, 8}}> ()
        y = MatMul(x, w)
    }}""")
    assert fold(model)
    assert op_types(model) == ["MatMul"]
    expected = np.arange(1, 9, dtype=np.float32).reshape(4, 2)
    np.testing.assert_array_equal(model.graph.initializers["w"].const_value.numpy(), expected)


def test_constant_without_a_tensor_stays() -> None:
    model = model_from_text(f"""{HEADER}
    g (float[N, 4] x) => (float[N, 4] y) {{
        b = Constant <value_floats = [1.0, 2.0, 3.0, 4.0]> ()
        y = Add(x, b)
    }}""")
    assert not fold(model)
    assert op_types(model) == ["Constant", "Add"]


def test_identity_goes_and_its_source_with_it() -> None:
    model = model_from_text(
        f"""{HEADER}
        g (float[N, 4] x) => (float[N, 2] y) {{
            v = Identity(w)
            y = MatMul(x, v)
        }}""",
        w=draw(4, 2),
    )
    assert fold(model)
    assert op_types(model) == ["MatMul"]
    assert list(model.graph.initializers) == ["v"]


@pytest.mark.parametrize(("stored", "to"), [(np.float16, 1), (np.float64, 1), (np.float32, 11)])
def test_cast_between_floats_is_folded(stored: type, to: int) -> None:
    name = ir.DataType(to).name.lower()
    model = model_from_text(
        f"""{HEADER}
        g ({name}[N, 4] x) => ({name}[N, 2] y) {{
            v = Cast <to = {to}> (w)
            y = MatMul(x, v)
        }}""",
        w=draw(4, 2, dtype=stored),
    )
    assert fold(model, x=draw(3, 4, dtype=ir.DataType(to).numpy()))
    assert op_types(model) == ["MatMul"]
    assert model.graph.initializers["v"].dtype == ir.DataType(to)
    assert model.graph.initializers["v"].const_value.numpy().dtype == ir.DataType(to).numpy()


def test_cast_from_integers_stays() -> None:
    model = model_from_text(
        f"""{HEADER}
        g (float[N, 4] x) => (float[N, 2] y) {{
            v = Cast <to = 1> (w)
            y = MatMul(x, v)
        }}""",
        w=np.arange(8, dtype=np.int8).reshape(4, 2),
    )
    assert not fold(model)
    assert op_types(model) == ["Cast", "MatMul"]


@pytest.mark.parametrize("attributes", ["<perm = [1, 0]>", ""])
def test_transpose_is_folded_with_and_without_perm(attributes: str) -> None:
    weight = draw(2, 4)
    model = model_from_text(
        f"""{HEADER}
        g (float[N, 4] x) => (float[N, 2] y) {{
            v = Transpose {attributes} (w)
            y = MatMul(x, v)
        }}""",
        w=weight,
    )
    assert fold(model)
    assert op_types(model) == ["MatMul"]
    assert list(model.graph.initializers) == ["v"]
    np.testing.assert_array_equal(model.graph.initializers["v"].const_value.numpy(), weight.T)


@pytest.mark.parametrize(
    ("attributes", "shape"),
    [("<perm = [0, 2, 1]>", (5, 2, 4)), ("", (2, 4, 5)), ("<perm = [1, 2, 0]>", (2, 5, 4))],
)
def test_transpose_of_three_dimensions_is_folded(attributes: str, shape: tuple[int, ...]) -> None:
    model = model_from_text(
        f"""{HEADER}
        g (float[N, 4] x) => (float[A, B, C] y) {{
            v = Transpose {attributes} (w)
            y = MatMul(x, v)
        }}""",
        w=draw(*shape),
    )
    assert fold(model)
    assert op_types(model) == ["MatMul"]
    assert tuple(model.graph.initializers["v"].shape) == (5, 4, 2)


def test_chain_is_folded_whole() -> None:
    model = model_from_text(f"""{HEADER}
    g (float[N, 4] x) => (float[N, 2] y) {{
        a = Constant <value = float16[2, 4] {{1, 2, 3, 4, 5, 6, 7, 8}}> ()
        b = Identity(a)
        c = Cast <to = 1> (b)
        d = Transpose(c)
        y = MatMul(x, d)
    }}""")
    assert fold(model)
    assert op_types(model) == ["MatMul"]
    assert list(model.graph.initializers) == ["d"]


def test_bias_behind_identity_is_folded() -> None:
    model = model_from_text(
        f"""{HEADER}
        g (float[N, 4] x) => (float[N, 2] y) {{
            c = Identity(b)
            h = MatMul(x, w)
            y = Add(c, h)
        }}""",
        w=draw(4, 2),
        b=draw(2),
    )
    assert fold(model)
    assert op_types(model) == ["MatMul", "Add"]
    assert sorted(model.graph.initializers) == ["c", "w"]


def test_inputs_of_gemm_are_folded() -> None:
    model = model_from_text(
        f"""{HEADER}
        g (float[N, 4] x) => (float[N, 2] y) {{
            v = Identity(w)
            c = Cast <to = 1> (b)
            y = Gemm <transB = 1> (x, v, c)
        }}""",
        w=draw(2, 4),
        b=draw(2, dtype=np.float16),
    )
    assert fold(model)
    assert op_types(model) == ["Gemm"]


def test_one_node_in_front_of_several_layers_gives_one_initializer() -> None:
    model = model_from_text(
        f"""{HEADER}
        g (float[N, 4] x) => (float[N, 4] y) {{
            v = Transpose(w)
            h = MatMul(x, v)
            y = Gemm(h, v)
        }}""",
        w=draw(4, 4),
    )
    assert fold(model)
    assert op_types(model) == ["MatMul", "Gemm"]
    assert list(model.graph.initializers) == ["v"]


def test_weight_with_two_transposes_computes_the_same() -> None:
    model = model_from_text(
        f"""{HEADER}
        g (float[N, 4] x) => (float[N, 4] y) {{
            v = Transpose(w)
            u = Transpose(w)
            h = MatMul(x, v)
            y = MatMul(h, u)
        }}""",
        w=draw(4, 4),
    )
    fold(model)


@pytest.mark.parametrize("constant", [True, False])
def test_table_that_a_gather_reads_stays(constant: bool) -> None:
    table = draw(4, 4)
    literal = ", ".join(str(float(v)) for v in table.ravel())
    node = f"t = Constant <value = float[4, 4] {{{literal}}}> ()" if constant else ""
    model = model_from_text(
        f"""{HEADER}
        g (int64[N] i) => (float[N, 4] y) {{
            {node}
            x = Gather(t, i)
            w = Transpose(t)
            y = MatMul(x, w)
        }}""",
        **({} if constant else {"t": table}),
    )
    assert not fold(model, i=np.array([2, 0, 1]))
    assert op_types(model) == ["Constant"] * constant + ["Gather", "Transpose", "MatMul"]


def test_output_of_the_graph_stays() -> None:
    model = model_from_text(
        f"""{HEADER}
        g (float[N, 4] x) => (float[N, 2] y, float[4, 2] v) {{
            v = Transpose(w)
            y = MatMul(x, v)
        }}""",
        w=draw(2, 4),
    )
    assert not fold(model)
    assert op_types(model) == ["Transpose", "MatMul"]


def test_source_that_is_an_output_of_the_graph_is_kept() -> None:
    model = model_from_text(
        f"""{HEADER}
        g (float[N, 4] x) => (float[N, 2] y, float[2, 4] w) {{
            v = Transpose(w)
            y = MatMul(x, v)
        }}""",
        w=draw(2, 4),
    )
    fold(model)
    assert "w" in model.graph.initializers


def test_weight_that_is_a_graph_input_stays() -> None:
    model = model_from_text(
        f"""{HEADER}
        g (float[N, 4] x, float[2, 4] w) => (float[N, 2] y) {{
            v = Transpose(w)
            y = MatMul(x, v)
        }}""",
        w=draw(2, 4),
    )
    assert not fold(model, x=draw(3, 4), w=draw(2, 4))
    assert op_types(model) == ["Transpose", "MatMul"]


def test_activations_stay() -> None:
    model = model_from_text(
        f"""{HEADER}
        g (float[4, 3] x) => (float[3, 2] y) {{
            a = Identity(x)
            b = Transpose(a)
            y = MatMul(b, w)
        }}""",
        w=draw(4, 2),
    )
    assert not fold(model, x=draw(4, 3))
    assert op_types(model) == ["Identity", "Transpose", "MatMul"]


def test_what_another_operator_reads_stays() -> None:
    model = model_from_text(
        f"""{HEADER}
        g (float[N, 4] x) => (float[N, 2] y) {{
            v = Transpose(w)
            u = Relu(v)
            y = MatMul(x, u)
        }}""",
        w=draw(2, 4),
    )
    assert not fold(model)
    assert op_types(model) == ["Transpose", "Relu", "MatMul"]


def test_node_that_nothing_reads_stays() -> None:
    model = model_from_text(
        f"""{HEADER}
        g (float[N, 4] x) => (float[N, 4] y) {{
            v = Transpose(w)
            y = Relu(x)
        }}""",
        w=draw(2, 4),
    )
    assert not fold(model)


def test_nodes_of_other_domains_stay() -> None:
    model = model_from_text(
        """<ir_version: 10, opset_import: ["": 20, "other": 1]>
        g (float[N, 4] x) => (float[N, 2] y) {
            v = other.Transpose(w)
            y = MatMul(x, v)
        }""",
        w=draw(2, 4),
    )
    assert not FoldWeightsPass()(model).modified
    assert op_types(model) == ["Transpose", "MatMul"]


def test_subgraph_is_left_alone() -> None:
    model = model_from_text(
        f"""{HEADER}
        g (float[N, 4] x, bool c) => (float[N, 2] y) {{
            w = Relu(u)
            y = If (c) <
                then_branch = a () => (float[N, 2] p) {{
                    v = Transpose(u)
                    p = MatMul(x, v)
                }},
                else_branch = b () => (float[N, 2] q) {{
                    r = Transpose(w)
                    q = MatMul(x, r)
                }}
            >
        }}""",
        u=draw(2, 4),
    )
    for choice in (True, False):
        assert not fold(model, x=draw(3, 4), c=np.array(choice))
    branch = model.graph[-1].attributes["then_branch"].as_graph()
    assert [node.op_type for node in branch] == ["Transpose", "MatMul"]


def test_subgraph_may_read_what_is_folded() -> None:
    model = model_from_text(
        f"""{HEADER}
        g (float[N, 4] x, bool c) => (float[N, 2] y) {{
            v = Transpose(w)
            h = MatMul(x, v)
            y = If (c) <
                then_branch = a () => (float[N, 2] p) {{ p = MatMul(x, v) }},
                else_branch = b () => (float[N, 2] q) {{ q = Identity(h) }}
            >
        }}""",
        w=draw(2, 4),
    )
    assert fold(model, x=draw(3, 4), c=np.array(True))
    assert op_types(model) == ["MatMul", "If"]


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        ("Identity(w)", lambda w: w),
        ("Cast <to = 10> (w)", lambda w: w.astype(np.float16)),
        ("Transpose(w)", lambda w: w.T),
    ],
)
def test_no_bytes_are_read_before_somebody_asks(
    node: str, expected: Callable[[np.ndarray], np.ndarray]
) -> None:
    weight = draw(4, 4)
    model = model_from_text(
        f"""{HEADER}
        g (float[N, 4] x) => (float[N, 4] y) {{
            v = {node}
            y = MatMul(x, v)
        }}""",
        w=weight,
    )
    reads = count_reads(model.graph.initializers["w"])
    assert FoldWeightsPass()(model).modified
    folded = model.graph.initializers["v"]
    assert (folded.const_value.nbytes, tuple(folded.shape)) == (expected(weight).nbytes, (4, 4))
    assert not reads
    np.testing.assert_array_equal(folded.const_value.numpy(), expected(weight))
    assert len(reads) == 1


def test_second_run_changes_nothing() -> None:
    model = model_from_text(
        f"""{HEADER}
        g (float[N, 4] x) => (float[N, 2] y) {{
            v = Transpose(w)
            y = MatMul(x, v)
        }}""",
        w=draw(2, 4),
    )
    assert fold(model)
    assert not fold(model)


def test_inputs_of_a_convolution_are_folded() -> None:
    model = model_from_text(
        f"""{HEADER} g (float[N, 4, 5] x) => (float[N, 2, P] y) {{
            i = Identity(w) t = Transpose <perm = [1, 0, 2]> (i) c = Cast <to = 1> (t)
            d = Cast <to = 1> (b) y = Conv(x, c, d)
        }}""",
        w=draw(4, 2, 3, dtype=np.float16),
        b=draw(2, dtype=np.float16),
    )
    assert fold(model, x=draw(3, 4, 5))
    assert op_types(model) == ["Conv"]
    assert sorted(model.graph.initializers) == ["c", "d"]
