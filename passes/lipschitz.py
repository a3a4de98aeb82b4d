"""What operators do to the norm of a value and to that of its error."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from fqonnx.passes.constants import constant
from fqonnx.passes.norms import Affine, Bounds, LayerNorms, operator_norm


class UnboundedError(Exception):
    """Why a value has no bound."""


# Lipschitz constants of functions that are zero at zero.
_FACTORS = {
    **dict.fromkeys(("Relu", "Tanh", "Softsign", "Abs", "Neg"), 1.0),
    **dict.fromkeys(("Identity", "Flatten", "Reshape", "Transpose"), 1.0),
    **dict.fromkeys(("Squeeze", "Unsqueeze", "Slice", "GlobalMaxPool"), 1.0),
    "HardSwish": 1.5,
    "Gelu": 1.13,
    "Erf": 2.0 / math.sqrt(math.pi),
}
_PRODUCTS = {"MatMul", "FrameMatMul", "Conv"}


class Rules:
    """The rules of the operators, for one graph.

    Args:
        layers: Norms of the quantized layers, by the node that multiplies by the weight.
        batch: What stands for the number of samples in a shape.
    """

    def __init__(self, layers: Mapping[ir.Node, LayerNorms], batch: int | ir.SymbolicDim) -> None:
        self.layers = layers
        self.batch = batch

    def apply(self, node: ir.Node, inputs: Sequence[Bounds | None]) -> Bounds:
        """Return the bounds of a node's outputs.

        Args:
            node: The node.
            inputs: Bounds of its inputs; None for constants and absent ones, but not for all.

        Raises:
            UnboundedError: Nothing is known of the operator, or of a size that matters.
        """
        x, *others = (bounds for bounds in inputs if bounds is not None)
        is_standard, is_unary = node.domain == "", inputs[0] is x and not others
        if node in self.layers and is_unary and node.op_type in _PRODUCTS:
            return self._layer(node, x, self.layers[node])
        if is_standard and node.op_type in ("Add", "Sub"):
            return self._sum(node, inputs)
        if is_standard and node.op_type == "Mul" and not others:
            return self._scale(node, x, inputs.index(None))
        if is_standard and node.op_type in _FACTORS and is_unary:
            return x * _FACTORS[node.op_type]
        if is_standard and node.op_type in _RULES and is_unary:
            return _RULES[node.op_type](self, node, x)
        raise UnboundedError(
            f"no Lipschitz constant is known for {_described(node)} of these inputs"
        )

    def _layer(self, node: ir.Node, x: Bounds, layer: LayerNorms) -> Bounds:
        positions = 1.0
        if layer.bias or layer.bias_error:
            output = node.outputs[0]
            positions = self._elements(output)
            assert output.shape is not None
            axis = 1 if node.op_type == "Conv" else -1
            channels = output.shape[axis] if len(output.shape) > max(axis, 0) else None
            if not isinstance(channels, int):
                raise UnboundedError(f"the shape of {output.name!r}, {output.shape}, has no width")
            positions /= channels
        reach = _overlap(node) if node.op_type == "Conv" else 1.0
        return layer.apply(x, reach, positions)

    def _matmul(self, node: ir.Node, x: Bounds) -> Bounds:
        return self._layer(node, x, LayerNorms(operator_norm(_matrix(node, 1))))

    def _gemm(self, node: ir.Node, x: Bounds) -> Bounds:
        if node.attributes.get_int("transA", 0):
            raise UnboundedError(f"{_described(node)} transposes its input")
        alpha = abs(node.attributes.get_float("alpha", 1.0))
        product = self._layer(node, x, LayerNorms(alpha * operator_norm(_matrix(node, 1))))
        if len(node.inputs) < 3 or node.inputs[2] is None:
            return product
        array, beta = _array(node, 2), abs(node.attributes.get_float("beta", 1.0))
        repeats = math.sqrt(self._elements(node.outputs[0]) / array.size)
        return product.plus_constant(beta * float(np.linalg.norm(array)) * repeats)

    def _conv(self, node: ir.Node, x: Bounds) -> Bounds:
        weight = _array(node, 1)
        groups = np.split(weight.reshape(len(weight), -1), node.attributes.get_int("group", 1))
        bias = float(np.linalg.norm(_array(node, 2))) if len(node.inputs) > 2 else 0.0
        return self._layer(node, x, LayerNorms(max(map(operator_norm, groups)), bias=bias))

    def _batch_norm(self, node: ir.Node, x: Bounds) -> Bounds:
        if node.attributes.get_int("training_mode", 0):
            raise UnboundedError(f"{_described(node)} is in training mode")
        scale, shift, mean, variance = (_array(node, i) for i in range(1, 5))
        factor = scale / np.sqrt(variance + node.attributes.get_float("epsilon", 1e-5))
        constant_part = float(np.linalg.norm(shift - factor * mean))
        positions = self._elements(node.outputs[0]) / len(scale)
        return (x * float(np.abs(factor).max())).plus_constant(constant_part * math.sqrt(positions))

    def _scale(self, node: ir.Node, x: Bounds, constant_index: int) -> Bounds:
        factor = float(np.abs(_array(node, constant_index)).max())
        return x * (factor * self._repeats(node.inputs[1 - constant_index], node.outputs[0]))

    def _divide(self, node: ir.Node, x: Bounds) -> Bounds:
        divisor = float(np.abs(_array(node, 1)).min())
        if not divisor:
            raise UnboundedError(f"{_described(node)} divides by zero")
        return x * (self._repeats(node.inputs[0], node.outputs[0]) / divisor)

    def _sigmoid(self, node: ir.Node, x: Bounds) -> Bounds:
        return (x * 0.25).limited(math.sqrt(self._elements(node.outputs[0])))

    def _softmax(self, node: ir.Node, x: Bounds) -> Bounds:
        shape, axis = node.outputs[0].shape, node.attributes.get_int("axis", -1)
        if self.batch != 1 and shape is not None and shape[axis] == self.batch:
            raise UnboundedError(f"{_described(node)} mixes samples")
        return x.limited(math.sqrt(self._elements(node.outputs[0])))

    def _sum(self, node: ir.Node, inputs: Sequence[Bounds | None]) -> Bounds:
        total = Bounds(Affine(0.0), Affine(0.0))
        for i, (value, bounds) in enumerate(zip(node.inputs, inputs, strict=True)):
            if bounds is not None:
                total = total + bounds * self._repeats(value, node.outputs[0])
            else:
                array = _array(node, i)
                repeats = math.sqrt(self._elements(node.outputs[0]) / array.size)
                total = total.plus_constant(float(np.linalg.norm(array)) * repeats)
        return total

    def _mean(self, node: ir.Node, x: Bounds) -> Bounds:
        return x * self._repeats(node.inputs[0], node.outputs[0])  # 1/√ of what a mean is over

    def _elements(self, value: ir.Value | None) -> float:
        """Return the entries of a value that one sample has."""
        sizes = None if value is None or value.shape is None else list(value.shape)
        if sizes is not None and self.batch in sizes:
            sizes.remove(self.batch)  # once: another axis may be as long
        known = [size for size in sizes or [] if isinstance(size, int)]
        if sizes is None or len(known) < len(sizes):
            raise UnboundedError(f"the size of {value.name if value else None!r} is not known")
        return float(math.prod(known))

    def _repeats(self, x: ir.Value | None, y: ir.Value) -> float:
        """Return √ of how many entries of y there are for one of x."""
        if (
            x is not None
            and x.shape is not None
            and x.shape == y.shape
            and not x.shape.has_unknown_dim()
        ):
            return 1.0
        return math.sqrt(self._elements(y) / self._elements(x))


def _leaky(_: Rules, node: ir.Node, x: Bounds) -> Bounds:
    return x * max(1.0, abs(node.attributes.get_float("alpha", 0.01)))


def _elu(_: Rules, node: ir.Node, x: Bounds) -> Bounds:
    return x * max(1.0, abs(node.attributes.get_float("alpha", 1.0)))


def _celu(_: Rules, node: ir.Node, x: Bounds) -> Bounds:
    if node.attributes.get_float("alpha", 1.0) <= 0.0:
        raise UnboundedError(f"{_described(node)} has an alpha that is not positive")
    return x


def _dropout(_: Rules, node: ir.Node, x: Bounds) -> Bounds:
    if len(node.inputs) > 2:
        raise UnboundedError(f"{_described(node)} may be in training mode")
    return x


def _clip(_: Rules, node: ir.Node, x: Bounds) -> Bounds:
    low = float(_array(node, 1)) if len(node.inputs) > 1 and node.inputs[1] else -math.inf
    high = float(_array(node, 2)) if len(node.inputs) > 2 and node.inputs[2] else math.inf
    if not low <= 0.0 <= high:
        raise UnboundedError(f"{_described(node)} does not keep zero")
    return x


def _pool(_: Rules, node: ir.Node, x: Bounds) -> Bounds:
    return x * _overlap(node)


_RULES: dict[str, Callable[[Rules, ir.Node, Bounds], Bounds]] = {
    "Gemm": Rules._gemm,
    "MatMul": Rules._matmul,
    "Conv": Rules._conv,
    "BatchNormalization": Rules._batch_norm,
    "Div": Rules._divide,
    "Sigmoid": Rules._sigmoid,
    "Softmax": Rules._softmax,
    "ReduceMean": Rules._mean,
    "GlobalAveragePool": Rules._mean,
    "LeakyRelu": _leaky,
    "Elu": _elu,
    "Celu": _celu,
    "Dropout": _dropout,
    "Clip": _clip,
    "MaxPool": _pool,
    "AveragePool": _pool,
}


def _described(node: ir.Node) -> str:
    return f"{node.op_type} node {node.name or node.outputs[0].name!r}"


def _overlap(node: ir.Node) -> float:
    """Return √ of in how many windows an entry can be.

    Windows s apart have an entry at k places d apart in at most ⌈k·gcd(d, s)/s⌉ of them.
    """
    kernel = node.attributes.get_ints("kernel_shape", ())
    if not kernel:
        weight = node.inputs[1]
        assert weight is not None
        assert weight.shape is not None
        kernel = weight.shape.numpy()[2:]
    ones = [1] * len(kernel)
    steps = zip(
        kernel,
        node.attributes.get_ints("strides", ones),
        node.attributes.get_ints("dilations", ones),
        strict=True,
    )
    return math.sqrt(math.prod(-(-k * math.gcd(d, s) // s) for k, s, d in steps))


def _array(node: ir.Node, index: int) -> NDArray[np.float64]:
    value = node.inputs[index]
    tensor = constant(value)
    if tensor is None:
        raise UnboundedError(
            f"{value.name if value else None!r} of {_described(node)} is not constant"
        )
    return tensor.numpy().astype(np.float64)


def _matrix(node: ir.Node, index: int) -> NDArray[np.float64]:
    array = _array(node, index)
    if array.ndim != 2:
        raise UnboundedError(f"the weight of {_described(node)} has {array.ndim} dimensions")
    return array
