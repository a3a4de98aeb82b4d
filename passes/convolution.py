"""Convolutions as matrix products: a row is a patch, what the kernel sees at one place.

The entries of a patch are in the order of the weight (dim_out, channels of a group, *kernel), so
that of the product, (dim_in, dim_out), is the weight flattened behind its first axis, transposed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape

from fqonnx.passes.constants import record_constant, record_ints

_END = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Convolution:
    """How a Conv cuts its input (batch, channels, *sizes) into patches.

    Attributes:
        channels: Channels of the input, those of all groups.
        group: Groups of channels; a patch is of one.
        kernel: Size of the kernel on each spatial axis.
        strides: As the attribute of ONNX Conv, like all that follow.
        dilations: The same.
        pads: The same, begins before ends.
        auto_pad: The same.
    """

    channels: int
    group: int
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    auto_pad: str

    @classmethod
    def of(cls, node: ir.Node, weight_shape: Sequence[int]) -> Convolution:
        """Return that of a Conv whose weight has the shape (dim_out, channels / group, *kernel)."""
        _, channels, *kernel = weight_shape
        ones, attributes = (1,) * len(kernel), node.attributes
        group = attributes.get_int("group", 1)
        return cls(
            channels=channels * group,
            group=group,
            kernel=tuple(kernel),
            strides=tuple(attributes.get_ints("strides", ones)),
            dilations=tuple(attributes.get_ints("dilations", ones)),
            pads=tuple(attributes.get_ints("pads", (0, 0) * len(kernel))),
            auto_pad=attributes.get_string("auto_pad", "NOTSET"),
        )

    @property
    def dim_in(self) -> int:
        """Entries of a patch."""
        return self.channels // self.group * prod(self.kernel)

    def is_row_product(self, x: ir.Value) -> bool:
        """Whether each entry of x is in one patch at most, so that rows are x in another order.

        Where it is true nothing is padded: SAME pads only what strides and kernel leave over.
        """
        if self.group != 1 or any(self.pads):
            return False
        if prod(self.kernel) == 1:
            return True
        sizes = _static_sizes(x)
        return (
            self.strides == self.kernel
            and prod(self.dilations) == 1
            and len(sizes) == len(self.kernel)
            and not any(size % k for size, k in zip(sizes, self.kernel, strict=True))
        )


def unfold(tape: Tape, x: ir.Value, convolution: Convolution) -> ir.Value:
    """Record all patches of x as float32 (batch, *sizes, group·dim_in), one behind the other.

    That is a Conv itself: each channel with kernels that are 1 at one place, and 0 elsewhere.
    """
    axes, taps = len(convolution.kernel), prod(convolution.kernel)
    one_hot = np.eye(taps, dtype=np.float32).reshape(taps, 1, *convolution.kernel)
    kernels = np.tile(one_hot, (convolution.channels, *(1,) * (axes + 1)))
    attributes: dict[str, int | str | tuple[int, ...]] = {
        "group": convolution.channels,
        "kernel_shape": convolution.kernel,
        "strides": convolution.strides,
        "dilations": convolution.dilations,
        "auto_pad": convolution.auto_pad,
    }
    if any(convolution.pads):  # ONNX does not want them beside an auto_pad
        attributes["pads"] = convolution.pads
    x = tape.op("Cast", [x], {"to": ir.DataType.FLOAT})
    patches = tape.op("Conv", [x, record_constant(tape, kernels)], attributes)
    rows = _channels_last(tape, patches, axes)
    rows.dtype, rows.shape = ir.DataType.FLOAT, ir.Shape([None] * (axes + 2))
    return rows


def row_view(tape: Tape, x: ir.Value, convolution: Convolution) -> ir.Value:
    """Record the patches of x in its own type (batch, *sizes, dim_in), if `is_row_product`."""
    kernel, strides = convolution.kernel, convolution.strides
    axes = range(2, 2 + len(kernel))
    if prod(kernel) == 1:
        if any(stride > 1 for stride in strides):
            bounds = ([0] * len(kernel), [_END] * len(kernel), axes, strides)
            x = tape.op("Slice", [x, *(record_ints(tape, *values) for values in bounds)])
        return _channels_last(tape, x, len(kernel))
    sizes = [size // k for size, k in zip(_static_sizes(x), kernel, strict=True)]
    split = [part for pair in zip(sizes, kernel, strict=True) for part in pair]
    x = tape.op("Reshape", [x, record_ints(tape, 0, convolution.channels, *split)])
    outer, inner = (range(first, 2 + len(split), 2) for first in (2, 3))
    x = tape.op("Transpose", [x], {"perm": [0, *outer, 1, *inner]})
    return tape.op("Reshape", [x, record_ints(tape, 0, *sizes, convolution.dim_in)])


def channels_first(tape: Tape, y: ir.Value, convolution: Convolution) -> ir.Value:
    """Record y (batch, *sizes, channels) as (batch, channels, *sizes)."""
    axes = len(convolution.kernel)
    return tape.op("Transpose", [y], {"perm": [0, axes + 1, *range(1, axes + 1)]})


def _channels_last(tape: Tape, x: ir.Value, axes: int) -> ir.Value:
    return tape.op("Transpose", [x], {"perm": [0, *range(2, axes + 2), 1]})


def _static_sizes(x: ir.Value) -> list[int]:
    """Return the spatial sizes of x that are known, which may be fewer than it has."""
    return [size for size in (x.shape or ())[2:] if isinstance(size, int)]
