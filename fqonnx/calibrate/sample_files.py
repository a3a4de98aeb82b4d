"""Files that samples come in: ``.npz``, folders of them, and the test data of the ONNX project."""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import google.protobuf.message
import numpy as np
import onnx
from numpy.typing import NDArray

from fqonnx.errors import DataError, first_line
from fqonnx.files import regular

NO_FILES = ("synthetic", "none")  # sources of samples that are none

_INPUT = re.compile(r"input_(\d+)\.pb")


def batches(folder: Path) -> list[Path]:
    """Return what each holds a batch in a folder, in order.

    They are its ``.npz`` files; else its sub-folders ``test_data_set_*``, or it itself if it is
    such a one.

    Raises:
        DataError: There is none.
    """
    found = sorted(folder.glob("*.npz"))
    if not found:
        found = sorted(filter(_inputs, folder.glob("test_data_set_*")), key=_number)
    if not found and _inputs(folder):
        found = [folder]
    if not found:
        raise DataError(
            str(folder),
            "the folder holds no .npz file and no test_data_set_*/input_0.pb",
            "Put one batch in each",
        )
    return found


def data_files(source: Path | str) -> list[Path]:
    """Return the files that samples are read from; ``synthetic`` ones and ``none`` have no file.

    Raises:
        DataError: A folder holds none.
    """
    if str(source) in NO_FILES:
        return []
    path = Path(source)
    if not path.is_dir():
        return [path]
    return [file for batch in batches(path) for file in (_inputs(batch) or [batch])]


def read_arrays(path: Path, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Read arrays by name.

    Args:
        path: An ``.npz`` file; or a folder of ``input_0.pb``, ``input_1.pb`` …, each a TensorProto
            with the name of its input, or without a name and then of the input of that number.
        names: The graph inputs, in order.

    Raises:
        DataError: A file cannot be read.
        ConfigError: One is a device or a pipe.
    """
    if not path.is_dir():
        return _read_npz(path)
    arrays = {}
    for file in _inputs(path):
        name, array = _read_tensor(file)
        arrays[name or _name_at(file, names)] = array
    return arrays


def _inputs(folder: Path) -> list[Path]:
    """Return the files of a folder that each hold an input, in their order."""
    return sorted((f for f in folder.glob("input_*.pb") if _INPUT.fullmatch(f.name)), key=_number)


def _number(path: Path) -> tuple[int, str]:
    """Return what sorts names that end with a number by it."""
    digits = re.search(r"(\d+)(\.pb)?$", path.name)
    return (int(digits[1]) if digits else -1, path.name)


def _name_at(file: Path, names: Sequence[str]) -> str:
    number = _number(file)[0]
    if number >= len(names):
        raise DataError(
            str(file),
            f"the model has {len(names)} inputs, and this is number {number}",
            "Remove it",
        )
    return names[number]


def _read_tensor(path: Path) -> tuple[str, NDArray[Any]]:
    tensor = onnx.TensorProto()
    try:
        tensor.ParseFromString(regular(path).read_bytes())
        if tensor.external_data:
            raise ValueError("its data are in another file")
        if not isinstance(tensor.name, str):  # protobuf gives bytes for what is not UTF-8
            raise ValueError("its name is no text")
        return tensor.name, onnx.numpy_helper.to_array(tensor)
    except (OSError, ValueError, TypeError, KeyError, google.protobuf.message.DecodeError) as error:
        raise DataError(
            str(path),
            f"not readable as a TensorProto: {first_line(error)}",
            "Write it with onnx.numpy_helper.from_array(array, input_name).SerializeToString()",
        ) from error


def _read_npz(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with regular(path).open("rb") as file:
            if file.read(2) not in (b"PK", b"\x93N"):  # NumPy would advise to unpickle it
                raise ValueError("it is no zip archive")
            file.seek(0)
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("a single array, expected named ones")
            arrays = {name: archive[name] for name in archive.files}
        for name, array in arrays.items():
            if not isinstance(array, np.ndarray):
                raise ValueError(f"{name!r} is not an array")
        return arrays
    except FileNotFoundError as error:
        raise DataError(str(path), "no such file", "Check the path") from error
    except (
        *(OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error),
        MemoryError,  # of a shape beyond all memory
    ) as error:
        raise DataError(
            str(path),
            f"not readable as .npz: {first_line(error)}",
            "Write it with numpy.savez(path, input_name=array, …)",
        ) from error
