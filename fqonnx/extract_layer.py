"""One layer of a pair of models as models of their own, to look at or to report."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from fqonnx.errors import ConfigError
from fqonnx.files import part_folder
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
        folder: Where; made if need be, and whole or not at all.

    Raises:
        ConfigError: The folder holds something, or cannot be written.
        ModelError: The float model does not run.
    """
    source = layer.source
    nodes = [source.node, *([] if source.add is None else [source.add])]
    inputs = sorted({*_read(nodes), *_read(layer.nodes)})
    output = str(layer.output.name)
    check_folder(folder)
    measured = pair.model.clone()
    values = ir.convenience.create_value_mapping(measured.graph)
    taken = [name for name in inputs if not values[name].is_graph_input()]
    measured.graph.outputs[:] = [values[name] for name in taken]
    feed = dict(pair.samples.feeds[0])
    if taken:
        (found,) = open_model(measured, str(pair.float_path)).run_all([feed], taken)
        feed.update(zip(taken, found, strict=True))
    arrays: dict[str, Any] = {name: feed[name] for name in inputs}
    try:
        with part_folder(folder) as part:
            for name, model in (("float.onnx", pair.model), ("compiled.onnx", pair.compiled)):
                alone = model.clone()
                alone.graph = ir.convenience.extract(alone.graph, inputs, [output])
                remove_unused_functions(alone)
                with written_model(alone, part / name):
                    pass
            (part / "inputs").mkdir()
            np.savez(part / "inputs" / "batch.npz", **arrays)
            part.replace(folder)
    except OSError as error:
        raise ConfigError(str(folder), f"not written: {error}", "Name another folder") from error


def check_folder(folder: Path) -> None:
    """Refuse a folder that a layer cannot be written to.

    Raises:
        ConfigError: It holds something, or is none.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(str(folder), "it is a file", "Name a folder that is not there")
    if folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(str(folder), "the folder is not empty", "Name one that is not there")


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
