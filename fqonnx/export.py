"""From PyTorch to an ONNX file that is known to compute the same."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from fqonnx.errors import ExportError, first_line
from fqonnx.model_file import check_file, load_model
from fqonnx.session import Session
from fqonnx.written_model import written_model

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
        args: Example inputs, as ``module(*args, **kwargs)`` takes them.
        kwargs: More of them, by name.
        input_names: Names of the ONNX inputs.
        output_names: Names of the ONNX outputs.
        dynamic_shapes: As `torch.export.export` takes them; None fixes every dimension.
    """

    module: torch.nn.Module | torch.export.ExportedProgram
    args: tuple[Any, ...]
    input_names: Sequence[str] | None = None
    output_names: Sequence[str] | None = None
    dynamic_shapes: Any = None
    kwargs: Mapping[str, Any] = field(default_factory=dict)


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
    with torch.no_grad(), _reported(where, "the module fails on its example inputs"):
        expected = _flatten(callable_(*spec.args, **spec.kwargs))
    with tempfile.TemporaryDirectory(prefix="fqonnx-") as folder:
        raw = Path(folder) / "model.onnx"
        _torch_export(spec, raw, where)
        model = load_model(raw)
        _finish(model, spec, where)
        with written_model(model, output_path) as temporary:
            return _checked_error(temporary, spec, expected, where)


def _load(source: str) -> ExportSource:
    if source.endswith(".pt2"):
        if not zipfile.is_zipfile(source):  # of which torch would log a traceback
            found = "it is no .pt2 file" if Path(source).exists() else "no such file"
            raise ExportError(source, found, "Save it with torch.export.save")
        try:
            program = torch.export.load(source)
        except Exception as error:  # torch raises what its loader of the day raises
            raise ExportError(
                source,
                f"not readable as an exported program: {error}",
                "Save it with torch.export.save",
            ) from error
        if program.example_inputs is None:
            raise ExportError(source, "it has no example inputs", "Export it with some")
        args, kwargs = program.example_inputs
        return ExportSource(program, tuple(args), kwargs=kwargs)
    module_name, separator, factory_name = source.partition(":")
    if not separator:
        raise ExportError(source, "expected module:factory or a .pt2 file", "See fqonnx export -h")
    factory = _factory(source, module_name, factory_name)
    with _reported(source, "the factory fails"):
        made = factory()
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
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ExportError(
            source, f"no module named {error.name!r}", "Run from its folder, or install it"
        ) from error
    except Exception as error:  # whatever the module's code raises
        raise _failure(source, f"module {module_name!r} cannot be imported", error) from error
    factory: Callable[[], Any] | None = getattr(module, factory_name, None)
    if not callable(factory):
        raise ExportError(
            source, f"module {module_name!r} has no function {factory_name!r}", "Check the name"
        )
    return factory


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
                kwargs=dict(spec.kwargs),
                dynamo=True,
                external_data=True,
                input_names=list(spec.input_names) if spec.input_names else None,
                dynamic_shapes=spec.dynamic_shapes,
            )
        except Exception as error:  # torch.onnx raises what any operator of the model raises
            raise ExportError(
                where,
                f"torch {torch.__version__} does not export it: {first_line(error)}",
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
    inputs = {str(value.name) for value in model.graph.inputs}
    for name in spec.output_names:
        if name in inputs or list(spec.output_names).count(name) > 1:
            raise ExportError(where, f"the output name {name!r} is taken", "Choose another")
    taken = ir.convenience.create_value_mapping(model.graph)
    for value, name in zip(outputs, spec.output_names, strict=True):
        other = taken.get(name)
        if other is not None and other is not value:
            other.name = f"{name}_inner"
        value.name = name


def _checked_error(path: Path, spec: ExportSource, expected: list[np.ndarray], where: str) -> float:
    check_file(path, where)
    session = Session(path, where)
    arrays = _flatten((spec.args, dict(spec.kwargs)))
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
    tensors = [leaf.detach().cpu() for leaf in leaves if isinstance(leaf, torch.Tensor)]
    return [(t.float() if t.dtype == torch.bfloat16 else t).numpy() for t in tensors]


@contextlib.contextmanager
def _reported(where: str, what: str) -> Iterator[None]:
    """Report any failure of the user's own code as an ExportError."""
    try:
        yield
    except Exception as error:
        raise _failure(where, what, error) from error


def _failure(where: str, what: str, error: Exception) -> ExportError:
    return ExportError(where, f"{what}: {first_line(error)}", "Run it in Python to see where")
