from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from fqonnx.passes import NormalizeLinearPass, SelectWeightsPass, Unit, stages
from support import model_from_text

HEADER = '<ir_version: 10, opset_import: ["": 20]>'


def model_of(nodes: str, *weights: str) -> ir.Model:
    """Return a model of x (N, 32) to y (N, 32) with weights (32, 32) and a bias r."""
    arrays = {name: np.ones((32, 32), np.float32) for name in weights}
    arrays["r"] = np.ones(32, np.float32)
    text = f"{HEADER} g (float[N, 32] x, bool c) => (float[N, 32] y) {{ {nodes} }}"
    return model_from_text(text, **arrays)


def units_of(model: ir.Model) -> list[Unit]:
    """Return the layers by weight, in graph order."""
    NormalizeLinearPass()(model)
    selected = SelectWeightsPass()
    selected(model)
    weights = dict.fromkeys(layer.weight for layer in selected.layers)
    return [tuple(x for x in selected.layers if x.weight is weight) for weight in weights]


def names(model: ir.Model) -> list[list[str]]:
    """Return the weights of each stage."""
    return [
        [str(unit[0].weight.name) for unit in stage] for stage in stages(model, units_of(model))
    ]


def test_chain_is_one_layer_a_stage() -> None:
    nodes = "h = MatMul(x, a) i = Relu(h) j = MatMul(i, b) y = MatMul(j, c1)"
    assert names(model_of(nodes, "a", "b", "c1")) == [["a"], ["b"], ["c1"]]


def test_query_key_and_value_are_one_stage() -> None:
    nodes = """
        h = MatMul(x, q) i = MatMul(x, k) j = MatMul(x, v)
        kt = Transpose(i) s = MatMul(h, kt) p = Softmax(s) m = MatMul(p, j) y = MatMul(m, o)
    """
    assert names(model_of(nodes, "q", "k", "v", "o")) == [["q", "k", "v"], ["o"]]


def test_residual_counts_the_longest_way() -> None:
    nodes = """
        h = MatMul(x, a) i = Add(h, x) j = MatMul(i, b) k = Add(i, j) l = MatMul(x, d)
        m = Add(k, l) y = MatMul(m, e)
    """
    assert names(model_of(nodes, "a", "b", "d", "e")) == [["a", "d"], ["b"], ["e"]]


def test_bias_and_gemm_change_nothing() -> None:
    nodes = "h = Gemm(x, a, r) i = MatMul(h, b) j = Add(i, r) y = Gemm <transB = 1> (j, d)"
    assert [len(stage) for stage in names(model_of(nodes, "a", "b", "d"))] == [1, 1, 1]


def test_layers_of_a_stage_keep_their_order() -> None:
    nodes = """
        h = MatMul(x, a) i = MatMul(h, b) j = MatMul(x, d) k = MatMul(h, e) l = MatMul(x, f)
        m = Sum(i, j, k, l) y = Relu(m)
    """
    model = model_of(nodes, "a", "b", "d", "e", "f")
    assert names(model) == [["a", "d", "f"], ["b", "e"]]
    backward = stages(model, units_of(model)[::-1])
    assert [[str(unit[0].weight.name) for unit in stage] for stage in backward] == [
        ["f", "d", "a"],
        ["e", "b"],
    ]


def test_shared_weight_is_quantized_where_it_comes_first() -> None:
    nodes = "h = MatMul(x, a) i = MatMul(h, b) j = MatMul(i, a) y = MatMul(j, d)"
    model = model_of(nodes, "a", "b", "d")
    assert [len(unit) for unit in units_of(model)] == [2, 1, 1]
    assert names(model) == [["a"], ["b"], ["d"]]


def test_shared_weight_alone_leaves_no_empty_stage() -> None:
    nodes = "h = MatMul(x, a) i = MatMul(h, a) j = MatMul(i, a) y = MatMul(j, b)"
    assert names(model_of(nodes, "a", "b")) == [["a"], ["b"]]


def test_layer_that_is_not_to_be_quantized_does_not_count() -> None:
    nodes = "h = MatMul(x, a) i = MatMul(h, b) j = MatMul(x, d) k = Add(i, j) y = MatMul(k, e)"
    model = model_of(nodes, "a", "b", "d", "e")
    some = [unit for unit in units_of(model) if unit[0].weight.name != "a"]
    found = [[str(unit[0].weight.name) for unit in stage] for stage in stages(model, some)]
    assert found == [["b", "d"], ["e"]]


@pytest.mark.parametrize("captured", ["h", "x"])
def test_subgraph_reads_what_it_captures(captured: str) -> None:
    nodes = f"""
        h = MatMul(x, a)
        i = If (c) <
            then_branch = t () => (float[N, 32] p) {{ p = Relu({captured}) }},
            else_branch = e () => (float[N, 32] q) {{ q = Identity(x) }}
        >
        y = MatMul(i, b)
    """
    expected = [["a"], ["b"]] if captured == "h" else [["a", "b"]]
    assert names(model_of(nodes, "a", "b")) == expected


def test_subgraph_of_a_subgraph_reads_what_it_captures() -> None:
    nodes = """
        h = MatMul(x, a)
        i = If (c) <
            then_branch = t () => (float[N, 32] p) {
                p = If (c) <
                    then_branch = u () => (float[N, 32] z) { z = Relu(h) },
                    else_branch = v () => (float[N, 32] s) { s = Relu(x) }
                >
            },
            else_branch = e () => (float[N, 32] q) { q = Identity(x) }
        >
        y = MatMul(i, b)
    """
    assert names(model_of(nodes, "a", "b")) == [["a"], ["b"]]


def test_layers_inside_a_node_are_behind_what_it_reads_and_in_front_of_its_output() -> None:
    nodes = """
        h = MatMul(x, a)
        i = If (c) <
            then_branch = t () => (float[N, 32] p) {
                k = MatMul(h, b) p = MatMul(k, d) },
            else_branch = e () => (float[N, 32] q) { q = MatMul(x, f) }
        >
        y = MatMul(i, g1)
    """
    model = model_of(nodes, "a", "b", "d", "f", "g1")
    assert names(model) == [["a", "f"], ["b"], ["d"], ["g1"]]


def test_no_layers_are_no_stages() -> None:
    assert stages(model_of("y = Relu(x)"), []) == []


def test_convolutions_are_layers_like_others() -> None:
    model = model_from_text(
        f"""{HEADER} g (float[N, 32, 9] x) => (float[N, 32, P] y) {{
            h = Conv(x, a) i = Relu(h) j = Conv(i, b) k = MatMul(j, d) y = Conv(x, e)
        }}""",
        **{name: np.ones((32, 32, 3), np.float32) for name in "abe"},
        d=np.ones((5, 300), np.float32),
    )
    assert names(model) == [["a", "e"], ["b"], ["d"]]
