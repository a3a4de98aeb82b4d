"""Graphs of any operators in any order, with weights of odd sizes, for property tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto
from onnx.helper import (
    make_graph,
    make_model,
    make_node,
    make_opsetid,
    make_tensor_value_info,
    np_dtype_to_tensor_dtype,
)

BATCH = 48
LENGTH = 5
WORDS = 37
DIMS = (31, 32, 40, 64, 65, 96)
ACTIVATIONS = ("Relu", "Tanh", "Sigmoid", "Erf", "HardSwish", "Softplus", "Identity", "Abs")


@dataclass(frozen=True)
class Value:
    """A float value: its name and its shape for one batch."""

    name: str
    shape: tuple[int, ...]


@dataclass
class Graph:
    """A graph that grows by one operator at a time; each step takes a value that is there."""

    dtype: type
    batch: int | str
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    tensors: list[onnx.TensorProto] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)
    feed: dict[str, np.ndarray] = field(default_factory=dict)
    weights: dict[tuple[int, int], str] = field(default_factory=dict)
    table: str | None = None

    def step(self, kind: str, number: int) -> None:
        """Add an operator where the value that a number picks lets it."""
        rng = np.random.default_rng(number)
        recent = self.values[-3:]
        made = STEPS[kind](self, recent[rng.integers(len(recent))], rng)
        if made is not None:
            self.values.append(made)

    def node(self, op_type: str, *inputs: str, shape: tuple[int, ...], **options: Any) -> Value:
        name = f"v{len(self.nodes)}"
        self.nodes.append(make_node(op_type, inputs, [name], name=f"n{len(self.nodes)}", **options))
        return Value(name, shape)

    def constant(self, array: np.ndarray, rng: np.random.Generator | None = None) -> str:
        """Add an initializer, or where a generator says so a Constant."""
        if array.dtype.kind == "f":
            array = array.astype(self.dtype)
        name = f"w{len(self.tensors) + len(self.nodes)}"
        tensor = onnx.numpy_helper.from_array(array, name)
        if rng is not None and rng.integers(4) == 0:
            self.nodes.append(make_node("Constant", [], [name], value=tensor))
        else:
            self.tensors.append(tensor)
        return name

    def weight(self, rng: np.random.Generator, *shape: int) -> str:
        scale = 1.0 / np.sqrt(np.prod(shape) / shape[-1])
        return self.constant(rng.standard_normal(shape) * scale, rng)

    def model(self) -> onnx.ModelProto:
        """Return the model; its outputs are the last value and one that is between."""
        element = np_dtype_to_tensor_dtype(np.dtype(self.dtype))
        inputs = [
            make_tensor_value_info(
                name,
                np_dtype_to_tensor_dtype(array.dtype),
                (self.batch, *array.shape[1:]) if array.ndim else (),
            )
            for name, array in self.feed.items()
        ]
        outputs = [
            make_tensor_value_info(v.name, element, [f"{v.name}_{i}" for i in range(len(v.shape))])
            for v in {
                v.name: v for v in (self.values[-1], self.values[len(self.values) // 2])
            }.values()
            if v.name not in self.feed
        ] or [self._copied(self.values[-1], element)]
        graph = make_graph(self.nodes, "g", inputs, outputs, self.tensors)
        return make_model(graph, opset_imports=[make_opsetid("", 20)], ir_version=10)

    def _copied(self, value: Value, element: int) -> onnx.ValueInfoProto:
        copy = self.node("Identity", value.name, shape=value.shape)
        return make_tensor_value_info(copy.name, element, (self.batch, *value.shape[1:]))


def _matmul(g: Graph, x: Value, rng: np.random.Generator) -> Value:
    """A product with a weight of its own, or with one that was there."""
    dim_in, dim_out = x.shape[-1], int(rng.choice(DIMS))
    if rng.integers(3) or (dim_in, dim_out) not in g.weights:
        g.weights[dim_in, dim_out] = g.weight(rng, dim_in, dim_out)
    y = g.node("MatMul", x.name, g.weights[dim_in, dim_out], shape=(*x.shape[:-1], dim_out))
    if rng.integers(2):
        bias = g.constant(rng.standard_normal(dim_out), rng)
        y = g.node("Add", *rng.permutation([y.name, bias]), shape=y.shape)
    return y


def _stored_otherwise(g: Graph, x: Value, rng: np.random.Generator) -> Value:
    """A product with a weight that Transpose, Cast, Reshape or Identity makes."""
    dim_in, dim_out = x.shape[-1], int(rng.choice(DIMS))
    kind = ("Transpose", "Cast", "Reshape", "Identity")[rng.integers(4)]
    if kind == "Transpose":
        w = g.node(kind, g.weight(rng, dim_out, dim_in), shape=(dim_in, dim_out), perm=[1, 0])
    elif kind == "Reshape":
        shape = g.constant(np.array([dim_in, dim_out], np.int64))
        w = g.node(kind, g.weight(rng, dim_in * dim_out), shape, shape=(dim_in, dim_out))
    elif kind == "Cast":
        half = rng.standard_normal((dim_in, dim_out)).astype(np.float16) / np.sqrt(dim_in)
        g.tensors.append(onnx.numpy_helper.from_array(half.astype(np.float16), f"h{len(g.nodes)}"))
        to = np_dtype_to_tensor_dtype(np.dtype(g.dtype))
        w = g.node(kind, g.tensors[-1].name, shape=(dim_in, dim_out), to=to)
    else:
        w = g.node(kind, g.weight(rng, dim_in, dim_out), shape=(dim_in, dim_out))
    return g.node("MatMul", x.name, w.name, shape=(*x.shape[:-1], dim_out))


def _gemm(g: Graph, x: Value, rng: np.random.Generator) -> Value | None:
    if len(x.shape) != 2:
        return None
    dim_in, dim_out, trans_b = x.shape[1], int(rng.choice(DIMS)), int(rng.integers(2))
    inputs = [x.name, g.weight(rng, *((dim_out, dim_in) if trans_b else (dim_in, dim_out)))]
    if rng.integers(2):
        shape = ((dim_out,), (1, dim_out), (1,), ())[rng.integers(4)]
        inputs.append(g.constant(rng.standard_normal(shape), rng))
    alpha, beta = (float(rng.choice([1.0, 0.5, -1.5])) for _ in "ab")
    options = {"transB": trans_b, "alpha": alpha, "beta": beta}
    return g.node("Gemm", *inputs, shape=(x.shape[0], dim_out), **options)


def _conv(g: Graph, x: Value, rng: np.random.Generator) -> Value | None:
    if len(x.shape) != 3:
        return None
    channels, length = x.shape[1:]
    group = int(rng.choice([1, 1, *(n for n in (2, 5) if channels % n == 0)]))
    size, kernel = int(rng.choice([32, 40])) * group, int(rng.integers(1, min(4, length) + 1))
    inputs = [x.name, g.weight(rng, size, channels // group, kernel)]
    if rng.integers(2):
        inputs.append(g.constant(rng.standard_normal(size), rng))
    pads, stride = [int(p) for p in rng.integers(0, 2, 2)], int(rng.integers(1, 3))
    shape = (x.shape[0], size, (length + sum(pads) - kernel) // stride + 1)
    return g.node("Conv", *inputs, shape=shape, group=group, pads=pads, strides=[stride])


def _activation(g: Graph, x: Value, rng: np.random.Generator) -> Value:
    return g.node(str(rng.choice(ACTIVATIONS)), x.name, shape=x.shape)


def _norm(g: Graph, x: Value, rng: np.random.Generator) -> Value:
    scale = g.constant(1 + rng.standard_normal(x.shape[-1]) / 4)
    return g.node("LayerNormalization", x.name, scale, shape=x.shape, axis=-1)


def _softmax(g: Graph, x: Value, rng: np.random.Generator) -> Value:
    return g.node("Softmax", x.name, shape=x.shape, axis=-1)


def _add(g: Graph, x: Value, rng: np.random.Generator) -> Value:
    alike = [v for v in g.values if v.shape == x.shape]
    other = alike[rng.integers(len(alike))]
    return g.node(str(rng.choice(["Add", "Sub", "Max"])), x.name, other.name, shape=x.shape)


def _concat(g: Graph, x: Value, rng: np.random.Generator) -> Value | None:
    alike = [v for v in g.values if v.shape[:-1] == x.shape[:-1]]
    other = alike[rng.integers(len(alike))]
    shape = (*x.shape[:-1], x.shape[-1] + other.shape[-1])
    return g.node("Concat", x.name, other.name, shape=shape, axis=-1) if shape[-1] < 200 else None


def _transpose(g: Graph, x: Value, rng: np.random.Generator) -> Value | None:
    if len(x.shape) < 3:
        return None
    return g.node("Transpose", x.name, shape=(x.shape[0], *x.shape[:0:-1]), perm=[0, 2, 1])


def _reshape(g: Graph, x: Value, rng: np.random.Generator) -> Value | None:
    if len(x.shape) == 3:
        size = x.shape[1] * x.shape[2]
        return g.node("Flatten", x.name, shape=(x.shape[0], size)) if size < 400 else None
    parts = next((n for n in (5, 4, 2) if x.shape[1] % n == 0), 1)
    shape = g.constant(np.array([0, parts, -1], np.int64))
    return g.node("Reshape", x.name, shape, shape=(x.shape[0], parts, x.shape[1] // parts))


def _mean(g: Graph, x: Value, rng: np.random.Generator) -> Value | None:
    if len(x.shape) < 3:
        return None
    axes = g.constant(np.array([1], np.int64))
    return g.node("ReduceMean", x.name, axes, shape=(x.shape[0], x.shape[2]), keepdims=0)


def _branches(g: Graph, x: Value, rng: np.random.Generator) -> Value:
    """An If on an input; one of its branches has a weight of its own, or reads an outer one."""
    dim = x.shape[-1]
    element = np_dtype_to_tensor_dtype(np.dtype(g.dtype))
    g.feed.setdefault("condition", np.array(bool(rng.integers(2))))
    array = (rng.standard_normal((dim, dim)) / np.sqrt(dim)).astype(g.dtype)
    number, inner = len(g.nodes), []
    weight = f"inner{number}"
    if rng.integers(2):
        inner = [onnx.numpy_helper.from_array(array, weight)]
    else:
        weight = g.constant(array)
    graphs = []
    for op_type, inputs in (("MatMul", [x.name, weight]), ("Tanh", [x.name])):
        name = f"{op_type}{number}"
        output = make_tensor_value_info(name, element, None)
        tensors = inner if op_type == "MatMul" else []
        node = make_node(op_type, inputs, [name], name=f"in{name}")
        graphs.append(make_graph([node], f"g{name}", [], [output], tensors))
    options = {"then_branch": graphs[0], "else_branch": graphs[1]}
    return g.node("If", "condition", shape=x.shape, **options)


def _embedding(g: Graph, x: Value, rng: np.random.Generator) -> Value:
    """Rows of a table, which a later product may be tied to."""
    if g.table is None:
        g.table = g.weight(rng, WORDS, 32)
    g.feed.setdefault("ids", rng.integers(0, WORDS, (BATCH, LENGTH)))
    return g.node("Gather", g.table, "ids", shape=(BATCH, LENGTH, 32))


def _tied(g: Graph, x: Value, rng: np.random.Generator) -> Value | None:
    if g.table is None or x.shape[-1] not in (32, WORDS):
        return None
    perm, dim_out = ([1, 0], WORDS) if x.shape[-1] == 32 else ([0, 1], 32)
    table = g.node("Transpose", g.table, shape=(x.shape[-1], dim_out), perm=perm)
    return g.node("MatMul", x.name, table.name, shape=(*x.shape[:-1], dim_out))


def _left(g: Graph, x: Value, rng: np.random.Generator) -> Value | None:
    """A constant from the left: not a layer."""
    if len(x.shape) < 3:
        return None
    rows = 32
    weight = g.weight(rng, rows, x.shape[1])
    return g.node("MatMul", weight, x.name, shape=(x.shape[0], rows, x.shape[2]))


def _stacked(g: Graph, x: Value, rng: np.random.Generator) -> Value | None:
    """A product with a weight for each of the positions, and maybe another with one of them."""
    if len(x.shape) < 3:
        return None
    weight = g.weight(rng, x.shape[1], x.shape[2], 32)
    if rng.integers(2):
        place = g.constant(np.array(int(rng.integers(x.shape[1]))))
        one = g.node("Gather", weight, place, shape=(x.shape[2], 32))
        g.values.append(g.node("MatMul", x.name, one.name, shape=(*x.shape[:2], 32)))
    a = g.node("Unsqueeze", x.name, g.constant(np.array([2], np.int64)), shape=x.shape)
    b = g.node("MatMul", a.name, weight, shape=x.shape)
    axes = g.constant(np.array([2], np.int64))
    return g.node("Squeeze", b.name, axes, shape=(x.shape[0], x.shape[1], 32))


def _casts(g: Graph, x: Value, rng: np.random.Generator) -> Value:
    """To another precision and back."""
    there = g.node("Cast", x.name, shape=x.shape, to=TensorProto.DOUBLE)
    to = np_dtype_to_tensor_dtype(np.dtype(g.dtype))
    return g.node("Cast", there.name, shape=x.shape, to=to)


STEPS: dict[str, Callable[[Graph, Value, np.random.Generator], Value | None]] = {
    function.__name__: function
    for function in (
        *(_matmul, _stored_otherwise, _gemm, _conv, _tied, _stacked, _left, _branches),
        *(_activation, _norm, _softmax, _add, _concat, _transpose, _reshape, _mean, _embedding),
        _casts,
    )
}


@st.composite
def graphs(draw: st.DrawFn) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """Return a model, and what it can run on: a batch of `BATCH`, and a condition without one."""
    g = Graph(
        dtype=draw(st.sampled_from([np.float32, np.float32, np.float16])),
        batch=draw(st.sampled_from(["N", BATCH])),
    )
    dim = draw(st.sampled_from(DIMS))
    shape = draw(st.sampled_from([(BATCH, dim), (BATCH, LENGTH, dim)]))
    g.feed["x"] = np.random.default_rng(dim).standard_normal(shape).astype(g.dtype)
    g.values.append(Value("x", shape))
    steps = st.tuples(st.sampled_from(list(STEPS)), st.integers(0, 1 << 16))
    for kind, number in draw(st.lists(steps, min_size=3, max_size=10)):
        g.step(kind, number)
    return g.model(), g.feed
