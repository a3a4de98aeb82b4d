"""One layer of a pair of models as models of their own, to look at or to report."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from fqonnx.errors import ConfigError
from fqonnx.model_pair import ModelPair
from fqonnx.passes import CompiledLayer
from fqonnx.passes.constants import constant
from fqonnx.passes.frame_functions import remove_unused_functions
from fqonnx.segments import open_model
from fqonnx.written_model import written_model


def extract_layer(pair: ModelPair, layer: CompiledLayer, folder: Path) -> None:
    """Write a layer as ``float.onnx`` and ``compiled.onnx``, its inputs as ``inputs/batch.npz``.

    The inputs are what the float model gives it on the first batch.

    Args:
        pair: The models, and what they run on.
        layer: One of the pair's layers.
        folder: Where; made if need be.

    Raises:
        ConfigError: The folder holds something, or cannot be written.
        ModelError: The float model does not run.
    """
    source = layer.source
    nodes = [source.node, *([] if source.add is None else [source.add])]
    inputs = sorted({*_read(nodes), *_read(layer.nodes)})
    output = str(layer.output.name)
    if folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(str(folder), "the folder is not empty", "Name one that is not there")
    measured = pair.model.clone()
    values = ir.convenience.create_value_mapping(measured.graph)
    taken = [name for name in inputs if not values[name].is_graph_input()]
    measured.graph.outputs[:] = [values[name] for name in taken]
    feed = dict(pair.samples.feeds[0])
    if taken:
        (found,) = open_model(measured, str(pair.float_path)).run_all([feed], taken)
        feed.update(zip(taken, found, strict=True))
    for name, model in (("float.onnx", pair.model), ("compiled.onnx", pair.compiled)):
        part = model.clone()
        part.graph = ir.convenience.extract(part.graph, inputs, [output])
        remove_unused_functions(part)
        with written_model(part, folder / name):
            pass
    try:
        (folder / "inputs").mkdir()
        arrays: dict[str, Any] = {name: feed[name] for name in inputs}
        np.savez(folder / "inputs" / "batch.npz", **arrays)
    except OSError as error:
        raise ConfigError(str(folder), f"not written: {error}", "Name another folder") from error


def _read(nodes: Iterable[ir.Node]) -> set[str]:
    """Return the names of the activations that nodes read and none of them makes."""
    nodes = list(nodes)
    made = {output for node in nodes for output in node.outputs}
    return {
        str(value.name)
        for node in nodes
        for value in node.inputs
        if value is not None and value not in made and constant(value) is None
    }
