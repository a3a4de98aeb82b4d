from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from fqonnx.errors import ModelError
from fqonnx.passes import normalize
from fqonnx.passes.constants import (
    constant,
    detached,
    made_from,
    readers,
    recipe,
    remove_if_unused,
    steps,
)
from support import model_from_text

HEADER = '<ir_version: 10, opset_import: ["": 21]>'


def draw(*shape: int, dtype: type = np.float32) -> np.ndarray:
    return np.random.default_rng(7).standard_normal(shape).astype(dtype)


def values_of(
    nodes: str, inputs: str = "float[N, 4] x", outputs: str = "float y", **arrays: np.ndarray
) -> dict[str, ir.Value]:
    """Return the values of a graph by name, their types inferred."""
    model = model_from_text(f"{HEADER} g ({inputs}) => ({outputs}) {{ {nodes} }}", **arrays)
    for output in model.graph.outputs:
        output.shape = None
    normalize(model)
    return ir.convenience.create_value_mapping(model.graph)


W = np.arange(8, dtype=np.float32).reshape(2, 4)


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        ("Identity(w)", W),
        ("Transpose(w)", W.T),
        ("Transpose <perm = [0, 1]> (w)", W),
        ("Reshape(w, shape)", W.reshape(4, 2)),
        ("Flatten <axis = 0> (w)", W.reshape(1, 8)),
        ("Unsqueeze(w, zero)", W[None]),
        ("Mul(w, half)", W / 2),
        ("Cast <to = 10> (w)", W.astype(np.float16)),
        ("Cast <to = 16> (w)", W.astype(ml_dtypes.bfloat16)),
    ],
)
def test_what_constants_go_through_is_computed(node: str, expected: np.ndarray) -> None:
    values = values_of(
        f"v = {node} u = Cast <to = 1> (v) y = ReduceSum <keepdims = 0> (u)",
        w=W,
        shape=np.array([4, 2]),
        zero=np.array([0]),
        half=np.array(0.5, np.float32),
    )
    tensor = constant(values["v"])
    assert (tensor.shape, tensor.dtype) == (expected.shape, ir.DataType.from_numpy(expected.dtype))
    np.testing.assert_array_equal(tensor.numpy(), expected)


@pytest.mark.parametrize(
    ("scale", "zero_point", "attributes", "factor"),
    [
        (np.float32(0.5), None, "", np.full((2, 4), 0.5)),
        (np.float32([1, 2]), np.int8([1, -1]), "<axis = 0>", np.float32([[1], [2]])),
        (np.float32([[1, 2], [3, 4]]), None, "<axis = 1, block_size = 2>", None),
    ],
    ids=["by tensor", "by axis", "by block"],
)
def test_dequantize_linear_is_computed(
    scale: np.ndarray,
    zero_point: np.ndarray | None,
    attributes: str,
    factor: np.ndarray | None,
) -> None:
    codes = np.arange(-4, 4, dtype=np.int8).reshape(2, 4)
    arrays = {"w": codes, "s": np.asarray(scale)}
    if zero_point is not None:
        arrays["z"] = zero_point
        codes = codes - zero_point[:, None]
    if factor is None:
        factor = np.repeat(scale, 2, axis=1)
    node = f"DequantizeLinear {attributes} ({', '.join(arrays)})"
    values = values_of(f"v = {node} y = Add(x, v)", **arrays)
    np.testing.assert_array_equal(constant(values["v"]).numpy(), codes * factor)
    assert steps(values["v"]) == ["DequantizeLinear"]


@pytest.mark.parametrize(
    ("attribute", "expected"),
    [
        ("value = float[2] {1.0, 2.0}", np.float32([1, 2])),
        ("value_floats = [1.0, 2.0]", np.float32([1, 2])),
        ("value_float = 1.5", np.float32(1.5)),
        ("value_ints = [3, 4]", np.array([3, 4])),
        ("value_int = 3", np.array(3)),
    ],
)
def test_constant_of_every_kind_of_number(attribute: str, expected: np.ndarray) -> None:
    values = values_of(f"v = Constant <{attribute}> () u = Cast <to = 1> (v) y = Add(x, u)")
    found = constant(values["v"]).numpy()
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


def test_constant_of_strings_is_none() -> None:
    values = values_of('v = Constant <value_string = "a"> () y = Relu(x)')
    assert constant(values["v"]) is None


@pytest.mark.parametrize(
    ("nodes", "inputs"),
    [
        ("v = Identity(x)", "float[2, 4] x"),
        ("v = Identity(w)", "float[2, 4] x, float[2, 4] w"),
        ("v = Relu(w)", "float[2, 4] x"),
        ("v = Add(w, w)", "float[2, 4] x"),
        ("v = Mul(w, x)", "float[2, 4] x"),
    ],
    ids=["activation", "a caller may replace it", "Relu", "Add", "of an activation"],
)
def test_what_is_not_constant(nodes: str, inputs: str) -> None:
    values = values_of(f"{nodes} y = Relu(v)", inputs, w=W)
    assert constant(values["v"]) is None


def test_what_branches_again_and_again_is_not_constant() -> None:
    # Each way through it would be gone: 2^40 of them.
    chain = " ".join(f"v{i + 1} = Mul(v{i}, v{i})" for i in range(40))
    values = values_of(f"v0 = Identity(w) {chain} y = MatMul(x, v40)", w=np.eye(4, dtype="f"))
    assert constant(values["v0"]) is not None
    assert constant(values["v40"]) is None


def test_operator_of_another_domain_is_not_constant() -> None:
    model = model_from_text(
        """<ir_version: 10, opset_import: ["": 20, "other": 1]>
        g (float[2, 4] x) => (float[2, 4] y) { v = other.Identity(w) y = Add(x, v) }""",
        w=W,
    )
    assert constant(model.graph[0].outputs[0]) is None
    assert constant(None) is None


def test_no_bytes_are_read_before_somebody_asks_and_the_node_may_be_gone() -> None:
    values = values_of("v = Identity(w) u = Transpose(v) y = MatMul(x, u)", w=W)
    reads: list[None] = []

    def read() -> ir.Tensor:
        reads.append(None)
        return ir.tensor(W)

    values["w"].const_value = ir.LazyTensor(read, dtype=ir.DataType.FLOAT, shape=ir.Shape(W.shape))
    tensor = constant(values["u"])
    assert (tensor.shape, tensor.nbytes, reads) == ((4, 2), 32, [])
    product = values["y"].producer()
    product.graph.outputs.clear()
    product.graph.remove(product, safe=True)
    remove_if_unused(values["u"])
    np.testing.assert_array_equal(tensor.numpy(), W.T)
    assert len(reads) == 1


def test_chain_and_its_readers() -> None:
    values = values_of(
        """a = Cast <to = 1> (w) b = Transpose(a) y = MatMul(x, b) [g] z = Gather(w, i)
        r = Relu(a)""",
        "float[N, 4] x, int64[N] i",
        w=draw(2, 4, dtype=np.float16),
    )
    assert [value.name for value in made_from(values["b"])] == ["b", "a", "w"]
    assert steps(values["b"]) == ["Transpose", "Cast"]
    assert {n.op_type for n in readers(values["w"])} == {"MatMul", "Gather", "Relu"}


def test_recipes_are_equal_where_nodes_and_shapes_are() -> None:
    values = values_of(
        """a = Reshape(w, s) b = Reshape(w, t) c = Reshape(w, u) d = Reshape(v, s)
        e = Concat <axis = 0> (a, b, c, d) y = MatMul(e, x)""",
        "float[2, N] x",
        w=draw(4, 4),
        v=draw(4, 4),
        s=np.array([8, 2]),
        t=np.array([8, 2]),
        u=np.array([-1, 2]),
    )
    found = [recipe(values[name]) for name in "abcd"]
    assert found[0] == found[1]
    assert len({*found}) == 3


def test_recipes_differ_by_the_shape_of_a_factor() -> None:
    values = values_of(
        "a = Mul(w, s) b = Mul(w, t) c = Add(a, b) y = MatMul(c, x)",
        "float[4, N] x",
        w=draw(4, 4),
        s=np.float32([[1, 2, 3, 4]]),
        t=np.float32([[1], [2], [3], [4]]),
    )
    assert recipe(values["a"]) != recipe(values["b"])


def test_what_nothing_reads_goes_with_its_sources() -> None:
    values = values_of(
        "a = Transpose(w) b = Reshape(a, s) y = Relu(x) z = Transpose(w)",
        outputs="float y, float z",
        w=W,
        s=np.array([2, 4]),
    )
    graph = values["w"].graph
    remove_if_unused(values["b"])
    assert [node.op_type for node in graph] == ["Relu", "Transpose"]
    assert list(graph.initializers) == ["w"]


@pytest.mark.parametrize("outputs", ["float y, float a", "float y, float w"])
def test_output_of_the_graph_stays(outputs: str) -> None:
    values = values_of("a = Transpose(w) y = Relu(x)", outputs=outputs, w=W)
    graph = values["w"].graph
    remove_if_unused(values["a"])
    assert list(graph.initializers) == ["w"]


def test_threads_read_one_external_tensor_each_for_itself(tmp_path: Path) -> None:
    tensor = ir.external_data.convert_tensors_to_external(
        [ir.tensor(np.arange(6, dtype=np.float32), name="w")], tmp_path, "w.data"
    )[0]
    assert isinstance(tensor, ir.ExternalTensor)
    gate = Barrier(8)

    def read(_: int) -> np.ndarray:
        gate.wait()
        return detached(tensor, lambda array: array + 1)

    with ThreadPoolExecutor(8) as pool:
        for array in pool.map(read, range(8)):
            assert array.tolist() == [1, 2, 3, 4, 5, 6]
    assert tensor.raw is None
    mine = detached(tensor)
    mine[0] = 7
    assert detached(tensor)[0] == 0


def test_declared_shape_that_is_wrong_is_said() -> None:
    value = values_of("a = Transpose(w) y = Relu(x)", w=W)["a"]
    value.shape = ir.Shape([9, 9])
    tensor = constant(value)
    assert tensor is not None
    with pytest.raises(ModelError, match=r"value 'a': declared as \(9, 9\), it is \(4, 2\)"):
        tensor.numpy()
