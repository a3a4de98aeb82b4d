"""Writing of model files: whole or not at all."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import onnx_ir as ir

from fqonnx.errors import ConfigError, ModelError
from fqonnx.files import part_folder, sha256, sync
from fqonnx.model_message import model_bytes

# Above this a model gets an external data file: a protobuf message is in memory three times while
# it is written, and ends at 2 GiB.
_EXTERNAL_BYTES = 1 << 27


@contextmanager
def written_model(model: ir.Model, path: Path) -> Iterator[Path]:
    """Write a model under a temporary name; it gets its own only if the block ends without error.

    Models above 128 MiB get their weights in ``<name>.<hash>.data`` beside them. The hash is that
    of the data: a file that is there keeps its data until the new one has taken its name.

    Args:
        model: What to write.
        path: Where.

    Yields:
        The path of the finished temporary file, for the checks that it must pass.

    Raises:
        ModelError: The folder cannot be written.
        ConfigError: The path cannot be a file (see `output_files`).
    """
    output_files(path)
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(part_folder(path))
            data = _save(model, folder / path.name)
        except OSError as error:
            raise _unwritable(path, error) from error
        yield folder / path.name
        try:
            with _in_place(data, path.parent):
                (folder / path.name).replace(path)
            sync(path.parent)
        except OSError as error:
            raise _unwritable(path, error) from error
        for old in _data_files(path):
            if data is None or old.name != data.name:
                old.unlink(missing_ok=True)


@contextmanager
def _in_place(data: Path | None, folder: Path) -> Iterator[None]:
    """Move a data file to where the model will look for it; it goes again if the block fails.

    One that is there has its name by the same bytes, unless it was damaged since: it is replaced.
    """
    if data is None:
        yield
        return
    known = (folder / data.name).exists()
    moved = data.replace(folder / data.name)
    try:
        sync(folder)
        yield
    except OSError:
        if not known:
            moved.unlink()
        raise


def _save(model: ir.Model, path: Path) -> Path | None:
    """Write a model and sync it; return its data file, if it has one."""
    values = [
        value
        for graph in model.graphs()
        for value in graph.initializers.values()
        if value.const_value is not None
    ]
    tensors = [value.const_value for value in values]
    data = None
    try:
        if model_bytes(model) > _EXTERNAL_BYTES:
            data = _unload(model, path)
        else:
            ir.external_data.load_to_model(model)
        ir.save(model, path)
    finally:
        for value, tensor in zip(values, tensors, strict=True):
            value.const_value = tensor
    sync(path)
    return data


def _unload(model: ir.Model, path: Path) -> Path:
    """Write the weights of a model to a file beside it, one at a time, and let it point there.

    Strings stay in the message: ONNX has no other place for them.
    """
    values = [
        value
        for graph in model.graphs()
        for value in graph.initializers.values()
        if (tensor := value.const_value) is not None
        and tensor.dtype != ir.DataType.STRING
        and tensor.nbytes
    ]
    tensors = ir.external_data.convert_tensors_to_external(
        [value.const_value for value in values if value.const_value is not None],
        path.parent,
        "data",
    )
    written = path.with_name("data")
    data = path.with_name(f"{path.name}.{sha256(written)[:16]}.data")
    written.replace(data)
    sync(data)
    for value, tensor in zip(values, tensors, strict=True):
        value.const_value = ir.ExternalTensor(
            data.name,
            tensor.offset,
            tensor.length,
            tensor.dtype,
            shape=tensor.shape,
            name=str(tensor.name),
            base_dir=path.parent,
        )
    return data


def output_files(path: Path) -> list[Path]:
    """Return the files that `written_model` may write or remove for a path.

    Raises:
        ConfigError: Something else than a file has the path, or no file can have it: a model takes
            the place of what is there, and would destroy a device.
    """
    try:
        if path.exists() and not path.is_file():
            kind = "a folder" if path.is_dir() else "a device or a pipe"
            raise ConfigError(str(path), f"it is {kind}", "Name a file")
        return [path, *_data_files(path)]
    except OSError as error:  # a name that is too long
        raise ConfigError(
            str(path), f"cannot be written: {error.strerror}", "Choose another name"
        ) from error


def _data_files(path: Path) -> list[Path]:
    """Return the data files of what was written to a path before."""
    if not path.parent.is_dir():
        return []
    pattern = re.compile(rf"{re.escape(path.name)}\.[0-9a-f]{{16}}\.data")
    return sorted(file for file in path.parent.iterdir() if pattern.fullmatch(file.name))


def _unwritable(path: Path, error: OSError) -> ModelError:
    return ModelError(str(path), f"cannot be written: {error}", "Choose another place")
