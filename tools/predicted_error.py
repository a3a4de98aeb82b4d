"""How far the outputs of a compiled model may be from the float model's, by its report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from fqonnx import CompileReport
from fqonnx.passes.select_weights import MIN_WEIGHTS
from fqonnx.session import Session

Outputs = Sequence[Any]  # arrays, or lists of them
DRAWS = 4
MARGIN = 4.0
ACTIVATIONS = 0.02  # relative error of int8 in blocks of 128, with room for outliers
ROUNDING = {np.float16: 1e-2, np.float32: 1e-4}  # of the largest number of an output


def run(model: onnx.ModelProto, feed: Mapping[str, NDArray[Any]]) -> list[Any]:
    """Return the outputs of a model."""
    return Session(ir.from_proto(model), "model").run(feed)


def too_far(
    model: onnx.ModelProto,
    feed: Mapping[str, NDArray[Any]],
    compiled: Outputs,
    report: CompileReport,
) -> str | None:
    """Return which output of a compiled model is farther off than its report says, if any.

    The report has the relative error of each weight. What such an error does to the outputs is
    measured: all weights of the float model get Gaussian noise of that size, several times. An
    output may be off by `MARGIN` times the root mean square of what the noise did, which to first
    order is what the errors of the weights do, and by the rounding of other orders of summation.
    Where layers see activations in int8, these count as more noise of the weight. It bounds what is
    likely and is no proof: quantization errors are not Gaussian, but with calibration they do less
    to the outputs than Gaussian ones of their size.

    Args:
        model: The float model.
        feed: What it ran on.
        compiled: The outputs of the compiled model on the same.
        report: The report of the compilation.
    """
    expected = run(model, feed)
    errors = [x.weight_rel_error for x in report.layers if x.weight_rel_error is not None]
    activations = 0.0 if report.options["lowering"] == "onnx" or not errors else ACTIVATIONS
    error = float(np.hypot(max(errors, default=0.0), activations))
    noisy = [run(_noisy(model, error, seed), feed) for seed in range(DRAWS)]
    half = any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in model.graph.initializer)
    rounding = ROUNDING[np.float16 if half else np.float32]
    names = [value.name for value in model.graph.output]
    for i, name in enumerate(names):
        want, found = np.asarray(expected[i]), np.asarray(compiled[i])
        if want.dtype.kind != "f":
            continue
        moved = [np.linalg.norm(np.asarray(draw[i], np.float64) - want) for draw in noisy]
        allowed = MARGIN * float(np.sqrt(np.mean(np.square(moved))))
        allowed += rounding * float(np.abs(want).max(initial=1e-30)) * np.sqrt(want.size)
        off = float(np.linalg.norm(found.astype(np.float64) - want))
        if found.shape != want.shape or not off <= allowed:
            return f"{name} is off by {off:.3g}, expected at most {allowed:.3g}"
    return None


def same(first: Any, second: Any) -> bool:
    """Whether two outputs are of one type and the same bits; all NaN are alike."""
    if isinstance(first, list):
        alike = isinstance(second, list) and len(first) == len(second)
        return alike and all(map(same, first, second))
    if not isinstance(first, np.ndarray):
        return bool(first == second)
    if first.dtype != second.dtype or first.shape != second.shape:
        return False
    return np.array_equal(first, second, equal_nan=first.dtype.kind in "fc")


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Yield the constants of a graph and of those inside its nodes."""
    yield from graph.initializer
    for attribute in (attribute for node in graph.node for attribute in node.attribute):
        if attribute.type == onnx.AttributeProto.TENSOR:
            yield attribute.t
        elif attribute.type == onnx.AttributeProto.GRAPH:
            yield from _tensors(attribute.g)


def _noisy(model: onnx.ModelProto, error: float, seed: int) -> onnx.ModelProto:
    """Return a model whose weights have Gaussian noise of a relative size."""
    rng = np.random.default_rng(seed)
    clone = onnx.ModelProto()
    clone.CopyFrom(model)
    for tensor in _tensors(clone.graph):
        weight = onnx.numpy_helper.to_array(tensor)
        if weight.dtype.kind == "f" and weight.size >= MIN_WEIGHTS:
            noise = rng.standard_normal(weight.shape)
            noise *= error * np.linalg.norm(weight.astype(np.float64)) / np.linalg.norm(noise)
            tensor.CopyFrom(
                onnx.numpy_helper.from_array((weight + noise).astype(weight.dtype), tensor.name)
            )
    return clone
