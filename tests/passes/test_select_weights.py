from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from fqonnx.passes import (
    LayerInput,
    LinearLayer,
    NormalizeLinearPass,
    SelectWeightsPass,
    normalize,
)
from fqonnx.passes.select_weights import layer_name
from support import conv_model, model_from_text

HEADER = '<ir_version: 10, opset_import: ["": 20]>'
SCOPES = "pkg.torch.onnx.name_scopes"


def weight(*shape: int, dtype: type = np.float32) -> np.ndarray:
    return np.ones(shape, dtype)


def select(
    model: ir.Model, include: tuple[str, ...] = (), exclude: tuple[str, ...] = ()
) -> SelectWeightsPass:
    """Select, and check that nothing was changed."""
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    select = SelectWeightsPass(include, exclude)
    assert not select(model).modified
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before
    return select


def model_of(nodes: str, inputs: str = "float[N, 32] x", **weights: np.ndarray) -> ir.Model:
    return model_from_text(f"{HEADER} g ({inputs}) => (float[N, 32] y) {{ {nodes} }}", **weights)


def only_reason(model: ir.Model, node: str = "n") -> str:
    """Return why a node is kept, which must not be among the layers."""
    selected = select(model)
    assert node not in [layer.name for layer in selected.layers]
    (reason,) = [kept.reason for kept in selected.kept if kept.name == node]
    return reason


def only_layer(model: ir.Model) -> LinearLayer:
    selected = select(model)
    assert selected.kept == []
    (layer,) = selected.layers
    return layer


def test_matmul_with_a_constant_weight_is_a_layer() -> None:
    model = model_of("[n] y = MatMul(x, w)", w=weight(32, 40))
    layer = only_layer(model)
    assert (layer.name, layer.op_type, layer.node) == ("n", "MatMul", model.graph[0])
    assert (layer.x, layer.weight) == (model.graph.inputs[0], model.graph.initializers["w"])
    assert (layer.add, layer.bias) == (None, None)
    assert (layer.dim_in, layer.dim_out, layer.dtype) == (32, 40, ir.DataType.FLOAT)
    assert layer.weight_bytes == 32 * 40 * 4


def test_float16_is_a_layer() -> None:
    model = model_from_text(
        f"{HEADER} g (float16[N, 32] x) => (float16[N, 32] y) {{ y = MatMul(x, w) }}",
        w=weight(32, 32, dtype=np.float16),
    )
    assert (only_layer(model).dtype, only_layer(model).weight_bytes) == (ir.DataType.FLOAT16, 2048)


def test_layers_and_kept_are_in_graph_order() -> None:
    model = model_of(
        """[a] h = MatMul(x, w) [b] i = MatMul(h, h2) [c] j = MatMul(i, w2)
        [d] k = MatMul(j, small) [e] y = MatMul(k, w3)""",
        "float[N, 32] x, float[32, 32] h2",
        w=weight(32, 32),
        w2=weight(32, 32),
        small=weight(32, 31),
        w3=weight(31, 34),
    )
    selected = select(model)
    assert [layer.name for layer in selected.layers] == ["a", "c", "e"]
    assert [kept.name for kept in selected.kept] == ["b", "d"]


def test_second_call_starts_afresh() -> None:
    model = model_of("[n] y = MatMul(x, w)", w=weight(32, 32))
    selected = select(model)
    selected(model)
    assert [layer.name for layer in selected.layers] == ["n"]


def test_nodes_without_a_weight_are_not_mentioned() -> None:
    model = model_of("h = Relu(x) y = Add(h, b)", b=weight(32))
    selected = select(model)
    assert (selected.layers, selected.kept) == ([], [])


# The bias.


@pytest.mark.parametrize("add", ["Add(h, b)", "Add(b, h)"])
def test_bias_on_either_side_belongs_to_the_layer(add: str) -> None:
    model = model_of(f"[n] h = MatMul(x, w) y = {add}", w=weight(32, 32), b=weight(32))
    layer = only_layer(model)
    assert layer.add is model.graph[1]
    assert layer.bias is model.graph.initializers["b"]


def test_bias_of_a_gemm_belongs_to_the_layer() -> None:
    model = model_of("[n] y = Gemm <transB = 1> (x, w, b)", w=weight(40, 32), b=weight(40))
    NormalizeLinearPass()(model)
    layer = only_layer(model)
    assert (layer.name, layer.op_type, layer.dim_in, layer.dim_out) == ("n", "Gemm", 32, 40)
    assert layer.bias is model.graph.initializers["b"]


def test_bias_that_two_layers_share_belongs_to_both() -> None:
    model = model_of(
        "h = MatMul(x, w) i = Add(h, b) j = MatMul(i, w2) y = Add(j, b)",
        w=weight(32, 32),
        w2=weight(32, 32),
        b=weight(32),
    )
    assert [layer.bias.name for layer in select(model).layers if layer.bias] == ["b", "b"]


@pytest.mark.parametrize(
    "shape", [(), (1,), (1, 32), (32, 1), (2, 32)], ids=lambda shape: f"shape {shape}"
)
def test_bias_of_another_shape_stays_an_add(shape: tuple[int, ...]) -> None:
    model = model_of("h = MatMul(x, w) y = Add(h, b)", w=weight(32, 32), b=weight(*shape))
    assert (only_layer(model).add, only_layer(model).bias) == (None, None)


def test_bias_of_one_output_channel_is_a_vector_of_one() -> None:
    model = model_from_text(
        f"{HEADER} g (float[N, 1024] x) => (float[N, K] y) {{ h = MatMul(x, w) y = Add(h, b) }}",
        w=weight(1024, 1),
        b=weight(1),
    )
    assert only_layer(model).bias is model.graph.initializers["b"]


@pytest.mark.parametrize(
    "nodes",
    [
        "h = MatMul(x, w) y = Add(h, x)",
        "h = MatMul(x, w) y = Sub(h, b)",
        "h = MatMul(x, w) i = Relu(h) j = Add(h, b) y = Add(i, j)",
        "h = MatMul(x, w) y = Add(h, h)",
        "h = MatMul(x, w) r = Relu(b) y = Add(h, r)",
        "h = MatMul(x, w) y = Add(h, v)",
    ],
    ids=["activation", "no Add", "second user", "both sides", "not constant", "graph input too"],
)
def test_what_is_no_bias_stays_a_node(nodes: str) -> None:
    model = model_from_text(
        f"{HEADER} g (float[N, 32] x, float[32] v) => (float[N, 32] y) {{ {nodes} }}",
        w=weight(32, 32),
        b=weight(32),
        v=weight(32),
    )
    assert (only_layer(model).add, only_layer(model).bias) == (None, None)


def test_product_that_is_a_graph_output_has_no_bias() -> None:
    model = model_from_text(
        f"""{HEADER} g (float[N, 32] x) => (float[N, 32] y, float[N, 32] h) {{
            h = MatMul(x, w) y = Add(h, b)
        }}""",
        w=weight(32, 32),
        b=weight(32),
    )
    assert only_layer(model).add is None


def test_add_of_another_domain_is_no_bias() -> None:
    model = model_from_text(
        """<ir_version: 10, opset_import: ["": 20, "other": 1]>
        g (float[N, 32] x) => (float[N, 32] y) { h = MatMul(x, w) y = other.Add(h, b) }""",
        w=weight(32, 32),
        b=weight(32),
    )
    assert only_layer(model).add is None


def test_sum_that_only_a_subgraph_makes_is_no_bias() -> None:
    model = model_from_text(
        f"""{HEADER} g (float[N, 32] x, bool c) => (float[N, 32] y) {{
            h = MatMul(x, w)
            r = Relu(b)
            y = If (c) <
                then_branch = t () => (float[N, 32] p) {{ p = Add(h, b) }},
                else_branch = e () => (float[N, 32] q) {{ q = Identity(x) }}
            >
        }}""",
        w=weight(32, 32),
        b=weight(32),
    )
    assert only_layer(model).add is None


# Reasons.


def test_operators_that_are_not_linear_are_kept() -> None:
    model = model_from_text(
        f"""{HEADER} g (float[N, 32, 9] x, int64[N] i) => (float[N, 32, 9] y, float[N, 32] z) {{
            [conv] y = ConvTranspose(x, kernel)
            [gather] z = Gather(table, i)
        }}""",
        kernel=weight(32, 32, 1),
        table=weight(64, 32),
    )
    kept = select(model).kept
    assert [(k.name, k.op_type, k.shape) for k in kept] == [
        ("conv", "ConvTranspose", (32, 32, 1)),
        ("gather", "Gather", (64, 32)),
    ]
    assert [k.reason for k in kept] == [
        "ConvTranspose is not a linear layer; MatMul, Gemm and Conv are quantized",
        "Gather is not a linear layer; MatMul, Gemm and Conv are quantized",
    ]


def test_matmul_of_another_domain_is_kept() -> None:
    model = model_from_text(
        """<ir_version: 10, opset_import: ["": 20, "other": 1]>
        g (float[N, 32] x) => (float[N, 32] y) { [n] y = other.MatMul(x, w) }""",
        w=weight(32, 32),
    )
    assert only_reason(model).startswith("MatMul is not a linear layer")


def test_weight_that_is_a_graph_input_too_is_kept() -> None:
    model = model_of("[n] y = MatMul(x, w)", "float[N, 32] x, float[32, 32] w", w=weight(32, 32))
    assert only_reason(model) == "the weight is a graph input too, so a caller may replace it"


def test_constant_on_the_left_is_kept() -> None:
    model = model_of("[n] y = MatMul(w, x)", "float[32, 32] x", w=weight(32, 32))
    assert only_reason(model) == "the constant is the left operand"


def test_product_of_activations_is_kept() -> None:
    model = model_of("[n] y = MatMul(x, h)", "float[N, 32] x, float[32, 32] h")
    (kept,) = select(model).kept
    assert (kept.reason, kept.shape) == ("both operands are activations", None)


def test_weight_of_one_dimension_is_kept() -> None:
    model = model_of("[n] y = MatMul(x, w)", "float[N, 1024] x", w=weight(1024))
    assert only_reason(model) == "the weight has 1 dimensions, expected 2 or more"


@pytest.mark.parametrize("shape", [(1, 32, 40), (3, 32, 40), (2, 3, 32, 40)])
def test_matrices_of_a_batch_are_one_weight(shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    layer = only_layer(model_of("[n] y = MatMul(x, w)", w=array))
    assert (layer.dim_in, layer.dim_out, layer.is_row_product) == (32, array.size // 32, False)
    batch = array.reshape(-1, 32, 40)
    np.testing.assert_array_equal(layer.matrix(), np.stack(list(batch), -1).reshape(32, -1))
    np.testing.assert_array_equal(layer.stored(layer.matrix()), array)


def test_weight_of_attention_is_a_layer_with_its_bias() -> None:
    model = model_from_text(
        """<ir_version: 10, opset_import: ["": 20, "com.microsoft": 1]>
        g (float[N, 5, 32] x) => (float[N, 5, 32] y) {
            [n] y = com.microsoft.Attention <num_heads = 2> (x, w, b) }""",
        w=weight(32, 96),
        b=weight(96),
    )
    layer = only_layer(model)
    assert (layer.op_type, layer.dim_in, layer.dim_out) == ("Attention", 32, 96)
    assert (layer.bias_use, layer.is_row_product) == ((model.graph[0], 2), False)


def test_operator_of_integers_is_kept_with_its_reason() -> None:
    model = model_from_text(
        f"""{HEADER} g (uint8[N, 32] x) => (int32[N, 40] y) {{ [n] y = MatMulInteger(x, w) }}""",
        w=weight(32, 40, dtype=np.int8),
    )
    assert only_reason(model) == "the weight of MatMulInteger is of integers already"


def quantized_already() -> ir.Model:
    model = model_of(
        "v = DequantizeLinear(w, s) t = Transpose <perm = [1, 0]> (v) [n] y = MatMul(x, t)",
        w=weight(32, 32, dtype=np.int8),
        s=np.float32(0.5)[()],
    )
    normalize(model)
    return model


def test_weight_behind_a_dequantize_linear_is_kept() -> None:
    assert "--requantize" in only_reason(quantized_already())


def test_weight_behind_a_dequantize_linear_is_taken_on_request() -> None:
    selected = SelectWeightsPass(requantize=True)
    selected(quantized_already())
    (layer,) = selected.layers
    np.testing.assert_array_equal(layer.matrix(), np.full((32, 32), 0.5))
    assert {"w", "v", "t"} <= layer.names


@pytest.mark.parametrize("dtype", [np.float64, np.int32])
def test_weight_of_another_type_is_kept(dtype: type) -> None:
    name = ir.DataType.from_numpy(np.dtype(dtype)).name
    model = model_from_text(
        f"{HEADER} g ({name.lower()}[N, 32] x) => ({name.lower()}[N, 32] y) {{"
        "[n] y = MatMul(x, w) }",
        w=weight(32, 32, dtype=dtype),
    )
    assert only_reason(model) == f"the weight is {name}, expected FLOAT or FLOAT16"


def test_weight_shared_with_an_operator_that_stays_is_kept() -> None:
    model = model_of("z = Add(x, w) [r] v = Relu(w) [n] y = MatMul(z, w)", w=weight(32, 32))
    assert only_reason(model).startswith("the weight is shared with")


def test_gemm_that_was_not_rewritten_is_kept() -> None:
    model = model_of("[n] y = Gemm(x, w)", w=weight(32, 32))
    assert only_reason(model) == "the Gemm could not be rewritten as MatMul"


def test_small_weight_is_kept() -> None:
    model = model_of("[n] y = MatMul(x, w)", "float[N, 31] x", w=weight(31, 33))
    assert only_reason(model) == "1023 weights, fewer than 1024: the bytes are not worth it"
    assert select(model).kept[0].shape == (31, 33)


def test_nodes_inside_a_subgraph_are_layers() -> None:
    model = model_from_text(
        f"""{HEADER} g (float[N, 32] x, bool c) => (float[N, 32] y) {{
            [outer] h = MatMul(x, w)
            y = If (c) <
                then_branch = t () => (float[N, 32] p) {{ [inner] p = MatMul(h, w) }},
                else_branch = e () => (float[N, 32] q)
                    <float[32, 32] v = {{{", ".join(["1.0"] * 1024)}}}> {{
                    [other] q = MatMul(h, v) }}
            >
        }}""",
        w=weight(32, 32),
    )
    selected = select(model)
    assert [layer.name for layer in selected.layers] == ["outer", "inner", "other"]
    outer, inner, other = selected.layers
    assert outer.weight_key == inner.weight_key != other.weight_key
    assert (outer.graph is model.graph, inner.graph.name, other.graph.name) == (True, "t", "e")


def test_node_inside_an_operator_that_no_sum_comes_out_of_is_kept() -> None:
    model = model_from_text(
        """<ir_version: 10, opset_import: ["": 20, "other": 1]>
        g (float[N, 32] x) => (float[N, 32] y) {
            y = other.Repeat (x) <body = b (float[N, 32] h) => (float[N, 32] n) {
                [inner] n = MatMul(h, w) }> }""",
        w=weight(32, 32),
    )
    reason = "inside a graph of Repeat, which is no If, Loop or Scan"
    assert only_reason(model, "inner") == reason


def test_node_inside_a_function_that_cannot_be_inlined_is_kept() -> None:
    model = model_from_text(
        """<ir_version: 10, opset_import: ["": 20, "local": 1]>
        g (float[N, 32] x) => (float[N, 32] y) { y = local.Block(x, w) }
        <domain: "local", opset_import: ["": 19]>
        Block (a, b) => (c) { [inner] c = MatMul(a, b) }""",
        w=weight(32, 32),
    )
    normalize(model)
    kept = {k.name: k.reason for k in select(model).kept}
    assert kept["inner"] == "inside the function local::Block, whose opset is not that of the model"


def test_our_own_functions_and_their_nodes_are_not_mentioned() -> None:
    model = model_from_text(
        """<ir_version: 10, opset_import: ["": 20, "fqonnx": 1]>
        g (float[N, 32] x) => (float[N, 32] y) { y = fqonnx.FrameMatMul(x, codes) }
        <domain: "fqonnx", opset_import: ["": 20]>
        FrameMatMul (a, b) => (d) { c = Cast <to = 1> (b) d = MatMul(a, c) }""",
        codes=weight(32, 32, dtype=np.uint8),
    )
    selected = select(model)
    assert (selected.layers, selected.kept) == ([], [])


# Which ones a user wants.


def three_layers() -> ir.Model:
    model = model_of(
        "[first] h = MatMul(x, w_a) [second] i = MatMul(h, w_b) [third] y = MatMul(i, v_c)",
        w_a=weight(32, 32),
        w_b=weight(32, 32),
        v_c=weight(32, 32),
    )
    model.graph[1].metadata_props[SCOPES] = "['', 'encoder', 'encoder.layer.0.query', 'linear']"
    return model


@pytest.mark.parametrize(
    ("include", "exclude", "taken"),
    [
        ((), (), ["first", "encoder.layer.0.query", "third"]),
        (("first",), (), ["first"]),
        (("second",), (), ["encoder.layer.0.query"]),
        (("w_*",), (), ["first", "encoder.layer.0.query"]),
        (("encoder.*",), (), ["encoder.layer.0.query"]),
        (("*.query", "th?rd"), (), ["encoder.layer.0.query", "third"]),
        ((), ("first",), ["encoder.layer.0.query", "third"]),
        ((), ("v_*", "second"), ["first"]),
        ((), ("encoder.layer.*",), ["first", "third"]),
        (("w_*",), ("*_b",), ["first"]),
        (("FIRST",), (), []),
    ],
)
def test_globs_match_node_weight_and_module_path(
    include: tuple[str, ...], exclude: tuple[str, ...], taken: list[str]
) -> None:
    selected = select(three_layers(), include, exclude)
    assert [layer.name for layer in selected.layers] == taken


def test_reasons_of_globs() -> None:
    kept = select(three_layers(), ("w_*",), ("second",)).kept
    assert {k.name: k.reason for k in kept} == {
        "encoder.layer.0.query": "an --exclude pattern matches",
        "third": "no --include pattern matches",
    }


# Names.


def test_name_is_the_output_where_a_node_has_none() -> None:
    model = model_of("y = MatMul(x, w)", w=weight(32, 32))
    model.graph[0].name = ""
    assert only_layer(model).name == "y"


@pytest.mark.parametrize("scopes", ["", "nonsense(", "[]", "['linear']", "['', '']", "3"])
def test_scopes_without_a_module_path_are_passed_over(scopes: str) -> None:
    model = model_of("[n] y = MatMul(x, w)", w=weight(32, 32))
    model.graph[0].metadata_props[SCOPES] = scopes
    assert only_layer(model).name == "n"


def test_quantized_node_has_the_path_of_its_module() -> None:
    model = model_from_text(
        """<ir_version: 10, opset_import: ["": 20, "fqonnx": 1]>
        g (float[N, 32] x) => (float[N, 32] y) { [n] y = fqonnx.FrameMatMul(x) }"""
    )
    model.graph[0].metadata_props[SCOPES] = "['', 'block', 'linear']"
    assert layer_name(model.graph[0]) == "block"


def test_only_the_first_node_of_a_module_has_its_path() -> None:
    model = model_of(
        "[a] h = MatMul(x, w) [b] i = MatMul(h, h) [c] y = MatMul(i, w)", w=weight(32, 32)
    )
    for node in model.graph:
        node.metadata_props[SCOPES] = "['', 'block', 'linear']"
    selected = select(model)
    assert [layer.name for layer in selected.layers] == ["block", "c"]
    assert [kept.name for kept in selected.kept] == ["b"]


def test_names_of_layers_are_unique() -> None:
    model = model_of("[a] h = MatMul(x, w) [block] y = MatMul(h, w)", w=weight(32, 32))
    model.graph[0].metadata_props[SCOPES] = "['', 'block', 'linear']"
    names = [layer.name for layer in select(model).layers]
    assert len(set(names)) == 2


# Convolutions.


def conv_kept(weight: np.ndarray, sizes: str = "9, 9", attributes: str = "") -> str:
    return only_reason(conv_model(weight, sizes, attributes), "layer")


@pytest.mark.parametrize(
    ("shape", "attributes", "dim_in"),
    [
        ((32, 16, 3), "", 48),
        ((24, 8, 3, 3), "strides = [2, 2], pads = [1, 1, 1, 1]", 72),
        ((64, 2, 2, 2, 2), "dilations = [2, 1, 1]", 16),
        ((64, 2, 3, 3), "group = 4, auto_pad = 'SAME_UPPER'", 18),
        ((128, 1, 5, 5), "group = 128", 25),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_convolution_is_a_layer(
    shape: tuple[int, ...], attributes: str, dim_in: int, dtype: type
) -> None:
    rng = np.random.default_rng(0)
    array, bias = rng.standard_normal(shape).astype(dtype), np.ones(shape[0], dtype)
    model = conv_model(array, ", ".join("9" * (len(shape) - 2)), attributes, bias)
    layer = only_layer(model)
    assert (layer.name, layer.op_type, layer.node) == ("layer", "Conv", model.graph[0])
    assert (layer.dim_in, layer.dim_out, layer.weight_bytes) == (dim_in, shape[0], array.nbytes)
    assert (layer.add, layer.bias) == (None, model.graph.initializers["b"])
    assert layer.matrix().dtype == np.float32
    np.testing.assert_array_equal(layer.matrix(), array.reshape(shape[0], dim_in).T)
    assert layer.has_groups == ("group" in attributes)
    assert layer.input == LayerInput("x", dim_in, layer.convolution)


def test_inputs_of_convolutions_are_told_apart_by_their_patches() -> None:
    model = model_from_text(
        f"""{HEADER} g (float[N, 32, 9] x) => (float[N, 40, P] y, float[N, 32, P] z, float z2) {{
            y = Conv(x, a) z = Conv(x, b) z2 = Conv <dilations = [2]> (x, b)
        }}""",
        a=weight(40, 32, 3),
        b=weight(32, 32, 3),
    )
    first, second, third = (layer.input for layer in select(model).layers)
    assert first == second != third


def test_weight_that_convolutions_share_is_one_of_both() -> None:
    model = model_from_text(
        f"""{HEADER} g (float[N, 32, 9] x) => (float[N, 32, P] y, float[N, 32, Q] h) {{
            [a] h = Conv(x, w) [b] y = Conv <strides = [2]> (h, w)
        }}""",
        w=weight(32, 32, 3),
    )
    assert [layer.name for layer in select(model).layers] == ["a", "b"]


def test_weight_that_convolutions_of_other_groups_share_is_kept() -> None:
    model = model_from_text(
        f"""{HEADER} g (float[N, 32, 9] x, float[N, 64, 9] z) => (float[N, 32, P] y, float h) {{
            [a] h = Conv(x, w) [b] y = Conv <group = 2> (z, w)
        }}""",
        w=weight(32, 32, 3),
    )
    reason = "the weight is shared with a Conv of another number of groups"
    assert [kept.reason for kept in select(model).kept] == [reason, reason]


def test_weight_shared_with_a_matmul_is_one_weight_for_each() -> None:
    model = model_from_text(
        f"""{HEADER} g (float[N, 32, 9] x, float[N, 32, 32] z) => (float y, float h) {{
            [a] h = Conv(x, w) [b] y = MatMul(z, w)
        }}""",
        w=weight(32, 32, 3),
    )
    first, second = select(model).layers
    assert (first.dim_in, second.dim_in) == (96, 32)
    assert first.weight_key != second.weight_key


def test_convolutions_that_are_not_worth_it_are_kept() -> None:
    few = "9 weights a channel, fewer than 16: padding would eat the gain"
    assert conv_kept(weight(128, 1, 3, 3), attributes="group = 128") == few
    small = "432 weights, fewer than 1024: the bytes are not worth it"
    assert conv_kept(weight(16, 3, 3, 3)) == small


@pytest.mark.parametrize("groups", [0, -1, 3, 64])
def test_convolution_of_impossible_groups_is_kept(groups: int) -> None:
    reason = f"its 32 channels are not {groups} groups"
    assert conv_kept(weight(32, 32, 3), "9", f"group = {groups}") == reason


def test_convolution_of_another_type_is_kept() -> None:
    reason = conv_kept(weight(32, 32, 3, dtype=np.float64), "9")
    assert reason == "the weight is DOUBLE, expected FLOAT or FLOAT16"


def test_convolution_whose_weight_is_no_constant_is_kept() -> None:
    reasons = {
        "float[40, 32, 3] w": "the weight is a graph input too, so a caller may replace it",
        "float[40, 32, 3] v": "both operands are activations",
    }
    for declared, reason in reasons.items():
        name = declared[-1]
        model = model_from_text(
            f"""{HEADER} g (float[N, 32, 9] x, {declared}) => (float[N, 40, P] y) {{
                [n] y = Conv(x, {name})
            }}""",
            **({"w": weight(40, 32, 3)} if name == "w" else {}),
        )
        assert only_reason(model) == reason


def test_convolution_whose_weight_is_packed_is_not_mentioned() -> None:
    model = model_from_text(
        """<ir_version: 10, opset_import: ["": 20, "fqonnx": 1]>
        g (float[N, 32, 9] x, int64[3] s) => (float[N, 40, P] y) {
            w = fqonnx.FrameDequant(codes) t = Transpose(w) r = Reshape(t, s) y = Conv(x, r)
        }""",
        codes=weight(40, 1, 32, dtype=np.uint8),
    )
    selected = select(model)
    assert (selected.layers, selected.kept) == ([], [])
