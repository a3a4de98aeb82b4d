"""Reading of model files, with errors that a user can act on."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import google.protobuf.message
import onnx
import onnx_ir as ir

from fqonnx.errors import ConfigError, ModelError, first_line, origin
from fqonnx.files import regular
from fqonnx.model_checks import check_model, check_names, tensors

MIN_OPSET = 13
_CONSTANT_INITIALIZERS = 4  # the IR version since which an initializer need not be an input


def load_model(path: Path) -> ir.Model:
    """Read a model; external weights stay on disk until they are used.

    Raises:
        ModelError: The file is not there, is not an ONNX model, is of an opset below 13, or is
            refused by `fqonnx.model_checks`.
        ConfigError: It is a device or a pipe.
    """
    try:
        proto = onnx.load(regular(path), load_external_data=False)
        check_names(path, proto)
        with _silent("onnx_ir"):  # it warns of what is refused below
            model = ir.from_proto(proto)
        del proto
    except FileNotFoundError as error:
        raise ModelError(str(path), "no such file", "Check the path") from error
    except IsADirectoryError as error:
        raise ModelError(str(path), "it is a folder, expected a file", "Check the path") from error
    except OSError as error:
        raise ModelError(str(path), f"not readable: {error}", "Check the path") from error
    except (
        google.protobuf.message.DecodeError,
        ir.serde.SerdeError,
        ValueError,
        TypeError,
        KeyError,
    ) as error:
        raise ModelError(
            str(path), f"not an ONNX model: {first_line(origin(error))}", "Export it again"
        ) from error
    if not model.graph.outputs:
        raise ModelError(
            str(path), "not an ONNX model: its graph has no outputs", "Export it again"
        )
    _use_default_domain(model)
    opset = model.graph.opset_imports.get("")
    if opset is None or opset < MIN_OPSET:
        raise ModelError(
            str(path),
            f"opset {opset}, expected {MIN_OPSET} or later",
            "Convert it with onnx.version_converter.convert_version",
        )
    _drop_inputs_with_weights(model)
    for graph in (model.graph, *(function.graph for function in model.functions.values())):
        ir.external_data.set_base_dir(graph, path.parent)
    check_model(path, model)
    return model


def check_targets(targets: Sequence[Path], sources: Sequence[Path]) -> None:
    """Refuse to write over what is read, before any work is done.

    Args:
        targets: Files to be written.
        sources: Files that are read.

    Raises:
        ConfigError: A target is a folder, a source, or another target.
    """
    for i, target in enumerate(targets):
        if target.is_dir():
            raise ConfigError(str(target), "it is a folder", "Name a file")
        for other in (*sources, *targets[:i]):
            same = target.resolve() == other.resolve()
            if same or (target.exists() and other.exists() and target.samefile(other)):
                raise ConfigError(
                    str(target), f"writing it would destroy {other}", "Choose another name"
                )


def model_files(path: Path, model: ir.Model) -> list[Path]:
    """Return the files of a model as `load_model` gave it: itself and its external data."""
    locations = {
        Path(tensor.path)
        for graph in model.graphs()
        for _, tensor in tensors(graph)
        if isinstance(tensor, ir.ExternalTensor)
    }
    return [path, *sorted(locations)]


def find_fault(path: Path) -> str | None:
    """Run ONNX's full check of a file, strict shape inference included; return what it says."""
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as error:
        return first_line(error)
    return None


def check_file(path: Path, where: str) -> None:
    """Raise where `find_fault` finds one.

    Args:
        path: The file.
        where: What the error calls it.

    Raises:
        ModelError: The file is not valid ONNX.
    """
    fault = find_fault(path)
    if fault is not None:
        hint = "Please report this with the model that it was made from"
        raise ModelError(where, f"onnx.checker rejects it: {fault}", hint)


def file_bytes(path: Path) -> int:
    """Return the size of a model with all of its external data."""
    return sum(file.stat().st_size for file in model_files(path, load_model(path)))


def _use_default_domain(model: ir.Model) -> None:
    """Write the domain ``ai.onnx`` as the empty string, which is its other name."""
    version = model.graph.opset_imports.pop("ai.onnx", None)
    if version is not None:
        model.graph.opset_imports[""] = version
    for graph in model.graphs():
        for node in graph:
            if node.domain == "ai.onnx":
                node.domain = ""


def _drop_inputs_with_weights(model: ir.Model) -> None:
    """Make constants of the weights of a model of IR version 3, where each had to be an input."""
    if model.ir_version < _CONSTANT_INITIALIZERS:
        weights = model.graph.initializers
        model.graph.inputs[:] = [v for v in model.graph.inputs if v.name not in weights]
        model.ir_version = _CONSTANT_INITIALIZERS


@contextmanager
def _silent(name: str) -> Iterator[None]:
    """Keep a library's warnings from standard error."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
