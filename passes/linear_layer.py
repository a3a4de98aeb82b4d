"""A layer that can be quantized, and the input that its rows come from."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from fqonnx.passes.constants import detached, recipe
from fqonnx.passes.convolution import Convolution

# By domain and operator: whose second input can be the weight of a layer.
LINEAR = {("", "MatMul"), ("", "Gemm"), ("", "Conv")}
LINEAR |= {("com.microsoft", "Attention"), ("com.microsoft", "FusedMatMul")}
DTYPES = (ir.DataType.FLOAT, ir.DataType.FLOAT16)
MIN_WEIGHTS = 1024


def is_worthwhile(tensor: ir.TensorProtocol) -> bool:
    """Whether a weight is of a type and of a size that is quantized at all."""
    return tensor.dtype in DTYPES and tensor.size >= MIN_WEIGHTS


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
    """A node with a constant weight, and the Add of a MatMul's bias where there is one.

    The weight is a matrix (dim_in, dim_out), whose rows the node multiplies by; the kernel of a
    Conv; or the matrices (..., dim_in, rows) of a MatMul of a batch, which stand beside one another
    as one matrix, as those of the heads of an attention do.

    Attributes:
        name: The module path that PyTorch's exporter left, or the node's name.
        names: All that a pattern may call it by: that name, the node's, and those of its constants.
        op_type: The operator as the user's file had it.
        node: The MatMul, Conv or Attention.
        add: The Add of the bias.
        weight: The weight, a constant value (see `constants.constant`); ``const_value`` has it.
        bias: The bias (dim_out,): a constant value, but for a Conv or an Attention it may be an
            activation too.
        convolution: What a Conv does.
        lookups: Gather nodes that read the same table as the layer, and are to read the quantized
            one; the weight is the table or its transpose.
    """

    name: str
    names: frozenset[str]
    op_type: str
    node: ir.Node
    add: ir.Node | None
    weight: ir.Value
    bias: ir.Value | None
    convolution: Convolution | None = None
    lookups: tuple[ir.Node, ...] = ()

    @property
    def graph(self) -> ir.Graph:
        """The graph that the node is in: the main one, or one inside a node."""
        assert isinstance(self.node.graph, ir.Graph)
        return self.node.graph

    @property
    def x(self) -> ir.Value:
        """The activation, also after a node before this one was replaced."""
        x = self.node.inputs[0]
        assert x is not None
        return x

    @property
    def bias_use(self) -> tuple[ir.Node, int]:
        """The node that reads the bias, and which of its inputs that is."""
        if self.add is None:
            return self.node, 2
        return self.add, self.add.inputs.index(self.bias)

    @property
    def input(self) -> LayerInput:
        """The rows of the activation."""
        return LayerInput(str(self.x.name), self.dim_in, self.convolution)

    @property
    def is_row_product(self) -> bool:
        """Whether the rows are a view of the activation and their products are the output."""
        if self.convolution is not None:
            return self.convolution.is_row_product(self.x)
        return self.node.op_type == "MatMul" and len(self.weight_shape) == 2

    @property
    def has_groups(self) -> bool:
        """Whether groups of channels have rows of their own, each for part of the weight."""
        return self.convolution is not None and self.convolution.group > 1

    @property
    def dim_in(self) -> int:
        """Rows of the weight as a matrix."""
        return self.convolution.dim_in if self.convolution else self.weight_shape[-2]

    @property
    def dim_out(self) -> int:
        """Columns of the weight as a matrix."""
        return self._tensor.size // self.dim_in

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Shape of the weight as the node reads it."""
        return tuple(self._tensor.shape.numpy())

    @property
    def split_shape(self) -> tuple[int, ...]:
        """Shape of the matrix that, with its axes in the order of ``perm``, is the weight."""
        if self.convolution:
            return self.dim_in, self.dim_out
        *batch, dim_in, dim_out = self.weight_shape
        return dim_in, dim_out, *batch

    @property
    def perm(self) -> tuple[int, ...]:
        """The axes of ``split_shape`` as the weight has them, a kernel's being one.

        Matrices are last there and first here: where they are not at one end of both, ONNX Runtime
        (1.31) takes the Transpose for one that its MatMul can do, and crashes if it cannot.
        """
        if self.convolution:
            return 1, 0
        return *range(2, len(self.weight_shape)), 0, 1

    @property
    def dtype(self) -> ir.DataType:
        """Type of the weight, hence of the activation."""
        return self._tensor.dtype

    @property
    def weight_bytes(self) -> int:
        """Bytes of the float weight."""
        return self._tensor.nbytes

    @property
    def weight_key(self) -> Hashable:
        """What layers of equal weights share."""
        return recipe(self.weight), self.split_shape, self.perm

    def matrix(self) -> NDArray[np.float32]:
        """Return the weight (dim_in, dim_out) in memory of its own."""
        array = detached(self._tensor).astype(np.float32, copy=False)
        array = array.reshape([self.split_shape[axis] for axis in self.perm])
        return array.transpose(np.argsort(self.perm)).reshape(self.dim_in, self.dim_out)

    def stored(self, matrix: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return a matrix (dim_in, dim_out) in the shape of the weight."""
        return matrix.reshape(self.split_shape).transpose(self.perm).reshape(self.weight_shape)

    @property
    def _tensor(self) -> ir.TensorProtocol:
        assert self.weight.const_value is not None
        return self.weight.const_value
