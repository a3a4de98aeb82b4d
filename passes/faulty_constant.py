"""The constant that is to blame where a value of a model is not finite."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from fqonnx.passes.carry_out import owners
from fqonnx.passes.constants import constant, detached, made_from
from fqonnx.passes.graft import with_subgraphs
from fqonnx.passes.linear_layer import LINEAR


def faulty_constant(model: ir.Model, name: str) -> str | None:
    """Return the name of a constant that is not finite and that a value depends on, else None.

    It is one of the nearest. Infinity counts in what linear layers read alone: masks are made of
    it. Constants are read one at a time.

    Args:
        model: The model.
        name: Name of the value, of any graph of the model.
    """
    inside = owners(model.graph)
    values = [ir.convenience.create_value_mapping(model.graph)[name]]
    seen = set(values)
    for value in values:  # which grows
        node = value.producer()
        if node is None and isinstance(value.graph, ir.Graph):  # a state of a Loop, say
            node = inside.get(value.graph)
        for inner in with_subgraphs([] if node is None else [node]):
            is_sound = _is_finite if (inner.domain, inner.op_type) in LINEAR else _is_number
            for source in inner.inputs:
                if source is None or source in seen:
                    continue
                seen.add(source)
                tensor = constant(source)
                if tensor is None:
                    values.append(source)
                elif tensor.dtype.is_floating_point() and not detached(tensor, is_sound).all():
                    *_, origin = made_from(source)
                    return str(origin.name)
    return None


def _is_finite(array: NDArray[np.generic]) -> NDArray[np.bool_]:
    return np.asarray(np.isfinite(array))


def _is_number(array: NDArray[np.generic]) -> NDArray[np.bool_]:
    return np.asarray(~np.isnan(array))
