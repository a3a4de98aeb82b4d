"""Inputs drawn from the graph alone: its names, types, shapes and embedding tables.

Far better than no data, and worse than real data: a report always says which it was.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from fqonnx.calibrate.samples import Samples
from fqonnx.errors import DataError
from fqonnx.session import InputInfo

_BATCH = 16
_LENGTH = 64
_MOST_NUMBERS = 1 << 28  # of one input in a batch
_KEEPS_INDICES = {"Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose"}


def synthetic_samples(
    model: ir.Model, inputs: list[InputInfo], *, num_samples: int = 96, seed: int = 0
) -> Samples:
    """Draw samples for a model.

    Token ids are uniform over the rows of the table that they index, floats standard normal, masks
    one, segment ids zero, positions ascending. Open dimensions become 16 (the first) and 64; those
    of a cache become 0.

    Args:
        model: The model, for its embedding tables.
        inputs: The graph inputs.
        num_samples: At least this many, in whole batches.
        seed: Of the draw.

    Raises:
        DataError: An input has no shape, or is so large that its samples would not fit into
            memory.
    """
    rng = np.random.default_rng(seed)
    values = {str(value.name): value for value in model.graph.inputs}
    tables = {info.name: table_rows(values[info.name]) for info in inputs if info.name in values}
    batch = _batch(inputs)
    feeds = [
        {info.name: _draw(rng, info, batch, tables.get(info.name)) for info in inputs}
        for _ in range(-(-num_samples // batch))
    ]
    return Samples.from_feeds("synthetic", feeds, batch * len(feeds))


def table_rows(value: ir.Value) -> int | None:
    """Return the number of rows of the constant table that a Gather reads with these indices."""
    for use in value.uses():
        node = use.node
        if node.op_type == "Gather" and use.idx == 1:
            table = ir.convenience.get_const_tensor(node.inputs[0]) if node.inputs[0] else None
            if table is not None and len(table.shape) >= 2:
                return table.shape.numpy()[node.attributes.get_int("axis", 0)]
        elif node.op_type in _KEEPS_INDICES and use.idx == 0:
            rows = table_rows(node.outputs[0])
            if rows is not None:
                return rows
    return None


def _batch(inputs: list[InputInfo]) -> int:
    fixed = [info.shape[0] for info in inputs if info.shape and isinstance(info.shape[0], int)]
    return max(1, int(fixed[0])) if fixed else _BATCH


def _draw(rng: np.random.Generator, info: InputInfo, batch: int, rows: int | None) -> NDArray[Any]:
    if not info.has_rank:
        raise DataError(
            f"input {info.name!r}",
            "the model does not say what shape it has: no synthetic samples can be drawn",
            "Give samples, or export the model with a shape",
        )
    shape = tuple(_size(axis, dim, batch) for axis, dim in enumerate(info.shape))
    if math.prod(shape) > _MOST_NUMBERS:
        raise DataError(
            f"input {info.name!r}",
            f"synthetic samples of its shape {shape} take too much memory",
            "Give samples with --calibration, or a model with smaller dimensions",
        )
    name = info.name.lower()
    if info.dtype == np.bool_:
        return np.ones(shape, np.bool_)
    if "mask" in name:
        additive = np.issubdtype(info.dtype, np.floating) and len(shape) > 2
        return np.full(shape, 0 if additive else 1, info.dtype)
    if np.issubdtype(info.dtype, np.floating):
        return rng.standard_normal(shape).astype(info.dtype)
    if "type" in name or "segment" in name:
        return np.zeros(shape, info.dtype)
    if "position" in name and shape:
        return np.broadcast_to(np.arange(shape[-1]), shape).astype(info.dtype)
    if rows is None:
        rows = 256 if info.dtype == np.uint8 else 2
    return rng.integers(0, rows, shape).astype(info.dtype)


def _size(axis: int, dim: int | str | None, batch: int) -> int:
    if isinstance(dim, int):
        return dim
    if axis == 0:
        return batch
    return 0 if "past" in str(dim) and "+" not in str(dim) else _LENGTH
