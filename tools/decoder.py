"""A decoder like Llama, of any size, with random weights: `decoder.py 7b -o model.onnx`.

RMSNorm, rotary positions, attention with shared keys and values, SwiGLU; float16. The weights are
written one after the other and are the same for the same seed. The embedding is standard normal,
projections keep the variance of what they read, and those into the residual stream are smaller by
√(2·layers), as where training begins.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape

MOST_TOKENS = 2048
_CHUNK = 1 << 24  # numbers that are drawn at once


@dataclass(frozen=True)
class Shape:
    """Sizes of a decoder."""

    layers: int
    hidden: int
    feed_forward: int
    heads: int
    kv_heads: int
    vocabulary: int = 32000
    tied: bool = False

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads


SHAPES = {
    "7b": Shape(32, 4096, 11008, 32, 32),
    "1b": Shape(22, 2048, 5632, 32, 4),
    "300m": Shape(16, 1024, 4096, 16, 4),
    "tiny": Shape(2, 64, 160, 4, 2, 256),
}


class _Weights:
    """Initializers whose data go straight into a file."""

    def __init__(self, path: Path, graph: ir.Graph, seed: int) -> None:
        self.path = path
        self.graph = graph
        self.seed = seed
        self.file = path.open("wb")
        self.count = 0

    def draw(self, name: str, shape: tuple[int, ...], scale: float) -> ir.Value:
        rng = np.random.default_rng([self.seed, self.count])
        size = int(np.prod(shape))

        def numbers(start: int) -> np.ndarray:
            return rng.standard_normal(min(_CHUNK, size - start), np.float32) * np.float32(scale)

        return self._add(name, shape, (numbers(start) for start in range(0, size, _CHUNK)))

    def give(self, name: str, array: np.ndarray) -> ir.Value:
        return self._add(name, array.shape, [array])

    def _add(self, name, shape, parts) -> ir.Value:
        self.count += 1
        offset = self.file.tell()
        for part in parts:
            self.file.write(part.astype(np.float16).tobytes())
        tensor = ir.ExternalTensor(
            self.path.name,
            offset,
            self.file.tell() - offset,
            ir.DataType.FLOAT16,
            shape=ir.Shape(shape),
            name=name,
            base_dir=self.path.parent,
        )
        value = ir.Value(
            name=name, type=ir.TensorType(tensor.dtype), shape=tensor.shape, const_value=tensor
        )
        self.graph.register_initializer(value)
        return value


class _Builder:
    """Records the nodes of a decoder."""

    def __init__(self, shape: Shape, weights: _Weights) -> None:
        self.shape = shape
        self.weights = weights
        self.tape = Tape()

    def op(self, op_type: str, *inputs, name: str | None = None, **attributes) -> ir.Value:
        return self.tape.op(op_type, list(inputs), attributes, name=name)

    def const(self, array) -> ir.Value:
        return self.op("Constant", value=ir.tensor(np.asarray(array)))

    def ints(self, *values: int) -> ir.Value:
        return self.const(np.array(values, np.int64))

    def linear(self, name: str, x: ir.Value, rows: int, columns: int, gain: float = 1.0):
        weight = self.weights.draw(f"{name}.weight", (rows, columns), gain / rows**0.5)
        return self.op("MatMul", x, weight, name=name)

    def norm(self, name: str, x: ir.Value) -> ir.Value:
        weight = self.weights.give(f"{name}.weight", np.ones(self.shape.hidden))
        wide = self.op("Cast", x, to=ir.DataType.FLOAT)
        square = self.op("ReduceMean", self.op("Mul", wide, wide), self.ints(-1), keepdims=1)
        root = self.op("Sqrt", self.op("Add", square, self.const(np.float32(1e-5))))
        narrow = self.op("Cast", self.op("Div", wide, root), to=ir.DataType.FLOAT16)
        return self.op("Mul", narrow, weight)

    def heads(self, x: ir.Value, count: int) -> ir.Value:
        x = self.op("Reshape", x, self.ints(0, 0, count, self.shape.head_dim))
        return self.op("Transpose", x, perm=[0, 2, 1, 3])

    def rotated(self, x: ir.Value, cos: ir.Value, sin: ir.Value) -> ir.Value:
        half, whole = self.shape.head_dim // 2, self.shape.head_dim
        first = self.op("Slice", x, self.ints(0), self.ints(half), self.ints(3))
        second = self.op("Slice", x, self.ints(half), self.ints(whole), self.ints(3))
        turned = self.op("Concat", self.op("Neg", second), first, axis=3)
        return self.op("Add", self.op("Mul", x, cos), self.op("Mul", turned, sin))

    def repeated(self, x: ir.Value) -> ir.Value:
        """Return keys or values once for each of the heads that share them."""
        shape = self.shape
        group = shape.heads // shape.kv_heads
        if group == 1:
            return x
        x = self.op("Unsqueeze", x, self.ints(2))
        x = self.op("Expand", x, self.ints(1, 1, group, 1, 1))
        return self.op("Reshape", x, self.ints(0, shape.heads, -1, shape.head_dim))

    def attention(self, name: str, x: ir.Value, cos, sin, mask) -> ir.Value:
        shape, keys = self.shape, self.shape.kv_heads * self.shape.head_dim
        q = self.heads(self.linear(f"{name}.q_proj", x, shape.hidden, shape.hidden), shape.heads)
        k = self.heads(self.linear(f"{name}.k_proj", x, shape.hidden, keys), shape.kv_heads)
        v = self.heads(self.linear(f"{name}.v_proj", x, shape.hidden, keys), shape.kv_heads)
        q = self.op("Mul", self.rotated(q, cos, sin), self.const(np.float16(shape.head_dim**-0.5)))
        k, v = self.repeated(self.rotated(k, cos, sin)), self.repeated(v)
        scores = self.op("MatMul", q, self.op("Transpose", k, perm=[0, 1, 3, 2]))
        weights = self.op("Softmax", self.op("Add", scores, mask), axis=-1)
        y = self.op("Transpose", self.op("MatMul", weights, v), perm=[0, 2, 1, 3])
        y = self.op("Reshape", y, self.ints(0, 0, shape.hidden))
        return self.linear(f"{name}.o_proj", y, shape.hidden, shape.hidden, self.residual_gain)

    def feed_forward(self, name: str, x: ir.Value) -> ir.Value:
        hidden, wide = self.shape.hidden, self.shape.feed_forward
        gate = self.linear(f"{name}.gate_proj", x, hidden, wide)
        gate = self.op("Mul", gate, self.op("Sigmoid", gate))
        y = self.op("Mul", gate, self.linear(f"{name}.up_proj", x, hidden, wide))
        return self.linear(f"{name}.down_proj", y, wide, hidden, self.residual_gain)

    @property
    def residual_gain(self) -> float:
        return (2 * self.shape.layers) ** -0.5

    def positions(self, ids: ir.Value) -> tuple[ir.Value, ir.Value, ir.Value]:
        """Return cosines and sines (length, head_dim), and what hides later tokens."""
        half = self.shape.head_dim // 2
        angles = np.arange(MOST_TOKENS)[:, None] / 10000 ** (np.arange(half) / half)
        angles = np.concatenate([angles, angles], axis=1)
        length = self.op("Slice", self.op("Shape", ids), self.ints(1), self.ints(2))
        cos, sin = (
            self.op("Slice", self.weights.give(name, table), self.ints(0), length, self.ints(0))
            for name, table in (("cos", np.cos(angles)), ("sin", np.sin(angles)))
        )
        square = self.op("Concat", length, length, axis=0)
        hidden = self.op("Expand", self.const(np.float16(-np.inf)), square)
        return cos, sin, self.op("Trilu", hidden, self.const(np.int64(1)), upper=1)

    def decoder(self, ids: ir.Value) -> ir.Value:
        shape = self.shape
        table = self.weights.draw("embed_tokens.weight", (shape.vocabulary, shape.hidden), 1.0)
        x = self.op("Gather", table, ids)
        cos, sin, mask = self.positions(ids)
        for i in range(shape.layers):
            name = f"layers.{i}"
            normed = self.norm(f"{name}.input_layernorm", x)
            x = self.op("Add", x, self.attention(f"{name}.self_attn", normed, cos, sin, mask))
            normed = self.norm(f"{name}.post_attention_layernorm", x)
            x = self.op("Add", x, self.feed_forward(f"{name}.mlp", normed))
        x = self.norm("norm", x)
        if shape.tied:
            x = self.op("Mul", x, self.const(np.float16(shape.hidden**-0.5)))
            return self.op("MatMul", x, self.op("Transpose", table, perm=[1, 0]), name="lm_head")
        return self.linear("lm_head", x, shape.hidden, shape.vocabulary)


def write_decoder(path: Path, shape: Shape, seed: int = 0) -> None:
    """Write a decoder: input_ids (batch, length) → logits float16 (batch, length, vocabulary).

    Its weights go into ``<name>.data`` beside it.
    """
    ids = ir.Value(
        name="input_ids", type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape(["batch", "length"])
    )
    graph = ir.Graph([ids], [], nodes=[], opset_imports={"": 20}, name="decoder")
    weights = _Weights(path.with_name(f"{path.name}.data"), graph, seed)
    builder = _Builder(shape, weights)
    with weights.file:
        logits = builder.decoder(ids)
    logits.name = "logits"
    logits.type = ir.TensorType(ir.DataType.FLOAT16)
    logits.shape = ir.Shape(["batch", "length", shape.vocabulary])
    graph.outputs.append(logits)
    graph.extend(builder.tape.nodes)
    ir.save(ir.Model(graph, ir_version=10), path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("-o", "--output", type=Path, required=True)
    for name in ("layers", "hidden", "feed-forward", "heads", "kv-heads", "vocabulary"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--tied", action="store_true", help="the embedding is the head too")
    parser.add_argument("--seed", type=int, default=0)
    arguments = vars(parser.parse_args())
    path, shape, seed = (arguments.pop(name) for name in ("output", "shape", "seed"))
    sizes = {name: value for name, value in arguments.items() if value}
    write_decoder(path, replace(SHAPES[shape], **sizes), seed)


if __name__ == "__main__":
    main()
