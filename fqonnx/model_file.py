"""Reading of model files, with errors that a user can act on."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import google.protobuf.message
import onnx
import onnx_ir as ir

from fqonnx.errors import ConfigError, ModelError, first_line

MIN_OPSET = 13


def load_model(path: Path) -> ir.Model:
    """Read a model; external weights stay on disk until they are used.

    Raises:
        ModelError: The file is not there, is not an ONNX model, lacks its external data, or is of
            an opset below 13.
    """
    try:
        proto = onnx.load(path, load_external_data=False)
        model = ir.from_proto(proto)
        sparse = len(proto.graph.sparse_initializer)
        del proto
    except FileNotFoundError as error:
        raise ModelError(str(path), "no such file", "Check the path") from error
    except IsADirectoryError as error:
        raise ModelError(str(path), "it is a folder, expected a file", "Check the path") from error
    except OSError as error:
        raise ModelError(str(path), f"not readable: {error}", "Check the path") from error
    except (google.protobuf.message.DecodeError, ValueError, TypeError, KeyError) as error:
        raise ModelError(
            str(path), f"not an ONNX model: {first_line(error)}", "Export it again"
        ) from error
    if sparse:
        raise ModelError(
            str(path), f"it has {sparse} sparse initializers", "Export it with dense weights"
        )
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
    for graph in model.graphs():
        ir.external_data.set_base_dir(graph, path.parent)
        for value in graph.initializers.values():
            if isinstance(tensor := value.const_value, ir.ExternalTensor):
                _check_external(path, str(value.name), tensor)
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
        for value in graph.initializers.values()
        if isinstance(tensor := value.const_value, ir.ExternalTensor)
    }
    return [path, *sorted(locations)]


def find_fault(path: Path) -> str | None:
    """Run ONNX's full check and strict shape inference on a file; return what they say, if any."""
    try:
        onnx.checker.check_model(str(path), full_check=True)
        with tempfile.TemporaryDirectory(prefix="fqonnx-") as folder:
            onnx.shape_inference.infer_shapes_path(
                str(path), str(Path(folder) / "inferred.onnx"), check_type=True, strict_mode=True
            )
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
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


def _check_external(path: Path, name: str, tensor: ir.ExternalTensor) -> None:
    data = Path(tensor.path)
    if not data.resolve().is_relative_to(path.parent.resolve()):
        raise ModelError(
            str(path),
            f"tensor {name!r} has its data outside the model's folder, in {tensor.location}",
            "Copy both into one folder, following links (cp -L), or save the model again",
        )
    if not data.is_file():
        raise ModelError(
            str(path),
            f"tensor {name!r} has its data in {tensor.location}, which is not there",
            "Put the external data file beside the model",
        )
    end = (tensor.offset or 0) + tensor.nbytes
    if data.stat().st_size < end:
        raise ModelError(
            str(path),
            f"tensor {name!r} ends at byte {end} of {tensor.location}, "
            f"which has {data.stat().st_size}",
            "Copy the external data file again",
        )
