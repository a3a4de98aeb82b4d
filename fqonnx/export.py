"""From PyTorch to an ONNX file that is known to compute the same."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from fqonnx.errors import ExportError
from fqonnx.model_file import check_file, load_model, save_model
from fqonnx.session import Session

_TOLERANCE = 1e-3  # of the output's range: float32 on two runtimes, with room for float16
# What the exporter leaves in every node: paths of the exporting machine, and graph text.
_DROPPED_METADATA = (
    "namespace",
    "pkg.torch.onnx.class_hierarchy",
    "pkg.torch.onnx.fx_node",
    "pkg.torch.onnx.stack_trace",
)


@dataclass(frozen=True)
class ExportSource:
    """What a factory gives to be exported.

    Attributes:
        module: The model, in evaluation mode.
        args: Example inputs, as ``module(*args)`` takes them.
        input_names: Names of the ONNX inputs.
        output_names: Names of the ONNX outputs.
        dynamic_shapes: As `torch.export.export` takes them; None fixes every dimension.
    """

    module: torch.nn.Module | torch.export.ExportedProgram
    args: tuple[Any, ...]
    input_names: Sequence[str] | None = None
    output_names: Sequence[str] | None = None
    dynamic_shapes: Any = None


def export_model(source: str | ExportSource, output_path: Path | str) -> float:
    """Export a model to ONNX and compare ONNX Runtime with PyTorch on the example inputs.

    Args:
        source: ``module:factory``, the path of a ``.pt2`` file, or what a factory returns.
        output_path: Where the file goes; written only when it is checked.

    Returns:
        The largest difference from PyTorch's outputs, relative to their range.

    Raises:
        ExportError: The source is not usable, torch does not export it, or the file is wrong.
    """
    output_path = Path(output_path)
    where = source if isinstance(source, str) else type(source.module).__name__
    spec = _load(source) if isinstance(source, str) else source
    callable_ = (
        spec.module.module()
        if isinstance(spec.module, torch.export.ExportedProgram)
        else spec.module
    )
    with torch.no_grad():
        expected = _flatten(callable_(*spec.args))
    with tempfile.TemporaryDirectory(prefix="fqonnx-") as folder:
        raw = Path(folder) / "model.onnx"
        _torch_export(spec, raw, where)
        model = load_model(raw)
        _finish(model, spec, where)
        errors: list[float] = []
        save_model(
            model,
            output_path,
            lambda path: errors.append(_checked_error(path, spec, expected, where)),
        )
    return errors[0]


def _load(source: str) -> ExportSource:
    if source.endswith(".pt2"):
        try:
            program = torch.export.load(source)
        except Exception as error:  # torch raises what its loader of the day raises
            raise ExportError(
                source,
                f"not readable as an exported program: {error}",
                "Save it with torch.export.save",
            ) from error
        if program.example_inputs is None or program.example_inputs[1]:
            raise ExportError(
                source,
                "it has no positional example inputs",
                "Export it with positional arguments only",
            )
        return ExportSource(program, tuple(program.example_inputs[0]))
    module_name, separator, factory_name = source.partition(":")
    if not separator:
        raise ExportError(source, "expected module:factory or a .pt2 file", "See fqonnx export -h")
    made = _factory(source, module_name, factory_name)()
    if isinstance(made, ExportSource):
        return made
    if isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], torch.nn.Module):
        args = made[1]
        return ExportSource(
            made[0].eval(), tuple(args) if isinstance(args, list | tuple) else (args,)
        )
    raise ExportError(
        source,
        f"the factory returned {type(made).__name__}, expected (module, args) or an ExportSource",
        "Return the module in evaluation mode and its example inputs",
    )


def _factory(source: str, module_name: str, factory_name: str) -> Callable[[], Any]:
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        factory = getattr(importlib.import_module(module_name), factory_name)
    except ModuleNotFoundError as error:
        raise ExportError(
            source, f"no module named {error.name!r}", "Run from its folder, or install it"
        ) from error
    except AttributeError as error:
        raise ExportError(
            source, f"module {module_name!r} has no {factory_name!r}", "Check the name"
        ) from error
    return factory  # type: ignore[no-any-return]


def _torch_export(spec: ExportSource, path: Path, where: str) -> None:
    # Output names are given in _finish(): torch 2.13 writes an invalid graph where one of them is
    # the name of an inner value.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(
                spec.module,
                spec.args,
                str(path),
                dynamo=True,
                external_data=True,
                input_names=list(spec.input_names) if spec.input_names else None,
                dynamic_shapes=spec.dynamic_shapes,
            )
        except Exception as error:  # torch.onnx raises what any operator of the model raises
            lines = str(error).strip().split("\n")
            raise ExportError(
                where,
                f"torch {torch.__version__} does not export it: {lines[0][:400]}",
                "Try torch.export.export on the module alone",
            ) from error


def _finish(model: ir.Model, spec: ExportSource, where: str) -> None:
    """Name the outputs and drop metadata that is about the exporting machine."""
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        for key in _DROPPED_METADATA:
            node.metadata_props.pop(key, None)
    if not spec.output_names:
        return
    outputs = model.graph.outputs
    if len(spec.output_names) != len(outputs):
        raise ExportError(
            where,
            f"{len(spec.output_names)} output names for {len(outputs)} outputs",
            "Name each output once",
        )
    taken = ir.convenience.create_value_mapping(model.graph)
    for value, name in zip(outputs, spec.output_names, strict=True):
        other = taken.get(name)
        if other is not None and other is not value:
            other.name = f"{name}_inner"
        value.name = name


def _checked_error(path: Path, spec: ExportSource, expected: list[np.ndarray], where: str) -> float:
    check_file(path, where)
    session = Session(path, where)
    arrays = [np.asarray(arg) for arg in _flatten(spec.args)]
    feed = dict(zip((value.name for value in session.inputs), arrays, strict=True))
    worst = 0.0
    for name, reference, found in zip(
        session.output_names, expected, session.run(feed), strict=True
    ):
        spread = float(np.abs(reference).max()) if reference.size else 0.0
        difference = (
            float(np.abs(found.astype(np.float64) - reference).max()) if found.size else 0.0
        )
        error = difference / spread if spread else difference
        if not error <= _TOLERANCE:
            raise ExportError(
                where,
                f"output {name!r} differs from PyTorch's by {error:.2g} of its range, "
                f"expected at most {_TOLERANCE}",
                "Put the module into evaluation mode; else report this to PyTorch",
            )
        worst = max(worst, error)
    return worst


def _flatten(value: Any) -> list[np.ndarray]:
    leaves = torch.utils._pytree.tree_leaves(value)
    return [leaf.detach().cpu().numpy() for leaf in leaves if isinstance(leaf, torch.Tensor)]
