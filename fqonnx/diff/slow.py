"""Layers that run slower than others of their size would, and why (docs/speed.md)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fqonnx.passes.compiled_layers import CompiledLayer
from fqonnx.runtime_ops import FrameOpSpec

_REASONS: tuple[tuple[str, Callable[[FrameOpSpec], bool]], ...] = (
    (
        "a convolution that is no product of rows: its weight is unpacked when the model is loaded",
        lambda spec: spec.op_type == "FrameDequant",
    ),
    (
        "3 bits are two planes of codes: a single row of activations takes longer than at 4",
        lambda spec: spec.bits == 3,
    ),
    (
        "a scale for each group of codes: a single row of activations takes longer than with one",
        lambda spec: spec.group_size is not None,
    ),
    (
        "exact products: activations are not rounded to int8, and products take longer",
        lambda spec: spec.op_type == "FrameMatMul" and not spec.contrib,
    ),
)


def slow_paths(layers: Sequence[CompiledLayer]) -> list[str]:
    """Return a line for each reason, with the layers that it holds for."""
    lines = []
    for reason, holds in _REASONS:
        names = [layer.source.name for layer in layers if holds(layer.spec)]
        if names:
            lines.append(f"{reason}: {', '.join(names)}")
    return lines
