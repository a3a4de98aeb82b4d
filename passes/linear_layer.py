"""A layer that can be quantized, and the input that its rows come from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from fqonnx.passes.constants import detached
from fqonnx.passes.convolution import Convolution


@dataclass(frozen=True)
class LayerInput:
    """The rows that a layer multiplies by its weight: equal ones have one Hessian.

    Attributes:
        name: Name of the activation, (..., dim) or what a convolution reads.
        dim: Entries of a row.
        convolution: What cuts the activation into rows; None where its last axis is one.
    """

    name: str
    dim: int
    convolution: Convolution | None = None


@dataclass(frozen=True)
class LinearLayer:
    """A MatMul or Conv with a constant weight, and the Add of a MatMul's bias where there is one.

    Attributes:
        name: The module path that PyTorch's exporter left, or the node's name.
        names: All that a pattern may call it by: that name, the node's, and those of its constants.
        op_type: The operator as the user's file had it.
        node: The MatMul or Conv.
        add: The Add of the bias.
        weight: The weight's initializer: (dim_in, dim_out), or a Conv's kernel.
        bias: The bias (dim_out,): an initializer, but for a Conv it may be an activation too.
        convolution: What a Conv does.
    """

    name: str
    names: frozenset[str]
    op_type: str
    node: ir.Node
    add: ir.Node | None
    weight: ir.Value
    bias: ir.Value | None
    convolution: Convolution | None = None

    @property
    def x(self) -> ir.Value:
        """The activation, also after a node before this one was replaced."""
        x = self.node.inputs[0]
        assert x is not None
        return x

    @property
    def input(self) -> LayerInput:
        """The rows of the activation."""
        return LayerInput(str(self.x.name), self.dim_in, self.convolution)

    @property
    def is_row_product(self) -> bool:
        """Whether the rows are a view of the activation, not patches that overlap or are padded."""
        return self.convolution is None or self.convolution.is_row_product(self.x)

    @property
    def has_groups(self) -> bool:
        """Whether groups of channels have rows of their own, each for part of the weight."""
        return self.convolution is not None and self.convolution.group > 1

    @property
    def dim_in(self) -> int:
        """Rows of the weight as a matrix."""
        return self.convolution.dim_in if self.convolution else self.weight_shape[0]

    @property
    def dim_out(self) -> int:
        """Columns of the weight as a matrix."""
        return self.weight_shape[0 if self.convolution else 1]

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Shape of the weight as the node reads it."""
        return tuple(self._tensor.shape.numpy())

    @property
    def dtype(self) -> ir.DataType:
        """Type of the weight, hence of the activation."""
        return self._tensor.dtype

    @property
    def weight_bytes(self) -> int:
        """Bytes of the float weight."""
        return self._tensor.nbytes

    def matrix(self) -> NDArray[np.float32]:
        """Return the weight (dim_in, dim_out) in memory of its own."""
        array = detached(self._tensor).astype(np.float32, copy=False)
        return array.reshape(self.dim_out, -1).T if self.convolution else array

    def stored(self, matrix: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return a matrix (dim_in, dim_out) in the shape of the weight."""
        return matrix.T.reshape(self.weight_shape) if self.convolution else matrix

    @property
    def _tensor(self) -> ir.TensorProtocol:
        assert self.weight.const_value is not None
        return self.weight.const_value
